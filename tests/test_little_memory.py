"""Commands with little memory to spare: what is planned or halved fits, or one line says what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMITED = """
import resource, sys
import torch
from expo_lite.commands import cli
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
room = held + (int(sys.argv[1]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
sys.exit(cli.run(sys.argv[2:]))
"""
FEW = ["--levels", "5", "--problems", "8"]
COMMANDS = {
    "train": ["train", "--model", "tiny", "--steps", "2", "--eval-problems", "4", "--eval-samples", "4"],
    "eval": ["eval", "tiny", "--samples", "8", *FEW],
    "diagnose": ["diagnose", "--model", "tiny", *FEW],
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are set as Linux has them")
@pytest.mark.parametrize("command", COMMANDS)
def test_little_memory_ends_well_or_in_one_line(command: str, tmp_path: Path) -> None:
    codes = []
    for room_mib in (1_000, 4_000):
        words = [*COMMANDS[command], "--output", str(tmp_path / str(room_mib))]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(room_mib), *words],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        lines = [line for line in done.stderr.splitlines() if line]
        assert "Traceback" not in done.stderr, (room_mib, lines[-3:])
        assert done.returncode in (0, 1), (room_mib, lines[-3:])
        if done.returncode:
            assert lines[-1].startswith("error: "), (room_mib, lines[-3:])
        codes.append(done.returncode)
    assert codes[-1] == 0
    assert codes == sorted(codes, reverse=True)  # more memory never does worse
