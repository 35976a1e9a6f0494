"""The worked example of CONTRIBUTING.md runs as it is printed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from expo_lite.records import Completion, FinishReason, Group, Problem, Verdict
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.methods import METHOD_ROWS, Chain, Experience

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_add_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = TEXT.split("## Add a method", 1)[1].split("\n## ", 1)[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    before = dict(METHOD_ROWS)
    names: dict[str, Any] = {}
    try:
        exec(compile(found[1], "CONTRIBUTING.md", "exec"), names)  # noqa: S102 (our own text)
    finally:
        METHOD_ROWS.clear()
        METHOD_ROWS.update(before)
    (folder,) = (tmp_path / "runs").iterdir()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    # on level 5 every group of the tiny model is wrong: what it learns from is what was inserted
    assert all(row["frac_all_wrong"] == 1 for row in rows)
    assert sum(row["update/n_rows"] for row in rows) >= 5
    assert all(row["grad_norm"] > 0 for row in rows if row["update/n_rows"])

    wrong = tuple(Completion((1, 2), (3,), (0.0,), "", FinishReason.STOP) for _ in range(3))
    group = Group(Problem("p", "q", "1"), wrong, (Verdict(False, "", ""),) * 3)
    config = resolve(TrainConfig(model="tiny"))
    got = names["insertion_rows"](Experience((group,), (Chain((1, 2), (4, 5)),), 0.0), config)
    # rewards 0, 0, 0, 1: mean 1/4, deviation 1/2
    assert [row.advantage for row in got] == pytest.approx([-0.5, -0.5, -0.5, 1.5], abs=1e-3)
    assert [row.weight for row in got] == pytest.approx([1 / 4, 1 / 4, 1 / 4, 1 / 8])
