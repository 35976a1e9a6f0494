"""An adapter that does something: a fresh one has B = 0, so that it changes nothing and A has no gradient."""

from typing import TypeVar

import torch

from expo_lite.policy.base import Policy

P = TypeVar("P", bound=Policy)


def shaken(policy: P, scale: float, *, seed: int = 0, only_b: bool = False) -> P:
    """The policy, with noise of this standard deviation added to its adapter (to the B matrices alone, if so asked)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.parameters().items():
            if not only_b or "lora_B" in name:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return policy
