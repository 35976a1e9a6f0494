"""The policy as the loop sees it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from expo_lite.memory.plan import Keeps
from expo_lite.policy.batching import MicroBatch
from expo_lite.records import Completion, SampleRequest, SamplingParams


class Policy(Protocol):
    """A frozen base model with a trainable LoRA adapter."""

    tokenizer: Any
    device: torch.device
    pad_id: int
    end_id: int
    """The token with which the chat template ends a turn."""
    revision: str | None
    """The commit of the base model on the hub; None of a local one."""
    packs: bool
    """A micro-batch is laid end to end, each prompt once, instead of padded."""
    scaler: torch.amp.GradScaler
    """Scales the loss up if the model computes in fp16, so that small gradients do not vanish; otherwise disabled."""
    keeps: Keeps
    """The tensors that stay for the backward pass of an update."""
    samples_exactly: bool
    """Sampler and scorer differ only by the rounding of fp32."""
    n_sampled_tokens: int
    """Tokens sampled so far."""
    n_scored_tokens: int
    """Prompt and completion tokens scored so far without a gradient."""
    on_ended: Callable[[int], None]
    """Called while it samples with the number of completions that have just ended; for a display."""

    def sample(
        self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int
    ) -> list[tuple[Completion, ...]]:
        """Sample completions, one tuple a request, in order; the same seed gives the same samples."""

    def logprobs(self, batch: MicroBatch, *, temperature: float, gradient: bool = True) -> torch.Tensor:
        """Log-probabilities [N] (nats, fp32) of the batch's completion tokens, with a gradient to the adapter.

        The same scorer gives old, new and reference log-probabilities; the values do not depend on `gradient`.
        """

    def listed_logprobs(
        self, batch: MicroBatch, tokens: torch.Tensor | int, *, temperature: float, gradient: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """List K tokens at each completion token's place, and their log-probabilities [N, K] (nats, fp32).

        `tokens` gives them [N, K], or says how many of the most probable ones.
        """

    def reference(self) -> AbstractContextManager[None]:
        """Turn the policy into its own reference model in this context: its adapter off, or the kept one."""

    def keep_reference(self) -> None:
        """Make the policy as it is now the reference model, instead of the base model."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's trainable parameters by name."""

    def save_adapter(self, folder: Path) -> None:
        """Write adapter_model.safetensors and adapter_config.json in peft's own layout."""

    def load_adapter(self, folder: Path) -> None:
        """Take the adapter's weights from a folder that `save_adapter` wrote."""


@contextmanager
def having(owner: object, **values: Any) -> Iterator[None]:
    """Give attributes of an object other values in this context."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
