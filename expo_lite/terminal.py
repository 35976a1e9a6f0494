r"""What is printed: text from outside is shown as visible text, by `visible` alone.

Data files, file names, models and the errors that quote them may hold what a terminal obeys: escape sequences, controls
of both kinds (C0 and C1), marks that turn the direction of writing, and what rich takes for markup. On a `Terminal` no
string is markup, and no character but those of the console itself can move, colour or hide anything.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, JustifyMethod, OverflowMethod, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")


def visible(text: str) -> str:
    r"""The text with an escape, as `\x1b` or `\u202e`, in place of each character that has no shape of its own.

    These are controls, marks of direction and other formats, halves of surrogate pairs, separators of lines and what no
    alphabet has assigned; line ends and tabs stay, and so do all spaces.
    """
    return text if text.isprintable() else "".join(map(_shape, text))


def _shape(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":  # a space
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_line(text: object) -> str:
    """The same in one line: every run of white space, line ends too, is one space."""
    return visible(" ".join(str(text).split()))


def visible_but_styles(text: str) -> str:
    """What a library of ours has coloured, made visible but for the codes of colours and weights."""
    return "".join(part if _STYLE.fullmatch(part) else visible(part) for part in _STYLE.split(text))


class Terminal(Console):
    """The console of all commands: strings are shown as they are, and none of their characters is obeyed."""

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
        """Every string that is printed, in a table or a title too: whatever is asked for, it is no markup."""
        return Text(visible(text), style=style, justify=justify, overflow=overflow)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything that is printed: what came as `Text` is made visible here; the console's own codes pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def say(console: Console, line: str) -> None:
    """Print a line as it is on any console: no markup, no highlighting, not folded."""
    console.print(visible(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def warning(console: Console) -> Callable[[str], None]:
    """What prints a line that begins with 'warning:'."""
    return lambda line: say(console, f"warning: {line}")
