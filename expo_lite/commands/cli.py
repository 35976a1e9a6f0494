"""The command line: one subcommand a verb, its flags made from the dataclasses of settings/.

Everything that can be wrong about arguments is found before anything heavy is imported: torch and transformers take
seconds, and a mistyped name should not. An ExpoLiteError, and what `as_expected` knows, becomes one line and its exit
code; whatever else is raised is a mistake of ours, and shows its traceback.
"""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, get_type_hints

import tyro

from expo_lite import __version__
from expo_lite.commands import arguments
from expo_lite.commands.chat import Chat
from expo_lite.commands.command import Command, ConfiguredCommand
from expo_lite.commands.compare import Compare
from expo_lite.commands.diagnose import Diagnose
from expo_lite.commands.doctor import Doctor
from expo_lite.commands.eval import Eval
from expo_lite.commands.expected import as_expected
from expo_lite.commands.explain import Explain
from expo_lite.commands.export import Export
from expo_lite.commands.grade import Grade
from expo_lite.commands.hard import Hard
from expo_lite.commands.models import Models
from expo_lite.commands.plan import Plan
from expo_lite.commands.report import Report
from expo_lite.commands.sweep import Replicate, Sweep
from expo_lite.commands.tasks import Tasks
from expo_lite.commands.train import Train
from expo_lite.commands.watch import Watch
from expo_lite.errors import ExpoLiteError
from expo_lite.settings.machine import set_memory
from expo_lite.terminal import visible, visible_line

DESCRIPTION = f"""expo-lite {__version__}: teach a language model what it cannot yet do (ExPO).

`expo-lite train` alone trains the built-in model on the built-in task, in some minutes on a CPU. `expo-lite COMMAND
--help` lists the flags of a command. Settings come from defaults, then --config FILE.toml, then flags. --version prints
the version."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
WIDE = 160
"""Columns of what is printed where there is no terminal."""
BROKEN_PIPE = 141
"""Exit code when whoever reads the output (`| head`) has left: 128 + SIGPIPE."""

COMMANDS: dict[str, type[ConfiguredCommand]] = {
    "train": Train,
    "eval": Eval,
    "explain": Explain,
    "hard": Hard,
    "plan": Plan,
    "diagnose": Diagnose,
    "sweep": Sweep,
    "replicate": Replicate,
}
"""The commands that take settings."""
OTHERS: dict[str, Command] = {
    "report": Report(runs=tyro.MISSING),
    "compare": Compare(first=tyro.MISSING, second=tyro.MISSING),
    "export": Export(target=tyro.MISSING),
    "chat": Chat(target=tyro.MISSING),
    "watch": Watch(folder=tyro.MISSING),
    "doctor": Doctor(),
    "grade": Grade(file=tyro.MISSING),
    "models": Models(),
    "tasks": Tasks(),
}


def run(words: Sequence[str]) -> int:
    """Carry out one command line.

    Returns:
        The exit code: 0, that of the error (2 if the arguments are wrong, else 1), or 128 and the signal.

    Raises:
        SystemExit: tyro has printed help (code 0) or what is wrong with the arguments (code 2).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks, such as a bar, ends no run
    try:
        arguments.check_words(words)
        if list(words) == ["--version"]:
            sys.stdout.write(f"expo-lite {__version__}\n")
        else:
            command = parse(words)
            if not sys.stdout.isatty():
                os.environ.setdefault("COLUMNS", str(WIDE))  # rich would cut tables to 80 columns
            set_memory(os.environ)
            command.run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains while it exits
        return BROKEN_PIPE
    except Exception as error:  # memory that runs out while modules load takes any form; what is not expected is raised
        expected = error if isinstance(error, ExpoLiteError) else as_expected(error)
        if expected is None:
            raise
        if "--debug" in words:
            sys.stderr.write(visible(traceback.format_exc()))
        sys.stderr.write(f"error: {visible_line(expected)}\n")
        return expected.exit_code
    return 0


def parse(words: Sequence[str]) -> Command:
    """The command that a command line names, with its settings.

    Raises:
        ConfigError: the settings file is missing or wrong.
        SystemExit: as for `run`.
    """
    file = arguments.path_of("--config", words)
    verb = words[0] if words else "--help"

    def settings(name: str, command: type[ConfiguredCommand]) -> Any:
        values = command.before_flags(words, file) if name == verb else {}
        return arguments.defaults(get_type_hints(command)["settings"], values, str(file))

    defaults: dict[str, Any] = {
        name: command(settings=settings(name, command), config=file)  # type: ignore[call-arg]
        for name, command in COMMANDS.items()
    }
    arguments.check_names(words, defaults | OTHERS)
    command: Command = arguments.read(defaults | OTHERS, list(words) or ["--help"], description=DESCRIPTION)
    return command
