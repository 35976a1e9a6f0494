"""Fit a run into memory and into the model's context: settings by the plan, halved where it was wrong."""

import dataclasses
import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from expo_lite.errors import ConfigError, DataError, ModelError, first_line
from expo_lite.memory.machine import out_of_memory, ram_bytes
from expo_lite.memory.plan import (
    CONTEXT,
    GIB,
    MOST_MICRO_BATCH_TOKENS,
    MOST_SAMPLING_ROWS,
    Keeps,
    Kind,
    MemoryPlan,
    Workload,
    plan_for,
)
from expo_lite.memory.shapes import context_of, find_shape
from expo_lite.prompts import chain_text, encode_prompts, explanation_turns, question_turns, thinks
from expo_lite.records import Problem, SamplingParams
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.machine import takes_unsloth
from expo_lite.settings.methods import METHODS
from expo_lite.settings.train import RunConfig
from expo_lite.terminal import counted

T = TypeVar("T")

SHORT_THOUGHT = 4096
"""Completion tokens below which thoughts of a problem of mathematics are often cut off."""
LIMITS = ("micro_batch_tokens", "sampling_rows", "keeps")
"""The limits that a checkpoint has."""
MERGED_TOKENS = 16
"""More tokens than a question changes where it meets the text around it."""


@dataclass(slots=True)
class Limits:
    """The amount done at a time. Work that runs out of memory is done again at half, and so is all that follows.

    A phase is repeated whole: rows have random streams of their own, so the same samples come out of smaller batches,
    and weights are computed on the whole batch, so the same gradient comes out of smaller micro-batches (to rounding,
    since sums are taken in another order).
    """

    micro_batch_tokens: int
    sampling_rows: int
    keeps: Keeps = "inputs"
    """The tensors that stay for the backward pass of an update."""
    warn: Callable[[str], None] = lambda line: None
    """Told of each halving."""
    updating_s: float = 0.0
    """The time that `updating` has taken so far."""

    @classmethod
    def of(
        cls, config: RunConfig, warn: Callable[[str], None] = lambda line: None, keeps: Keeps = "inputs"
    ) -> "Limits":
        """The limits in a run's settings; what they leave open is as large as a plan ever chooses."""
        tokens = config.optimizer.micro_batch_tokens or MOST_MICRO_BATCH_TOKENS
        rows = config.sampling.sampling_rows or MOST_SAMPLING_ROWS
        return cls(tokens, rows, keeps, warn)

    def to_json(self) -> dict[str, Any]:
        """The limits as they are now, as JSON values."""
        return {name: getattr(self, name) for name in LIMITS}

    def load_json(self, limits: Mapping[str, Any]) -> None:
        """Take back what `to_json` gave: a resumed run need not run out of memory again."""
        for name in LIMITS:
            setattr(self, name, limits.get(name, getattr(self, name)))

    def sampling(self, phase: Callable[[], T]) -> T:
        """Do something that samples, which reads `sampling_rows` itself.

        Raises:
            ModelError: not even one row at a time fits.
        """

        def smaller() -> str | None:
            if self.sampling_rows == 1:
                return None
            self.sampling_rows //= 2
            return f"sampling {counted(self.sampling_rows, 'row')} at a time"

        return self._repeat(phase, smaller, "--max-completion-tokens")

    def updating(self, phase: Callable[[], T], *, one_row: int = 1) -> T:
        """Do something that scores or learns, which reads `micro_batch_tokens` itself.

        Args:
            phase: drops what it has done when it starts anew.
            one_row: with so many tokens or fewer every micro-batch has a single row.

        Raises:
            ModelError: not even a micro-batch of a single row fits.
        """

        def smaller() -> str | None:
            if self.micro_batch_tokens <= one_row:
                if self.keeps == "inputs":
                    return None
                self.keeps = "inputs"
                return "all but the inputs of layers computed twice"
            self.micro_batch_tokens //= 2
            return f"micro-batches of {self.micro_batch_tokens} tokens"

        started = time.monotonic()
        done = self._repeat(phase, smaller, "--max-completion-tokens or --lora-rank")
        self.updating_s += time.monotonic() - started
        return done

    def scored(self, score: Callable[..., T], *what: Any, **how: Any) -> T:
        """Call a function that scores, with as many tokens at a time as fit as its `token_budget`; raises as above."""
        return self.updating(lambda: score(*what, **how, token_budget=self.micro_batch_tokens))

    def _repeat(self, phase: Callable[[], T], smaller: Callable[[], str | None], lower: str) -> T:
        while True:
            try:
                return phase()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                message = first_line(error)[:-1]
            # after the handler: the error's traceback has let go of what was computed
            gc.collect()
            torch.cuda.empty_cache()  # does nothing where CUDA has not started
            change = smaller()
            if change is None:
                raise ModelError(
                    f"Out of memory ({message}), with as little at a time as allowed. Lower {lower}, or take a smaller "
                    "model; `expo-lite plan` says what fits."
                )
            self.warn(f"out of memory ({message}): again with {change}")


def fitted(config: RunConfig, kept: RunConfig | None = None) -> tuple[RunConfig, MemoryPlan | None]:
    """The settings with micro-batch and sampling rows filled in, and the plan that they come from.

    Args:
        config: resolved settings.
        kept: those of the run that is resumed, whose choice is kept, whatever the memory is now.

    Returns:
        No plan if the model's sizes are not known before it is loaded: then the caps hold.
    """
    tokens = config.optimizer.micro_batch_tokens or (kept.optimizer.micro_batch_tokens if kept else None)
    rows = config.sampling.sampling_rows or (kept.sampling.sampling_rows if kept else None)
    policy = config.policy
    if kept and policy.revision is None:
        policy = dataclasses.replace(policy, revision=kept.policy.revision)
    if kept and policy.sampler == "auto":
        policy = dataclasses.replace(policy, sampler=kept.policy.sampler)
    workload = Workload(
        group_size=config.group_size,
        rows_together=2 if METHODS[config.method].pairs else 1,
        completion_tokens=config.sampling.max_completion_tokens,
        from_adapter=config.start_from is not None,
        recomputes=takes_unsloth(policy.backend),
    )
    # a kept `auto` is what a plan leaves that has room for our own
    asked = dataclasses.replace(policy, sampler="own") if kept and policy.sampler == "auto" else policy
    plan = _plan_here(config.model, workload, asked, tokens, rows)
    if plan is not None:
        tokens, rows = plan.micro_batch_tokens, plan.sampling_rows
        if plan.workload.sampler == "native":  # else `auto` is settled when the model is there
            policy = dataclasses.replace(policy, sampler="native")
    optimizer = dataclasses.replace(config.optimizer, micro_batch_tokens=tokens or MOST_MICRO_BATCH_TOKENS)
    sampling = dataclasses.replace(config.sampling, sampling_rows=rows or MOST_SAMPLING_ROWS)
    return dataclasses.replace(config, policy=policy, optimizer=optimizer, sampling=sampling), plan


def fitted_policy(
    model: str, policy: PolicyConfig, params: SamplingParams, warn: Callable[[str], None]
) -> tuple[PolicyConfig, Limits]:
    """The sampler and the batch sizes that the plan allows a command that only samples and scores."""
    workload = Workload(completion_tokens=params.max_completion_tokens, nucleus=params.top_p < 1, recomputes=True)
    plan = _plan_here(model, workload, policy, None, None)
    if plan is None:
        return policy, Limits(MOST_MICRO_BATCH_TOKENS, params.rows, warn=warn)
    if plan.workload.sampler == "native":
        policy = dataclasses.replace(policy, sampler="native")
    return policy, Limits(plan.micro_batch_tokens, min(params.rows, plan.sampling_rows), warn=warn)


def _plan_here(
    model: str, workload: Workload, policy: PolicyConfig, tokens: int | None, rows: int | None
) -> MemoryPlan | None:
    """Plan work with a policy on this machine; None if the model's sizes are not known."""
    try:
        shape = find_shape(model, policy.revision)
    except ModelError:
        return None
    kind: Kind = "gpu" if torch.cuda.is_available() else "cpu"
    total = free_gpu_bytes() if kind == "gpu" else ram_bytes()
    workload = dataclasses.replace(workload, kind=kind, bits=policy.bits or 4, lora_rank=policy.lora_rank)
    return plan_for(shape, workload, total, policy.sampler, micro_batch_tokens=tokens, sampling_rows=rows)


def free_gpu_bytes() -> float:
    """Memory the GPU has for this process: what is free, and the context that this very question has made."""
    free, total = torch.cuda.mem_get_info()
    return min(free + CONTEXT["gpu"], float(total))


def peak_memory_gib() -> float:
    """The process's peak so far, in GiB: of the GPU's allocator where there is one, else of resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage also counts what the process held that started this one
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB


def peak_reserved_gib() -> float:
    """The most that the GPU's allocator has held, in GiB: with the pools of CUDA graphs, and with fragments."""
    return torch.cuda.max_memory_reserved() / GIB


def fitting(
    problems: Sequence[Problem],
    model: str,
    max_completion_tokens: int,
    *,
    revision: str | None = None,
    tokenizer: Callable[[], Any],
    warn: Callable[[str], None] = lambda line: None,
) -> list[Problem]:
    """Keep the problems whose longer prompt fits into the model's context together with a completion.

    What does not fit is left out and counted in a warning. An expert chain that does not fit after its prompt, or whose
    thought the chat template has no place for, is left out alone. A model that thinks is warned about short limits.

    Args:
        problems: of one task.
        model: as typed.
        max_completion_tokens: the longest completion.
        revision: the model's, of a hub model.
        tokenizer: loads the model's.
        warn: told what is left out.

    Raises:
        ConfigError: a completion leaves no room for any prompt.
        DataError: no problem fits.
    """
    if not problems:
        return []
    own = tokenizer()
    problems = _with_thoughts(problems, own, max_completion_tokens, warn)
    # of a hub model from the cache, where its tokenizer is too
    context = context_of(model, max_completion_tokens, revision)
    if context is None:
        return problems
    room = context - max_completion_tokens
    lengths = _lengths(problems, context, max_completion_tokens, own)
    kept, n_chains = list[Problem](), 0
    for i, problem in enumerate(problems):
        prompt, chain = lengths.get(i, (0, 0))  # what is not measured is short
        if prompt > room:
            continue
        if chain > context - prompt:
            problem, n_chains = dataclasses.replace(problem, expert_chain=None), n_chains + 1
        kept.append(problem)
    if not kept:
        raise DataError(
            f"No problem of {len(problems):,} fits: with completions of {max_completion_tokens:,} tokens no prompt "
            f"may have more than {room:,} of the {context:,} tokens of the context of model '{model}'. Lower "
            "--max-completion-tokens, or take shorter problems."
        )
    if n_long := len(problems) - len(kept):
        warn(
            f"{n_long:,} of {len(problems):,} problems are left out: with completions of {max_completion_tokens:,} "
            f"tokens their prompts do not fit into the model's context of {context:,}."
        )
    if n_chains:
        warn(f"{counted(n_chains, 'expert chain')} left out: too long to fit into the context after the question.")
    return kept


def _with_thoughts(
    problems: Sequence[Problem], tokenizer: Any, max_completion_tokens: int, warn: Callable[[str], None]
) -> list[Problem]:
    """The problems, without the chains whose thoughts cannot be written after their prompts."""
    if max_completion_tokens < SHORT_THOUGHT and thinks(tokenizer):
        warn(
            f"the model thinks before it answers, and completions end at {max_completion_tokens:,} tokens: many end "
            f"inside the thought. Take --max-completion-tokens {SHORT_THOUGHT} or more, or --thinking off"
        )
    kept, why = list(problems), list[str]()
    for i, problem in enumerate(problems):
        try:
            chain_text(tokenizer, problem)
        except ConfigError as error:
            kept[i], why = dataclasses.replace(problem, expert_chain=None), [*why, str(error)]
    if why:
        warn(f"{len(why):,} expert chains are left out. {why[0]}")
    n_thoughts = sum("</think>" in (problem.expert_chain or "") for problem in kept)
    if n_thoughts and not thinks(tokenizer):
        what = f"{counted(n_thoughts, 'expert chain')} with a thought (<think>), and the chat template has no thinking"
        warn(f"{what}: the tags are learned as text. Take the thoughts out unless that is meant.")
    return kept


def _lengths(
    problems: Sequence[Problem], context: int, max_completion_tokens: int, tokenizer: Any
) -> dict[int, tuple[int, int]]:
    """Measure problems that may not fit: tokens of the longer prompt, and of the chain with the token that ends it.

    The prompts of an empty problem are measured first. Where they leave enough room for every character of question,
    answer and chain, the problem itself is not tokenised: that takes minutes for thousands of long prompts. A token is
    at least a character, of ASCII.
    """
    around = {prompts: Problem("", "", "", prompts=prompts) for prompts in {problem.prompts for problem in problems}}
    n_around = {prompts: max(map(len, encode_prompts(tokenizer, [empty])[0])) for prompts, empty in around.items()}
    lengths: dict[int, tuple[int, int]] = {}
    unsure: list[int] = []
    for i, problem in enumerate(problems):
        empty, chain = _characters(around[problem.prompts]), problem.expert_chain or ""
        n_more = max(now - then for now, then in zip(_characters(problem), empty, strict=True))
        most = n_around[problem.prompts] + n_more + MERGED_TOKENS + max(max_completion_tokens, len(chain) + 1)
        if most > context or not (problem.question + problem.answer + chain).isascii():
            unsure.append(i)
    some = [problems[i] for i in unsure]
    chains = tokenizer([chain_text(tokenizer, p) for p in some], add_special_tokens=False)["input_ids"] if some else []
    for i, prompts, chain in zip(unsure, encode_prompts(tokenizer, some) if some else [], chains, strict=True):
        lengths[i] = (max(map(len, prompts)), len(chain) + 1)
    return lengths


def _characters(problem: Problem) -> list[int]:
    """Characters of the two prompts."""
    return [sum(len(turn["content"]) for turn in of(problem)) for of in (question_turns, explanation_turns)]
