"""Bad inputs by kind, each as a command line with the files that it needs, and what must become of it.

`uv run python tests/bad_inputs.py` prints the table of the guide on robustness; test_bad_inputs.py runs the cases.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile import HOSTILE

GOOD = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(1, 5)]
FEW = ["--max-completion-tokens", "8"]
TRAIN = ["train", "--model", "tiny", "--steps", "1", "--group-size", "2", "--problems-per-step", "2", *FEW]
TRAIN += ["--eval-problems", "0", "--diagnostics-every", "0", "--output", "run"]
ADAPTER = {"base_model_name_or_path": "tiny", "r": 16, "lora_alpha": 32}


@dataclass(frozen=True)
class Case:
    """One bad input: `prepare` is called in an empty folder and returns the command line; `said` is in what is printed.

    `code` 0 means that it is carried out all the same, 1 and 2 that it is refused in one line.
    """

    kind: str
    name: str
    prepare: Callable[[], list[str]]
    code: int
    said: str


def cases(kind: str, *found: tuple[str, Callable[[], list[str]], int, str]) -> Iterator[Case]:
    """The cases of one kind."""
    return (Case(kind, *each) for each in found)


def rows(name: str, found: list[Any]) -> str:
    """A JSONL file of these rows; bytes are written as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in found]
    Path(name).write_bytes(b"".join(line + b"\n" for line in lines))
    return name


def data(*found: Any, then: tuple[str, ...] = (), command: tuple[str, ...] = tuple(TRAIN)) -> Callable[[], list[str]]:
    """A command on a file of these rows and some good ones."""
    return lambda: [*command, "--task", f"jsonl:{rows('d.jsonl', [*found, *GOOD])}", *then]


def toml(text: str | bytes) -> Callable[[], list[str]]:
    """Training with this settings file."""

    def prepare() -> list[str]:
        Path("x.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["train", "--config", "x.toml"]

    return prepare


def parquet(column: str, values: list[Any], kind: Any) -> Callable[[], list[str]]:
    """Training on a parquet file with one more column."""

    def prepare() -> list[str]:
        import pyarrow  # type: ignore[import-untyped, unused-ignore]
        import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]

        columns = {"question": ["a", "b"], "answer": ["1", "2"], column: pyarrow.array(values, type=kind(pyarrow))}
        pyarrow.parquet.write_table(pyarrow.table(columns), "d.parquet")
        return [*TRAIN, "--task", "parquet:d.parquet"]

    return prepare


def pipe(*words: str) -> Callable[[], list[str]]:
    """A command that is to read a pipe which nobody writes to."""

    def prepare() -> list[str]:
        os.mkfifo("pipe.jsonl")
        return list(words)

    return prepare


def adapter(**changed: Any) -> Callable[[], list[str]]:
    """Measuring an adapter with this configuration."""

    def prepare() -> list[str]:
        Path("a").mkdir()
        Path("a/adapter_config.json").write_text(json.dumps(ADAPTER | changed))
        Path("a/adapter_model.safetensors").write_bytes(b"?")
        return ["eval", "a", "--problems", "1", "--samples", "1", *FEW]

    return prepare


def run_folder(config: str, *words: str) -> Callable[[], list[str]]:
    """A command on a run folder with this config.json."""

    def prepare() -> list[str]:
        Path("r/checkpoints").mkdir(parents=True)
        Path("r/config.json").write_text(config)
        return list(words)

    return prepare


def typed(*words: str) -> Callable[[], list[str]]:
    """A command line that needs no file."""
    return lambda: list(words)


def prompt(text: str | bytes, kind: str = "question") -> Callable[[], list[str]]:
    """Training with a prompt of the user's own."""

    def prepare() -> list[str]:
        Path("p.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return [*TRAIN, f"--{kind}-prompt", "p.txt"]

    return prepare


def graded(found: Any, *words: str) -> Callable[[], list[str]]:
    """Grading one row."""
    return lambda: ["grade", rows("g.jsonl", [found]), *words]


def grade_into(name: str) -> Callable[[], list[str]]:
    """Grading into a folder."""

    def prepare() -> list[str]:
        Path("folder").mkdir()
        return ["grade", rows("g.jsonl", [{"gold": "1", "reply": "\\boxed{1}"}]), "--output", name]

    return prepare


TERMINAL = "terminal codes and markup"
UTF8 = "text that is not UTF-8"
LONG = "too long"
NUMBERS = "numbers"
FILES = "paths and files of another kind"
NESTED = "nesting and types"
FOLDERS = "adapters and run folders"
EVAL = ("eval", "tiny", "--split", "train", "--samples", "1", *FEW, "--output", "h")
A_LINE, LINE_1 = "line 1", "d.jsonl, line 1: "
DIGITS, LISTS = "1" * 5_000, "[" * 100_000
ESCAPE = HOSTILE[:3]

CASES = [
    *cases(
        TERMINAL,
        ("a model", typed("train", "--model", HOSTILE), 2, "Unknown model '\\x1b[38"),
        ("a level", data({**GOOD[0], "level": HOSTILE}), 1, "got '\\x1b[38"),
        ("a field", data({HOSTILE: 1}), 1, "the row's fields: '\\x1b[38"),
        ("a prompt", prompt(HOSTILE + " {question}"), 0, "run folder: run"),
        ("a line", data(b'{"question": \x1b[2J\x9b'), 1, LINE_1 + "not UTF-8"),
        ("a setting", toml(f"model = {json.dumps(HOSTILE)}"), 2, "Unknown model '\\x1b[38"),
        ("a base model", adapter(base_model_name_or_path=HOSTILE), 2, "was made for '\\x1b[38"),
        ("a reply", graded({"gold": HOSTILE, "reply": HOSTILE}), 0, "0 of 1 correct"),
    ),
    *cases(
        UTF8,
        ("identifier", data({**GOOD[0], "problem_id": "\ud800"}), 1, LINE_1 + "'problem_id' has half"),
        ("question", data({**GOOD[0], "question": "\ud800"}), 1, LINE_1 + "'question' has half"),
        ("bytes", data(b'{"question": "\xff", "answer": "1"}'), 1, LINE_1 + "not UTF-8 (byte 15 of the line)"),
        ("prompt", prompt(b"{question} \xff"), 2, "Cannot read the question prompt 'p.txt': it is not UTF-8"),
        ("file to grade", typed("grade", "\udcff.jsonl"), 1, "No file"),
        ("settings", toml(b'model = "\xff"'), 2, "is not valid TOML"),
        ("reply", graded({"gold": "\ud800", "reply": "\\boxed{\ud800}", "id": "\udfff"}), 0, "of 1 correct"),
        ("setting of a run", run_folder('{"settings": {"method": "\\ud800"}}', "report", "r"), 0, "written to"),
    ),
    *cases(
        LONG,
        ("2,000 tokens, train", data({**GOOD[0], "question": "2" * 2_000}), 0, "1 of 4 problems are left out"),
        ("10 MB, question", data({**GOOD[0], "question": "1" * 10**7}), 1, LINE_1 + "'question' has 10,000,000"),
        ("a level of 41 letters", data({**GOOD[0], "level": "a" * 41}), 1, LINE_1 + "'level' must be a whole number"),
        ("prompt, 2 MB", prompt("1 " * 10**6 + "{question}"), 2, "is too long: at most 1,000,000 bytes are read"),
        ("long chain", data({**GOOD[0], "expert_chain": "1 " * 2_000}), 0, "1 expert chain left out: too long"),
        ("completions as long as the context", typed(*TRAIN, *FEW[:1], "1024"), 2, "leaves no room for a question"),
        *(
            (
                f"10 MB to grade, {text!r}",
                graded({"gold": "1", "reply": text * (10**7 // len(text))}),
                0,
                "of 1 correct",
            )
            for text in ("a", "{", "\\boxed{", "answer is ")
        ),
        ("a word", typed("train", "--output", "a" * 3_000), 2, "File name too long"),
        ("a setting", toml(f'output = "{"a" * 3_000}"'), 2, "File name too long"),
    ),
    *cases(
        NUMBERS,
        (
            "answer of 5,000 digits",
            data(b'{"question": "a", "answer": %s}' % DIGITS.encode()),
            1,
            LINE_1 + "not a JSON",
        ),
        ("level of 400 digits", data({**GOOD[0], "level": 10**400}), 1, LINE_1 + "'level' must be a whole number"),
        ("infinite answer", data({**GOOD[0], "answer": float("inf")}), 1, LINE_1 + "'answer' must be text or a number"),
        ("settings of 5,000 digits", toml(f"steps = {DIGITS}"), 2, "is not valid TOML"),
        ("5,000 hexadecimal digits", toml(f"output = 0x{DIGITS}"), 2, "is too long"),
        ("steps of 1e20", typed("train", "--steps", str(10**20)), 2, "steps must be less than"),
        ("a rate of NaN", typed("train", "--learning-rate", "nan"), 2, "learning_rate must be"),
        ("year 146,138", parquet("when", [2**62, 1], lambda p: p.timestamp("us")), 1, "d.parquet, row 1: a value"),
        (
            "more problems than there are",
            typed(*TRAIN, "--levels", "1", "--train-problems", "9000"),
            0,
            "has fewer than 9,000 problems here",
        ),
    ),
    *cases(
        FILES,
        ("NUL in a word", typed("train", "--output", "a\0b"), 2, "has a NUL"),
        ("NUL in a setting", toml('output = "a\\u0000b"'), 2, "has a NUL"),
        ("a long name, output", typed(*TRAIN[:-1], "a" * 300), 2, "File name too long"),
        ("a long name, report", typed("report", "a" * 300), 2, "File name too long"),
        ("a pipe, task", pipe("train", "--task", "jsonl:pipe.jsonl"), 1, "it is a pipe or a device"),
        ("a pipe, grade", pipe("grade", "pipe.jsonl"), 1, "it is a pipe or a device"),
        ("a device", typed("train", "--task", "jsonl:/dev/zero"), 1, "it is a pipe or a device"),
        ("a folder, prompt", typed(*TRAIN, "--explanation-prompt", "."), 2, "it is not a file"),
        ("a prompt that shows the answer", prompt("{question} {answer}"), 2, "the policy must not see"),
        ("a prompt without a question", prompt("{answer}", "explanation"), 2, "lacks {question}"),
        ("a folder, grade", typed("grade", "."), 2, "names no file"),
        ("a folder, grade into", grade_into("folder"), 1, "it is a folder"),
    ),
    *cases(
        NESTED,
        (
            "lists in a row",
            data(b'{"question": "a", "answer": "1", "x": %s' % LISTS.encode()),
            1,
            LINE_1 + "not a JSON",
        ),
        ("a question that is a list", data({"question": ["a"], "answer": "1"}), 1, LINE_1 + "'question' must be text"),
        ("lists in settings", toml(f"steps = {LISTS}"), 2, "is not valid TOML"),
        ("400 lists", toml(f"steps = {'[' * 400}{']' * 400}"), 2, "nested too deeply"),
        ("a date", toml("steps = 1979-05-27"), 2, "steps must be a valid integer, not '1979-05-27'"),
        (
            "lists to grade",
            lambda: ["grade", rows("g.jsonl", [LISTS.encode()])],
            1,
            "g.jsonl, line 1: not a JSON object",
        ),
        ("a level with a comma", data({**GOOD[0], "level": "easy,hard"}), 1, "without a comma"),
        ("levels of both kinds", data({**GOOD[0], "level": "easy"}, {**GOOD[1], "level": 3}), 0, "run folder: run"),
        ("a label that is a list", graded({"gold": "1", "reply": "1", "label": [1]}), 1, "field 'label' is [1]"),
    ),
    *cases(
        FOLDERS,
        *((f"rank {rank}", adapter(r=rank), 1, f"not {rank}") for rank in (0, 10**9)),
        ("rank of lists", adapter(r=[[]]), 1, "is not a LoRA adapter's configuration"),
        ("scale 0", adapter(lora_alpha=0), 1, "lora_alpha must be"),
        ("no weights in the weights", adapter(), 1, "cannot be read"),
        *(
            (f"{what}, {words[0]}", run_folder(config, *words), 1, "config.json")
            for what, config in (("lists", LISTS), ("a list", "[]"))
            for words in (("train", "--resume", "--output", "r"), ("report", "r"))
        ),
    ),
]


def table() -> str:
    """The numbers of each kind that were tried, refused and carried out, as Markdown."""
    lines = ["| kind | tried | refused in one line | carried out |", "| --- | --- | --- | --- |"]
    counts = Counter((case.kind, case.code > 0) for case in CASES)
    for kind in dict.fromkeys(case.kind for case in CASES):
        refused, done = counts[kind, True], counts[kind, False]
        lines.append(f"| {kind} | {refused + done} | {refused} | {done} |")
    refused = sum(case.code > 0 for case in CASES)
    return "\n".join([*lines, f"| all | {len(CASES)} | {refused} | {len(CASES) - refused} |"]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
