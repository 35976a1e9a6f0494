"""What one step learns from: groups, chains to imitate, and pairs; sampled, or kept from before."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from expo_lite.prompts import encode_question
from expo_lite.records import Explanation, Group, GroupKind, Problem, SamplingParams
from expo_lite.settings.methods import METHODS
from expo_lite.step.explain import best, encode_target
from expo_lite.step.methods import Chain, Experience
from expo_lite.step.pairs import make_pairs
from expo_lite.step.rederive import judge_within
from expo_lite.step.rollout import Rollout, explanation_params, roll_out, stream_seed
from expo_lite.step.run import Run


def sample_experience(run: Run, problems: Sequence[Problem]) -> Experience:
    """All that the run's method asks for on these problems, at the step that comes next."""
    if METHODS[run.config.method].pairs:
        return _pairs(run, problems)
    if not METHODS[run.config.method].groups and run.config.explanation.explain == "all":
        imitated = [p for p in problems if p.expert_chain]
        return Experience((), tuple(_expert_chains(run, imitated)), _progress(run), unsampled=len(problems))
    groups, explanations, attempts = _groups_and_explanations(run, problems)
    chains = tuple(_chains(run, groups, explanations))
    return Experience(tuple(groups), chains, _progress(run), (), tuple(explanations), tuple(attempts))


def _progress(run: Run) -> float:
    return run.step / run.config.steps


def _pairs(run: Run, problems: Sequence[Problem]) -> Experience:
    """Pairs that are young enough, and new ones; offline ones are always the initial policy's: the adapter is off."""
    store, limits = run.pairs, run.limits
    missing = [p for p in problems if store.get(p.problem_id, step=run.step) is None]
    with run.policy.reference() if run.config.dpo.pairs == "offline" else contextlib.nullcontext():
        groups, explanations, attempts = _groups_and_explanations(run, missing) if missing else ([], [], [])
    if run.config.chain_source == "expert":
        chosen = {p.problem_id: _expert_ids(run, p) for p in _imitable(run, groups)}
    else:
        chosen = {e.problem.problem_id: e.target_ids for e in explanations if e.accepted}
    temperature = run.config.sampling.temperature
    new, metrics = limits.updating(
        lambda: make_pairs(run.policy, groups, chosen, temperature=temperature, token_budget=limits.micro_batch_tokens)
    )
    store.put(new, step=run.step)
    pairs = tuple(pair for p in problems if (pair := store.get(p.problem_id, step=run.step)) is not None)
    metrics |= {"pairs/used": len(pairs)}
    return Experience(
        tuple(groups), (), _progress(run), pairs, tuple(explanations), tuple(attempts), tuple(new), metrics
    )


def _groups_and_explanations(
    run: Run, problems: Sequence[Problem]
) -> tuple[list[Group], list[Explanation], list[Explanation]]:
    """Groups and, where the method wants them, explanations: kept ones that are young enough, and the best new ones;
    then all the new ones.
    """  # noqa: D205 (one sentence)
    config = run.config
    wants = config.chain_source == "explanation"
    only_failed = METHODS[config.method].gate_is_fixed or config.explanation.explain == "all-wrong"
    kept = {p.problem_id: e for p in problems if wants and (e := run.explanations.get(p.problem_id, step=run.step))}
    missing = [p for p in problems if wants and p.problem_id not in kept]
    rolled = _roll_out(run, "rollout", problems, [] if only_failed else missing)
    groups, attempts = list(rolled.groups), rolled.attempts
    if wants and only_failed:
        wrong = {group.problem.problem_id for group in groups if group.kind is GroupKind.ALL_WRONG}
        problems = [p for p in problems if p.problem_id in wrong]
        attempts = _roll_out(run, "explanation", [], [p for p in missing if p.problem_id in wrong]).attempts
    judged = judge_within(run.policy, run.task, attempts, config.explanation, params=_params(run), limits=run.limits)
    new = [best(candidates) for candidates in judged]
    run.explanations.put([e for e in new if e.accepted], step=run.step)  # a refused one is tried again the next time
    again = [kept[p.problem_id] for p in problems if p.problem_id in kept]  # one that is drawn twice counts twice
    return groups, [*again, *new], [e for candidates in judged for e in candidates]


def _params(run: Run) -> SamplingParams:
    sampling = run.config.sampling
    return SamplingParams(sampling.temperature, sampling.max_completion_tokens, rows=run.limits.sampling_rows)


def _roll_out(run: Run, stream: str, problems: Sequence[Problem], to_explain: Sequence[Problem]) -> Rollout:
    """One call of the sampler, with the run's settings and the random stream of this step."""
    config = run.config

    def sample() -> Rollout:
        params = _params(run)
        return roll_out(
            run.policy,
            run.task,
            problems=problems,
            to_explain=to_explain,
            group_size=config.group_size,
            n_explanations=config.explanation.explanations_per_problem,
            explain_with=config.explanation.explain_with,
            others=run.problems,
            params=params,
            explanation_params=explanation_params(config.explanation, params),
            seed=stream_seed(config.seed, stream, run.step),
        )

    return run.limits.sampling(sample)


def _chains(run: Run, groups: Sequence[Group], explanations: Sequence[Explanation]) -> Iterator[Chain]:
    """The chains to imitate: accepted explanations, or the data's expert chains, each after the plain prompt."""
    source = run.config.chain_source
    if source == "explanation":
        for explanation in explanations:
            if explanation.accepted:
                yield Chain(explanation.prompt_ids, explanation.target_ids)
    elif source == "expert":
        yield from _expert_chains(run, _imitable(run, groups))


def _expert_chains(run: Run, problems: Iterable[Problem]) -> Iterator[Chain]:
    for problem in problems:
        yield Chain(encode_question(run.policy.tokenizer, problem), _expert_ids(run, problem))


def _imitable(run: Run, groups: Sequence[Group]) -> Iterator[Problem]:
    """The problems that have an expert chain, and are to get one."""
    only_failed = run.config.explanation.explain == "all-wrong"
    for group in groups:
        if group.problem.expert_chain and not (only_failed and group.kind is not GroupKind.ALL_WRONG):
            yield group.problem


def _expert_ids(run: Run, problem: Problem) -> tuple[int, ...]:
    return encode_target(run.policy, problem.expert_chain or "")
