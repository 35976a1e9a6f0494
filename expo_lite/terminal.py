r"""Printing: `visible` shows text from outside as visible text.

Data files, file names, models and the errors that quote them may contain escape sequences, control characters (C0 and
C1), marks that change the direction of writing, and rich's markup. A `Terminal` obeys none of them: only the console
itself can move, colour or hide text.
"""

import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, OverflowMethod, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text


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

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        **_asked: Any,
    ) -> Text:
        """Make a string visible, never markup, in a table or a title too."""
        return Text(visible(text), style=style, justify=justify, overflow=overflow)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Make every `Text` visible; the console's own codes pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def new_table(*columns: str, title: str | None = None, justify: JustifyMethod = "right") -> Table:
    """Return a table without rows: its first column on the left, the others as `justify` says."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        made.add_column(column, justify=justify if i else "left", overflow="fold")
    return made


def say(console: Console, line: str) -> None:
    """Print a line on any console without markup, highlighting or folding."""
    console.print(visible(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def warning(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line beginning with 'warning:'."""
    return lambda line: say(console, f"warning: {line}")
