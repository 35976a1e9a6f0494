"""The time of a training step on a card, by its data sheet. This is arithmetic; nothing is measured.

Decoding reads the weights once for each position, and each row's keys and values once for each token. Sampling takes as
long as this reading or as its matrix products, whichever is longer. An update takes its products, and reads the weights
for each micro-batch. Prompts that are computed before sampling, attention and the starts of kernels are left out; what
a card reaches of its data sheet is taken to be a share of it.
"""

import math
from dataclasses import dataclass

from expo_lite.errors import ConfigError
from expo_lite.memory.plan import COMPUTED, READ, MemoryPlan
from expo_lite.memory.shapes import Shape
from expo_lite.settings.models import suggestion

BANDWIDTH_SHARE, OPERATIONS_SHARE = 0.5, 0.4
"""Shares of the figures in its data sheet that a card is taken to reach."""
BF16 = 2
FROM_FOUR_BITS = 0.5 + 2 * BF16
"""Bytes that are moved for a four-bit weight: it is read, written in 16 bits, and read again by the product."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card by NVIDIA's data sheet; operations are those of dense 16-bit matrix products that are summed in fp32."""

    name: str
    memory_gib: float
    bandwidth: float
    """Bytes a second."""
    operations: float
    """A second; a multiplication with its addition counts as two."""


CARDS = {
    "3060": Card("RTX 3060", 12, 360e9, 25.5e12),
    "3080": Card("RTX 3080", 10, 760e9, 59.5e12),
    "3090": Card("RTX 3090", 24, 936e9, 71e12),
    "4060ti": Card("RTX 4060 Ti 16 GB", 16, 288e9, 44.1e12),
    "4070": Card("RTX 4070", 12, 504e9, 58.3e12),
    "4080": Card("RTX 4080", 16, 717e9, 97.5e12),
    "4090": Card("RTX 4090", 24, 1008e9, 165.2e12),
    "5080": Card("RTX 5080", 16, 960e9, 112.6e12),
    "5090": Card("RTX 5090", 32, 1792e9, 209.5e12),
    "t4": Card("T4", 16, 320e9, 65e12),
    "l4": Card("L4", 24, 300e9, 121e12),
    "a10g": Card("A10G", 24, 600e9, 70e12),
    "a100-40": Card("A100 40 GB", 40, 1555e9, 312e12),
    "a100": Card("A100 80 GB", 80, 2039e9, 312e12),
    "h100": Card("H100", 80, 3350e9, 989e12),
}


def find_card(name: str) -> Card:
    """The card of a name such as 4090.

    Raises:
        ConfigError: there is no such card in the table.
    """
    if name.lower() not in CARDS:
        raise ConfigError(f"Unknown card '{name}'.{suggestion(name, CARDS)} Known are {', '.join(CARDS)}.")
    return CARDS[name.lower()]


@dataclass(frozen=True, slots=True)
class Samples:
    """Completions that are sampled in one call, and their tokens."""

    rows: int
    prompt: float
    """Tokens of a prompt, on average."""
    mean: float
    """Tokens of a completion, on average."""
    longest: int
    """Tokens of the longest completion."""


def matrix_weights(shape: Shape) -> int:
    """Weights that every token is multiplied with: of all projections and the head."""
    return shape.n_projection_weights + shape.vocabulary * shape.hidden


def decoding_bytes(shape: Shape, samples: Samples, slots: int, weight_bytes: float = BF16) -> float:
    """Bytes that are read to decode these completions, `slots` at a time; one that ends gives its slot to the next."""
    positions = samples.longest + max(samples.rows - slots, 0) * samples.mean / slots
    cached = BF16 * 2 * sum(layer.keys for layer in shape.each_layer) * (samples.prompt + samples.mean / 2)
    return positions * weight_bytes * matrix_weights(shape) + samples.rows * samples.mean * cached


def sampling_s(plan: MemoryPlan, samples: Samples, card: Card) -> float:
    """Seconds to sample these completions."""
    four_bits = plan.workload.bits == 4 and plan.workload.sampler == "native"  # our own has a dense copy
    read = decoding_bytes(plan.shape, samples, plan.sampling_rows, FROM_FOUR_BITS if four_bits else BF16)
    return max(read / (card.bandwidth * BANDWIDTH_SHARE), _products_s(plan, samples.rows * samples.mean, card))


def update_s(plan: MemoryPlan, samples: Samples, card: Card) -> float:
    """Seconds of an update on these completions."""
    n_tokens = samples.rows * (samples.prompt + samples.mean)
    n_reads = READ[plan.keeps] * math.ceil(n_tokens / plan.micro_batch_tokens)
    weight_bytes = FROM_FOUR_BITS if plan.workload.bits == 4 else BF16
    reading = n_reads * weight_bytes * plan.shape.n_projection_weights / (card.bandwidth * BANDWIDTH_SHARE)
    return COMPUTED[plan.keeps] * _products_s(plan, n_tokens, card) + reading


def scoring_s(plan: MemoryPlan, samples: Samples, card: Card) -> float:
    """Seconds of one forward pass over these completions, as for a reference."""
    return _products_s(plan, samples.rows * (samples.prompt + samples.mean), card)


def _products_s(plan: MemoryPlan, n_tokens: float, card: Card) -> float:
    """Seconds of the matrix products of a forward pass: two operations a weight and token."""
    return 2 * matrix_weights(plan.shape) * n_tokens / (card.operations * OPERATIONS_SHARE)
