"""Attention that computes the prompt of a group once.

Registered with transformers under `NAME`. A decoder called with `layout=` takes packed input: one row of tokens, prompt
after prompt, each followed by its completions, which see the prompt and themselves. Without `layout` this is the
scaled-dot-product attention of transformers.

Axes: R rows, h heads, T tokens, N tokens of packed input, d head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from expo_lite.policy.batching import Row, band

NAME = "expo_lite"


Layout = tuple[tuple[int, tuple[int, ...]], ...]
"""Lengths in tokens of each distinct prompt and of its completions, without their last token, which predicts nothing
and so is not fed."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows as one row of tokens; `predictors_N` are the positions that predict completion tokens, in order."""

    input_ids_1N: torch.Tensor
    position_ids_1N: torch.Tensor
    predictors_N: torch.Tensor
    layout: Layout


def pack(rows: Sequence[Row], device: torch.device) -> PackedRows:
    """Lay rows end to end, with each prompt once."""
    members: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(row.prompt_ids, []).append(i)
    tokens: list[int] = []
    positions: list[int] = []
    predictors: list[list[int]] = [[] for _ in rows]
    groups = []
    for prompt, indices in members.items():
        tokens += prompt
        positions += range(len(prompt))
        prompt_end = len(tokens) - 1
        for i in indices:
            inputs = rows[i].completion_ids[:-1]
            if rows[i].completion_ids:
                predictors[i] = [prompt_end, *range(len(tokens), len(tokens) + len(inputs))]
            tokens += inputs
            positions += range(len(prompt), len(prompt) + len(inputs))
        groups.append((len(prompt), tuple(max(len(rows[i].completion_ids) - 1, 0) for i in indices)))
    return PackedRows(
        torch.tensor([tokens], device=device),
        torch.tensor([positions], device=device),
        torch.tensor([p for row in predictors for p in row], dtype=torch.long, device=device),
        tuple(groups),
    )


def attention(
    module: Any,
    query_RhTd: torch.Tensor,
    key_RhTd: torch.Tensor,
    value_RhTd: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention interface of transformers; returns [R, T, heads, d]."""
    if layout is not None:
        packed_1hNd = packed_attention(
            query_RhTd, key_RhTd, value_RhTd, layout, scale=kwargs["scaling"], window=sliding_window
        )
        return packed_1hNd.transpose(1, 2), None
    result: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query_RhTd, key_RhTd, value_RhTd, attention_mask, **kwargs
    )
    return result


def packed_attention(
    query_1hNd: torch.Tensor,
    key_1hNd: torch.Tensor,
    value_1hNd: torch.Tensor,
    layout: Layout,
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention of packed rows [1, heads, N, d]: a prompt to itself, a completion to its prompt and itself.

    With a window, only as far back as that: itself included.
    """
    device = query_1hNd.device
    n_shared = query_1hNd.shape[1] // key_1hNd.shape[1]
    if n_shared > 1:
        key_1hNd, value_1hNd = (x.repeat_interleave(n_shared, dim=1) for x in (key_1hNd, value_1hNd))
    sizes = [size for prompt, completions in layout for size in (prompt, *completions)]
    queries, keys, values = (iter(torch.split(x, sizes, dim=2)) for x in (query_1hNd, key_1hNd, value_1hNd))
    pieces = []
    for prompt, completions in layout:
        query, prompt_key, prompt_value = next(queries), next(keys), next(values)
        mask: Any = band(prompt, window, device)
        pieces.append(
            scaled_dot_product_attention(query, prompt_key, prompt_value, mask, is_causal=mask is None, scale=scale)
        )
        for size in completions:
            query, key, value = next(queries), next(keys), next(values)
            if size:
                key, value = torch.cat([prompt_key, key], dim=2), torch.cat([prompt_value, value], dim=2)
                mask = band(size, window, device, before=prompt)
                mask = causal_lower_right(size, prompt + size) if mask is None else mask
                pieces.append(scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale))
    return torch.cat(pieces, dim=2)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
