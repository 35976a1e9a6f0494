"""Figures of evaluations and comparisons as tables for the console."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from expo_lite.results.figures import Evaluation, LevelResult
from expo_lite.results.paired import Change, Comparison, Pairing
from expo_lite.results.record import shown
from expo_lite.results.statistics import Estimate
from expo_lite.terminal import BOLD, new_table


def evaluation_tables(evaluation: Evaluation, *, name: str) -> list[RenderableType]:
    """Accuracies by level and by subject, then failures and lengths, and the reasons of all verdicts."""
    title = f"{name}: percent with 95% intervals, temperature {evaluation.temperature}"
    parts = [("level", evaluation.levels), ("subject", evaluation.subjects)]
    tables: list[RenderableType] = [_accuracies(rows, column, title) for column, rows in parts if rows]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in evaluation.levels[-1].reasons.items())
    return [*tables, _failures(evaluation.levels, name), f"verdicts ({evaluation.levels[-1].level}): {reasons}\n"]


def before_and_after(before: Evaluation | None, after: Evaluation) -> Table:
    """Greedy accuracy and pass@k by level, before and after training, in percent with 95% intervals."""
    ks = sorted(after.levels[0].pass_at)
    title = f"held-out problems, temperature {after.temperature}, percent with 95% intervals"
    table = new_table("level", "problems", "", "greedy", *(f"pass@{k}" for k in ks), title=title)
    befores = {result.level: result for result in before.levels} if before else {}
    for result in after.levels:
        rows = [("before", befores[result.level])] if result.level in befores else []
        for when, row in [*rows, ("after", result)]:
            about = [result.level, str(result.n_problems)] if not rows or when == "before" else ["", ""]
            figures = [interval_cell(estimate) for estimate in (row.greedy, *(row.pass_at[k] for k in ks))]
            table.add_row(*about, when if rows else "", *figures, end_section=when == "after")
    return table


def comparison_tables(comparison: Comparison, *, show: int) -> list[RenderableType]:
    """The settings that differ, the paired differences by level, and `show` problems each of those won and lost."""
    first, second, pairing = comparison.first, comparison.second, comparison.pairing
    differ = new_table("", first, second, title="settings that differ")
    for name, values in comparison.settings:
        differ.add_row(name, *map(shown, values))
    settings = differ if comparison.settings else "The settings are equal.\n"
    if pairing is None:
        return [
            settings,
            "No pairing: the runs have no held-out problems in common that were measured on equal terms. Measure one "
            "against the other with `expo-lite eval RUN --baseline RUN`.",
        ]
    won, lost = f"won (right in {second} alone)", f"lost (right in {first} alone)"
    problems = [*_problems(won, pairing.won, show), *_problems(lost, pairing.lost, show)]
    return [settings, *pairing_tables(pairing), *problems]


def pairing_tables(pairing: Pairing) -> list[RenderableType]:
    """pass@k of the first and the second policy by level, and the difference with its interval."""
    table, any_certain = new_table("level", "problems", *(f"pass@{k}" for k in pairing.ks)), False
    for row in pairing.levels:
        cells = []
        for k, change in row.difference.items():
            certain = change.low > 0 or change.high < 0
            any_certain |= certain
            values = f"{100 * row.first[k]:.1f} to {100 * row.second[k]:.1f}\n"
            cells.append(Text.assemble(values, (change.text(signed=True), "bold" if certain else "")))
        table.add_row(row.level, f"{row.n_problems:,}", *cells)
    about = f"Percent; below, the paired difference with its 95% interval.{BOLD if any_certain else ''}\n"
    return [f"{pairing.title}: {len(pairing.changes):,} problems", table, about]


def interval_cell(estimate: Estimate | None, *, scale: float = 100.0, digits: int = 1, signed: bool = False) -> Text:
    """An estimate above its interval, in two lines so that tables stay narrow; '-' for None."""
    if estimate is None:
        return Text("-")
    value, _, interval = estimate.text(scale=scale, digits=digits, signed=signed).partition(" ")
    return Text.assemble(value, *([("\n", ""), (interval.strip("()"), "dim")] if interval else []))


def _accuracies(rows: Sequence[LevelResult], first: str, title: str) -> Table:
    ks = [k for k in rows[0].pass_at if k > 1]  # pass@1 is avg@n, and maj@1 the first sample alone
    by_k = [f"{kind}@{k}" for kind in ("pass", "maj") for k in ks]
    table = new_table(first, "problems", "greedy", "avg", *by_k, title=title)
    for row in rows:
        figures = [row.greedy, row.avg, *(row.pass_at[k] for k in ks), *(row.maj_at[k] for k in ks)]
        table.add_row(row.level, f"{row.n_problems:,}", *map(interval_cell, figures))
    return table


def _failures(rows: Sequence[LevelResult], name: str) -> Table:
    title = f"{name}: of {rows[0].n_samples} samples a problem, percent"
    checked = any(row.valid_rate is not None for row in rows)  # of a task that can check steps
    heads = ("all wrong", *["valid"] * checked, "truncated", "no answer", "mean tokens")
    table = new_table("level", *heads, title=title)
    for row in rows:
        valid = ["-" if row.valid_rate is None else f"{100 * row.valid_rate:.1f}"] * checked
        rates = (f"{100 * rate:.1f}" for rate in (row.truncated_rate, row.no_answer_rate))
        table.add_row(row.level, interval_cell(row.all_wrong), *valid, *rates, f"{row.mean_tokens:.0f}")
    return table


def _problems(name: str, changes: Sequence[Change], show: int) -> list[RenderableType]:
    lines = [f"{name}: {len(changes):,}"]
    for change in changes[:show]:
        level = "" if change.level is None else f", level {change.level}"
        lines.append(f"  {change.problem_id}{level}: {change.first}/{change.n} to {change.second}/{change.n}")
    return ["\n".join([*lines, *([f"  and {len(changes) - show:,} more"] if len(changes) > show else [])])]
