r"""The Problem in a row with any field names: question, answer, level, subject and expert chain.

Names are matched whatever their case, spaces and underscores; fields of a nested one have dotted names
(`reward_model.ground_truth`). A question or a solution may be a list of chat turns. The answer field may hold the bare
answer, a solution that ends in `#### answer` (GSM8K) or "The answer is answer", or one with a `\boxed{answer}`
(MATH); the solution is then the expert chain too. A chain without a box gets one, so that it can be trained on as it
is. A level is a number or a word ("easy").
"""

import functools
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from expo_lite.errors import ConfigError, DataError
from expo_lite.grading import final_answer
from expo_lite.records import ALL, Level, Problem, level_of
from expo_lite.tasks.checks import CONTENT, QUESTIONS, is_prose
from expo_lite.tasks.files import DataRow

LONGEST_TEXT = 1_000_000
"""Characters of a question, answer or chain: several times what the longest context holds."""
_SOLUTIONS = "solution response output completion"
ROLES = {
    "question": QUESTIONS,
    "answer": tuple(
        "final_answer answer gold ground_truth reward_model.ground_truth expected_answer correct_answer "
        f"{_SOLUTIONS}".split()
    ),
    "level": ("level",),
    "subject": ("subject", "type"),
    "chain": ("expert_chain", "chain", "solution"),
}
"""The usual field names of each role, the best first."""
_ID_FIELDS = ("problem_id", "unique_id")
_LONGEST_LEVEL = 40
_DEEPEST = 4
_SPEAKERS = {"developer": "system", "human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}
_CONVERSATIONS = [[*system, *turns] for system in ([], ["system"]) for turns in (["user"], ["user", "assistant"])]
_GOLD, _ASKS, _CONTEXT = (
    re.compile("|".join(words), re.IGNORECASE) for words in (("answer", "gold", "truth", "target"), QUESTIONS, CONTENT)
)
"""Names that are likely those of an answer, a question, or what a question is about."""
_QUOTED = re.compile(r"""\[?\s*(['"])([^'"]+)\1\s*\]?""")


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

    def find(self, row: DataRow, role: str) -> str:
        """Return the row's field for a role, one that is filled before one that is empty; '' if there is none."""
        present = _matching(tuple(row.fields), self.names[role])
        return next((name for name in present if not _is_missing(row.fields[name])), present[0] if present else "")

    def unread(self, row: DataRow) -> list[str]:
        """Return those of a row's fields that are filled and not read."""
        read = {*_ID_FIELDS, *(self.find(row, role) for role in self.names)}
        return [name for name, value in row.fields.items() if name not in read and not _is_missing(value)]

    def check(self, row: DataRow) -> None:
        """Raise DataError where a row lacks its question, its answer, or a field that the user has named."""
        required = [role for role in ROLES if role in self.given or role in ("question", "answer")]
        missing = [role for role in required if not self.find(row, role)]
        if not missing:
            return
        free = [name for name in self.unread(row) if isinstance(row.fields[name], str | int | float)]
        golds = [name for name in free if _GOLD.search(name)]
        asks = [name for name in free if _ASKS.search(name) and name not in golds]
        plain = [name for name in free if name not in golds and not _CONTEXT.search(name)]
        longest = max(asks or plain, key=lambda name: len(str(row.fields[name])), default="NAME")
        others = [name for name in plain if name not in asks and ("question" not in missing or name != longest)]
        proposed = {"question": longest, "answer": next(reversed(golds or others), "NAME")}
        words = " ".join(shlex.quote(f"{role}={proposed.get(role, 'NAME')}") for role in missing)
        lacks = [f"no {role} in field {' or '.join(map(repr, self.names[role][:3]))}" for role in missing]
        raise DataError(
            f"{row.where}: {' and '.join(lacks)} (the row's fields: {', '.join(map(repr, row.fields)) or 'none'}); "
            f"name the right {'one' if len(missing) == 1 else 'ones'} with --fields {words}."
        )

    def text(self, row: DataRow, role: str) -> str | None:
        """Return the row's text for a role; None if it has none."""
        name = self.find(row, role)
        return None if _is_missing(row.fields.get(name)) else _as_text(row, name, numbers=False)

    def required_text(self, row: DataRow, role: str) -> tuple[str, str]:
        """Return the name and the text of a field; raises DataError where it is empty."""
        name = self.find(row, role)
        if _is_missing(row.fields[name]):
            raise DataError(
                f"{row.where}: {name!r} is empty. Fill in the {role}, take the row out (--skip-bad-rows), or name "
                f"another field with --fields {role}=NAME."
            )
        return name, _as_text(row, name, numbers=role == "answer")


@functools.lru_cache(maxsize=4096)
def _matching(fields: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    """The fields that have one of these names, in the order of the names."""
    by_key: dict[str, str] = {}
    for field in fields:
        by_key.setdefault(_key(field), field)
    found = (name if name in fields else by_key.get(_key(name)) for name in names)
    return [field for field in found if field is not None]


def _key(name: str) -> str:
    return re.sub(r"[^\w.]|_", "", str(name)).lower()


def problem_from_row(row: DataRow, problem_id: str, fields: Fields) -> Problem:
    """Read one row; its own `problem_id` or `unique_id` goes before the one given. Raises DataError.

    The answer is empty where the row has a solution that does not say which part of it is the answer.
    """
    if row.problem is not None:
        return row.problem
    row = _without_turns(row, fields)
    fields.check(row)
    name, text = fields.required_text(row, "answer")
    answer, chain = _reference(name, text)
    written = fields.text(row, "chain")
    if written and written != text:
        chain = _ending_in_box(written, answer)
    question, level = fields.required_text(row, "question")[1], _level(row, fields)
    return Problem(_own_id(row) or problem_id, question, answer, level, fields.text(row, "subject"), chain)


def flat(fields: Mapping[str, object], depth: int = _DEEPEST) -> Mapping[str, object]:
    """Give the fields of nested mappings dotted names."""
    if not depth or not any(isinstance(value, Mapping) for value in fields.values()):
        return fields
    found: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": each for key, each in flat(value, depth - 1).items()}
        else:
            found[name] = value
    return found


def _without_turns(row: DataRow, fields: Fields) -> DataRow:
    """Turn chat turns in the place of a question or an answer into texts.

    The system's turn comes before the question; the assistant's is the solution where the row has no answer of its own.
    """
    read: dict[str, object] = {}
    for name in {fields.find(row, "question"), fields.find(row, "answer")} - {""}:
        turns = row.fields[name]
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
            continue
        named = [str(turn.get("role") or turn.get("from")).lower() for turn in turns]
        speakers = [_SPEAKERS.get(name, name) for name in named]
        texts = [turn.get("content", turn.get("value")) for turn in turns]
        said = dict(zip(speakers, texts, strict=True))
        if speakers not in [*_CONVERSATIONS, ["assistant"]] or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"{row.where}: {name!r} must be one question: a user's turn, perhaps after a system's, perhaps before "
                "an assistant's with the solution. Each has a role and a text as content."
            )
        solution = said.pop("assistant", None)
        read[name] = "\n\n".join(map(str.strip, said.values())) or solution
        if solution and said:
            read["solution"] = row.fields.get("solution", solution)
    return DataRow(row.where, {**row.fields, **read}) if read else row


def _own_id(row: DataRow) -> str | None:
    for name in _ID_FIELDS:
        value = row.fields.get(name)
        if isinstance(value, str) and value.strip():
            _check_text(row, name, value)
            return value
    return None


def _reference(name: str, text: str) -> tuple[str, str | None]:
    """The answer that a field holds, and the chain that leads to it if there is one."""
    chain, mark, ending = text.rpartition("####")
    first, _, after = ending.strip().partition("\n")
    if mark and first and (not after or after.strip().lower().startswith("the answer is")):
        without_calculator = re.sub(r"<<[^<>]*>>", "", chain).strip()  # GSM8K's <<48/2=24>>
        return first.strip(), _ending_in_box(without_calculator, first.strip())
    answer, form = final_answer(text)
    if answer is not None and form != "hashes":
        return answer, None if text.startswith("\\boxed") else _ending_in_box(text, answer)
    if _key(name) in _SOLUTIONS.split() and (is_prose(text) or text.count("=") > 1 or "\n" in text):
        return "", text
    quoted = _QUOTED.fullmatch(text)  # a list of one, as Python or JSON writes it
    return quoted[2].strip() if quoted else text, None


def _ending_in_box(chain: str, answer: str) -> str:
    return chain if final_answer(chain)[1] == "boxed" else f"{chain}\nThe answer is \\boxed{{{answer}}}.".lstrip()


def _is_missing(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _as_text(row: DataRow, name: str, *, numbers: bool) -> str:
    value = row.fields[name]
    if numbers and isinstance(value, list) and len(value) == 1:
        value = value[0]
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # JSON has refused numbers that Python cannot write
    if numbers and isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if not isinstance(value, str):
        expected = "text or a number" if numbers else "text"
        raise DataError(f"{row.where}: {name!r} must be {expected}, got {type(value).__name__} {str(value)[:40]!r}.")
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
    if _is_missing(row.fields.get(name)) or row.fields[name] == "Level ?":  # two geometry problems of MATH
        return None
    level = level_of(_as_text(row, name, numbers=True))
    if isinstance(level, int):
        return level
    if len(level) <= _LONGEST_LEVEL and level.isprintable() and "," not in level and level != ALL:
        return level
    raise DataError(
        f"{row.where}: {name!r} must be a whole number of at most four digits, or like 'Level 5', or a word of at "
        f"most {_LONGEST_LEVEL} characters without a comma, not {ALL!r}, got {level[:40]!r}; --fields level= "
        "reads no levels."
    )
