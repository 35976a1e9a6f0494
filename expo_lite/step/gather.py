"""What one step learns from: groups of completions, chains to imitate, and pairs to prefer; sampled, or kept from before."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.prompts import encode_question
from expo_lite.records import Explanation, Group, GroupKind, Pair, Problem, SamplingParams
from expo_lite.settings.config import TrainConfig
from expo_lite.step.explain import ExplanationStore, encode_target, judge
from expo_lite.step.methods import METHODS, Chain, Experience, chain_source
from expo_lite.step.pairs import PairStore, make_pairs, score_pairs
from expo_lite.step.rollout import roll_out, stream_seed
from expo_lite.tasks import Task


class Stores:
    """What is kept from step to step; part of a checkpoint."""

    def __init__(self, config: TrainConfig) -> None:
        """Start empty."""
        self.explanations = ExplanationStore(config.explanation.explanation_refresh_steps)
        self.pairs = PairStore(0 if config.dpo.pairs == "offline" else config.dpo.pair_refresh_steps)

    def to_json(self) -> dict[str, Any]:
        """Everything kept, as plain JSON values."""
        return {"explanations": self.explanations.to_json(), "pairs": self.pairs.to_json()}

    def load_json(self, state: dict[str, Any]) -> None:
        """Take back what `to_json` gave."""
        self.explanations.load_json(state["explanations"])
        self.pairs.load_json(state["pairs"])


@dataclass(frozen=True, slots=True)
class Gathered:
    """One step's experience, and what is worth writing down about how it came about."""

    experience: Experience
    explanations: tuple[Explanation, ...]
    new_pairs: tuple[Pair, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """Where experience comes from."""

    policy: Policy
    task: Task
    config: TrainConfig
    stores: Stores
    limits: Limits

    @property
    def params(self) -> SamplingParams:
        """How a run samples for training."""
        sampling = self.config.sampling
        return SamplingParams(
            sampling.temperature, self.config.max_completion_tokens, sampling.top_p, self.limits.sampling_rows
        )

    def gather(self, problems: Sequence[Problem], *, step: int) -> Gathered:
        """All that the method asks for on these problems, at a step counted from 0."""
        progress = step / self.config.total_steps
        if METHODS[self.config.method].pairs:
            return self._gather_pairs(problems, step, progress)
        groups, explanations = self.sample(problems, step=step)
        chains = tuple(self._chains(groups, explanations))
        return Gathered(Experience(tuple(groups), chains, progress), tuple(explanations))

    def _gather_pairs(self, problems: Sequence[Problem], step: int, progress: float) -> Gathered:
        """Pairs that are young enough, and new ones; offline ones are always the initial policy's: the adapter is off."""
        store, offline = self.stores.pairs, self.config.dpo.pairs == "offline"
        missing = [p for p in problems if store.get(p, step=step) is None]
        with self.policy.reference() if offline else contextlib.nullcontext():
            groups, explanations = self.sample(missing, step=step) if missing else ([], [])
        if chain_source(self.config) == "expert":
            chosen = {p.problem_id: self._expert_ids(p) for p in self._imitable(groups)}
        else:
            chosen = {e.problem.problem_id: e.target_ids for e in explanations if e.accepted}
        limits, config = self.limits, self.config
        new, metrics = limits.updating(lambda: make_pairs(self.policy, groups, chosen, limits.within(config)))
        store.put(new, step=step)
        pairs = [pair for p in problems if (pair := store.get(p, step=step)) is not None]
        scored = limits.updating(lambda: score_pairs(self.policy, pairs, limits.within(config)))
        experience = Experience(tuple(groups), (), progress, scored)
        return Gathered(experience, tuple(explanations), tuple(new), metrics | {"pairs/used": len(pairs)})

    def sample(self, problems: Sequence[Problem], *, step: int) -> tuple[list[Group], list[Explanation]]:
        """Groups and, where the method wants them, explanations: kept ones that are young enough, and new ones."""
        config, store = self.config, self.stores.explanations
        wants = chain_source(config) == "explanation"
        only_failed = METHODS[config.method].only_failed or config.explanation.explain == "all-wrong"
        kept = {p.problem_id: e for p in problems if wants and (e := store.get(p, step=step))}
        missing = [p for p in problems if wants and p.problem_id not in kept]
        n = config.explanation.explanations_per_problem
        rolled = self.limits.sampling(
            lambda: roll_out(
                self.policy,
                self.task,
                problems=problems,
                to_explain=[] if only_failed else missing,
                group_size=config.group_size,
                n_explanations=n,
                params=self.params,
                seed=stream_seed(config.seed, "rollout", step),
            )
        )
        groups, attempts = list(rolled.groups), list(rolled.attempts)
        if wants and only_failed:
            wrong = {group.problem.problem_id for group in groups if group.kind is GroupKind.ALL_WRONG}
            kept = {problem_id: e for problem_id, e in kept.items() if problem_id in wrong}
            later = self.limits.sampling(
                lambda: roll_out(
                    self.policy,
                    self.task,
                    to_explain=[p for p in missing if p.problem_id in wrong],
                    group_size=config.group_size,
                    n_explanations=n,
                    params=self.params,
                    seed=stream_seed(config.seed, "explanation", step),
                )
            )
            attempts = list(later.attempts)
        new = self.limits.updating(
            lambda: judge(self.policy, attempts, config.explanation, token_budget=self.limits.micro_batch_tokens)
        )
        for explanation in new:
            store.put(explanation, step=step)
        return groups, [*kept.values(), *new]

    def _chains(self, groups: Sequence[Group], explanations: Sequence[Explanation]) -> Iterator[Chain]:
        """The chains to imitate: accepted explanations, or the data's expert chains, each behind the plain prompt."""
        source = chain_source(self.config)
        if source == "explanation":
            for explanation in explanations:
                if explanation.accepted:
                    yield Chain(explanation.prompt_ids, explanation.target_ids)
        elif source == "expert":
            for problem in self._imitable(groups):
                yield Chain(encode_question(self.policy.tokenizer, problem), self._expert_ids(problem))

    def _imitable(self, groups: Sequence[Group]) -> Iterator[Problem]:
        """The problems that have an expert chain, and are to get one."""
        only_failed = self.config.explanation.explain == "all-wrong"
        for group in groups:
            if group.problem.expert_chain and not (only_failed and group.kind is not GroupKind.ALL_WRONG):
                yield group.problem

    def _expert_ids(self, problem: Problem) -> tuple[int, ...]:
        return encode_target(self.policy, problem.expert_chain or "")
