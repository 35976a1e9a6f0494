"""What `doctor` can only see with torch: the GPU, weights in four bits, and two steps of training from end to end."""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from expo_lite.commands.checks import Check
from expo_lite.errors import ConfigError
from expo_lite.memory.parts import GIB
from expo_lite.policy.device import compute_type, describe, find_device
from expo_lite.policy.four_bits import BLOCK, MOST_ERROR, nf4_error, wrong_widths
from expo_lite.report.findings import lora_b_moved
from expo_lite.run.checkpoint import newest_whole
from expo_lite.settings.machine import driver_version, in_wsl

WHOLE_BLOCKS = (128, 2048)
ODD_WIDTHS = (80, 96, 112, 200, 400)
"""Inputs of layers that are no whole blocks, as few models have them."""
TRAINING_LIMIT_S = 30.0
STEPS = 2
TRAIN = (
    "train --model tiny --task hidden-rules --group-size 4 --problems-per-step 4 --max-completion-tokens 48 "
    f"--steps {STEPS} --method gt-sft-grpo --explain all --diagnostics-every 0 --eval-problems 0"
)
"""With expert chains for all problems, so that both steps have a gradient whatever is sampled."""
MOST_APART_NATS = 0.1


def gpu() -> Check:
    """The GPU with its memory and driver; one that torch cannot use is a problem."""
    try:
        device = find_device()
    except ConfigError as error:
        return Check("problem", "There is a GPU that cannot be used.", str(error))
    if device.type == "cpu":
        none = "CUDA_VISIBLE_DEVICES hides all GPUs" if "CUDA_VISIBLE_DEVICES" in os.environ else "No NVIDIA GPU"
        return Check("ok", f"{none}: on a CPU tiny trains in minutes, and models below 1B slowly.")
    free, total = (size / GIB for size in torch.cuda.mem_get_info())
    precision = str(compute_type(device)).removeprefix("torch.")
    what = f"{describe(device)}, {total:.1f} GiB, {free:.1f} GiB of it free, driver {driver_version()}, {precision}"
    what += ", lent by Windows (WSL2)" if in_wsl() else ""
    if free < total / 2:
        return Check("warning", f"{what}.", "Another program holds much of its memory; nvidia-smi shows which.")
    return Check("ok", f"{what}.")


def four_bits() -> Check:
    """Whether weights come back from NF4 as near as they should."""
    try:
        device = find_device()
    except ConfigError:
        device = torch.device("cpu")
    library = f"bitsandbytes {version('bitsandbytes')}"
    worst = max(nf4_error(width, device) for width in WHOLE_BLOCKS)
    if not worst <= MOST_ERROR:
        what = f"{library} reads 4-bit weights back with an error of {worst:.0%}, where 9% is right."
        return Check("problem", what, "Train with --bits 16, or install another bitsandbytes.")
    if wrong := wrong_widths(ODD_WIDTHS, device):
        what = (
            f"{library} reads 4-bit weights back wrongly here where a layer's inputs are {', '.join(map(str, wrong))} "
            f"(an error of {max(wrong.values()):.0%}, where 9% is right); multiples of {BLOCK} are right."
        )
        return Check("warning", what, "Models with such layers are refused in 4 bits; they need --bits 16.")
    return Check("ok", f"{library} reads 4-bit weights back rightly (error {worst:.1%}).")


def training(limit_s: float = TRAINING_LIMIT_S) -> Check:
    """Two steps of the built-in model in a process of their own, so that a crash or a hang is seen as what it is."""
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
            said = (done.stderr.strip() or "nothing").splitlines()[-1]
            what = f"Training {STEPS} steps of the built-in model ended with code {done.returncode}: {said}"
            return Check("problem", what, "`expo-lite train --model tiny --steps 2 --debug` shows all of it.")
        return judge(run, time.monotonic() - started)


def judge(run: Path, took_s: float) -> Check:
    """Whether the adapter has moved, and sampler and scorer agree, in the folder of a short run."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    newest, _ = newest_whole(run / "checkpoints")
    moved = lora_b_moved(newest) if newest else None
    if moved is None or moved[0] < moved[1]:
        some, all_of_them = moved or (0, 0)
        what = f"After {len(rows)} steps {some} of {all_of_them} LoRA B factors have moved."
        return Check("problem", what, "Please report it, with the output of `expo-lite doctor`.")
    apart = max((row.get("sampling/logp_difference/mean", 0.0) for row in rows), default=0.0)
    if apart > MOST_APART_NATS:
        what = f"Sampler and scorer are {apart:.2f} nats a token apart in a short run."
        return Check("problem", what, "Take another --sampler or --backend, and please report it.")
    what = f"{len(rows)} steps of training took {took_s:.0f} s with the start: all {moved[1]} LoRA B factors have moved"
    return Check("ok", f"{what}, sampler and scorer agree ({apart:.0e} nats a token).")
