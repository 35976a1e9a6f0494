"""Find what is wrong with a run from its folder: its metrics, its adapter's weights, and levels that were lost."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, deserialize

from expo_lite.records import ALL
from expo_lite.results.paired import pair
from expo_lite.results.record import RunRecord
from expo_lite.run.checkpoint import newest_whole
from expo_lite.run.health import Finding, dead_groups, findings, no_gradient
from expo_lite.run.target import ADAPTER_WEIGHTS
from expo_lite.settings.methods import METHODS

_DESERIALIZE: Any = deserialize  # it has no types
LORA_B = "lora_B"
"""Part of the names of the factors that start at 0; an adapter does nothing until they have moved."""
MOST_LOST = 0.05
"""The largest fall of a level's pass@1 that is not reported; a smaller one may be certain too."""


def run_findings(run: RunRecord) -> list[Finding]:
    """Apply all checks; the gravest finding first."""
    rows = [{name: value for name, value in row.items() if isinstance(value, int | float)} for row in run.metrics]
    found = [*checkpoint_findings(run.path), *findings(rows, draw=run.settings.get("draw", "new"))]
    told = no_gradient(rows) is not None  # with its cause, which may be these groups
    compares = {name for name, spec in METHODS.items() if spec.grpo and (spec.chains != "none" or name == "grpo")}
    if not told and run.settings.get("method") in compares and (dead := dead_groups(rows)):
        found.append(dead)
    return [*found, *lost_levels(run)]


def checkpoint_findings(run: Path) -> list[Finding]:
    """Find damaged checkpoints, and an adapter that still does nothing."""
    newest, damaged = newest_whole(run / "checkpoints")
    remedy = "An older one is used; remove the damaged folder." if newest else "Start anew with another --output."
    found = [Finding("A checkpoint is damaged", line, remedy) for line in damaged]
    if newest is not None and (moved := lora_b_moved(newest)) is not None and moved[0] == 0:
        figures = f"all {moved[1]} LoRA B factors are 0"
        remedy = "The adapter is as it was made: no step had a gradient. See the other findings for the cause."
        found.append(Finding("The adapter has never moved", figures, remedy, f"in {newest.name}"))
    return found


def lora_b_moved(checkpoint: Path) -> tuple[int, int] | None:
    """Count the LoRA B factors that are not all zeros, and all of them; None if they cannot be read."""
    try:
        tensors = _DESERIALIZE((checkpoint / ADAPTER_WEIGHTS).read_bytes())
    except (OSError, SafetensorError):
        return None
    factors = [about["data"] for name, about in tensors if LORA_B in name]
    return sum(bool(data.strip(b"\0")) for data in factors), len(factors)


def lost_levels(run: RunRecord) -> list[Finding]:
    """Find levels on which the last evaluation is worse than the first, beyond chance."""
    if len(run.evaluated) < 2:
        return []
    first, last = run.evaluated[0], run.evaluated[-1]
    pairing = pair("", first.evaluation.problems, last.evaluation.problems)
    if pairing is None:
        return []
    trained = {str(level) for level in run.settings.get("levels") or ()}
    found = []
    for row in [row for row in pairing.levels if row.level != ALL] or pairing.levels:
        change = row.difference[1]
        if change.high >= 0 or change.value > -MOST_LOST:
            continue
        interval = f"{100 * change.value:+.0f} points, {100 * change.low:+.0f} to {100 * change.high:+.0f}"
        figures = f"pass@1 {row.first[1]:.0%} before, {row.second[1]:.0%} after; {interval}"
        if trained and row.level not in trained:
            remedy = "It was not trained on: leave --levels out, so that easy levels hold the policy in place."
        else:
            remedy = "Take fewer --steps or an earlier checkpoint, a lower --learning-rate, or --kl-coef."
        where = f"evaluations after steps {first.step} and {last.step}"
        name = "all problems" if row.level == ALL else f"level {row.level}"
        found.append(Finding(f"Lost: {name}", figures, remedy, where))
    return found
