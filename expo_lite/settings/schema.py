"""How settings are bounded, read and written: frozen dataclasses, TOML in, JSON out.

One field is one flag. A field's bounds stand in its type, `Annotated[int, AT_LEAST_1]`, and hold for every member of a
tuple.
"""

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from expo_lite.errors import ConfigError
from expo_lite.records import level_of
from expo_lite.settings.models import suggestion

T = TypeVar("T")

RENAMED = {"n": "problems"}
"""Settings of earlier versions that have another name now."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be, its ends included except `above`; `why` ends the sentence that refuses it."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    why: str = ""

    def allow(self, value: float) -> bool:
        """Whether a number is within the bounds; NaN never is."""
        return value > self.above and self.least <= value <= self.most

    def __str__(self) -> str:
        """'at least 1 and at most 4,096'."""
        low = f"above {self.above:g}" if self.above > -math.inf else f"at least {self.least:g}"
        return f"{low} and at most {self.most:,}"


LONGEST_TEXT = 4_096
"""Characters of a setting that is a text: as long as a path can be on Linux."""
LONGEST_QUOTE = 80
"""Characters of a value that an error quotes."""
LARGEST_SEED = 2**63 - 1
AT_LEAST_0 = Bounds(least=0, most=10**9)
AT_LEAST_1 = Bounds(least=1, most=10**9)
SEED = Bounds(least=0, most=LARGEST_SEED)
COMPLETIONS = Bounds(least=1, most=4_096)
"""How many completions or problems can be asked for at once."""
PROBLEMS = Bounds(least=1, most=1_000_000, why="; leave it out for all")
TOKENS = Bounds(least=1, most=2**20)
ROWS = Bounds(least=1, most=2**16)
SHARE = Bounds(above=0, most=1)
COEFFICIENT = Bounds(least=0, most=1_000)
POSITIVE = Bounds(above=0, most=1_000)


def check_values(settings: Any) -> None:
    """Hold every value of some settings, groups included, against the bounds and choices in its type.

    Raises:
        ConfigError: one is out of bounds or not among the choices; the setting, the value and what it may be are named.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        name, value, hint = field.name, getattr(settings, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            check_values(value)
            continue
        for member in value if isinstance(value, tuple) else (value,):
            _check_member(name, member, hint)


def _check_member(name: str, member: Any, hint: Any) -> None:
    """Hold one value against the bounds in a field's type, or against its choices; a text must be usable."""
    if isinstance(member, str | Path) and (problem := unusable(str(member))):
        raise ConfigError(f"{name} {problem}: '{str(member)[:LONGEST_QUOTE]}'.")
    if get_origin(hint) is Annotated:
        for bounds in (about for about in get_args(hint) if isinstance(about, Bounds)):
            if isinstance(member, int | float) and not bounds.allow(member):
                raise ConfigError(f"{name} must be {bounds}, not {_given(member)}{bounds.why}.")
    elif member is not None and (choices := _choices(hint)) and member not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, not {member}.")


def unusable(text: str) -> str | None:
    """Why a text can be neither a setting nor a file's name; None if it can."""
    if "\0" in text:
        return "has a NUL, which no file name can have"
    if len(text) > LONGEST_TEXT:
        return f"has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8; rename the file, or write the setting anew"
    return None


def _given(value: Any) -> str:
    """A value as an error quotes it: not at any length, and numbers of thousands of digits cannot be written at all."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    try:
        written = repr(value)
    except (ValueError, RecursionError):  # such a number inside a list, or thousands of lists in one another
        return f"a {type(value).__name__}"
    return written if len(written) <= LONGEST_QUOTE else f"{written[:LONGEST_QUOTE]}..."


def _choices(hint: Any) -> tuple[Any, ...]:
    """What `Literal[...]` allows, also inside `... | None` and a tuple; () for other types."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((found for inner in get_args(hint) if (found := _choices(inner))), ())


def check_rules(rules: Sequence[tuple[bool, str]]) -> None:
    """Raise ConfigError with the message of the first rule that does not hold."""
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)


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


def _places(cls: type[Any], prefix: str = "") -> Iterator[str]:
    """The settings of a dataclass and of its groups, by dotted names."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _places(hint, f"{prefix}{name}.")
        else:
            yield prefix + name


def _check_names(cls: type[Any], values: dict[str, Any], where: str, places: Sequence[str]) -> None:
    """Refuse a setting that there is not, or not in this table; `places` are those of the whole file."""
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown setting '{key}'.{_hint(key, hints, places)}")
        if isinstance(value, dict) and dataclasses.is_dataclass(hints[key]):
            _check_names(hints[key], value, f"{where}: {key}", places)


def _hint(key: str, known: dict[str, Any], places: Sequence[str]) -> str:
    """What was meant by an unknown setting, or where it belongs; '' where nobody knows."""
    if (renamed := RENAMED.get(key)) in known:
        return f" It is called '{renamed}' now."
    place = next((place for place in places if place.rpartition(".")[2] == key), None)
    if place is None:
        return suggestion(key, known)
    table = place.rpartition(".")[0]
    where = f"in the table [{table}], or is written as {place} = ..." if table else "at the top, before the first table"
    return f" It stands {where}."


def from_mapping(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Build a dataclass from nested tables; what they leave out keeps its default.

    Raises:
        ConfigError: an unknown key (the nearest is suggested) or a value of the wrong type; `where` names the source.
    """
    _check_names(cls, values, where, list(_places(cls)))
    hints = typing.get_type_hints(cls)
    arguments = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).rpartition('missing ')[2]}.") from error


def typed(settings: T) -> T:
    """The same settings with every value of its field's type, as a TOML file's are: 'runs/x' becomes a path.

    Raises:
        ConfigError: a value is of another type; the field, the type and the value are named.
    """
    hints = typing.get_type_hints(type(settings))
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    return type(settings)(**{name: _convert(hints[name], value, name) for name, value in values.items()})


def not_a_file(path: Path) -> str | None:
    """What a path leads to that is no file to read from: a pipe or a device may never end; None for files and nothing.

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


def _convert_to_one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, str) and str in hints:
        return level_of(value) if int in hints else value
    return None if value is None and types.NoneType in hints else _convert(hints[0], value, where)


def _convert_group(cls: type[Any], value: Any, where: str) -> Any:
    if isinstance(value, cls):
        return typed(value)
    if isinstance(value, dict):
        return from_mapping(cls, value, where)
    name = where.rpartition(" ")[2]
    hint = f" Write {name}.{name} = ..." if name in typing.get_type_hints(cls) else ""
    raise ConfigError(f"{where} must be {cls.__name__}, not {_given(value)}.{hint}")


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _convert_group(hint, value, where)
    if origin in (types.UnionType, typing.Union):  # X | None, with a Literal in the older form; or a level
        return _convert_to_one_of(args, value, where)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(str, args))}, not {_given(value)}.")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(args[0], item, where) for item in value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) >= 10**40:
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    if isinstance(hint, type) and issubclass(hint, Enum) and value in [member.value for member in hint]:
        return hint(value)
    expected = getattr(hint, "__name__", str(hint)) if origin is not tuple else "a list"
    raise ConfigError(f"{where} must be {expected}, not {_given(value)}.")
