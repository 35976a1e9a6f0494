"""The commands that list what there is: `expo-lite models` and `expo-lite tasks`."""

from dataclasses import dataclass

from expo_lite.commands.command import Command
from expo_lite.settings.models import PRESETS, TINY
from expo_lite.tasks import TASKS
from expo_lite.terminal import Terminal, new_table, say

MODEL_COLUMNS = ("alias", "model", "parameters", "license", "steps", "learning rate", "for exp-dpo", "max tokens")


@dataclass(frozen=True, kw_only=True)
class Models(Command):
    """List the model aliases, and the settings that follow from them.

    Example: expo-lite models
    """

    def run(self) -> None:
        """Print the table."""
        table = new_table(*MODEL_COLUMNS, justify="left")
        for alias, preset in PRESETS.items():
            source = "built in" if preset is TINY else preset.source
            rates = (f"{preset.learning_rate:g}", f"{preset.dpo_learning_rate:g}")
            defaults = (str(preset.steps), *rates, str(preset.max_completion_tokens))
            table.add_row(alias, source, preset.parameters, preset.license, *defaults)
        console = Terminal()
        console.print(table)
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
