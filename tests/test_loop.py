"""The training loop on the tiny model: what is sampled, explained, imitated, paid for, shown and refused.

That a run which is broken off and resumed is the one that was not is in test_resume.py.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from expo_lite import loop
from expo_lite.commands import cli
from expo_lite.commands.cli import run
from expo_lite.errors import DivergedError
from expo_lite.grading import Grader
from expo_lite.memory.limits import fitted
from expo_lite.memory.plan import GIB, MemoryPlan, Workload, plan_for
from expo_lite.memory.shapes import find_shape
from expo_lite.policy.batching import Row
from expo_lite.policy.hf import HfPolicy
from expo_lite.prompts import encode_question
from expo_lite.records import Problem, SampleRequest, SamplingParams
from expo_lite.run.folder import locked
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.train import RunConfig, resolve
from expo_lite.step.explain import roll_out
from expo_lite.tasks import load_task
from expo_lite.tasks.hidden_rules import puzzles

Rows = list[dict[str, Any]]
pytestmark = pytest.mark.usefixtures("unchecked")

SHORT = "--group-size 2 --problems-per-step 2 --max-completion-tokens 45 --eval-problems 0 --diagnostics-every 0"


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def solved() -> Rows:
    """Two problems that the tiny model is sure of, and right."""
    policy = HfPolicy("tiny", PolicyConfig(), seed=0)
    found: Rows = []
    for drawn in islice(puzzles("train", 1, seed=0), 100):
        prompt = encode_question(policy.tokenizer, Problem("", drawn.question, ""))
        ((reply,),) = policy.sample([SampleRequest(prompt, 1)], SamplingParams(0.0, 45), seed=0)
        if f"\\boxed{{{drawn.answer}}}" in reply.text and min(reply.logprobs) > -0.1:
            found.append({"question": drawn.question, "answer": drawn.answer, "expert_chain": "Sure chain."})
        if len(found) == 2:
            break
    return found


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, solved: Rows) -> dict[str, str]:
    """Data files of problems that are always wrong, always right, and one of each; flags with them."""
    tmp_path = tmp_path_factory.mktemp("tasks")
    hopeless = [
        {"question": next(puzzles("train", 2, seed=seed)).question, "answer": "99999", "expert_chain": f"Chain {seed}."}
        for seed in (1, 2)
    ]
    test = write(tmp_path / "test.jsonl", [{"question": "Other?", "answer": "1"}])
    files = {
        "wrong": hopeless,
        "right": solved,
        "both": [hopeless[0], solved[0]],
    }
    return {
        name: f"--task jsonl:{write(tmp_path / f'{name}.jsonl', rows)} --test-file {test} {SHORT} --temperature 0.1"
        for name, rows in files.items()
    }


def train(folder: Path, *words: str) -> Rows:
    """Train the tiny model; returns the metrics."""
    command = ["train", "--model", "tiny", "--output", str(folder), *" ".join(words).split()]
    assert run(command) == 0
    return read(folder / "metrics.jsonl")


def read(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors")


def moved(folder: Path, step: int) -> bool:
    return any(bool(tensor.any()) for name, tensor in weights(folder, step).items() if "lora_B" in name)


@pytest.fixture
def n_scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A count of the calls for scores: a forward pass, for a backward pass or the reference."""
    calls = []
    original = HfPolicy.logprobs

    def counting(self: HfPolicy, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(HfPolicy, "logprobs", counting)
    return lambda: len(calls)


@pytest.mark.parametrize("name", ["wrong", "right"])
def test_groups_without_advantage_cost_no_backward(
    name: str, tasks: dict[str, str], tmp_path: Path, n_scored: Callable[[], int]
) -> None:
    metrics = train(tmp_path / "run", tasks[name], "--method grpo --steps 2")
    kind = {"wrong": "frac_all_wrong", "right": "frac_all_correct"}[name]
    assert [row[kind] for row in metrics] == [1.0, 1.0]
    assert [row["frac_reward_zero_std"] for row in metrics] == [1.0, 1.0]
    assert [row["update/n_rows"] for row in metrics] == [0.0, 0.0]
    assert n_scored() == 0
    assert not moved(tmp_path / "run", 2)


def test_dead_groups_pay_the_kl(tasks: dict[str, str], tmp_path: Path, n_scored: Callable[[], int]) -> None:
    words = [tasks["wrong"], "--method grpo --steps 1 --kl-coef 0.1"]
    (on,) = train(tmp_path / "on", *words)
    assert (on["update/n_rows"], on["kl"]) == (4.0, 0.0)  # nothing has moved yet
    assert n_scored() == 2  # the policy and its reference


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The questions that each step asks explanations of."""
    seen: list[list[str]] = []

    def looking(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("problems"):
            seen.append([])
        seen[-1] += [problem.question for problem in kwargs.get("to_explain", ())]
        return roll_out(*args, **kwargs)

    monkeypatch.setattr("expo_lite.step.explain.roll_out", looking)
    return seen


@pytest.mark.parametrize(("refresh", "n_asked"), [(0, [2, 0, 0, 0]), (2, [2, 0, 2, 0])])
def test_when_explanations_are_made(
    refresh: int, n_asked: list[int], tasks: dict[str, str], tmp_path: Path, asked: list[list[str]]
) -> None:
    words = f"--steps 4 --explanation-filter none --explanation-refresh-steps {refresh} --temperature 2"
    metrics = train(tmp_path / "run", tasks["wrong"], words)
    assert [len(questions) for questions in asked] == n_asked
    own = [row for row in read(tmp_path / "run" / "samples.jsonl") if row["kind"] == "explanation"]
    used = [{row["completion"] for row in own if row["step"] == step} for step in (1, 2, 3, 4)]
    for step in (1, 2, 3):  # the same ones again, or others
        assert (used[step] == used[step - 1]) == (n_asked[step] == 0)
    assert [row.get("expo/explanation_accept_rate") for row in metrics] == [1.0 if n else None for n in n_asked]
    assert [row.get("expo/reused") for row in metrics] == [None if n else 1.0 for n in n_asked]
    assert all(row["expo/sft_loss"] > 0 for row in metrics)


def test_a_refused_explanation_is_tried_again(tasks: dict[str, str], tmp_path: Path, asked: list[list[str]]) -> None:
    words = "--steps 3 --explanation-filter verified --explanation-refresh-steps 0"
    metrics = train(tmp_path / "run", tasks["wrong"], words)
    if all(row["expo/explanation_accept_rate"] == 0 for row in metrics):  # no chain of this model comes to 99999
        assert [len(questions) for questions in asked] == [2, 2, 2]
        assert not moved(tmp_path / "run", 3)
    own = [row for row in read(tmp_path / "run" / "samples.jsonl") if row["kind"] == "explanation"]
    assert all(row["accepted"] == row["correct"] for row in own)


def test_which_problems_are_explained(
    tasks: dict[str, str], tmp_path: Path, asked: list[list[str]], solved: Rows
) -> None:
    words = "--steps 2 --explanation-filter none"
    every = train(tmp_path / "all", tasks["both"], words, "--explain all")
    assert [len(questions) for questions in asked] == [2, 2]
    asked.clear()
    wrong = train(tmp_path / "wrong", tasks["both"], words, "--explain all-wrong")
    assert [len(questions) for questions in asked] == [1, 1]
    assert solved[0]["question"] not in {question for questions in asked for question in questions}
    assert [row["update/n_rows"] for row in every + wrong] == [2, 2, 1, 1]


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[list[Row]]:
    """The rows of each step."""
    seen: list[list[Row]] = []
    original: Any = vars(loop)["learn"]

    def looking(policy: Any, optimizer: Any, rows: Sequence[Row], *args: Any, **kwargs: Any) -> dict[str, float]:
        seen.append(list(rows))
        metrics: dict[str, float] = original(policy, optimizer, rows, *args, **kwargs)
        return metrics

    monkeypatch.setattr(loop, "learn", looking)
    return seen


@pytest.mark.parametrize(("explain", "chains"), [("all", ["Chain 1.", "Sure chain."]), ("all-wrong", ["Chain 1."])])
def test_gt_sft_grpo_imitates_expert_chains(
    explain: str, chains: list[str], tasks: dict[str, str], tmp_path: Path, learned: list[list[Row]]
) -> None:
    (metrics,) = train(
        tmp_path / "run",
        tasks["both"],
        f"--method gt-sft-grpo --steps 1 --explain {explain} --exp-sft-normalisation token",
    )
    policy = HfPolicy("tiny", PolicyConfig(), seed=0)
    imitated = [row for row in learned[0] if row.sft_weight]
    texts = sorted(policy.tokenizer.decode(row.completion_ids) for row in imitated)
    assert [text.split("\n")[0] for text in texts] == chains  # the reader puts the boxed answer behind a chain without
    assert all(text.endswith("}.<|im_end|>") for text in texts)
    questions = {row["prompt"]: row["gold"] for row in read(tmp_path / "run" / "samples.jsonl")}
    prompts = {encode_question(policy.tokenizer, Problem("", question, "")) for question in questions}
    assert {row.prompt_ids for row in imitated} <= prompts
    # exp_sft_coef over 2 problems, over the tokens of the chain
    assert [row.sft_weight * len(row.completion_ids) for row in imitated] == pytest.approx([0.02] * len(chains))
    assert metrics["expo/sft_loss"] > 0
    assert "expo/explanation_accept_rate" not in metrics
    assert moved(tmp_path / "run", 1)


def test_an_explanation_is_learned_behind_the_plain_prompt(
    tasks: dict[str, str], tmp_path: Path, learned: list[list[Row]]
) -> None:
    """On the rows that reach the loss, of every step, also for explanations that are used again."""
    train(tmp_path / "run", tasks["wrong"], "--steps 3 --explanation-filter none --explanation-refresh-steps 2")
    policy = HfPolicy("tiny", PolicyConfig(), seed=0)
    for rows in learned:
        imitated = [row for row in rows if row.sft_weight]
        assert len(imitated) == 2
        for row in imitated:
            prompt = policy.tokenizer.decode(row.prompt_ids)
            assert "99999" not in prompt
            assert "correct answer" not in prompt
            assert "\\boxed{99999}" in policy.tokenizer.decode(row.completion_ids)


def test_sft_samples_nothing_that_it_does_not_use(
    tasks: dict[str, str], tmp_path: Path, learned: list[list[Row]], capsys: pytest.CaptureFixture[str]
) -> None:
    """All problems are imitated, solved ones too; with the gate groups are sampled, to know which ones are failed."""
    (metrics,) = train(tmp_path / "plain", tasks["both"].replace("--group-size 2", ""), "--method sft --steps 1")
    assert metrics["num_tokens"] == 0
    assert "reward" not in metrics
    assert read(tmp_path / "plain" / "samples.jsonl") == []
    (rows,) = learned
    assert [row.sft_weight for row in rows] == pytest.approx([0.5, 0.5])  # two problems
    assert f"loss on chains {metrics['expo/sft_loss']:.3g}" in capsys.readouterr().out

    (metrics,) = train(tmp_path / "gated", tasks["both"], "--method sft --steps 1 --explain all-wrong")
    assert metrics["num_tokens"] > 0
    assert [row.sft_weight for row in learned[1]] == pytest.approx([0.5])  # of two problems one is solved
    assert not read(tmp_path / "plain" / "samples.jsonl")


def test_expert_chains_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "bare.jsonl", [{"question": f"{i} + 1?", "answer": i + 1} for i in range(20)])
    command = f"train --model tiny --task jsonl:{file} --method gt-sft-grpo --output {tmp_path / 'run'}"
    assert run(command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: Method 'gt-sft-grpo' needs expert chains here, and task 'jsonl:")
    assert "--fields chain=NAME" in said
    assert not (tmp_path / "run").exists()


def test_exp_grpo_with_a_coefficient_of_zero_is_grpo(tmp_path: Path) -> None:
    words = "--levels 1 --steps 2 --group-size 4 --problems-per-step 4 --max-completion-tokens 45 --eval-problems 0"
    words += " --temperature 1.5 --diagnostics-every 0"
    first = train(tmp_path / "exp", words, "--exp-sft-coef 0")
    second = train(tmp_path / "grpo", words, "--method grpo")
    assert any(row["frac_mixed"] > 0 for row in first)
    assert [row["reward"] for row in first] == [row["reward"] for row in second]
    assert all(
        torch.equal(tensor, weights(tmp_path / "grpo", 2)[n]) for n, tensor in weights(tmp_path / "exp", 2).items()
    )


def test_a_seed_is_the_run(tmp_path: Path, tasks: dict[str, str]) -> None:
    words = [tasks["wrong"], "--steps 1 --explanation-filter none --temperature 2"]
    for name, seed in (("a", 1), ("again", 1), ("other", 2)):
        train(tmp_path / name, *words, f"--seed {seed}")
    samples = [(tmp_path / name / "samples.jsonl").read_bytes() for name in ("a", "again", "other")]
    assert samples[0] == samples[1] != samples[2]
    adapters = [weights(tmp_path / name, 1) for name in ("a", "again", "other")]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert not all(torch.equal(adapters[0][name], adapters[2][name]) for name in adapters[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tasks: dict[str, str]) -> tuple[Path, list[str]]:
    """A run of 2 steps with a checkpoint of each, and the words that made it."""
    folder = tmp_path_factory.mktemp("made") / "run"
    words = f"{tasks['wrong']} --explanation-filter none --save-every 1 --steps 2 --lr-schedule constant"
    train(folder, words)
    return folder, words.split()


@pytest.fixture
def done(made: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of that run, and the words that continue it."""
    folder = tmp_path / "run"
    shutil.copytree(made[0], folder)
    return folder, ["train", "--model", "tiny", "--output", str(folder), *made[1]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_can_be_made_longer(done: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, words = done
    assert run([*words, "--resume", "--steps", "3"]) == 0
    whole = tmp_path / "whole"
    assert run([*words, "--steps", "3", "--output", str(whole)]) == 0
    one, other = weights(folder, 3), weights(whole, 3)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (folder / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()


def test_a_schedule_that_is_stretched_by_more_steps_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of a cosine in the second step of 2: 0.0005; of 4 it is the first quarter: 0.001 (1 + cos 45 deg) / 2."""
    words = (
        f"train --model tiny --method sft --learning-rate 0.001 --warmup-steps 0 --lr-schedule cosine {SHORT}".split()
    )
    words += ["--group-size", "8", "--output", str(tmp_path / "run")]
    assert run([*words, "--steps", "2"]) == 0
    assert run([*words, "--steps", "2", "--resume"]) == 0
    assert "as if the run had begun" not in capsys.readouterr().out
    assert run([*words, "--steps", "4", "--resume"]) == 0
    said = "warning: learning_rate goes on as if the run had begun with 4 steps: in the last step it was 0.0005, where"
    assert f"{said} that schedule has 0.00085\n" in capsys.readouterr().out


RESUME_ERRORS: list[tuple[str, list[str], int, str]] = [
    ("nothing", ["--seed", "5"], 2, "has other settings: seed (0 there, 5 given). Resume it with its own."),
    ("nothing", ["--output", "elsewhere/run"], 1, "There is no run or evaluation in 'elsewhere/run'"),
    ("checkpoints", [], 1, "No whole checkpoint in"),
]


@pytest.mark.parametrize(("harm", "words", "code", "text"), RESUME_ERRORS)
def test_what_cannot_be_resumed_is_left_as_it_is(
    harm: str,
    words: list[str],
    code: int,
    text: str,
    done: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, command = done
    capsys.readouterr()
    for path in (folder / "checkpoints").rglob("*.safetensors") if harm == "checkpoints" else [folder / harm]:
        if harm != "nothing":
            path.write_bytes(path.read_bytes()[2:])
    before = contents(folder)
    assert run([*command, "--resume", *words]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error
    assert error.count("\n") == 1
    assert contents(folder) == before


def test_a_run_that_is_alive_is_not_loaded_beside_itself(
    done: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, words = done
    monkeypatch.setattr(loop, "load_policy", lambda *_, **__: pytest.fail("the model was loaded"))
    with locked(folder):
        assert run([*words, "--resume"]) == 1
    assert "is being written by another process" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    done: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = done
    before = contents(folder)
    newest = folder / "checkpoints" / "step-000002" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert run([*words, "--resume"]) == 0
    out = capsys.readouterr().out
    assert f"warning: checkpoint '{newest.parent}' is damaged: optimizer.safetensors is not what was written" in out
    assert "resumed at step 1" in out
    after = contents(folder)
    assert set(after) == set(before)
    assert [name for name in after if after[name] != before[name]] == ["metrics.jsonl"]  # its times


def test_a_loss_that_is_no_number_stops_the_run_and_nothing_is_lost(
    done: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, words = done
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr("expo_lite.step.learn.sft_loss", lambda logprobs_N, _: logprobs_N.sum() * float("nan"))
        assert run([*words, "--resume", "--steps", "4"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: Step 3: the loss is nan and the gradient's norm nan. The last good checkpoint is ")
    assert f"'{folder / 'checkpoints' / 'step-000002'}'" in error
    assert contents(folder) == before
    test_a_run_can_be_made_longer(done, tmp_path)


def train_beyond_bounds(words: str, group: str, **values: float) -> None:
    """Train with values that the bounds of settings refuse; nothing is patched."""
    command: Any = cli.parse(words.split())
    config = resolve(command.settings)
    config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values)})
    with Grader() as grader:
        task = load_task(config.task, grader=grader, options=config.data)
        loop.train_on(task, config, Console(quiet=True))


def test_a_policy_that_gives_no_numbers_stops_the_run(tmp_path: Path, tasks: dict[str, str]) -> None:
    """A learning rate that throws the adapter beyond all numbers: no loss ever shows it if every group is wrong."""
    words = (
        f"train --model tiny --output {tmp_path / 'run'} {tasks['wrong']} --steps 5 --save-every 1 --warmup-steps 0"
        " --explanation-filter none --explain all-wrong --explanation-refresh-steps 1"
    )
    # the last good checkpoint is not that of step 1, which holds what has just failed
    message = r"^Step 2: the policy's log-probabilities are no longer finite\..*The last good checkpoint is none yet\."
    with pytest.raises(DivergedError, match=message):
        train_beyond_bounds(words, "optimizer", learning_rate=1e30)
    assert len(read(tmp_path / "run" / "metrics.jsonl")) == 1


def test_what_a_run_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "missed_unsloth", lambda: "Unsloth is not installed.")  # as with a card

    def on_a_card(config: RunConfig, kept: RunConfig | None = None) -> tuple[RunConfig, MemoryPlan]:
        plan = plan_for(find_shape("tiny"), Workload(completion_tokens=60), 24 * GIB, "own")
        return fitted(config, kept)[0], plan

    monkeypatch.setattr(loop, "fitted", on_a_card)
    words = "--levels 1 5 --steps 2 --group-size 2 --problems-per-step 2 --max-completion-tokens 60 --eval-problems 1"
    words += " --explain all"
    metrics = train(tmp_path / "run", words, "--eval-samples 2 --diagnostics-every 1 --save-every 2")
    out = capsys.readouterr().out
    assert out.count("evaluating on 5 held-out problems") == 2
    assert "Unsloth is not installed. To install it: in the clone, `uv sync --extra unsloth`" in out
    assert "the update takes 16,384 tokens at a time and keeps activations, by the memory plan" in out
    assert "step 1/2 | " in out
    assert "step 2/2 | 0:00 left | reward " in out
    assert "pass@2" in out
    assert "all-wrong groups over 2 steps:" in out
    assert out.endswith(f"run folder: {tmp_path / 'run'}\n")
    names = {"reward", "frac_all_wrong", "expo/explanation_accept_rate", "expo/nll_own", "expo/nll_expert"}
    names |= {"sampling/tokens_per_s", "peak_memory_gib", "num_tokens", "learning_rate", "step_time"}
    for row in metrics:
        assert names <= set(row)
        assert row["peak_memory_gib"] > 0.1
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (about["settings"]["model"], about["update_keeps"]) == ("tiny", "activations")
    samples = read(tmp_path / "run" / "samples.jsonl")
    assert len([row for row in samples if row["kind"] == "rollout"]) == 2 * 2 * 2
    assert len([row for row in samples if row["kind"] == "explanation"]) == 2 * 2
    assert {row["level"] for row in samples} <= {1, 5}
