"""Flags of a command from its dataclass, over the values of a settings file."""

import contextlib
import io
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from expo_lite.commands import flags
from expo_lite.commands.flags import UNSET
from expo_lite.errors import ConfigError
from expo_lite.records import Level
from expo_lite.settings.schema import from_mapping
from expo_lite.terminal import visible

REGISTRY = ConstructorRegistry()
NAMES = (tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs, tyro.conf.PositionalMetavarFromFieldName)
COLOUR, RULE = re.compile(r"\x1b\[[0-9;]*m"), re.compile(r"^[ │├╰]*[─-]{3,}[ │┤╯]*$|^ *╭.*$", re.MULTILINE)
FORMS = {
    r"^Error parsing (\S+): ": r"\1 ",
    r"^Missing value for argument '(\S+)'.*": r"\1 needs a value.",
    r"^Missing from .*?: (\S+) (.*) \(required\)$": r"\1 is missing: \2",
}
"""The messages of tyro, and our sentences for them."""

T = TypeVar("T")


@REGISTRY.primitive_rule
def _words(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Read one word, or of a tuple `1 4 16` and `1,4,16` alike; only free text may contain commas.

    `unset` is no value.
    """
    kind, several = flags.inner(info.type), info.type_origin is tuple
    if not (kind in flags.READABLE or kind == Level or get_origin(kind) is Literal):
        return None

    def parse(words: list[str]) -> Any:
        if words == [UNSET] and (several or type(None) in get_args(info.type)):
            return () if several else None
        if not several:
            return flags.read_word(kind, words[0])
        parts = words if kind is str else [part for word in words for part in word.split(",") if part]
        return tuple(flags.read_word(kind, part.strip()) for part in parts)

    return PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=f"{flags.metavar(kind)}{' [...]' * several}",
        instance_from_str=parse,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [UNSET] if value in (None, ()) else [*map(str, value if several else [value])],
    )


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


def read(command: type[Any], words: Sequence[str], *, verb: str) -> Any:
    """Return the command with the values of its flags, over those of a settings file.

    Raises:
        ConfigError: the settings file is missing or wrong, or a flag is.
        SystemExit: help was asked for and has been printed (code 0).
    """
    file = path_of("--config", words)
    hints = get_type_hints(command)
    options: dict[str, Any] = {"add_help": False, "return_unknown_args": True, "config": NAMES, "registry": REGISTRY}
    if "settings" in hints:
        settings = defaults(hints["settings"], command.before_flags(words, file), str(file))
        options["default"] = command(settings=settings, config=file)
    if {"--help", "-h"} & set(words):
        width = shutil.get_terminal_size().columns
        sys.stdout.write(visible(flags.help_text(verb, command, options.get("default"), width)))
        sys.exit(0)
    known, said = list(flags.flags_of(command)), io.StringIO()
    hint = f" `expo-lite {verb} --help` lists the flags."
    if refused := flags.unknown_flag(words, known):
        raise ConfigError(refused + hint)
    try:
        with contextlib.redirect_stderr(said):
            made, strays = tyro.cli(command, args=words, **options)
    except SystemExit as error:
        raise ConfigError(_refusal(said.getvalue()) + hint) from error
    if strays:
        raise ConfigError(flags.stray_word(strays[0], words, known) + hint)
    return made


def _refusal(box: str) -> str:
    """Return in one sentence what tyro says in a box: a title, the message, a rule, more."""
    message = " ".join(RULE.split(COLOUR.sub("", box))[:2][-1].replace("│", " ").split())
    for form, sentence in FORMS.items():
        message = re.sub(form, sentence, message)
    return message
