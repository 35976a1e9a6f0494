"""Our own decoding loop over a transformers model.

The prompt of a group is prefilled once and its keys and values shared out to the G completions; finished rows leave the batch;
requests of any kind (rollouts, explanations) are decoded together. Each row draws from a random stream of its own, so what is
sampled does not depend on which rows happen to be decoded together.

Axes: P prompts, R rows (completions being decoded), T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from expo_lite.records import Completion, FinishReason, SampleRequest, SamplingParams

PREFILL_TOKENS = 8_192
"""Prompt tokens, padding included, in one prefill pass."""
CACHE_BLOCK = 64
"""The cache grows by this many tokens at a time, so that short completions never pay for the longest."""
LEAVE_SHARE = 0.125
"""Rows leave the batch once this share of it has finished: each departure copies the cache."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One completion's token ids and their log-probabilities; ended by end-of-sequence or by the limit."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class RowCache:
    """Keys and values of all layers in buffers [R, heads, T, head_dim] that are written in place.

    Fills the part of transformers' cache interface that a decoder calls when positions and mask are given to it.
    """

    is_compileable = False

    def __init__(self) -> None:
        """Start empty; the first update sizes the buffers."""
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.length = 0
        """Tokens in the cache before the current forward pass."""

    def update(
        self, keys_RhTd: torch.Tensor, values_RhTd: torch.Tensor, layer: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new tokens of one layer; returns all keys and values so far."""
        end = self.length + keys_RhTd.shape[2]
        results = []
        for store, new_RhTd in ((self.keys, keys_RhTd), (self.values, values_RhTd)):
            if layer not in store or store[layer].shape[2] < end:
                rows, heads, _, dim = new_RhTd.shape
                grown = new_RhTd.new_empty(rows, heads, -(-end // CACHE_BLOCK) * CACHE_BLOCK, dim)
                if layer in store:
                    grown[:, :, : self.length] = store[layer][:, :, : self.length]
                store[layer] = grown
            store[layer][:, :, self.length : end] = new_RhTd
            results.append(store[layer][:, :, :end])
        return results[0], results[1]

    def get_seq_length(self, layer: int = 0) -> int:
        """Tokens in the cache."""
        del layer
        return self.length

    def get_query_offset(self, layer: int = 0) -> int:
        """The position of the next token in the cache."""
        del layer
        return self.length

    def get_mask_sizes(self, query_length: int, layer: int = 0) -> tuple[int, int]:
        """Keys that the next `query_length` tokens see, and the first of them."""
        del layer
        return self.length + query_length, 0

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be taken more than once."""
        for store in (self.keys, self.values):
            for layer in store:
                store[layer] = store[layer].index_select(0, rows)


@torch.no_grad()
def sample(
    model: Any,
    requests: Sequence[SampleRequest],
    params: SamplingParams,
    *,
    seed: int,
    eos_ids: Sequence[int],
    pad_id: int,
) -> list[list[Sampled]]:
    """Sample completions, one list a request, in order.

    Args:
        model: a transformers causal language model in eval mode.
        requests: prompts with the number of completions wanted of each.
        params: temperature (0: greedy), top_p, longest completion in tokens, and rows decoded at the same time.
        seed: of the random streams, one a completion; a request may have its own seed.
        eos_ids: tokens that end a completion; the one that did is its last token.
        pad_id: fills prompts to a common width on the left.

    Returns:
        Token ids with their log-probabilities under the full distribution at the sampling temperature (for greedy
        decoding, and whatever top_p is: at temperature 1 or as given, without the nucleus).
    """
    device = model.get_input_embeddings().weight.device
    owners = [i for i, request in enumerate(requests) for _ in range(request.n_completions)]
    uniforms_RT = _uniforms(requests, params.max_completion_tokens, seed)
    # longest prompts first: rows of a wave are padded to one width
    order = sorted(range(len(owners)), key=lambda row: (-len(requests[owners[row]].prompt_ids), owners[row]))
    results: list[list[Sampled]] = [[] for _ in requests]
    done: dict[int, Sampled] = {}
    for start in range(0, len(order), params.rows):
        wave = order[start : start + params.rows]
        prompts = {owners[row]: requests[owners[row]].prompt_ids for row in wave}
        decoded = _decode_wave(
            model,
            list(prompts.values()),
            [list(prompts).index(owners[row]) for row in wave],
            uniforms_RT[wave].to(device),
            params,
            eos_ids=torch.tensor(list(eos_ids), device=device),
            pad_id=pad_id,
        )
        done.update(zip(wave, decoded, strict=True))
    for row, owner in enumerate(owners):
        results[owner].append(done[row])
    return results


def _uniforms(requests: Sequence[SampleRequest], n_tokens: int, seed: int) -> torch.Tensor:
    """A uniform number [R, T] for each token that may be sampled."""
    shared = torch.Generator().manual_seed(seed)
    rows = [torch.empty(0, n_tokens)]
    for request in requests:
        own = shared if request.seed is None else torch.Generator().manual_seed(request.seed)
        rows.append(torch.rand(request.n_completions, n_tokens, generator=own))
    return torch.cat(rows)


def _prefill(
    model: Any, prompts: list[tuple[int, ...]], pad_id: int, device: torch.device
) -> tuple[RowCache, torch.Tensor, torch.Tensor]:
    """Run left-padded prompts through the model; returns the cache, pad counts [P] and last hidden states [P, H]."""
    width = max(len(prompt) for prompt in prompts)
    pads_P = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
    input_ids_PT = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    caches, hidden = [], []
    n_prompts = max(PREFILL_TOKENS // width, 1)
    columns_T = torch.arange(width, device=device)
    for start in range(0, len(prompts), n_prompts):
        piece = slice(start, start + n_prompts)
        mask_P1TT = None
        if bool(pads_P[piece].any()):
            visible_PT = columns_T >= pads_P[piece, None]
            # a padding position sees itself, for a softmax over nothing is not a number
            causal_TT = columns_T[:, None] >= columns_T
            itself_TT = torch.eye(width, dtype=torch.bool, device=device)
            mask_P1TT = (causal_TT & visible_PT[:, None, :] | itself_TT)[:, None]
        cache = RowCache()
        output = model.get_decoder()(
            input_ids=input_ids_PT[piece],
            attention_mask=mask_P1TT,
            position_ids=(columns_T - pads_P[piece, None]).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        cache.length = width
        caches.append(cache)
        hidden.append(output.last_hidden_state[:, -1])
    merged = caches[0]
    if len(caches) > 1:
        merged.keys = {layer: torch.cat([cache.keys[layer] for cache in caches]) for layer in merged.keys}
        merged.values = {layer: torch.cat([cache.values[layer] for cache in caches]) for layer in merged.values}
    return merged, pads_P, torch.cat(hidden)


def _decode_wave(
    model: Any,
    prompts: list[tuple[int, ...]],
    prompt_of_row: list[int],
    uniforms_RT: torch.Tensor,
    params: SamplingParams,
    *,
    eos_ids: torch.Tensor,
    pad_id: int,
) -> list[Sampled]:
    """Decode one wave of rows together, from prefill to the last row's end."""
    device = uniforms_RT.device
    cache, pads_R, hidden_RH = _prefill(model, prompts, pad_id, device)
    spread_R = torch.tensor(prompt_of_row, device=device)
    cache.select(spread_R)
    pads_R, hidden_RH = pads_R[spread_R], hidden_RH[spread_R]
    head = model.get_output_embeddings()
    n_rows, limit = uniforms_RT.shape
    tokens_RT = torch.full((n_rows, limit), pad_id, dtype=torch.long, device=device)
    logprobs_RT = torch.zeros(n_rows, limit, device=device)
    lengths_R = torch.full((n_rows,), limit, device=device)
    stopped_R = torch.zeros(n_rows, dtype=torch.bool, device=device)
    rows_R = torch.arange(n_rows, device=device)  # which rows of the wave are still in the batch
    running_R = torch.ones(n_rows, dtype=torch.bool, device=device)
    padded = bool(pads_R.any())
    for step in range(limit):
        tokens_R, chosen_R = choose(head(hidden_RH).float(), uniforms_RT[rows_R, step], params)
        tokens_RT[rows_R, step] = tokens_R
        logprobs_RT[rows_R, step] = chosen_R
        ended_R = running_R & torch.isin(tokens_R, eos_ids)
        lengths_R[rows_R[ended_R]] = step + 1
        stopped_R[rows_R[ended_R]] = True
        running_R = running_R & ~ended_R
        n_running = int(running_R.sum())
        if n_running == 0 or step + 1 == limit:
            break
        if n_running <= len(rows_R) * (1 - LEAVE_SHARE):
            staying = running_R.nonzero().squeeze(1)
            cache.select(staying)
            rows_R, pads_R, tokens_R = rows_R[staying], pads_R[staying], tokens_R[staying]
            running_R = running_R[staying]
            padded = bool(pads_R.any())
        mask_R11T = None
        if padded:
            mask_R11T = (torch.arange(cache.length + 1, device=device) >= pads_R[:, None])[:, None, None]
        output = model.get_decoder()(
            input_ids=tokens_R[:, None],
            attention_mask=mask_R11T,
            position_ids=(cache.length - pads_R)[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        cache.length += 1
        hidden_RH = output.last_hidden_state[:, -1]
    tokens, logprobs, lengths, stopped = (t.tolist() for t in (tokens_RT, logprobs_RT, lengths_R, stopped_R))
    return [
        Sampled(ids[:n], values[:n], FinishReason.STOP if stop else FinishReason.LENGTH)
        for ids, values, n, stop in zip(tokens, logprobs, lengths, stopped, strict=True)
    ]


def choose(
    logits_RV: torch.Tensor, uniforms_R: torch.Tensor, params: SamplingParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick one token a row by inverting the cumulative distribution at a uniform number; returns ids [R] and logprobs [R].

    The log-probability is that of the full distribution at the temperature, whatever top_p cut off.
    """
    if params.temperature == 0:
        tokens_R = logits_RV.argmax(dim=1)
        return tokens_R, logits_RV.log_softmax(dim=1).gather(1, tokens_R[:, None]).squeeze(1)
    probs_RV = full_RV = (logits_RV / params.temperature).softmax(dim=1)
    if params.top_p < 1:
        sorted_RV, order_RV = probs_RV.sort(dim=1, descending=True)
        # the smallest set whose mass reaches top_p: a token stays while the mass before it is below
        outside_RV = sorted_RV.cumsum(dim=1) - sorted_RV >= params.top_p
        probs_RV = probs_RV.masked_fill(outside_RV.scatter(1, order_RV, outside_RV), 0.0)
    cumulative_RV = probs_RV.cumsum(dim=1)
    thresholds_R1 = uniforms_R[:, None] * cumulative_RV[:, -1:]
    tokens_R = torch.searchsorted(cumulative_RV, thresholds_R1, right=True).squeeze(1)
    # rounding may put the threshold at the very end: fall back on the most probable token
    lost_R = tokens_R >= probs_RV.shape[1]
    tokens_R = torch.where(lost_R, probs_RV.argmax(dim=1), tokens_R)
    return tokens_R, full_RV.gather(1, tokens_R[:, None]).squeeze(1).log()


def to_completion(prompt_ids: tuple[int, ...], sampled: Sampled, tokenizer: Any) -> Completion:
    """A sampled row as a record, with its text."""
    text = tokenizer.decode(sampled.token_ids, skip_special_tokens=True)
    return Completion(prompt_ids, tuple(sampled.token_ids), tuple(sampled.logprobs), text, sampled.finish_reason)
