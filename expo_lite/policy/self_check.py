"""Before training: whether the sampler samples from what the scorer scores. If not, training would follow noise.

Known ways to get there, each seen in the field: left-padded batches with wrong positions, an adapter that the sampler
was not given, another model under the same name, a sampling setting that slipped in. All show in one of two
comparisons: greedy decoding of several prompts together against each alone, and the sampler's log-probabilities against
the scorer's.
"""

from collections.abc import Iterable, Sequence

import torch

from expo_lite.errors import ModelError
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.scoring import score_rows
from expo_lite.records import Completion, SampleRequest, SamplingParams

N_PROMPTS = 4
N_TOKENS = 16
"""Decoded of each prompt: enough for an error to show, and for most runs under a hundredth of one step."""
MEAN_LIMIT_NATS = {"exact": 0.005, "rounded": 0.1}
"""Between sampler and scorer, a token: fp32 gives 1e-6, bf16 some 1e-2, broken positions 0.1."""
TIE_NATS = {"exact": 0.01, "rounded": 0.5}
"""Two tokens nearer than this are a tie, which rounding may break either way."""


def self_check(policy: Policy, prompts: Iterable[tuple[int, ...]], *, temperature: float, token_budget: int) -> float:
    """Compare decoding together and alone, and sampler and scorer, on a few prompts of unequal lengths.

    Args:
        policy: ready to train.
        prompts: token ids to choose from.
        temperature: of the samples.
        token_budget: of a scoring pass.

    Returns:
        The mean difference between the sampler's and the scorer's log-probabilities, nats a token.

    Raises:
        ModelError: they do not agree.
    """
    chosen = _spread(sorted(set(prompts), key=lambda prompt: (len(prompt), prompt)))
    greedy, sampling = SamplingParams(0.0, N_TOKENS), SamplingParams(temperature, N_TOKENS)
    together = _flat(policy.sample([SampleRequest(prompt, 1) for prompt in chosen], greedy, seed=0))
    alone = [_flat(policy.sample([SampleRequest(prompt, 1)], greedy, seed=0))[0] for prompt in chosen]
    sampled = _flat(policy.sample([SampleRequest(prompt, 2) for prompt in chosen], sampling, seed=0))
    kind = "exact" if policy.samples_exactly else "rounded"
    scored = _scores(policy, [*together, *alone], 1.0, token_budget)
    pairs = zip(together, alone, scored[: len(chosen)], scored[len(chosen) :], strict=True)
    worst = max(_disagreement(*pair) for pair in pairs)
    if not worst <= TIE_NATS[kind]:
        raise ModelError(
            f"Greedy decoding of {len(chosen)} prompts together gives other tokens than of each alone, by {worst:.2f} "
            "nats: the sampler pads or masks wrongly with this model. Try another --sampler or --backend."
        )
    scores = _scores(policy, sampled, temperature, token_budget)
    differences = [s - torch.tensor(c.logprobs) for s, c in zip(scores, sampled, strict=True)]
    mean = float(torch.cat(differences).abs().mean())
    if not mean <= MEAN_LIMIT_NATS[kind]:
        raise ModelError(
            f"The sampler's log-probabilities differ from the scorer's by {mean:.3f} nats a token (limit "
            f"{MEAN_LIMIT_NATS[kind]}): what is sampled is not what would be trained. Try another --sampler or "
            "--backend."
        )
    return mean


def _spread(prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The shortest, the longest, and some between."""
    n = min(N_PROMPTS, len(prompts))
    return [prompts[i * (len(prompts) - 1) // max(n - 1, 1)] for i in range(n)]


def _flat(sampled: Iterable[tuple[Completion, ...]]) -> list[Completion]:
    return [completion for row in sampled for completion in row]


def _scores(
    policy: Policy, completions: Sequence[Completion], temperature: float, token_budget: int
) -> list[torch.Tensor]:
    rows = [Row(completion.prompt_ids, completion.token_ids) for completion in completions]
    return score_rows(policy, rows, temperature=temperature, token_budget=token_budget)


def _disagreement(a: Completion, b: Completion, scores_a: torch.Tensor, scores_b: torch.Tensor) -> float:
    """How far apart the scorer finds the two tokens at which two greedy completions part, nats; 0 if they never do."""
    for i, (token_a, token_b) in enumerate(zip(a.token_ids, b.token_ids, strict=False)):
        if token_a != token_b:
            return abs(float(scores_a[i] - scores_b[i]))
    return 0.0
