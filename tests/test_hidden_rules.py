"""The task of hidden rules: what an answer determines, what is accepted as one, and wrong chains of each kind."""

import random
from collections import Counter

import pytest
from transformers import AutoTokenizer

from expo_lite.errors import DataError
from expo_lite.records import Problem
from expo_lite.settings.models import TINY
from expo_lite.tasks.hidden_rules import (
    AMOUNTS,
    HIDDEN,
    KNOWN,
    LEVELS,
    N_HIDDEN,
    N_WORDS,
    HiddenRules,
    Puzzle,
    check_steps,
    generate,
    is_test,
    read_question,
)

PUZZLE = Puzzle(4, ("blorp", "hop", "dax"), (6, 3, 7))  # 4+6=10, 0+3=3, 3+7=10
PROBLEM = Problem("p", PUZZLE.question, PUZZLE.answer)
OWN = "A:4 blorp+6=0\nB:0 hop+3=3\nC:3 dax+7=0\n\\boxed{A=0, B=3, C=0}"
EXPERT = "First blorp takes 4 to 0, then hop takes 0 to 3, then dax takes 3 to 0. The answer is \\boxed{A=0, B=3, C=0}."


def test_a_problem_by_hand() -> None:
    assert [(before, after) for _, before, _, _, after in PUZZLE.steps] == [(4, 0), (0, 3), (3, 0)]
    assert PUZZLE.question == "Start with 4.\nA: blorp.\nB: hop.\nC: dax.\nWrite the results one after the other."
    assert PUZZLE.answer == "A=0, B=3, C=0"
    assert PUZZLE.own_chain == OWN
    assert PUZZLE.expert_chain == EXPERT
    assert read_question(PUZZLE.question) == PUZZLE


def test_each_amount_belongs_to_two_known_and_two_hidden_words() -> None:
    twice = dict.fromkeys(AMOUNTS, 2)
    assert Counter(KNOWN.values()) == Counter(HIDDEN.values()) == twice
    assert not KNOWN.keys() & HIDDEN.keys()


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_has_its_number_of_words_and_of_hidden_ones(level: int) -> None:
    for problem in HiddenRules().problems("train", levels=(level,), limit=100):
        words = read_question(problem.question).words
        assert len(set(words)) == len(words) == N_WORDS[level]
        assert sum(word in HIDDEN for word in words) == N_HIDDEN[level]


@pytest.mark.parametrize("level", [1, 5])
def test_splits_share_no_question_and_are_full(level: int) -> None:
    task = HiddenRules()
    train, test = task.problems("train", levels=(level,), limit=2_000), task.problems("test", levels=(level,))
    questions = {problem.question for problem in train}, {problem.question for problem in test}
    assert (len(questions[0]), len(questions[1])) == (2_000, 200)
    assert not questions[0] & questions[1]
    assert all(is_test(q) for q in questions[1]) and not any(is_test(q) for q in questions[0])


def test_the_problems_are_the_same_every_time_and_a_limit_takes_a_part_of_them() -> None:
    task = HiddenRules()
    whole, part = task.problems("test", levels=(5,)), task.problems("test", levels=(5,), limit=20, seed=3)
    assert whole == task.problems("test", levels=(5,), seed=9)
    assert len(part) == 20 and set(part) < set(whole)
    assert part != task.problems("test", levels=(5,), limit=20, seed=4)
    assert task.problems("train", levels=(5,), seed=3) == task.problems("train", levels=(5,), limit=64, seed=3)


def test_every_test_problem_has_chains_that_pass_the_step_checker_and_the_grade() -> None:
    task = HiddenRules()
    for problem in task.problems("test"):
        assert problem.expert_chain is not None
        for chain in (problem.expert_chain, read_question(problem.question).own_chain):
            assert task.grade(problem, chain).correct
            assert task.check_steps(problem, chain)


@pytest.mark.parametrize(
    "answer", ["A=0, B=3, C=0", "A=0,B=3,C=0", "$A = 0, B = 3, C = 0$", "\\boxed{A=0, B=3, C=0}", "A=0, B=3, C=0."]
)
def test_the_answer_in_order_and_with_labels_is_right(answer: str) -> None:
    assert HiddenRules().grade(PROBLEM, f"\\boxed{{{answer}}}").correct


@pytest.mark.parametrize("answer", ["0, 3, 0", "B=3, A=0, C=0", "A=0, B=3", "A=0, B=3, C=0, D=0", "A=0, B=3, C=10"])
def test_a_bare_list_another_order_or_another_digit_is_wrong(answer: str) -> None:
    verdict = HiddenRules().grade(PROBLEM, f"\\boxed{{{answer}}}")
    assert (verdict.correct, verdict.reason, verdict.answer) == (False, "different", answer)


def test_a_truncated_completion_and_one_without_an_answer_are_wrong() -> None:
    task = HiddenRules()
    assert task.grade(PROBLEM, OWN, truncated=True).reason == "truncated"
    assert task.grade(PROBLEM, "A:4 blorp+6=0").reason == "no_answer"
    assert task.grade(PROBLEM, "\\boxed{}").reason == "empty_answer"


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (OWN, True),
        (EXPERT, True),
        ("Let us see.\n" + OWN.replace("A:4 blorp+6=0", "A: 4 blorp + 6 = 0"), True),
        (OWN.replace("boxed{A=0", "boxed{A=1"), False),
        ("A:4 blorp+6=0\n", False),
        ("\\boxed{A=0, B=3, C=0}", False),
        (OWN.replace("B:0 hop+3=3\n", ""), False),
        (OWN.replace("C:", "C:3 dax+7=0\nC:"), False),
        (OWN.replace("B:0 hop+3=3", "B:0 dax+3=3"), False),
        (OWN.replace("B:0 hop+3=3", "B:1 hop+3=4"), False),
        (OWN.replace("+6=0", "+5=0"), False),
        (OWN.replace("A:4 blorp+6=0", "A:4 blorp+5=9"), False),
        (EXPERT.replace("takes 0 to 3", "takes 0 to 4"), False),
        (EXPERT.replace(", then dax takes 3 to 0", ""), False),
    ],
)
def test_what_the_step_checker_says_of_a_chain(completion: str, right: bool) -> None:
    assert check_steps(PUZZLE.question, completion) is right


def test_a_lucky_chain_of_another_meaning_does_not_exist() -> None:
    """With any other amount for any word the answer is another one: an answer cannot be right for a wrong reason."""
    chain = generate(random.Random(0), 5)
    for i in range(4):
        for amount in AMOUNTS:
            amounts = (*chain.amounts[:i], amount, *chain.amounts[i + 1 :])
            assert (Puzzle(chain.start, chain.words, amounts).answer == chain.answer) == (amounts == chain.amounts)


def test_a_question_of_another_task_is_refused() -> None:
    with pytest.raises(DataError, match="no question of task 'hidden-rules'"):
        check_steps("What is 1 + 1?", OWN)
    with pytest.raises(DataError, match="hidden-rules"):
        check_steps(PUZZLE.question.replace("dax", "ox"), OWN)


def test_the_built_in_model_reads_every_word_and_amount_as_one_token_and_any_other_text_too() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY.source)
    for word in (*KNOWN, *HIDDEN):
        assert len(tokenizer.encode(f" {word}")) == 1
    for amount in AMOUNTS:
        assert len(tokenizer.encode(f"+{amount}")) == 1
    for text in (OWN, EXPERT, "Straße 漢字: 47+18=65?\n\t\\frac{1}{2} \U0001f600"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
