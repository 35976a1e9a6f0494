"""The model card of an exported policy: how it was made, its measured figures, and how to load it and ask it."""

import json
import shlex
from importlib.metadata import version
from typing import Any

from expo_lite.report.page import environment
from expo_lite.terminal import visible_line

SHOWN = ("method", "task", "levels", "steps", "seed", "group_size", "problems_per_step", "optimizer.learning_rate",
         "policy.bits", "policy.lora_rank", "policy.lora_alpha", "explanation.explain",
         "explanation.exp_sft_coef")  # fmt: skip
"""The settings that a card names."""


def written(template: str, **about: Any) -> str:
    """Write a text beside an exported model: `card.md.j2`, Markdown with the hub's header, or `example.j2`.

    Args:
        template: the file.
        about: what the file names, as it is: `run`, a RunRecord or None; `target`, the Target that was exported;
            `base`, as the hub or a reader finds it, its `base_license`, '' if that is unknown, and its `commit` on the
            hub or None; `agreement`, the result of the comparison with the trained policy, or None.
    """
    plain = environment().overlay(autoescape=False)
    plain.filters = plain.filters | {"yaml": _yaml, "cell": _cell, "visible": visible_line, "sh": _sh, "json": _json}
    return plain.get_template(template).render(shown=SHOWN, version=version("expo-lite"), **about)


def _sh(value: Any) -> str:
    return shlex.quote(str(value))


def _json(value: Any) -> str:
    return json.dumps(value if isinstance(value, list) else str(value), indent=4, ensure_ascii=False)


def _cell(value: Any) -> str:
    return visible_line(", ".join(map(str, value)) if isinstance(value, list) else value).replace("|", "\\|")


def _yaml(value: Any) -> str:
    """Quote a text unless it is a plain word."""
    return value if value.replace("-", "").replace("/", "").replace(".", "").isalnum() else f'"{visible_line(value)}"'
