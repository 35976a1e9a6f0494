r"""Printing: `visible` shows text from outside as visible text.

Data files, file names, models and the errors that quote them may contain escape sequences, control characters (C0 and
C1), marks that change the direction of writing, and rich's markup. A `Terminal` obeys none of them: only the console
itself can move, colour or hide text.

Messages call the program `expo-lite`; `as_started` names it as the user has started it, so that a command can be copied
from them. No line is broken inside a command, a path or a word.
"""

import errno
import os
import re
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text, TextType

NAME = "expo-lite"
_COMMAND = re.compile(
    rf"(?<![\w./-]){NAME} (?=(?:COMMAND|--\w+|train|eval|diagnose|report|watch|doctor|export|chat|sweep|replicate|plan|"
    r"grade|models|tasks)\b)"
)
_WHOLE = re.compile(r"\s*(?:[^\s`]*`[^`]*`\S*|(?<!\S)'[^']*'\S*|\S+)", re.ASCII)
"""A part of a line that is not broken: a command, a quoted path, a word."""


def program() -> str:
    """Return the words that start this program again from where the user is, in the way they have started it."""
    started, python = Path(sys.argv[0]), Path(sys.executable)
    if "UV_RUN_RECURSION_DEPTH" in os.environ and python.parent.parent.parent in (Path.cwd(), *Path.cwd().parents):
        return f"uv run {NAME}"
    found = Path(shutil.which(NAME) or "")
    if started.name == NAME:
        return NAME if found.is_file() and found.samefile(started) else shlex.quote(str(started))
    if started.parent.name != "expo_lite" and found.parent == python.parent:  # from Python
        return NAME
    return f"{'python' if shutil.which('python') == str(python) else shlex.quote(str(python))} -m expo_lite"


def command(*words: object) -> str:
    """Return one of our command lines, in the quotes that messages have; its words are quoted for a shell."""
    return f"`{NAME} {shlex.join(map(str, words))}`"


def as_started(text: str) -> str:
    """Put the program's own words into the commands that a text names; those that have them stay as they are."""
    if NAME not in text:
        return text
    started = f"{program()} "
    return _COMMAND.sub(started, text.replace(started, f"{NAME} "))


def wrapped(line: str, width: int) -> str:
    """Break a line at spaces, but not inside a command, a quoted path or a word: those can be copied."""
    lines = [""]
    for part in _WHOLE.findall(line):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append(part.lstrip())
        else:
            lines[-1] += part
    return "\n".join(lines)


def visible(text: str) -> str:
    r"""Replace each character without a shape by an escape, such as `\x1b` or `\u202e`.

    These are controls, formats, halves of surrogate pairs, line separators and unassigned characters. Line ends, tabs
    and all spaces stay.
    """
    return text if text.isprintable() else "".join(map(_shape, text))


def _shape(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":  # a space
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_line(text: object) -> str:
    """Return visible text in one line: each run of white space becomes one space."""
    return visible(" ".join(str(text).split()))


class Terminal(Console):
    """The console of all commands, which prints every string as visible text."""

    def __init__(self, **options: Any) -> None:
        """Take the options of rich's Console."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, *, style: str | Style = "", **asked: Any) -> Text:
        """Make a string visible, never markup, in a table or a title too."""
        return Text(
            as_started(visible(text)), style=style, justify=asked.get("justify"), overflow=asked.get("overflow")
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Make every `Text` visible; the console's own codes pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def _check_buffer(self) -> None:
        """Write into nothing once the terminal is gone: a run finishes its step and saves."""
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


BOLD = " Bold: not chance."
"""The explanation of bold figures, which is left out where the console has no bold."""


class WholeWords(Table):
    """A table that breaks no word, and no interval below a figure, if the terminal is wide enough for that.

    Figures with intervals stand closer, and then in several tables, before one of them is broken.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Let only the columns whose widest cell has several words give way."""
        cells = [[str(cell) for cell in (column.header, *column.cells)] for column in self.columns]
        labels = next((i for i, texts in enumerate(cells) if "\n" in "".join(texts)), len(cells))
        half, unbound = labels + (len(cells) - labels + 1) // 2, options.update(max_width=10_000)
        if labels < len(cells) and self.__rich_measure__(console, unbound).maximum > options.max_width:
            self.padding = 0
        if half < len(cells) and self.__rich_measure__(console, unbound).maximum > options.max_width:
            for title, columns in ((self.title, self.columns[labels:half]), (None, self.columns[half:])):
                kept = [*self.columns[:labels], *columns]
                part = new_table(*(str(column.header) for column in kept), title=title, justify=kept[-1].justify)
                for row, parts in zip(self.rows, zip(*(column.cells for column in kept), strict=True), strict=True):
                    part.add_row(*parts, end_section=row.end_section)
                yield part
            return
        words = [max(map(cell_len, " ".join(texts).split()), default=0) for texts in cells]
        if sum(words) + 2 * len(words) + 2 <= options.max_width:
            for column, texts, longest in zip(self.columns, cells, words, strict=True):
                column.no_wrap = longest == max(map(cell_len, texts))
        yield from super().__rich_console__(console, options)


def new_table(*columns: str, title: TextType | None = None, justify: JustifyMethod = "right") -> Table:
    """Return a table without rows: its first column on the left, the others as `justify` says."""
    made = WholeWords(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        made.add_column(column, justify=justify if i else "left", overflow="fold")
    return made


def side_by_side(texts: Mapping[str, str | Text], title: str | None = None) -> Table:
    """Return texts in columns of equal width, each below its name."""
    made = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), title=title, title_justify="left", title_style="dim")
    for name in texts:
        made.add_column(name, ratio=1)
    made.add_row(*texts.values())
    return made


def heads_and_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return the texts of a table; a figure with its interval below it becomes '31.2 (25.0 to 38.1)', bold '**so**'."""
    columns = [[_in_one_line(cell) for cell in column.cells] for column in table.columns]
    return [str(column.header) for column in table.columns], [list(row) for row in zip(*columns, strict=True)]


def markdown(part: RenderableType) -> str:
    """Write a table or a paragraph as Markdown."""
    if not isinstance(part, Table):
        return f"{part}\n"
    heads, rows = heads_and_rows(part)
    lines = [f"## {part.title}\n"] if part.title else []
    for row in (heads, ["---"] * len(heads), *rows):
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def latex(part: RenderableType) -> str:
    """Write a table as LaTeX without packages; a paragraph becomes a comment."""
    if not isinstance(part, Table):
        return "".join(f"% {line}\n" for line in str(part).splitlines())
    heads, rows = heads_and_rows(part)
    first, *others = (" & ".join(map(_for_latex, row)) + r" \\" for row in (heads, *rows))
    caption = [rf"\caption{{{_for_latex(str(part.title))}}}"] if part.title else []
    columns = "".join({"right": "r"}.get(column.justify, "l") for column in part.columns)
    table = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", first, r"\hline", *others, r"\hline", r"\end{tabular}"]
    return "\n".join([r"\begin{table}", *caption, *table, r"\end{table}"]) + "\n"


def _in_one_line(cell: object) -> str:
    """Put the second line of a cell, the only one that is ever bold, after the first."""
    first, _, rest = str(cell).partition("\n")
    rest = f"({rest})" if rest and "(" not in rest else rest
    bold = "**" if isinstance(cell, Text) and any(span.style == "bold" for span in cell.spans) else ""
    return f"{first} {bold}{rest}{bold}".rstrip()


def _for_latex(text: str) -> str:
    text = re.sub(r"[&%$#_{}]", r"\\\g<0>", text.replace("\\", "/")).replace("~", r"\~{}").replace("^", r"\^{}")
    return re.sub(r"\*\*([^*]+)\*\*", r"\\textbf{\1}", text)


def counted(n: int, what: str) -> str:
    """'1 thread', '2 threads', '1,000 threads'."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def say(console: Console, line: str) -> None:
    """Print a line on any console without markup or highlighting; a terminal breaks it where nothing can be copied."""
    text = as_started(visible(line))
    text = wrapped(text, console.width) if console.is_terminal else text
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def warning(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line beginning with 'warning:', the same line once."""
    return cache(lambda line: say(console, f"warning: {line}"))
