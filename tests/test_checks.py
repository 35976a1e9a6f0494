"""Checks at load: answers that no reply can match, and what is said of the data."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from expo_lite import DataError, task_from_rows
from expo_lite.grading import GradeItem, Grader
from expo_lite.records import Problem
from expo_lite.tasks import FixedTask
from expo_lite.tasks.checks import unmatched

DATA = Path(__file__).parent / "data"
GOOD = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(20)]
BAD = [
    "We get 2x = 10, hence x = 5 and y = 3.",
    "3 times 4 is 12.",
    "The mitochondria is the powerhouse of the cell.",
    "First add the apples, then the pears, and count all of them",
    "\u6240\u4ee5 12\u3002",
    *("None", "nan", "N/A", "NA", "null", "?", "-", "--", "\u2014", "...", "_"),
    r"\frac{1}{2",
    "42<|im_end|>",
]
FINE = [
    *(
        "12",
        "-0.5",
        "1,200",
        "50%",
        "$5",
        r"\frac{1}{2}",
        "x+1",
        "9 (apples)",
        "24 (=4*6)",
        "3 (m); 4 (cm^2)",
        "June 20",
    ),
    *("Evelyn", "Paris, France", "B", "A) It is the capital of France, and has been so", "Yes, because x is 3", "Na"),
    *("x=5, y=3", r"\text{no solution}", "infinitely many", "12 apples and 3 pears", "#### 7", "[1, 2]", "+", "[]"),
    *("x is even", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\{1, 2\}", "three hundred twenty-one red balloons"),
]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as shared:
        yield shared


def problems(answers: Sequence[str]) -> list[Problem]:
    return [Problem(str(i), f"Question {i}?", answer) for i, answer in enumerate(answers)]


def loaded(rows: Sequence[Mapping[str, Any]], grader: Grader, **options: Any) -> FixedTask:
    return task_from_rows(rows, grader=grader, **options)


def test_golds_that_no_reply_can_match_are_found_and_no_others(grader: Grader) -> None:
    assert unmatched(problems([*BAD, *FINE]), grader) == set(BAD)


def test_no_gold_of_the_graders_own_cases_is_refused(grader: Grader) -> None:
    rows = [json.loads(line) for path in DATA.glob("grading_*.jsonl") for line in path.read_text("utf-8").splitlines()]
    golds = {str(row["gold"]) for row in rows}
    assert len(golds) > 800
    assert unmatched(problems(sorted(golds)), grader) == set()


def test_units_in_parentheses_and_equal_values_are_read(grader: Grader) -> None:
    right = [("9 (apples)", r"9 \text{ apples}"), ("9 (apples)", r"9\text{ (apples)}"), ("24 (=4*6)", "24")]
    right += [("9 (apples)", "9"), ("9", "9 (apples)"), (r"\frac{1}{2} (pizza)", "0.5"), ("9 (km)", r"9000\text{ m}")]
    right += [("21 (stickers); 7 (cards)", "21, 7"), (r"\log_2 (x)", r"\log_2(x)"), ("2 (x)", "2x"), ("9 (cm^2)", "9")]
    right += [("0.5 (1/2)", "0.5"), ("1/2 (0.5)", r"\frac{1}{2}"), ("1/2", "0.5 (1/2)"), ("12 (i.e. 3*4)", "12")]
    wrong = [("9 (apples)", r"9 \text{ oranges}"), ("9", "9 (or 10)"), ("9", "9 (not 10)"), ("24", "24 (=5*6)")]
    wrong += [
        ("10 (ten)", "100"),
        ("9 (hours)", r"9\text{ minutes}"),
        ("9 (apples)", "10"),
        ("9", "9 (wrong)"),
        ("6", "5 (6)"),
    ]
    pairs = [(gold, answer) for gold, answer in (*right, *wrong)]
    verdicts = grader.grade_many([GradeItem(gold, f"\\boxed{{{answer}}}") for gold, answer in pairs])
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct] == right


def test_a_few_are_left_out_and_shown_and_many_are_refused(grader: Grader) -> None:
    prose = [
        {"question": "Solve it.", "solution": "We get 2x = 10, hence x = 5 and y = 3."},
        {"question": "Solve this.", "solution": "2x = 10, x = 5"},
        {"question": "And this.", "solution": "We see\nthat x = 5"},
        {"question": "How many?", "answer": "None"},
    ]
    task = loaded([*prose, *GOOD], grader)
    assert {p.question for p in (*task.train, *task.test)} == {row["question"] for row in GOOD}
    _, said = task.notes
    assert said.startswith("warning: 4 of 24 problems have answers that no reply could match: 'We get 2x = 10, hence x")
    assert "'2x = 10, x = 5' (rows/train/1); 'We see that x = 5' (rows/train/2). They are left out." in said
    with pytest.raises(DataError, match=r"'rows': 4 of 7 problems .* '#### ANSWER' .* --fields answer=NAME"):
        loaded([*prose, *GOOD[:3]], grader)
    assert len(loaded([*prose, *GOOD[:4]], grader).train) <= 4
    judged = loaded([{"question": "Q?", "answer": "None"}], grader, correct=lambda _p, _c: True)
    assert (judged.test or judged.train)[0].answer == "None"


def test_the_summary_counts_and_shows_the_first_problem(grader: Grader) -> None:
    rows = [{**row, "answer": f"So.\n#### {row['answer']}\nThe answer is: {row['answer']}", "id": 1} for row in GOOD]
    task = loaded(rows, grader)
    n = len(task.test)
    assert task.notes[0] == (
        f"rows: 20 problems; {n} held out; not read: id. The first: '{task.train[0].question}', "
        f"answer '{task.train[0].answer}'."
    )


def test_doubts_about_the_data_are_said_once_with_a_count(grader: Grader) -> None:
    rows: list[dict[str, Any]] = [
        *({**row, "Body": "Ann has some.", "choices": {"A": "1", "B": "2"}, "prompt": "P"} for row in GOOD),
        {"question": "what is 3 + 3?", "answer": "6.0"},  # the same answer
        {"question": "What is  4 + 4?", "answer": "9"},
        {"question": "<|im_start|>user\nWhat is 50 + 50?<|im_end|>", "answer": "100"},
        {"question": "[INST] What is 60 + 60? [/INST]", "answer": "120"},
    ]
    task = loaded(rows, grader, test_rows=GOOD[10:12])
    assert task.notes[1:] == (
        "warning: 2 train problems are left out: their questions are in the test split too.",
        "warning: column 'Body' is not read (20 rows). If the questions need it, write it into them.",
        "warning: column 'choices' is not read (20 rows). If the questions need it, write it into them.",
        "warning: column 'prompt' is not read (20 rows). If the questions need it, write it into them.",
        "warning: 1 of 24 problems repeat a question with another answer: 'What is 4 + 4?' has '8' (rows/train/4) and "
        "'9' (rows/train/21). All are kept: take the wrong ones out, or the reward contradicts itself.",
        "warning: 2 of 24 questions have been through a chat template, and would go through another one: rows/train/22 "
        "has '<|im_start|>'. Give the bare questions.",
    )


def test_golds_that_take_too_long_are_told() -> None:
    series = "+".join(rf"\frac{{x^{{{n}}}}}{{{n}!}}" for n in range(60))
    rows = [*GOOD, {"question": "Which series?", "answer": series}]
    with Grader(timeout_s=0.3) as impatient:
        _, said = loaded(rows, impatient).notes
    assert said.startswith(
        r"warning: 1 of the 1 longest answers take too long to compare, even with themselves, such as"
    )


def test_plain_golds_need_no_worker_and_little_time() -> None:
    with Grader() as own:
        started = time.process_time()
        assert unmatched(problems([f"{i},000" if i % 2 else rf"\frac{{{i}}}{{7}}" for i in range(5_000)]), own) == set()
        assert time.process_time() - started < 3
        assert own.worker_pids == []
