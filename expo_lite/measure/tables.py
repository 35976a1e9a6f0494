"""The figures of an evaluation as tables for the console."""

from collections.abc import Callable, Sequence

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from expo_lite.measure.figures import Difference, Evaluation, LevelResult
from expo_lite.measure.statistics import Estimate


def evaluation_tables(evaluation: Evaluation, *, name: str) -> list[RenderableType]:
    """Accuracies by level and by subject, then failures and lengths, and the reasons of all verdicts."""
    title = f"{name}: percent with 95% intervals, temperature {evaluation.temperature}"
    parts = [("level", evaluation.levels), ("subject", evaluation.subjects)]
    tables: list[RenderableType] = [_accuracies(rows, column, title, _percent) for column, rows in parts if rows]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in evaluation.levels[-1].reasons.items())
    return [*tables, _failures(evaluation.levels, name), f"verdicts ({evaluation.levels[-1].level}): {reasons}\n"]


def difference_table(differences: Sequence[Difference], *, title: str) -> Table:
    """Paired differences in percentage points; one whose interval leaves out 0 is bold."""
    return _accuracies(differences, "level", title, _points)


def _accuracies(
    rows: Sequence[LevelResult] | Sequence[Difference], first: str, title: str, cell: Callable[[Estimate], str]
) -> Table:
    # pass@1 and maj@1 are avg@n
    ks = [k for k in rows[0].pass_at if k > 1]
    table = _table(title, first, "problems", "greedy", "avg", *(f"{kind}@{k}" for kind in ("pass", "maj") for k in ks))
    for row in rows:
        figures = [row.greedy, row.avg, *(row.pass_at[k] for k in ks), *(row.maj_at[k] for k in ks)]
        table.add_row(escape(row.level), f"{row.n_problems:,}", *map(cell, figures))
    return table


def _failures(rows: Sequence[LevelResult], name: str) -> Table:
    n = rows[0].n_samples
    title = f"{name}: of {n} samples a problem, percent"
    table = _table(title, "level", "all wrong", "truncated", "no answer", "mean tokens")
    for row in rows:
        rates = (f"{100 * rate:.1f}" for rate in (row.truncated_rate, row.no_answer_rate))
        table.add_row(escape(row.level), _percent(row.all_wrong), *rates, f"{row.mean_tokens:.0f}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}\n[dim]{100 * estimate.low:.1f}-{100 * estimate.high:.1f}[/dim]"


def _points(estimate: Estimate) -> str:
    value = f"{100 * estimate.value:+.1f}"
    if estimate.low > 0 or estimate.high < 0:
        value = f"[bold]{value}[/bold]"
    return f"{value}\n[dim]{100 * estimate.low:+.0f} to {100 * estimate.high:+.0f}[/dim]"
