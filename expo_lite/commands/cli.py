"""The command line: one class a verb, its flags made from the dataclasses of settings/.

Every error in the arguments is found before torch and transformers, which take seconds, are imported. An ExpoLiteError
becomes one line and its exit code; so do memory that runs out and a file system that refuses. Any other exception is a
bug, and shows its traceback.
"""

import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version

from rich.table import Table

from expo_lite.commands import arguments
from expo_lite.commands.chat import Chat
from expo_lite.commands.command import Command
from expo_lite.commands.diagnose import Diagnose
from expo_lite.commands.doctor import Doctor
from expo_lite.commands.eval import Eval
from expo_lite.commands.export import Export
from expo_lite.commands.flags import about_and_example
from expo_lite.commands.grade import Grade
from expo_lite.commands.lists import Models, Tasks
from expo_lite.commands.plan import Plan
from expo_lite.commands.report import Report, Watch
from expo_lite.commands.sweep import Replicate, Sweep
from expo_lite.commands.train import Train
from expo_lite.errors import ConfigError, ExpoLiteError, ModelError, first_line
from expo_lite.memory.machine import out_of_memory, short_of_memory
from expo_lite.settings.machine import prepare_torch
from expo_lite.settings.models import suggestion
from expo_lite.terminal import Terminal, say, visible, visible_line

VERSION = version("expo-lite")
DESCRIPTION = (
    "usage: expo-lite COMMAND [FLAGS]\n\n"
    f"expo-lite {VERSION} teaches a language model what it cannot yet do (ExPO). `expo-lite train` alone trains on the "
    "built-in task: without a GPU the built-in model, in minutes, and with one qwen2.5-3b. `expo-lite COMMAND --help` "
    "lists its flags. Settings come from defaults, then --config FILE.toml, then flags. --version prints the version.\n"
)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
BROKEN_PIPE = 141
"""Exit code when whoever reads the output (`| head`) has left: 128 + SIGPIPE."""
WIDE = 160
"""Columns to print without a terminal; rich would cut tables to 80."""

VERBS = (Train, Eval, Diagnose, Report, Watch, Doctor, Export, Chat, Sweep, Replicate, Plan, Grade, Models, Tasks)
COMMANDS: dict[str, type[Command]] = {verb.__name__.lower(): verb for verb in VERBS}


def run(words: Sequence[str]) -> int:
    """Carry out one command line.

    Returns:
        The exit code: 0, that of the error (2 if the arguments are wrong, else 1), or 128 and the signal.

    Raises:
        SystemExit: help or the version was printed (code 0), or an error in the arguments (code 2).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a bar that the encoding lacks must not end a run
    try:
        command = parse(words)
        if not sys.stdout.isatty():
            os.environ.setdefault("COLUMNS", str(WIDE))
        prepare_torch(os.environ)
        warnings.formatwarning = lambda message, *_, **__: f"warning: {visible_line(message)}\n"
        command.run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains while it exits
        return BROKEN_PIPE
    except Exception as error:  # memory that runs out while modules load takes any form; a bug is raised again
        expected = as_expected(error)
        if expected is None:
            raise
        if "--debug" in words:
            sys.stderr.write(visible(traceback.format_exc()))
        say(Terminal(stderr=True), f"error: {visible_line(expected)}")
        return expected.exit_code
    return 0


def parse(words: Sequence[str]) -> Command:
    """Return the command that a command line names, with its settings.

    Raises:
        ConfigError: the command, a flag or the settings file is wrong.
        SystemExit: as for `run`.
    """
    if not words or words[0] in ("--help", "-h"):
        print_help()
        sys.exit(0)
    verb, *flags = words
    if verb == "--version":
        sys.stdout.write(f"expo-lite {VERSION}\n")
        sys.exit(0)
    if verb not in COMMANDS:
        hint = suggestion(verb, COMMANDS) or f" Commands: {', '.join(COMMANDS)}."
        raise ConfigError(f"There is no command '{verb}'.{hint} `expo-lite --help` says what each does.")
    command: Command = arguments.read(COMMANDS[verb], flags, verb=verb)
    return command


def print_help() -> None:
    """Print what the program is, and its commands."""
    table = Table.grid(padding=(0, 2))
    for verb, command in COMMANDS.items():
        table.add_row(verb, about_and_example(command)[0])
    console = Terminal()
    for line in DESCRIPTION.splitlines():
        say(console, line)
    console.print("", table)


def as_expected(error: Exception) -> ExpoLiteError | None:
    """Return the error as one that is printed in a line: memory and the file system too; None for a bug."""
    if isinstance(error, ExpoLiteError):
        return error
    if out_of_memory(error):
        return ModelError(short_of_memory(error))
    if isinstance(error, OSError):
        where = f" '{error.filename}'" if error.filename is not None else ""
        kind = ConfigError if error.errno == errno.ENAMETOOLONG else ExpoLiteError
        return kind(f"The system refuses{where}: {error.strerror or first_line(error)[:-1]}.")
    return None
