"""Hints and easier forms: the validators, who is promoted, and runs whose model writes what a script says."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_policy import GRADER
from smollm2 import gguf_file
from test_remedies import explained, run_of, wrong

from expo_lite.commands.cli import run as command
from expo_lite.commands.command import prompts_of
from expo_lite.errors import ConfigError
from expo_lite.policy.batching import micro_batches
from expo_lite.policy.hf import HfPolicy
from expo_lite.prompts import encode_question
from expo_lite.records import Completion, FinishReason, Problem, SampleRequest, SamplingParams, Verdict
from expo_lite.run.target import find_target
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.train import TrainConfig, check_of_use, resolve
from expo_lite.step.chain_text import shows_answer
from expo_lite.step.explain import encode_target
from expo_lite.step.learn import accumulate
from expo_lite.step.methods import Experience, grpo_rows
from expo_lite.step.rewriting import FORMS, choices, hinted, masked, reformulated
from expo_lite.tasks.base import FixedTask
from expo_lite.tasks.hidden_rules import HiddenRules
from expo_lite.tasks.rows import task_from_rows

TASK = FixedTask("t", (), (), (), GRADER)
EASY, HARD, OTHER = (
    HiddenRules().problems("train", levels=(level,), limit=2)[i] for level, i in ((1, 0), (5, 0), (5, 1))
)
NO = ("no", "no", "no", "no")
BY_QUESTION = {p.question: p.answer for p in HiddenRules().problems("train", levels=(5,))}
Script = Callable[[str, int], str | None]


class Scripted(HfPolicy):
    """The tiny model, which replies as the script says where it says something: None leaves the prompt to the model."""

    script: Script = staticmethod(lambda prompt, k: None)

    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int) -> list[Any]:
        prompts = [self.tokenizer.decode(request.prompt_ids) for request in requests]
        if not any(type(self).script(prompt, 0) for prompt in prompts):
            return super().sample(requests, params, seed=seed)
        return [
            tuple(
                self.said(request.prompt_ids, str(type(self).script(prompt, k))) for k in range(request.n_completions)
            )
            for request, prompt in zip(requests, prompts, strict=True)
        ]

    def said(self, prompt_ids: tuple[int, ...], text: str) -> Completion:
        ids = encode_target(self, text)
        self.n_sampled_tokens += len(ids)
        ended = FinishReason.LENGTH if text.endswith("...") else FinishReason.STOP
        return Completion(prompt_ids, ids, (-0.5,) * len(ids), text, ended)


@pytest.fixture(scope="module")
def policy() -> Scripted:
    return Scripted("tiny", resolve(TrainConfig(model="tiny")).policy, seed=0)


def saying(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    monkeypatch.setattr(Scripted, "script", staticmethod(script))


@pytest.mark.parametrize(
    ("answer", "showing", "hiding"),
    [
        ("42", ["It is 42.", "**42**", "forty-two apples", "forty two", "$6 \\cdot 7$", "6 * 7", "x = 42", "84/2"],
         ["the ones digit", "142, 420 and 4.2", "\n".join(f"{i}. Add." for i in range(1, 43)), ""]),
        ("1/2", ["One half of it.", "50%", "it is .5,", "$\\frac{1}{2}$"], ["take 1 and 2"]),
        ("1,234", ["1234", "1,234.00"], ["234"]),
        ("(3, 4)", ["the point (3,4).", "x = 3, y = 4"], ["(4, 3)"]),
        ("Paris", ["The capital, paris"], ["The capital of France"]),
        ("no solution", ["the empty set"], ["Compare slopes"]),
        ("2", ["there are two", "Use the 2 sides"], ["1. Add.\n2. Stop."]),  # what the question has too is shown too
    ],
)  # fmt: skip
def test_a_text_shows_the_answer_in_any_form(answer: str, showing: list[str], hiding: list[str]) -> None:
    problem = Problem("p", "q", answer)
    assert [text for text in showing if not shows_answer(TASK, problem, text)] == []
    assert [text for text in hiding if shows_answer(TASK, problem, text)] == []


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("- 12\n- 11\n- 13\n- 21", ["12", "11", "13", "21"]),
        ("Question: ?\nA. 11\nB. 12.0\n(C) 3\nD) 4\nCorrect Answer: B", ["11", "12.0", "3", "4"]),
        ("1. 11\n2. 12\n3. 3\n4. 4", ["11", "12", "3", "4"]),
        ("- 12\n- 11\n- 13", []),  # too few
        ("- 12\n- 11\n- 13\n- 14\n- 15", []),  # too many
        ("- 12\n- 11\n- 13\n- 13", []),  # not different
        ("- 12\n- 24/2\n- 13\n- 14", []),  # right twice
        ("- 10\n- 11\n- 13\n- 14", []),  # never right
        ("- 12 (correct)\n- 11\n- 13\n- 14", []),  # told
        ("- 12\n- 11 (wrong)\n- 13\n- 14", []),
        ("I cannot do that.", []),
        ("", []),
    ],
)
def test_options_are_different_and_one_is_right(reply: str, read: list[str]) -> None:
    assert choices(TASK, Problem("p", "q", "12"), reply, 4) == read


@pytest.mark.parametrize(
    ("answer", "reply", "read"),
    [
        ("1003", "\\boxed{1__3}", "1__3"),
        ("\\frac{5}{8}", "It is \\boxed{\\frac{5}{_}}.", "\\frac{5}{_}"),
        ("\\frac{5}{8}", "\\boxed{\\frac{5}{{_}}}", "\\frac{5}{{_}}"),
        ("A=2, B=4", "\\boxed{A=_, B=4}", "A=_, B=4"),
        ("x_1 = 12", "\\boxed{x_1 = _2}", "x_1 = _2"),
        ("x_1 = 12", "\\boxed{x_1 = 12}", ""),  # a subscript hides nothing
        ("1003", "\\boxed{1003}", ""),
        ("1003", "\\boxed{____}", ""),
        ("1003", "\\boxed{1_3}", ""),
        ("1003", "\\boxed{2__3}", ""),
        ("7", "\\boxed{_}", ""),
        ("ab", "\\boxed{a_}", ""),  # letters stay
        ("1003", "no box", ""),
    ],
)
def test_a_mask_is_the_answer_with_digits_hidden(answer: str, reply: str, read: str) -> None:
    assert masked(answer, reply) == read


CHAIN = f"first things first\n\\boxed{{{HARD.answer}}}"


def test_a_hint_is_in_all_prompts_but_one(policy: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three failed problems one has an explanation and a hint; one's hint shows the answer; one has nothing."""
    asked: list[str] = []

    def script(prompt: str, k: int) -> str | None:
        asked.append(prompt)
        if "Write a hint" in prompt:
            return "<think>hm</think> Words are rules." if HARD.question in prompt else f"{OTHER.answer} comes out"
        return f"\\boxed{{{HARD.answer if k == 1 else 'A=1'}}}"

    saying(monkeypatch, script)
    groups = [wrong(policy, problem, *NO) for problem in (EASY, HARD, OTHER)]
    explanations = [explained(policy, p, f"first\n\\boxed{{{p.answer}}}") for p in (HARD, OTHER)]
    found = hinted(run_of(policy, tmp_path, "hint"), groups, explanations)
    assert "A solution:\nfirst" in asked[0]
    assert (
        "The correct answer" not in asked[0]
    )  # what the explanation was shown is all that a control's hint is made of
    (again,) = found["second"].values()
    assert set(found["second"]) == {1}
    assert found["metrics"] == {"second/accept_rate": 0.5}
    assert [(row["kind"], row["accepted"]) for row in found["written"]] == [("written", True), ("written", False)]
    plain = encode_question(policy.tokenizer, HARD)
    hint = dataclasses.replace(HARD, question=f"{HARD.question}\nHint: Words are rules.")
    shown = encode_question(policy.tokenizer, hint)
    assert [c.prompt_ids for c in again.completions] == [shown] * 3 + [plain]
    assert again.rewards == (0.0, 1.0, 0.0, 0.0)
    assert again.problem == HARD and again.trained_after is None
    assert HARD.answer not in policy.tokenizer.decode(shown)

    expo = ExpoConfig(train_context="plain")
    (other,) = hinted(run_of(policy, tmp_path, "hint", explanation=expo), groups, explanations)["second"].values()
    assert other == dataclasses.replace(again, trained_after=plain)
    # what another group's hint is, or whether it has one, changes nothing
    alone = hinted(run_of(policy, tmp_path, "hint"), groups[:2], explanations[:1])["second"]
    assert alone[1].completions == again.completions


@pytest.mark.parametrize(
    "hint",
    [
        "",
        "On and on ...",
        "<think>It is",
        f"So {HARD.answer}.",
        f"\\boxed{{{HARD.answer}}}",
        "Each word is a rule. \\boxed{A=1}",
    ],
)
def test_a_useless_hint_is_refused(
    hint: str, policy: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(monkeypatch, lambda prompt, k: hint or " ")
    groups, run = [wrong(policy, HARD, *NO)], run_of(policy, tmp_path, "hint")
    found = hinted(run, groups, [explained(policy, HARD, CHAIN)])
    assert (found["second"], found["metrics"]) == ({}, {"second/accept_rate": 0.0})
    assert hinted(run, groups, []) == {"second": {}, "written": [], "metrics": {}}
    refused = dataclasses.replace(explained(policy, HARD, CHAIN), accepted=False)
    assert hinted(run, groups, [refused])["written"] == []


def test_a_prompt_that_fills_the_context_is_left_out(
    policy: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(monkeypatch, lambda prompt, k: "Words are rules.")
    groups, run = [wrong(policy, HARD, *NO)], run_of(policy, tmp_path, "hint")
    monkeypatch.setattr("expo_lite.step.remedies.context_of", lambda *_: 400)
    assert hinted(run, groups, [explained(policy, HARD, "on and on " * 300 + CHAIN)])["written"] == []
    assert hinted(run, groups, [explained(policy, HARD, CHAIN)])["second"]


def test_the_plain_context_has_the_gradient_of_the_plain_prompt(
    policy: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand -A w grad log pi(c | q), in one micro-batch or several, beside shorter rows or alone."""
    saying(monkeypatch, lambda prompt, k: "Words." if "Write a hint" in prompt else f"no \\boxed{{A={k}}}" + " so" * k)
    plain = ExpoConfig(train_context="plain")
    run = run_of(policy, tmp_path, "hint", explanation=plain)
    (second,) = hinted(run, [wrong(policy, HARD, *NO)], [explained(policy, HARD, CHAIN)])["second"].values()
    second = dataclasses.replace(second, verdicts=(Verdict(True, "", ""), *second.verdicts[1:]))
    experience = Experience((wrong(policy, HARD, *NO),), (), 0.0, second={0: second})
    rows = grpo_rows(experience, run.config)
    # 1 among four: 3/4 and -1/4 over a deviation of 1/2; the mean over tokens, then over four completions
    assert [row.advantage for row in rows] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    assert [row.weight for row in rows] == pytest.approx([1 / 4 / len(c.token_ids) for c in second.completions])
    assert {row.prompt_ids for row in rows} == {encode_question(policy.tokenizer, HARD)}
    # old log-probabilities are the scorer's; the sampler's count where it was asked the same, without a hint
    assert [bool(row.sampler_logprobs) for row in rows] == [False, False, False, True]

    def gradient(budget: int, *, by_hand: bool = False) -> torch.Tensor:
        parameters = list(policy.parameters().values())
        for parameter in parameters:
            parameter.grad = None
        batches = micro_batches(rows, token_budget=budget, pad_id=policy.pad_id, packed=policy.packs)
        for batch in batches if by_hand else ():
            (-batch.advantages_N * batch.weights_N * policy.logprobs(batch, temperature=1.0)).sum().backward()  # type: ignore[no-untyped-call]
        if not by_hand:
            accumulate(policy, batches, run.config, None)
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    by_hand = gradient(1, by_hand=True)
    assert by_hand.abs().max() > 0
    for budget in (1, 4096):
        torch.testing.assert_close(gradient(budget), by_hand, atol=1e-6, rtol=1e-4)


def test_a_judge_of_ones_own_is_not_asked_about_pieces_of_a_text() -> None:
    def judge(problem: Problem, text: str) -> bool:
        raise AssertionError

    task = task_from_rows([Problem("p", "q", "12")], correct=judge, grader=GRADER)
    assert shows_answer(task, Problem("p", "q", "12"), "twelve") and not shows_answer(
        task, Problem("p", "q", "12"), "13"
    )
    assert choices(task, Problem("p", "q", "12"), "- 12\n- 11\n- 13\n- 21", 4)


def options(n: int, answer: str = HARD.answer) -> str:
    return "\n".join(f"- {answer if i == 1 else f'A={i}, B={i}'}" for i in range(n))


def test_a_problem_is_promoted_until_it_is_asked_openly(
    policy: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four options, ten, a mask, open; half of a group right is enough, a quarter is not."""
    asked, n_right = list[str](), 1

    def script(prompt: str, k: int) -> str | None:
        if k == 0:
            asked.append(prompt)
        for n in (4, 10):
            if f"write {n} different" in prompt:
                return options(n)
        if "digits hidden" in prompt:
            return "\\boxed{" + HARD.answer.replace("8", "_") + "}"
        return f"\\boxed{{{HARD.answer if k < n_right else 'A=1'}}}"

    saying(monkeypatch, script)
    run, groups = run_of(policy, tmp_path, "reformulate"), [wrong(policy, HARD, *NO)] * 2
    found = reformulated(run, groups)
    assert len(found["written"]) == 1  # drawn twice, written once
    assert set(found["second"]) == {0, 1}
    text = run.variants[HARD.problem_id][1]
    lines = text.splitlines()
    assert run.variants[HARD.problem_id][0] == 0  # a quarter is right
    assert sorted(lines[1:]) == sorted(options(4).splitlines()) and lines[1:] != options(4).splitlines()
    second = found["second"][0]
    assert second.problem.question == f"{HARD.question}\n{text}"
    assert {c.prompt_ids for c in second.completions} == {encode_question(policy.tokenizer, second.problem)}
    assert second.rewards == (1.0, 0.0, 0.0, 0.0)
    assert all(HARD.question in prompt for prompt in asked)

    n_right = 2
    found = reformulated(run, groups)
    assert found["written"] == [] and found["metrics"] == {}  # the same form again
    assert found["second"][0].problem.question == second.problem.question
    assert run.variants[HARD.problem_id] == (1, "")  # promoted once, though drawn twice
    assert reformulated(run, groups)["second"][0].problem.question.count("\n- ") == 10
    found = reformulated(run, groups)
    assert found["second"][0].problem.question.endswith(HARD.answer.replace("8", "_"))
    assert run.variants[HARD.problem_id] == (len(FORMS), "")
    assert reformulated(run, groups) == {"second": {}, "written": [], "metrics": {}}


def test_a_useless_form_is_passed_over(policy: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saying(monkeypatch, lambda prompt, k: "I cannot do that.")
    run, groups = run_of(policy, tmp_path, "reformulate"), [wrong(policy, HARD, *NO), wrong(policy, EASY, *NO)]
    for form in (1, 2, 3):
        found = reformulated(run, groups)
        assert (found["second"], found["metrics"]) == ({}, {"second/accept_rate": 0.0})
        assert run.variants == {HARD.problem_id: (form, ""), EASY.problem_id: (form, "")}
    assert reformulated(run, groups)["written"] == []  # from then on it is GRPO
    right = dataclasses.replace(groups[0], verdicts=(Verdict(True, "", ""), *groups[0].verdicts[1:]))
    run.variants = {}
    assert reformulated(run, [right])["written"] == [] and run.variants == {}


def test_train_context_is_for_hints() -> None:
    plain = ExpoConfig(train_context="plain")
    check_of_use(TrainConfig(method="hint", explanation=plain))
    with pytest.raises(ConfigError, match="train_context set, but of no use with method 'prefix'"):
        check_of_use(TrainConfig(method="prefix", explanation=plain))


def half_right(prompt: str, k: int) -> str | None:
    """Outlines, hints and all forms but the choice of ten; half of the completions that have one are right."""
    question = next((own for own in BY_QUESTION if own in prompt), None)
    answer = BY_QUESTION.get(question or "", "")
    if "<outline>" in prompt:
        return f"<outline>Follow the words.</outline>\nFirst, and then\n\\boxed{{{answer}}}"
    if "Write a hint" in prompt:
        return "Each word is a rule."
    if "write 4 different" in prompt:
        return options(4, answer)
    if "write 10 different" in prompt:
        return "I cannot do that."
    if "digits hidden" in prompt:
        return "\\boxed{" + answer[:2] + "_" + answer[3:] + "}"
    if any(words in prompt for words in ("Hint: ", "one of these", "has this form")):
        return f"\\boxed{{{answer if k == 0 else 'A=1'}}}"
    return None


@pytest.mark.usefixtures("unchecked")
def test_a_run_with_outlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run keeps the prompt, logs outlines and where chains lean on the answer; diagnose asks in the same words."""
    saying(monkeypatch, half_right)
    monkeypatch.setattr("expo_lite.policy.hf.HfPolicy", Scripted)
    words = (
        "train --model tiny --levels 5 --train-problems 1 --steps 2 --group-size 2 --problems-per-step 1"
        " --max-completion-tokens 64 --eval-problems 0 --diagnostics-every 1 --explanation-refresh-steps 0"
        f" --explanation-prompt skeleton --output {tmp_path / 'run'}"
    ).split()
    assert command(words) == 0
    kept = (tmp_path / "run/explanation_prompt.txt").read_text()
    assert "{question}" in kept and "</outline>" in kept
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(f"expo/anchoring/{quarter}" in row for row in metrics for quarter in range(1, 5))
    samples = (tmp_path / "run/samples.jsonl").read_bytes()
    rows = [row for line in samples.splitlines() if (row := json.loads(line))["kind"] == "explanation"]
    assert [row["outline"] for row in rows] == ["<outline>Follow the words.</outline>\n"] * 2
    assert all(row["accepted"] and row["completion"].startswith("First") for row in rows)
    settings = DiagnoseConfig(model=str(tmp_path / "run"))
    assert prompts_of(settings, find_target(str(tmp_path / "run"))).explanation == kept.lstrip()
    assert prompts_of(DiagnoseConfig(explanation_prompt=Path("skeleton")), find_target("tiny")).explanation == kept


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("method", "steps"), [("hint", 2), ("hint --train-context plain", 2), ("reformulate", 4)])
def test_end_to_end(method: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps on one hard problem; the second half again from a checkpoint, with the form that it has come to by then."""
    saying(monkeypatch, half_right)
    monkeypatch.setattr("expo_lite.policy.hf.HfPolicy", Scripted)
    words = (
        "train --model tiny --levels 5 --train-problems 1 --group-size 2 --problems-per-step 1 --eval-problems 0"
        f" --max-completion-tokens 64 --diagnostics-every 0 --steps {steps} --save-every {steps // 2}"
        f" --output {tmp_path / 'run'} --method {method}"
    ).split()
    assert command(words) == 0
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    written = [row for row in samples if row["kind"] == "written"]
    second = [row for row in samples if row["kind"] == "second"]
    assert all(row["frac_all_wrong"] == 1.0 for row in metrics)
    assert [bool(row["grad_norm"]) for row in metrics] == ["second/reward" in row for row in metrics]
    if method == "reformulate":  # four options; ten, of no use; a mask; openly
        assert [row.get("second/accept_rate") for row in metrics] == [1.0, 0.0, 1.0, None]
        assert [row.get("second/reward") for row in metrics] == [0.5, None, 0.5, None]
        assert [row["accepted"] for row in written] == [True, False, True]
        assert "one of these" in second[0]["prompt"] and "_" in second[-1]["prompt"]
        state = json.loads((tmp_path / "run/checkpoints/step-000004/state.json").read_text())
        assert list(state["variants"].values()) == [[3, ""]]
    else:
        assert all(row["second/accept_rate"] == 1.0 for row in metrics if "second/reward" in row)
        assert written and {row["completion"] for row in written} == {"Each word is a rule."}
        assert len(second) == 2 * len(written)
        return
    last = tmp_path / f"run/checkpoints/step-00000{steps}"
    files = [last / "adapter_model.safetensors", last / "state.json", tmp_path / "run/samples.jsonl"]
    before = [file.read_bytes() for file in files]
    shutil.rmtree(last)
    assert command([*words, "--resume"]) == 0
    assert before == [file.read_bytes() for file in files]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["hint --explanation-filter none", "reformulate", "exp-grpo --explanation-prompt skeleton"]
)
def test_a_real_model_that_is_too_small(method: str, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """SmolLM2-135M on products that it cannot work out: what it writes is read and checked, and the run goes on."""
    products = [(a, b) for a in range(213, 219) for b in range(47, 53)]
    rows = [{"question": f"What is {a} times {b}?", "answer": str(a * b)} for a, b in products]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = (
        f"train --model {gguf_file(pytestconfig)} --bits 16 --task jsonl:{tmp_path / 'products.jsonl'} --steps 2"
        " --problems-per-step 4 --group-size 2 --max-completion-tokens 96 --eval-problems 0 --diagnose-first 0"
        f" --output {tmp_path / 'run'} --method {method}"
    ).split()
    assert command(words) == 0
    samples = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text().splitlines()]
    kinds = {kind: [row for row in samples if row["kind"] == kind] for kind in ("written", "second", "explanation")}
    if "skeleton" in method:
        assert kinds["explanation"]
        assert all(row["outline"] for row in kinds["explanation"] if row["accepted"])
        return
    assert kinds["written"]
    n_used = sum(row["accepted"] for row in kinds["written"])
    assert bool(kinds["second"]) == bool(n_used)
    for row in kinds["second"]:
        hint = row["prompt"].partition("Hint: ")[2]
        assert row["gold"] not in hint
