"""Tensors of weighted completions: micro-batches by token budget, weights already fixed.

Axes: B completions in the micro-batch, T tokens, N completion tokens of the micro-batch laid end to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Side:
    """A row's side of a preference pair.

    `ref_nats` is the completion's log-probability under the reference, summed over its tokens. `weight` is the pair's
    final share in the loss.
    """

    pair: int
    chosen: bool
    ref_nats: float
    weight: float


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """A teacher's distribution at each of T tokens: its K most probable ones and their log-probabilities (nats)."""

    tokens_TK: torch.Tensor
    logprobs_TK: torch.Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to learn from, with the weight of each of its tokens in each term of the loss.

    `weight` is its share in the policy term, `kl_weight` in the KL term and `sft_weight` in the supervised term. The
    weights are final: nothing divides by a batch size afterwards. A term with weight 0 is absent. `side` is set for a
    completion of a pair. `sampler_logprobs`, one a completion token, are set if the policy in training sampled the row;
    a metric and the sampler correction use them.

    `token_advantages`, if set, has the advantage of each token in place of `advantage`. `shaped_weight` is the share in
    the shaped term of chains (`shaped_loss`), and `soft_weight` in the divergence from the teacher's `soft` labels.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    advantage: float = 0.0
    weight: float = 0.0
    kl_weight: float = 0.0
    sft_weight: float = 0.0
    sampler_logprobs: tuple[float, ...] = ()
    side: Side | None = None
    token_advantages: tuple[float, ...] = ()
    shaped_weight: float = 0.0
    soft_weight: float = 0.0
    soft: SoftLabels | None = field(default=None, compare=False)

    @property
    def n_tokens(self) -> int:
        """Prompt and completion tokens."""
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def has_gradient(self) -> bool:
        """True if any term of the loss depends on this row."""
        has_advantage = any(self.token_advantages) if self.token_advantages else self.advantage != 0.0
        others = (self.kl_weight, self.sft_weight, self.shaped_weight, self.soft_weight)
        return (has_advantage and self.weight != 0.0) or any(others) or self.side is not None


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows as right-padded tensors; `predictors_N` indexes the flattened [B * T] positions that predict `targets_N`.

    Right padding under a causal mask needs no attention mask: no position sees those after it.
    """

    rows: tuple[Row, ...]
    indices: tuple[int, ...]
    """The index of each row among those given to `micro_batches`."""
    input_ids_BT: torch.Tensor
    predictors_N: torch.Tensor
    targets_N: torch.Tensor
    advantages_N: torch.Tensor
    weights_N: torch.Tensor
    kl_weights_N: torch.Tensor
    sft_weights_N: torch.Tensor
    shaped_weights_N: torch.Tensor
    soft_weights_N: torch.Tensor

    @property
    def lengths(self) -> list[int]:
        """Completion lengths, to split the N axis back into rows."""
        return [len(row.completion_ids) for row in self.rows]


def micro_batches(
    rows: Sequence[Row], *, token_budget: int, pad_id: int, device: torch.device | None = None, packed: bool = False
) -> list[MicroBatch]:
    """Split rows into micro-batches of at most `token_budget` tokens.

    Padded rows are sorted by length, and padding counts; `packed` rows stay with those of their prompt, which counts
    once. Every row is in exactly one micro-batch, together with the other side of its pair. A row or pair above the
    budget gets a micro-batch of its own.
    """
    first = {row.prompt_ids: i for i, row in reversed(list(enumerate(rows)))}
    units: dict[tuple[bool, int], list[int]] = {}
    for i, row in enumerate(rows):
        units.setdefault((True, row.side.pair) if row.side else (False, i), []).append(i)

    def place(unit: Sequence[int]) -> int:
        return first[rows[unit[0]].prompt_ids] if packed else -max(rows[i].n_tokens for i in unit)

    def n_tokens(indices: Sequence[int]) -> int:
        if packed:
            prompts = {rows[i].prompt_ids for i in indices}
            return sum(map(len, prompts)) + sum(len(rows[i].completion_ids) for i in indices)
        return len(indices) * max(rows[i].n_tokens for i in indices)

    batches: list[list[int]] = []
    for unit in sorted(units.values(), key=place):
        if batches and n_tokens([*batches[-1], *unit]) <= token_budget:
            batches[-1] += unit
        else:
            batches.append(unit)
    return [collate(rows, indices, pad_id=pad_id, device=device) for indices in batches]


def collate(
    all_rows: Sequence[Row], indices: Sequence[int], *, pad_id: int, device: torch.device | None = None
) -> MicroBatch:
    """Make one micro-batch of the rows at these indices, in this order."""
    rows = [all_rows[index] for index in indices]
    width = max(row.n_tokens for row in rows)
    input_ids_BT = torch.full((len(rows), width), pad_id, dtype=torch.long)
    predictors: list[int] = []
    for i, row in enumerate(rows):
        input_ids_BT[i, : row.n_tokens] = torch.tensor(row.prompt_ids + row.completion_ids)
        start = i * width + len(row.prompt_ids) - 1
        predictors += range(start, start + len(row.completion_ids))
    lengths_B = torch.tensor([len(row.completion_ids) for row in rows])

    def spread(values: list[float]) -> torch.Tensor:
        return torch.tensor(values).repeat_interleave(lengths_B).to(device)

    return MicroBatch(
        rows=tuple(rows),
        indices=tuple(indices),
        input_ids_BT=input_ids_BT.to(device),
        predictors_N=torch.tensor(predictors, dtype=torch.long).to(device),
        targets_N=torch.tensor([token for row in rows for token in row.completion_ids], dtype=torch.long).to(device),
        advantages_N=torch.tensor(
            [a for row in rows for a in row.token_advantages or [row.advantage] * len(row.completion_ids)]
        ).to(device),
        weights_N=spread([row.weight for row in rows]),
        kl_weights_N=spread([row.kl_weight for row in rows]),
        sft_weights_N=spread([row.sft_weight for row in rows]),
        shaped_weights_N=spread([row.shaped_weight for row in rows]),
        soft_weights_N=spread([row.soft_weight for row in rows]),
    )


def band(n: int, window: int | None, device: torch.device | None, *, before: int = 0) -> torch.Tensor | None:
    """The mask [T, S] of `n` tokens in a sliding window, after `before` others; None if that holds them all."""
    if window is None or before + n <= window:
        return None
    ones_TS = torch.ones(n, before + n, dtype=torch.bool, device=device)
    return ones_TS.tril(before).triu(before - window + 1)
