"""`expo-lite doctor`: find problems of this machine, or of runs, and say what to do."""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro
from packaging.requirements import Requirement
from rich.console import Console

from expo_lite.commands.command import Command
from expo_lite.errors import ConfigError, ExpoLiteError
from expo_lite.memory.plan import GIB
from expo_lite.report.findings import lora_b_moved, run_findings
from expo_lite.results.record import RunRecord, read_runs
from expo_lite.run.checkpoint import newest_whole
from expo_lite.run.dashboard import broken_off, holder_lives
from expo_lite.run.folder import read_config, run_folders
from expo_lite.settings.machine import driver_version, how_to_install, in_wsl, is_installed, missed_unsloth
from expo_lite.settings.metrics import described
from expo_lite.terminal import Terminal, command, say

WIDTH = len("problem")
FIGURES = ("reward", "frac_all_wrong", "frac_all_correct", "completions/clipped_ratio", "expo/explanation_accept_rate",
           "kl", "sampling/logp_difference/mean")  # fmt: skip
"""The metrics of a healthy run's last step to print."""
PACKAGE = "expo-lite"
TESTED = ("torch", "transformers", "peft", "bitsandbytes", "trl", "unsloth")
"""Packages whose versions matter; the package's own metadata says which versions are tested."""
WIDTHS = (128, 2048)
"""Widths of layers, in whole blocks of NF4; loading checks the widths of the model itself."""
TRAINING_LIMIT_S = 30.0
STEPS = 2
TRAIN = (
    "train --model tiny --task hidden-rules --group-size 4 --problems-per-step 4 --max-completion-tokens 48 "
    f"--steps {STEPS} --method gt-sft-grpo --explain all --diagnostics-every 0 --eval-problems 0"
)
"""A run with expert chains for all problems, so that both steps have a gradient whatever is sampled."""
MOST_APART_NATS = 0.1
REPORT_IT = "Please report it, with the output of `expo-lite doctor`."


class Check(NamedTuple):
    """One line of the doctor: the state, what was seen, and what to do."""

    state: Literal["ok", "warning", "problem"]
    what: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Find problems of this machine, or of runs, and say what to do. The exit code is 1 if there is a problem.

    Example: expo-lite doctor runs/first
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders to look at, finished or not, or folders of runs. Default: look at this machine."""
    skip_training: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out the training self-test, which takes up to 30 s."""

    def run(self) -> None:
        """Print a line for each check.

        Raises:
            CheckpointError: a folder holds no run, or one of its files is damaged.
            ExpoLiteError: there is a problem; it has been printed.
        """
        console = Terminal()
        checks = machine_checks(training=not self.skip_training)
        if self.runs:
            checks = (check for record in read_runs(run_folders(self.runs)) for check in run_checks(record))
        if problems := sum(show(check, console) for check in checks):
            raise ExpoLiteError(f"Problems found: {problems}. The lines above say what to do.")


def run_checks(run: RunRecord) -> Iterator[Check]:
    """Return every finding of a run as a problem, or its main figures in one line."""
    found, steps = run_findings(run), read_config(run.path).steps
    for finding in found:
        where = ", ".join(filter(None, (run.label, finding.where)))
        yield Check("problem", f"{finding.what} ({where}: {finding.figures}).", finding.remedy)
    if not run.metrics:
        yield Check("warning", f"{run.label}: no step is done yet.", "Look again later, or go on with --resume.")
    elif run.steps < steps and not holder_lives(run.path):
        yield Check("warning", f"{run.label}: {broken_off(run.path, run.steps, steps)}")
    elif not found:
        last = f"Step {run.steps} of {run.settings.get('steps')}: {', '.join(described(run.metrics[-1], FIGURES))}"
        yield Check("ok", f"{run.label}: nothing wrong is found. {last}.")


def show(check: Check, console: Console) -> bool:
    """Print one check, with what to do below it; return whether it is a problem."""
    say(console, f"{check.state:<{WIDTH}}  {check.what}")
    if check.remedy:
        say(console, f"{'':<{WIDTH}}  {check.remedy}")
    return check.state == "problem"


def machine_checks(*, training: bool) -> Iterator[Check]:
    """Check this machine; with `training`, train the built-in model too."""
    system = f"Python {platform.python_version()} on {platform.system()} {platform.release()} ({platform.machine()})"
    yield Check("ok", f"{system}{', inside WSL2' if in_wsl() else ''}.")
    yield from versions()
    if not is_installed("torch"):
        return
    card = gpu()
    yield card
    if card.state == "ok" and (missed := missed_unsloth()):
        yield Check("warning", missed, f"To install it: {how_to_install('unsloth')}.")
    yield four_bits()
    if training and card.state != "problem":  # training would fail for the same reason
        yield train()


def versions() -> Iterator[Check]:
    """Check the installed versions against the tested ones."""
    asked_for = [Requirement(text) for text in requires(PACKAGE) or ()]
    checks = [one_version(name, [each for each in asked_for if each.name == name]) for name in TESTED]
    yield from (check for check in checks if check.state != "ok")
    fitting = [f"{PACKAGE} {version(PACKAGE)}", *(check.what for check in checks if check.state == "ok")]
    yield Check("ok", f"as tested: {', '.join(fitting)}.")


def one_version(name: str, tested: list[Requirement]) -> Check:
    """Check one package against its tested ranges."""
    ranges = " or ".join(dict.fromkeys(str(each.specifier) for each in tested))
    try:
        installed = version(name)
    except PackageNotFoundError:
        if all(each.marker is not None and "extra" in str(each.marker) for each in tested):
            return Check("ok", f"no {name}")
        return Check("problem", f"{name} is not installed; {ranges} is needed.", f"pip install '{name}{ranges}'")
    if any(each.specifier.contains(installed, prereleases=True) for each in tested):
        return Check("ok", f"{name} {installed}")
    remedy = f"If something fails, pip install '{name}{tested[0].specifier}' first."
    return Check("warning", f"{name} {installed} is installed; tested is {ranges}.", remedy)


def gpu() -> Check:
    """Check the GPU, its memory and its driver; a GPU that torch cannot use is a problem."""
    import torch

    from expo_lite.policy.device import compute_type, describe, find_device

    try:
        device = find_device()
    except ConfigError as error:
        return Check("problem", "There is a GPU that cannot be used.", str(error))
    if device.type == "cpu":
        return Check("ok", "No NVIDIA GPU: on a CPU tiny trains in minutes, and models below 1B slowly.")
    free, total = (size / GIB for size in torch.cuda.mem_get_info())
    precision = str(compute_type(device)).removeprefix("torch.")
    what = f"{describe(device)}, {total:.1f} GiB, {free:.1f} GiB of it free, driver {driver_version()}, {precision}."
    return Check("ok", what)


def four_bits() -> Check:
    """Check that weights come back from NF4 with the usual error."""
    import torch

    from expo_lite.policy.device import MOST_NF4_ERROR, find_device, nf4_error

    try:
        device = find_device()
    except ConfigError:
        device = torch.device("cpu")
    library = f"bitsandbytes {version('bitsandbytes')}"
    worst = max(nf4_error(width, device) for width in WIDTHS)
    if not worst <= MOST_NF4_ERROR:
        what = f"{library} reads 4-bit weights back with an error of {worst:.0%}; 9% is right."
        return Check("problem", what, "Train with --bits 16, or install another bitsandbytes.")
    return Check("ok", f"{library} reads 4-bit weights back rightly (error {worst:.1%}).")


def train(limit_s: float = TRAINING_LIMIT_S) -> Check:
    """Train the built-in model for two steps, in a process that may crash or hang."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [sys.executable, "-m", "expo_lite", *TRAIN.split(), "--output", str(run)]
        again = command(*words[3:], "--debug")  # its folder is gone when it is read
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            what = f"Training {STEPS} steps of the built-in model did not end within {limit_s:.0f} s."
            return Check("warning", what, f"The machine is slow, or busy with other programs. Try {again} by itself.")
        if done.returncode != 0:
            last = (done.stderr.strip() or "nothing").splitlines()[-1]
            what = f"Training {STEPS} steps of the built-in model ended with code {done.returncode}: {last}"
            return Check("problem", what, f"{again} shows all of it.")
        return judge(run, time.monotonic() - started)


def judge(run: Path, took_s: float) -> Check:
    """Check that the adapter of a short run has moved, and that its sampler and scorer agree."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    newest, _ = newest_whole(run / "checkpoints")
    moved, n_factors = (newest and lora_b_moved(newest)) or (0, 0)
    if not moved or moved < n_factors:
        what = f"After {len(rows)} steps {moved} of {n_factors} LoRA B factors have moved."
        return Check("problem", what, REPORT_IT)
    apart = max((row.get("sampling/logp_difference/mean", 0.0) for row in rows), default=0.0)
    if apart > MOST_APART_NATS:
        what = f"Sampler and scorer are {apart:.2f} nats a token apart in a short run."
        return Check("problem", what, "Take another --sampler or --backend, and please report it.")
    what = f"{len(rows)} steps of training took {took_s:.0f} s with the start: all {n_factors} LoRA B factors"
    return Check("ok", f"{what} have moved, sampler and scorer agree ({apart:.0e} nats a token).")
