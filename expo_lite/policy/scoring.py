"""Log-probabilities of completions under a transformers model, without the full logits."""

from collections.abc import Sequence
from typing import Any

import torch

from expo_lite.batching import MicroBatch, Row, micro_batches
from expo_lite.objectives import token_logprobs
from expo_lite.policy.base import Policy


def score(model: Any, batch: MicroBatch, *, temperature: float) -> torch.Tensor:
    """Log-probabilities [N] of the batch's completion tokens (nats, fp32), at a temperature.

    Runs the decoder alone, takes the hidden states that predict completion tokens, and applies the head to those in chunks.

    Args:
        model: a transformers causal language model (inside peft: its base model, adapters in place).
        batch: right-padded rows, so that no attention mask is needed.
        temperature: logits are divided by it, as they were in sampling.
    """
    hidden_BTH = model.get_decoder()(input_ids=batch.input_ids_BT, use_cache=False).last_hidden_state
    hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, batch.predictors_N)
    return token_logprobs(hidden_NH, batch.targets_N, model.get_output_embeddings(), temperature=temperature)


def score_rows(policy: Policy, rows: Sequence[Row], *, temperature: float, token_budget: int) -> list[torch.Tensor]:
    """Log-probabilities of each row's completion tokens (nats, on the CPU, no gradient), in the order of the rows."""
    scored: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for batch in micro_batches(rows, token_budget=token_budget, pad_id=policy.pad_id, device=policy.device):
        pieces = torch.split(policy.logprobs(batch, temperature=temperature).detach().cpu(), batch.lengths)
        for index, piece in zip(batch.indices, pieces, strict=True):
            scored[index] = piece
    return scored
