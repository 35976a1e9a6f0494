"""The model card of an exported policy: how it was made, its measured figures, and how to load it."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from expo_lite.results.record import RunRecord
from expo_lite.terminal import visible_line

SHOWN = ("method", "task", "levels", "steps", "seed", "group_size", "problems_per_step", "optimizer.learning_rate",
         "policy.bits", "policy.lora_rank", "policy.lora_alpha", "explanation.explain",
         "explanation.exp_sft_coef")  # fmt: skip
"""The settings that a card names."""
KNOWN_LICENSES = {"Apache-2.0": "apache-2.0", "MIT": "mit"}
"""The hub's names of licences."""


def card(
    run: RunRecord | None,
    *,
    title: str,
    base: str,
    base_license: str,
    kind: str,
    loading: str,
    library: str,
    prompt: Sequence[Mapping[str, str]],
    agreement: str | None,
) -> str:
    """Write the card as Markdown with the hub's header.

    Args:
        run: the run that trained the model, if there is one.
        title: the model's name.
        base: the base model, as the hub or a reader finds it.
        base_license: the base model's; '' if it is unknown.
        kind: one sentence on the files.
        loading: commands or Python that load it and ask it a problem.
        library: the hub's library name: peft, transformers or gguf.
        prompt: the turns of its prompt, with {question} for a problem.
        agreement: the result of the comparison with the trained policy.
    """
    license = KNOWN_LICENSES.get(base_license, "other")
    header = {"base_model": base, "library_name": library, "license": license, "tags": None}
    lines = ["---", *(f"{key}: {_yaml(value)}" for key, value in header.items() if value), "tags: [expo, grpo, lora]"]
    lines += ["---", "", f"# {title}", "", f"{kind} Made by expo-lite {version('expo-lite')}."]
    if base_license:
        lines += ["", f"The base model's licence: {base_license}. It holds for this model too."]
    if run is not None:
        lines += _of_run(run)
    lines += ["", "## Load it and ask it", "", "```", loading.rstrip(), "```"]
    asked = [line for turn in prompt for line in (f"{turn['role']}:", *turn["content"].splitlines())]
    lines += ["", "Through its chat template, in the words that it was trained and measured with:", ""]
    lines += [f"    {visible_line(line)}" for line in asked]
    if agreement:
        lines += ["", f"Checked against the trained policy: {agreement}."]
    return "\n".join(lines) + "\n"


def _of_run(run: RunRecord) -> list[str]:
    lines = ["", "## How it was made", "", "| setting | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(run.settings[name])} |" for name in SHOWN if run.settings.get(name) not in (None, [])]
    ends = run.evaluated[:1] + run.evaluated[-1:] if len(run.evaluated) > 1 else run.evaluated
    if ends:
        names = list(ends[0].evaluation.levels[0].pass_at)
        lines += ["", "## What it measured", "", "Percent of held-out problems, with 95% intervals over problems.", ""]
        lines += [f"| level | after steps | problems | greedy |{''.join(f' pass@{k} |' for k in names)}"]
        lines += ["| --- " * (4 + len(names)) + "|"]
        for place in range(len(ends[0].evaluation.levels)):
            for end in ends:
                row = end.evaluation.levels[place]
                figures = [row.greedy, *(row.pass_at[k] for k in names)]
                cells = [row.level, str(end.step), str(row.n_problems), *(figure.text() for figure in figures)]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(value: Any) -> str:
    return visible_line(", ".join(map(str, value)) if isinstance(value, list) else value).replace("|", "\\|")


def _yaml(value: str) -> str:
    """Quote a value unless it is a plain word."""
    return value if value.replace("-", "").replace("/", "").replace(".", "").isalnum() else f'"{visible_line(value)}"'
