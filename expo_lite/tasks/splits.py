"""Train and test: which problem belongs to which split, and which ones a limit leaves.

The text of a question decides, never its position.
"""

import random
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Sequence

from expo_lite.errors import ConfigError, DataError
from expo_lite.records import Level, Problem, level_order

Levels = tuple[Level, ...]

_HELD_OUT_SHARE = 10  # one question text in ten
_PLAIN_MARKS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})


def normalised(question: str) -> str:
    """Remove what makes no difference: case, spacing, composed accents, curly quotes, long dashes."""
    text = unicodedata.normalize("NFC", question).casefold().translate(_PLAIN_MARKS)
    return " ".join(text.split())


def hold_out(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem]]:
    """Split into train and test: a fixed 10% by CRC-32 of the normalised question is held out.

    Both sides get at least one of two or more different questions. Where the CRC holds out none, as in a file that was
    split in this way before, the tenth with the lowest are held out; where it holds out all, the highest is not.
    """
    codes = [zlib.crc32(normalised(problem.question).encode()) for problem in problems]
    held = {code for code in codes if code % _HELD_OUT_SHARE == 0}
    if len(set(codes)) > 1:
        if not held:
            held = set(sorted(set(codes))[: max(len(set(codes)) // _HELD_OUT_SHARE, 1)])
        elif len(held) == len(set(codes)):
            held.remove(max(held))
    train = [problem for problem, code in zip(problems, codes, strict=True) if code not in held]
    test = [problem for problem, code in zip(problems, codes, strict=True) if code in held]
    return train, test


def without_test_questions(train: Sequence[Problem], test: Sequence[Problem]) -> list[Problem]:
    """Drop the train problems whose normalised question is in the test split."""
    seen = {normalised(problem.question) for problem in test}
    return [problem for problem in train if normalised(problem.question) not in seen]


def check_choice(task: str, known_levels: Levels, levels: Levels, limit: int | None) -> None:
    """Raise ConfigError for levels that the task lacks or a limit below 1."""
    if limit is not None and limit < 1:
        raise ConfigError(f"The limit on problems must be at least 1, not {limit}.")
    unknown = sorted(set(levels) - set(known_levels), key=level_order)
    if unknown and not known_levels:
        raise ConfigError(f"Task {task!r} has no levels; leave --levels out.")
    if unknown:
        named, known = (", ".join(map(repr, some)) for some in (unknown, known_levels))
        raise ConfigError(f"Task {task!r} has no level {named}; its levels are {known}.")


def select(
    pool: Sequence[Problem], *, task: str, known_levels: Levels, levels: Levels, limit: int | None, seed: int
) -> list[Problem]:
    """Choose the problems of these levels, at most `limit` a level (in all, without levels), in the order of the pool.

    A smaller limit leaves a subset of what a larger one leaves.

    Raises:
        ConfigError: the task lacks a level, or the limit is below 1.
        DataError: nothing is left.
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
