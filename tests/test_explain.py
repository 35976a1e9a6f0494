"""The one trap of the method: sampled after question and answer, trained after the question alone. And the filters."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_policy import judge

from expo_lite.commands.cli import run
from expo_lite.commands.command import prompts_of
from expo_lite.errors import ConfigError
from expo_lite.grading import Grader
from expo_lite.loop import train
from expo_lite.memory.limits import Limits
from expo_lite.policy.batching import Row
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_explanation, encode_question, encode_shown, read_prompts
from expo_lite.records import (
    Completion,
    Explanation,
    FinishReason,
    Group,
    Problem,
    Prompts,
    SamplingParams,
    Verdict,
)
from expo_lite.run.folder import JsonLines
from expo_lite.run.metrics import explanation_metrics
from expo_lite.run.target import find_target
from expo_lite.settings.groups import ExplainWith, ExpoConfig, HeldOutConfig, PolicyConfig
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.models import SKELETON, prompt_file
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step import explain
from expo_lite.step.explain import Rollout, answer_lifts, reliances, roll_out, with_wrong_answer
from expo_lite.step.explain import judge as judge_all
from expo_lite.step.rollout import grade_groups
from expo_lite.step.run import RefreshStore
from expo_lite.tasks import load_task
from expo_lite.tasks.hidden_rules import HiddenRules, read_question

pytestmark = pytest.mark.usefixtures("unchecked")

BUDGET = 4096
PLAIN = SamplingParams(1.0, 64)


@pytest.fixture(scope="module")
def policy() -> HfPolicy:
    return HfPolicy("tiny", PolicyConfig(), seed=0)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


@pytest.mark.parametrize("own", [False, True])
def test_the_training_prompt_never_contains_the_answer(own: bool, policy: HfPolicy, grader: Grader) -> None:
    task = load_task("hidden-rules", grader=grader)
    problem = Problem("p", "How many are there?", "731948") if own else task.problems("train", levels=(5,), limit=1)[0]
    params = SamplingParams(1.0, 40)
    attempts = roll_out(policy, task, to_explain=[problem], params=params, limits=Limits(BUDGET, 8), seed=0).attempts
    (explanation,) = judge(policy, attempts, ExpoConfig(explanation_filter=("none",)))
    assert explanation.accepted
    seen = policy.tokenizer.decode(explanation.completion.prompt_ids)
    trained = policy.tokenizer.decode(explanation.prompt_ids)
    assert f"The correct answer is {problem.answer}." in seen
    assert problem.answer not in trained
    assert "correct answer" not in trained
    assert problem.question.splitlines()[0] in trained
    assert explanation.prompt_ids == encode_question(policy.tokenizer, problem)
    assert explanation.completion.prompt_ids == encode_explanation(policy.tokenizer, problem)


def attempt(text: str, *, correct: bool, finish: FinishReason = FinishReason.STOP, policy: HfPolicy) -> Group:
    problem = Problem("p", "Start with 10.\nA: add 11.\nWhat is the result?", "21", 1)
    ids = (*policy.tokenizer.encode(text), policy.end_id)
    completion = Completion((1,), ids, (0.0,) * len(ids), text, finish)
    return Group(problem, (completion,), (Verdict(correct, "equal" if correct else "different", "text"),))


def test_verified_refuses_wrong_and_truncated_ones(policy: HfPolicy) -> None:
    config = ExpoConfig()
    right, wrong, cut = judge(
        policy,
        [
            attempt("A:0010+11=0021\n\\boxed{21}", correct=True, policy=policy),
            attempt("A:0010+11=0022\n\\boxed{22}", correct=False, policy=policy),
            attempt("\\boxed{21}", correct=True, finish=FinishReason.LENGTH, policy=policy),
        ],
        config,
    )
    assert (right.accepted, wrong.accepted, cut.accepted) == (True, False, False)
    assert (wrong.reason, cut.reason) == ("different", "truncated")
    assert right.target_ids == right.completion.token_ids


def test_none_puts_the_right_answer_at_the_end(policy: HfPolicy) -> None:
    group = attempt("A:0010+11=0022\n\\boxed{22}", correct=False, policy=policy)
    (explanation,) = judge(policy, [group], ExpoConfig(explanation_filter=("none",)))
    text = policy.tokenizer.decode(explanation.target_ids, skip_special_tokens=True)
    assert explanation.accepted
    assert text == "A:0010+11=0022\n\\boxed{21}"
    assert explanation.target_ids[-1] == policy.end_id


def test_a_chain_that_helps_has_a_higher_lift_and_the_best_is_kept(policy: HfPolicy) -> None:
    question = "Start with 4.\nA: hop.\nB: climb.\nWrite the results one after the other."
    problem = Problem("p", question, "A=7, B=1", 1)  # words that the model knows: 3 and 4
    good, bad = (
        dataclasses.replace(attempt(text, correct=True, policy=policy), problem=problem)
        for text in (
            "A:4 hop+3=7\nB:7 climb+4=1\n\\boxed{A=7, B=1}",
            "A:4 hop+5=9\nB:9 climb+4=3\n\\boxed{A=7, B=1}",
        )
    )
    lifts = answer_lifts(policy, [(g.problem, g.completions[0].text) for g in (good, bad)], token_budget=BUDGET)
    assert lifts[0] > 0 > lifts[1]
    both = Group(good.problem, bad.completions + good.completions, bad.verdicts + good.verdicts)
    (best,) = judge(policy, [both], ExpoConfig(explanations_per_problem=2))
    assert best.completion == good.completions[0]
    assert best.lift_nats == pytest.approx(lifts[0], abs=1e-3)
    config = ExpoConfig(explanation_filter=("verified", "lift"))
    (refused,) = judge(policy, [bad], config)
    assert (refused.accepted, refused.reason) == (False, "no_lift")


def test_an_answer_in_words_does_not_lift_itself(policy: HfPolicy) -> None:
    """A chain whose steps lead elsewhere has the same lift, however it states the right answer behind them."""
    problem = Problem("p", "What is 17 + 25?", "42")
    steps = "17+25=36\n"
    chains = [steps + "\\boxed{42}", steps + "The answer is 42.", steps + "#### 42", steps + "\\boxed{42} answer: 42"]
    lifts = answer_lifts(policy, [(problem, chain) for chain in chains], token_budget=BUDGET)
    assert lifts == pytest.approx([lifts[0]] * len(chains), abs=1e-4)


CONTROLS = [
    Problem(f"p{i}", f"Start with {i}.\nA: hop.\nWrite the results one after the other.", f"A={i}{i}", 1)
    for i in range(4)
]


@pytest.mark.parametrize("explain_with", ["answer", "wrong-answer", "no-answer"])
def test_what_the_explanation_prompt_shows(explain_with: ExplainWith, policy: HfPolicy, grader: Grader) -> None:
    task = load_task("hidden-rules", grader=grader)
    rolled = [
        roll_out(
            policy,
            task,
            to_explain=CONTROLS[:2],
            explaining=ExpoConfig(explain_with=explain_with),
            others=CONTROLS,
            params=SamplingParams(1.0, 8),
            limits=Limits(BUDGET, 8),
            seed=seed,
        )
        for seed in (3, 3, 4)
    ]
    prompts = [[a.completions[0].prompt_ids for a in each.attempts] for each in rolled]
    assert prompts[0] == prompts[1]  # a function of the seed
    for problem, prompt_ids, attempt in zip(CONTROLS, prompts[0], rolled[0].attempts, strict=False):
        text = policy.tokenizer.decode(prompt_ids)
        shown = [other.answer for other in CONTROLS if other.answer in text]
        if explain_with == "answer":
            assert shown == [problem.answer]
        elif explain_with == "no-answer":
            assert shown == []
            assert prompt_ids == encode_question(policy.tokenizer, problem)
        else:
            assert len(shown) == 1
            assert shown != [problem.answer]
        assert attempt.problem == problem  # judged against the true answer all the same
        (judged,) = judge(policy, [attempt], ExpoConfig(explain_with=explain_with))
        assert judged.prompt_ids == encode_question(policy.tokenizer, problem)


def test_a_wrong_answer_is_of_the_same_level_where_there_is_one() -> None:
    easy, hard = (Problem(f"{level}", "q", str(level), level) for level in (1, 2))
    also_hard = Problem("3", "q", "3", 2)
    assert {with_wrong_answer(hard, [easy, hard, also_hard], seed).answer for seed in range(20)} == {"3"}
    assert with_wrong_answer(hard, [easy, hard], 0).answer == "1"
    with pytest.raises(ConfigError, match="problems with different answers"):
        with_wrong_answer(hard, [hard], 0)


def problems(level: int, n: int) -> list[Problem]:
    return HiddenRules().problems("train", levels=(level,), limit=n)


def chain(problem: Problem, text: str, policy: HfPolicy, verdict: Verdict | None = None) -> Group:
    ids = (*policy.tokenizer.encode(text), policy.end_id)
    completion = Completion(
        encode_explanation(policy.tokenizer, problem), ids, (0.0,) * len(ids), text, FinishReason.STOP
    )
    return Group(problem, (completion,), (verdict or HiddenRules().grade(problem, text),))


def own_chain(problem: Problem) -> str:
    return read_question(problem.question).own_chain


def test_of_a_task_that_cannot_check_steps_the_arithmetic_counts(policy: HfPolicy) -> None:
    problem = Problem("1", "8 boxes with 7 each, and 346 more?", "402")
    texts = ["8*7=56. 56+346=402. \\boxed{402}", "8*7=54. 54+346=402. \\boxed{402}", "It is \\boxed{402}"]
    attempts = [chain(problem, text, policy, Verdict(True, "equal", "number", "402")) for text in texts]
    judged = judge(policy, attempts, ExpoConfig(explanation_filter=("steps",)))
    assert [e.reason for e in judged] == ["accepted", "wrong_step", "unread_steps"]
    assert [e.verdict.valid for e in judged] == [True, False, None]
    by_default = judge(policy, attempts, ExpoConfig())
    assert [e.reason for e in by_default] == ["accepted", "wrong_step", "accepted"]
    metrics = explanation_metrics(by_default)
    assert (metrics["expo/explanation_checked_rate"], metrics["expo/explanation_valid_rate"]) == (0.5, 1.0)
    metrics = explanation_metrics(judge(policy, attempts, ExpoConfig(explanation_filter=("verified",))))
    assert metrics["expo/explanation_checked_rate"] == pytest.approx(2 / 3)
    assert (metrics["expo/explanation_accept_rate"], metrics["expo/explanation_valid_rate"]) == (1.0, 0.5)


def test_the_filter_steps_refuses_a_right_answer_after_wrong_steps(policy: HfPolicy) -> None:
    (problem,) = problems(5, 1)
    right = own_chain(problem)
    amount = re.search(r"\+(\d)", right)
    assert amount is not None
    wrong = right.replace(amount[0], f"+{(int(amount[1]) + 1) % 10}", 1)
    rows = [chain(problem, text, policy).completions for text in (right, wrong)]
    attempts = grade_groups(HiddenRules(), [problem, problem], rows)
    assert [judge(policy, [a], ExpoConfig(), HiddenRules())[0].accepted for a in attempts] == [True, True]
    kept, refused = judge(policy, attempts, ExpoConfig(explanation_filter=("steps",)), HiddenRules())
    assert (kept.accepted, refused.accepted, refused.reason) == (True, False, "wrong_step")
    metrics = explanation_metrics([judge(policy, [a], ExpoConfig(), HiddenRules())[0] for a in attempts])
    assert (metrics["expo/explanation_accept_rate"], metrics["expo/explanation_valid_rate"]) == (1.0, 0.5)


def test_reliance_is_high_where_the_chain_needs_the_answer(policy: HfPolicy) -> None:
    known, hidden = problems(2, 1)[0], problems(5, 1)[0]
    attempts = [chain(problem, own_chain(problem), policy) for problem in (known, hidden)]
    judged = judge(policy, attempts, ExpoConfig())
    of_known, of_hidden = reliances(policy, judged, token_budget=BUDGET)
    assert of_known < 0.05 < of_hidden
    between = (of_known + of_hidden) / 2
    config = ExpoConfig(explanation_filter=("verified", "reliance"), max_reliance=between)
    easy, hard = judge(policy, attempts, config)
    assert (easy.accepted, hard.accepted, hard.reason) == (True, False, "reliance")
    assert hard.reliance_nats == pytest.approx(of_hidden, abs=1e-4)


def outlined(problem: Problem, text: str, policy: HfPolicy) -> Group:
    """A reply to the prompt that asks for an outline, with log-probabilities that tell its tokens apart."""
    asking = dataclasses.replace(problem, prompts=read_prompts(None, prompt_file(Path(SKELETON))))
    group = chain(asking, text, policy)
    logprobs = tuple(-0.01 * i for i in range(len(group.completions[0].token_ids)))
    return dataclasses.replace(group, completions=(dataclasses.replace(group.completions[0], logprobs=logprobs),))


def test_an_outline_is_no_part_of_the_chain(policy: HfPolicy, grader: Grader) -> None:
    problem = problems(5, 1)[0]
    steps = own_chain(problem)
    attempt = outlined(problem, f"Well. <outline>- Follow the words.</outline>\n\n{steps}", policy)
    assert problem.answer in policy.tokenizer.decode(attempt.completions[0].prompt_ids)
    (explanation,) = judge(policy, [attempt], ExpoConfig(), HiddenRules())
    whole, cut = attempt.completions[0], explanation.completion
    assert explanation.accepted and explanation.outline == "Well. <outline>- Follow the words.</outline>\n\n"
    assert cut.text == steps and explanation.target_ids == cut.token_ids
    assert cut.prompt_ids == whole.prompt_ids + explanation.outline_ids
    assert explanation.outline_ids + cut.token_ids == whole.token_ids
    assert cut.logprobs == whole.logprobs[-len(cut.token_ids) :]
    assert explanation.prompt_ids == encode_question(policy.tokenizer, problem)  # neither answer nor outline
    kept: RefreshStore[Explanation] = RefreshStore(Explanation, 0)
    odd = dataclasses.replace(explanation, problem=dataclasses.replace(problem, question="a\0b"))  # a text may have it
    for each in (explanation, odd):
        kept.load_json(json.loads(json.dumps([{"made": 0, "record": dataclasses.asdict(each)}])))
        assert kept.get(problem.problem_id, step=1) == each  # a resumed run has the outline too
    # reliance is on the answer alone: the outline stands on both sides
    rows = [Row(prompt + explanation.outline_ids, cut.token_ids)
            for prompt in (whole.prompt_ids, explanation.prompt_ids)]  # fmt: skip
    shown, plain = (float(s.mean()) for s in score_rows(policy, rows, temperature=1.0, token_budget=BUDGET))
    assert reliances(policy, [explanation], token_budget=BUDGET) == pytest.approx([shown - plain], abs=1e-5)
    # a chain that is there already is not scored after a request for an outline
    bare = chain(problem, steps, policy)
    assert encode_shown(policy.tokenizer, attempt.problem) == bare.completions[0].prompt_ids


def test_steps_in_an_outline_are_no_steps_of_the_chain(policy: HfPolicy) -> None:
    problem = problems(5, 1)[0]
    steps = own_chain(problem)
    first = steps.partition("\n")[0]
    reply = outlined(problem, f"<outline>{first}</outline>\n{steps}", policy)
    (attempt,) = grade_groups(HiddenRules(), [reply.problem], [reply.completions])
    assert attempt.verdicts[0].valid is False  # the whole reply has the first step twice
    (explanation,) = judge(policy, [attempt], ExpoConfig(explanation_filter=("steps",)), HiddenRules())
    assert explanation.accepted and explanation.verdict.valid is True


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{steps}", "no_outline"),
        ("<outline>On and on\n{steps}", "no_outline"),
        ("{steps}</outline>", "no_outline"),  # nothing comes after it
        ("<outline>It must be {answer}.</outline>{steps}", "outline_shows_answer"),
        ("<outline>- Follow.</outline>\nSo \\boxed{{A=1}}.", "different"),
    ],
)
def test_outlines_of_no_use_are_refused(text: str, reason: str, policy: HfPolicy) -> None:
    problem = problems(5, 1)[0]
    attempt = outlined(problem, text.format(steps=own_chain(problem), answer=problem.answer), policy)
    if text.endswith("</outline>"):
        ids = attempt.completions[0].token_ids[:-1]  # without the end of the turn
        attempt = dataclasses.replace(
            attempt, completions=(dataclasses.replace(attempt.completions[0], token_ids=ids),)
        )
    (refused,) = judge(policy, [attempt], ExpoConfig(), HiddenRules())
    assert (refused.accepted, refused.reason) == (False, reason)
    # controls are taken as they are, and one that is asked the plain question needs no outline
    for explain_with, filters in (("no-answer", ("verified",)), ("wrong-answer", ("none",))):
        config = ExpoConfig(explain_with=explain_with, explanation_filter=filters)  # type: ignore[arg-type]
        (control,) = judge(policy, [attempt], config, HiddenRules())
        assert control.accepted or reason == "different"
        assert control.target_ids


def test_a_group_passes_the_gate_not_its_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn twice in a step, all wrong once and mixed once: one explanation."""
    problem, completion = Problem("p", "q", "1"), Completion((1,), (2,), (0.0,), "", FinishReason.STOP)
    wrong, right = Verdict(False, "different", ""), Verdict(True, "equal", "")
    groups = tuple(Group(problem, (completion,) * 2, (wrong, last)) for last in (wrong, right))
    asked: list[Sequence[Problem]] = []

    def rolled(_run: Any, _stream: str, problems: Sequence[Problem], to_explain: Sequence[Problem]) -> Rollout:
        asked.append(to_explain)
        return Rollout(groups if problems else (), ())

    monkeypatch.setattr(explain, "_roll_out", rolled)
    run: Any = SimpleNamespace(
        config=resolve(TrainConfig(model="tiny")), explanations=RefreshStore(Explanation, 1),
        step=0, policy=None, task=None, params=PLAIN, limits=None,
    )  # fmt: skip
    explain.sample_groups(run, [problem, problem])
    assert asked == [[], [problem]]


def test_every_attempt_is_judged(policy: HfPolicy) -> None:
    (problem,) = problems(2, 1)
    right, wrong = (chain(problem, text, policy) for text in (own_chain(problem), "\\boxed{A=0}"))
    both = Group(problem, right.completions + wrong.completions, right.verdicts + wrong.verdicts)
    config = ExpoConfig(explanations_per_problem=2)
    ((first, second),) = judge_all(policy, HiddenRules(), [both], config, limits=Limits(BUDGET, sampling_rows=1))
    assert (first.accepted, second.accepted, second.reason) == (True, False, "different")


def test_explanations_have_their_own_temperature(policy: HfPolicy) -> None:
    """A call of their own leaves the groups as they are; at almost no temperature two explanations are alike."""
    some = problems(5, 2)

    def roll(temperature: float | None) -> Rollout:
        config = ExpoConfig(explanation_temperature=temperature, explanations_per_problem=2)
        given: dict[str, Any] = {"problems": some, "to_explain": some, "group_size": 2, "params": PLAIN, "seed": 1}
        return roll_out(policy, HiddenRules(), explaining=config, limits=Limits(BUDGET, 8), **given)

    cold, same = roll(0.01), roll(None)
    assert cold.groups == same.groups
    assert all(first.text == second.text for first, second in (a.completions for a in cold.attempts))
    assert cold.attempts != same.attempts == roll(PLAIN.temperature).attempts


def test_a_run_keeps_all_attempts_and_measuring_changes_nothing(tmp_path: Path) -> None:
    def run(name: str, diagnostics_every: int) -> Path:
        config = TrainConfig(
            model="tiny",
            levels=(5,),
            steps=2,
            group_size=2,
            problems_per_step=2,
            output=tmp_path / name,
            diagnostics_every=diagnostics_every,
            evaluation=HeldOutConfig(eval_problems=0),
            explanation=ExpoConfig(explanations_per_problem=3, exp_sft_schedule="linear"),
        )
        return train(config).folder

    measured, plain = run("a", 1), run("b", 0)
    samples = JsonLines(measured / "samples.jsonl").read()
    attempts = [row for row in samples if row["kind"] == "explanation"]
    assert len(attempts) == 2 * 2 * 3
    assert all(row["accepted"] or row["refusal"] for row in attempts)
    assert sum(row["used"] for row in attempts) <= 4
    metrics = JsonLines(measured / "metrics.jsonl").read()
    for step, row in enumerate(metrics, 1):
        own = [a["accepted"] for a in attempts if a["step"] == step]
        assert row["expo/attempt_accept_rate"] == pytest.approx(sum(own) / 6)
    assert [row["expo/sft_coef"] for row in metrics] == pytest.approx([0.04, 0.02])  # 0.04 * (1 - step / 2)
    adapters = [next(folder.glob("checkpoints/step-000002/adapter_model.safetensors")) for folder in (measured, plain)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_a_run_goes_on_with_the_prompt_that_it_began_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Changed or gone: the copies in the run folder are taken, and the end is that of the unbroken run.

    Commands that measure the run ask it in the same words; a run that starts from it with others is warned.
    """
    file, asking = tmp_path / "prompt.txt", tmp_path / "asking.txt"
    asking_text = "--- system\nBe brief.\n--- user\n{question}\nGo."
    words = (
        "train --model tiny --levels 5 --group-size 2 --problems-per-step 2 --eval-problems 0 --diagnostics-every 0 "
        "--max-completion-tokens 48 "
    )
    words += f"--explanation-filter none --explanation-prompt {file} --question-prompt {asking} --output"
    ends = []
    for name, broken in (("whole", False), ("broken", True)):
        file.write_text("{question}\nThe answer is {answer}. How?")
        asking.write_text(asking_text)
        if broken:
            assert run([*words.split(), str(tmp_path / name), "--steps", "1"]) == 0
            file.unlink()
            asking.write_text("{question}\nNow.")
        resume = ["--resume"] if broken else []
        capsys.readouterr()
        assert run([*words.split(), str(tmp_path / name), "--steps", "2", *resume]) == 0
        assert capsys.readouterr().out.count("goes on with its own copy") == 2 * broken
        ends.append((tmp_path / name / "checkpoints" / "step-000002" / "adapter_model.safetensors").read_bytes())
    assert ends[0] == ends[1]
    target = find_target(str(tmp_path / "whole"))
    assert target.prompts == Prompts(asking_text, "{question}\nThe answer is {answer}. How?")
    assert prompts_of(DiagnoseConfig(model=str(tmp_path / "whole")), target) == target.prompts
    file.write_text("{question} It is {answer}.")
    capsys.readouterr()
    again = [*words.split(), str(tmp_path / "again"), "--steps", "1", "--model", str(tmp_path / "whole")]
    assert run(again[: again.index("--question-prompt")] + again[again.index("--output") :]) == 0
    warned = " ".join(capsys.readouterr().out.split())
    assert f"--question-prompt {tmp_path / 'whole' / 'question_prompt.txt'} keeps them" in warned
    measured = ["eval", str(tmp_path / "again"), "--baseline", str(tmp_path / "whole"), "--problems", "1", "--levels"]
    assert run([*measured, "1", "--samples", "1", "--max-completion-tokens", "4"]) == 0
    assert "was trained on another question prompt" in " ".join(capsys.readouterr().out.split())
