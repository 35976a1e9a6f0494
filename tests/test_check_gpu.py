"""examples/check_gpu.py, which a user with a GPU runs once: on the CPU here, and on a GPU where there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from expo_lite.settings.machine import has_gpu, is_installed
from expo_lite.settings.models import find_model

SCRIPT = Path(__file__).parent.parent / "examples" / "check_gpu.py"
Findings = dict[str, dict[str, tuple[str, str]]]
CHECKS = (
    "sampler against scorer, fresh adapter",
    "what is trained is what was sampled",
    "the adapter off is the base model",
    "sampler against scorer, after an update",
    "adapters are exchanged",
    "sampler against scorer, that adapter",
)


def run_script(folder: Path, model: str, tokens: int) -> tuple[str, Findings]:
    file = folder / "found.json"
    words = [str(SCRIPT), model, "--tokens", str(tokens), "--json", str(file)]
    wide = os.environ | {"COLUMNS": "200"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 0, done.stdout + done.stderr
    found: Findings = {}
    about = json.loads(file.read_text())
    assert about["model"] == model
    assert "torch" in about["machine"]
    for row in about["findings"]:
        found.setdefault(row["backend"], {})[row["what"]] = (row["status"], row["detail"])
    return done.stdout, found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs_on_the_cpu_and_says_what_it_skipped(tmp_path: Path) -> None:
    if has_gpu():
        pytest.skip("there is a GPU")
    out, found = run_script(tmp_path, "tiny", 8)
    ran = [name for name in found if name.startswith("hf") or is_installed("unsloth")]
    assert len(ran) >= 2
    for name in ran:
        assert [found[name][what][0] for what in CHECKS] == ["ok"] * len(CHECKS)
        assert "tokens/s" in found[name]["sampling"][1]
        assert "GiB" in found[name]["update"][1]
        assert "300 steps:" in found[name]["a step of training"][1]
    assert found["all"]["gradients are the same"][0] == "ok"
    for name in found.keys() - {"all", *ran}:
        assert found[name]["all"][0] == "skipped"
    assert len(ran) == 4 or "not installed" in out


@pytest.mark.gpu
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", ["tiny", "qwen2.5-0.5b"])
def test_all_checks_hold_on_the_gpu(model: str, tmp_path: Path) -> None:
    """Never run yet: no GPU was at hand."""
    source = find_model(model).source
    if not Path(source).exists() and not isinstance(try_to_load_from_cache(source, "config.json"), str):
        pytest.skip(f"{model} is not in the cache, and tests have no network")
    out, found = run_script(tmp_path, model, 64)
    assert "CPU" not in out.splitlines()[0]
    assert found["hf, own"]["sampler against scorer, after an update"][0] == "ok"
