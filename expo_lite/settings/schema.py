"""Check, read and write settings: dataclasses whose fields carry their bounds, from TOML and to JSON.

One field is one flag. `Annotated[int, Interval(ge=1)]` bounds a field, and pydantic holds the values against the types.
pydantic takes longer to import than the rest of the command line, so it is imported with the first values.
"""

import dataclasses
import functools
import json
import re
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from annotated_types import Interval

from expo_lite.errors import ConfigError
from expo_lite.settings.models import suggestion
from expo_lite.settings.synonyms import our_flags

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

LONGEST_QUOTE = 80
"""Characters of a value that an error quotes."""
UNREADABLE = "a value is not UTF-8, has a NUL, is too long, or nested too deeply."
LARGEST_SEED = 2**63 - 1
AT_LEAST_0 = Interval(ge=0, le=10**9)
AT_LEAST_1 = Interval(ge=1, le=10**9)
SEED = Interval(ge=0, le=LARGEST_SEED)
COMPLETIONS = Interval(ge=1, le=4_096)
"""Bounds of the number of completions or problems."""
PROBLEMS = Interval(ge=1, le=1_000_000)
TOKENS = Interval(ge=1, le=2**20)
ROWS = Interval(ge=1, le=2**16)
SHARE = Interval(gt=0, le=1)
TEMPERATURE = Interval(gt=0, le=100)
COEFFICIENT = Interval(ge=0, le=1_000)
POSITIVE = Interval(gt=0, le=1_000)


def from_mapping(cls: type[T], values: dict[str, Any], where: str = "", *, any_text: bool = False) -> T:
    """Build a dataclass from nested tables; what they leave out keeps its default.

    Values must have the field's own type, but a text becomes a path and a list a tuple. With `any_text`, for what is no
    setting, a text may have a NUL.

    Raises:
        ConfigError: an unknown name, a missing value, or a value of the wrong type or out of bounds. The error names
            `where`, the setting and the value.
    """
    from pydantic import ValidationError

    prefix = f"{where}: " if where else ""
    _check_names(cls, values, prefix, list(_dotted_names(cls)))
    try:
        # As JSON, so that strict types still take a list for a tuple and a text for a path
        text = json.dumps(values, default=str)
        if "\\u0000" in text and not any_text:
            raise ConfigError(prefix + UNREADABLE)
        built: T = _with_home(_adapter(cls).validate_json(text, strict=True))  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(prefix + _first_problem(cls, error)) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or thousands of lists in one another
        raise ConfigError(prefix + UNREADABLE) from error
    return built


def typed(settings: T) -> T:
    """Check settings made in Python, and give each value its field's type: 'runs/x' becomes a path.

    Raises:
        ConfigError: a value is of another type or out of bounds.
    """
    return from_mapping(type(settings), dataclasses.asdict(settings))  # type: ignore[call-overload]


@functools.cache
def _adapter(cls: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _first_problem(cls: type[Any], error: Any) -> str:
    """Say in one sentence which setting is wrong, what it must be and what was given."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return UNREADABLE
    name, group = "", cls
    for part in first["loc"]:  # below a field stand places in a list and the members of a union
        name = str(part)
        group = typing.get_type_hints(group)[name]
        if not dataclasses.is_dataclass(group):
            break
    if first["type"] == "missing":
        return f"{name} is missing."
    given = repr(first["input"])
    given = given if len(given) <= LONGEST_QUOTE else f"{given[:LONGEST_QUOTE]}..."
    near = suggestion(str(first["input"]), re.findall("'(.*?)'", first["msg"]))
    return f"{name} must be {first['msg'].removeprefix('Input should be ')}, not {given}.{near}"


def _with_home(value: Any) -> Any:
    """Put the home folder in place of `~` in every path."""
    if isinstance(value, Path):
        return value.expanduser()
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return dataclasses.replace(value, **{f.name: _with_home(getattr(value, f.name)) for f in dataclasses.fields(value)})


def changed(group: Any) -> list[str]:
    """The settings of a group that are not at their default."""
    return [f.name for f in dataclasses.fields(group) if getattr(group, f.name) != f.default]


def to_json(settings: Any) -> dict[str, Any]:
    """Settings as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return plain


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by dotted names, in their order."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested tables in one; where both have a value, the second one's."""
    both = dict(below)
    for key, value in above.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


def _dotted_names(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """The settings of a dataclass and of its groups."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _dotted_names(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def _check_names(cls: type[Any], values: dict[str, Any], prefix: str, known: Sequence[str]) -> None:
    """Refuse an unknown setting; `known` are those of the whole file."""
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{prefix}unknown setting '{key}'.{_hint(key, hints, known)}")
        if isinstance(value, dict) and dataclasses.is_dataclass(hints[key]):
            _check_names(hints[key], value, f"{prefix}{key}: ", known)


def _hint(key: str, siblings: dict[str, Any], known: Sequence[str]) -> str:
    """Suggest the table that an unknown setting belongs to, or the nearest name; '' if there is neither."""
    place = next((name for name in known if name.rpartition(".")[2] == key), None)
    if place is None:
        names = {flag.split()[0][2:].replace("-", "_") for flag in our_flags(key)}
        ours = [dotted for dotted in known if dotted.rpartition(".")[2] in names]
        if ours:
            name = ours[0].rpartition(".")[2] if len(ours) == 1 else " or ".join(ours)
            return f" Here it is called {name}.{'' if name in siblings or ours[1:] else _hint(name, siblings, known)}"
        return suggestion(key, siblings)
    table = place.rpartition(".")[0]
    where = f"in the table [{table}], or is written as {place} = ..." if table else "at the top, before the first table"
    return f" It stands {where}."


def not_a_file(path: Path) -> str | None:
    """Say what a path leads to if not a file, else None. Reading a pipe or a device may never end.

    Raises:
        OSError: the path cannot be looked at, as when its name is too long.
    """
    if not path.exists() or path.is_file():
        return None
    return "a folder" if path.is_dir() else "a pipe or a device, not a file"


def toml_values(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises ConfigError if it is missing or not TOML."""
    try:
        if what := not_a_file(path):
            raise ConfigError(f"Cannot read the settings file '{path}': it is {what}.")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the settings file '{path}': {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, a number of 5,000 digits
        raise ConfigError(f"'{path}' is not valid TOML: {error}.") from error
