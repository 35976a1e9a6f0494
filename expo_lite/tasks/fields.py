r"""From a row with any field names to a Problem: question, answer, level, subject and expert chain.

The answer field may hold the bare answer, a solution that ends in `#### answer` (GSM8K) or one with a `\boxed{answer}`
(MATH); the solution is then the expert chain too. A chain without a box gets one, so that it can be trained on as it
is. A level is a number or a word ("easy").
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import final_answer
from expo_lite.records import ALL, Level, Problem, level_of
from expo_lite.tasks.files import DataRow

LONGEST_TEXT = 1_000_000
"""Characters of a question, answer or chain: several times what the longest context holds."""
ROLES = {
    "question": ("question", "problem", "prompt"),
    "answer": ("answer", "gold", "solution"),
    "level": ("level",),
    "subject": ("subject", "type"),
    "chain": ("expert_chain", "chain", "solution"),
}
"""The usual field names of each role."""
_ID_FIELDS = ("problem_id", "unique_id")
_LARGEST_LEVEL = 9_999
_LONGEST_LEVEL = 40
_CONVERSATIONS = (["user"], ["user", "assistant"], ["system", "user"], ["system", "user", "assistant"])


@dataclass(frozen=True, slots=True)
class Fields:
    """Field names by role; the first that a row has is read."""

    names: Mapping[str, tuple[str, ...]]
    given: frozenset[str]
    """Roles whose field the user has named: it must be there."""

    @classmethod
    def of(cls, words: tuple[str, ...]) -> "Fields":
        """Read `--fields`, words like question=text; `level=` says that levels are not read.

        Raises:
            ConfigError: a word is not ROLE=NAME.
        """
        named: dict[str, tuple[str, ...]] = {}
        for word in words:
            role, equals, name = word.partition("=")
            if not equals or role not in ROLES:
                raise ConfigError(
                    f"Cannot read --fields {word!r}: expected ROLE=NAME, with {', '.join(ROLES)} as ROLE."
                )
            named[role] = (name,) if name else ()
        return cls(ROLES | named, frozenset(role for role, names in named.items() if names))

    def find(self, row: DataRow, role: str, *, required: bool = False) -> str:
        """Return the row's field for a role, one that is filled before one that is empty; '' if there is none."""
        names = self.names[role]
        present = [name for name in names if name in row.fields]
        if not present and (required or role in self.given):
            wanted, has = " or ".join(map(repr, names)) or "named", ", ".join(map(repr, row.fields)) or "none"
            raise DataError(
                f"{row.where}: no {role} in field {wanted} (the row's fields: {has}); name the right one with "
                f"--fields {role}=NAME."
            )
        return next((name for name in present if not _is_missing(row.fields[name])), next(iter(present), ""))

    def text(self, row: DataRow, role: str) -> str | None:
        """Return the row's text for a role; None if it has none."""
        name = self.find(row, role)
        return None if _is_missing(row.fields.get(name)) else _as_text(row, name, numbers=False)

    def required_text(self, row: DataRow, role: str) -> tuple[str, str]:
        """Return the name and the text of a field; raises DataError where it is missing or empty."""
        name = self.find(row, role, required=True)
        if _is_missing(row.fields[name]):
            raise DataError(
                f"{row.where}: {name!r} is empty. Fill in the {role}, take the row out, or name another field with "
                f"--fields {role}=NAME."
            )
        return name, _as_text(row, name, numbers=role == "answer")


def last_boxed(text: str) -> str | None:
    r"""Return what the last complete `\boxed{}` or `\fbox{}` holds, or the token after a bare `\boxed`; else None."""
    answer, form = final_answer(text)
    return answer if form == "boxed" else None


def problem_from_row(row: DataRow, problem_id: str, fields: Fields) -> Problem:
    """Read one row; its own `problem_id` or `unique_id` goes before the one given. Raises DataError."""
    if row.problem is not None:
        return row.problem
    row = _without_messages(row, fields)
    name, text = fields.required_text(row, "answer")
    answer, chain = _reference(row, name, text)
    written = fields.text(row, "chain")
    if written and written != text:
        chain = _ending_in_box(written, answer)
    return Problem(
        problem_id=_own_id(row) or problem_id,
        question=fields.required_text(row, "question")[1],
        answer=answer,
        level=_level(row, fields),
        subject=fields.text(row, "subject"),
        expert_chain=chain,
    )


def _without_messages(row: DataRow, fields: Fields) -> DataRow:
    """Turn a row of chat turns under `messages` into one of question and solution; leave any other as it is.

    The system's turn comes before the question; the assistant's is the solution where the row has no answer of its own.
    """
    turns = row.fields.get("messages")
    if turns is None or any(name in row.fields for name in fields.names["question"]):
        return row
    turns = turns if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns) else []
    said = {turn.get("role"): turn.get("content") for turn in turns}
    texts = all(isinstance(content, str) for content in said.values())
    if not texts or [turn.get("role") for turn in turns] not in _CONVERSATIONS:
        raise DataError(
            f"{row.where}: 'messages' must be one question: a user's turn, perhaps after a system's, perhaps before an "
            "assistant's with the solution. Each has a role and a text as content."
        )
    read = {name: value for name, value in row.fields.items() if name != "messages"}
    question = next(iter(fields.names["question"]), "question")
    read[question] = "\n\n".join(said[role].strip() for role in ("system", "user") if role in said)
    if "assistant" in said:
        read.setdefault("solution", said["assistant"])
    return DataRow(row.where, read)


def _own_id(row: DataRow) -> str | None:
    for name in _ID_FIELDS:
        value = row.fields.get(name)
        if isinstance(value, str) and value.strip():
            _check_text(row, name, value)
            return value
    return None


def _reference(row: DataRow, name: str, text: str) -> tuple[str, str | None]:
    """The answer that a field holds, and the chain that leads to it if there is one."""
    chain, mark, answer = text.rpartition("####")
    if mark and answer.strip() and "\n" not in answer.strip():
        without_calculator = re.sub(r"<<[^<>]*>>", "", chain).strip()  # GSM8K's <<48/2=24>>
        return answer.strip(), _ending_in_box(without_calculator, answer.strip())
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed, None if text.startswith("\\boxed") else text
    if name == "solution" and "\n" in text:
        raise DataError(f"{row.where}: no \\boxed{{}} in {name!r} to take the answer from.")
    return text, None


def _ending_in_box(chain: str, answer: str) -> str:
    return chain if last_boxed(chain) is not None else f"{chain}\nThe answer is \\boxed{{{answer}}}.".lstrip()


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _as_text(row: DataRow, name: str, *, numbers: bool) -> str:
    value = row.fields[name]
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # JSON has refused numbers that Python cannot write
    if numbers and isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if not isinstance(value, str):
        expected = "text or a number" if numbers else "text"
        raise DataError(f"{row.where}: {name!r} must be {expected}, got {type(value).__name__} {str(value)[:40]!r}.")
    if not value.strip():
        raise DataError(f"{row.where}: {name!r} is blank.")
    _check_text(row, name, value)
    return value.strip()


def _check_text(row: DataRow, name: str, value: str) -> None:
    """Refuse what cannot be written as UTF-8, or would take minutes to read: before anything is sampled."""
    if len(value) > LONGEST_TEXT:
        raise DataError(f"{row.where}: {name!r} has {len(value):,} characters; at most {LONGEST_TEXT:,} are read.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{row.where}: {name!r} has half of a surrogate pair (character {error.start + 1}).") from error


def _level(row: DataRow, fields: Fields) -> Level | None:
    name = fields.find(row, "level")
    value = row.fields.get(name)
    if _is_missing(value) or value == "Level ?":  # two geometry problems of MATH
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_LEVEL:
        return value
    level = level_of(value) if isinstance(value, str) else ""
    if isinstance(level, int) or (_is_word(level) and level != ALL):
        return level
    raise DataError(
        f"{row.where}: {name!r} must be a whole number of at most four digits, or like 'Level 5', or a word of at "
        f"most {_LONGEST_LEVEL} characters without a comma, not {ALL!r}, got {str(value)[:40]!r}; --fields level= "
        "reads no levels."
    )


def _is_word(level: str) -> bool:
    return 0 < len(level) <= _LONGEST_LEVEL and level.isprintable() and "," not in level
