"""The hard subset: the problems that a model never solves, as a data file to train on."""

from expo_lite.config import HardConfig


def run_hard(config: HardConfig) -> None:
    """Sample a model over a split, and write the problems it never solved and the solve rates of all."""
    raise NotImplementedError
