"""The problems that a policy is trained and measured on: `load_task` by the name typed on the command line."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING

from expo_lite.config import TaskOptions
from expo_lite.errors import ConfigError
from expo_lite.tasks import arithmetic, competition_math, gsm8k, hidden_rules, jsonl, reasoning_gym
from expo_lite.tasks.base import FixedTask, Split, Task
from expo_lite.tasks.splits import check_choice

if TYPE_CHECKING:
    from expo_lite.grading import Grader

__all__ = ["ORIGINS", "TASKS", "FixedTask", "Split", "Task", "TaskOptions", "check_name", "load_task"]

TASKS = {
    "hidden-rules": "built in: words that turn a digit on, known ones (levels 1 to 3) and hidden ones (levels 4, 5)",
    "arithmetic": "built in: a chain of 2 to 8 operations, levels 1 to 5",
    "gsm8k": "grade-school word problems with expert chains (hub openai/gsm8k, or --data)",
    "math": "competition problems, levels 1 to 5, seven subjects (hub EleutherAI/hendrycks_math, or --data)",
    "math-500": "500 test problems of MATH (hub HuggingFaceH4/MATH-500, or --data); for testing only",
    "reasoning-gym:NAME[,NAME]": "generated puzzles with a checker, 100 data sets (extra reasoning-gym; --difficulty)",
    "jsonl:PATH": "your own problems, one JSON object a line; also what `expo-lite hard` writes",
    "csv:PATH": "your own problems, comma-separated with a header line",
    "parquet:PATH": "your own problems, as parquet",
    "hub:OWNER/NAME[:CONFIG]": "any hub data set with a question and an answer field",
}
"""Names as typed, with one line each."""

ORIGINS = {
    "hidden-rules": ("CC0-1.0", "built in", "sentences without amounts", "one question text in 8, by CRC-32"),
    "arithmetic": ("CC0-1.0", "built in", "a textbook's prose", "one question text in 8, by CRC-32"),
    "gsm8k": ("MIT", "openai/gsm8k", "the data's solutions", "its own test split"),
    "math": ("MIT", "EleutherAI/hendrycks_math", "the data's solutions", "its own test split"),
    "math-500": ("MIT", "HuggingFaceH4/MATH-500", "the data's solutions", "all of it"),
    "reasoning-gym": ("Apache-2.0", "generated", "none", "seeds from 2^30 on"),
    "jsonl, csv, parquet": ("the file's own", "your file", "a field", "its own, or one question text in 10, by CRC-32"),
    "hub": ("see its card", "OWNER/NAME", "a field", "its own, or one question text in 10, by CRC-32"),
}
"""Licence, source, where expert chains come from, and the fixed held-out split; no train question is in it."""

_ROW_FLAGS = frozenset({"question_field", "answer_field", "level_field", "subject_field", "chain_field", "subjects"})
_USED_FLAGS = {
    "hidden-rules": frozenset[str](),
    "arithmetic": frozenset[str](),
    "gsm8k": frozenset({"data", "test_file", "question_field", "answer_field"}),
    "math": _ROW_FLAGS | {"data", "test_file"},
    "math-500": _ROW_FLAGS | {"data"},
    "reasoning-gym": frozenset({"difficulty"}),
    "jsonl": _ROW_FLAGS | {"test_file"},
    "csv": _ROW_FLAGS | {"test_file"},
    "parquet": _ROW_FLAGS | {"test_file"},
    "hub": _ROW_FLAGS | {"data", "test_file"},
}
_LEVELS = {
    "hidden-rules": hidden_rules.LEVELS,
    "arithmetic": arithmetic.LEVELS,
    "gsm8k": (),
    "math": (1, 2, 3, 4, 5),
    "math-500": (1, 2, 3, 4, 5),
    "reasoning-gym": (),
}
_DEFAULTS = TaskOptions()


def load_task(name: str, *, grader: Grader, options: TaskOptions = _DEFAULTS) -> Task:
    """The task of this name, its files read.

    Raises ConfigError for an unknown name or an option that this task has no use for, DataError for data that is not
    there or cannot be read.
    """
    check_name(name, options)
    kind = name.partition(":")[0]
    if kind == "hidden-rules":
        return hidden_rules.HiddenRules()
    if kind == "arithmetic":
        return arithmetic.Arithmetic(grader)
    if kind == "gsm8k":
        return gsm8k.load(name, grader=grader, options=options)
    if kind in ("math", "math-500"):
        return competition_math.load(name, grader=grader, options=options)
    if kind == "reasoning-gym":
        return reasoning_gym.load(name, options=options)
    if kind == "hub":
        return jsonl.load_hub(name, grader=grader, options=options)
    return jsonl.load_file(name, grader=grader, options=options)


def check_name(name: str, options: TaskOptions = _DEFAULTS, levels: tuple[int, ...] = ()) -> None:
    """What can be known to be wrong without reading anything.

    Raises ConfigError for an unknown name, an option that this task has no use for, or levels that it does not have.
    """
    kind, colon, _ = name.partition(":")
    if kind not in _USED_FLAGS or bool(colon) != any(known.startswith(f"{kind}:") for known in TASKS):
        raise ConfigError(_unknown(name))
    for field in dataclasses.fields(options):
        if getattr(options, field.name) != field.default and field.name not in _USED_FLAGS[kind]:
            raise ConfigError(f"Task {name!r} has no use for --{field.name.replace('_', '-')}.")
    if kind in _LEVELS:
        check_choice(name, _LEVELS[kind], levels, None)


def _unknown(name: str) -> str:
    kind, _, rest = name.partition(":")
    shapes = {shape.partition(":")[0]: shape for shape in TASKS}
    begun = [shape for shape in shapes if kind and shape.startswith(kind.lower())]
    near = begun or difflib.get_close_matches(kind.lower(), shapes, n=1, cutoff=0.5)
    if kind in shapes:
        hint = f" It is written {shapes[kind]}."
    elif near:
        hint = f" Did you mean {near[0] + ':' + rest if rest and ':' in shapes[near[0]] else shapes[near[0]]!r}?"
    else:
        hint = f" Known: {', '.join(TASKS)}."
    return f"Unknown task {name!r}.{hint}"
