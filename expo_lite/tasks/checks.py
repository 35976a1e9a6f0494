r"""Checks of problems at load: answers that no reply can match, and data that is not what it seems.

A reply matches an answer only if the grader finds the answer equal to itself, alone or in a `\boxed{}`. Prose is equal
to itself too, but nobody writes the same sentence twice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from expo_lite.errors import DataError
from expo_lite.grading import GradeItem, Grader
from expo_lite.records import Problem
from expo_lite.tasks.splits import normalised

T = TypeVar("T")

_MISSING = re.compile(r"""(?i:none|nan|#?n/a|<na>|null|nil)|NA|[-\u2010-\u2015.,;:?!_'"`~\s]*""")
"""Words that stand for no answer (None, nan and the like), and punctuation alone."""
_VERBS = frozenset(
    "is are was were be has have had get gets got gives makes means equals need needs find finds let we he she they "
    "it so hence thus therefore because since then make will would can should".split()
)
_MOST_WORDS = 7
_LONG = 60  # characters
_MOST_LONG = 8
_SHOWN = 80  # characters
QUESTIONS = tuple("question problem prompt query instruction messages conversations".split())
"""The usual field names of a question, the best first."""
CONTENT = frozenset("body context passage paragraph story premise choices options input table image images".split())
"""Columns that a question may not make sense without."""
_NEEDED = re.compile(rf"((.*\.)?({'|'.join(CONTENT)})|{'|'.join(QUESTIONS)})(?=\.|$)", re.IGNORECASE)
_TEMPLATED = re.compile(
    r"<\|(?:im_start|start_header_id|begin_of_text|user|system)\|>|\[/?INST\]|<start_of_turn>|<bos>|<\uff5cUser\uff5c>"
)
_HEADED = re.compile(r"(?:\\text\{)?\s*(?:\(?[A-J][).:]|(?:yes|no|true|false)\b[,.;:])", re.IGNORECASE)


def is_prose(answer: str) -> bool:
    """Check for a sentence; one may follow the letter of a choice, or yes or no."""
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", " ", answer.lower()))
    has_verb = not _VERBS.isdisjoint(words) and (len(words) > 3 or re.search(r"\d", answer) is not None)
    return (has_verb or len(words) > _MOST_WORDS or "\u3002" in answer) and not _HEADED.match(answer)


def unmatched(problems: Iterable[Problem], grader: Grader) -> set[str]:
    """Return the answers that no reply can match."""
    answers = {problem.answer for problem in problems}
    read = [answer for answer in answers if not (_MISSING.fullmatch(answer) or is_prose(answer))]
    bad = answers.difference(read)
    for form in ("\\boxed{ANSWER}", "ANSWER"):
        read = _failing(read, [GradeItem(answer, form.replace("ANSWER", answer)) for answer in read], grader)
    return bad.union(read)


def _failing(things: Sequence[T], items: Sequence[GradeItem], grader: Grader, but: str = "") -> list[T]:
    """The things whose items are wrong, for any reason but this one."""
    verdicts = zip(things, grader.grade_many(items), strict=True)
    return [thing for thing, verdict in verdicts if not verdict.correct and verdict.reason != but]


def without_unmatched(
    task: str, splits: Sequence[list[Problem]], grader: Grader
) -> tuple[list[list[Problem]], list[str]]:
    """Drop the problems whose answer no reply can match, and say so; raises DataError if that is most of them."""
    found = [problem for split in splits for problem in split]
    bad = unmatched(found, grader)
    dropped = [problem for problem in found if problem.answer in bad]
    if not dropped:
        return [*splits], []
    shown = "; ".join(f"{_short(each.answer or str(each.expert_chain))} ({each.problem_id})" for each in dropped[:3])
    what = f"{len(dropped):,} of {len(found):,} problems have answers that no reply could match: {shown}."
    todo = "Give the bare answer, or a solution that ends in '#### ANSWER' or \\boxed{ANSWER}"
    if 2 * len(dropped) > len(found):
        raise DataError(f"Task {task!r}: {what} {todo}; --fields answer=NAME names another field.")
    kept = [[problem for problem in split if problem.answer not in bad] for split in splits]
    return kept, [f"{what} They are left out. {todo}."]


def doubts(problems: Sequence[Problem], unread: Mapping[str, int], grader: Grader) -> Iterator[str]:
    """Say what is odd about the problems; `unread` counts the rows with each column that was not read."""
    needed = {part[0]: n for name, n in unread.items() if (part := _NEEDED.match(name))}  # options.A is options
    for name, n in needed.items():
        yield f"column {name!r} is not read ({n:,} rows). If the questions need it, write it into them."
    firsts: dict[str, Problem] = {}
    pairs = [(firsts.setdefault(normalised(each.question), each), each) for each in problems]
    pairs = [(one, other) for one, other in pairs if one.answer != other.answer]
    apart = _failing(pairs, [GradeItem(one.answer, f"\\boxed{{{other.answer}}}") for one, other in pairs], grader)
    for one, other in apart[:1]:
        yield (
            f"{len(apart):,} of {len(problems):,} problems repeat a question with another answer: "
            f"{_short(one.question)} has {_short(one.answer)} ({one.problem_id}) and {_short(other.answer)} "
            f"({other.problem_id}). All are kept: take the wrong ones out, or the reward contradicts itself."
        )
    marked = [(each.problem_id, mark[0]) for each in problems if (mark := _TEMPLATED.search(each.question))]
    for name, found in marked[:1]:
        yield (
            f"{len(marked):,} of {len(problems):,} questions have been through a chat template, and would go through "
            f"another one: {name} has {found!r}. Give the bare questions."
        )
    long = sorted({each.answer for each in problems if len(each.answer) > _LONG}, key=len)[-_MOST_LONG:]
    slow = _failing(long, [GradeItem(answer, f"\\boxed{{{answer} + 0}}") for answer in long], grader, "different")
    for answer in slow[:1]:
        yield (
            f"{len(slow)} of the {len(long)} longest answers take too long to compare, even with themselves, such as "
            f"{_short(answer)}: a reply that writes them otherwise counts as wrong."
        )


def summary(task: str, train: Sequence[Problem], test: Sequence[Problem], unread: Iterable[str]) -> str:
    """Say what was read, with the first problem."""
    first, columns = (*train, *test)[0], ", ".join(unread)
    read = f"{len(train) + len(test):,} problems; {len(test):,} held out{'; not read: ' * bool(columns)}{columns}."
    return f"{task}: {read} The first: {_short(first.question)}, answer {_short(first.answer)}."


def _short(text: str) -> str:
    line = " ".join(text.split())
    return f"'{line if len(line) <= _SHOWN else f'{line[:_SHOWN]} ...'}'"
