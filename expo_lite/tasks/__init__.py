"""The problems that a policy is trained and measured on: `load_task` by the name typed on the command line."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expo_lite.errors import ConfigError
from expo_lite.records import Prompts
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks import arithmetic, competition_math, gsm8k, hidden_rules, jsonl, reasoning_gym
from expo_lite.tasks.base import FixedTask, Split, Task
from expo_lite.tasks.splits import check_choice, fewer_than_asked

if TYPE_CHECKING:
    from expo_lite.grading import Grader
    from expo_lite.records import Level, Problem

__all__ = ["TASKS", "FixedTask", "Split", "Task", "TaskOptions", "TaskSpec", "check_name", "load_task", "problems_of"]

Loader = Callable[[str, "Grader", TaskOptions], Task]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A kind of task: what is known of it before anything is read, and how it is loaded.

    To add one, put a spec into `TASKS` under the word that its names begin with.
    """

    shape: str
    """The name as typed, with what goes after its colon."""
    about: str
    """One line for `expo-lite tasks`."""
    load: Loader
    """From the name as typed, a grader and the options to the task, its files read."""
    license: str
    source: str
    chains: str
    """Where expert chains come from."""
    held_out: str
    """The fixed held-out split; no training question is in it."""
    flags: frozenset[str] = frozenset()
    """The fields of `TaskOptions` that it has a use for."""
    levels: tuple[Level, ...] | None = None
    """Its levels, where they are known before anything is read; () for a task that has none."""


_ROW_FLAGS = frozenset(
    {"question_field", "answer_field", "level_field", "subject_field", "chain_field", "subjects", "rounding"}
)
_FILE_HELD_OUT = "its own, or one question text in 10, by CRC-32"


def _file(kind: str, about: str) -> TaskSpec:
    return TaskSpec(
        shape=f"{kind}:PATH",
        about=about,
        load=jsonl.load_file,
        license="the file's own",
        source="your file",
        chains="a field",
        held_out=_FILE_HELD_OUT,
        flags=_ROW_FLAGS | {"test_file"},
    )


TASKS = {
    "hidden-rules": TaskSpec(
        shape="hidden-rules",
        about="built in: words that turn a digit on, known ones (levels 1 to 3) and hidden ones (levels 4, 5)",
        load=lambda _name, _grader, _options: hidden_rules.HiddenRules(),
        license="CC0-1.0",
        source="built in",
        chains="sentences without amounts",
        held_out="one question text in 8, by CRC-32",
        levels=hidden_rules.LEVELS,
    ),
    "arithmetic": TaskSpec(
        shape="arithmetic",
        about="built in: a chain of 2 to 8 operations, levels 1 to 5",
        load=lambda _name, grader, _options: arithmetic.Arithmetic(grader),
        license="CC0-1.0",
        source="built in",
        chains="a textbook's prose",
        held_out="one question text in 8, by CRC-32",
        levels=arithmetic.LEVELS,
    ),
    "gsm8k": TaskSpec(
        shape="gsm8k",
        about="grade-school word problems with expert chains (hub openai/gsm8k, or --data)",
        load=gsm8k.load,
        license="MIT",
        source="openai/gsm8k",
        chains="the data's solutions",
        held_out="its own test split",
        flags=frozenset({"data", "test_file", "question_field", "answer_field", "rounding"}),
        levels=(),
    ),
    "math": TaskSpec(
        shape="math",
        about="competition problems, levels 1 to 5, seven subjects (hub EleutherAI/hendrycks_math, or --data)",
        load=competition_math.load,
        license="MIT",
        source="EleutherAI/hendrycks_math",
        chains="the data's solutions",
        held_out="its own test split",
        flags=_ROW_FLAGS | {"data", "test_file"},
        levels=(1, 2, 3, 4, 5),
    ),
    "math-500": TaskSpec(
        shape="math-500",
        about="500 test problems of MATH (hub HuggingFaceH4/MATH-500, or --data); for testing only",
        load=competition_math.load,
        license="MIT",
        source="HuggingFaceH4/MATH-500",
        chains="the data's solutions",
        held_out="all of it",
        flags=_ROW_FLAGS | {"data"},
        levels=(1, 2, 3, 4, 5),
    ),
    "reasoning-gym": TaskSpec(
        shape="reasoning-gym:NAME[,NAME]",
        about="generated puzzles with a checker, 100 data sets (extra reasoning-gym; --difficulty)",
        load=lambda name, _grader, options: reasoning_gym.load(name, options=options),
        license="Apache-2.0",
        source="generated",
        chains="none",
        held_out="seeds from 2^30 on",
        flags=frozenset({"difficulty"}),
        levels=(),
    ),
    "jsonl": _file("jsonl", "your own problems, one JSON object a line; also what `expo-lite hard` writes"),
    "csv": _file("csv", "your own problems, comma-separated with a header line"),
    "parquet": _file("parquet", "your own problems, as parquet"),
    "hub": TaskSpec(
        shape="hub:OWNER/NAME[:CONFIG]",
        about="any hub data set with a question and an answer field",
        load=jsonl.load_hub,
        license="see its card",
        source="OWNER/NAME",
        chains="a field",
        held_out=_FILE_HELD_OUT,
        flags=_ROW_FLAGS | {"data", "test_file"},
    ),
}
"""Every kind of task, by the word that its names begin with."""

_DEFAULTS = TaskOptions()
OURS = Prompts()
"""No prompts of the user's own."""


def load_task(name: str, *, grader: Grader, options: TaskOptions = _DEFAULTS, levels: tuple[Level, ...] = ()) -> Task:
    """The task of this name, its files read; `levels` are those that will be asked for, if they are known by now.

    Raises ConfigError for an unknown name, or for an option or level that this task does not have; DataError for data
    that is missing or cannot be read.
    """
    return check_name(name, options, levels).load(name, grader, options)


def problems_of(
    task: Task,
    split: Split,
    *,
    levels: tuple[Level, ...],
    limit: int | None,
    seed: int,
    warn: Callable[[str], None],
    prompts: Prompts = OURS,
) -> list[Problem]:
    """`Task.problems`, with prompts of the user's own, and a word where there are fewer than were asked for.

    Raises what `Task.problems` does.
    """
    problems = task.problems(split, levels=levels, limit=limit, seed=seed)
    said = fewer_than_asked(problems, task=task.name, known_levels=task.levels, levels=levels, limit=limit)
    if said is not None:
        spec = TASKS.get(task.name.partition(":")[0])
        asks = split == "test" and spec is not None and "test_file" in spec.flags
        warn(f"{said} Name a file of held-out problems with --test-file." if asks else said)
    return [dataclasses.replace(problem, prompts=prompts) for problem in problems] if prompts != OURS else problems


def check_name(name: str, options: TaskOptions = _DEFAULTS, levels: tuple[Level, ...] = ()) -> TaskSpec:
    """What is known of a task without reading anything.

    Raises ConfigError as `load_task` does.
    """
    kind, colon, _ = name.partition(":")
    spec = TASKS.get(kind)
    if spec is None or bool(colon) != (":" in spec.shape):
        raise ConfigError(_unknown(name))
    for field in dataclasses.fields(options):
        if getattr(options, field.name) != field.default and field.name not in spec.flags:
            raise ConfigError(f"Task {name!r} has no use for --{field.name.replace('_', '-')}.")
    if spec.levels is not None:
        check_choice(name, spec.levels, levels, None)
    return spec


def _unknown(name: str) -> str:
    kind, _, rest = name.partition(":")
    shapes = {known: spec.shape for known, spec in TASKS.items()}
    begun = [shape for shape in shapes if kind and shape.startswith(kind.lower())]
    near = begun or difflib.get_close_matches(kind.lower(), shapes, n=1, cutoff=0.5)
    if kind in shapes:
        hint = f" It is written {shapes[kind]}."
    elif near:
        hint = f" Did you mean {near[0] + ':' + rest if rest and ':' in shapes[near[0]] else shapes[near[0]]!r}?"
    else:
        hint = f" Known: {', '.join(shapes.values())}."
    return f"Unknown task {name!r}.{hint}"
