"""What every page of ours is made of: one HTML file with its style, scripts and figures in it; nothing is fetched.

What a model wrote is never part of a page's markup: the templates escape, and the scripts set text, not HTML. Beside
that a page names the hashes of its own scripts (a content security policy), so that a browser runs no others and
loads nothing. The curves are drawn by Chart.js, which the chartkick package carries: 0.9 MB in the file, where plotly
has 4.8 MB.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expo_lite.errors import CheckpointError
from expo_lite.report.passes import level_name
from expo_lite.results.record import shown


def document(template: str, *, scripts: Sequence[str], figures: Any, **values: Any) -> str:
    """The page of a template here; `scripts` are files of ours after Chart.js, `figures` what they draw."""
    texts = [_chart_js(), *(_own(name) for name in scripts)]
    return (
        _environment()
        .get_template(template)
        .render(
            version=version("expo-lite"),
            style=Markup(_own("page.css")),  # noqa: S704 (our own file)
            scripts=[Markup(text) for text in texts],  # noqa: S704
            hashes=[_hash(text) for text in texts],
            figures=_json_block(figures),
            **values,
        )
    )


def encoded(html: str) -> bytes:
    """As it is written: what has no UTF-8 form (lone surrogates) as escapes."""
    return html.encode("utf-8", "backslashreplace")


def write_document(html: str, file: Path) -> int:
    """Write a page; returns its size in bytes.

    Raises:
        CheckpointError: it cannot be written there.
    """
    data = encoded(html)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise CheckpointError(
            f"Cannot write the report '{file}': {error.strerror}. Choose another --output."
        ) from error
    return len(data)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("expo_lite.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["level_name"] = level_name
    environment.filters["shown"] = shown
    return environment


def _json_block(data: Any) -> Markup:
    """JSON that no text in it can break out of: < is written as an escape."""
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704 (no < is left)


def _own(name: str) -> str:
    return files("expo_lite.report").joinpath(name).read_text(encoding="utf-8")


def _chart_js() -> str:
    """Chart.js with its licence, as the chartkick package has it."""
    return files("chartkick").joinpath("django/static/chartkick/Chart.bundle.js").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
