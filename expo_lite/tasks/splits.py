"""Which problem belongs to which split, and which ones a limit leaves. Decided by text alone, never by position."""

import random
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, TypeVar

from expo_lite.errors import ConfigError, DataError
from expo_lite.records import Level, Problem, level_order

DRAWS_IN_VAIN = 100_000
"""After so many draws without a new question there are taken to be no more."""
_HELD_OUT_SHARE = 10  # one question text in ten
_TEST_SHARE = 8  # of generated questions one text in eight belongs to the test split, whatever the seed
_PLAIN_MARKS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})


class Question(Protocol):
    """Anything that asks a question."""

    @property
    def question(self) -> str:
        """The problem in words."""


Drawn = TypeVar("Drawn", bound=Question)


def normalised(question: str) -> str:
    """The question without what makes no difference: case, spacing, composed accents, curly quotes, long dashes."""
    text = unicodedata.normalize("NFC", question).casefold().translate(_PLAIN_MARKS)
    return " ".join(text.split())


def _crc(question: str) -> int:
    return zlib.crc32(normalised(question).encode())


def hold_out(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """Split into train and test: a fixed 10% by CRC-32 of the normalised question is held out.

    Of two or more different questions at least one is held out and at least one is not, so that a small file can be
    used: where the CRC puts all on one side, the question with the extreme CRC changes over.
    """
    codes = [_crc(problem.question) for problem in problems]
    held = {code for code in codes if code % _HELD_OUT_SHARE == 0}
    if len(set(codes)) > 1:
        if not held:
            held = {min(codes)}
        elif len(held) == len(set(codes)):
            held.remove(max(held))
    train = [problem for problem, code in zip(problems, codes, strict=True) if code not in held]
    test = [problem for problem, code in zip(problems, codes, strict=True) if code in held]
    return train, test


def without_test_questions(train: Sequence[Problem], test: Sequence[Problem]) -> list[Problem]:
    """The train problems whose normalised question is not in the test split."""
    seen = {normalised(problem.question) for problem in test}
    return [problem for problem in train if normalised(problem.question) not in seen]


def is_test(question: str) -> bool:
    """Whether a generated question belongs to the test split: decided by its text alone, so the splits cannot meet."""
    return zlib.crc32(question.encode()) % _TEST_SHARE == 0


def distinct(
    generate: Callable[[random.Random, int], Drawn], task: str, split: Literal["train", "test"], level: int, seed: int
) -> Iterator[Drawn]:
    """Distinct problems of one level and split of a generated task, the same for the same seed.

    They end only when there seem to be no more.
    """
    rng = random.Random(f"{task}-{split}-{level}-{seed}")  # noqa: S311
    seen: set[str] = set()
    n_in_vain = 0
    while n_in_vain < DRAWS_IN_VAIN:
        drawn = generate(rng, level)
        n_in_vain += 1
        if drawn.question not in seen and is_test(drawn.question) == (split == "test"):
            seen.add(drawn.question)
            n_in_vain = 0
            yield drawn


def check_choice(task: str, known_levels: tuple[Level, ...], levels: tuple[Level, ...], limit: int | None) -> None:
    """Raise ConfigError for levels that the task lacks or a limit below 1."""
    if limit is not None and limit < 1:
        raise ConfigError(f"The limit on problems must be at least 1, not {limit}.")
    unknown = sorted(set(levels) - set(known_levels), key=level_order)
    if unknown and not known_levels:
        raise ConfigError(f"Task {task!r} has no levels; leave --levels out.")
    if unknown:
        named, known = (", ".join(map(repr, some)) for some in (unknown, known_levels))
        raise ConfigError(f"Task {task!r} has no level {named}; its levels are {known}.")


def fewer_than_asked(
    problems: Sequence[Problem],
    *,
    task: str,
    known_levels: tuple[Level, ...],
    levels: tuple[Level, ...],
    limit: int | None,
) -> str | None:
    """What to say where a task has fewer problems, of some level, than were asked for; else None."""
    if limit is None:
        return None
    counts = Counter(problem.level if known_levels else None for problem in problems)
    short = {level: counts[level] for level in (levels or known_levels or (None,)) if counts[level] < limit}
    if not short:
        return None
    found = ", ".join(f"{n:,}" if level is None else f"{n:,} of level {level}" for level, n in short.items())
    return f"task '{task}' has fewer than {limit:,} problems here: {found}."


def select(
    pool: Sequence[Problem],
    *,
    task: str,
    known_levels: tuple[Level, ...],
    levels: tuple[Level, ...],
    limit: int | None,
    seed: int,
) -> list[Problem]:
    """The problems of these levels, at most `limit` a level (or in all, without levels), in the order of the pool.

    A smaller limit leaves a subset of what a larger one leaves. Raises ConfigError as `check_choice` does, DataError
    where nothing is left.
    """
    check_choice(task, known_levels, levels, limit)
    chosen = [problem for problem in pool if not levels or problem.level in levels]
    if not chosen:
        raise DataError(f"Task {task!r} has no problem of level {', '.join(map(str, levels))} in this split.")
    if limit is None:
        return chosen
    by_level: defaultdict[Level | None, list[int]] = defaultdict(list)
    for i, problem in enumerate(chosen):
        by_level[problem.level if known_levels else None].append(i)
    kept: list[int] = []
    for level, places in by_level.items():
        if len(places) > limit:
            random.Random(f"{seed}-{level}").shuffle(places)  # noqa: S311
        kept += places[:limit]
    return [chosen[i] for i in sorted(kept)]
