"""One HTML file of one or several runs, with everything in it: style, scripts, figures and samples; nothing is fetched.

What a model wrote is never part of the page's markup: the template escapes, and the scripts set text, not HTML. Beside
that the page names the hashes of its own scripts (a content security policy), so that a browser runs no others and
loads nothing. The curves are drawn by Chart.js, which the chartkick package carries: 0.9 MB in the file, where plotly
has 4.8 MB.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expo_lite import __version__
from expo_lite.report.curves import Chart, sections
from expo_lite.report.overview import overview
from expo_lite.report.paired import best_pairing, ks_of, lost, paired_levels, won
from expo_lite.report.passes import (
    Paired,
    level_name,
    levels_of,
    measurements,
    names_of,
    over_training,
    paired_within,
    picture,
)
from expo_lite.report.record import RunRecord, differing
from expo_lite.report.thin import RULE, PackedSamples, pack_samples

MOST_BYTES = 5_000_000
"""What a report may weigh; samples get what the rest leaves."""
SPARE_BYTES = 50_000
SCRIPTS = ("charts.js", "samples.js", "page.js")


@dataclass(frozen=True, slots=True)
class Page:
    """The file's text, and how many samples it has of how many."""

    html: str
    n_kept: int
    n_all: int


def render(runs: Sequence[RunRecord]) -> Page:
    """The report of these runs; at most MOST_BYTES, the samples thinned as `thin.RULE` says."""
    template = _environment().get_template("page.html.j2")
    scripts = [_chart_js(), *(_own(name) for name in SCRIPTS)]
    measured = measurements(runs)
    charts = [*_on_the_way(runs), *sections(runs)]
    data = {
        "runs": [run.label for run in runs],
        "last": max(run.steps for run in runs),
        "passes": picture(measured) if measured else None,
        "charts": [chart.to_json() for _, own in charts for chart in own],
    }
    values: dict[str, Any] = {
        "title": " and ".join(", ".join(run.label for run in runs).rsplit(", ", 1)),
        "version": __version__,
        "runs": runs,
        "overviews": [overview(run, measurements([run])) for run in runs],
        "measured": measured,
        "levels": levels_of(measured),
        "names": names_of(measured),
        "paired": [*paired_within(runs), *_between(runs)],
        "charts": charts,
        "differing": differing(runs) if len(runs) > 1 else [],
        "rule": RULE,
        "style": Markup(_own("page.css")),  # noqa: S704 (our own file)
        "scripts": [Markup(script) for script in scripts],  # noqa: S704
        "hashes": [_hash(script) for script in scripts],
        "figures": _json_block(data),
    }
    bare = template.render(**values, samples=PackedSamples("", 0, 0))
    packed = pack_samples(runs, MOST_BYTES - SPARE_BYTES - len(bare.encode("utf-8", "backslashreplace")))
    return Page(template.render(**values, samples=packed), packed.n_kept, packed.n_all)


def _on_the_way(runs: Sequence[RunRecord]) -> list[tuple[str, list[Chart]]]:
    charts = over_training(runs)
    return [("Held-out problems during training", charts)] if charts else []


def _between(runs: Sequence[RunRecord]) -> list[Paired]:
    """Each further run against the first one, where both have counts on the same problems."""
    found = []
    for other in runs[1:]:
        pairing = best_pairing(runs[0], other)
        if pairing is not None:
            own, _, changes = pairing
            ks = ks_of(changes, (1, 4, 16, 64))
            found.append(
                Paired(f"{other.label} minus {runs[0].label} ({own.where})", ks, paired_levels(changes, ks), changes)
            )
    return found


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("expo_lite.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["level_name"] = level_name
    environment.filters["won"], environment.filters["lost"] = won, lost
    environment.filters["shown"] = _shown
    return environment


def _shown(value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "unset"
    return "unset" if value is None else str(value)


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
