"""Flags of a command from its dataclass, over the values of a settings file."""

import contextlib
import inspect
import io
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from expo_lite.records import Level, level_of
from expo_lite.settings.schema import from_mapping
from expo_lite.terminal import visible

REGISTRY = ConstructorRegistry()
UNSET = "unset"
"""The word for no value; it undoes the value of a settings file."""

T = TypeVar("T")


@REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Read `INT | None` as one word, like INT."""
    inner, *others = get_args(info.type) or (None,)
    if info.type_origin not in (types.UnionType, Union) or others != [types.NoneType]:
        return None
    read, metavar = _reader(inner), _metavar(inner)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: None if words == [UNSET] else read(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [UNSET if value is None else str(value)],
    )


@REGISTRY.primitive_rule
def _several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Read `1 4 16` and `1,4,16` alike; only free text may contain commas."""
    inner, *others = get_args(info.type) or (None,)
    if info.type_origin is not tuple or others != [Ellipsis]:
        return None
    if get_origin(inner) is Annotated:
        inner = get_args(inner)[0]
    read, metavar = _reader(inner), _metavar(inner)

    def parse(words: list[str]) -> tuple[Any, ...]:
        parts = words if inner is str else [part for word in words for part in word.split(",") if part]
        return () if parts == [UNSET] else tuple(read(part.strip()) for part in parts)

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{metavar} [...]",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(part) for part in value] or [UNSET],
    )


def _reader(hint: Any) -> Callable[[str], Any]:
    if hint == Level:
        return level_of
    if get_origin(hint) is not Literal:
        return (lambda word: Path(word).expanduser()) if hint is Path else hint
    known = {str(value): value for value in get_args(hint)}

    def read(word: str) -> Any:
        if word not in known:
            raise ValueError(f"'{word}' is not one of {', '.join(known)}")
        return known[word]

    return read


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    return "LEVEL" if hint == Level else str(hint.__name__).upper()


def path_of(flag: str, arguments: Sequence[str]) -> Path | None:
    """Return the value of a flag such as --config before the rest is parsed: it changes the defaults."""
    for i, word in enumerate(arguments):
        if word.startswith(f"{flag}="):
            return Path(word.partition("=")[2]).expanduser()
        if word == flag and i + 1 < len(arguments):
            return Path(arguments[i + 1]).expanduser()
    return None


def defaults(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Return settings from nested tables; others keep their default, or are required on the command line.

    Raises:
        ConfigError: an unknown or ill-typed setting; `where` names the source.
    """
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    missing = {name: "" for name in required if name not in values}
    settings = from_mapping(cls, values | missing, where) if values else cls(**missing)
    return replace(settings, **dict.fromkeys(missing, tyro.MISSING))  # type: ignore[type-var]


def read(command: type[Any], flags: Sequence[str], *, verb: str) -> Any:
    """Return the command with the values of its flags, over those of a settings file.

    Raises:
        ConfigError: the settings file is missing or wrong.
        SystemExit: help was asked for (code 0), or a flag is wrong (code 2); either is printed.
    """
    file = path_of("--config", flags)
    hints = get_type_hints(command)
    options: dict[str, Any] = {}
    if "settings" in hints:
        settings = defaults(hints["settings"], command.before_flags(flags, file), str(file))
        options["default"] = command(settings=settings, config=file)
    with _visible_output():
        return tyro.cli(
            command,
            prog=f"expo-lite {verb}",
            description=inspect.getdoc(command),
            args=flags,
            config=(
                tyro.conf.OmitArgPrefixes,
                tyro.conf.PositionalRequiredArgs,
                tyro.conf.PositionalMetavarFromFieldName,
            ),
            registry=REGISTRY,
            **options,
        )


@contextlib.contextmanager
def _visible_output() -> Iterator[None]:
    """Make the text that tyro prints visible: help and errors quote the command line and the settings file."""
    real, kept = (sys.stdout, sys.stderr), (io.StringIO(), io.StringIO())
    try:
        with contextlib.redirect_stdout(kept[0]), contextlib.redirect_stderr(kept[1]):
            yield
    finally:
        for stream, text in zip(real, kept, strict=True):
            stream.write(visible(text.getvalue()))
            stream.flush()
