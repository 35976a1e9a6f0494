"""The one trap of the method: sampled after question and answer, trained after the question alone. And the filters."""

import dataclasses
from collections.abc import Iterator

import pytest
from scripted_policy import judge

from expo_lite.errors import ConfigError
from expo_lite.grading import Grader
from expo_lite.memory.limits import Limits
from expo_lite.policy.hf import HfPolicy
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Completion, FinishReason, Group, Problem, SamplingParams, Verdict
from expo_lite.settings.groups import ExplainWith, ExpoConfig, PolicyConfig
from expo_lite.step.explain import answer_lifts, roll_out, with_wrong_answer
from expo_lite.tasks import load_task

BUDGET = 4096


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
