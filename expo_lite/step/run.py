"""The state of a training run, and its way into a checkpoint and back."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from safetensors.torch import load_file

from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.grading import final_answer
from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.policy.self_check import self_check
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Explanation, Pair, Problem, Prompts, SamplingParams
from expo_lite.run import checkpoint
from expo_lite.run.folder import RunFolder
from expo_lite.run.progress import working
from expo_lite.settings.methods import METHODS
from expo_lite.settings.schema import from_mapping
from expo_lite.settings.train import RunConfig
from expo_lite.tasks import Task, problems_of
from expo_lite.terminal import say, visible

KEEP_CHECKPOINTS = 2
CHECKED_PROBLEMS = 32
"""Problems among whose prompts the start-up check finds short and long ones."""


Kept = TypeVar("Kept", bound=Explanation | Pair)


class RefreshStore(Generic[Kept]):
    """Records by problem, each used again until it is `refresh_steps` old (0: for ever)."""

    def __init__(self, kind: type[Kept], refresh_steps: int) -> None:
        self._kind = kind
        self._refresh_steps = refresh_steps
        self._kept: dict[str, tuple[int, Kept]] = {}

    def get(self, problem_id: str, *, step: int) -> Kept | None:
        """The problem's record if it is young enough."""
        made, record = self._kept.get(problem_id, (0, None))
        return record if self._is_young(made, step) else None

    def put(self, records: Iterable[Kept], *, step: int) -> None:
        """Keep new records, and forget those that are too old by now."""
        self._kept |= {record.problem.problem_id: (step, record) for record in records}
        self._kept = {key: kept for key, kept in self._kept.items() if self._is_young(kept[0], step)}

    def to_json(self, *, step: int) -> list[dict[str, Any]]:
        """The entries that can still be used at `step`, as plain JSON values."""
        young = (kept for kept in self._kept.values() if self._is_young(kept[0], step))
        return [{"made": made, "record": dataclasses.asdict(record)} for made, record in young]

    def load_json(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take back what `to_json` gave.

        Raises:
            CheckpointError: the rows are not of this form.
        """
        try:
            for row in rows:
                record = from_mapping(self._kind, row["record"], "record", any_text=True)
                self._kept[record.problem.problem_id] = (row["made"], record)
        except (ConfigError, LookupError, TypeError) as error:
            raise CheckpointError(f"The checkpoint's kept explanations or pairs cannot be read: {error}") from error

    def _is_young(self, made: int, step: int) -> bool:
        return not self._refresh_steps or step - made < self._refresh_steps


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
    rates: dict[str, float] = field(default_factory=dict)
    """Success rates by problem, of those drawn so far."""
    prefixes: dict[str, int] = field(default_factory=dict)
    """Parts of its explanation that a problem is given by the method prefix; those that are not at the start."""
    variants: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Form and text in which a problem is asked by the method reformulate; '' before it is written, and openly."""
    explanations: RefreshStore[Explanation] = field(init=False)
    pairs: RefreshStore[Pair] = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.explanations = RefreshStore(Explanation, 1 if METHODS[config.method].pairs else config.refresh_steps)
        self.pairs = RefreshStore(Pair, 0 if config.dpo.pairs == "offline" else config.refresh_steps)

    @property
    def params(self) -> SamplingParams:
        """Parameters for sampling completions to train on."""
        return SamplingParams(self.config.sampling.temperature, self.config.sampling.max_completion_tokens)


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
            "rates": run.rates,
            "prefixes": run.prefixes,
            "variants": run.variants,
            "limits": run.limits.to_json(),
            "loss_scale": run.policy.scaler.state_dict(),
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
    run.rates, run.prefixes = dict(state.get("rates", {})), dict(state.get("prefixes", {}))
    run.variants = {problem_id: (form, text) for problem_id, (form, text) in state.get("variants", {}).items()}
    run.limits.load_json(state.get("limits", {}))
    if scale := state.get("loss_scale"):
        run.policy.scaler.load_state_dict(scale)
    run.step = state["step"]


def resume(run: Run, console: Console) -> None:
    """Continue from the newest whole checkpoint of a run that is to be resumed, if there is one."""
    if not run.config.resume:
        return
    resumed_from, damaged = run.folder.cut_back()
    for line in damaged:
        run.limits.warn(f"{line}; going on from an older one.")
    if resumed_from is not None:
        restore(run, resumed_from)
        say(console, f"resumed at step {run.step} from '{resumed_from}'")


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The optimiser's state as `PARAMETER//KEY` tensors on the CPU; a whole number as a tensor without axes."""
    return {
        f"{name}//{key}": torch.as_tensor(value).detach().cpu()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor | int)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter], folder: Path
) -> None:
    """Put the state back that `optimizer_tensors` gave, each tensor beside its parameter.

    Raises:
        CheckpointError: the state belongs to other parameters.
    """
    tensors = load_file(folder / checkpoint.OPTIMIZER, device="cpu")
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition("//")
        if name not in parameters:
            raise CheckpointError(f"The optimiser state in '{folder}' has '{name}', which this model does not.")
        parameter = parameters[name]
        # a count of steps stays on the CPU, as torch has it
        optimizer.state[parameter][key] = value if value.dim() == 0 else value.to(parameter.device)


def training_problems(task: Task, config: RunConfig, prompts: Prompts, warn: Callable[[str], None]) -> list[Problem]:
    """The problems to train on, by default of all levels.

    Raises:
        ConfigError: the method needs expert chains, and the task has none; or answers, and one cannot be read.
    """
    limit = config.train_problems
    problems = problems_of(
        task, "train", levels=config.levels, limit=limit, seed=config.seed, warn=warn, prompts=prompts
    )
    check_chains(
        problems, config, f"task '{config.task}' has none. Name the field of the data with --fields chain=NAME"
    )
    unreadable = [p for p in problems if final_answer(f"\\boxed{{{p.answer}}}")[0] is None]
    if config.method == "likelihood" and unreadable:
        raise ConfigError(
            f"Method 'likelihood' rewards how probable the right answer is, and '{visible(unreadable[0].answer)}', the "
            f"answer of problem '{unreadable[0].problem_id}', cannot be read out of a box. Take another method."
        )
    return problems


def check_chains(problems: Sequence[Problem], config: RunConfig, why: str) -> None:
    """Raise ConfigError, which says why, if the method needs expert chains and there are none."""
    if config.chain_source == "expert" and not any(problem.expert_chain for problem in problems):
        raise ConfigError(
            f"Method '{config.method}' needs expert chains here, and {why}, or take a method that needs none "
            "(exp-grpo, grpo, star)."
        )


def both_prompts(run: Run, problems: list[Problem]) -> list[tuple[int, ...]]:
    """The question prompt and the explanation prompt of each problem, as token ids."""
    return [encode(run.policy.tokenizer, p) for p in problems for encode in (encode_question, encode_explanation)]


def check_sampler(run: Run, console: Console) -> None:
    """Refuse to train on noise: raises ModelError where sampler and scorer do not agree."""
    started = time.monotonic()
    prompts = both_prompts(run, run.problems[:CHECKED_PROBLEMS])
    with working(console, "checking that sampler and scorer agree"):
        mean = run.limits.scored(self_check, run.policy, prompts, temperature=run.config.sampling.temperature)
    took = f"{time.monotonic() - started:.1f} s"
    say(console, f"self-check: sampler and scorer agree to {mean:.1e} nats a token ({took})")
