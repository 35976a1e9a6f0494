"""Paired runs: problems paired by hand, their intervals, and what `report` prints."""

import json
from pathlib import Path

import pytest
from made_run import make_run, write_evaluation

from expo_lite.commands import cli
from expo_lite.records import level_order
from expo_lite.results.figures import ProblemResult
from expo_lite.results.paired import Pairing, pair
from expo_lite.results.record import read_runs
from expo_lite.results.statistics import over_problems, pass_at_k


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def tries(*counts: int, n: int = 4) -> list[ProblemResult]:
    return [ProblemResult(f"p{i}", 1, count > 2, count, n) for i, count in enumerate(counts)]


def paired(first: list[ProblemResult], second: list[ProblemResult]) -> Pairing:
    pairing = pair("second minus first", first, second)
    assert pairing is not None
    return pairing


def test_problems_are_paired_by_their_names() -> None:
    changes = paired(tries(0, 1, 2), list(reversed(tries(3, 1)))).changes
    assert [(c.problem_id, c.first, c.second) for c in changes] == [("p0", 0, 3), ("p1", 1, 1)]
    assert pair("", tries(0), tries(0, n=8)) is None  # another number of samples: pass@k of it is another estimate


def test_differences_by_hand() -> None:
    pairing = paired(tries(0, 2), tries(1, 2))
    (row,) = pairing.levels
    # pass@1: 0 and 1/2, then 1/4 and 1/2; pass@4: 0 and 1, then 1 and 1
    assert (row.level, row.n_problems, row.first[1], row.second[1]) == ("1", 2, 0.25, 0.375)
    assert (row.first[4], row.second[4], row.difference[4].value) == (0.5, 1.0, 0.5)
    assert row.difference[1] == over_problems([0.25, 0.0], lowest=-1.0)
    assert pairing.ks == [1, 4]


def test_the_difference_turned_round_is_its_negative() -> None:
    first, second = tries(*range(5)), tries(4, 0, 2, 4, 1)
    (there,), (back,) = paired(first, second).levels, paired(second, first).levels
    assert there.difference[4].value == pytest.approx(-back.difference[4].value)
    (same,) = paired(first, first).levels
    assert same.difference[4].value == 0.0
    assert same.difference[4].low < 0 < same.difference[4].high  # five equal pairs are no proof of equality


def test_pairing_is_narrower_than_two_intervals() -> None:
    theirs = tries(*(4 if i % 2 else 0 for i in range(40)))
    (row,) = paired(theirs, tries(*(4 if i % 2 else 1 for i in range(40)))).levels
    alone = over_problems([1.0 if i % 2 else 0.25 for i in range(40)])
    assert row.difference[1].value == pytest.approx(0.125)
    assert row.difference[1].high - row.difference[1].low < 0.7 * (alone.high - alone.low)


def test_pass_at_k_is_the_evaluations_own(tmp_path: Path) -> None:
    (run,) = read_runs([make_run(tmp_path / "a")])
    last = run.evaluated[-1].evaluation
    rows = {row.level: row for row in paired(list(last.problems), list(last.problems)).levels}
    for result in last.levels:
        assert rows[result.level].first == pytest.approx({k: e.value for k, e in result.pass_at.items()})


def test_levels_are_in_order() -> None:
    results = [ProblemResult(str(level), level, False, 1, 4) for level in (10, 2, None)]
    assert [row.level for row in paired(results, results).levels] == ["2", "10", "all"]
    assert sorted(["all", "x", "2"], key=level_order) == ["2", "x", "all"]
    assert [row.level for row in paired(results[:1], results[:1]).levels] == ["10"]


def report(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.run(["report", *words]) == 0
    return capsys.readouterr().out


def test_report_prints_settings_differences_won_and_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", method="grpo")
    write_evaluation(a / "evaluation" / "step-000006.json", (3, 0, 4, 0))
    write_evaluation(b / "evaluation" / "step-000006.json", (0, 2, 4, 0))
    out = report(capsys, str(a), str(b))
    assert [line.split() for line in out.splitlines() if line.startswith(" method")] == [["method", "exp-grpo", "grpo"]]
    assert "b minus a (in training, after step 6): 4 problems" in out
    change = sum(pass_at_k(4, c, 1) for c in (0, 2, 4, 0)) / 4 - sum(pass_at_k(4, c, 1) for c in (3, 0, 4, 0)) / 4
    assert f"{100 * change:+.1f} (" in out
    assert "held/1, level 2: 0/4 to 2/4" in out and "held/0, level 1: 3/4 to 0/4" in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    found = json.loads(report(capsys, str(a), str(b), "--json"))
    (comparison,) = found["comparisons"]
    assert comparison["settings"] == {"method": ["exp-grpo", "grpo"], "explanation.exp_sft_coef": [0.04, None]}
    pairing = comparison["pairing"]
    assert pairing["levels"][-1]["difference"]["1"]["value"] == pytest.approx(change)
    assert [c["problem_id"] for part in ("won", "lost") for c in pairing[part]] == ["held/1", "held/0"]
    assert [run["label"] for run in found["runs"]] == ["a", "b"]
    assert found["page"] == str(tmp_path / "report.html")


def test_the_sentence_about_bold_stands_where_there_is_bold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (make_run(tmp_path / name) for name in "ab")
    write_evaluation(a / "evaluation" / "step-000006.json", (0,) * 30)
    write_evaluation(b / "evaluation" / "step-000006.json", (4,) * 30)
    assert "Percent; below" in (plain := report(capsys, str(a), str(b))) and "Bold" not in plain
    for form, bold in (("--markdown", "**+100.0 ("), ("--latex", r"\textbf{+100.0 (")):
        assert "Bold: not chance." in (out := report(capsys, str(a), str(b), form)) and bold in out
        assert "Bold" not in (out := report(capsys, str(a), str(a), form)) and bold not in out


def test_runs_that_were_asked_otherwise_are_not_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    about = json.loads((b / "config.json").read_text())
    about["settings"]["sampling"]["max_completion_tokens"] = 8
    (b / "config.json").write_text(json.dumps(about))
    for run in (a, b):
        write_evaluation(run / "evaluation" / "step-000006.json", (3, 0, 4, 0))
    (comparison,) = json.loads(report(capsys, str(a), str(b), "--json"))["comparisons"]
    assert comparison["pairing"] is None


def test_without_counts_there_is_no_pairing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for run in (a, b):
        write_evaluation(run / "evaluation" / "step-000006.json", (3, 0, 4, 0), counts=False)
        write_evaluation(run / "evaluation" / "step-000000.json", (0, 0, 2, 1), counts=False)
    out = report(capsys, str(a), str(b))
    assert "The settings are equal." in out
    assert "eval RUN --baseline RUN" in " ".join(out.split())
    assert json.loads(report(capsys, str(a), "--json"))["comparisons"] == []
