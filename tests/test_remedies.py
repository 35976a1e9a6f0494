"""The remedies' further questions to the policy: second groups, a teacher's passes, and how probable answers are."""

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shaken import shaken

from expo_lite.commands.cli import run as command
from expo_lite.errors import ConfigError
from expo_lite.memory.limits import Limits
from expo_lite.policy.batching import Row
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.scoring import score_rows, soft_labels
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import (
    Completion,
    Explanation,
    FinishReason,
    Group,
    Problem,
    SampleRequest,
    SamplingParams,
    Verdict,
)
from expo_lite.run.folder import RunFolder
from expo_lite.settings.groups import ExpoConfig, RolloutConfig
from expo_lite.settings.methods import Method
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.explain import encode_text
from expo_lite.step.learn import make_optimizer
from expo_lite.step.remedies import (
    failed,
    likelihood_rewards,
    prefixed,
    resampled,
    sample_again,
    teacher_gaps,
    teacher_labels,
)
from expo_lite.step.rollout import Start, sample_from
from expo_lite.step.run import Run, training_problems
from expo_lite.tasks.hidden_rules import HiddenRules
from expo_lite.tasks.rows import task_from_rows

PROBLEMS = HiddenRules().problems("train", levels=(1, 5), limit=3)
EASY = next(p for p in PROBLEMS if p.level == 1)
HARD = next(p for p in PROBLEMS if p.level == 5)


@pytest.fixture(scope="module")
def policy() -> HfPolicy:
    return shaken(HfPolicy("tiny", resolve(TrainConfig(model="tiny")).policy, seed=0), 0.02, seed=1, only_b=True)


def run_of(policy: HfPolicy, tmp_path: Path, method: Method, **groups: Any) -> Run:
    sampling = groups.pop("sampling", RolloutConfig(max_completion_tokens=48))
    config = resolve(TrainConfig(model="tiny", method=method, group_size=4, sampling=sampling, **groups))
    limits = Limits(4096, sampling_rows=8)
    optimizer = make_optimizer(policy, config)
    return Run(config, RunFolder(tmp_path), policy, HiddenRules(), PROBLEMS, [], optimizer, limits)


def wrong(policy: HfPolicy, problem: Problem, *texts: str) -> Group:
    """A group of wrong completions, as if they were sampled."""
    prompt = encode_question(policy.tokenizer, problem)
    ids = [encode_text(policy, text) for text in texts]
    completions = [
        Completion(prompt, each, (-0.5,) * len(each), text, FinishReason.STOP)
        for each, text in zip(ids, texts, strict=True)
    ]
    answers = ["0" if "boxed" in text else None for text in texts]
    return Group(problem, tuple(completions), tuple(Verdict(False, "different", "", answer) for answer in answers))


def test_a_second_group_has_the_prompt_and_the_given_part(policy: HfPolicy, tmp_path: Path) -> None:
    """As for hints: most completions after one prompt, one after another, in one group; the rest beside it."""
    run = run_of(policy, tmp_path, "grpo")
    plain, shown = (encode(policy.tokenizer, HARD) for encode in (encode_question, encode_explanation))
    given = encode_text(policy, "Let us see. ")
    asked = {
        2: (HARD, [Start(shown, 3), Start(plain, 1)]),
        5: (EASY, [Start(encode_question(policy.tokenizer, EASY), 2, given)]),
    }
    before = policy.n_sampled_tokens
    groups = sample_again(run, asked, stream="any")
    assert [c.prompt_ids for c in groups[2].completions] == [shown] * 3 + [plain]
    assert groups[2].problem == HARD
    for completion in groups[5].completions:
        assert completion.prompt_ids == (*encode_question(policy.tokenizer, EASY), *given)
        assert completion.text.startswith("Let us see. ")
        assert len(given) + len(completion.token_ids) <= 48
    everything = [c for group in groups.values() for c in group.completions]
    assert policy.n_sampled_tokens - before == sum(len(c.token_ids) for c in everything)
    assert sample_again(run, asked, stream="any") == groups
    assert sample_again(run, asked, stream="other") != groups
    # the graded text is the whole reply
    boxed = {0: (EASY, [Start(plain, 2, encode_text(policy, f"So \\boxed{{{EASY.answer}}}. Done. "))])}
    assert all(v.answer for v in sample_again(run, boxed, stream="any")[0].verdicts)


def test_a_given_part_leaves_room_in_eighths_of_the_limit(policy: HfPolicy) -> None:
    """So that all stays in the context, and completions are sampled in few calls."""
    asked: list[tuple[int, int]] = []

    def watching(requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int) -> Any:
        asked.extend((len(r.prompt_ids) - len(plain), params.max_completion_tokens) for r in requests)
        return policy.sample(requests, params, seed=seed)

    plain = encode_question(policy.tokenizer, HARD)
    watched: Any = SimpleNamespace(**vars(policy), sample=watching)
    starts = [Start(plain, 1, encode_text(policy, "word " * n)) for n in (0, 1, 11, 90)]
    sample_from(watched, starts, SamplingParams(1.0, 64), limits=Limits(4096, 8), seed=0)
    assert asked[-1] == (0, 64)
    assert all(limit in (1, 8, 16, 24, 32, 40, 48, 56) for _, limit in asked[:-1])
    assert all(n + limit <= 64 or limit == 1 for n, limit in asked)


def test_all_wrong_groups_are_resampled_until_one_is_mixed(policy: HfPolicy, tmp_path: Path) -> None:
    groups = [wrong(policy, EASY, "no", "no", "no", "no"), wrong(policy, HARD, "no", "no", "no", "no")]
    assert resampled(run_of(policy, tmp_path, "grpo"), groups) == ({}, {})
    run = run_of(policy, tmp_path, "grpo", sampling=RolloutConfig(1.5, 48, resample=6))
    before = policy.n_sampled_tokens
    found, told = resampled(run, groups)
    assert told["second/still_wrong"] == 0.5 and 3.5 <= told["second/tries"] <= 6  # 1 to 6 and 6 tries
    assert set(found) == {0}  # a hard problem is out of reach
    assert 0 < sum(found[0].rewards) < 4
    kept = sum(len(completion.token_ids) for completion in found[0].completions)
    assert policy.n_sampled_tokens - before > 6 * 4  # the hard one's six groups count too
    assert policy.n_sampled_tokens - before > kept
    right = dataclasses.replace(groups[0], verdicts=(Verdict(True, "", ""), *groups[0].verdicts[1:]))
    assert failed([right, groups[1]]) == [1]


def explained(policy: HfPolicy, problem: Problem, text: str) -> Explanation:
    shown, ids = encode_explanation(policy.tokenizer, problem), (*encode_text(policy, text), policy.end_id)
    completion = Completion(shown, ids, (-0.1,) * len(ids), text, FinishReason.STOP)
    plain = encode_question(policy.tokenizer, problem)
    return Explanation(problem, completion, plain, ids, Verdict(True, "equal", ""), True, "accepted")


def test_a_prefix_shrinks_by_quarters_as_the_group_gets_it_right(policy: HfPolicy, tmp_path: Path) -> None:
    run = run_of(policy, tmp_path, "prefix")
    chain = f"one two three four five six\nThe answer is \\boxed{{{HARD.answer}}}."
    ids = encode_text(policy, "one two three four five six\n")
    groups, explanations = [wrong(policy, HARD, "no", "no", "no", "no")], [explained(policy, HARD, chain)]
    plain = encode_question(policy.tokenizer, HARD)
    for parts, given in ((3, math.ceil(len(ids) * 3 / 4)), (1, math.ceil(len(ids) / 4))):
        run.prefixes = {HARD.problem_id: parts} if parts < 3 else {}
        (again,) = prefixed(run, groups, explanations).values()
        assert {c.prompt_ids for c in again.completions} == {plain + ids[:given]}
        assert run.prefixes.get(HARD.problem_id, 3) == parts  # nothing right, nothing taken away
    run.prefixes = {HARD.problem_id: 0}
    assert prefixed(run, groups, explanations) == {}
    # all but the answer is given, and the group is right: a quarter less
    run.prefixes = {EASY.problem_id: 2}
    all_right: Any = SimpleNamespace(grade=lambda *_args, **_kwargs: Verdict(True, "equal", ""))
    run.task = all_right
    easy = [wrong(policy, EASY, "no", "no", "no", "no")]
    assert prefixed(run, easy, [explained(policy, EASY, chain)])
    assert run.prefixes == {EASY.problem_id: 1}


def test_the_teacher_scores_the_same_tokens_after_the_answer_by_hand(policy: HfPolicy, tmp_path: Path) -> None:
    groups = [wrong(policy, HARD, "a b", "a b c d"), wrong(policy, EASY, "x", "y z")]
    groups[1] = dataclasses.replace(groups[1], verdicts=(Verdict(True, "", ""),) * 2)
    current, frozen = (
        teacher_gaps(run_of(policy, tmp_path, "self-distill", explanation=ExpoConfig(teacher=own)), groups)
        for own in ("current", "frozen")
    )
    assert set(current) == set(frozen) == {0}
    shown = encode_explanation(policy.tokenizer, HARD)
    for k, completion in enumerate(groups[0].completions):
        row = [Row(shown, completion.token_ids)]
        (alone,) = score_rows(policy, row, temperature=1.0, token_budget=4096)
        torch.testing.assert_close(current[0][k], alone + 0.5, atol=1e-4, rtol=0)
        with policy.reference():
            (base,) = score_rows(policy, row, temperature=1.0, token_budget=4096)
        torch.testing.assert_close(frozen[0][k], base + 0.5, atol=1e-4, rtol=0)
        assert (alone - base).abs().max() > 1e-3
    # in 16 bits the sampler's values, here all -0.5, are left for the scorer's
    run = run_of(policy, tmp_path, "self-distill")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "samples_exactly", False)
        scored = teacher_gaps(run, groups)
    for k, completion in enumerate(groups[0].completions):
        plain = Row(completion.prompt_ids, completion.token_ids)
        (student,) = score_rows(policy, [plain], temperature=1.0, token_budget=4096)
        torch.testing.assert_close(scored[0][k], frozen[0][k] - 0.5 - student, atol=1e-4, rtol=0)


def test_soft_labels_are_the_teachers_most_probable_tokens(policy: HfPolicy, tmp_path: Path) -> None:
    explanation = explained(policy, HARD, "one two three")
    run = run_of(policy, tmp_path, "soft-explain", explanation=ExpoConfig(teacher="current"))
    before = policy.n_scored_tokens
    (labels,) = teacher_labels(run, [explanation])
    assert policy.n_scored_tokens - before == len(explanation.completion.prompt_ids) + len(explanation.target_ids)
    assert labels.tokens_TK.shape == (len(explanation.target_ids), 64)
    assert (labels.logprobs_TK.exp().sum(1) <= 1 + 1e-5).all()
    assert (labels.logprobs_TK.diff(dim=1) <= 0).all()
    row = Row(explanation.completion.prompt_ids, explanation.target_ids)
    (scored,) = score_rows(policy, [row], temperature=1.0, token_budget=4096)
    for t, token in enumerate(explanation.target_ids):
        place = (labels.tokens_TK[t] == token).nonzero()
        if len(place):
            assert float(labels.logprobs_TK[t, place[0, 0]]) == pytest.approx(float(scored[t]), abs=1e-4)
    # beside longer rows, in one micro-batch or several, they are the same
    longer = Row(row.prompt_ids, row.completion_ids * 3)
    for budget in (4096, 1):
        beside = soft_labels(policy, [longer, row], 64, temperature=1.0, token_budget=budget)[1]
        torch.testing.assert_close(beside.logprobs_TK, labels.logprobs_TK, atol=1e-4, rtol=1e-4)
    assert teacher_labels(run, []) == []


def test_the_likelihood_of_the_answer_by_hand(policy: HfPolicy, tmp_path: Path) -> None:
    """Mean probability of the tokens of `ANSWER}` after the chain and a box, minus that after a box alone."""
    run, right = run_of(policy, tmp_path, "likelihood"), f"is {EASY.answer}, is {EASY.answer}, is\n"
    texts = (f"{right}\\boxed{{0}}", "no answer at all")
    rewards = likelihood_rewards(run, [wrong(policy, EASY, *texts)])[0]
    prompt, answer = encode_question(policy.tokenizer, EASY), encode_text(policy, EASY.answer + "}")
    befores = (right, "is A=0, is A=0, is\n", "")
    rows = [Row(prompt + encode_text(policy, before + "\\boxed{"), answer) for before in befores]
    scored = score_rows(policy, rows, temperature=1.0, token_budget=4096)
    helping, harming, without = (float(s.exp().mean()) for s in scored)
    assert harming < without < helping
    assert rewards == pytest.approx((helping - without, 0.0), abs=1e-6)
    assert likelihood_rewards(run, [wrong(policy, EASY, f"{befores[1]}\\boxed{{7}}", texts[1])]) == {0: (0.0, 0.0)}
    n_scored = policy.n_scored_tokens
    likelihood_rewards(run, [helped := wrong(policy, EASY, texts[0], texts[0] + " So.")])
    assert policy.n_scored_tokens - n_scored == rows[0].n_tokens + rows[2].n_tokens  # what is the same is scored once
    # verdicts of a judge of one's own have no answer; what was cut off has none that could be exchanged
    judged = dataclasses.replace(helped, verdicts=(Verdict(False, "different", "function"),) * 2)
    assert likelihood_rewards(run, [judged])[0] == pytest.approx((rewards[0],) * 2)
    cut = [dataclasses.replace(c, finish_reason=FinishReason.LENGTH) for c in helped.completions]
    assert likelihood_rewards(run, [dataclasses.replace(helped, completions=tuple(cut))]) == {0: (0.0, 0.0)}


def test_an_answer_that_no_box_can_hold_is_refused() -> None:
    rows = [{"question": f"Q{i}", "answer": "}" if i == 3 else str(i)} for i in range(20)]
    task = task_from_rows(rows, correct=lambda problem, text: text == problem.answer)
    config = resolve(TrainConfig(model="tiny", task=task.name, method="likelihood"))
    prompts: Any = None
    with pytest.raises(ConfigError, match=r"Method 'likelihood' rewards .*cannot be read out of a box"):
        training_problems(task, config, prompts, lambda line: None)
    training_problems(task, dataclasses.replace(config, method="grpo"), prompts, lambda line: None)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", ["grpo --resample 2 --draw hard", "insert", "prefix", "self-distill", 
                                    "self-distill --teacher current",
                                    "soft-explain", "likelihood", "grade-negatives --updates-per-batch 2"])  # fmt: skip
def test_two_steps_end_to_end(method: str, tmp_path: Path) -> None:
    """And where a method has a state or a random stream, the second step again from the checkpoint of the first."""
    words = (
        "train --model tiny --levels 1 5 --train-problems 2 --steps 2 --save-every 1 --group-size 2"
        " --problems-per-step 4 --max-completion-tokens 60 --eval-problems 0 --diagnostics-every 0"
        f" --temperature 1.5 --output {tmp_path / 'run'} --method {method}"
    ).split()
    assert command(words) == 0
    last, files = tmp_path / "run/checkpoints/step-000002", ("adapter_model.safetensors", "state.json")
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any(row["update/n_rows"] and row["grad_norm"] for row in metrics)
    assert all(row["frac_all_wrong"] for row in metrics)
    scores = method.startswith(("self", "soft", "like"))
    assert all((row.get("num_scored_tokens", 0) > 0) == (row["time/score_s"] > 0) == scores for row in metrics)
    for row in metrics:
        assert sum(row[f"time/{part}_s"] for part in ("sample", "score", "update")) == pytest.approx(row["step_time"])
        if row["update/n_rows"]:
            n_tokens = row["update/n_tokens"] * (2 if "updates" in method else 1)
            assert row["update/tokens_per_s"] * row["time/update_s"] == pytest.approx(n_tokens)
    kinds = {json.loads(line)["kind"] for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()}
    assert ("second" in kinds) == any("second/reward" in row for row in metrics)
    own = {"prefix": "second/reward", "likelihood": "reward/likelihood", "self-distill": "teacher/gap"}
    assert all(name in metrics[1] for kind, name in own.items() if method.startswith(kind))
    if not method.startswith(("grpo", "prefix")):
        return
    before = [(last / name).read_bytes() for name in files] + [(tmp_path / "run/samples.jsonl").read_bytes()]
    shutil.rmtree(last)
    assert command([*words, "--resume"]) == 0
    assert before == [(last / name).read_bytes() for name in files] + [(tmp_path / "run/samples.jsonl").read_bytes()]
