"""What the memory bus allows: seconds of sampling in one training step, by model and card. Arithmetic, not measured.

    uv run python examples/roofline.py

Decoding reads every weight once a token position, and each row's keys and values once a token. So a step of training
with `ROWS` completions of `LIMIT` tokens at most, `MEAN` on average, after prompts of `PROMPT` tokens, reads at least

    LIMIT * (bytes of the dense weights) + ROWS * MEAN * (PROMPT + MEAN / 2) * (bytes of a position's keys and values)

with our own decoder, in 16 bits. Prompts, launches and whatever a kernel does worse than the bus come on top.
"""

from expo_lite.memory.shapes import find_shape

ROWS, PROMPT, MEAN, LIMIT = 72, 256, 512, 1024
"""Eight problems with eight completions and an explanation each; the default limit."""
MODELS = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen3-4b", "llama-3.2-3b", "qwen2.5-7b")
BANDWIDTH = {"RTX 3090": 936e9, "RTX 4090": 1008e9, "A100 40 GB": 1555e9}
"""Bytes a second, by NVIDIA's data sheets."""
BF16 = 2


def weight_bytes(model: str) -> float:
    """Of the matrices that a decoding step reads: all projections and the head; of the embeddings a few rows."""
    shape = find_shape(model)
    return BF16 * (shape.n_projection_weights + shape.vocabulary * shape.hidden)


def cache_bytes(model: str) -> float:
    """Of the keys and values of one position."""
    shape = find_shape(model)
    return BF16 * 2 * shape.layers * shape.kv_width


def bytes_read(model: str) -> float:
    """By all the decoding of one training step."""
    return LIMIT * weight_bytes(model) + ROWS * MEAN * (PROMPT + MEAN / 2) * cache_bytes(model)


def table() -> str:
    """Markdown, a row a model."""
    heads = ["model", "weights, GB", "read a step of training, TB", *(f"{card}, s" for card in BANDWIDTH)]
    rows = [heads, ["---"] * len(heads)]
    for model in MODELS:
        read = bytes_read(model)
        seconds = (f"{read / bandwidth:.1f}" for bandwidth in BANDWIDTH.values())
        rows.append([f"`{model}`", f"{weight_bytes(model) / 1e9:.1f}", f"{read / 1e12:.2f}", *seconds])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(table())
