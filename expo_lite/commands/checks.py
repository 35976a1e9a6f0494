"""The checks of a machine that `doctor` makes, from the quick to the slow."""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from expo_lite.errors import ConfigError
from expo_lite.memory.plan import GIB
from expo_lite.report.findings import lora_b_moved
from expo_lite.run.checkpoint import newest_whole
from expo_lite.settings.machine import ON_WINDOWS, driver_version, in_wsl, is_installed, on_windows

PACKAGE = "expo-lite"
TESTED = ("torch", "transformers", "peft", "bitsandbytes", "trl", "unsloth")
"""Packages whose versions matter; the package's own metadata says which versions are tested."""
WHOLE_BLOCKS = (128, 2048)
ODD_WIDTHS = (80, 96, 112, 200, 400)
"""Widths of layers that do not fill whole blocks of NF4."""
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


def machine_checks(*, training: bool) -> Iterator[Check]:
    """Check this machine; with `training`, train the built-in model too."""
    yield python()
    yield from versions()
    if on_windows() or not is_installed("torch"):
        return
    card = gpu()
    yield card
    yield four_bits()
    if training and card.state != "problem":  # training would fail for the same reason
        yield train()


def python() -> Check:
    """Check Python and the system; Windows itself cannot train."""
    system = f"Python {platform.python_version()} on {platform.system()} {platform.release()} ({platform.machine()})"
    if on_windows():
        return Check("problem", f"{system}.", ON_WINDOWS)
    return Check("ok", f"{system}{', inside WSL2' if in_wsl() else ''}.")


def versions() -> Iterator[Check]:
    """Check the installed versions against the tested ones."""
    asked_for = [Requirement(text) for text in requires(PACKAGE) or ()]
    fitting = [f"{PACKAGE} {version(PACKAGE)}"]
    for name in TESTED:
        check = one_version(name, [each for each in asked_for if each.name == name])
        if check.state == "ok":
            fitting.append(check.what)
        else:
            yield check
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
    what = f"{describe(device)}, {total:.1f} GiB, {free:.1f} GiB of it free, driver {driver_version()}, {precision}"
    what += ", lent by Windows (WSL2)" if in_wsl() else ""
    if free < total / 2:
        return Check("warning", f"{what}.", "Another program holds much of its memory; nvidia-smi shows which.")
    return Check("ok", f"{what}.")


def four_bits() -> Check:
    """Check that weights come back from NF4 with the usual error."""
    import torch

    from expo_lite.policy.device import MOST_NF4_ERROR, NF4_BLOCK, find_device, nf4_error, wrong_widths

    try:
        device = find_device()
    except ConfigError:
        device = torch.device("cpu")
    library = f"bitsandbytes {version('bitsandbytes')}"
    worst = max(nf4_error(width, device) for width in WHOLE_BLOCKS)
    if not worst <= MOST_NF4_ERROR:
        what = f"{library} reads 4-bit weights back with an error of {worst:.0%}; 9% is right."
        return Check("problem", what, "Train with --bits 16, or install another bitsandbytes.")
    if wrong := wrong_widths(ODD_WIDTHS, device):
        what = (
            f"{library} reads 4-bit weights back wrongly if a layer has {', '.join(map(str, wrong))} inputs "
            f"(an error of {max(wrong.values()):.0%}; 9% is right); multiples of {NF4_BLOCK} are right."
        )
        return Check("warning", what, "Models with such layers are refused in 4 bits; they need --bits 16.")
    return Check("ok", f"{library} reads 4-bit weights back rightly (error {worst:.1%}).")


def train(limit_s: float = TRAINING_LIMIT_S) -> Check:
    """Train the built-in model for two steps, in a process that may crash or hang."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "expo_lite", *TRAIN.split(), "--output", str(run)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            what = f"Training {STEPS} steps of the built-in model did not end within {limit_s:.0f} s."
            return Check("warning", what, "The machine is slow or busy. Try `expo-lite train --model tiny` by itself.")
        if done.returncode != 0:
            last = (done.stderr.strip() or "nothing").splitlines()[-1]
            what = f"Training {STEPS} steps of the built-in model ended with code {done.returncode}: {last}"
            return Check("problem", what, "`expo-lite train --model tiny --steps 2 --debug` shows all of it.")
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
    what = (
        f"{len(rows)} steps of training took {took_s:.0f} s with the start: all {n_factors} LoRA B factors have moved"
    )
    return Check("ok", f"{what}, sampler and scorer agree ({apart:.0e} nats a token).")
