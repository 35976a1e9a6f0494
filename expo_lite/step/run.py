"""Everything that one training run holds in memory."""

from dataclasses import dataclass, field

import torch

from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.records import Explanation, Pair, Problem
from expo_lite.run.folder import RunFolder
from expo_lite.settings.train import RunConfig
from expo_lite.step.store import RefreshStore
from expo_lite.tasks import Task


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
