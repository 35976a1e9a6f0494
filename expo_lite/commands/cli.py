"""The command line: one subcommand a verb, its flags made from the dataclasses of config.py.

Everything that can be wrong about arguments is found before anything heavy is imported: torch and transformers take seconds, and
a mistyped name should not. An ExpoLiteError becomes one line and its exit code.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from expo_lite import __version__
from expo_lite.commands import arguments
from expo_lite.errors import CheckpointError, ConfigError, ExpoLiteError
from expo_lite.replication.plan import read_plan
from expo_lite.settings import config
from expo_lite.settings.models import find_model
from expo_lite.tasks import check_name

DESCRIPTION = f"""expo-lite {__version__}: teach a language model what it cannot yet do, by having it explain right answers to itself (ExPO).

`expo-lite train` alone trains the built-in model on the built-in task, in some minutes on a CPU. `expo-lite COMMAND --help` lists
the flags of a command. Settings come from defaults, then --config FILE.toml, then flags. --version prints the version."""  # fmt: skip

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
WIDE = 160
"""Columns of what is printed where there is no terminal."""
BROKEN_PIPE = 141
"""Exit code when whoever reads the output (`| head`) has left: 128 + SIGPIPE."""

Inline = tyro.conf.arg(name="")  # the settings' fields stand beside the command's own


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class Configured(Common):
    """What every command with settings takes."""

    config: Path | None = None
    """TOML file with settings; flags go before it."""


@dataclass(frozen=True, kw_only=True)
class Train(Configured):
    """Train a LoRA adapter with ExPO, and show what changed."""

    settings: Annotated[config.TrainConfig, Inline]

    def run(self) -> None:
        """Check, then train."""
        settings = config.resolve(self.settings)
        _check_model(settings.model_name)
        check_name(settings.task, settings.data, settings.levels)
        folder = settings.run_folder
        if not settings.resume and folder.is_dir() and any(folder.iterdir()):
            raise CheckpointError(
                f"The run folder '{folder}' exists. Continue it with --resume, or choose another name with --output."
            )
        from expo_lite.loop import train

        train(settings)


@dataclass(frozen=True, kw_only=True)
class Eval(Configured):
    """Measure a run or a model: greedy accuracy, avg@n, pass@k and maj@k, by level and subject."""

    settings: Annotated[config.EvalConfig, Inline]

    def run(self) -> None:
        """Check, then measure."""
        settings = self.settings
        config.check_eval(settings)
        _check_model(settings.target)
        if settings.baseline is not None:
            _check_model(settings.baseline)
        if settings.task is not None:
            check_name(settings.task, settings.data, settings.levels)
        from expo_lite.measure.evaluate import run_eval

        run_eval(settings)


@dataclass(frozen=True, kw_only=True)
class Explain(Configured):
    """Print self-explanations of some problems, with what becomes of each."""

    settings: Annotated[config.ExplainConfig, Inline]

    def run(self) -> None:
        """Check, then explain."""
        settings = self.settings
        config.check_explain(settings)
        _check_model(settings.model or config.default_model())
        check_name(settings.task, settings.data, settings.levels)
        from expo_lite.commands.explain import run_explain

        run_explain(settings)


@dataclass(frozen=True, kw_only=True)
class Hard(Configured):
    """Find the problems that a model never solves, and write them as a data file to train on."""

    settings: Annotated[config.HardConfig, Inline]

    def run(self) -> None:
        """Check, then sample."""
        settings = self.settings
        config.check_hard(settings)
        _check_model(settings.model or config.default_model())
        check_name(settings.task, settings.data, settings.levels)
        from expo_lite.commands.hard import run_hard

        run_hard(settings)


@dataclass(frozen=True, kw_only=True)
class Plan(Configured):
    """Say what a training run will hold in memory, before anything is loaded, and which settings fit."""

    settings: Annotated[config.PlanConfig, Inline]

    def run(self) -> None:
        """Check, then print the plan."""
        config.check_plan(self.settings)
        from expo_lite.commands.plan import run_plan

        run_plan(self.settings)


@dataclass(frozen=True, kw_only=True)
class Diagnose(Configured):
    """Measure whether explanations are good positives for a model on a task: probable, and of use for the answer."""

    settings: Annotated[config.DiagnoseConfig, Inline]

    def run(self) -> None:
        """Check, then measure."""
        settings = self.settings
        config.check_diagnose(settings)
        _check_model(settings.model or config.default_model())
        check_name(settings.task, settings.data, settings.levels)
        from expo_lite.measure.diagnosis import run_diagnose

        run_diagnose(settings)


@dataclass(frozen=True, kw_only=True)
class Replicate(Configured):
    """Run a fixed plan of training runs, and show which of the paper's claims hold."""

    settings: Annotated[config.ReplicateConfig, Inline]

    def run(self) -> None:
        """Check the whole plan, then carry it out."""
        settings = self.settings
        config.check_replicate(settings)
        _check_model(settings.model or config.default_model())
        plan = read_plan(settings)
        for run in plan.runs.values():
            check_name(settings.task, run.data, run.levels)
        from expo_lite.replication.run import run_replicate

        run_replicate(settings)


@dataclass(frozen=True, kw_only=True)
class Grade(Common):
    """Grade the replies of a JSONL file with fields gold and reply; with a label too, measure the grader itself."""

    file: Path
    """JSONL file: an object with gold and reply a line, and perhaps label (whether the reply is right)."""
    output: Path | None = None
    """JSONL file to write, with correct, reason and how added; default: FILE.graded.jsonl."""

    def run(self) -> None:
        """Grade, and print the counts."""
        from expo_lite.commands.listings import grade_and_print

        grade_and_print(self.file, self.output or self.file.with_suffix(".graded.jsonl"))


@dataclass(frozen=True, kw_only=True)
class Models(Common):
    """List the model aliases, and the settings that follow from them."""

    def run(self) -> None:
        """Print the table."""
        from expo_lite.commands.listings import print_models

        print_models()


@dataclass(frozen=True, kw_only=True)
class Tasks(Common):
    """List the tasks, and where their problems come from."""

    def run(self) -> None:
        """Print the table."""
        from expo_lite.commands.listings import print_tasks

        print_tasks()


Command = Train | Eval | Explain | Hard | Plan | Diagnose | Replicate | Grade | Models | Tasks

SETTINGS: dict[str, tuple[Any, Any]] = {
    "train": (Train, config.TrainConfig),
    "eval": (Eval, config.EvalConfig),
    "explain": (Explain, config.ExplainConfig),
    "hard": (Hard, config.HardConfig),
    "plan": (Plan, config.PlanConfig),
    "diagnose": (Diagnose, config.DiagnoseConfig),
    "replicate": (Replicate, config.ReplicateConfig),
}
"""The commands that take settings, and whose they are."""


def run(words: Sequence[str]) -> int:
    """Carry out one command line.

    Returns:
        The exit code: 0, that of the error (2 if the arguments are wrong, else 1), or 128 and the signal.

    Raises:
        SystemExit: tyro has printed help (code 0) or what is wrong with the arguments (code 2).
    """
    try:
        if list(words) == ["--version"]:
            sys.stdout.write(f"expo-lite {__version__}\n")
        else:
            command = parse(words)
            if not sys.stdout.isatty():
                os.environ.setdefault("COLUMNS", str(WIDE))  # rich would cut tables to 80 columns
            command.run()
        sys.stdout.flush()
    except ExpoLiteError as error:
        if "--debug" in words:
            traceback.print_exc()
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains while it exits
        return BROKEN_PIPE
    return 0


def parse(words: Sequence[str]) -> Command:
    """The command that a command line names, with its settings.

    Raises:
        ConfigError: the settings file is missing or wrong.
        SystemExit: as for `run`.
    """
    file = arguments.settings_file(words)
    verb = words[0] if words else "--help"
    defaults: dict[str, Any] = {
        name: command(settings=arguments.defaults(settings, file if name == verb else None), config=file)
        for name, (command, settings) in SETTINGS.items()
    }
    defaults |= {"grade": Grade(file=tyro.MISSING), "models": Models(), "tasks": Tasks()}
    command: Command = arguments.read(defaults, list(words) or ["--help"], description=DESCRIPTION)
    return command


def _check_model(name: str) -> None:
    """Find a mistyped model or run early; what is there is looked into later (locate.py)."""
    path = Path(name).expanduser()
    looks_local = len(path.parts) > 1 and (path.parts[0] == "runs" or Path(path.parts[0]).is_dir())
    if looks_local and not path.exists():
        raise ConfigError(f"There is no run, adapter or model at '{name}'.")
    find_model(name)
