"""The optimiser over the adapter, its learning rate, and its state: kept by parameter name, and read on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from expo_lite.errors import CheckpointError
from expo_lite.objectives import scheduled
from expo_lite.policy.base import Policy
from expo_lite.run.checkpoint import OPTIMIZER
from expo_lite.settings.train import RunConfig


def make_optimizer(policy: Policy, config: RunConfig) -> torch.optim.Optimizer:
    """The optimiser over the adapter; its 8-bit form keeps its state in a quarter of the memory, on a GPU."""
    parameters = list(policy.parameters().values())
    kind: Any = torch.optim.AdamW
    if config.optimizer.optimizer == "adamw-8bit":
        from bitsandbytes.optim import adamw

        kind = adamw.AdamW8bit
    optimizer: torch.optim.Optimizer = kind(
        parameters, lr=config.optimizer.learning_rate, weight_decay=config.optimizer.weight_decay
    )
    return optimizer


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of a step counted from 0: up in a line over the warmup, then as scheduled."""
    warmup = config.optimizer.warmup_steps
    if step < warmup:
        return config.optimizer.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(config.steps - warmup, 1)
    return scheduled(config.optimizer.learning_rate, schedule=config.optimizer.lr_schedule, progress=min(progress, 1.0))


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The optimiser's state as `PARAMETER//KEY` tensors on the CPU; a whole number as a tensor without axes."""
    return {
        f"{name}//{key}": torch.as_tensor(value).detach().cpu()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor | int)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter], checkpoint: Path
) -> None:
    """Put the state back that `optimizer_tensors` gave, each tensor beside its parameter.

    Raises:
        CheckpointError: the state belongs to other parameters.
    """
    tensors = load_file(checkpoint / OPTIMIZER, device="cpu")
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition("//")
        if name not in parameters:
            raise CheckpointError(f"The optimiser state in '{checkpoint}' has '{name}', which this model does not.")
        parameter = parameters[name]
        if value.dim() == 0:  # a count of steps: torch's AdamW has a float tensor on the CPU, bitsandbytes an int
            optimizer.state[parameter][key] = value if value.is_floating_point() else int(value)
        else:
            optimizer.state[parameter][key] = value.to(parameter.device)
