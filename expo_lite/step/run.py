"""Everything that one training run holds in memory, what it begins with, and how it goes into a checkpoint and back."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from expo_lite.errors import ConfigError
from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.policy.self_check import self_check
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Explanation, Pair, Problem, Prompts
from expo_lite.run import checkpoint
from expo_lite.run.folder import RunFolder
from expo_lite.run.progress import working
from expo_lite.settings.train import RunConfig
from expo_lite.step.optimizer import optimizer_tensors, restore_optimizer
from expo_lite.step.store import RefreshStore
from expo_lite.tasks import Task, problems_of
from expo_lite.terminal import say

KEEP_CHECKPOINTS = 2
CHECKED_PROBLEMS = 32
"""Among whose prompts the start-up check finds short and long ones."""


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


def training_problems(task: Task, config: RunConfig, prompts: Prompts, warn: Callable[[str], None]) -> list[Problem]:
    """The problems to train on, by default of all levels.

    Raises:
        ConfigError: the method needs expert chains, and the task has none.
    """
    limit = config.train_problems
    problems = problems_of(
        task, "train", levels=config.levels, limit=limit, seed=config.seed, warn=warn, prompts=prompts
    )
    if config.chain_source == "expert" and not any(problem.expert_chain for problem in problems):
        raise ConfigError(
            f"Method '{config.method}' needs expert chains here, and task '{config.task}' has none. Name the field of "
            "the data that has them with --fields chain=NAME, or take a method that needs none (exp-grpo, grpo, star)."
        )
    return problems


def both_prompts(run: Run, problems: list[Problem]) -> list[tuple[int, ...]]:
    """The question prompt and the explanation prompt of each problem, as token ids."""
    return [encode(run.policy.tokenizer, p) for p in problems for encode in (encode_question, encode_explanation)]


def check_sampler(run: Run, console: Console) -> None:
    """Refuse to train on noise: raises ModelError where sampler and scorer do not agree."""
    started = time.monotonic()
    prompts = both_prompts(run, run.problems[:CHECKED_PROBLEMS])
    with working(console, "checking that sampler and scorer agree"):
        mean = run.limits.updating(
            lambda: self_check(
                run.policy,
                prompts,
                temperature=run.config.sampling.temperature,
                token_budget=run.limits.micro_batch_tokens,
            )
        )
    took = f"{time.monotonic() - started:.1f} s"
    say(console, f"self-check: sampler and scorer agree to {mean:.1e} nats a token ({took})")
