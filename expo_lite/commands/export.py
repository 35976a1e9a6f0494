"""`expo-lite export`: what a run has trained, in the form that other programs load."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from expo_lite.commands.command import Command
from expo_lite.errors import CheckpointError, ConfigError, DataError
from expo_lite.prompts import encode_question
from expo_lite.run.target import Target, find_target
from expo_lite.settings.models import find_model
from expo_lite.terminal import Terminal, say

if TYPE_CHECKING:
    from expo_lite.policy.lora import LoraPolicy
    from expo_lite.records import Problem

Kind = Literal["adapter", "merged", "gguf", "ollama", "hub"]
DTYPES = {"merged": ("bf16", "f16", "f32"), "gguf": ("f16", "bf16", "f32", "q8_0")}
"""What weights may be written as, the default first."""
CHECKED_PROBLEMS = 4
"""Of each level, whose greedy completions are compared."""
WHAT = {
    "adapter": "A LoRA adapter.",
    "merged": "A whole model: the base, as it was quantised in training, with the trained adapter merged in.",
    "gguf": "A whole model as GGUF: the base, as it was quantised in training, with the trained adapter merged in.",
}


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write what a run has trained in the form that other programs load, and check it against the run."""

    target: str
    """A run folder (its newest checkpoint), a checkpoint, an adapter folder, or a model as it is."""
    to: Kind = "merged"
    """adapter: for peft, on its base. merged: one plain model, for transformers and vLLM. gguf: for llama.cpp.
    ollama: gguf with a Modelfile. hub: merged, with a model card; --push uploads it."""
    output: Path | None = None
    """The folder to write, which must not exist. Default: export/NAME-KIND in the run folder."""
    dtype: Literal["bf16", "f16", "f32", "q8_0"] | None = None
    """What weights are written as. Default: bf16, and f16 in a GGUF file. q8_0 is for GGUF files."""
    base_model: str | None = None
    """The model below an adapter folder, if not the one that the adapter names."""
    push: str | None = None
    """OWNER/NAME: upload the folder to this repository of the hub, which is made if it is not there. Needs HF_TOKEN.
    Without it nothing leaves this machine."""

    def run(self) -> None:
        """Check, then write, compare and say how it is loaded."""
        form = "gguf" if self.to in ("gguf", "ollama") else "adapter" if self.to == "adapter" else "merged"
        allowed = DTYPES.get(form, ())
        if self.dtype is not None and self.dtype not in allowed:
            known = f"; it takes {', '.join(allowed)}" if allowed else ": an adapter is written as it was trained"
            raise ConfigError(f"--dtype {self.dtype} is not for --to {self.to}{known}.")
        if self.push is not None and self.push.count("/") != 1:
            raise ConfigError(f"--push must be OWNER/NAME, not '{self.push}'.")
        target = find_target(self.target, base_model=self.base_model)
        if form == "adapter" and target.adapter is None:
            raise ConfigError(
                f"'{self.target}' is a model without an adapter. Give a run, or take --to merged or gguf."
            )
        folder = self.output or (target.run or Path("runs")) / "export" / f"{target.label}-{self.to}"
        if folder.exists():
            raise CheckpointError(f"'{folder}' exists already. Choose another --output, or remove it.")
        export(target, form, self, folder, Terminal())


def export(target: Target, form: str, asked: Export, folder: Path, console: Console) -> None:
    """Write into a folder beside the wanted one, compare, and only then give it its name.

    Raises:
        CheckpointError: the folder cannot be written.
        ModelError: the model cannot be written in this form, or what was written is not what was trained.
    """
    from expo_lite.commands.sampling import say_device
    from expo_lite.policy.device import compute_type
    from expo_lite.policy.export import (
        check_export,
        greedy,
        plain_config,
        remove,
        write_adapter,
        write_merged,
        write_model_gguf,
    )
    from expo_lite.policy.factory import load_policy
    from expo_lite.policy.ollama import modelfile
    from expo_lite.report.card import CardOf, card
    from expo_lite.report.record import read_run

    say_device(console)
    say(console, f"loading {target.label} ...")
    policy: Any = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    source = find_model(target.model).source
    dtype: Any = asked.dtype or DTYPES.get(form, ("",))[0]
    name = f"{target.label.removesuffix('.gguf')}.{dtype}.gguf"
    temporary = folder.with_name(f".{folder.name}.tmp")
    remove(temporary)
    agreement = None
    try:
        temporary.mkdir(parents=True)
        say(console, f"writing {asked.to} ...")
        if form == "adapter":
            write_adapter(policy, temporary, base=_base_for_peft(policy, source, temporary, folder))
        elif form == "gguf":
            write_model_gguf(policy, temporary / name, dtype, source=source, name=target.label)
        else:
            write_merged(policy, temporary, dtype)
        if asked.to == "ollama":
            temperature = target.config.sampling.temperature if target.config else 0.7
            text = modelfile(policy.tokenizer, name, policy.eos_ids, temperature)
            (temporary / "Modelfile").write_text(text, encoding="utf-8")
        if form != "adapter":
            say(console, "comparing with the trained policy ...")
            prompts = [encode_question(policy.tokenizer, p) for p in checked_problems(target)]
            own = greedy(policy, prompts, target.max_completion_tokens)
            device, config = (
                policy.device,
                plain_config(policy, compute_type(policy.device)) if form == "gguf" else None,
            )
            del policy  # the exported model needs the room
            agreement = check_export(temporary / name if form == "gguf" else temporary, own, device, config)
            say(console, f"checked: {agreement}")
        about = CardOf(
            title=target.label,
            base=source if "/" in source and not Path(source).exists() else target.model,
            license=find_model(target.model).license,
            kind=WHAT[form],
            loading=how_to_load(asked.to, Path(asked.push or folder.name), name),
            library="peft" if form == "adapter" else "transformers" if form == "merged" else "gguf",
            agreement=str(agreement) if agreement else None,
        )
        record = read_run(target.run, target.run.name) if target.run else None
        (temporary / "README.md").write_text(card(about, record), encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise CheckpointError(
            f"Cannot write '{folder}': {error.strerror or error}. Choose another --output."
        ) from error
    finally:
        remove(temporary)
    say(console, f"written to: {folder}")
    say(console, f"load it:\n{how_to_load(asked.to, folder, name)}")
    if asked.push is not None:
        push(folder, asked.push, console)
    elif asked.to == "hub":
        say(console, "look at its README.md; --push OWNER/NAME uploads it.")


def _base_for_peft(policy: "LoraPolicy", source: str, temporary: Path, folder: Path) -> str | None:
    """What the adapter names as its base: of a GGUF file, which peft cannot read, a plain copy that goes with it."""
    if Path(source).suffix != ".gguf":
        return None
    from expo_lite.policy.export import write_merged

    with policy.reference():
        write_merged(policy, temporary / "base", "f16")
    return str((folder / "base").absolute())


def checked_problems(target: Target) -> "list[Problem]":
    """Held-out problems of the run's own task; of the built-in arithmetic, where there is none to be had."""
    from expo_lite.grading import Grader
    from expo_lite.tasks import load_task

    grader, config = Grader(), target.config
    if config is not None:
        try:
            task = load_task(config.task, grader=grader, options=config.data, levels=config.levels)
            return task.problems("test", levels=config.levels, limit=CHECKED_PROBLEMS)
        except (ConfigError, DataError):
            pass  # its data is not here any more
    return load_task("arithmetic", grader=grader).problems("test", limit=CHECKED_PROBLEMS)


def how_to_load(to: Kind, folder: Path, name: str) -> str:
    """What to type."""
    if to == "adapter":
        return (
            "from peft import AutoPeftModelForCausalLM\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{folder}", load_in_4bit=True)'
        )
    if to == "gguf":
        return f"llama-cli -m {folder / name}"
    if to == "ollama":
        return f"ollama create {folder.name.lower()} -f {folder / 'Modelfile'} && ollama run {folder.name.lower()}"
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'model = AutoModelForCausalLM.from_pretrained("{folder}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")'
    )


def push(folder: Path, repository: str, console: Console) -> None:
    """Upload a folder to the hub.

    Raises:
        CheckpointError: the hub cannot be reached, or refuses; the folder stays.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx.TransportError, ValueError) as error:
        raise CheckpointError(
            f"'{folder}' is written, but was not uploaded to '{repository}': {str(error).splitlines()[0]} "
            "Set HF_TOKEN to a token that may write, and upload the folder with `hf upload`."
        ) from error
    say(console, f"uploaded to: https://huggingface.co/{repository}")
