"""The memory plan: the worst of a run's phases (`parts.py`) against a machine, and the settings that follow; no torch.

What no simulation shows is a margin: the CUDA context, the allocator's fragments, the libraries' own workspaces
(`reserve`). Resident memory on a CPU holds more still: pages of the weights' file, which the system takes back when it
needs them, and what the C library's allocator keeps. No figure for a GPU has yet been held against a GPU.
"""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from expo_lite.errors import ConfigError
from expo_lite.memory.parts import CONTEXT, GIB, Phase, PlannedSampler, Workload, phases
from expo_lite.memory.shapes import Shape
from expo_lite.settings.machine import Sampler

RESERVE = {"gpu": 0.05, "cpu": 0.2}
"""Share of the memory that is left free."""
MOST_MICRO_BATCH_TOKENS = 16_384
"""What a micro-batch has at most where the plan chooses: longer passes are no faster."""
MOST_SAMPLING_ROWS = 256
"""How many rows are decoded at most where the plan chooses."""
ENOUGH_ROWS = 8
"""With so many rows our own decoder is taken, whatever the group: a group need not be decoded at once."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The phases of a run on a machine, and the two settings that follow from its memory."""

    shape: Shape
    workload: Workload
    total: float
    """Bytes that the machine has for the run."""
    micro_batch_tokens: int
    sampling_rows: int
    phases: tuple[Phase, ...]

    @property
    def reserve(self) -> float:
        """Bytes that are left free."""
        return self.total * RESERVE[self.workload.kind]

    @property
    def peak(self) -> float:
        """Bytes of the worst phase."""
        return max(phase.peak for phase in self.phases)

    @property
    def measurable_peak(self) -> float:
        """The peak as it is measured: a GPU's allocator does not see the context."""
        return self.peak - (CONTEXT["gpu"] if self.workload.kind == "gpu" else 0.0)

    @property
    def fits(self) -> bool:
        """Whether every phase leaves the reserve free."""
        return self.peak + self.reserve <= self.total

    def of_run(self, *, prompt_tokens: int, sampled_rows: int, learned_rows: int) -> "MemoryPlan":
        """The same settings with a run's own longest prompt, and no more rows than it has at once."""
        workload = dataclasses.replace(self.workload, prompt_tokens=prompt_tokens)
        tokens = min(self.micro_batch_tokens, learned_rows * workload.width)
        rows = min(self.sampling_rows, sampled_rows)
        return make_plan(self.shape, workload, self.total, micro_batch_tokens=tokens, sampling_rows=rows)

    def describe(self) -> str:
        """The worst phase against what there is, in words."""
        worst = max(self.phases, key=lambda phase: phase.peak)
        return (
            f"{worst.peak / GIB:.1f} GiB in its {worst.name} phase by the memory plan, and there are "
            f"{(self.total - self.reserve) / GIB:.1f} GiB (beside a reserve of {self.reserve / GIB:.1f})"
        )


def make_plan(
    shape: Shape,
    workload: Workload,
    total: float,
    *,
    micro_batch_tokens: int | None = None,
    sampling_rows: int | None = None,
) -> MemoryPlan:
    """The plan for a machine with `total` bytes: settings that are None become as large as fits, up to the caps.

    Where nothing fits they are as small as can be, and the plan says that it does not fit.
    """
    budget = total * (1 - RESERVE[workload.kind])

    def fits(tokens: int, rows: int) -> bool:
        return max(phase.peak for phase in phases(shape, workload, tokens, rows)) <= budget

    rows = sampling_rows or 1
    tokens = micro_batch_tokens or largest(
        lambda tokens: fits(tokens, rows), step=256, most=MOST_MICRO_BATCH_TOKENS, least=256
    )
    rows = sampling_rows or largest(lambda rows: fits(tokens, rows), step=8, most=MOST_SAMPLING_ROWS, least=1)
    return MemoryPlan(shape, workload, total, tokens, rows, phases(shape, workload, tokens, rows))


def plan_for(
    shape: Shape,
    workload: Workload,
    total: float,
    sampler: Sampler,
    *,
    micro_batch_tokens: int | None = None,
    sampling_rows: int | None = None,
) -> MemoryPlan:
    """The plan with the sampler that is asked for; auto takes our own where enough rows fit, else native.

    Our own decodes faster, but needs room for a dense copy of the weights while it samples.
    """

    def plan(name: PlannedSampler) -> MemoryPlan:
        chosen = dataclasses.replace(workload, sampler=name)
        return make_plan(shape, chosen, total, micro_batch_tokens=micro_batch_tokens, sampling_rows=sampling_rows)

    if sampler != "auto":
        return plan(sampler)
    own = plan("own")
    if own.fits and own.sampling_rows >= min(ENOUGH_ROWS, sampling_rows or ENOUGH_ROWS):
        return own
    native = plan("native")
    return native if native.fits else own


def longest_completion(shape: Shape, workload: Workload, total: float) -> int:
    """The most completion tokens with which a row can be learned from and a whole group be sampled at once; 0: none.

    Never more than the model has positions for.
    """

    def fits(tokens: int) -> bool:
        longer = dataclasses.replace(workload, completion_tokens=tokens)
        return make_plan(shape, longer, total, micro_batch_tokens=1, sampling_rows=workload.group_size).fits

    found = largest(fits, step=64, most=shape.positions - workload.prompt_tokens, least=64)
    return found if fits(found) else 0


def largest(fits: Callable[[int], bool], *, step: int, most: int, least: int) -> int:
    """The largest value up to `most` that fits, in steps; below one step, `least` times powers of two."""
    low, high = 0, most // step
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle - 1)
    if low:
        return low * step
    value = step // 2
    while value > least and not fits(value):
        value //= 2
    return max(value, least)


def ram_bytes() -> float:
    """The machine's memory, or what its control group allows.

    Raises:
        ConfigError: the system does not say (Windows).
    """
    if not hasattr(os, "sysconf"):
        raise ConfigError("The size of main memory cannot be read on this system. Plan for a GPU, as with --vram 24.")
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if file.exists() and (limit := file.read_text(encoding="ascii").strip()).isdigit():
            total = min(total, float(limit))
    return total
