"""A long run is diagnosed before its first step, once, and learns the same as without."""

import json
from pathlib import Path
from typing import Any

import pytest

from expo_lite.commands.cli import run
from expo_lite.measure import diagnose
from expo_lite.measure.diagnose import Diagnosis, Subject, measure

pytestmark = pytest.mark.usefixtures("unchecked")


def test_the_verdict_on_the_run_s_own_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnose, "LONG", 2)  # or the test would take a minute
    asked: list[Subject] = []

    def measuring(subject: Subject, *more: Any) -> Diagnosis:
        asked.append(subject)
        return measure(subject, *more)

    monkeypatch.setattr(diagnose, "measure", measuring)
    words = ["train", "--model", "tiny", "--levels", "1", "5", "--eval-problems", "0", "--group-size", "4"]
    words += ["--problems-per-step", "2", "--diagnostics-every", "0", "--max-completion-tokens", "48"]
    looked = [
        *words,
        "--steps",
        "2",
        "--diagnose-first",
        "3",
        "--max-reliance",
        "5",
        "--output",
        str(tmp_path / "looked"),
    ]
    assert run(looked) == 0
    out = capsys.readouterr().out
    assert "diagnosing 6 of the problems to train on" in out
    assert "level 5: " in out
    kept = json.loads((tmp_path / "looked" / "diagnosis.json").read_text())
    assert kept["verdict"].startswith("Verdict: ")
    assert kept["verdict"] in " ".join(out.split())
    assert [level["n_problems"] for level in kept["levels"] if level["level"] != "all"] == [3, 3]

    (subject,) = asked
    assert (subject.explaining.max_reliance, subject.explaining.explanations_per_problem) == (
        5.0,
        1,
    )  # as the run has it

    assert run([*looked, "--resume"]) == 0
    assert "diagnosing" not in capsys.readouterr().out
    for others in (["--diagnose-first", "0"], ["--method", "grpo"], ["--steps", "1"]):  # the last is too short
        folder = tmp_path / "-".join(others)
        assert run([*words, "--steps", "2", *others, "--output", str(folder)]) == 0
        assert "diagnosing" not in capsys.readouterr().out
        assert not (folder / "diagnosis.json").exists()
    samples = [(tmp_path / name / "samples.jsonl").read_bytes() for name in ("looked", "--diagnose-first-0")]
    assert samples[0] == samples[1]
