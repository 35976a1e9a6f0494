"""The memory plan: the bytes of each phase of a run, part by part, and the settings that a machine has room for.

The parts follow from the model's sizes (`shapes.py`) and from what the code keeps, recomputes and throws away. Tests
run the real update step without weights and count every tensor. A GPU computes in bf16, a CPU in fp32; the adapter is
fp32 on both, so with bf16 each projection keeps an fp32 copy of its input for the adapter's gradient.

A reserve covers what no simulation shows: the allocator's fragments and the workspaces of libraries. No figure has been
measured on a GPU yet. On a CPU, what speed costs is one number in `CONTEXT`.
"""

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from expo_lite.memory.shapes import Layer, Shape
from expo_lite.settings.machine import Sampler
from expo_lite.settings.models import COUNTED, FAMILIES

GIB, FP32 = 2**30, 4
QUANTISATION_BLOCK, CONSTANTS_BLOCK = 64, 256
"""Four-bit weights that share a constant, and constants, quantised to a byte each, that share one of their own."""
LOGIT_CHUNK_TOKENS = 256
"""Positions whose logits exist at the same time (`objectives.token_logprobs`)."""
CACHE_BLOCK = 64
"""Tokens by which the sampler's cache grows on a CPU, so that short completions never pay for the longest."""
RECORDED_ROWS, RECORDED_WIDTH = 8, 256
"""Multiples of rows and of positions for which our decoder records a step as a CUDA graph."""
RECORDED_LAYER_BYTES = 24 * 2**20 / 64
"""Memory that a recording holds a layer, beside the tensors of the step. Others report 24 MiB for a model of 64 layers
(github.com/vllm-project/vllm/issues/50780); ours has not been measured."""
LINEAR_UPDATE, LINEAR_FORWARD = 66, 34
"""Bytes a token for each value of linear attention, by transformers' own code: as counted for the sizes of Qwen3.5,
without the kernels of flash-linear-attention, which need less."""
PREFILL_TOKENS = 8192
"""Prompt tokens in one prefill pass."""
SAMPLING_COPIES = {"full": 4, "nucleus": 8}
"""fp32 matrices [rows, vocabulary] while a token is chosen."""
MOST_HEAD_COPY = 256 * 2**20
"""Bytes of the largest head that sampling on a CPU copies into a layout for few rows."""
CONTEXT = {"gpu": 0.6 * GIB, "cpu": 0.85 * GIB}
"""The CUDA context and its libraries; on a CPU the interpreter with torch and transformers (as measured)."""

Kind = Literal["gpu", "cpu"]
PlannedSampler = Literal["own", "native"]
Keeps = Literal["activations", "products", "inputs"]
"""An update keeps for its backward pass all activations, or the inputs of layers with the products of projections or
alone, and computes the rest again."""
COMPUTED: dict[Keeps, float] = {"activations": 2.0, "products": 2.15, "inputs": 2.85}
"""The time of an update in forward passes: forward and backward, and again what is not kept. That is at least norms,
activations and attention, taken for 15% of a pass, and at most these and all products but a layer's last, a third to a
quarter of them. Not measured on a card."""
READ: dict[Keeps, int] = {"activations": 2, "products": 2, "inputs": 3}
"""Times that a micro-batch reads the weights, and dequantises those in four bits."""
TOKENS_A_READ = 300
"""Reading and dequantising a weight takes as long as its products with so many tokens: 4.5 bytes at half the bandwidth
of an RTX 4090's data sheet, and two operations at 40% of its speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The work to do, as far as the memory depends on it."""

    kind: Kind = "gpu"
    bits: int = 4
    lora_rank: int = 16
    group_size: int = 8
    prompt_tokens: int = 512
    """The longest prompt, that of an explanation included."""
    completion_tokens: int = 1024
    rows_together: int = 1
    """The fewest rows of a micro-batch: with exp-dpo the two of a pair."""
    nucleus: bool = False
    """The evaluation's top_p is below 1."""
    from_adapter: bool = False
    """The run starts from an adapter, of which it keeps a copy as its reference."""
    recomputes: bool = False
    """Nothing but the inputs of layers is kept: Unsloth runs the update, or there is none."""
    sampler: PlannedSampler = "own"
    """own holds a dense copy of the weights while it samples, native nothing beside its cache."""

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def element(self) -> int:
        """Bytes of a number that the model computes with."""
        return 2 if self.kind == "gpu" else FP32


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase's worst moment: bytes by part."""

    name: str
    parts: Mapping[str, float]

    @property
    def peak(self) -> float:
        """Bytes in all."""
        return sum(self.parts.values())


def base_parts(shape: Shape, workload: Workload) -> dict[str, float]:
    """The frozen model: bytes by part."""
    element, n = workload.element, shape.n_projection_weights
    parts: dict[str, float] = {}
    if workload.bits == 4:
        n_blocks = n / QUANTISATION_BLOCK
        parts["four-bit weights"] = n / 2
        parts["their block constants"] = n_blocks + n_blocks / CONSTANTS_BLOCK * FP32
    else:
        parts["projection weights"] = n * element
    parts["embeddings and head"] = shape.n_embedding_weights * element
    parts["norms and biases"] = shape.n_other_weights * element
    return parts


def kept_products(layer: Layer, workload: Workload, tokens: int) -> float:
    """The products of a layer's projections but the last."""
    return tokens * sum(n_out for _, n_out in layer.projections[:-1]) * workload.element


def kept_activations(shape: Shape, workload: Workload, tokens: int) -> float:
    """One layer's activations, where all are kept; keys and values as in `layer_activations`."""
    element, head_norms = workload.element, (shape.query_width + shape.kv_width) * FP32 if shape.head_norms else 0
    normed = (16 if element == FP32 else 12) * shape.hidden
    wide = (7 * shape.query_width + 4 * shape.intermediate) * element
    return tokens * (normed + wide + shape.heads * FP32 + head_norms)


def layer_activations(shape: Shape, workload: Workload, tokens: int) -> float:
    """One layer's activations at the worst moment of its backward pass, in its feed-forward part.

    Counted tensor by tensor; with its dequantised weight, where that is the worst moment. No two rows are taken to
    share a prompt, so keys and values, repeated for every query head, exist twice: alone, and with the prompt's before
    a completion's.
    """
    h, i, q = shape.hidden, shape.intermediate, shape.query_width
    weight = h * i * workload.element
    ranks = 6 * FP32 * workload.lora_rank
    head_norms = (q + shape.kv_width) * FP32 if shape.head_norms else 0
    if workload.element == FP32:
        kept, before, after = 16 * h + 28 * q, 24 * i, 20 * i
    else:
        kept, before, after = 38 * h + 16 * q, 14 * i, 10 * i
    kept += ranks + head_norms + LINEAR_UPDATE * shape.linear_values
    return max(tokens * (kept + before), tokens * (kept + after) + weight)


def forward_activations(shape: Shape, workload: Workload, tokens: int) -> float:
    """One layer's activations at the worst moment of a forward pass that keeps nothing."""
    h, i = shape.hidden, shape.intermediate
    wide = (12 * i + 8 * h if workload.element == FP32 else 10 * i + 4 * h) + LINEAR_FORWARD * shape.linear_values
    return max(tokens * wide, tokens * (6 * i + 4 * h) + h * i * workload.element)


def logits(shape: Shape, workload: Workload, tokens: int) -> float:
    """Logits of a chunk, in fp32 and beside them in the model's own type, and hidden states with their gradients."""
    narrow = workload.element if workload.element < FP32 else 0
    chunk = min(LOGIT_CHUNK_TOKENS, tokens) * shape.vocabulary * (FP32 + narrow)
    return chunk + tokens * shape.hidden * (FP32 + 2 * workload.element)


def cache_bytes(shape: Shape, workload: Workload, rows: int) -> float:
    """Keys and values for rows of the greatest length, one buffer copied at a time, and linear attention's states."""
    width = math.ceil(workload.width / CACHE_BLOCK) * CACHE_BLOCK
    keys = [layer.keys for layer in shape.each_layer]
    states = rows * sum(layer.state for layer in shape.each_layer) * FP32
    return rows * width * (2 * sum(keys) + max(keys)) * workload.element + states


def recorded_bytes(shape: Shape, workload: Workload, rows: int) -> float:
    """The recordings of a sampling call in which rows end one after the other, while those that are left grow.

    The tensors of a step are in their pool, and once more outside while a new shape runs before it is recorded.
    """
    n_recordings = math.ceil(rows / RECORDED_ROWS) + math.ceil(workload.width / RECORDED_WIDTH)
    return n_recordings * shape.layers * RECORDED_LAYER_BYTES + choosing_bytes(shape, workload, rows)


def choosing_bytes(shape: Shape, workload: Workload, rows: int) -> float:
    """Matrices of logits while each row's next token is chosen."""
    return rows * shape.vocabulary * FP32 * SAMPLING_COPIES["nucleus" if workload.nucleus else "full"]


def sampling_working(shape: Shape, workload: Workload, rows: int) -> float:
    """The worst of choosing a token, attending over the cache and prefilling, beside the cache itself."""
    # generate's mask on a GPU makes transformers repeat keys and values for every query head
    repeated = workload.kind == "gpu" and workload.sampler == "native"
    attention = 2 * rows * workload.width * shape.query_width * workload.element if repeated else 0.0
    n_prompts = math.ceil(rows / workload.group_size)
    prefill_tokens = min(max(PREFILL_TOKENS, workload.prompt_tokens), n_prompts * workload.prompt_tokens)
    return max(choosing_bytes(shape, workload, rows), attention, forward_activations(shape, workload, prefill_tokens))


def phases(
    shape: Shape, workload: Workload, micro_batch_tokens: int, sampling_rows: int, keeps: Keeps = "inputs"
) -> tuple[Phase, ...]:
    """Every phase of a run with these settings."""
    tokens = max(micro_batch_tokens, workload.rows_together * workload.width)  # neither a row nor a pair is split
    context = {"context": CONTEXT[workload.kind]}
    base = base_parts(shape, workload) | context
    adapter = shape.n_adapter_weights(workload.lora_rank) * FP32
    steady = base | {"LoRA adapter": adapter, "optimiser state": 2 * adapter}  # AdamW's two moments, in fp32
    if workload.from_adapter:
        steady["reference adapter"] = adapter
    sampling = steady | {
        "KV cache of sampling": cache_bytes(shape, workload, sampling_rows),
        "sampling beside it": sampling_working(shape, workload, sampling_rows),
    }
    if workload.sampler == "own":
        sampling["merged dense weights"] = shape.n_projection_weights * workload.element
        if workload.kind == "gpu":
            sampling["recorded steps"] = recorded_bytes(shape, workload, sampling_rows)
    largest = max(shape.vocabulary * shape.hidden, shape.hidden * shape.intermediate) * workload.element
    # gradient checkpointing keeps the input of every layer, with what it gets of the token
    kept = {"kept inputs of layers": shape.layers * tokens * (shape.hidden + shape.per_layer) * workload.element}
    scoring, update = steady | kept, steady | {"gradients": adapter} | kept
    if workload.from_adapter:  # scoring with the reference, between two micro-batches
        scoring = update | {"adapter put aside": adapter}
    layer = layer_activations(shape, workload, tokens)
    if keeps == "products":  # a layer that is computed again takes its own
        products = [kept_products(each, workload, tokens) for each in shape.each_layer]
        update, layer = update | {"kept products": sum(products)}, layer - min(products)
    elif keeps == "activations":
        activations = shape.layers * kept_activations(shape, workload, tokens)
        update = steady | {"gradients": adapter, "kept activations": activations}
        i, h = (8, 4) if workload.element == FP32 else (10, 8)
        layer = tokens * (i * shape.intermediate + h * shape.hidden)

    def worse(name: str, shared: dict[str, float], layer: float) -> Phase:
        ends = ({"logits of a chunk": logits(shape, workload, tokens)}, {"activations of a layer": layer})
        return max((Phase(name, shared | end) for end in ends), key=lambda phase: phase.peak)

    return (
        Phase("load", base | {"one matrix before quantising": largest}),
        Phase("sampling", sampling),
        worse("scoring", scoring, forward_activations(shape, workload, tokens)),
        worse("update", update, layer),
        Phase("resume", steady),
    )


RESERVE = {"gpu": 0.05, "cpu": 0.2}
"""Share of the memory that is left free."""
MOST_MICRO_BATCH_TOKENS = 16_384
"""The most tokens that the plan gives a micro-batch: longer passes are no faster."""
MOST_SAMPLING_ROWS = 256
"""The most rows that the plan decodes at once."""
ENOUGH_ROWS = 8
"""Rows that must fit beside the dense copy for our own decoder to be taken, whatever the group."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The phases of a run on a machine, and the settings that follow from its memory."""

    shape: Shape
    workload: Workload
    total: float
    """Bytes that the machine has for the run."""
    micro_batch_tokens: int
    sampling_rows: int
    keeps: Keeps
    phases: tuple[Phase, ...]

    @property
    def reserve(self) -> float:
        """Bytes that are left free."""
        return self.total * RESERVE[self.workload.kind]

    @property
    def peak(self) -> float:
        """Bytes of the worst phase."""
        return max(phase.peak for phase in self.phases)

    @property
    def measurable_peak(self) -> float:
        """The peak as it is measured: a GPU's allocator does not see the context."""
        return self.peak - (CONTEXT["gpu"] if self.workload.kind == "gpu" else 0.0)

    @property
    def fits(self) -> bool:
        """Return whether every phase leaves the reserve free."""
        return self.peak + self.reserve <= self.total

    def of_run(self, *, prompt_tokens: int, sampled_rows: int, learned_rows: int) -> "MemoryPlan":
        """The same settings with a run's own longest prompt, and no more rows than it has at once."""
        workload = dataclasses.replace(self.workload, prompt_tokens=prompt_tokens)
        tokens = min(self.micro_batch_tokens, learned_rows * workload.width)
        rows = min(self.sampling_rows, sampled_rows)
        shown = phases(self.shape, workload, tokens, rows, self.keeps)
        return dataclasses.replace(self, workload=workload, micro_batch_tokens=tokens, sampling_rows=rows, phases=shown)

    def describe(self) -> str:
        """The worst phase against what there is, in words."""
        worst = max(self.phases, key=lambda phase: phase.peak)
        return (
            f"{worst.peak / GIB:.1f} GiB in its {worst.name} phase by the memory plan, and there are "
            f"{(self.total - self.reserve) / GIB:.1f} GiB (beside a reserve of {self.reserve / GIB:.1f})"
        )


def make_plan(
    shape: Shape,
    workload: Workload,
    total: float,
    *,
    micro_batch_tokens: int | None = None,
    sampling_rows: int | None = None,
) -> MemoryPlan:
    """The plan for a machine with `total` bytes: settings that are None become as large as fits, up to the caps.

    Of what the update may keep it takes what makes it fastest by `COMPUTED` and `READ`. Where nothing fits the settings
    are as small as can be, and the plan says that it does not fit. Families whose activations are not counted here keep
    products at most, and on a GPU inputs alone.
    """
    budget = total * (1 - RESERVE[workload.kind])

    def fits(tokens: int, rows: int, keeps: Keeps) -> bool:
        return max(phase.peak for phase in phases(shape, workload, tokens, rows, keeps)) <= budget

    def micro_batch(keeps: Keeps, rows: int) -> int:
        return micro_batch_tokens or largest(
            lambda tokens: fits(tokens, rows, keeps), step=256, most=MOST_MICRO_BATCH_TOKENS, least=256
        )

    rows = sampling_rows or 1
    able: tuple[Keeps, ...] = ("inputs",)
    if not workload.recomputes and shape.family in COUNTED:
        able = tuple(COMPUTED)
    elif not workload.recomputes and workload.kind == "cpu":
        able = ("products", "inputs")
    sizes = {name: micro_batch(name, rows) for name in able}
    keeps = min(
        (name for name in sizes if name == "inputs" or fits(sizes[name], rows, name)),
        key=lambda name: COMPUTED[name] + READ[name] * TOKENS_A_READ / sizes[name],
    )
    tokens = sizes[keeps]
    rows = sampling_rows or largest(lambda rows: fits(tokens, rows, keeps), step=8, most=MOST_SAMPLING_ROWS, least=1)
    return MemoryPlan(shape, workload, total, tokens, rows, keeps, phases(shape, workload, tokens, rows, keeps))


def plan_for(
    shape: Shape,
    workload: Workload,
    total: float,
    sampler: Sampler,
    *,
    micro_batch_tokens: int | None = None,
    sampling_rows: int | None = None,
) -> MemoryPlan:
    """The plan with the sampler that is asked for; auto takes our own where enough rows fit, else native.

    Our own decodes faster, but needs room for a dense copy of the weights while it samples.
    """

    def plan(name: PlannedSampler) -> MemoryPlan:
        chosen = dataclasses.replace(workload, sampler=name)
        return make_plan(shape, chosen, total, micro_batch_tokens=micro_batch_tokens, sampling_rows=sampling_rows)

    if sampler == "auto" and shape.family not in FAMILIES:
        sampler = "native"
    if sampler != "auto":
        return plan(sampler)
    own = plan("own")
    if own.fits and own.sampling_rows >= min(ENOUGH_ROWS, sampling_rows or ENOUGH_ROWS):
        return own
    native = plan("native")
    return native if native.fits else own


def longest_completion(shape: Shape, workload: Workload, total: float) -> int:
    """The most completion tokens with which a row can be learned from and a whole group be sampled at once; 0: none.

    Never more than the model has positions for.
    """

    def fits(tokens: int) -> bool:
        longer = dataclasses.replace(workload, completion_tokens=tokens, recomputes=True)
        return make_plan(shape, longer, total, micro_batch_tokens=1, sampling_rows=workload.group_size).fits

    found = largest(fits, step=64, most=shape.positions - workload.prompt_tokens, least=64)
    return found if fits(found) else 0


def largest(fits: Callable[[int], bool], *, step: int, most: int, least: int) -> int:
    """The largest value up to `most` that fits, in steps; below one step, `least` times powers of two."""
    if n := bisect_left(range(1, most // step + 1), True, key=lambda n: not fits(n * step)):
        return n * step
    value = step // 2
    while value > least and not fits(value):
        value //= 2
    return max(value, least)
