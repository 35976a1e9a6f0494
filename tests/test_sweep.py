"""A plan is read and checked; its runs are shared, resumed and compared."""

import json
import os
import queue
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from expo_lite.commands.cli import run
from expo_lite.commands.sweep import evaluate_base
from expo_lite.errors import ConfigError
from expo_lite.memory import limits
from expo_lite.memory.plan import GIB
from expo_lite.memory.shapes import find_shape
from expo_lite.results.figures import Evaluation
from expo_lite.results.statistics import over_seeds_and_problems, pass_at_k
from expo_lite.settings import machine
from expo_lite.settings.groups import HeldOutConfig, RolloutConfig
from expo_lite.settings.measuring import DiagnoseConfig
from expo_lite.settings.plans import ReplicateConfig, RunsConfig
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.sweep import run as sweep_run
from expo_lite.sweep.claims import CLAIMS
from expo_lite.sweep.plan import PRESETS, REPLICATE, SweepPlan, keep_plan, read_plan
from expo_lite.sweep.report import over_seeds_of
from expo_lite.sweep.results import RunResult

SMALL = """
seeds = [0]
diagnose_problems = 2
[common]
steps = 2
group_size = 2
problems_per_step = 2
diagnostics_every = 0
[common.evaluation]
eval_problems = 2
eval_samples = 4
[runs.grpo-hard]
method = "grpo"
[runs.formula-hard]
method = "exp-grpo"
"""
SHIPPED = Path(REPLICATE)
EXAMPLES = sorted(str(file) for file in (Path(__file__).parent.parent / "examples").glob("*.toml"))


@pytest.mark.parametrize("quick", [False, True])
def test_the_plan_of_replicate(quick: bool) -> None:
    plan = read_plan(SHIPPED, ReplicateConfig(model="tiny", quick=quick))
    assert plan.seeds == ((0,) if quick else (0, 1, 2, 3, 4))
    configs = {name: plan.config(name, 1) for name in plan.runs}
    assert {config.steps for config in configs.values()} == ({40} if quick else {200})
    # one rate a family, the default
    assert len({config.optimizer.learning_rate for name, config in configs.items() if not name.startswith("dpo")}) == 1
    assert len({config.optimizer.learning_rate for name, config in configs.items() if name.startswith("dpo")}) == 1
    hard = ("grpo-hard", "formula-hard")
    assert {name: config.levels for name, config in configs.items() if config.levels} == dict.fromkeys(hard, (5,))
    assert configs["formula-0.5"].explanation.exp_sft_coef == 0.5
    # eight completions and an explanation, or nine completions
    assert configs["grpo-equal-tokens"].group_size == configs["formula"].group_size + 1
    # two runs of a pair differ in nothing else
    offline, expert = configs["dpo-offline"], configs["dpo-offline-expert"]
    assert replace(expert, output=offline.output, dpo=replace(expert.dpo, chosen="explanation")) == offline
    online = configs["dpo-online"]
    assert replace(offline, output=online.output, dpo=replace(offline.dpo, pairs="online")) == online
    assert configs["grpo-hard"].output.name == "grpo-hard-seed1"


@pytest.mark.parametrize("plan", [*PRESETS, *EXAMPLES], ids=lambda plan: Path(plan).stem)
def test_every_plan_can_be_read_and_controls_differ_alone(
    plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = "jsonl:problems.jsonl" if Path(plan).stem in ("qwen", "pretrained") else None
    for quick in (False, True):
        read = read_plan(Path(plan), RunsConfig(model="tiny", task=task, quick=quick))
        assert len(read.runs) > 1
        configs = {name: read.config(name, 0) for name in read.runs}
        if ours := configs.get("exp-grpo"):  # one name has one meaning: as `train` comes
            usual = resolve(TrainConfig(model="tiny")).explanation
            assert replace(ours.explanation, explanations_per_problem=1) == usual
        if wrong := configs.get("wrong-answer"):
            told = {"explain_with": "wrong-answer", "explanation_filter": ("none",)}
            ours = configs.get("exp-grpo") or configs["explanation"]
            explanation = replace(ours.explanation, **told)  # type: ignore[arg-type]
            assert replace(ours, output=wrong.output, explanation=explanation) == wrong


def test_the_plan_of_the_first_command() -> None:
    """Its first run is what `train --model tiny` does, but for what is measured."""
    plan = read_plan(Path(__file__).parent.parent / "examples" / "first_command.toml", RunsConfig(model="tiny"))
    ours, usual = plan.config("as-it-comes", 0), resolve(TrainConfig(model="tiny"))
    same = {"output": ours.output, "evaluation": ours.evaluation, "diagnostics_every": 0, "resume": True}
    assert replace(usual, **same) == replace(ours, diagnose_first=usual.diagnose_first)  # type: ignore[arg-type]


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(
        """
        seeds = [3, 1]
        [common]
        steps = 7
        optimizer.warmup_steps = 2
        [runs.a]
        [runs.b]
        method = "grpo"
        [grid]
        levels = [[5], [4, 5]]
        optimizer.learning_rate = [1e-3, 2e-3]
        """
    )
    plan = read_plan(file, RunsConfig(model="tiny"))
    assert list(plan.runs) == [
        f"{name}-levels={levels}-learning_rate={rate}"
        for name in "ab"
        for levels in ("5", "4+5")
        for rate in ("0.001", "0.002")
    ]
    config = plan.config("b-levels=4+5-learning_rate=0.002", 1)
    assert (config.method, config.levels, config.optimizer.learning_rate) == ("grpo", (4, 5), 0.002)
    assert (config.steps, config.optimizer.warmup_steps) == (7, 2)
    assert [config.seed for config in plan.configs()] == [3] * 8 + [1] * 8


def test_a_plan_starts_from_one_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "seeds = [7]\ncommon.steps = 9\nruns.prefix.sampling.temperature = 0.5\nruns.new.method = 'grpo'"
    (tmp_path / "plan.toml").write_text(f"base = 'remedies'\n{own}")
    (tmp_path / "remedies").mkdir()  # a folder of a plan's name does not hide it
    monkeypatch.chdir(tmp_path)
    ours, theirs = (read_plan(Path(plan), RunsConfig(model="tiny")) for plan in (tmp_path / "plan.toml", "remedies"))
    assert list(ours.runs) == [*theirs.runs, "new"]
    assert (ours.seeds, ours.against) == ((7,), theirs.against)
    for name, its in theirs.runs.items():
        sampling = replace(its.sampling, temperature=0.5) if name == "prefix" else its.sampling
        assert ours.runs[name] == replace(its, steps=9, sampling=sampling)


@pytest.mark.parametrize(
    "grid",
    [
        "policy.bits = [4, 16]",
        "policy.thinking = ['on', 'off']",
        "policy.chat_template = ['plain', 'a.jinja']",
        "evaluation.eval_samples = [16, 32]",
        "seed = [1, 2]",
    ],
)
def test_runs_that_start_or_are_measured_otherwise_are_refused(grid: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(f"seeds = [0]\n[grid]\n{grid}")
    with pytest.raises(ConfigError, match=r"make two plans|not the plan's"):
        read_plan(file, RunsConfig(model="tiny"))


def test_a_base_is_diagnosed_as_its_runs_are_loaded(tmp_path: Path) -> None:
    own = "policy = { thinking = 'on', chat_template = 'plain', backend = 'hf', sampler = 'native', bits = 16 }"
    text = SMALL.replace("steps = 2", f"steps = 2\nsampling.temperature = 0.6\n{own}")
    (tmp_path / "plan.toml").write_text(text)
    plan = read_plan(tmp_path / "plan.toml", RunsConfig(model="tiny", output=tmp_path))
    said: list[DiagnoseConfig] = []
    work = sweep_run.Work(lambda n: None, lambda *_: None, said.append, lambda *_: None)
    sweep_run.jobs_of(plan, work)[1].work()
    (asked,) = said
    assert (asked.thinking, asked.chat_template, asked.temperature) == ("on", Path("plain"), 0.6)
    assert (asked.backend, asked.sampler, asked.bits) == ("hf", "native", 16)


def test_a_base_is_evaluated_with_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card where a run's plan is native with few rows, the evaluation that comes before it is no other."""
    monkeypatch.setattr(limits, "free_gpu_bytes", lambda: 8 * GIB)
    monkeypatch.setattr(limits, "find_shape", lambda *_: find_shape("qwen2.5-3b"))
    monkeypatch.setattr(limits, "ram_bytes", lambda: 8 * GIB)
    config = resolve(
        TrainConfig(
            model="tiny",
            output=tmp_path / "run",
            evaluation=HeldOutConfig(eval_problems=1, eval_samples=1),
            sampling=RolloutConfig(max_completion_tokens=16),
        )
    )
    planned, _ = limits.fitted(config)
    used: list[int] = []

    def evaluate(policy: Any, *_: Any, limits: Any, **__: Any) -> Evaluation:
        used.append(limits.sampling_rows)
        assert policy._sampler == "native"
        return Evaluation((), 0.7)

    monkeypatch.setattr("expo_lite.measure.evaluate.evaluate", evaluate)
    evaluate_base(config, tmp_path / "base.json")
    assert used == [planned.sampling.sampling_rows]
    assert planned.policy.sampler == "native"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seedz = [0]",
            "unknown setting 'seedz'. A plan has base, seeds, diagnose_problems, common, runs, grid, quick, against; ",
        ),
        ("methods = ['grpo']", "those of `train` go in [common] or [runs.NAME]."),
        ("seeds = [0]\n[quick]\nstep = 3", "quick: unknown setting 'step'."),
        ("seeds = []\n[runs.a]", "a plan has seeds"),
        ("seeds = [1, 1]\n[runs.a]", "they differ, not '1, 1'"),
        ("seeds = [0]", "at least one run under [runs.NAME], or a [grid]"),
        ("seeds = [0]\nruns.a = 3", "runs must be an object"),
        ("seeds = [0]\n[grid]\nsteps = 3", "grid.steps must be a list"),
        ("seeds = [0]\n[grid]\nstep = [3]", "unknown setting 'step'. Did you mean 'steps'?"),
        ("seeds = [0]\n[runs.a]\nmethod = 'ppo'", "runs.a: method must be 'grpo'"),
        (
            "seeds = [0]\nruns.a = { method = 'grpo', explanation.exp_sft_coef = 1.0 }",
            "exp_sft_coef set, but of no use",
        ),
        (
            "seeds = [0]\nruns.a.method = 'grpo'\n[grid]\nexplanation.exp_sft_coef = [1.0]",
            "exp_sft_coef set, but of no use",
        ),
        ("seeds = [0]\n[runs.a]\nseed = 3", "runs.a: 'seed' is not the plan's"),
        ("seeds = [0]\n[runs.a]\nevaluation.eval_problems = 0", "give evaluation.eval_problems above 0"),
        ("base = 'remedy'\nseeds = [0]", "base must be a plan of the package: ablate-coef"),
        ("seeds = [0]\n[grid]\n'loss.kl_coef' = [0.0]", "write grid.loss.kl_coef without quotes"),
        ("seeds = [0]\n[runs.base]", "runs.base: the name of a run is not 'base'"),
        ("seeds = [0]\n[runs.'../a']", "runs.../a: the name of a run"),
        ("seeds = [0]\nagainst = ['grop']\n[runs.grpo]", "no run of the plan. Did you mean 'grpo'?"),
    ],
)
def test_a_wrong_plan_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_plan(tmp_path / "plan.toml", RunsConfig(model="tiny"))
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"one of .*replicate\. Did you mean 'ablate-gate'\?"):
        read_plan(Path("ablate-gates"), RunsConfig())


def modified(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.json")}


def test_finished_runs_stay_and_broken_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.toml").write_text(SMALL)
    folder = tmp_path / "out"
    words = ["replicate", "--model", "tiny", "--plan", str(tmp_path / "plan.toml"), "--output", str(folder)]
    assert run([*words, "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    results: dict[str, Any] = json.loads((folder / "replication.json").read_text())
    verdicts = {row["number"]: row["verdict"] for row in results["claims"]}
    assert verdicts[1] != "holds"  # two steps teach nothing
    assert verdicts[2] == "not measured"
    assert "not measured" in out
    assert "With one seed the intervals carry problems only" in " ".join(out.split())
    assert all(statement in (folder / "replication.md").read_text() for statement, _, _ in CLAIMS)
    assert results["runs"]["formula-hard"]["num_tokens"]["value"] > results["runs"]["grpo-hard"]["num_tokens"]["value"]
    base = (folder / "base-evaluation.json").read_bytes()
    for name in ("grpo-hard", "formula-hard"):
        own = folder / "runs" / f"{name}-seed0"
        assert (own / "evaluation" / "step-000000.json").read_bytes() == base
        assert (own / "chat_template.jinja").exists()  # a run of a sweep keeps what any other keeps
        assert {"prompts", "update_keeps"} <= set(json.loads((own / "config.json").read_text()))

    assert run(words) == 1  # nothing is overwritten
    before = modified(folder)
    broken = folder / "runs" / "grpo-hard-seed0"
    (broken / "evaluation" / "step-000002.json").unlink()
    adapter = (broken / "checkpoints" / "step-000002" / "adapter_model.safetensors").read_bytes()
    assert run([*words, "--resume", "--jobs", "1"]) == 0
    after = modified(folder)
    changed = {name for name in before if before[name] != after[name]}
    # the broken run was evaluated anew from its checkpoint; nothing else was touched
    assert changed == {"plan.json", "replication.json", "runs/grpo-hard-seed0/evaluation/step-000002.json"}
    assert (broken / "checkpoints" / "step-000002" / "adapter_model.safetensors").read_bytes() == adapter
    assert json.loads((folder / "replication.json").read_text()) == results

    (tmp_path / "plan.toml").write_text(SMALL.replace("group_size = 2", "group_size = 3"))
    capsys.readouterr()
    assert run([*words, "--resume"]) == 2
    assert "has other settings than the plan" in capsys.readouterr().err


def test_another_plan_does_not_take_over_a_folder_without_runs(tmp_path: Path) -> None:
    def plan(text: str = SMALL, model: str = "tiny") -> SweepPlan:
        (tmp_path / "plan.toml").write_text(text)
        return read_plan(tmp_path / "plan.toml", RunsConfig(model=model, output=tmp_path))

    keep_plan(plan())
    keep_plan(plan(SMALL.replace("seeds = [0]", "seeds = [0, 1]")))
    with pytest.raises(ConfigError, match=r"other settings: diagnose_problems \(2 there, 3 given\)"):
        keep_plan(plan(SMALL.replace("diagnose_problems = 2", "diagnose_problems = 3")))
    with pytest.raises(ConfigError, match=r"other settings: model \(tiny there, smollm2-135m given\)"):
        keep_plan(plan(model="smollm2-135m"))


def test_an_error_that_nobody_foresaw_is_the_failure_of_its_job_alone(tmp_path: Path) -> None:
    def divide() -> None:
        divmod(1, 0)

    failure = sweep_run.Job("a", tmp_path / "a", tmp_path / "logs" / "a.txt", divide).carry_out()
    assert failure is not None
    assert failure.startswith("ZeroDivisionError: ") and "test_sweep.py" in failure
    (tmp_path / "full").touch()
    failure = sweep_run.Job("a", tmp_path / "a", tmp_path / "full" / "a.txt", divide).carry_out()
    assert failure is not None and failure.startswith("FileExistsError: ")


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ["0", "1"]), ("2,3", ["2", "3"]), (" 3 , 1", ["3", "1"]), ("GPU-8932,MIG-d8f9", ["GPU-8932", "MIG-d8f9"])],
)
def test_processes_share_the_gpus_that_the_user_has_chosen(
    visible: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(machine, "ask_driver", lambda what: ["0", "1"])
    assert machine.gpu_names() == names
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    assert machine.gpu_names() == []
    waiting: Any = queue.Queue()
    started: list[int] = []
    monkeypatch.setattr(sweep_run, "_end_with_parent", lambda: None)
    for name in names:
        waiting.put(name)
        sweep_run._start(started.append, 3, waiting)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == name
    assert started == [3] * len(names)


def test_the_process_that_hands_out_the_jobs_needs_no_torch() -> None:
    code = "import sys, expo_lite.sweep.run, expo_lite.sweep.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SWEEP = """
seeds = [0, 1]
[common]
steps = 2
group_size = 2
problems_per_step = 2
diagnostics_every = 0
evaluation = { eval_problems = 2, eval_samples = 2 }
[grid.explanation]
exp_sft_coef = [0.0, 0.04]
"""


def test_on_a_ray_cluster_with_a_worker_killed(tmp_path: Path) -> None:
    """Two by two runs; the first process that trains is killed once, and its run is finished by another."""
    pytest.importorskip("ray")
    (tmp_path / "plan.toml").write_text(SWEEP.replace("steps = 2", "steps = 12\nsave_every = 2"))
    folder = tmp_path / "out"
    words = ["sweep", str(tmp_path / "plan.toml"), "--model", "tiny", "--ray", "local", "--output", str(folder)]
    killed, log = None, tmp_path / "log.txt"
    with (
        log.open("w") as file,  # no pipe: Ray's own processes would hold it open
        subprocess.Popen([sys.executable, "-m", "expo_lite", *words], stdout=file, stderr=file) as process,
    ):
        while killed is None and process.poll() is None:
            for checkpoint in folder.glob("runs/*/checkpoints/step-*"):
                run_folder = checkpoint.parent.parent
                if holder := (run_folder / ".lock").read_text().strip():  # the process that trains
                    killed = run_folder.name
                    os.kill(int(holder), 9)
                    break
            time.sleep(0.05)
        code = process.wait(timeout=200)
    out = log.read_text()
    assert code == 0, out
    assert killed is not None
    assert "will be retried" in out
    assert f"{killed}: done" in out
    results = json.loads((folder / "sweep.json").read_text())
    assert {name: row["seeds"] for name, row in results["runs"].items() if name != "base"} == {
        "exp_sft_coef=0.0": [0, 1],
        "exp_sft_coef=0.04": [0, 1],
    }
    assert results["failures"] == {}


@pytest.mark.timeout(600)  # on a busy machine
def test_no_run_outlives_a_killed_sweep(tmp_path: Path) -> None:
    """The process that hands out jobs is killed; the one that trains saves and ends."""
    (tmp_path / "plan.toml").write_text(SWEEP.replace("steps = 2", "steps = 60").replace("[0, 1]", "[0]"))
    folder = tmp_path / "out"
    words = [sys.executable, "-m", "expo_lite", "sweep", str(tmp_path / "plan.toml"), "--model", "tiny"]
    words += ["--output", str(folder), "--jobs", "1"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        rows, deadline = folder / "runs" / "exp_sft_coef=0.0-seed0" / "metrics.jsonl", time.monotonic() + 240
        while not (rows.exists() and rows.read_text().count("\n") > 2):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        holder = int((rows.parent / ".lock").read_text())
        process.kill()
    deadline = time.monotonic() + 240
    while Path(f"/proc/{holder}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    n_steps = rows.read_text().count("\n")
    assert n_steps < 60
    assert (rows.parent / "checkpoints" / f"step-{n_steps:06d}").is_dir()  # saved where it stopped


def test_a_sweep_ends_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.toml").write_text(f'against = ["exp_sft_coef=0.0"]\n{SWEEP}')
    folder = tmp_path / "out"
    assert run(["sweep", str(tmp_path / "plan.toml"), "--model", "tiny", "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "Against exp_sft_coef=0.0" in out
    assert "pass@1 by level" in out and "by seed" in out
    assert "exp_sft_coef=0.04" in out
    assert "scored tokens" in out and "seconds of steps" in out
    # the task can check steps: those of held-out samples, and of explanations
    valid = (folder / "sweep.md").read_text().partition("## Right in every step")[2].partition("## Cost")[0]
    assert "| accepted | of these valid |" in valid
    assert "| base | 99" in valid or "| base | 100" in valid
    assert "claim" not in out
    assert f"open in a browser: {(folder / 'report.html').as_uri()}" in out
    page = (folder / "report.html").read_text()
    assert "exp_sft_coef=0.04" in page and "of these valid" in page
    results = json.loads((folder / "sweep.json").read_text())
    assert results["seeds"] == [0, 1]
    assert set(results["runs"]) == {"base", "exp_sft_coef=0.0", "exp_sft_coef=0.04"}
    assert results["claims"] == []
    (ours,) = results["against"]["exp_sft_coef=0.0"].values()
    passed = {name: figures["pass@1"]["3"]["value"] for name, figures in results["runs"].items()}
    assert ours["3"]["value"] == pytest.approx(passed["exp_sft_coef=0.04"] - passed["exp_sft_coef=0.0"])
    assert ours["3"]["low"] < ours["3"]["high"] and -1 <= ours["right steps"]["value"] <= 1
    # the folder alone is enough for all that looks at runs
    assert run(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert run(["report", str(folder), "--markdown", "--output", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr()
    assert set((folder / "sweep.md").read_text().splitlines()[1:]) <= set(printed.out.splitlines())
    assert f"open in a browser: {(tmp_path / 'page.html').as_uri()}" in printed.err
    assert run(["report", str(folder), "--latex"]) == 0
    assert "exp\\_sft\\_coef=0.04 & " in capsys.readouterr().out
    assert run(["watch", str(folder)]) == 0
    assert "All 4 runs are finished" in capsys.readouterr().out
    # any figure can be made anew from the right samples of every problem, by seed and level
    correct = [
        list(map(int, counts["3"].split())) for counts in results["runs"]["exp_sft_coef=0.0"]["correct"].values()
    ]
    assert (len(correct), results["n_samples"]) == (2, 2)
    made = over_seeds_and_problems([[pass_at_k(2, c, 1) for c in own] for own in correct])
    assert results["runs"]["exp_sft_coef=0.0"]["pass@1"]["3"] == asdict(made)


def test_a_curve_over_seeds_by_hand() -> None:
    evaluation = Evaluation((), 0.7)
    runs = [
        RunResult(evaluation, evaluation, [{"step": 1, "kl": a}, {"step": 2, "kl": b}])
        for a, b in ((0.25, 1.0), (0.75, 4.0))
    ]
    series = over_seeds_of("grpo", 3, runs, "kl")
    assert series is not None
    assert series.points == [(1.0, 0.5), (2.0, 2.5)]
    assert series.band == [(1.0, 0.25, 0.75), (2.0, 1.0, 4.0)]
    alone = over_seeds_of("grpo", 3, runs[:1], "kl")
    assert alone is not None
    assert (alone.points, alone.band) == ([(1.0, 0.25), (2.0, 1.0)], [])
    assert over_seeds_of("grpo", 3, runs, "loss") is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quick(tmp_path: Path) -> None:
    started = time.monotonic()
    assert run(["replicate", "--model", "tiny", "--quick", "--output", str(tmp_path / "quick")]) == 0
    took_s = time.monotonic() - started
    results = json.loads((tmp_path / "quick" / "replication.json").read_text())
    assert "not measured" not in {row["verdict"] for row in results["claims"]}
    if (os.cpu_count() or 1) >= 2 and os.getloadavg()[0] < 4:
        assert took_s < 600
