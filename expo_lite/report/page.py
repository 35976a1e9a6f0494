"""Pages: one HTML file with its style, scripts and figures in it, which fetches nothing.

What a model wrote is never markup: the templates escape, and the scripts set text, not HTML. The page also names the
hashes of its own scripts in a content security policy, so that a browser runs no others and loads nothing. The curves
are drawn by Chart.js from the chartkick package: 0.9 MB in the file, where plotly needs 4.8 MB.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expo_lite.report import overview
from expo_lite.report.curves import sections
from expo_lite.report.thin import RULE, PackedSamples, pack_samples
from expo_lite.results.paired import compare
from expo_lite.results.record import RunRecord, differing, shown
from expo_lite.run.folder import make_folder, write_atomically

MOST_BYTES = 5_000_000
"""The size limit of a report; samples get the space that the rest leaves."""
SPARE_BYTES = 50_000


def render(runs: Sequence[RunRecord]) -> tuple[str, PackedSamples]:
    """The report of one or several runs, at most MOST_BYTES large, and its samples, thinned by `thin.RULE`."""
    measured = overview.measurements(runs)
    on_the_way = overview.over_training(runs)
    charts = [*([("Held-out problems during training", on_the_way)] if on_the_way else []), *sections(runs)]
    within = [(each, "before", "after") for each in overview.pairings_within(runs)]
    between = [(compare(runs[0], other).pairing, f"in {runs[0].label}", f"in {other.label}") for other in runs[1:]]
    page = partial(
        document,
        "page.html.j2",
        scripts=("charts.js", "save.js", "samples.js", "page.js"),
        figures={
            "runs": [run.label for run in runs],
            "prompts": [run.prompts for run in runs],
            "last": max(run.steps for run in runs),
            "passes": overview.picture(measured) if measured else None,
            "charts": [asdict(chart) for _, own in charts for chart in own],
        },
        title=" and ".join(", ".join(run.label for run in runs).rsplit(", ", 1)),
        runs=runs,
        overviews=[(run.label, overview.sentence(run), overview.tiles(run)) for run in runs],
        measured=measured,
        levels=overview.levels_of(measured),
        names=overview.names_of(measured),
        pairings=[*within, *(each for each in between if each[0])],
        charts=charts,
        differing=differing(runs) if len(runs) > 1 else [],
        rule=RULE,
    )
    bare = page(samples=PackedSamples("", 0, 0))
    packed = pack_samples(runs, MOST_BYTES - SPARE_BYTES - len(bare.encode("utf-8", "backslashreplace")))
    return page(samples=packed), packed


def document(template: str, *, scripts: Sequence[str], figures: Any, **values: Any) -> str:
    """Render a template of this folder, with its scripts after Chart.js and the figures that they draw."""
    chart_js = files("chartkick").joinpath("django/static/chartkick/Chart.bundle.js")  # with its licence
    texts = [chart_js.read_text(encoding="utf-8"), *(_own(name) for name in scripts)]
    page = environment().get_template(template)
    return page.render(
        values,
        version=version("expo-lite"),
        style=Markup(_own("page.css")),  # noqa: S704 (our own file)
        scripts=[Markup(text) for text in texts],  # noqa: S704
        hashes=[_hash(text) for text in texts],
        figures=_json_block(figures),
    )


def write_document(html: str, file: Path) -> int:
    """Write a page and return its size in bytes; raise CheckpointError if it cannot be written."""
    make_folder(file.parent)
    write_atomically(file, html)
    return file.stat().st_size


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
    made.filters |= {"level_name": overview.level_name, "shown": shown}
    return made


def _json_block(data: Any) -> Markup:
    """JSON in which < is escaped, so that no text can end the block."""
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704 (no < is left)


def _own(name: str) -> str:
    return files("expo_lite.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
