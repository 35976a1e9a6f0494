"""The seconds that a card allows for a step's sampling, and for its update by what it keeps. Arithmetic alone.

    uv run python examples/roofline.py

Decoding reads every weight once a token position, and each row's keys and values once a token. So a step of training
with `ROWS` completions of `LIMIT` tokens at most, `MEAN` on average, after prompts of `PROMPT` tokens, reads at least

    LIMIT * (bytes of the dense weights) + ROWS * MEAN * (PROMPT + MEAN / 2) * (bytes of a position's keys and values)

with our own decoder, in 16 bits. Prompts, launches and whatever a kernel does worse than the bus come on top.

The second table has what the memory plan lets the update keep, the tokens of a micro-batch, and its time as a share of
what it takes where every layer is computed again from its input.
"""

from expo_lite.memory.hours import BF16, CARDS, Samples, decoding_bytes, matrix_weights, update_s
from expo_lite.memory.plan import GIB, MemoryPlan, Workload, plan_for
from expo_lite.memory.shapes import find_shape

ROWS, PROMPT, MEAN, LIMIT = 72, 256, 512, 1024
"""Eight problems with eight completions and an explanation each; the default limit."""
MODELS = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen3-4b", "llama-3.2-3b", "qwen2.5-7b")
CARDS_SHOWN = ("3090", "4090", "a100-40")
SIZES_GIB = (8, 12, 16, 24)
SAMPLES = Samples(ROWS, PROMPT, MEAN, LIMIT)


def bytes_read(model: str) -> float:
    """Bytes that all the decoding of one training step reads."""
    return decoding_bytes(find_shape(model), SAMPLES, slots=ROWS)


def table() -> str:
    """Markdown, a row a model."""
    heads = ["model", "weights, GB", "read a step of training, TB", *(f"{CARDS[card].name}, s" for card in CARDS_SHOWN)]
    rows = [heads, ["---"] * len(heads)]
    for model in MODELS:
        read = bytes_read(model)
        seconds = (f"{read / CARDS[card].bandwidth:.1f}" for card in CARDS_SHOWN)
        rows.append(
            [f"`{model}`", f"{BF16 * matrix_weights(find_shape(model)) / 1e9:.1f}", f"{read / 1e12:.2f}", *seconds]
        )
    return markdown(rows)


def update_table() -> str:
    """Markdown, a row a model; the last two columns are for an RTX 4090."""
    heads = ["model", *(f"{gib} GiB" for gib in SIZES_GIB), "update, s", "recomputed, s"]
    rows = [heads, ["---"] * len(heads)]
    for model in MODELS:
        cells = []
        for gib in SIZES_GIB:
            kept, recomputed = (planned(model, gib, recomputes) for recomputes in (False, True))
            seconds, before = (update_s(plan, SAMPLES, CARDS["4090"]) for plan in (kept, recomputed))
            cells.append(f"{kept.keeps}, {kept.micro_batch_tokens:,}: {seconds / before:.0%}")
        rows.append([f"`{model}`", *cells, f"{seconds:.1f}", f"{before:.1f}"])
    return markdown(rows)


def planned(model: str, gib: int, recomputes: bool) -> MemoryPlan:
    """The plan as `train` makes it."""
    return plan_for(find_shape(model), Workload(recomputes=recomputes), gib * GIB, "auto")


def markdown(rows: list[list[str]]) -> str:
    """The table of these rows."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(f"{table()}\n\n{update_table()}")
