"""`expo-lite export`: write a trained model in the form that other programs load."""

import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from expo_lite.commands.command import Command, say_device, target_of
from expo_lite.errors import CheckpointError, ConfigError
from expo_lite.prompts import encode_question, question_turns
from expo_lite.records import Problem
from expo_lite.results.record import read_run
from expo_lite.run.progress import working
from expo_lite.run.target import ADAPTER_NOTE, Target, as_it_is
from expo_lite.settings.measuring import LoadingConfig
from expo_lite.settings.models import find_model
from expo_lite.terminal import Terminal, say

if TYPE_CHECKING:
    from expo_lite.policy.lora import LoraPolicy

Kind = Literal["adapter", "merged", "gguf", "ollama"]
GGUF = ("f16", "bf16", "f32", "q8_0")
DTYPES = {"adapter": ("",), "merged": ("bf16", "f16", "f32"), "gguf": GGUF, "ollama": GGUF}
"""The types of weights by kind, the default first."""
CHECKED_PROBLEMS = 4
"""Problems of each level whose greedy completions are compared."""


@dataclass(frozen=True, kw_only=True)
class Export(LoadingConfig, Command):
    """Write what a run has trained in the form that other programs load, and check it against the run.

    Example: expo-lite export runs/first --to gguf
    """

    target: str
    """A run folder (its newest checkpoint), a checkpoint, an adapter folder, or a model as it is."""
    to: Kind = "merged"
    """adapter: for peft, on its base. merged: one plain model, for transformers and vLLM. gguf: for llama.cpp.
    ollama: gguf with a Modelfile. Each has a model card; `hf upload` brings the folder to the hub."""
    output: Path | None = None
    """The folder to write, which must not exist. Default: export/NAME-KIND[-DTYPE] in the run folder."""
    dtype: Literal["bf16", "f16", "f32", "q8_0"] | None = None
    """The type of the written weights. Default: bf16, and f16 in a GGUF file. q8_0 is for GGUF files."""

    def run(self) -> None:
        """Write the model, compare it with the run, and print how to load it."""
        allowed = DTYPES[self.to]
        if self.dtype is not None and self.dtype not in allowed:
            known = ", ".join(allowed) or "none"
            raise ConfigError(f"--dtype {self.dtype} is not for --to {self.to}; it takes {known}.")
        target = as_it_is(target_of(self, self.target), self.bits)
        if self.to == "adapter" and self.bits:
            raise ConfigError("--bits is not for --to adapter: the adapter keeps the bits that it was trained on.")
        if self.to == "adapter" and (target.adapter is None or target.model.endswith(".gguf")):
            what = "a model without an adapter" if target.adapter is None else "trained on a GGUF file, unknown to peft"
            raise ConfigError(f"'{self.target}' is {what}. Give a run, or --to merged or gguf.")
        name = "-".join(filter(None, (target.label, self.to, self.dtype)))
        folder = self.output or (target.run or Path("runs")) / "export" / name
        if folder.exists():
            raise CheckpointError(f"'{folder}' exists already. Choose another --output, or remove it.")
        dtype = self.dtype or allowed[0]
        file = f"{target.label.removesuffix('.gguf')}.{dtype}.gguf"
        export(Destination(target, self.to, dtype, file, folder, asked_problem(target)), Terminal())


@dataclass(frozen=True, slots=True)
class Destination:
    """A model to write: `file` is the name of a GGUF file, and `asked` the problem that its example asks."""

    target: Target
    to: Kind
    dtype: Any
    file: str
    folder: Path
    asked: Problem


def export(place: Destination, console: Console) -> None:
    """Write into a temporary folder, compare, and then rename it.

    Raises:
        ModelError: the model cannot be written in this form, or what was written is not what was trained.
    """
    from expo_lite.policy.factory import load_policy

    target, folder = place.target, place.folder
    say_device(console, target)
    with working(console, f"loading {target.label}"):
        policy: Any = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    commit = policy.revision
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with working(console, f"writing {place.to}"):
            write(policy, place, temporary)
        agreement = None
        if place.to != "adapter":
            from expo_lite.policy.device import compute_type
            from expo_lite.policy.export import check_export, greedy, plain_config

            with working(console, "comparing with the trained policy"):
                prompts = [encode_question(policy.tokenizer, problem) for problem in checked_problems(target)]
                completions, device = greedy(policy, prompts, target.max_completion_tokens), policy.device
                is_gguf = place.to != "merged"
                config = plain_config(policy, compute_type(device)) if is_gguf else None
                del policy  # what was written needs the room
                written = temporary / place.file if is_gguf else temporary
                agreement = str(check_export(written, completions, device, config))
            say(console, f"checked: {agreement}")
        (temporary / "README.md").write_text(card_of(place, agreement, commit), encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(console, f"written to: {folder}")
    say(console, f"upload it, with its card: hf upload OWNER/NAME {shlex.quote(str(folder))}")
    say(console, "load it and ask it:")
    console.print(how_to_ask(place, folder), soft_wrap=True)  # code is never broken


def write(policy: "LoraPolicy", place: Destination, temporary: Path) -> None:
    """Write everything but the card into the folder `temporary`."""
    from expo_lite.policy.export import modelfile, write_adapter, write_merged
    from expo_lite.policy.gguf_file import write_gguf

    source = find_model(place.target.model).source
    if place.to == "merged":
        write_merged(policy, temporary, place.dtype)
    elif place.to == "adapter":
        write_adapter(policy, temporary)
        if place.target.trained_bits is None:
            (temporary / ADAPTER_NOTE).unlink()  # it has the bits of now
    else:
        write_gguf(policy, temporary / place.file, place.dtype, source=source, name=place.target.label)
    if place.to == "ollama":
        temperature = place.target.config.sampling.temperature if place.target.config else 0.7
        text = modelfile(policy.tokenizer, place.file, temperature, question_turns(place.asked)[:-1])
        (temporary / "Modelfile").write_text(text, encoding="utf-8")


def card_of(place: Destination, agreement: str | None, commit: str | None) -> str:
    """Return the model card, with the figures of the run if there is one."""
    from expo_lite.report.card import written

    target, preset = place.target, find_model(place.target.model)
    on_the_hub = "/" in preset.source and not Path(preset.source).exists()
    return written(
        "card.md.j2",
        run=read_run(target.run, target.run.name) if target.run else None,
        target=target,
        base=preset.source if on_the_hub else target.model,
        base_license=preset.license,
        to=place.to,
        example=how_to_ask(place, Path(place.folder.name)),
        commit=commit,
        prompt=question_turns(Problem("", "{question}", "", prompts=target.prompts)),
        agreement=agreement,
    )


def checked_problems(target: Target) -> list[Problem]:
    """Read held-out problems of the built-in task, which any model can continue, in the run's own words."""
    from expo_lite.tasks import load_task

    problems = load_task("hidden-rules").problems("test", limit=CHECKED_PROBLEMS)
    return [replace(problem, prompts=target.prompts) for problem in problems]


def asked_problem(target: Target) -> Problem:
    """A held-out problem of the run, in its own words; of the built-in task if the run has measured none."""
    held_out = read_run(target.run, "").held_out if target.run else []
    question = held_out[0]["prompt"] if held_out else checked_problems(target)[0].question
    return Problem("", question, "", prompts=target.prompts)


def how_to_ask(place: Destination, folder: Path) -> str:
    """Return what loads it from `folder`, asks a problem in the words of training and prints the answer."""
    from expo_lite.report.card import written

    return written(
        "example.j2",
        to=place.to,
        dtype=place.dtype,
        tokens=place.target.max_completion_tokens,
        four_bits=place.to == "adapter" and place.target.policy.bits == 4,
        folder=folder,
        file=place.file,
        turns=question_turns(place.asked),
    ).rstrip()
