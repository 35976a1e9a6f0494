"""Scoring: a shared prompt, kept products and the head's own gradient change nothing but rounding."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax, scaled_dot_product_attention
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from expo_lite.objectives import token_logprobs
from expo_lite.policy import attention, scoring
from expo_lite.policy.attention import pack, packed_attention
from expo_lite.policy.batching import MicroBatch, Row, collate

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
CPU = torch.device("cpu")


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    return auto.from_config(CONFIGS[kind](**SHAPE), attn_implementation=attention.NAME).train()


def rows_of(n: int) -> list[Row]:
    rng = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(300) for _ in range(length))

    prompts = [ids(7), ids(1), ids(12)]
    return [Row(prompts[i % 3], ids(rng.choice([1, 2, 9, 17]))) for i in range(n)]


def batch_of(rows: list[Row]) -> MicroBatch:
    return collate(rows, list(range(len(rows))), pad_id=0)


def test_packing_by_hand() -> None:
    rows = [Row((7, 8), (1, 2, 3)), Row((9,), (4,)), Row((7, 8), (5, 6))]
    packed = pack(rows, CPU)
    # 7 8 | 1 2 | 5 || 9: the prompt once; the last token of a completion predicts nothing
    assert packed.input_ids_1N.tolist() == [[7, 8, 1, 2, 5, 9]]
    assert packed.position_ids_1N.tolist() == [[0, 1, 2, 3, 2, 0]]
    assert packed.layout == ((2, (2, 1)), (1, (0,)))
    # row 0 is predicted at 8, 1, 2; row 1 at 9; row 2 at 8, 5
    assert packed.predictors_N.tolist() == [1, 2, 3, 5, 1, 4]


@pytest.mark.parametrize("kind", CONFIGS)
def test_packed_rows_score_as_padded_ones(kind: str) -> None:
    model, batch = model_of(kind), batch_of(rows_of(8))

    def scored(hidden: Callable[[Any, MicroBatch], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        logprobs_N = token_logprobs(
            hidden(model, batch), batch.targets_N, model.get_output_embeddings().weight, temperature=0.7
        )
        (logprobs_N * torch.linspace(-1, 1, len(logprobs_N))).sum().backward()  # type: ignore[no-untyped-call]
        layers = model.get_decoder().layers
        return logprobs_N.detach(), torch.cat([p.grad.flatten() for p in layers.parameters()]).double()

    packed, packed_gradient = scored(scoring.packed_hidden)
    padded, padded_gradient = scored(scoring.padded_hidden)
    torch.testing.assert_close(packed, padded)
    assert (packed_gradient - padded_gradient).norm() / padded_gradient.norm() < 1e-5


def test_completions_and_groups_do_not_see_each_other() -> None:
    model = model_of("qwen3")
    rows = rows_of(6)
    alone = [scoring.score(model, batch_of([row]), temperature=1.0).detach() for row in rows]
    together = torch.split(
        scoring.score(model, batch_of(rows), temperature=1.0).detach(), [len(row.completion_ids) for row in rows]
    )
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)
    # and exactly: a token of one completion changed, no bit of another row
    changed = [*rows[:3], Row(rows[3].prompt_ids, tuple((t + 1) % 300 for t in rows[3].completion_ids)), *rows[4:]]
    again = torch.split(
        scoring.score(model, batch_of(changed), temperature=1.0).detach(), [len(row.completion_ids) for row in rows]
    )
    assert all(torch.equal(together[i], again[i]) for i in (0, 1, 2, 4, 5))
    assert not torch.equal(together[3], again[3])


def test_packed_attention_is_the_masked_one() -> None:
    layout = ((3, (2, 4)), (1, (0, 5)))
    n = 3 + 2 + 4 + 1 + 5
    query, key, value = torch.randn(1, 6, n, 8), torch.randn(1, 2, n, 8), torch.randn(1, 2, n, 8)
    owner = torch.tensor([0] * 3 + [1] * 2 + [2] * 4 + [10] * 1 + [12] * 5)  # prompts 0 and 10, completions behind them
    sees = (owner[:, None] == owner) | (owner == owner[:, None].div(10, rounding_mode="floor") * 10)
    expected = scaled_dot_product_attention(
        query, key.repeat_interleave(3, 1), value.repeat_interleave(3, 1), attn_mask=sees.tril(), scale=0.3
    )
    torch.testing.assert_close(packed_attention(query, key, value, layout, scale=0.3), expected)


@pytest.mark.parametrize(("chunk_tokens", "cap"), [(3, None), (100, None), (3, 2.0)])
def test_log_probabilities_and_their_gradient_are_those_of_the_whole_logits(
    chunk_tokens: int, cap: float | None
) -> None:
    torch.manual_seed(0)
    hidden, head, targets, bias = torch.randn(10, 6), torch.randn(20, 6), torch.randint(20, (10,)), torch.randn(20)
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    got = token_logprobs(ours, targets, head, temperature=0.6, bias_V=bias, cap=cap, chunk_tokens=chunk_tokens)
    logits = theirs @ head.t() + bias
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    expected = log_softmax(logits / 0.6, dim=1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(got, expected)
    weights = torch.linspace(-1, 2, 10)
    (got * weights).sum().backward()  # type: ignore[no-untyped-call]
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert token_logprobs(hidden[:0], targets[:0], head, temperature=1.0).shape == (0,)
