"""What a replication found, as a table on the console, Markdown and JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from expo_lite.measure.statistics import over_seeds
from expo_lite.replication.claims import Judgement, K, Results, change, pass_at_4
from expo_lite.replication.plan import ReplicationPlan
from expo_lite.run.files import write_atomically
from expo_lite.terminal import visible_line

NO_SHARES = {5: ("expert", "explanation", "ratio"), 6: ("explanations", "own chains"), 8: ("loss first", "loss last")}
"""Figures that are no shares, by the number of their claim."""


def claim_table(outcomes: Sequence[Judgement]) -> Table:
    """Claim by claim: the paper's figure, ours, holds or not."""
    table = Table(title="The paper's claims", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name in ("", "claim", "paper", "ours", ""):
        table.add_column(name)
    for outcome in outcomes:
        claim = outcome.claim
        style = {True: "green", False: "red", None: "dim"}[outcome.holds]
        verdict = Text(outcome.verdict, style)
        table.add_row(str(claim.number), claim.statement, claim.paper, "\n".join(figures(outcome)), verdict)
    return table


def figures(outcome: Judgement) -> list[str]:
    """Each figure of a claim with its interval over seeds; shares in percent."""
    plain = NO_SHARES.get(outcome.claim.number, ())
    return [
        f"{name}: {e.text(scale=1, digits=2) if name in plain else e.text()}" for name, e in outcome.estimates().items()
    ]


def write_report(
    plan: ReplicationPlan, results: Results, outcomes: Sequence[Judgement], failures: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write replication.md and replication.json into the plan's folder; returns their paths."""
    markdown, data = plan.folder / "replication.md", plan.folder / "replication.json"
    write_atomically(markdown, "\n".join(_markdown(plan, results, outcomes, failures)) + "\n")
    claims = [
        {
            "number": outcome.claim.number,
            "statement": outcome.claim.statement,
            "paper": outcome.claim.paper,
            "holds": outcome.holds,
            "true_in_seeds": outcome.true_in,
            "by_seed": outcome.figures,
            "over_seeds": {name: asdict(estimate) for name, estimate in outcome.estimates().items()},
        }
        for outcome in outcomes
    ]
    about = {"model": plan.any_config.model, "task": plan.any_config.task, "seeds": plan.seeds}
    write_atomically(data, json.dumps(about | {"claims": claims, "failures": failures}, indent=2) + "\n")
    return markdown, data


def _markdown(
    plan: ReplicationPlan, results: Results, outcomes: Sequence[Judgement], failures: Mapping[str, str]
) -> list[str]:
    config = plan.any_config
    n = results.base.levels[0]
    lines = [
        f"# The paper's claims on {visible_line(config.model)}, {visible_line(config.task)}",
        "",
        f"Seeds {', '.join(map(str, plan.seeds))}; {config.steps} steps of {config.problems_per_step} problems with "
        f"{config.group_size} completions each; "
        f"pass@{K} of {n.n_samples} samples a problem at temperature {results.base.temperature}, {n.n_problems} "
        "held-out problems a level. "
        "Percent, with Student's 95% intervals over seeds where there are several. A claim holds if it is true in "
        "every seed.",
        "",
        "| | claim | paper | ours | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for outcome in outcomes:
        claim = outcome.claim
        verdict = f"**{outcome.verdict}**"
        lines.append(
            f"| {claim.number} | {claim.statement} | {claim.paper} | {'; '.join(figures(outcome))} | {verdict} |"
        )
    lines += ["", f"Every run, pass@{K} by level:", "", *level_table(results)]
    return [*lines, *(f"\n{name} failed: {visible_line(failure)}" for name, failure in failures.items())]


def level_table(results: Results) -> list[str]:
    """As Markdown: pass@4 of base and runs by level, and all-wrong groups in the first and last quarter."""
    levels = [row.level for row in results.base.levels]
    base = [f"{100 * pass_at_4(results.base, level):.1f}" for level in levels]
    lines = [
        f"| run | {' | '.join(levels)} | all-wrong groups, first quarter | last quarter |",
        "| --- |" + " --- |" * (len(levels) + 2),
        f"| base | {' | '.join(base)} | | |",
    ]
    for name, by_seed in results.runs.items():
        if by_seed:
            cells = [over_seeds([pass_at_4(run.after, level) for run in by_seed.values()]) for level in levels]
            quarters = zip(*(change(run.metrics, "frac_all_wrong") for run in by_seed.values()), strict=True)
            cells += [over_seeds(values) for values in quarters]
            lines.append(f"| {name} | {' | '.join(cell.text() for cell in cells)} |")
    return lines
