"""One token for each row, by inverting the cumulative distribution at a uniform number.

Axes: R rows, V vocabulary.
"""

import torch

from expo_lite.records import SamplingParams

BELOW_ONE = 1 - 2**-23
"""Times any fp32 total, a number below that total."""


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
    cumulative_RV = probs_RV.cumsum(dim=1)
    # below the total, so that there is a token at which the sum first exceeds it; that token's probability is not 0
    thresholds_R1 = uniforms_R.clamp(max=BELOW_ONE)[:, None] * cumulative_RV[:, -1:]
    tokens_R1 = torch.searchsorted(cumulative_RV, thresholds_R1, right=True)
    return tokens_R1.squeeze(1), full_RV.gather(1, tokens_R1).squeeze(1).log()
