"""The commands that list what there is: `expo-lite models` and `expo-lite tasks`."""

from dataclasses import dataclass

from expo_lite.commands.command import Command
from expo_lite.settings.models import PRESETS, TINY
from expo_lite.tasks import TASKS
from expo_lite.terminal import Terminal, new_table, say


@dataclass(frozen=True, kw_only=True)
class Models(Command):
    """List the model aliases, and the settings that follow from them.

    Example: expo-lite models
    """

    def run(self) -> None:
        """Print the tables."""
        about = new_table("alias", "model", "license", justify="left")
        defaults = new_table("alias", "size", "steps", "learning rate", "for exp-dpo", "max tokens")
        for alias, preset in PRESETS.items():
            source = "built in" if preset is TINY else preset.source
            about.add_row(alias, source, preset.license)
            rates = (f"{preset.learning_rate:g}", f"{preset.dpo_learning_rate:g}")
            defaults.add_row(alias, preset.parameters, str(preset.steps), *rates, str(preset.max_completion_tokens))
        console = Terminal()
        console.print(about, defaults)
        say(console, "--model also takes OWNER/NAME of the model hub, a local folder or a GGUF file.")


@dataclass(frozen=True, kw_only=True)
class Tasks(Command):
    """List the tasks, and where their problems come from.

    Example: expo-lite tasks
    """

    def run(self) -> None:
        """Print the tables."""
        about = new_table("task", "problems", justify="left")
        origins = new_table("task", "license", "expert chains", "held-out split", justify="left")
        for kind, spec in TASKS.items():
            about.add_row(spec.shape, spec.about)
            origins.add_row(kind, spec.license, spec.chains, spec.held_out)
        Terminal().print(about, origins)
