"""`expo-lite train`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from expo_lite.commands.arguments import path_of
from expo_lite.commands.command import ConfiguredCommand, Inline, import_torch
from expo_lite.grading import Grader
from expo_lite.memory.shapes import context_of
from expo_lite.run.folder import RunFolder, check_new, settings_to_resume
from expo_lite.run.target import resolve_run
from expo_lite.settings.schema import merged
from expo_lite.settings.train import TrainConfig, check_of_use
from expo_lite.tasks import load_task
from expo_lite.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Train(ConfiguredCommand):
    """Train a LoRA adapter with ExPO, and show what changed.

    Example: expo-lite train --model qwen2.5-3b --task jsonl:problems.jsonl --output runs/first
    """

    settings: Annotated[TrainConfig, Inline]

    @classmethod
    def before_flags(cls, words: Sequence[str], file: Path | None) -> dict[str, Any]:
        """Return the file's settings over those of the run that --resume continues."""
        own, folder = super().before_flags(words, file), path_of("--output", words)
        if "--resume" not in words or folder is None or not RunFolder(folder).config_file.exists():
            return own
        return merged(settings_to_resume(folder), own)

    def run(self) -> None:
        """Check the settings, read the problems, then train.

        Raises:
            KeyboardInterrupt: the run was stopped, and is saved.
        """
        config = resolve_run(self.settings)
        if not config.resume:
            check_of_use(self.settings)
            check_new(config.output)
        context_of(config.model, config.sampling.max_completion_tokens, config.policy.revision)
        with Grader(rounding=config.data.rounding) as grader:
            task = load_task(config.task, grader=grader, options=config.data, levels=config.levels)
            console = Terminal()
            import_torch(console)
            from expo_lite.loop import train_on

            if not train_on(task, config, console).finished:
                raise KeyboardInterrupt
