r"""From a row with any field names to a Problem: question, answer, level, subject and expert chain.

The answer field may hold the bare answer, a solution that ends in `#### answer` (GSM8K) or one with a `\boxed{answer}`
(MATH); the solution is then the expert chain too. A chain without a box gets one, so that it can be trained on as it
is. A level is a number or a word ("easy").
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from expo_lite.errors import DataError
from expo_lite.grading import final_answer
from expo_lite.records import ALL, Level, Problem, level_of
from expo_lite.settings.groups import TaskOptions
from expo_lite.tasks.files import DataRow

LONGEST_TEXT = 1_000_000
"""Characters of a question, answer or chain: several times what the longest context holds."""
MESSAGES = "messages"
_LARGEST_LEVEL = 9_999
_ID_FIELDS = ("problem_id", "unique_id")
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_LONGEST_LEVEL = 40


@dataclass(frozen=True, slots=True)
class Fields:
    """Field names by role, the first that a row has is read; a name given by the user must be there."""

    names: Mapping[str, tuple[str, ...]]
    required: frozenset[str]

    @classmethod
    def of(cls, options: TaskOptions) -> "Fields":
        """The names of the options, else the usual ones; a name given as '' means that the role is not read."""
        given = {
            "question": options.question_field,
            "answer": options.answer_field,
            "level": options.level_field,
            "subject": options.subject_field,
            "chain": options.chain_field,
        }
        usual = {
            "question": ("question", "problem", "prompt"),
            "answer": ("answer", "gold", "solution"),
            "level": ("level",),
            "subject": ("subject", "type"),
            "chain": ("expert_chain", "chain", "solution"),
        }
        names = {role: usual[role] if name is None else (name,) * bool(name) for role, name in given.items()}
        return cls(names, frozenset(role for role, name in given.items() if name))


def last_boxed(text: str) -> str | None:
    r"""What the last complete `\boxed{}` or `\fbox{}` holds, or the token after a bare `\boxed`; None without one."""
    answer, found = final_answer(text)
    return answer if found == "boxed" else None


def split_at_hashes(solution: str) -> tuple[str, str] | None:
    r"""The answer after the last `####` and the chain before it, ending in `\boxed{answer}`; None without `####`.

    Calculator annotations (`<<48/2=24>>`) are taken out of the chain.
    """
    chain, mark, answer = solution.rpartition("####")
    answer = answer.strip()
    if not mark or not answer or "\n" in answer:
        return None
    return answer, ending_in_box(_ANNOTATION.sub("", chain).strip(), answer)


def ending_in_box(chain: str, answer: str) -> str:
    r"""The chain as it is if it has a box, else with a last sentence that boxes the answer."""
    return chain if last_boxed(chain) is not None else f"{chain}\nThe answer is \\boxed{{{answer}}}.".lstrip()


def problem_from_row(row: DataRow, problem_id: str, fields: Fields) -> Problem:
    """Read one row; its own `problem_id` or `unique_id` goes before the one given. Raises DataError."""
    row = without_messages(row, fields)
    name, text = _required_text(row, fields, "answer")
    answer, chain = _reference(row, name, text)
    written = _optional_text(row, fields, "chain")
    if written and written != text:
        chain = ending_in_box(written, answer)
    return Problem(
        problem_id=own_id(row) or problem_id,
        question=question_of(row, fields),
        answer=answer,
        level=_level(row, fields),
        subject=_optional_text(row, fields, "subject"),
        expert_chain=chain,
    )


def without_messages(row: DataRow, fields: Fields) -> DataRow:
    """A row of chat turns under `messages` as one of question and solution; any other as it is.

    The turns are perhaps a system's, then a user's, then perhaps an assistant's, which is the solution where the row
    has no answer of its own. What the system says stands before the question. Raises DataError for other turns.
    """
    turns = row.fields.get(MESSAGES)
    if turns is None or any(name in row.fields for name in fields.names["question"]):
        return row
    spoken: list[tuple[str, str]] = []
    for turn in turns if isinstance(turns, list) else [None]:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{row.where}: '{MESSAGES}' must be turns with a role and a text as content.")
        spoken.append((role, content))
    roles = [role for role, _ in spoken]
    if roles not in (["user"], ["user", "assistant"], ["system", "user"], ["system", "user", "assistant"]):
        raise DataError(
            f"{row.where}: '{MESSAGES}' has the turns {', '.join(roles) or 'of nobody'}; a problem is one question: "
            "perhaps a system's turn, a user's, and perhaps an assistant's with the solution."
        )
    said = dict(spoken)
    found = {name: value for name, value in row.fields.items() if name != MESSAGES}
    name = next(iter(fields.names["question"]), "question")
    found[name] = "\n\n".join(said[role].strip() for role in ("system", "user") if role in said)
    if "assistant" in said:
        found.setdefault("solution", said["assistant"])
    return DataRow(row.where, found)


def own_id(row: DataRow) -> str | None:
    """The row's own identifier, if it is text."""
    for name in _ID_FIELDS:
        value = row.fields.get(name)
        if isinstance(value, str) and value.strip():
            _check_text(row, name, value)
            return value
    return None


def question_of(row: DataRow, fields: Fields) -> str:
    """The row's question; raises DataError where it is missing, empty or no text."""
    return _required_text(row, fields, "question")[1]


def answer_text_of(row: DataRow, fields: Fields) -> str:
    """The row's answer field as it stands; raises DataError where it is missing, empty or neither text nor number."""
    return _required_text(row, fields, "answer")[1]


def _reference(row: DataRow, name: str, text: str) -> tuple[str, str | None]:
    at_hashes = split_at_hashes(text)
    if at_hashes:
        return at_hashes
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed, None if text.startswith("\\boxed") else text
    if name == "solution" and "\n" in text:
        raise DataError(f"{row.where}: no \\boxed{{}} in {name!r} to take the answer from.")
    return text, None


def _required_text(row: DataRow, fields: Fields, role: str) -> tuple[str, str]:
    names = fields.names[role]
    present = [name for name in names if not _is_missing(row.fields.get(name))]
    if not present and (empty := [name for name in names if name in row.fields]):
        raise DataError(
            f"{row.where}: {empty[0]!r} is empty. Fill in the {role}, take the row out, or name another field with "
            f"--{role}-field."
        )
    if not present:
        wanted = " or ".join(map(repr, names)) or "named"
        has = ", ".join(map(repr, row.fields)) or "none"
        hint = "" if role in fields.required else f"; name the right one with --{role}-field"
        raise DataError(f"{row.where}: no {role} in field {wanted} (the row's fields: {has}){hint}.")
    return present[0], _as_text(row, present[0], row.fields[present[0]], numbers=role == "answer")


def _optional_text(row: DataRow, fields: Fields, role: str) -> str | None:
    name = _optional_name(row, fields, role)
    if name is None or _is_missing(row.fields[name]):
        return None
    return _as_text(row, name, row.fields[name], numbers=False)


def _optional_name(row: DataRow, fields: Fields, role: str) -> str | None:
    present = [name for name in fields.names[role] if name in row.fields]
    if not present and role in fields.required:
        has = ", ".join(map(repr, row.fields))
        raise DataError(f"{row.where}: no field {fields.names[role][0]!r} for the {role} (the row's fields: {has}).")
    filled = [name for name in present if not _is_missing(row.fields[name])]
    return next(iter(filled or present), None)


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _as_text(row: DataRow, name: str, value: object, *, numbers: bool) -> str:
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
    name = _optional_name(row, fields, "level")
    value = row.fields[name] if name else None
    if _is_missing(value) or value == "Level ?":  # two geometry problems of MATH
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_LEVEL:
        return value
    level = level_of(value) if isinstance(value, str) else ""
    if isinstance(level, str) and not _is_word(level):
        raise DataError(
            f"{row.where}: {name!r} must be a whole number of at most four digits, or like 'Level 5', or a word of at "
            f"most {_LONGEST_LEVEL} characters without a comma, not {ALL!r}, got {str(value)[:40]!r}; --level-field '' "
            "reads no levels."
        )
    return level


def _is_word(level: str) -> bool:
    return 0 < len(level) <= _LONGEST_LEVEL and level.isprintable() and "," not in level and level != ALL
