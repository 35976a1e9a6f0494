"""Text that a terminal or rich would obey, and what our own console may write."""

import re

CODE = "\x1b[38;5;201m"
"""A colour that nothing of ours has."""
HOSTILE = f"{CODE}\x1b]0;title\x07\x1b[2J\x9b31m\u202e[/] [/bold] [bold]:bug:"
_OWN = re.compile(r"\x1b\[(?:[0-9;]*m|\d*A|2K|\?25[lh])|\r")
"""Colours, and how live bars are redrawn: cursor up, line cleared, cursor hidden and shown, back to the beginning."""


def bare(written: str) -> str:
    """The text that was written to a terminal, without the codes of our own console."""
    return _OWN.sub("", written)
