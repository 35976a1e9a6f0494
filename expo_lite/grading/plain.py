"""Plain numbers, compared on the spot: what most final answers are, in one linear pattern."""

import re

_MAX_CHARS = 40
_PLAIN = re.compile(r"(?:\\?\$ ?)?(?P<sign>[+-]?)(?P<whole>[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.(?P<places>\d+))?")


def plain_number(text: str) -> str | None:
    r"""One spelling of a plain decimal number ("$1,200.50" is "1200.5"); None for anything else."""
    if len(text) > _MAX_CHARS:
        return None
    match = _PLAIN.fullmatch(text)
    if match is None or not text.isascii():
        return None
    whole = match["whole"].replace(",", "").lstrip("0") or "0"
    places = (match["places"] or "").rstrip("0")
    value = f"{whole}.{places}" if places else whole
    return f"-{value}" if match["sign"] == "-" and value != "0" else value
