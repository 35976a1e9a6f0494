"""What the loop asks of a policy: sample, score, switch the adapter off, save. Each backend fills this protocol."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from expo_lite.policy.batching import MicroBatch
from expo_lite.records import Completion, SampleRequest, SamplingParams


class Policy(Protocol):
    """A frozen base model with a trainable LoRA adapter."""

    name: str
    tokenizer: Any
    device: torch.device
    pad_id: int
    eos_ids: tuple[int, ...]
    end_id: int
    """The token of `eos_ids` that the chat template ends a turn with."""
    packs: bool
    """Whether a micro-batch is laid end to end, with each prompt once, and not padded."""
    scaler: torch.amp.GradScaler
    """Scales the loss up where the model computes in fp16, so that small gradients do not vanish; else disabled."""
    samples_exactly: bool
    """Whether sampler and scorer differ by no more than the rounding of fp32."""
    n_sampled_tokens: int
    """Of all completions so far."""
    on_ended: Callable[[int], None]
    """Told, while it samples, how many completions have just ended; for a display."""

    def sample(
        self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int
    ) -> list[tuple[Completion, ...]]:
        """Sample completions, one tuple a request, in order; the same seed gives the same samples."""

    def logprobs(self, batch: MicroBatch, *, temperature: float, gradient: bool = True) -> torch.Tensor:
        """Log-probabilities [N] (nats, fp32) of the batch's completion tokens, with a gradient to the adapter.

        The one scorer for old, new and reference log-probabilities, in one mode: without `gradient` the values are the
        same.
        """

    def reference(self) -> AbstractContextManager[None]:
        """While this is open the policy is its own reference model: its adapter off, or as `keep_reference` saw it."""

    def keep_reference(self) -> None:
        """From now on the reference model is the policy as it is at this moment, not the base model."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's trainable parameters by name."""

    def save_adapter(self, folder: Path) -> None:
        """Write adapter_model.safetensors and adapter_config.json in peft's own layout."""

    def load_adapter(self, folder: Path) -> None:
        """Take the adapter's weights from a folder that `save_adapter` wrote."""


@contextmanager
def listening(policy: Policy, on_ended: Callable[[int], None]) -> Iterator[None]:
    """While this is open, `on_ended` is told how many completions have just ended."""
    before, policy.on_ended = policy.on_ended, on_ended
    try:
        yield
    finally:
        policy.on_ended = before
