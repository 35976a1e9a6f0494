"""The built-in task and the known data sets: which problems they give, to whom, and under what licence."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import Grader
from expo_lite.records import Problem
from expo_lite.tasks import FixedTask, TaskOptions, load_task
from expo_lite.tasks.splits import hold_out, normalised, select, without_test_questions

REAL_DATA = Path(os.environ.get("EXPO_LITE_DATA", Path(__file__).parents[2] / "shared" / "data"))
GSM8K_TRAIN = [
    {"question": "Ann has 3 bags of 4 nuts. How many?", "answer": "She has 3*4 = <<3*4=12>>12 nuts.\n#### 12"},
    {"question": "A car costs $1,000 and the tax is 20%. What is paid?", "answer": "1000*1.2=1200\n#### 1,200"},
    {"question": "It is 2 degrees and gets 5 colder. How warm is it?", "answer": "2-5=<<2-5=-3>>-3\n#### -3"},
]
GSM8K_TEST = [{"question": "What is half of one?", "answer": "1/2=<<1/2=.5>>0.5\n#### 0.5"}]
MATH = {
    ("train", "algebra"): [
        ("Solve $x-1=1$.", "Level 1", "Add: $x=\\boxed{2}$."),
        ("Solve $2x=3$.", "Level 5", "First $x=\\boxed{1.5}$, better $x=\\boxed{\\frac{3}{2}}$."),
        ("What is seven?", "Level ?", "$\\boxed{7}$"),
    ],
    ("train", "geometry"): [("What is $\\binom{5}{2}$?", "Level 5", "It is \\fbox{10}.")],
    ("test", "algebra"): [("Solve $x-2=1$.", "Level 3", "$x=\\boxed 3$")],
    ("test", "geometry"): [("How many subsets has $\\{1\\}$?", "Level 3", "$\\boxed{2}$")],
}


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


def gsm8k_folder(folder: Path, kind: str) -> Path:
    if kind == "jsonl":
        write(folder / "train.jsonl", GSM8K_TRAIN)
        write(folder / "test.jsonl", GSM8K_TEST)
    else:  # as on the hub, beside another configuration
        write(folder / "main" / "train-00000-of-00001.parquet", GSM8K_TRAIN)
        write(folder / "main" / "test-00000-of-00001.parquet", GSM8K_TEST)
        write(folder / "socratic" / "train-00000-of-00001.parquet", GSM8K_TRAIN)
    return folder


def math_folder(folder: Path) -> Path:
    for (split, subject), problems in MATH.items():
        rows = [{"problem": p, "level": level, "type": subject, "solution": s} for p, level, s in problems]
        write(folder / subject / f"{split}-00000-of-00001.parquet", rows)
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_gsm8k_reads_a_folder_in_the_hubs_layout(tmp_path: Path, grader: Grader, kind: str) -> None:
    task = load_task("gsm8k", grader=grader, options=TaskOptions(data=gsm8k_folder(tmp_path, kind)))
    train, test = task.problems("train"), task.problems("test")
    assert task.levels == ()
    assert train[0] == Problem(
        problem_id="gsm8k/train/0",
        question="Ann has 3 bags of 4 nuts. How many?",
        answer="12",
        expert_chain="She has 3*4 = 12 nuts.\nThe answer is \\boxed{12}.",
    )
    assert [problem.answer for problem in train] == ["12", "1,200", "-3"]
    assert [problem.answer for problem in test] == ["0.5"]
    assert all(task.grade(problem, problem.expert_chain or "").correct for problem in (*train, *test))
    assert [p.problem_id for p in task.problems("train", limit=2)] == [
        p.problem_id for p in train if p in task.problems("train", limit=2)
    ]


def test_gsm8k_drops_train_problems_that_are_in_the_test_split(tmp_path: Path, grader: Grader) -> None:
    copied = {**GSM8K_TEST[0], "question": f"  {GSM8K_TEST[0]['question'].upper()}\n"}
    write(tmp_path / "train.jsonl", [*GSM8K_TRAIN, copied])
    write(tmp_path / "test.jsonl", GSM8K_TEST)
    task = load_task("gsm8k", grader=grader, options=TaskOptions(data=tmp_path))
    assert len(task.problems("train")) == len(GSM8K_TRAIN)
    assert isinstance(task, FixedTask) and task.n_dropped == 1


def test_math_reads_the_hubs_folders_with_levels_and_subjects(tmp_path: Path, grader: Grader) -> None:
    task = load_task("math", grader=grader, options=TaskOptions(data=math_folder(tmp_path)))
    assert task.levels == (1, 3, 5)
    train = task.problems("train")
    assert [(p.level, p.subject, p.answer) for p in train] == [
        (1, "algebra", "2"),
        (5, "algebra", "\\frac{3}{2}"),
        (None, "algebra", "7"),  # 'Level ?'
        (5, "geometry", "10"),
    ]
    assert [p.answer for p in task.problems("train", levels=(5,))] == ["\\frac{3}{2}", "10"]
    assert len(task.problems("train", levels=(5,), limit=1)) == 1
    assert all(task.grade(p, p.expert_chain or "").correct for p in (*train, *task.problems("test")))


def test_math_500_is_a_test_set(tmp_path: Path, grader: Grader) -> None:
    rows = [
        {"problem": f"What is {i}+1?", "solution": f"$\\boxed{{{i + 1}}}$", "answer": str(i + 1), "level": 1}
        for i in range(30)
    ]
    write(tmp_path / "test.jsonl", [{**row, "unique_id": f"test/{i}.json"} for i, row in enumerate(rows)])
    task = load_task("math-500", grader=grader, options=TaskOptions(data=tmp_path / "test.jsonl"))
    assert len(task.problems("test")) == 30
    assert task.problems("test")[3].problem_id == "test/3.json"
    with pytest.raises(DataError, match=r"Task 'math-500' has no train problems.*jsonl:FILE: 10% is held out"):
        task.problems("train")


def test_without_the_hub_the_error_says_what_to_fetch(tmp_path: Path, grader: Grader) -> None:
    with pytest.raises(DataError, match=r"no_such.*test-00000-of-00001.parquet.*EleutherAI/hendrycks_math.*--data"):
        load_task("math", grader=grader, options=TaskOptions(data=tmp_path / "no_such"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gsm8", "Unknown task 'gsm8'. Did you mean 'gsm8k'?"),
        ("reasoning_gym:gcd", "Did you mean 'reasoning-gym:gcd'?"),
        ("jsonl:", "expected jsonl:PATH"),
        ("hub:gsm8k", "expected hub:OWNER/NAME"),
        ("python:", "expected python:FILE"),
        ("xyzzy", "Known: hidden-rules, gsm8k, math, math-500"),
    ],
)
def test_an_unknown_task_is_a_config_error_that_suggests(name: str, text: str, grader: Grader) -> None:
    with pytest.raises(ConfigError, match="ask") as caught:
        load_task(name, grader=grader)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("TASK = 1", ConfigError, "has no TASK: expected an object with name, levels, problems and grade"),
        ("import nothing_of_that_name", DataError, "cannot be run: ModuleNotFoundError: No module"),
    ],
)
def test_a_python_file_that_is_no_task(text: str, error: type[Exception], says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(error, match=says):
        load_task(f"python:{tmp_path / 'mine.py'}")


def test_levels_and_limits_that_cannot_be(tmp_path: Path, grader: Grader) -> None:
    task = load_task("hidden-rules", grader=grader)
    with pytest.raises(ConfigError, match=r"has no level 0, 6; its levels are 1, 2, 3, 4, 5\."):
        task.problems("test", levels=(6, 0, 1))
    gsm8k = load_task("gsm8k", grader=grader, options=TaskOptions(data=gsm8k_folder(tmp_path, "jsonl")))
    with pytest.raises(ConfigError, match="Task 'gsm8k' has no levels"):
        gsm8k.problems("test", levels=(5,))
    math = load_task("math", grader=grader, options=TaskOptions(data=math_folder(tmp_path / "math")))
    with pytest.raises(DataError, match="no problem of level 5 in this split"):
        math.problems("test", levels=(5,))


def test_hold_out_is_decided_by_the_text_alone() -> None:
    problems = [Problem(str(i), f"Question {i}?", "1") for i in range(1_000)]
    train, test = hold_out(problems)
    assert 60 <= len(test) <= 140  # 100 expected, standard deviation 9.5
    assert hold_out(problems[::-1]) == (train[::-1], test[::-1])
    assert hold_out(problems[:500])[1] == [p for p in test if int(p.problem_id) < 500]
    shouted = [Problem(p.problem_id, f" {p.question.upper()} ", "1") for p in problems]
    assert [p.problem_id for p in hold_out(shouted)[1]] == [p.problem_id for p in test]
    left, again = hold_out(train)  # of a file that was split in this way before
    assert len(again) == len(train) // 10 and left + again != train and set(left) | set(again) == set(train)
    for n in (2, 3, 11):  # something on both sides of a small file
        train, test = hold_out(problems[:n])
        assert train and test and len(train) + len(test) == n


def test_normalised_ignores_only_what_makes_no_difference() -> None:
    assert normalised("Ann\u2019s  \u201cnuts\u201d\n") == normalised('ann\'s "nuts"')
    assert normalised("cafe\u0301") == normalised("caf\u00e9")
    assert normalised("x + 1") != normalised("x - 1") != normalised("x1")
    assert normalised("x\u00b2") != normalised("x2")
    train = [Problem("a", "One?", "1"), Problem("b", "Two?", "2")]
    assert without_test_questions(train, [Problem("c", "ONE?", "1")]) == train[1:]


def test_select_counts_by_level_only_where_there_are_levels() -> None:
    pool = [Problem(str(i), f"Question {i}?", "1", level=1 + i % 2) for i in range(20)]
    kept = select(pool, task="t", known_levels=(1, 2), levels=(), limit=3, seed=0)
    assert Counter(p.level for p in kept) == {1: 3, 2: 3}
    flat = select(pool, task="t", known_levels=(), levels=(), limit=3, seed=0)
    assert len(flat) == 3


@pytest.mark.parametrize(
    ("name", "folder", "n_train", "n_test"), [("gsm8k", "gsm8k", 7_473, 1_319), ("math-500", "math500", 0, 500)]
)
def test_every_chain_of_the_real_data_is_graded_right(name: str, folder: str, n_train: int, n_test: int) -> None:
    if not (REAL_DATA / folder).is_dir():
        pytest.skip(f"no real data in {REAL_DATA / folder} (EXPO_LITE_DATA)")
    with Grader() as grader:
        task = load_task(name, grader=grader, options=TaskOptions(data=REAL_DATA / folder))
        problems = [*(task.problems("train") if n_train else ()), *task.problems("test")]
        assert len(problems) == n_train + n_test
        wrong = [p.problem_id for p in problems if not task.grade(p, p.expert_chain or "").correct]
    assert wrong == []
    assert not any(
        "<<" in (p.expert_chain or "") or "####" in (p.expert_chain or "") for p in problems if name == "gsm8k"
    )


def test_tasks_start_fast_and_without_heavy_packages() -> None:
    heavy = "torch transformers datasets pyarrow huggingface_hub reasoning_gym sympy"
    code = (
        "import sys, expo_lite.tasks\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])\n"
        "from expo_lite.tasks import load_task\n"
        "load_task('hidden-rules', grader=None).problems('test', limit=1)\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
