"""Files with any field names: what is read, where the splits come from, and errors with file and line."""

import bz2
import gzip
import importlib.util
import json
import lzma
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import Grader
from expo_lite.records import Problem
from expo_lite.tasks import FixedTask, Task, TaskOptions, load_task, problems_of
from expo_lite.tasks.rows import task_from_rows

ROWS = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "level": 1 + i % 3} for i in range(40)]


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(name: str, **options: Any) -> Task:
    return load_task(name, grader=Grader(), options=TaskOptions(**options))


def everything(task: Task) -> list[Problem]:
    return sorted((*task.problems("train"), *task.problems("test")), key=lambda p: (len(p.answer), p.answer))


def one_problem(tmp_path: Path, row: Mapping[str, object]) -> Problem:
    """The problem of one row, with another file to test on."""
    path = write(tmp_path / "rows.jsonl", [row])
    test = write(tmp_path / "other.jsonl", [{"question": "Other?", "answer": "0"}])
    return load(f"jsonl:{path}", test_file=test).problems("train")[0]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "arrow"])
def test_the_formats_give_the_same_problems(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        path.write_text("question,answer,level\n" + "".join("{question},{answer},{level}\n".format(**r) for r in ROWS))
    elif kind == "arrow":
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows")
        path = tmp_path / "rows"
    else:
        write(path, ROWS)
    task = load(f"{kind}:{path}")
    assert [(p.question, p.answer, p.level) for p in everything(task)] == [tuple(row.values()) for row in ROWS]
    assert task.levels == (1, 2, 3)
    assert len(task.problems("test")) >= 1
    assert task.problems("train")[0].problem_id.startswith("rows/train/")


def test_a_csv_may_have_a_byte_order_mark_commas_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbfquestion,answer\r\n"One, or\r\ntwo?",1\r\n\r\nThree?,3\r\n')
    assert [p.question for p in everything(load(f"csv:{path}"))] == ["One, or\r\ntwo?", "Three?"]


def test_field_names_are_free(tmp_path: Path) -> None:
    row = {"q": "How much?", "a": 5, "grade": "Level 4", "topic": "Sums", "why": "Because."}
    options = {"question": "q", "answer": "a", "level": "grade", "subject": "topic", "chain": "why"}
    path = write(tmp_path / "rows.jsonl", [row, {**row, "q": "How many?"}])
    task = load(f"jsonl:{path}", fields=tuple(f"{role}={name}" for role, name in options.items()))
    problem = next(p for p in everything(task) if p.question == "How much?")
    assert problem == Problem(
        problem_id=problem.problem_id,
        question="How much?",
        answer="5",
        level=4,
        subject="Sums",
        expert_chain="Because.\nThe answer is \\boxed{5}.",
    )


@pytest.mark.parametrize(
    ("row", "answer", "chain"),
    [
        ({"question": "Q?", "answer": 7}, "7", None),
        ({"question": "Q?", "answer": 0.1}, "0.1", None),
        ({"prompt": "Q?", "gold": " x+1 "}, "x+1", None),
        ({"problem": "Q?", "solution": "So $\\boxed{7}$."}, "7", "So $\\boxed{7}$."),
        ({"problem": "Q?", "solution": "So $\\boxed{7}$.", "answer": "8"}, "8", "So $\\boxed{7}$."),
        ({"question": "Q?", "answer": "3+4 <<3+4=7>>\n#### 7"}, "7", "3+4\nThe answer is \\boxed{7}."),
        ({"question": "Q?", "answer": "\\boxed{7}"}, "7", None),
        ({"question": "Q?", "answer": "7", "chain": "3+4."}, "7", "3+4.\nThe answer is \\boxed{7}."),
        ({"question": "Q?", "solution": "42"}, "42", None),
        ({"query": "Q?", "response": "3+4\n#### 7\nThe answer is: 7"}, "7", "3+4\nThe answer is \\boxed{7}."),
        (
            {"question": "Q?", "answer": "3+4. The answer is 7."},
            "7",
            "3+4. The answer is 7.\nThe answer is \\boxed{7}.",
        ),
        *(({"question": "Q?", "answer": one}, "7", None) for one in (["7"], [7], "['7']", '["7"]', "'7'")),
        ({"Problem": "Q?", "Final Answer": "7", "Answer": "3+4"}, "7", None),
        ({"q.text": "no", "question": "Q?", "reward_model": {"style": "rule", "ground_truth": "7"}}, "7", None),
        ({"question": "Q?", "answer": "#### Note\n3+4\nso \\boxed{7}"}, "7", "#### Note\n3+4\nso \\boxed{7}"),
    ],
)
def test_usual_fields_answers_and_chains(
    tmp_path: Path, row: dict[str, object], answer: str, chain: str | None
) -> None:
    problem = one_problem(tmp_path, row)
    assert (problem.question, problem.answer, problem.expert_chain) == ("Q?", answer, chain)


@pytest.mark.parametrize(
    ("level", "read"),
    [
        *((5, 5), (5.0, 5), ("5", 5), ("Level 5", 5), ("level 2", 2), ("-3", -3), ("Level ?", None), (None, None)),
        *((" easy ", "easy"), ("hard one", "hard one"), ("Level hard", "Level hard"), ("2.5", "2.5")),
    ],
)
def test_levels(tmp_path: Path, level: object, read: int | str | None) -> None:
    assert one_problem(tmp_path, {"question": "Q?", "answer": "1", "level": level}).level == read


def test_levels_that_are_words_are_sorted_after_numbers_and_chosen(tmp_path: Path) -> None:
    words = ["hard", "easy", "Level 10", "2"]
    rows = [{"question": f"{word}, {i}?", "answer": "1", "level": word} for i in range(9) for word in words]
    task = load(f"jsonl:{write(tmp_path / 'rows.jsonl', rows)}")
    assert task.levels == (2, 10, "easy", "hard")
    assert {p.level for p in task.problems("train", levels=("hard", 10))} == {"hard", 10}
    assert len(task.problems("train", levels=("hard",), limit=3)) == 3
    with pytest.raises(ConfigError, match=r"has no level 3, 'Hard'; its levels are 2, 10, 'easy', 'hard'\."):
        task.problems("train", levels=("Hard", 3))


def test_a_test_file_leaves_the_whole_file_to_train_on_but_for_its_own_questions(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    test = write(tmp_path / "test.jsonl", ROWS[:5])
    task = load(f"jsonl:{path}", test_file=test)
    assert [p.question for p in task.problems("test")] == [row["question"] for row in ROWS[:5]]
    assert [p.question for p in task.problems("train")] == [row["question"] for row in ROWS[5:]]
    assert isinstance(task, FixedTask) and task.n_dropped == 5


def test_a_folder_keeps_its_splits(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.jsonl", ROWS[:10])
    write(tmp_path / "data" / "train-00001-of-00002.jsonl", ROWS[10:20])
    write(tmp_path / "data" / "validation-00000-of-00001.jsonl", ROWS[20:30])
    task = load(f"jsonl:{tmp_path}")
    assert [p.question for p in task.problems("train")] == [row["question"] for row in ROWS[:20]]
    assert len(task.problems("test")) == 10  # no test file: validation
    write(tmp_path / "data" / "test-00000-of-00001.jsonl", ROWS[30:35])
    assert len(load(f"jsonl:{tmp_path}").problems("test")) == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves a CSV file open
def test_a_hub_data_set_is_read_by_its_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads a folder OWNER/NAME as it reads the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "some" / "data" / "train.parquet", ROWS[10:30])
    write(tmp_path / "some" / "data" / "validation.parquet", ROWS[:10])
    write(tmp_path / "some" / "data" / "test.parquet", ROWS[30:])
    task = load("hub:some/data")
    assert [p.question for p in task.problems("train")] == [row["question"] for row in ROWS[10:30]]
    assert [p.answer for p in task.problems("test")] == [row["answer"] for row in ROWS[30:]]
    assert task.problems("test")[0].problem_id == "some/data/test/0"
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "train.csv").write_text("question,answer\nWhich agent?,007\nWhich word?,NO\n")
    assert {p.answer for p in everything(load("hub:a/b"))} == {"007", "NO"}  # not 7, as datasets reads it
    with pytest.raises(DataError, match=r"Cannot read data set 'a/b' of the hub: .*'c'.*as --task jsonl:FOLDER"):
        load("hub:a/b:c")
    (tmp_path / "a" / "b" / "train.csv").write_text("question,answer\nQ?,\n")
    with pytest.raises(DataError, match="a/b, train row 1: 'answer' is empty"):
        load("hub:a/b")


GOOD = b'{"question": "Q?", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"question": "Q?", "answer": \n', "not a JSON object: Expecting value (column 30)."),
        (b"[1, 2]\n", "expected a JSON object"),
        (b'{"question": "\xff", "answer": "1"}\n', "not UTF-8 (byte 15 of the line)."),
        (b"[" * 100_000 + b"\n", "not a JSON object"),
        (b'{"question": "Q?", "answer": ' + b"9" * 5_000 + b"}\n", "not a JSON object that can be read"),
        (b'{"answer": "1"}\n', "no question in field 'question'"),
        (b'{"question": "Q?"}\n', "no answer in field 'final_answer' or 'answer'"),
        (
            b'{"question": "Q?", "answer": "1", "answer": "2"}\n',
            "not a JSON object that can be read: the field 'answer'",
        ),
        (b'{"question": "Q?", "answer": NaN}\n', "'answer' is empty."),
        (b'{"question": "Q?", "answer": Infinity}\n', "'answer' must be text or a number"),
        (b'{"question": 5, "answer": "1"}\n', "'question' must be text"),
        (b'{"question": "\\ud800", "answer": "1"}\n', "'question' has half of a surrogate pair"),
        (b'{"question": "Q?", "answer": "1", "level": "all"}\n', "'level' must be a whole number"),
        (b'{"prompt": [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "?"}]}\n', "'prompt' must be one"),
        (b'{"messages": [{"role": "user"}]}\n', "'messages' must be one question"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + line + GOOD)
    with pytest.raises(DataError) as caught:
        load(f"jsonl:{path}")
    assert str(caught.value).startswith(f"{path}, line 2: {text}")


def test_blank_lines_do_not_shift_the_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n  \r\n" + b"nonsense\n")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 4: not a JSON object"):
        load(f"jsonl:{path}")


def test_an_unnamed_field_is_hinted_at_and_a_named_one_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "Q?", "answer": "1"}\n')
    with pytest.raises(DataError, match=r"name the right one with --fields question=text\."):
        load(f"jsonl:{path}")
    for role in ("question", "answer", "level", "subject", "chain"):
        with pytest.raises(
            DataError, match=r"rows\.jsonl, line 1: no .*'nope'.*\(the row's fields: 'text', 'answer'\)"
        ):
            load(f"jsonl:{path}", fields=("question=text", f"{role}=nope"))
    with pytest.raises(ConfigError, match="Cannot read --fields 'text': expected ROLE=NAME"):
        load(f"jsonl:{path}", fields=("text",))


def test_an_identifier_comes_once(tmp_path: Path) -> None:
    row = {"problem_id": "a", "question": "Q?", "answer": "1"}
    path = write(tmp_path / "rows.jsonl", [row, {**row, "question": "P?"}])
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: the problem_id 'a' comes a second time"):
        load(f"jsonl:{path}")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"question,answer\nQ?,1\nP?,2,3\n", "line 3: 3 values for the 2 columns of the first line."),
        (b'question,answer\nQ?,"1\n', "line 2: not CSV"),
        (b"question,answer,answer\nQ?,1,2\n", "line 1: not CSV: the field 'answer' comes twice: rename one."),
        ("question,answer\n".encode("utf-16"), "line 1: not UTF-8. Save the file as UTF-8."),
        (b"question;answer\nQ, R, S?;1\n", "line 1: the columns must be separated by commas, not by ';'."),
    ],
)
def test_a_bad_csv_line_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(f"csv:{path}")
    assert str(caught.value).startswith(f"{path}, {text}")


def test_a_bad_parquet_file_and_row_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"rows\.parquet: not a file of parquet rows that can be read"):
        load(f"parquet:{path}")
    dates = pyarrow.array([1, 2**62, 1], type=pyarrow.timestamp("us"))
    columns = {"question": ["a", "b", "c"], "answer": ["1", "2", "3"], "when": dates}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(DataError, match=r"rows\.parquet, row 2: a value cannot be read: .*out of range"):
        load(f"parquet:{path}")
    assert [p.answer for p in everything(load(f"parquet:{path}", skip_bad_rows=True))] == ["1", "3"]
    write(path, [{"question": "Q?", "answer": "1"}, {"question": "P?", "answer": None}])
    with pytest.raises(DataError, match=r"rows\.parquet, row 2: .answer. is empty"):
        load(f"parquet:{path}")


def test_a_missing_an_empty_and_an_unreadable_file(tmp_path: Path) -> None:
    kind = "csv"
    path = tmp_path / f"rows.{kind}"
    with pytest.raises(DataError, match=rf"No file .*rows\.{kind}\."):
        load(f"{kind}:{path}")
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match=rf"rows\.{kind} is empty"):
        load(f"{kind}:{path}")
    with pytest.raises(DataError, match=r"No data file in .*: expected train and test files ending in"):
        (tmp_path / "folder").mkdir()
        load(f"{kind}:{tmp_path / 'folder'}")


def test_two_formats_of_one_split_are_too_many(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "train.parquet", ROWS)
    with pytest.raises(DataError, match=r"has train files ending in \.jsonl and \.parquet: keep one kind"):
        load("gsm8k", data=tmp_path)


def test_a_train_split_that_is_all_in_the_test_split_is_said_to_be(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(DataError, match=r"has no train problems\. All 40 are in the test split too\."):
        load(f"jsonl:{path}", test_file=path).problems("train")


SAID = "It is 4\n#### 4"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [("role", "content", "system"), ("role", "content", "user"), ("role", "content", "assistant")]},
        {"messages": [("role", "content", "developer"), ("role", "content", "user"), ("role", "content", "assistant")]},
        {"conversations": [("from", "value", "system"), ("from", "value", "human"), ("from", "value", "gpt")]},
        {
            "prompt": [("role", "content", "system"), ("role", "content", "user")],
            "completion": [("role", "content", "assistant")],
        },
        {"prompt": [("role", "content", "system"), ("role", "content", "user")], "solution": SAID},
    ],
)
def test_chat_turns_are_problems(tmp_path: Path, row: dict[str, Any]) -> None:
    texts = {"system": "Count.", "developer": "Count.", "user": "2 + 2?", "human": "2 + 2?"}
    made = {
        name: turns if turns == SAID else [{who: of, what: texts.get(of, SAID)} for who, what, of in turns]
        for name, turns in row.items()
    }
    problem = one_problem(tmp_path, made)
    assert (problem.question, problem.answer) == ("Count.\n\n2 + 2?", "4")
    assert problem.expert_chain == "It is 4\nThe answer is \\boxed{4}."
    assert one_problem(tmp_path, {**made, "question": "own", "answer": "1"}).question == "own"


def test_verl_s_parquet_is_read_as_it_is(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "gsm8k",
            "prompt": [{"role": "user", "content": row["question"]}],
            "reward_model": {"style": "rule", "ground_truth": row["answer"]},
            "extra_info": {"index": i, "answer": "no", "level": row["level"]},
        }
        for i, row in enumerate(ROWS)
    ]
    task = load(f"parquet:{write(tmp_path / 'verl.parquet', rows)}", fields=("level=extra_info.level",))
    assert [(p.question, p.answer, p.level) for p in everything(task)] == [tuple(row.values()) for row in ROWS]
    assert (
        isinstance(task, FixedTask) and "not read: data_source, reward_model.style, extra_info.index" in task.notes[0]
    )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.xz", "rows.jsonl.bz2", "rows.json"])
def test_packed_files_and_arrays_are_read(tmp_path: Path, name: str) -> None:
    lines = [json.dumps(row) for row in ROWS]
    text = ("\ufeff [" + ",\n".join(lines) + "]\n" if name.endswith(".json") else "\n".join(lines)).encode()
    packs: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    pack = packs.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(text))
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert [p.question for p in everything(load("gsm8k", data=tmp_path))] == [row["question"] for row in ROWS]
    with pytest.raises(DataError, match=rf"Cannot read .*{name}" if pack is not bytes else "not UTF-8"):
        (tmp_path / name).write_bytes(pack(text)[:40] + b"\xff")
        load(f"jsonl:{tmp_path / name}")


def test_a_zst_file_is_read_or_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(b"(\xb5/\xfd")
    if importlib.util.find_spec("zstandard"):
        pytest.skip("zstandard is installed")
    with pytest.raises(DataError, match="unpack it, or install the package zstandard"):
        load(f"jsonl:{path}")


def test_all_missing_fields_are_named_at_once_with_words_that_work(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"id": i, "the text": f"How much is {i}?", "x": i} for i in range(9)])
    with pytest.raises(DataError) as caught:
        load(f"jsonl:{path}", fields=("level=nope",))
    assert re.search("line 1: no question .* and no answer .* and no level in field 'nope'", str(caught.value))
    words = shlex.split(str(caught.value).rpartition("--fields ")[2].removesuffix("."))
    assert words == ["question=the text", "answer=x", "level=NAME"]
    assert [p.answer for p in everything(load(f"jsonl:{path}", fields=tuple(words[:2])))] == [*map(str, range(9))]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"ctx": "c", "reference_answer": "4", "options": "o", "context": "long text"}, "answer=reference_answer"),
        ({"context": "long text", "problem_text": "p"}, "answer=NAME"),
        ({"context": "long text", "target": "4", "result": 4}, "answer=target"),
    ],
)
def test_a_hint_for_the_answer_is_no_question_and_no_context(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=f"with --fields {words}"):
        load(f"jsonl:{write(tmp_path / 'rows.jsonl', [{'question': 'Q?', **row}])}")
    asked = {"story": "a long, long text", "q": "Q?", "target": "several words of truth"}
    with pytest.raises(DataError, match="with --fields question=q answer=target"):
        load(f"jsonl:{write(tmp_path / 'rows.jsonl', [asked])}")


def test_a_file_of_another_kind_and_a_bad_row_say_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nQ?,1\n")
    with pytest.raises(DataError, match=rf"by its name it is csv\. Give csv:{tmp_path}/a\.csv"):
        load(f"jsonl:{tmp_path}/a.csv")
    with pytest.raises(ConfigError, match=r"Did you mean 'jsonl:d/array.json'"):
        load("d/array.json")
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"not a JSON object: .*--skip-bad-rows"):
        load(f"jsonl:{tmp_path}/a.jsonl")


def test_a_task_from_python_needs_no_grader_and_takes_texts_as_paths(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", ROWS))
    own: Any = TaskOptions(test_file=path, rounding="gold")  # type: ignore[arg-type]
    task = load_task(f"jsonl:{path}", options=own)
    assert len(task.problems("test")) == len(ROWS)
    assert task_from_rows(ROWS, name="a", options=own).problems("test") == task.problems("test")
    assert task.grade(Problem("", "", "0.333"), "\\boxed{0.3333}").correct


def test_bad_rows_are_skipped_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    bad = [b"{", b"[1]", b'{"question": "\xff"}', b'{"question": "Q?"}', b'{"question": "Q?", "answer": NaN}']
    path.write_bytes(b"\n".join([*bad, path.read_bytes()]))
    task = load(f"jsonl:{path}", skip_bad_rows=True)
    assert isinstance(task, FixedTask) and len(everything(task)) == len(ROWS)
    assert task.notes[1:] == (
        f"warning: 5 of 45 rows cannot be read and are skipped; the first: {path}, line 1: not a JSON object: "
        "Expecting property name enclosed in double quotes (column 2).",
    )
    assert task.problems("train")[0].problem_id == "rows/train/5"
    path.write_bytes(b"\n".join(bad))
    with pytest.raises(DataError, match="line 1: not a JSON object"):
        load(f"jsonl:{path}", skip_bad_rows=True)


def test_too_few_held_out_problems_are_told_with_what_to_do(tmp_path: Path) -> None:
    said: list[str] = []
    task = load(f"jsonl:{write(tmp_path / 'a.jsonl', ROWS)}")
    problems_of(task, "test", levels=(), limit=40, seed=0, warn=said.append)
    assert len(said) == 1 and "--test-file" in said[0]


def test_an_empty_name_switches_a_field_off(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{**row, "level": "easy, hard"} for row in ROWS])
    assert load(f"jsonl:{path}", fields=("level=",)).levels == ()
