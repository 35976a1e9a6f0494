"""Random streams, and the choice of one token a row by inverting the cumulative distribution at a uniform number.

Axes: C completions, L longest completion in tokens, R rows, V vocabulary.
"""

from collections.abc import Sequence

import torch

from expo_lite.records import SampleRequest, SamplingParams

BELOW_ONE = 1 - 2**-23
"""Any fp32 total times this is below that total."""
BLOCK = 128
"""Tokens in a block of a large vocabulary; divides the vocabulary of every alias."""


def uniforms(requests: Sequence[SampleRequest], n_tokens: int, seed: int) -> torch.Tensor:
    """A uniform number [C, L] for each token that may be sampled; a request may have its own seed."""
    shared = torch.Generator().manual_seed(seed)
    rows = [torch.empty(0, n_tokens)]
    for request in requests:
        own = shared if request.seed is None else torch.Generator().manual_seed(request.seed)
        rows.append(torch.rand(request.n_completions, n_tokens, generator=own))
    return torch.cat(rows)


def choose(
    logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: SamplingParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one token a row; returns ids [R] and log-probabilities [R].

    The log-probability is that of the full distribution at the temperature, whatever top_p is.
    """
    if params.temperature == 0:
        tokens_R = logits_RV.argmax(dim=1)
        return tokens_R, logits_RV.log_softmax(dim=1).gather(1, tokens_R[:, None]).squeeze(1)
    if params.temperature != 1:
        logits_RV = logits_RV / params.temperature
    probs_RV = full_RV = logits_RV.softmax(dim=1)
    if params.top_p < 1:
        sorted_RV, order_RV = probs_RV.sort(dim=1, descending=True)
        # the smallest set whose mass reaches top_p: a token stays while the mass before it is below
        outside_RV = sorted_RV.cumsum(dim=1) - sorted_RV >= params.top_p
        probs_RV = probs_RV.masked_fill(outside_RV.scatter(1, order_RV, outside_RV), 0.0)
    tokens_R1 = _inverted(probs_RV, uniforms_R[:, None])
    return tokens_R1.squeeze(1), full_RV.gather(1, tokens_R1).squeeze(1).log()


def _inverted(probs_RV: torch.Tensor, uniforms_R1: torch.Tensor) -> torch.Tensor:
    """The token [R, 1] at which each row's cumulative sum first exceeds this share; its probability is not 0.

    Large vocabularies are summed in blocks, and token by token inside one block only, since a CPU's cumulative sum is
    slow.
    """
    n_blocks, rest = divmod(probs_RV.shape[1], BLOCK)
    if n_blocks < BLOCK or rest:
        return _search(probs_RV, uniforms_R1)[0]
    blocks_RNB = probs_RV.view(-1, n_blocks, BLOCK)
    block_R1, share_R1 = _search(blocks_RNB.sum(dim=2), uniforms_R1)
    inside_RB = blocks_RNB.gather(1, block_R1[:, :, None].expand(-1, -1, BLOCK)).squeeze(1)
    return block_R1 * BLOCK + _search(inside_RB, share_R1)[0]


def _search(weights_RN: torch.Tensor, shares_R1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the weight at which a share of the sum is exceeded, and how far into it the share reaches, in [0, 1]."""
    cumulative_RN = weights_RN.cumsum(dim=1)
    # below the total, so that some place exceeds it
    thresholds_R1 = shares_R1.clamp(max=BELOW_ONE) * cumulative_RN[:, -1:]
    # in a row of NaN nothing is exceeded: any place will do, and its log-probability is NaN too
    place_R1 = torch.searchsorted(cumulative_RN, thresholds_R1, right=True).clamp(max=weights_RN.shape[1] - 1)
    weight_R1 = weights_RN.gather(1, place_R1)
    into_R1 = thresholds_R1 - (cumulative_RN.gather(1, place_R1) - weight_R1)
    return place_R1, (into_R1 / weight_R1).clamp(0, 1)
