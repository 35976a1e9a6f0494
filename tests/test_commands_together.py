"""By the command line on the tiny model: find unsolved problems, train on them, measure against the base."""

import json
from pathlib import Path

import pytest

from expo_lite.commands.cli import run

MODEL = "tiny"


def test_unsolved_then_train_then_eval_against_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained, file = tmp_path / "run", tmp_path / "hard.jsonl"
    words = ["eval", MODEL, "--samples", "2", "--levels", "5", "--problems", "40", "--write-unsolved", str(file)]
    assert run([*words, "--output", str(tmp_path / "eval")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "task 'hidden-rules' judges replies itself" in said and "train on them" not in said
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert 10 <= len(found) <= 40  # level 5 is out of reach of the model as it is

    # with words for levels, which go all the way
    rows = [{**row, "level": ("harder", "hardest")[i % 2]} for i, row in enumerate(found)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "--model", MODEL, "--task", f"jsonl:{file}", "--steps", "2", "--group-size", "4"]
    words += ["--problems-per-step", "2", "--eval-problems", "1", "--eval-samples", "2", "--levels"]
    assert run([*words, "hardest", "--output", str(trained)]) == 0
    metrics = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert "reward/level/hardest" in metrics
    assert run([*words, "hardest", "harder", "--output", str(tmp_path / "both")]) == 0
    assert run(["doctor", str(trained)]) == 0
    capsys.readouterr()
    assert run(["report", str(trained), str(tmp_path / "both"), "--output", str(tmp_path / "report.html")]) == 0
    assert "hardest" in (tmp_path / "report.html").read_text()
    compared = capsys.readouterr().out
    assert compared.rindex("harder") < compared.rindex("hardest")

    # task and model come from the run
    assert run(["eval", str(trained), "--baseline", MODEL, "--samples", "4"]) == 0
    output = trained / "evaluation" / f"step-000002-jsonl-{file.stem}-test-seed0"
    results = json.loads((output / "evaluation.json").read_text())
    held_out = results["evaluation"]["levels"][-1]["n_problems"]
    assert 0 < held_out < len(found) / 2
    assert [row["level"] for row in results["evaluation"]["levels"]][:1] == ["hardest"]
    for folder in (output, output / "baseline"):
        assert len((folder / "samples.jsonl").read_bytes().split(b"\n")) - 1 == held_out * 5
    ours, theirs = (results[part]["levels"][-1]["avg"]["value"] for part in ("evaluation", "baseline"))
    assert results["differences"][-1]["difference"]["1"]["value"] == pytest.approx(ours - theirs)
    assert "minus tiny" in capsys.readouterr().out
    assert run(["eval", str(trained), "--baseline", MODEL, "--samples", "4"]) == 1  # nothing is overwritten
