"""Log-probabilities of completions under a transformers model, without the full logits."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from expo_lite.objectives import listed_logprobs, token_logprobs
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import MicroBatch, Row, SoftLabels, micro_batches
from expo_lite.policy.products import linear


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
    head, hidden_NH, cap = _head(model, batch, gradient)
    return token_logprobs(
        hidden_NH, batch.targets_N, head.weight, temperature=temperature, bias_V=head.bias, cap=cap, product=linear
    )


def score_listed(
    model: Any, batch: MicroBatch, tokens: torch.Tensor | int, *, temperature: float, gradient: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [N, K] at each completion token's place, given or the most probable, and their log-probabilities.

    Arguments as in `score` and `listed_logprobs`.
    """
    head, hidden_NH, cap = _head(model, batch, gradient)
    return listed_logprobs(hidden_NH, tokens, head.weight, temperature=temperature, bias_V=head.bias, cap=cap)


def _head(model: Any, batch: MicroBatch, gradient: bool) -> tuple[Any, torch.Tensor, float | None]:
    """The head, the hidden states [N, H] whose products with it are the logits, and the cap of those."""
    hidden_NH = packed_hidden(model, batch) if is_packed(model) else padded_hidden(model, batch)
    factor, cap = logit_shape(model.config)
    hidden_NH = hidden_NH if factor == 1 else hidden_NH * factor
    return model.get_output_embeddings(), hidden_NH if gradient else hidden_NH.detach(), cap


def logit_shape(config: Any) -> tuple[float, float | None]:
    """The factor of a model's logits, and their cap after it, by the names that families have for them."""
    factors = [getattr(config, name, None) or 1.0 for name in ("logit_scale", "lm_head_multiplier")]
    factor = math.prod(factors) / (getattr(config, "logits_scaling", None) or 1.0)
    return factor, getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)


def is_packed(model: Any) -> bool:
    """Tell whether `score` lays this model's rows end to end."""
    # this imports transformers, which must wait for Unsloth, so not before a model is loaded
    from expo_lite.policy import attention

    return bool(model.config._attn_implementation == attention.NAME)


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
    found = model.get_decoder()
    decoder = model.model if found is model else found  # Llama 4 does not find its own
    hidden_BTH = decoder(input_ids=batch.input_ids_BT, use_cache=False).last_hidden_state
    hidden_NH: torch.Tensor = hidden_BTH.flatten(0, 1).index_select(0, batch.predictors_N)
    return hidden_NH


def score_rows(policy: Policy, rows: Sequence[Row], *, temperature: float, token_budget: int) -> list[torch.Tensor]:
    """Log-probabilities of each row's completion tokens (nats, on the CPU, no gradient), in the order of the rows."""
    return _by_row(
        policy, rows, lambda batch: (policy.logprobs(batch, temperature=temperature, gradient=False),), token_budget
    )[0]


def soft_labels(
    policy: Policy, rows: Sequence[Row], k: int, *, temperature: float, token_budget: int
) -> list[SoftLabels]:
    """The `k` most probable tokens at each token of each row's completion, on the CPU, in the order of the rows."""

    def listed(batch: MicroBatch) -> tuple[torch.Tensor, ...]:
        return policy.listed_logprobs(batch, k, temperature=temperature, gradient=False)

    tokens, logprobs = _by_row(policy, rows, listed, token_budget)
    return [SoftLabels(*both) for both in zip(tokens, logprobs, strict=True)]


def _by_row(
    policy: Policy, rows: Sequence[Row], scored: Callable[[MicroBatch], tuple[torch.Tensor, ...]], token_budget: int
) -> list[list[torch.Tensor]]:
    """Tensors over all tokens of each micro-batch, cut up by row and in the order of the rows; counts the tokens."""
    found: dict[int, tuple[torch.Tensor, ...]] = {}
    for batch in micro_batches(
        rows, token_budget=token_budget, pad_id=policy.pad_id, device=policy.device, packed=policy.packs
    ):
        pieces = [torch.split(each.cpu(), batch.lengths) for each in scored(batch)]
        found |= dict(zip(batch.indices, zip(*pieces, strict=True), strict=True))
    policy.n_scored_tokens += sum(row.n_tokens for row in rows)
    return [list(column) for column in zip(*(found[i] for i in range(len(rows))), strict=True)] or [[], []]
