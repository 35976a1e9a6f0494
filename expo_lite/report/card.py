"""The model card of an exported policy: how it was made, its measured figures, and how to load it and ask it."""

from importlib.metadata import version
from typing import Any

from expo_lite.report.page import environment
from expo_lite.results.record import RunRecord
from expo_lite.terminal import visible_line

SHOWN = ("method", "task", "levels", "steps", "seed", "group_size", "problems_per_step", "optimizer.learning_rate",
         "policy.bits", "policy.lora_rank", "policy.lora_alpha", "explanation.explain",
         "explanation.exp_sft_coef")  # fmt: skip
"""The settings that a card names."""


def card(run: RunRecord | None, **about: Any) -> str:
    """Write the card as Markdown with the hub's header.

    Args:
        run: the run that trained the model, if there is one.
        about: `title`; `base`, as the hub or a reader finds it, and `base_license`, '' if it is unknown; `form`, one of
            adapter, merged and gguf; `bits` of the base, `as_trained` if the training had the same, and its `commit` on
            the hub, or None; `example`; `prompt`, the turns with {question} for a problem; and `agreement`, the result
            of the comparison with the trained policy, or None.
    """
    return _written("card.md.j2", run=run, shown=SHOWN, version=version("expo-lite"), **about)


def example(**about: Any) -> str:
    """Write the commands or the Python that load an exported model, ask it a problem and print the answer.

    Args:
        about: `to`, one of adapter, merged, gguf and ollama; `tokens`, those of the longest answer; and the other texts
            of `example.j2`, quoted for where they stand.
    """
    return _written("example.j2", **about).rstrip()


def _written(template: str, **about: Any) -> str:
    plain = environment().overlay(autoescape=False)
    plain.filters = plain.filters | {"yaml": _yaml, "cell": _cell, "visible": visible_line}
    return plain.get_template(template).render(**about)


def _cell(value: Any) -> str:
    return visible_line(", ".join(map(str, value)) if isinstance(value, list) else value).replace("|", "\\|")


def _yaml(value: Any) -> str:
    """Quote a text unless it is a plain word."""
    return value if value.replace("-", "").replace("/", "").replace(".", "").isalnum() else f'"{visible_line(value)}"'
