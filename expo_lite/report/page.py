"""Pages: one HTML file with its style, scripts and figures in it, which fetches nothing.

What a model wrote is never markup: the templates escape, and the scripts set text, not HTML. The page also names the
hashes of its own scripts in a content security policy, so that a browser runs no others and loads nothing. The curves
are drawn by Chart.js from the chartkick package: 0.9 MB in the file, where plotly needs 4.8 MB.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expo_lite.errors import CheckpointError
from expo_lite.report.curves import sections
from expo_lite.report.overview import (
    level_name,
    levels_of,
    measurements,
    names_of,
    over_training,
    overview,
    pairings_within,
    picture,
)
from expo_lite.report.thin import RULE, PackedSamples, pack_samples
from expo_lite.results.paired import compare
from expo_lite.results.record import RunRecord, differing, shown

MOST_BYTES = 5_000_000
"""The size limit of a report; samples get the space that the rest leaves."""
SPARE_BYTES = 50_000


@dataclass(frozen=True, slots=True)
class Page:
    """The file's text, and the number of samples in it and in the runs."""

    html: str
    n_kept: int
    n_all: int


def render(runs: Sequence[RunRecord]) -> Page:
    """The report of one or several runs, at most MOST_BYTES large: samples are thinned by `thin.RULE`."""
    measured = measurements(runs)
    on_the_way = over_training(runs)
    charts = [*([("Held-out problems during training", on_the_way)] if on_the_way else []), *sections(runs)]
    within = [(each, "before", "after") for each in pairings_within(runs)]
    between = [(compare(runs[0], other).pairing, f"in {runs[0].label}", f"in {other.label}") for other in runs[1:]]
    page = partial(
        document,
        "page.html.j2",
        scripts=("charts.js", "save.js", "samples.js", "page.js"),
        figures={
            "runs": [run.label for run in runs],
            "prompts": [run.prompts for run in runs],
            "last": max(run.steps for run in runs),
            "passes": picture(measured) if measured else None,
            "charts": [chart.to_json() for _, own in charts for chart in own],
        },
        title=" and ".join(", ".join(run.label for run in runs).rsplit(", ", 1)),
        runs=runs,
        overviews=[overview(run, measurements([run])) for run in runs],
        measured=measured,
        levels=levels_of(measured),
        names=names_of(measured),
        pairings=[*within, *(each for each in between if each[0])],
        charts=charts,
        differing=differing(runs) if len(runs) > 1 else [],
        rule=RULE,
    )
    bare = page(samples=PackedSamples("", 0, 0))
    packed = pack_samples(runs, MOST_BYTES - SPARE_BYTES - len(encoded(bare)))
    return Page(page(samples=packed), packed.n_kept, packed.n_all)


def document(template: str, *, scripts: Sequence[str], figures: Any, **values: Any) -> str:
    """Render a template of this folder, with its scripts after Chart.js and the figures that they draw."""
    texts = [_chart_js(), *(_own(name) for name in scripts)]
    return (
        environment()
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
    """Encode as UTF-8, with escapes for lone surrogates."""
    return html.encode("utf-8", "backslashreplace")


def write_document(html: str, file: Path) -> int:
    """Write a page and return its size in bytes; raise CheckpointError if it cannot be written."""
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
def environment() -> Environment:
    """The templates of this folder; what they are given is escaped as HTML."""
    made = Environment(
        loader=PackageLoader("expo_lite.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["level_name"] = level_name
    made.filters["shown"] = shown
    return made


def _json_block(data: Any) -> Markup:
    """JSON in which < is escaped, so that no text can end the block."""
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704 (no < is left)


def _own(name: str) -> str:
    return files("expo_lite.report").joinpath(name).read_text(encoding="utf-8")


def _chart_js() -> str:
    """Chart.js with its licence, from the chartkick package."""
    return files("chartkick").joinpath("django/static/chartkick/Chart.bundle.js").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
