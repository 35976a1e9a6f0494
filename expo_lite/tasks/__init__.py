"""The problems that a policy is trained and measured on: `load_task` by the name typed on the command line."""

import difflib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from expo_lite.errors import ConfigError
from expo_lite.grading import Grader
from expo_lite.records import Problem, Prompts
from expo_lite.settings.groups import TaskOptions
from expo_lite.settings.schema import changed, typed
from expo_lite.tasks import hidden_rules, reasoning_gym, sources
from expo_lite.tasks.base import FixedTask, Split, Task
from expo_lite.tasks.files import KINDS, suffix_of
from expo_lite.tasks.splits import Levels, check_choice

__all__ = ["TASKS", "FixedTask", "Split", "Task", "TaskOptions", "TaskSpec", "check_name", "load_task", "problems_of"]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A kind of task: what is known of it before anything is read, and how it is loaded.

    To add one, put a spec into `TASKS` under the word that its names begin with.
    """

    shape: str
    """The name as typed, with what goes after its colon."""
    about: str
    """One line for `expo-lite tasks`."""
    load: Callable[[str, Grader, TaskOptions], Task]
    """Makes the task of the name as typed, a grader and the options; its files are read."""
    license: str
    chains: str
    """The source of expert chains."""
    held_out: str
    """The fixed held-out split; no training question is in it."""
    flags: tuple[str, ...] = ()
    """The fields of `TaskOptions` that it has a use for."""
    levels: Levels | None = None
    """Its levels, where they are known before anything is read; () for a task that has none."""


_ROWS = ("fields", "rounding", "skip_bad_rows", "test_file")
_HELD_OUT = "its own test split, or one question text in 10, by CRC-32"


def _file(kind: str, about: str) -> TaskSpec:
    return TaskSpec(f"{kind}:PATH", about, sources.load_file, "the file's own", "a field", _HELD_OUT, _ROWS)


def _known(name: str, about: str, flags: tuple[str, ...], levels: Levels) -> TaskSpec:
    held_out = "all of it" if name == "math-500" else "its own test split"
    return TaskSpec(name, about, sources.load_known, "MIT", "the data's solutions", held_out, ("data", *flags), levels)


TASKS = {
    "hidden-rules": TaskSpec(
        "hidden-rules",
        "built in: words that turn a digit on, known ones (levels 1 to 3) and hidden ones (levels 4, 5)",
        lambda _name, _grader, _options: hidden_rules.HiddenRules(),
        license="CC0-1.0",
        chains="sentences without amounts",
        held_out="one question text in 8, by CRC-32",
        levels=hidden_rules.LEVELS,
    ),
    "gsm8k": _known("gsm8k", "grade-school word problems (hub openai/gsm8k, or --data)", _ROWS, ()),
    "math": _known(
        "math", "competition problems, levels 1 to 5 (hub EleutherAI/hendrycks_math, or --data)", _ROWS, (1, 2, 3, 4, 5)
    ),
    "math-500": _known(
        "math-500",
        "500 test problems of MATH, for testing only (hub HuggingFaceH4/MATH-500, or --data)",
        ("fields", "rounding", "skip_bad_rows"),
        (1, 2, 3, 4, 5),
    ),
    "reasoning-gym": TaskSpec(
        "reasoning-gym:NAME[,NAME]",
        "generated puzzles with a checker, 100 data sets (extra reasoning-gym; --difficulty)",
        reasoning_gym.load,
        license="Apache-2.0",
        chains="none",
        held_out="seeds from 2^30 on",
        flags=("difficulty",),
        levels=(),
    ),
    "jsonl": _file(
        "jsonl", "your own problems, one JSON object a line; also a file of `expo-lite eval --write-unsolved`"
    ),
    "csv": _file("csv", "your own problems, comma-separated with a header line"),
    "parquet": _file("parquet", "your own problems, as parquet"),
    "arrow": _file("arrow", "your own problems, as `datasets` saves them"),
    "python": TaskSpec(
        "python:FILE",
        "your own task: a Python file that defines TASK (CONTRIBUTING.md, Add a task)",
        sources.load_python,
        license="the file's own",
        chains="the file's own",
        held_out="the file's own",
    ),
    "hub": TaskSpec(
        "hub:OWNER/NAME[:CONFIG]",
        "any hub data set with a question and an answer field",
        sources.load_hub,
        license="see its card",
        chains="a field",
        held_out=_HELD_OUT,
        flags=_ROWS,
    ),
}
"""Every kind of task, by the word that its names begin with."""

_DEFAULTS = TaskOptions()
Warn = Callable[[str], None]
OURS = Prompts()
"""No prompts of the user's own."""


def load_task(
    name: str, *, grader: Grader | None = None, options: TaskOptions = _DEFAULTS, levels: Levels = ()
) -> Task:
    """Load the task of this name, its files read; `levels` are those that will be asked for, if they are known by now.

    The grader is by default a new one.

    Raises:
        ConfigError: the name is unknown, or the task does not have an option or a level.
        DataError: the data is missing or cannot be read.
    """
    options = typed(options)
    return check_name(name, options, levels).load(name, grader or Grader(rounding=options.rounding), options)


def problems_of(
    task: Task, split: Split, *, levels: Levels, limit: int | None, seed: int, warn: Warn, prompts: Prompts = OURS
) -> list[Problem]:
    """Return `Task.problems`, with prompts of the user's own, and warn where there are fewer than were asked for.

    Raises what `Task.problems` does.
    """
    problems = task.problems(split, levels=levels, limit=limit, seed=seed)
    counts = Counter(problem.level if task.levels else None for problem in problems)
    few = {level: counts[level] for level in levels or task.levels or (None,) if counts[level] < (limit or 0)}
    if few:
        there = ", ".join(f"{n:,}" if level is None else f"{n:,} of level {level}" for level, n in few.items())
        spec = TASKS.get(task.name.partition(":")[0])
        asks = split == "test" and spec is not None and "test_file" in spec.flags
        hint = " Name a file of held-out problems with --test-file." if asks else ""
        warn(f"task '{task.name}' has fewer than {limit:,} problems here: {there}.{hint}")
    return [replace(problem, prompts=prompts) for problem in problems] if prompts != OURS else problems


def check_name(name: str, options: TaskOptions = _DEFAULTS, levels: Levels = ()) -> TaskSpec:
    """Return what is known of a task without reading anything.

    Raises:
        ConfigError: the name is unknown, or the task does not have an option or a level.
    """
    kind, colon, _ = name.partition(":")
    spec = TASKS.get(kind)
    if spec is None or bool(colon) != (":" in spec.shape):
        raise ConfigError(_unknown(name))
    for option in changed(options):
        if option not in spec.flags:
            raise ConfigError(f"Task {name!r} has no use for --{option.replace('_', '-')}.")
    if spec.levels is not None:
        check_choice(name, spec.levels, levels, None)
    return spec


def _unknown(name: str) -> str:
    kind, _, rest = name.partition(":")
    if kind in TASKS:
        hint = f" It is written {TASKS[kind].shape}."
    elif reader := KINDS.get(suffix_of(Path(name))):
        hint = f" Did you mean '{reader}:{name}'?"
    elif near := difflib.get_close_matches(kind.lower(), TASKS, n=1, cutoff=0.5):
        shape = TASKS[near[0]].shape
        hint = f" Did you mean {near[0] + ':' + rest if rest and ':' in shape else shape!r}?"
    else:
        hint = f" Known: {', '.join(spec.shape for spec in TASKS.values())}."
    return f"Unknown task {name!r}.{hint}"
