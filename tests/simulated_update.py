"""The update step of a model of any size without its weights: fake tensors, and a count of those alive.

The decoder is transformers', the adapter peft's, the scorer and the loss ours. The stand-ins: a four-bit layer keeps
its weight as packed bytes with block constants, as bitsandbytes does, and its dequantised bf16 copy lives during its
forward and its backward, as on a GPU (bitsandbytes' own layer cannot be made of fake tensors); attention is the CPU's
flash kernel, which like the GPU's keeps the output and a number a position (without the mask, which torch cannot make
of fake tensors; the kernel has none either); the optimiser's state is made of tensors of its size.
"""

import dataclasses
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from expo_lite.memory.plan import Keeps
from expo_lite.policy import attention
from expo_lite.policy.batching import MicroBatch, Row, micro_batches
from expo_lite.policy.dense import checkpoint_contexts, use_lean_projections
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.load import linear_layers
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.learn import accumulate


class MemoryTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every storage that is alive while this is open, and the most there have been."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count(out)
        return out

    def count(self, tensors: Any) -> None:
        """Add what is not known yet; it is taken off again when it dies."""
        for tensor in tree_iter(tensors):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._forget, storage._cdata)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class StandIn4bit(Linear4bit):
    """A four-bit layer by its storage; peft takes it for bitsandbytes' own."""

    def __init__(self, linear: torch.nn.Linear, dtype: torch.dtype) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.compute_dtype, self.compute_type_is_set, self.quant_storage = dtype, True, torch.uint8
        n = linear.weight.numel()
        packed: Any = torch.nn.Parameter(torch.empty(n // 2, 1, dtype=torch.uint8), requires_grad=False)
        packed.compress_statistics, packed.quant_type, packed.blocksize = True, "nf4", 64
        self.weight = packed
        self.register_buffer("absmax", torch.empty(n // 64, dtype=torch.uint8))
        self.register_buffer("outer_absmax", torch.empty(-(-n // 64 // 256)))
        self.register_buffer("codes", torch.empty(256 + 16 + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = _Dequantised.apply(x, self)
        return y if self.bias is None else y + self.bias

    def dequantised(self) -> torch.Tensor:
        """The weight as the matrix product wants it."""
        return torch.empty(self.out_features, self.in_features, dtype=self.compute_dtype)


class _Dequantised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: StandIn4bit) -> torch.Tensor:
        ctx.layer = layer
        return torch.nn.functional.linear(x, layer.dequantised())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.matmul(grad, ctx.layer.dequantised()), None


class SimulatedPolicy(HfPolicy):
    """HfPolicy over a model without weights."""

    def __init__(self, config: Mapping[str, Any], *, dtype: torch.dtype, lora_rank: int = 16) -> None:
        self.device, self.pad_id = torch.device("cpu"), 0
        self.samples_exactly = True
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        sizes = dict(config)
        kind: Any = CONFIG_MAPPING[sizes.pop("model_type")]
        hub = kind(**sizes, attn_implementation=attention.NAME, pad_token_id=None)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(hub, dtype=dtype)  # type: ignore[no-untyped-call]
            adapted = {name.rpartition(".")[2] for name in linear_layers(model)}
            for name, module in list(model.named_modules()):
                parent, _, own = name.rpartition(".")
                if type(module) is torch.nn.Linear and name != "lm_head":
                    setattr(model.get_submodule(parent), own, StandIn4bit(module, dtype))
            model.is_loaded_in_4bit = True
            model.requires_grad_(False)
            model.config.use_cache = False
            model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_contexts})
            lora = LoraConfig(r=lora_rank, target_modules=sorted(adapted), task_type="CAUSAL_LM")
            self._peft = get_peft_model(model, lora)
        self.base_model = self._peft.get_base_model()
        use_lean_projections(self.base_model)

    def materialise(self) -> None:
        """Give every tensor a fake storage of its size; tied ones stay tied."""
        fresh: dict[int, torch.Tensor] = {}
        for module in self._peft.modules():
            for tensors in (module._parameters, module._buffers):
                for name, old in tensors.items():
                    if old is not None and id(old) not in fresh:
                        new = torch.empty(old.shape, dtype=old.dtype)
                        is_parameter = isinstance(old, torch.nn.Parameter)
                        fresh[id(old)] = torch.nn.Parameter(new, old.requires_grad) if is_parameter else new
                    if old is not None:
                        tensors[name] = fresh[id(old)]  # type: ignore[assignment]
            if isinstance(module, StandIn4bit):
                module.weight.dequantised = module.dequantised  # type: ignore[attr-defined]


@contextmanager
def simulation() -> Iterator[FakeTensorMode]:
    """Fake tensors; transformers, which would treat them as those of a compiler, behaves as in a run."""
    with (
        patch("expo_lite.policy.dense._dense", lambda weight, like: weight.dequantised()),
        patch("expo_lite.policy.attention.causal_lower_right", lambda *_: None),
        patch("transformers.masking_utils.is_tracing", lambda *_: False),
        patch("transformers.masking_utils.find_packed_sequence_indices", lambda *_: None),
        FakeTensorMode() as mode,
    ):
        yield mode


@dataclasses.dataclass(frozen=True)
class Measured:
    """Bytes: of the model with its adapter, and at the worst moment of scoring alone and of the whole update."""

    static: int
    scoring: int
    update: int


def measure_update(
    config: Mapping[str, Any],
    lengths: Sequence[tuple[int, int]],
    *,
    micro_batch_tokens: int,
    dtype: torch.dtype = torch.bfloat16,
    keeps: Keeps = "inputs",
) -> Measured:
    """One pass of the update over completions of these (prompt, completion) lengths, with gradients and state."""
    policy = SimulatedPolicy(config, dtype=dtype)
    policy.keeps = keeps
    # no two prompts are the same: rows that share one need less
    rows = [Row((i,) * p, (1,) * c, advantage=1.0, weight=1.0, sft_weight=0.1) for i, (p, c) in enumerate(lengths)]
    real = micro_batches(rows, token_budget=micro_batch_tokens, pad_id=0)
    tracker = MemoryTracker()
    with simulation() as mode:
        batches = [_fake(batch, mode) for batch in real]
        policy.materialise()
        with tracker:
            tracker.count([*policy._peft.parameters(), *policy._peft.buffers()])
            static = tracker.live
            parameters = policy.parameters().values()
            state = [torch.zeros_like(p) for p in parameters for _ in range(2)]
            tracker.peak = 0
            for batch in batches:
                policy.logprobs(batch, temperature=1.0, gradient=False)
            scoring = tracker.peak
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            tracker.peak = 0
            accumulate(policy, batches, resolve(TrainConfig(model="tiny")), None)
            del state
    return Measured(static, scoring, tracker.peak)


def _fake(batch: MicroBatch, mode: FakeTensorMode) -> MicroBatch:
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    fakes: dict[str, Any] = {name: mode.from_tensor(t) for name, t in tensors.items() if isinstance(t, torch.Tensor)}
    return dataclasses.replace(batch, **fakes)
