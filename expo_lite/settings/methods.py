"""The table of methods: what each learns from. Free of torch; `step/methods.py` has the rows of each.

To add a method, name it here and in `Method`, and give its rows in `step/methods.py`.
"""

from dataclasses import dataclass
from typing import Literal

Method = Literal[
    "grpo", "exp-grpo", "gt-sft-grpo", "exp-dpo", "star", "sft",
    "insert", "prefix", "self-distill", "soft-explain", "likelihood", "grade-negatives",
    "hint", "reformulate",
]  # fmt: skip
ChainSource = Literal["none", "explanation", "expert"]
Gate = Literal["all", "all-wrong"]


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """The chains and groups that one method learns from."""

    chains: ChainSource
    """The source of its chains; for pairs --chosen says so."""
    gate: Gate = "all-wrong"
    """Which problems get a chain by default.

    The paper's formula has no gate. Without one the term also pulls where nothing is wrong: of three runs of 200 steps
    on the built-in model all collapsed, and with the gate none did (examples/results/replicate.md). Pairs have no such
    term, and need every problem with a wrong completion; plain supervised training has nothing beside it.
    """
    gate_is_fixed: bool = False
    """--explain cannot change the gate."""
    grpo: bool = False
    """The loss has the GRPO term."""
    imitates: bool = False
    """The loss has the supervised term on chains."""
    coef: float | None = None
    """The default of --exp-sft-coef, which scales what it adds to the GRPO loss; if that is 0, no chains are sampled.
    None: it has nothing to scale."""
    groups: bool = True
    """Learn from groups; without, they are sampled only where the gate needs them."""
    pairs: bool = False
    """Its chains become the chosen side of preference pairs."""
    refresh_steps: int = 1
    """The number of steps that an explanation or a pair is used for by default."""
    teacher: bool = False
    """--teacher scores for it."""


METHODS: dict[Method, MethodSpec] = {
    "grpo": MethodSpec("none", grpo=True),
    "exp-grpo": MethodSpec("explanation", grpo=True, imitates=True, coef=0.04),
    "gt-sft-grpo": MethodSpec("expert", grpo=True, imitates=True, coef=0.04),
    "exp-dpo": MethodSpec("explanation", gate="all", pairs=True, refresh_steps=10),
    "star": MethodSpec("explanation", gate_is_fixed=True, imitates=True),
    "sft": MethodSpec("expert", gate="all", groups=False, imitates=True),
    "insert": MethodSpec("explanation", grpo=True, coef=1.0),
    "prefix": MethodSpec("explanation", gate_is_fixed=True, grpo=True, refresh_steps=0),
    "self-distill": MethodSpec("none", grpo=True, coef=1.0, teacher=True),
    "soft-explain": MethodSpec("explanation", grpo=True, coef=0.1, teacher=True),
    "likelihood": MethodSpec("none", grpo=True),
    "grade-negatives": MethodSpec("none", grpo=True, coef=0.25),
    "hint": MethodSpec("explanation", gate_is_fixed=True, grpo=True),
    "reformulate": MethodSpec("none", grpo=True),
}
