r"""Measure what the embedded model must be able to do, and must not: `uv run python examples/tiny_gate.py MODEL`.

All on held-out problems of task `hidden-rules`, at temperature 1, with the prompts, the sampler and the four-bit weights that training
uses. Prints the table of the model's card, each figure with its 95% interval and the gate that it must pass.

With `--learn true` (or `wrong`) it then trains a LoRA adapter on explanations of level 5 and says what came of it: true ones are sampled with the true
answer shown and kept if the answer is right; wrong ones with another problem's answer shown, and kept whatever they say.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from expo_lite.batching import Row, micro_batches
from expo_lite.config import PolicyConfig
from expo_lite.intervals import Estimate, bootstrap_mean, wilson
from expo_lite.objectives import sft_loss
from expo_lite.policy.base import Policy
from expo_lite.policy.factory import load_policy
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import FinishReason, Problem, SampleRequest, SamplingParams
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
        [(TASK.grade(problem, text).correct, TASK.check_steps(problem, text) == "valid") for text in row]
        for problem, row in zip(problems, texts, strict=True)
    ]


def others(problems: Sequence[Problem]) -> list[Problem]:
    """The same questions, each with the next problem's answer where it is another one."""
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
        right = bootstrap_mean([sum(r for r, _ in row) / len(row) for row in marks])
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
            line(f"level 5, {what} shown: valid", wilson(sum(v for ((_, v),) in marks), n), ">= 60%")
            line(f"level 5, {what} shown: right", wilson(sum(r for ((r, _),) in marks), n))
        else:
            line(f"level 5, {what} shown: right", wilson(sum(r for ((r, _),) in marks), n), "<= 5%")
        if what.startswith("another"):
            copied = sum(TASK.grade(p, text).correct for p, (text,) in zip(told, texts, strict=True))
            line(f"level 5, {what} shown: ends in it", wilson(copied, n))
    for level in (5, 4):
        prompts = [encode_question(policy.tokenizer, p) for p in problems[level]]
        marks = judged(problems[level], sample(policy, prompts, k))
        line(
            f"level {level}, plain: right",
            bootstrap_mean([sum(r for r, _ in row) / k for row in marks]),
            "<= 5%" if level == 5 else "",
        )
        found = wilson(sum(any(r for r, _ in row) for row in marks), n)
        line(f"level {level}, plain: pass@{k}", found, "<= 5%" if level == 5 else "")


def learn(policy: Policy, which: str, *, steps: int, rate: float, per_step: int, every: int) -> None:
    """Train on explanations of level 5 behind the plain prompt; print level 5 and the easy levels as it goes."""
    problems = TASK.problems("train", levels=(5,))
    tests = {level: TASK.problems("test", levels=(level,), limit=100) for level in TASK.levels}
    optimizer = torch.optim.AdamW(list(policy.parameters().values()), lr=rate, weight_decay=0.0)
    rng, n_used, started = random.Random(0), 0, time.monotonic()
    for step in range(steps + 1):
        if step % every == 0:
            figures = []
            for level, chosen in tests.items():
                ((marks),) = [judged(chosen, sample(policy, [encode_question(policy.tokenizer, p) for p in chosen]))]
                right, valid = (sum(m[i] for (m,) in marks) / len(marks) for i in (0, 1))
                figures.append(f"L{level} {right:.0%} ({valid:.0%} valid)")
            print(
                f"{which} step {step}: {', '.join(figures)}; {n_used} used, {time.monotonic() - started:.0f} s",
                flush=True,
            )
        drawn = rng.sample(problems, per_step)
        told = drawn if which == "true" else others(drawn)
        prompts = [encode_explanation(policy.tokenizer, p) for p in told]
        completions = policy.sample([SampleRequest(p, 1) for p in prompts], SamplingParams(1.0, LONGEST), seed=step + 1)
        kept = [
            (problem, c)
            for problem, (c,) in zip(drawn, completions, strict=True)
            if which == "wrong" or TASK.grade(problem, c.text).correct
        ]
        rows = [
            Row(encode_question(policy.tokenizer, p), c.token_ids, sft_weight=1 / len(kept) / len(c.token_ids))
            for p, c in kept
        ]
        n_used += len(rows)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARMUP_STEPS)
        for batch in micro_batches(
            rows, token_budget=MOST_TOKENS, pad_id=policy.pad_id, device=policy.device, packed=policy.packs
        ):
            sft_loss(policy.logprobs(batch, temperature=1.0), batch.sft_weights_N).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(policy.parameters().values()), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    """Gate, then perhaps the learning probe."""
    parser = argparse.ArgumentParser(description="What the embedded model can do and cannot.")
    parser.add_argument("model", help="alias or folder")
    parser.add_argument("--problems", type=int, default=200, help="held-out problems a level")
    parser.add_argument("--samples", type=int, default=64, help="completions a problem for pass@k")
    parser.add_argument("--bits", type=int, default=4, choices=[4, 16])
    parser.add_argument("--learn", choices=["true", "wrong"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--per-step", type=int, default=8, help="explanations sampled a step")
    parser.add_argument("--every", type=int, default=50)
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
            per_step=options.per_step,
            every=options.every,
        )


if __name__ == "__main__":
    main()
