"""The parts of a report that come from run folders: labels, differing settings, curves, figures, the overview."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_run import make_run, write_evaluation

from expo_lite.errors import CheckpointError
from expo_lite.report import curves
from expo_lite.report.curves import binned, chart, points_of, running_mean, sections
from expo_lite.report.overview import (
    level_name,
    measurements,
    names_of,
    over_training,
    picture,
    sentence,
    tiles,
)
from expo_lite.results.record import RunRecord, differing, labels, read_runs
from expo_lite.run.dashboard import duration
from expo_lite.run.folder import write_json
from expo_lite.settings.metrics import METRICS, Metric, Panel, described, percent


def run_of(*rows: dict[str, float], label: str = "r") -> RunRecord:
    return RunRecord(label, Path(label), {}, {}, [{"step": i, **row} for i, row in enumerate(rows, 1)], [], [], [])


def test_labels_are_as_short_as_they_can_be() -> None:
    assert labels([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert labels([Path("x/run"), Path("y/run")]) == ["x/run", "y/run"]
    assert labels([Path("x/run"), Path("x/run")]) == ["run (1)", "run (2)"]


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    (run,) = read_runs([make_run(tmp_path / "a", steps=3)])
    assert (run.label, run.steps) == ("a", 3)
    assert len(run.samples) == 3 * 3 * 5  # 3 steps, 3 problems, 4 rollouts and 1 explanation
    assert run.settings["method"] == "exp-grpo"
    assert run.settings["evaluation.eval_samples"] == 16
    assert "output" not in run.settings
    assert run.made_with["device"] == "cpu: 1 threads"
    assert [e.step for e in run.evaluated] == [0, 3]
    problem = run.evaluated[1].evaluation.problems[0]
    assert (problem.problem_id, problem.level, problem.n_correct, problem.n) == ("held/0", 1, 3, 4)


def test_samples_of_evaluations_are_read_where_they_are_kept(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", steps=2)
    kept = folder / "evaluation" / "step-000002-hidden-rules-test-seed0"
    kept.mkdir()
    row = {"kind": "greedy", "problem_id": "held/0", "sample": 0, "level": 1, "prompt": "?"}
    row |= {"completion": "!", "gold": "2"}
    (kept / "samples.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"kind": "sample"}) + "\n")
    write_json(kept / "config.json", {"settings": {"task": "hidden-rules", "split": "test"}})
    for name, about in (("train", {"split": "train"}), ("gsm8k-test", {"task": "gsm8k", "split": "test"})):
        other = kept.with_name(f"step-000002-{name}-seed0")
        shutil.copytree(kept, other)
        write_json(other / "config.json", {"settings": about})
    (run,) = read_runs([folder])
    assert [(row["step"], row["kind"]) for row in run.held_out] == [(2, "held-out greedy"), (2, "held-out")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", '{"settings": {"task": "hidden-rules"}}', "is not the config.json of a run"),
        ("metrics.jsonl", "{\n", "line 1 is damaged"),
        ("evaluation/step-000000.json", '{"levels": 1}', "damaged"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    file = make_run(tmp_path / "a", steps=1) / name
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_runs([tmp_path / "a"])


def test_settings_that_differ(tmp_path: Path) -> None:
    a, b = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", method="grpo", seed=1)])
    coefficient = ("explanation.exp_sft_coef", [0.04, None])
    assert differing([a, b]) == [("method", ["exp-grpo", "grpo"]), ("seed", [0, 1]), coefficient]
    assert differing([a, replace(a, made_with=a.made_with | {"device": "cuda"})]) == [
        ("device", ["cpu: 1 threads", "cuda"])
    ]
    assert differing([a, a]) == []


def test_a_reason_that_is_not_there_is_none_of_them() -> None:
    run = run_of({"reward": 0.0, "verdicts/equal": 0.5}, {"reward": 0.0}, {"loss": 1.0})
    assert points_of(run.metrics, "verdicts/equal", "reward") == [(1.0, 0.5), (2.0, 0.0)]  # step 3 sampled nothing
    assert points_of(run.metrics, "verdicts/other", "reward") == []


def test_long_curves_are_means_by_hand() -> None:
    assert binned([(1.0, 2.0), (2.0, 4.0), (3.0, 9.0)], 2) == [(1.5, 3.0), (3.0, 9.0)]
    points = [(float(i), float(y)) for i, y in enumerate([0, 3, 6, 0, 0])]
    assert running_mean(points) == [(0.0, 0.0), (1.0, 3.0), (2.0, 3.0), (3.0, 2.0), (4.0, 0.0)]


def test_a_chart_has_at_most_so_many_points() -> None:
    run = run_of(*({"loss": 1.0} for _ in range(2 * curves.MOST_POINTS + 1)))
    drawn = chart(Panel("Loss", "", "", (Metric("loss", "loss"),)), [run])
    assert drawn.each == 3
    assert len(drawn.series[0].points) == 201  # 601 steps by threes
    assert len(drawn.series[0].means) == 201


def test_panels_without_a_metric_are_left_out() -> None:
    found = dict(sections([run_of({"reward": 0.5, "verdicts/equal": 1.0, "new/metric": 2.0})]))
    assert [c.title for c in found["Learning"]] == ["Reward"]
    assert [c.title for c in found["Completions"]] == ["Verdicts"]
    assert [c.title for c in found["Other metrics"]] == ["new/metric"]
    assert set(found) == {"Learning", "Completions", "Other metrics"}


def test_every_metric_of_a_run_is_drawn_once(tmp_path: Path) -> None:
    (run,) = read_runs([make_run(tmp_path / "a")])
    lines = [series.label for _, charts in sections([run]) for c in charts for series in c.series]
    assert len(lines) == len({name for row in run.metrics for name in row} - {"step"})


def test_runs_are_drawn_over_one_another() -> None:
    panel = Panel(
        "Groups", "", "share", (Metric("frac_mixed", "mixed"), Metric("frac_all_wrong", "all wrong")), stacked=True
    )
    both = [run_of({"frac_mixed": 0.5, "frac_all_wrong": 0.5}, label=name) for name in "ab"]
    assert [s.label for s in chart(panel, both).series] == ["a: mixed", "a: all wrong", "b: mixed", "b: all wrong"]
    assert [(s.run, s.place) for s in chart(panel, both).series] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert not chart(panel, both).stacked
    assert chart(panel, both[:1]).stacked


def test_before_and_after(tmp_path: Path) -> None:
    (run,) = read_runs([make_run(tmp_path / "a")])
    measured = measurements([run])
    assert [m.label for m in measured] == ["before", "after step 6"]
    assert names_of(measured) == ["greedy", "pass@1", "pass@4"]
    drawn = picture(measured)
    assert drawn["levels"] == ["1", "2", "all"]
    # level 1: problems 0 and 2; of 4 samples 0 and 2 right, then 3 and 4
    assert [value[0] for value in drawn["series"][0]["values"]["pass@1"]] == [25.0, 12.5, 18.75]
    assert [value[0] for value in drawn["series"][1]["values"]["pass@1"]] == [87.5, 0.0, 43.75]
    assert all(low <= value <= high for series in drawn["series"] for value, low, high in series["values"]["pass@4"])


def test_runs_from_the_same_figures_share_them(tmp_path: Path) -> None:
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", method="grpo")])
    assert [m.label for m in measurements(runs)] == ["before", "a, after step 6", "b, after step 6"]
    write_evaluation(tmp_path / "b" / "evaluation" / "step-000000.json", (4, 4))
    runs = read_runs([tmp_path / "a", tmp_path / "b"])
    assert [m.label for m in measurements(runs)] == ["a, before", "a, after step 6", "b, before", "b, after step 6"]


def test_evaluations_on_the_way_are_curves(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    (run,) = read_runs([folder])
    assert over_training([run]) == []
    write_evaluation(folder / "evaluation" / "step-000003.json", (4, 0, 0, 0))
    (run,) = read_runs([folder])
    charts = over_training([run])
    assert [c.title for c in charts] == ["pass@1, level 1", "pass@1, level 2", "pass@1, all problems"]
    assert charts[0].series[0].points == [(0.0, 0.25), (3.0, 0.5), (6.0, 0.875)]


def test_the_overview_says_first_and_last(tmp_path: Path) -> None:
    (run,) = read_runs([make_run(tmp_path / "a", steps=20)])
    assert sentence(run) == "tiny by exp-grpo on hidden-rules; 20 steps, seed 0."
    shown = {tile.name: tile for tile in tiles(run)}
    # level 2: problems 1 and 3; one of eight samples right, then none
    assert (shown["pass@1, level 2"].before, shown["pass@1, level 2"].after) == ("12%", "0%")
    assert shown["Training time"].after == "40 s"


def test_words() -> None:
    assert [duration(s) for s in (99, 100, 11_100)] == ["99 s", "2 min", "3 h 05 min"]
    assert [percent(x) for x in (0.0, 0.0156, 0.0994, 0.0996, 1.0)] == ["0%", "1.6%", "9.9%", "10%", "100%"]
    row = {"reward": 0.25, "kl": 0.01234, "sampling/tokens_per_s": 12345.6, "peak_memory_gib": 1.26, "grad_norm": None}
    assert described(row, METRICS) == [
        "reward 25%",
        "KL a token 0.0123 nats",
        "sampling 12,346 tokens/s",
        "peak memory 1.3 GiB",
    ]
    assert [level_name(x) for x in ("3", "all", "hard")] == ["level 3", "all problems", "hard"]
