"""Everything that one training run holds in memory, and how it goes into a checkpoint and comes back."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.records import Explanation, Pair, Problem
from expo_lite.run import checkpoint
from expo_lite.run.folder import RunFolder
from expo_lite.settings.train import RunConfig
from expo_lite.step.optimizer import optimizer_tensors, restore_optimizer
from expo_lite.step.store import RefreshStore
from expo_lite.tasks import Task

KEEP_CHECKPOINTS = 2


@dataclass(slots=True)
class Run:
    """A policy on its way from step to step, and what it learns from and with."""

    config: RunConfig
    folder: RunFolder
    policy: Policy
    task: Task
    problems: list[Problem]
    held_out: list[Problem]
    optimizer: torch.optim.Optimizer
    limits: Limits
    planned_gib: float | None = None
    """The peak of memory that the plan foresees, as it is measured; None without a plan."""
    step: int = 0
    """Steps done."""
    explanations: RefreshStore[Explanation] = field(init=False)
    pairs: RefreshStore[Pair] = field(init=False)

    def __post_init__(self) -> None:
        """Start with empty stores."""
        dpo = self.config.dpo
        self.explanations = RefreshStore(Explanation, self.config.explanation.explanation_refresh_steps)
        self.pairs = RefreshStore(Pair, 0 if dpo.pairs == "offline" else dpo.pair_refresh_steps)


def last_good(run: Run, *, before: int) -> str:
    """The newest checkpoint of fewer steps than `before`, in words."""
    found = [path for path in checkpoint.checkpoints(run.folder.checkpoints) if checkpoint.step_of(path) < before]
    return f"'{found[-1]}'" if found else "none yet"


def save(run: Run) -> None:
    """Write a checkpoint of the steps done."""
    optimizer = optimizer_tensors(run.optimizer, run.policy.parameters())
    checkpoint.save(
        run.folder.checkpoints,
        run.step,
        write_adapter=run.policy.save_adapter,
        optimizer=optimizer,
        state={
            "explanations": run.explanations.to_json(step=run.step),
            "pairs": run.pairs.to_json(step=run.step),
            "limits": run.limits.to_json(),
        },
        keep=KEEP_CHECKPOINTS,
    )


def restore(run: Run, folder: Path) -> None:
    """Take adapter, optimiser, explanations and pairs back from a whole checkpoint."""
    state = checkpoint.load_state(folder)
    run.policy.load_adapter(folder)
    restore_optimizer(run.optimizer, run.policy.parameters(), folder)
    run.explanations.load_json(state.get("explanations", []))
    run.pairs.load_json(state.get("pairs", []))
    run.limits.load_json(state.get("limits", {}))
    run.step = state["step"]
