"""The figures of an evaluation as tables for the console."""

from collections.abc import Callable, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from expo_lite.results.figures import Difference, Evaluation, LevelResult
from expo_lite.results.statistics import Estimate


def evaluation_tables(evaluation: Evaluation, *, name: str) -> list[RenderableType]:
    """Accuracies by level and by subject, then failures and lengths, and the reasons of all verdicts."""
    title = f"{name}: percent with 95% intervals, temperature {evaluation.temperature}"
    parts = [("level", evaluation.levels), ("subject", evaluation.subjects)]
    tables: list[RenderableType] = [_accuracies(rows, column, title, interval_cell) for column, rows in parts if rows]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in evaluation.levels[-1].reasons.items())
    return [*tables, _failures(evaluation.levels, name), f"verdicts ({evaluation.levels[-1].level}): {reasons}\n"]


def difference_table(differences: Sequence[Difference], *, title: str) -> Table:
    """Paired differences in percentage points; one whose interval leaves out 0 is bold."""
    return _accuracies(differences, "level", title, _points)


def _accuracies(
    rows: Sequence[LevelResult] | Sequence[Difference], first: str, title: str, cell: Callable[[Estimate], Text]
) -> Table:
    # pass@1 and maj@1 are avg@n
    ks = [k for k in rows[0].pass_at if k > 1]
    table = _table(title, first, "problems", "greedy", "avg", *(f"{kind}@{k}" for kind in ("pass", "maj") for k in ks))
    for row in rows:
        figures = [row.greedy, row.avg, *(row.pass_at[k] for k in ks), *(row.maj_at[k] for k in ks)]
        table.add_row(row.level, f"{row.n_problems:,}", *map(cell, figures))
    return table


def _failures(rows: Sequence[LevelResult], name: str) -> Table:
    n = rows[0].n_samples
    title = f"{name}: of {n} samples a problem, percent"
    table = _table(title, "level", "all wrong", "truncated", "no answer", "mean tokens")
    for row in rows:
        rates = (f"{100 * rate:.1f}" for rate in (row.truncated_rate, row.no_answer_rate))
        table.add_row(row.level, interval_cell(row.all_wrong), *rates, f"{row.mean_tokens:.0f}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def interval_cell(
    estimate: Estimate | None, *, scale: float = 100.0, digits: int = 1, signed: bool = False, bold: bool = False
) -> Text:
    """An estimate over its interval, in two lines so that tables stay narrow; '-' for None."""
    if estimate is None:
        return Text("-")
    value, _, interval = estimate.text(scale=scale, digits=digits, signed=signed).partition(" ")
    below = [("\n", ""), (interval.strip("()"), "dim")] if interval else []
    return Text.assemble((value, "bold" if bold else ""), *below)


def _points(estimate: Estimate) -> Text:
    return interval_cell(estimate, signed=True, digits=1, bold=estimate.low > 0 or estimate.high < 0)


def before_and_after(before: Evaluation | None, after: Evaluation) -> Table:
    """Greedy accuracy and pass@k by level, before and after, in percent with 95% intervals."""
    ks = sorted(after.levels[0].pass_at)
    title = f"held-out problems, temperature {after.temperature}, percent with 95% intervals"
    table = _table(title, "level", "problems", "", "greedy", *(f"pass@{k}" for k in ks))
    befores = {result.level: result for result in before.levels} if before else {}
    for result in after.levels:
        pairs = [("before", befores[result.level])] if result.level in befores else []
        for when, row in [*pairs, ("after", result)]:
            first = not pairs or when == "before"
            table.add_row(
                result.level if first else "",
                str(result.n_problems) if first else "",
                when if pairs else "",
                *(interval_cell(estimate) for estimate in (row.greedy, *(row.pass_at[k] for k in ks))),
                end_section=when == "after",
            )
    return table
