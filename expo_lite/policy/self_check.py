"""A check before training that the sampler samples from what the scorer scores; otherwise a run would follow noise.

Known causes, each seen in the field: left-padded batches with wrong positions, an adapter that the sampler did not get,
another model under the same name, a stray sampling setting. All show in one of two comparisons: greedy decoding of
several prompts together against each alone, and the sampler's log-probabilities against the scorer's.
"""

from collections.abc import Iterable

import torch

from expo_lite.errors import ModelError
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.scoring import score_rows
from expo_lite.records import Completion, SampleRequest, SamplingParams

N_PROMPTS = 4
N_TOKENS = 16
"""Tokens decoded of each prompt: enough for an error to show, and less than a hundredth of most steps."""
MEAN_LIMIT_NATS = {"exact": 0.005, "rounded": 0.1}
"""Mean difference between sampler and scorer, a token: fp32 gives 1e-6, bf16 about 1e-2, wrong positions 0.1."""
TIE_NATS = {"exact": 0.01, "rounded": 0.5}
"""Two tokens closer than this are a tie, which rounding may break either way."""


def self_check(policy: Policy, prompts: Iterable[tuple[int, ...]], *, temperature: float, token_budget: int) -> float:
    """Compare decoding together and alone, and sampler and scorer, on a few prompts of different lengths.

    Args:
        policy: ready to train.
        prompts: token ids to choose from.
        temperature: of the samples.
        token_budget: tokens of a scoring pass.

    Returns:
        The mean difference between the sampler's and the scorer's log-probabilities, nats a token.

    Raises:
        ModelError: they do not agree.
    """

    def sample(chosen: list[tuple[int, ...]], n: int, at: float) -> list[Completion]:
        groups = policy.sample([SampleRequest(prompt, n) for prompt in chosen], SamplingParams(at, N_TOKENS), seed=0)
        return [completion for group in groups for completion in group]

    def score(completions: list[Completion], at: float) -> list[torch.Tensor]:
        rows = [Row(completion.prompt_ids, completion.token_ids) for completion in completions]
        return score_rows(policy, rows, temperature=at, token_budget=token_budget)

    by_length = sorted(set(prompts), key=lambda prompt: (len(prompt), prompt))
    n = min(N_PROMPTS, len(by_length))
    chosen = [by_length[i * (len(by_length) - 1) // max(n - 1, 1)] for i in range(n)]
    together = sample(chosen, 1, 0.0)
    alone = [completion for prompt in chosen for completion in sample([prompt], 1, 0.0)]
    sampled = sample(chosen, 2, temperature)
    kind = "exact" if policy.samples_exactly else "rounded"
    scored = score([*together, *alone], 1.0)
    worst = max(map(_disagreement, together, alone, scored[:n], scored[n:]))
    if not worst <= TIE_NATS[kind]:
        raise ModelError(
            f"Greedy decoding of {n} prompts together gives other tokens than of each alone, by {worst:.2f} nats: the "
            "sampler pads or masks wrongly with this model. Try another --sampler or --backend."
        )
    scores = score(sampled, temperature)
    differences = [s - torch.tensor(c.logprobs) for s, c in zip(scores, sampled, strict=True)]
    mean = float(torch.cat(differences).abs().mean())
    if not mean <= MEAN_LIMIT_NATS[kind]:
        raise ModelError(
            f"The sampler's log-probabilities differ from the scorer's by {mean:.3f} nats a token (limit "
            f"{MEAN_LIMIT_NATS[kind]}): the model that samples is not the one that is trained. Try another --sampler "
            "or --backend."
        )
    return mean


def _disagreement(a: Completion, b: Completion, scores_a: torch.Tensor, scores_b: torch.Tensor) -> float:
    """Score difference (nats) of the first two tokens that differ between greedy completions; 0 if none do."""
    for i, (token_a, token_b) in enumerate(zip(a.token_ids, b.token_ids, strict=False)):
        if token_a != token_b:
            return abs(float(scores_a[i] - scores_b[i]))
    return 0.0
