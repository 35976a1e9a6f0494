r"""Measure what the built-in model must be able to do, and must not: `uv run python examples/tiny_gate.py MODEL`.

It uses held-out problems of task `hidden-rules`, temperature 1, and the prompts, sampler and 4-bit weights of training.
It prints the table of the model's card: each figure with its 95% interval and the gate that it must pass.

With `--learn true` (or `wrong`) it then trains an adapter on explanations of all levels, which the untrained model
writes once. `true` shows the right answer, and keeps explanations that end in it; `wrong` shows the answer of
another problem and keeps all. This shows if the hidden words can be learnt from explanations at all.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from expo_lite.objectives import sft_loss
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row, micro_batches
from expo_lite.policy.factory import load_policy
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import FinishReason, Problem, SampleRequest, SamplingParams
from expo_lite.results.statistics import Estimate, over_problems
from expo_lite.settings.groups import PolicyConfig
from expo_lite.tasks.hidden_rules import HiddenRules

TASK = HiddenRules()
LONGEST = 80
MOST_TOKENS = 16_384
WARMUP_STEPS = 5


def sample(
    policy: Policy, prompts: Sequence[tuple[int, ...]], n: int = 1, *, temperature: float = 1.0, seed: int = 0
) -> list[list[str]]:
    """`n` completions of each prompt as text; a truncated one is empty."""
    params = SamplingParams(temperature, LONGEST)
    rows = policy.sample([SampleRequest(prompt, n) for prompt in prompts], params, seed=seed)
    return [[c.text if c.finish_reason is FinishReason.STOP else "" for c in row] for row in rows]


def judged(problems: Sequence[Problem], texts: Sequence[Sequence[str]]) -> list[list[tuple[bool, bool]]]:
    """(right, valid) of each completion."""
    return [
        [(TASK.grade(problem, text).correct, TASK.check_steps(problem, text)) for text in row]
        for problem, row in zip(problems, texts, strict=True)
    ]


def others(problems: Sequence[Problem]) -> list[Problem]:
    """The same questions, each with the next problem's answer, or a constant if the two are equal."""
    turned = [*problems[1:], problems[0]]
    return [
        replace(problem, answer=other.answer if other.answer != problem.answer else "A=0, B=0, C=0, D=0")
        for problem, other in zip(problems, turned, strict=True)
    ]


def line(what: str, estimate: Estimate, gate: str = "") -> None:
    """One row of the card's table."""
    interval = f"{100 * estimate.low:.1f}-{100 * estimate.high:.1f}"
    print(f"| {what} | {100 * estimate.value:.1f}% | {interval} | {gate} |", flush=True)


def gate(policy: Policy, n: int, k: int) -> None:
    """Print the card's table."""
    print(f"| {n} held-out problems a level, temperature 1 | figure | 95% interval | gate |\n| --- | --- | --- | --- |")
    problems = {level: TASK.problems("test", levels=(level,), limit=n) for level in TASK.levels}
    for level in (1, 2, 3):
        samples = sample(policy, [encode_question(policy.tokenizer, p) for p in problems[level]], 4)
        marks = judged(problems[level], samples)
        right = over_problems([sum(r for r, _ in row) / len(row) for row in marks])
        line(f"level {level}, plain: right", right, ">= 95%")
    hard = problems[5]
    for what, told in (
        ("true answer", hard),
        ("another problem's answer", others(hard)),
        ('"????"', [replace(p, answer="????") for p in hard]),
    ):
        texts = sample(policy, [encode_explanation(policy.tokenizer, p) for p in told])
        marks = judged(hard, texts)
        if what == "true answer":
            line(f"level 5, {what} shown: valid", over_problems([v for ((_, v),) in marks]), ">= 60%")
            line(f"level 5, {what} shown: right", over_problems([r for ((r, _),) in marks]))
        else:
            line(f"level 5, {what} shown: right", over_problems([r for ((r, _),) in marks]), "<= 5%")
        if what.startswith("another"):
            copied = [TASK.grade(p, text).correct for p, (text,) in zip(told, texts, strict=True)]
            line(f"level 5, {what} shown: ends in it", over_problems(copied))
    for level in (5, 4):
        prompts = [encode_question(policy.tokenizer, p) for p in problems[level]]
        marks = judged(problems[level], sample(policy, prompts, k))
        line(
            f"level {level}, plain: right",
            over_problems([sum(r for r, _ in row) / k for row in marks]),
            "<= 5%" if level == 5 else "",
        )
        found = over_problems([any(r for r, _ in row) for row in marks])
        line(f"level {level}, plain: pass@{k}", found, "<= 5%" if level == 5 else "")


def explanations(policy: Policy, which: str, n_a_level: int) -> list[tuple[Problem, tuple[int, ...]]]:
    """Explanations by the untrained policy: the right ones of true answers, all of wrong answers."""
    problems = TASK.problems("train", limit=n_a_level)
    told = problems if which == "true" else others(problems)
    requests = [SampleRequest(encode_explanation(policy.tokenizer, p), 1) for p in told]
    completions = policy.sample(requests, SamplingParams(1.0, LONGEST), seed=1)
    return [
        (problem, c.token_ids)
        for problem, (c,) in zip(problems, completions, strict=True)
        if which == "wrong" or TASK.grade(problem, c.text).correct
    ]


def report(policy: Policy, tests: dict[int, list[Problem]], head: str) -> None:
    """Print the shares of right and valid completions by level, from one plain completion of each problem."""
    figures = []
    for chosen in tests.values():
        marks = judged(chosen, sample(policy, [encode_question(policy.tokenizer, p) for p in chosen]))
        right, valid = (over_problems([mark[i] for (mark,) in marks]) for i in (0, 1))
        interval = f"{100 * right.low:.0f}-{100 * right.high:.0f}"
        figures.append(f"{100 * right.value:.1f}% ({interval}), valid {100 * valid.value:.1f}%")
    print(f"| {head} | {' | '.join(figures)} |", flush=True)


def learn(policy: Policy, which: str, *, steps: int, rate: float, every: int, n_a_level: int) -> None:
    """Train a fresh adapter on explanations after the plain prompt, and measure it on the way."""
    tests = {level: TASK.problems("test", levels=(level,), limit=200) for level in (3, 5)}
    chains, parameters = explanations(policy, which, n_a_level), list(policy.parameters().values())
    optimizer, rng = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0), random.Random(0)
    print(
        f"\n| explanations of {which} answers: {len(chains)} | level 3, plain | level 5, plain |\n| --- | --- | --- |"
    )
    report(policy, tests, "step 0")
    for step in range(1, steps + 1):
        drawn = rng.sample(chains, 8)
        rows = [Row(encode_question(policy.tokenizer, p), ids, sft_weight=1 / 8 / len(ids)) for p, ids in drawn]
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARMUP_STEPS)
        for batch in micro_batches(
            rows, token_budget=MOST_TOKENS, pad_id=policy.pad_id, device=policy.device, packed=policy.packs
        ):
            sft_loss(policy.logprobs(batch, temperature=1.0), batch.sft_weights_N).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % every == 0:
            report(policy, tests, f"step {step}")


def main() -> None:
    """Measure the gate and, if asked, learning."""
    parser = argparse.ArgumentParser(description="Measure the built-in model.")
    parser.add_argument("model", help="alias or folder")
    parser.add_argument("--problems", type=int, default=200, help="held-out problems a level")
    parser.add_argument("--samples", type=int, default=64, help="completions a problem for pass@k")
    parser.add_argument("--bits", type=int, default=4, choices=[4, 16])
    parser.add_argument("--learn", choices=["true", "wrong"], help="then train on explanations of these answers")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=50, help="steps between measurements")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--explained", type=int, default=64, help="problems a level to learn from")
    options = parser.parse_args()
    policy = load_policy(options.model, PolicyConfig(bits=options.bits), seed=0)
    if options.problems:
        gate(policy, options.problems, options.samples)
    if options.learn:
        learn(
            policy,
            options.learn,
            steps=options.steps,
            rate=options.learning_rate,
            every=options.every,
            n_a_level=options.explained,
        )


if __name__ == "__main__":
    main()
