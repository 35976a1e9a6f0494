"""The settings of `expo-lite plan`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from expo_lite.settings.schema import COMPLETIONS, ROWS, TOKENS, Bounds


@dataclass(frozen=True, slots=True)
class PlanConfig:
    """Say what a training run will hold in memory, by part and phase, and which settings fit."""

    model: str | None = None
    """An alias, OWNER/NAME in the hub's cache, a folder, a GGUF file, or all for every alias. Default: as for train."""
    vram: Annotated[tuple[float, ...], Bounds(above=0, most=100_000, why="; it is in GiB, as in --vram 24")] = ()
    """Memory of the GPU in GiB; several compare sizes. Default: this machine's GPU, else its main memory."""
    group_size: Annotated[int, COMPLETIONS] = 8
    """Completions of each problem (the paper's G)."""
    max_completion_tokens: Annotated[int | None, TOKENS] = None
    """Longest completion in tokens. The default depends on the model."""
    prompt_tokens: Annotated[int, TOKENS] = 512
    """Longest prompt in tokens, that of an explanation included."""
    bits: Literal[4, 16] = 4
    """Bits of the base model's weights."""
    lora_rank: Annotated[int, Bounds(least=1, most=1_024)] = 16
    """Rank of the adapter."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """The optimiser, as for train."""
    sampler: Literal["own", "vllm"] = "own"
    """vllm counts its cache and workspace, which stay in memory while training."""
    micro_batch_tokens: Annotated[int | None, Bounds(least=1, most=2**24)] = None
    """Take this many tokens in a micro-batch instead of choosing."""
    sampling_rows: Annotated[int | None, ROWS] = None
    """Decode this many completions at a time instead of choosing."""
    largest: bool = False
    """Print only the longest completion that fits, for each model and size."""
    markdown: bool = False
    """Print the comparison as a Markdown table."""
    json: bool = False
    """Print JSON."""
