"""Micro-batches: every row once, within the budget, prompts of packed rows once."""

import itertools
import random
from collections.abc import Sequence

import pytest
import torch

from expo_lite.policy.attention import pack
from expo_lite.policy.batching import Row, collate, micro_batches


def rows_of(lengths: list[tuple[int, int]]) -> list[Row]:
    rng = random.Random(0)
    return [
        Row(
            tuple(rng.randrange(5, 300) for _ in range(p)),
            tuple(rng.randrange(5, 300) for _ in range(c)),
            advantage=rng.choice([-1.0, 0.5]),
            weight=0.01 * (i + 1),
            kl_weight=0.02,
            sft_weight=0.03 * (i % 2),
        )
        for i, (p, c) in enumerate(lengths)
    ]


def test_collate_by_hand() -> None:
    rows = [Row((7, 8), (9,), advantage=2.0, weight=0.5), Row((7,), (3, 4), sft_weight=0.25)]
    batch = collate(rows, [1, 0], pad_id=0)
    assert batch.indices == (1, 0)
    assert batch.input_ids_BT.tolist() == [[7, 3, 4], [7, 8, 9]]
    # the tokens 3, 4, 9 are predicted at positions 0, 1 of the first row and 1 of the second (flat: 3 + 1)
    assert batch.predictors_N.tolist() == [0, 1, 4]
    assert batch.targets_N.tolist() == [3, 4, 9]
    assert batch.advantages_N.tolist() == [0.0, 0.0, 2.0]
    assert batch.weights_N.tolist() == [0.0, 0.0, 0.5]
    assert batch.sft_weights_N.tolist() == [0.25, 0.25, 0.0]


@pytest.mark.parametrize("budget", [1, 57, 10_000])
def test_every_row_is_in_one_batch_within_the_budget(budget: int) -> None:
    rows = rows_of([(3, 5), (9, 1), (2, 30), (4, 4), (4, 5), (1, 1), (20, 20)])
    batches = micro_batches(rows, token_budget=budget, pad_id=0)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(rows)))
    for batch in batches:
        assert batch.input_ids_BT.numel() <= budget or len(batch.rows) == 1
        assert [rows[index] for index in batch.indices] == list(batch.rows)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_packed_rows_stay_with_their_prompt_which_counts_once(budget: int) -> None:
    prompts = [tuple(range(10)), tuple(range(20, 40))]
    rows = [Row(prompts[i % 2], (50 + i,) * (1 + 3 * i)) for i in range(8)]
    batches = micro_batches(rows, token_budget=budget, pad_id=0, packed=True)
    indices = [index for batch in batches for index in batch.indices]
    assert indices == [0, 2, 4, 6, 1, 3, 5, 7]
    for batch, following in itertools.pairwise([*batches, None]):
        assert batch is not None
        assert packed_tokens(batch.rows) <= budget or len(batch.rows) == 1
        if following:
            assert packed_tokens([*batch.rows, following.rows[0]]) > budget


def packed_tokens(rows: Sequence[Row]) -> int:
    return pack(rows, torch.device("cpu")).input_ids_1N.numel() + len(rows)  # the last of each is no input


def test_a_row_without_any_term_has_no_gradient() -> None:
    assert not Row((1,), (2,), advantage=0.0, weight=0.1).has_gradient
    assert Row((1,), (2,), advantage=0.1, weight=0.1).has_gradient
    assert Row((1,), (2,), kl_weight=0.1).has_gradient
    assert Row((1,), (2,), sft_weight=0.1).has_gradient
