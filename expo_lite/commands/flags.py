"""The flags of a command as a user reads them: its help, and sentences about words that are no flags of it."""

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from expo_lite.records import Level, level_of
from expo_lite.settings.models import suggestion
from expo_lite.settings.synonyms import our_flags
from expo_lite.terminal import as_started, wrapped

UNSET = "unset"
"""The word for no value; it undoes the value of a settings file."""
WORDS, OWN, EVERY = "arguments", "flags", "every command"
SECTIONS = (WORDS, OWN, "data", "sampling", "explanation", "optimizer", "evaluation", "policy", "loss", "dpo", EVERY)
"""The sections of a help in the order in which people need them."""
INDENT, LONGEST, WIDEST = 26, 60, 110
READABLE = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}
"""The types of one word, as an error names them."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag, or a word that stands without one: its name as typed, what it takes and its default.

    `field` of the dataclass `owner` has its text; `choices` are added to that where they are too many to stand beside
    the name.
    """

    name: str
    takes: str
    owner: Any
    field: str
    default: Any
    section: str
    choices: str = ""

    @property
    def about(self) -> str:
        """Its text, which only a help reads out of the source: that takes some 50 ms for all of `train`."""
        return _texts(self.owner)[self.field] + self.choices


def inner(hint: Any) -> Any:
    """Return a type without its bounds, its None and the tuple around it."""
    if hint == Level:
        return hint
    wrapper = get_origin(hint) in (Annotated, tuple) or type(None) in get_args(hint)
    return inner(get_args(hint)[0]) if wrapper else hint


def metavar(hint: Any) -> str:
    """Name what a flag takes."""
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    return "LEVEL" if hint == Level else "TEXT" if hint is str else str(hint.__name__).upper()


def read_word(hint: Any, word: str) -> Any:
    """Read a word of the command line as a value; raises ValueError with what the word must be."""
    if hint == Level:
        return level_of(word)
    if get_origin(hint) is Literal:
        known = {str(value): value for value in get_args(hint)}
        if word not in known:
            raise ValueError(f"must be one of {', '.join(known)}, not '{word}'.{suggestion(word, known)}")
        return known[word]
    try:
        return Path(word).expanduser() if hint is Path else hint(word)
    except ValueError:
        raise ValueError(f"must be {READABLE[hint]}, not '{word}'.") from None


def flags_of(cls: Any, values: Any = None, section: str = OWN) -> Iterator[Flag]:
    """List the flags of a command in the order of its fields; `values` has the defaults."""
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        hint, value = hints[field.name], getattr(values, field.name, field.default)
        kind = inner(hint)
        if is_dataclass(kind):
            yield from flags_of(kind, value, OWN if field.name == "settings" else field.name)
        elif tyro.conf.Positional in get_args(hint) or (field.default, field.default_factory) == (MISSING, MISSING):
            yield Flag(field.name.upper(), "", cls, field.name, field.default, WORDS)
        else:
            choices, listed = metavar(kind), ""
            if len(choices) > LONGEST:
                choices, listed = "NAME", f" One of {choices[1:-1].replace(',', ', ')}."
            takes = "" if kind is bool else f" {choices}{' [...]' if isinstance(field.default, tuple) else ''}"
            place = EVERY if field.name in ("config", "debug") else section
            yield Flag(f"--{field.name.replace('_', '-')}", takes, cls, field.name, value, place, listed)


@cache
def _texts(cls: type[Any]) -> dict[str, str]:
    """The texts below the fields of a dataclass and of those that it extends, each as one paragraph."""
    found: dict[str, str] = {}
    for each in filter(is_dataclass, reversed(cls.__mro__)):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        for field, text in itertools.pairwise(definition.body):  # type: ignore[attr-defined]
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return found


def about_and_example(command: type[Any]) -> tuple[str, str]:
    """Return both parts of a command's docstring, the first as one line."""
    about, _, example = (inspect.getdoc(command) or "").partition("\n\n")
    return " ".join(about.split()), example


def help_text(verb: str, command: type[Any], values: Any, width: int) -> str:
    """Return the help of a command: an example, the words that it needs, then its flags by section."""
    flags = sorted(flags_of(command, values), key=lambda flag: SECTIONS.index(flag.section))
    width = min(width, WIDEST)
    words = [flag.name if flag.default is MISSING else f"[{flag.name} ...]" for flag in flags if flag.section == WORDS]
    about, example = about_and_example(command)
    usage = as_started(" ".join([f"usage: expo-lite {verb}", *words, "[FLAGS]"]))
    lines = [usage, "", wrapped(about, width), "", as_started(example)]
    names = "|".join(flag.name[2:].replace("-", "_") for flag in flags if "-" in flag.name[2:])
    python = re.compile(rf"\b({names or '$.'})\b")
    for section, listed in itertools.groupby(flags, key=lambda flag: flag.section):
        lines += ["", f"{section}:"]
        for flag in listed:
            about = python.sub(lambda found: f"--{found[0].replace('_', '-')}", flag.about)
            if flag.takes and "Default:" not in about and flag.default not in (None, ()):
                value = flag.default if isinstance(flag.default, tuple) else (flag.default,)
                about += f" (default:\N{NO-BREAK SPACE}{' '.join(map(str, value))})"
            first, *more = wrapped(as_started(about), width - INDENT).replace("\N{NO-BREAK SPACE}", " ").split("\n")
            name = f"  {flag.name}{flag.takes}"
            lines += [f"{name:<{INDENT}}{first}"] if len(name) < INDENT else [name, " " * INDENT + first]
            lines += [" " * INDENT + line for line in more]
    return "\n".join(lines) + "\n"


def unknown_flag(words: Sequence[str], flags: Sequence[Flag]) -> str | None:
    """Say that the first unknown flag is unknown, and what it is called here; None if every flag is known."""
    known = {flag.name for flag in flags} | {f"--no-{flag.name[2:]}" for flag in flags if not flag.takes}
    given = (word.partition("=")[0].replace("_", "-") for word in words if re.match(r"--?[A-Za-z]", word))
    name = next((name for name in given if name not in known), None)
    if name is None:
        return None
    ours = [flag for flag in our_flags(name) if flag.split()[0] in known]
    nearest = suggestion(name.lstrip("-"), [flag.name.lstrip("-") for flag in flags]).replace("'", "'--", 1)
    called = f" Here it is called {' or '.join(ours)}." if ours else ""
    plain = " It stands without a flag." if ours and ours[0].isupper() else ""
    return f"There is no flag '{name}'.{called or nearest}{plain}"


def stray_word(stray: str, words: Sequence[str], flags: Sequence[Flag]) -> str:
    """Say that no flag takes a word, and what was probably meant."""
    names = [flag.name for flag in flags]
    if "--resume" in names and f"--resume {stray}" in " ".join(words).replace("=", " "):
        return f"--resume takes no value. Did you mean --resume --output {stray}?"
    flag = "--config" if stray.endswith(".toml") else "--task" if ":" in stray else "--model"
    return f"'{stray}' belongs to no flag.{f' Did you mean {flag} {stray}?' if flag in names else ''}"
