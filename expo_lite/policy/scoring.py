"""Log-probabilities of completions under a transformers model, without the full logits."""

from collections.abc import Sequence
from typing import Any

import torch

from expo_lite.objectives import token_logprobs
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import MicroBatch, Row, micro_batches
from expo_lite.policy.products import linear
from expo_lite.settings.models import FAMILIES


def score(model: Any, batch: MicroBatch, *, temperature: float, gradient: bool = True) -> torch.Tensor:
    """Log-probabilities [N] of the batch's completion tokens (nats, fp32), at a temperature.

    Runs the decoder alone, takes the hidden states that predict completion tokens, and applies the head to those in
    chunks.

    Args:
        model: a transformers causal language model (inside peft: its base model, adapters in place).
        batch: rows with a prompt and a completion each; rows of one prompt share its computation.
        temperature: divides the logits, as in sampling.
        gradient: give the result a gradient.
    """
    hidden_NH = packed_hidden(model, batch) if is_packable(model) else padded_hidden(model, batch)
    if not gradient:
        hidden_NH = hidden_NH.detach()
    head_VH = model.get_output_embeddings().weight
    return token_logprobs(hidden_NH, batch.targets_N, head_VH, temperature=temperature, product=linear)


def is_packable(model: Any) -> bool:
    """Tell whether `score` lays this model's rows end to end."""
    # this imports transformers, which must wait for Unsloth, so not before a model is loaded
    from expo_lite.policy import attention

    return model.config.model_type in FAMILIES and model.config._attn_implementation == attention.NAME


def packed_hidden(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Last hidden states [N, H] at the predictors, each prompt computed once, without padding."""
    from expo_lite.policy import attention

    packed = attention.pack(batch.rows, batch.input_ids_BT.device)
    hidden_1NH = model.get_decoder()(
        input_ids=packed.input_ids_1N,
        position_ids=packed.position_ids_1N,
        attention_mask=torch.empty(1, 1, 0, 0, device=packed.input_ids_1N.device),  # unused: `layout` is the mask
        layout=packed.layout,
        use_cache=False,
    ).last_hidden_state
    # a prompt's last position is taken once a completion; unlike index_select, this adds gradients in a fixed order
    return torch.nn.functional.embedding(packed.predictors_N, hidden_1NH[0])


def padded_hidden(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Last hidden states [N, H] at the predictors, from right-padded rows under a causal mask, for any decoder."""
    hidden_BTH = model.get_decoder()(input_ids=batch.input_ids_BT, use_cache=False).last_hidden_state
    hidden_NH: torch.Tensor = hidden_BTH.flatten(0, 1).index_select(0, batch.predictors_N)
    return hidden_NH


def score_rows(policy: Policy, rows: Sequence[Row], *, temperature: float, token_budget: int) -> list[torch.Tensor]:
    """Log-probabilities of each row's completion tokens (nats, on the CPU, no gradient), in the order of the rows."""
    scored: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for batch in micro_batches(
        rows, token_budget=token_budget, pad_id=policy.pad_id, device=policy.device, packed=policy.packs
    ):
        pieces = torch.split(policy.logprobs(batch, temperature=temperature, gradient=False).cpu(), batch.lengths)
        for index, piece in zip(batch.indices, pieces, strict=True):
            scored[index] = piece
    return scored
