"""The report of one or several runs: figures, curves, samples and settings on one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from expo_lite.report.curves import Chart, sections
from expo_lite.report.document import document, encoded
from expo_lite.report.overview import overview
from expo_lite.report.passes import levels_of, measurements, names_of, over_training, pairings_within, picture
from expo_lite.report.thin import RULE, PackedSamples, pack_samples
from expo_lite.results.paired import compare
from expo_lite.results.record import RunRecord, differing

MOST_BYTES = 5_000_000
"""What a report may weigh; samples get what the rest leaves."""
SPARE_BYTES = 50_000


@dataclass(frozen=True, slots=True)
class Page:
    """The file's text, and how many samples it has of how many."""

    html: str
    n_kept: int
    n_all: int


def render(runs: Sequence[RunRecord]) -> Page:
    """The report of these runs; at most MOST_BYTES, the samples thinned as `thin.RULE` says."""
    measured = measurements(runs)
    charts = [*_on_the_way(runs), *sections(runs)]
    between = [compare(runs[0], other).pairing for other in runs[1:]]
    page = partial(
        document,
        "page.html.j2",
        scripts=("charts.js", "samples.js", "page.js"),
        figures={
            "runs": [run.label for run in runs],
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
        pairings=[*pairings_within(runs), *filter(None, between)],
        charts=charts,
        differing=differing(runs) if len(runs) > 1 else [],
        rule=RULE,
    )
    bare = page(samples=PackedSamples("", 0, 0))
    packed = pack_samples(runs, MOST_BYTES - SPARE_BYTES - len(encoded(bare)))
    return Page(page(samples=packed), packed.n_kept, packed.n_all)


def _on_the_way(runs: Sequence[RunRecord]) -> list[tuple[str, list[Chart]]]:
    charts = over_training(runs)
    return [("Held-out problems during training", charts)] if charts else []
