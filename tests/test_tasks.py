"""The built-in task and the known data sets: which problems they give, to whom, and under what licence."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import Grader
from expo_lite.records import Problem, Verdict
from expo_lite.tasks import FixedTask, TaskOptions, load_task
from expo_lite.tasks.fields import last_boxed
from expo_lite.tasks.splits import hold_out, normalised, select, without_test_questions

REAL_DATA = Path(os.environ.get("EXPO_LITE_DATA", Path(__file__).parents[2] / "shared" / "data"))
GSM8K_TRAIN = [
    {
        "question": "Ann has 3 bags of 4 nuts. How many nuts has she?",
        "answer": "She has 3*4 = <<3*4=12>>12 nuts.\n#### 12",
    },
    {"question": "A car costs $1,000 and the tax is 20%. What is paid?", "answer": "1000*1.2=1200\n#### 1,200"},
    {"question": "It is 2 degrees and gets 5 colder. How warm is it?", "answer": "2-5=<<2-5=-3>>-3\n#### -3"},
]
GSM8K_TEST = [
    {"question": "Bob eats 2 of 7 figs. How many are left?", "answer": "7-2=<<7-2=5>>5 are left.\n#### 5"},
    {"question": "What is half of one?", "answer": "1/2=<<1/2=.5>>0.5\n#### 0.5"},
]
MATH_TRAIN = [
    {"problem": "Solve $x-1=1$.", "level": "Level 1", "type": "Algebra", "solution": "Add: $x=\\boxed{2}$."},
    {
        "problem": "Solve $2x=3$.",
        "level": "Level 5",
        "type": "Algebra",
        "solution": "First $x=\\boxed{1.5}$, better $x=\\boxed{\\frac{3}{2}}$.",
    },
    {"problem": "What is seven?", "level": "Level ?", "type": "Algebra", "solution": "$\\boxed{7}$"},
    {
        "problem": "What is $\\binom{5}{2}$?",
        "level": "Level 5",
        "type": "Counting & Probability",
        "solution": "It is \\fbox{10}.",
    },
]
MATH_TEST = [
    {"problem": "Solve $x-2=1$.", "level": "Level 3", "type": "Algebra", "solution": "$x=\\boxed 3$"},
    {
        "problem": "How many subsets has $\\{1\\}$?",
        "level": "Level 3",
        "type": "Counting & Probability",
        "solution": "$\\boxed{2}$",
    },
]


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    """One JSON value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """The same as parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


class BoxGrader(Grader):
    """Right means the same text in the last box: enough to see which answer a task hands to its grader."""

    def grade(self, gold: str, completion: str, *, truncated: bool = False) -> Verdict:
        answer = None if truncated else last_boxed(completion)
        return Verdict(answer == gold, "equal" if answer == gold else "different", "box", answer)


@pytest.fixture
def grader() -> Grader:
    return BoxGrader()


def gsm8k_folder(tmp_path: Path, kind: str) -> Path:
    if kind == "jsonl":
        write_jsonl(tmp_path / "train.jsonl", GSM8K_TRAIN)
        write_jsonl(tmp_path / "test.jsonl", GSM8K_TEST)
    else:  # as on the hub, beside another configuration
        write_parquet(tmp_path / "main" / "train-00000-of-00001.parquet", GSM8K_TRAIN)
        write_parquet(tmp_path / "main" / "test-00000-of-00001.parquet", GSM8K_TEST)
        write_parquet(tmp_path / "socratic" / "train-00000-of-00001.parquet", GSM8K_TRAIN)
    return tmp_path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_gsm8k_reads_a_folder_in_the_hubs_layout(tmp_path: Path, grader: Grader, kind: str) -> None:
    task = load_task("gsm8k", grader=grader, options=TaskOptions(data=gsm8k_folder(tmp_path, kind)))
    train, test = task.problems("train"), task.problems("test")
    assert task.levels == ()
    assert train[0] == Problem(
        problem_id="gsm8k/train/0",
        question="Ann has 3 bags of 4 nuts. How many nuts has she?",
        answer="12",
        expert_chain="She has 3*4 = 12 nuts.\nThe answer is \\boxed{12}.",
    )
    assert [problem.answer for problem in train] == ["12", "1,200", "-3"]
    assert [problem.answer for problem in test] == ["5", "0.5"]
    assert all(task.grade(problem, problem.expert_chain or "").correct for problem in (*train, *test))
    assert [p.problem_id for p in task.problems("train", limit=2)] == [
        p.problem_id for p in train if p in task.problems("train", limit=2)
    ]


def test_gsm8k_drops_train_problems_that_are_in_the_test_split(tmp_path: Path, grader: Grader) -> None:
    copied = {**GSM8K_TEST[0], "question": f"  {GSM8K_TEST[0]['question'].upper()}\n"}
    write_jsonl(tmp_path / "train.jsonl", [*GSM8K_TRAIN, copied])
    write_jsonl(tmp_path / "test.jsonl", GSM8K_TEST)
    task = load_task("gsm8k", grader=grader, options=TaskOptions(data=tmp_path))
    assert len(task.problems("train")) == len(GSM8K_TRAIN)
    assert isinstance(task, FixedTask) and task.n_dropped == 1


def math_folder(tmp_path: Path) -> Path:
    for subject in ("algebra", "counting_and_probability"):
        for split, rows in (("train", MATH_TRAIN), ("test", MATH_TEST)):
            chosen = [row for row in rows if row["type"].lower().replace(" & ", "_and_") == subject]
            write_parquet(tmp_path / subject / f"{split}-00000-of-00001.parquet", chosen)
    return tmp_path


def test_math_reads_the_hubs_folders_with_levels_and_subjects(tmp_path: Path, grader: Grader) -> None:
    task = load_task("math", grader=grader, options=TaskOptions(data=math_folder(tmp_path)))
    assert task.levels == (1, 3, 5)
    train = task.problems("train")
    assert [(p.level, p.subject, p.answer) for p in train] == [
        (1, "Algebra", "2"),
        (5, "Algebra", "\\frac{3}{2}"),
        (None, "Algebra", "7"),  # 'Level ?'
        (5, "Counting & Probability", "10"),
    ]
    assert [p.answer for p in task.problems("train", levels=(5,))] == ["\\frac{3}{2}", "10"]
    assert len(task.problems("train", levels=(5,), limit=1)) == 1
    assert all(task.grade(p, p.expert_chain or "").correct for p in (*train, *task.problems("test")))


def test_math_reads_flat_files_with_answer_and_whole_levels(tmp_path: Path, grader: Grader) -> None:
    row = {
        "problem": "What is 2+2?",
        "solution": "It is $\\boxed{4}$.",
        "answer": "4",
        "subject": "Algebra",
        "level": 2,
    }
    write_jsonl(tmp_path / "train.jsonl", [row])
    write_jsonl(tmp_path / "test.jsonl", [{**row, "problem": "What is 3+1?"}])
    task = load_task("math", grader=grader, options=TaskOptions(data=tmp_path))
    assert task.problems("train") == [
        Problem("math/train/0", "What is 2+2?", "4", level=2, subject="Algebra", expert_chain="It is $\\boxed{4}$.")
    ]


@pytest.mark.parametrize("data", ["test.jsonl", "."])
def test_math_500_is_a_test_set(tmp_path: Path, grader: Grader, data: str) -> None:
    rows = [
        {"problem": f"What is {i}+1?", "solution": f"$\\boxed{{{i + 1}}}$", "answer": str(i + 1), "level": 1}
        for i in range(30)
    ]
    write_jsonl(tmp_path / "test.jsonl", [{**row, "unique_id": f"test/{i}.json"} for i, row in enumerate(rows)])
    task = load_task("math-500", grader=grader, options=TaskOptions(data=tmp_path / data))
    assert len(task.problems("test")) == 30
    assert task.problems("test")[3].problem_id == "test/3.json"
    with pytest.raises(DataError, match=r"Task 'math-500' has no train problems.*jsonl:FILE: 10% is held out"):
        task.problems("train")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gsm8k", ["openai/gsm8k", "main/train-00000-of-00001.parquet", "--data FOLDER"]),
        ("math", ["EleutherAI/hendrycks_math", "test-00000-of-00001.parquet", "--data FOLDER"]),
        ("math-500", ["HuggingFaceH4/MATH-500", "test.jsonl", "--data FILE"]),
    ],
)
def test_without_the_hub_the_error_says_what_to_fetch(
    name: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grader: Grader
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError) as caught:
        load_task(name, grader=grader)
    assert all(part in str(caught.value) for part in (*parts, "Cannot read data set"))
    with pytest.raises(DataError) as caught:
        load_task(name, grader=grader, options=TaskOptions(data=tmp_path / "no_such"))
    assert all(part in str(caught.value) for part in (*parts, "no_such"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gsm8", "Unknown task 'gsm8'. Did you mean 'gsm8k'?"),
        ("math500", "Did you mean 'math-500'?"),
        ("reasoning_gym:gcd", "Did you mean 'reasoning-gym:gcd'?"),
        ("jsonl", "It is written jsonl:PATH."),
        ("jsonl:", "expected jsonl:PATH"),
        ("hub:gsm8k", "expected hub:OWNER/NAME"),
        ("gsm8k:main", "It is written gsm8k."),
        ("xyzzy", "Known: hidden-rules, gsm8k, math, math-500"),
        ("", "Known: hidden-rules, gsm8k"),
    ],
)
def test_an_unknown_task_is_a_config_error_that_suggests(name: str, text: str, grader: Grader) -> None:
    with pytest.raises(ConfigError, match="ask") as caught:
        load_task(name, grader=grader)
    assert text in str(caught.value)


def test_an_option_that_the_task_cannot_use_is_refused(grader: Grader) -> None:
    with pytest.raises(ConfigError, match="Task 'hidden-rules' has no use for --fields"):
        load_task("hidden-rules", grader=grader, options=TaskOptions(fields=("level=x",)))
    with pytest.raises(ConfigError, match="Task 'gsm8k' has no use for --difficulty"):
        load_task("gsm8k", grader=grader, options=TaskOptions(difficulty=("a=1",)))


def test_levels_and_limits_that_cannot_be(tmp_path: Path, grader: Grader) -> None:
    task = load_task("hidden-rules", grader=grader)
    with pytest.raises(ConfigError, match=r"has no level 0, 6; its levels are 1, 2, 3, 4, 5\."):
        task.problems("test", levels=(6, 0, 1))
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        task.problems("test", limit=0)
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


@pytest.mark.parametrize("n", range(2, 12))
def test_hold_out_leaves_something_on_both_sides_of_a_small_file(n: int) -> None:
    for start in range(30):
        train, test = hold_out([Problem(str(i), f"Question {start + i}?", "1") for i in range(n)])
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
    ("text", "inside"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\fbox{3}", "3"),
        (r"$\boxed 4$", "4"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{}", None),
        ("no box", None),
    ],
)
def test_last_boxed(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


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
