"""One token for each row, by inverting the cumulative distribution at a uniform number.

Axes: R rows, V vocabulary.
"""

import torch

from expo_lite.records import SamplingParams

BELOW_ONE = 1 - 2**-23
"""Times any fp32 total, a number below that total."""
BLOCK = 128
"""Divides the vocabulary of every alias."""


def choose(
    logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: SamplingParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick one token a row; returns ids [R] and log-probabilities [R].

    The log-probability is that of the full distribution at the temperature, whatever top_p cut off.
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
    """Where each row's cumulative sum first exceeds this share of the whole; that token's probability is not 0.

    Large vocabularies are summed up in blocks, and token by token inside one block alone: a CPU's cumulative sum is
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
    """The weight at which a share of the sum is exceeded, and how far into that weight it reaches, as a share of it."""
    cumulative_RN = weights_RN.cumsum(dim=1)
    # below the total, so that there is a place where it is exceeded
    thresholds_R1 = shares_R1.clamp(max=BELOW_ONE) * cumulative_RN[:, -1:]
    # where nothing is a number nothing is exceeded: any place will do, and its log-probability is no number either
    found_R1 = torch.searchsorted(cumulative_RN, thresholds_R1, right=True).clamp(max=weights_RN.shape[1] - 1)
    weight_R1 = weights_RN.gather(1, found_R1)
    into_R1 = thresholds_R1 - (cumulative_RN.gather(1, found_R1) - weight_R1)
    return found_R1, (into_R1 / weight_R1).clamp(0, 1)
