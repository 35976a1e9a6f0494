"""The method in TRL's trainer: its loss is our own loop's on the same rows, on one process and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from scripted_policy import judge
from shaken import shaken

from expo_lite.errors import ConfigError
from expo_lite.integrations.trl import check_version
from expo_lite.policy.batching import micro_batches
from expo_lite.policy.hf import HfPolicy
from expo_lite.prompts import encode_question
from expo_lite.records import Completion, FinishReason, Group, Verdict
from expo_lite.settings.groups import ExpoConfig, PolicyConfig
from expo_lite.settings.machine import is_installed
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.learn import accumulate
from expo_lite.step.methods import METHOD_ROWS, Chain, Experience
from expo_lite.tasks.rows import task_from_rows

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
ROWS = [{"question": f"Start with {i}.\nA: hop.", "answer": str(i + 3), "problem_id": f"p{i}"} for i in range(3)]
RATE, COEFFICIENT = 1e-2, 0.5


def run(words: list[str], cwd: Path | None = None, **environment: str) -> None:
    places = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    quiet = {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    given = os.environ | quiet | environment
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=given, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def policy() -> HfPolicy:
    return shaken(HfPolicy("tiny", PolicyConfig(bits=16), seed=0), 0.03)


@pytest.fixture(scope="module")
def folder(policy: HfPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of plain gradient descent each: one process with two micro-batches, and two with one each; the example."""
    root = tmp_path_factory.mktemp("trl")
    (root / "adapter").mkdir()
    policy.save_adapter(root / "adapter")
    run([str(HERE / "trl_process.py"), str(root)])
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_two_processes_learn_what_one_does(folder: Path) -> None:
    before, one, two = (weights(folder / name) for name in ("adapter", "trained-1-2", "trained-2-1"))
    assert max(float((one[name] - before[name]).abs().max()) for name in one) > 1e-3
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-6)
    logs = [json.loads((folder / name / "log.json").read_text())[0] for name in ("trained-1-2", "trained-2-1")]
    for log in logs:
        assert (log["frac_all_wrong"], log["frac_mixed"]) == pytest.approx((2 / 3, 1 / 3), abs=1e-3)
        shares = ("expo/explanation_accept_rate", "expo/sft_coef")
        assert [log[name] for name in shares] == [1.0, COEFFICIENT]
        assert log["completions/max_length"] == logs[0]["completions/max_length"]  # of rollouts, not of explanations
    assert logs[0]["expo/sft_loss"] == pytest.approx(logs[1]["expo/sft_loss"], rel=1e-5)
    assert logs[0]["sampling/nll"] == pytest.approx(logs[1]["sampling/nll"], rel=0.01)  # one is the mean of two means


def sampled(policy: HfPolicy) -> Experience:
    """The problems of tests/trl_process.py as our own records."""
    task = task_from_rows(ROWS, test_rows=[{"question": "?", "answer": "1"}])
    groups, chains = [], []
    for number, problem in enumerate(task.problems("train")):
        prompt_ids = encode_question(policy.tokenizer, problem)

        def ids(place: int, answer: str) -> tuple[int, ...]:
            said = f"A:{'x' * (1 + place % 4)} \\boxed{{{answer}}}"
            return (*policy.tokenizer.encode(said, add_special_tokens=False), policy.tokenizer.eos_token_id)

        answers = [problem.answer if number == 0 and place == 1 else "9" for place in range(4)]
        completions = [ids(place, answer) for place, answer in enumerate(answers)]
        verdicts = tuple(Verdict(answer == problem.answer, "", "") for answer in answers)
        made = tuple(Completion(prompt_ids, c, (0.0,) * len(c), "", FinishReason.STOP) for c in completions)
        groups.append(Group(problem, made, verdicts))
        if not any(verdict.correct for verdict in verdicts):
            chains.append(Chain(prompt_ids, ids(0, problem.answer)))
    return Experience(tuple(groups), tuple(chains), 0.0)


def test_the_loss_is_that_of_our_own_loop(policy: HfPolicy, folder: Path) -> None:
    compare_with_our_own_loop(policy, folder, "trained-2-1")


@pytest.mark.skipif(not is_installed("unsloth"), reason="unsloth is not installed (extra 'unsloth')")
def test_the_loss_under_unsloth_s_patched_trainer(policy: HfPolicy, tmp_path: Path) -> None:
    """On its CPU backend, where it patches TRL only if asked; its own scorer and loss."""
    (tmp_path / "adapter").mkdir()
    policy.save_adapter(tmp_path / "adapter")
    quiet = {"UNSLOTH_DISABLE_STATISTICS": "1", "UNSLOTH_COMPILE_DISABLE": "1"}
    run([str(HERE / "trl_process.py"), str(tmp_path), "unsloth"], cwd=tmp_path, **quiet)
    compare_with_our_own_loop(policy, tmp_path, "trained-1-2", atol=5e-4)  # of gradients up to 2.7


def compare_with_our_own_loop(policy: HfPolicy, folder: Path, trained: str, atol: float = 2e-4) -> None:
    """Plain gradient descent moves each weight by the rate times the gradient, which is compared weight by weight."""
    config = resolve(TrainConfig(model="tiny", group_size=4, explanation=ExpoConfig(exp_sft_coef=COEFFICIENT)))
    rows = METHOD_ROWS["exp-grpo"](sampled(policy), config)
    assert sum(bool(row.sft_weight) for row in rows) == 2
    for parameter in policy.parameters().values():
        parameter.grad = None
    batches = micro_batches(rows, token_budget=4096, pad_id=policy.pad_id, packed=policy.packs)
    totals = accumulate(policy, batches, config, None)
    log: dict[str, Any] = json.loads((folder / trained / "log.json").read_text())[0]
    assert log["loss"] == pytest.approx(float(totals.loss), rel=1e-4)
    before, after = weights(folder / "adapter"), weights(folder / trained)
    for name, parameter in policy.parameters().items():
        assert parameter.grad is not None
        saved = name.replace(".default.", ".")
        moved = (before[saved] - after[saved]) / RATE
        torch.testing.assert_close(moved, parameter.grad, rtol=1e-3, atol=atol)  # fp32 weights hold so much of it


def test_other_versions_are_refused() -> None:
    check_version("1.15.3")
    for found, said in ((None, "uv sync --extra trl"), ("1.14.0", "from 1.15"), ("1.16.0", "TRL 1.16.0")):
        with pytest.raises(ConfigError, match=said):
            check_version(found)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ExpoConfig(explanation_filter=("verified", "lift")), "explanation_filter lift"),
        (ExpoConfig(explanation_refresh_steps=3), "explanation_refresh_steps"),
        (ExpoConfig(exp_sft_coef=-1), "exp_sft_coef must be"),
        (ExpoConfig(train_context="plain"), "train_context is for `expo-lite train` only"),
        (ExpoConfig(teacher="current"), "teacher is for `expo-lite train` only"),
    ],
)
def test_what_only_our_own_loop_has_is_refused(settings: ExpoConfig, said: str) -> None:
    from expo_lite.integrations.trl import ExplainingGRPOTrainer

    with pytest.raises(ConfigError, match=said):
        ExplainingGRPOTrainer("unused", task=task_from_rows(ROWS), explanation=settings)


@pytest.mark.parametrize(
    ("accepting", "accepted"),
    [("verified", ["1 + 2 = 3", "1 + 1 = 3", ""]), ("arithmetic", ["1 + 2 = 3", ""]), ("steps", ["1 + 2 = 3"])],
)
def test_the_filter_is_that_of_our_own_loop(policy: HfPolicy, accepting: Any, accepted: list[str]) -> None:
    """On right, wrong and cut off texts; what the trainer needs for it is its task and the end tokens."""
    from types import SimpleNamespace

    from expo_lite.integrations.trl import ExplainingGRPOTrainer

    settings = ExpoConfig(explanation_filter=(accepting,))
    task = task_from_rows(ROWS)
    problem = next(p for p in (*task.problems("train"), *task.problems("test")) if p.answer == "3")
    end = policy.tokenizer.eos_token_id
    trainer: Any = SimpleNamespace(_explanation=settings, _task=task, eos_token_ids=[end])
    trainer._judge = lambda *given: ExplainingGRPOTrainer._judge(trainer, *given)
    found = []
    for steps, answer in (("1 + 2 = 3", 3), ("1 + 1 = 3", 3), ("", 3), ("1 + 2 = 3", 9)):
        text = f"{steps}. So \\boxed{{{answer}}}."
        for finish in (FinishReason.STOP, FinishReason.LENGTH):
            cut = finish is FinishReason.LENGTH
            ids = (*policy.tokenizer.encode(text), *(() if cut else (end,)))
            made = Completion(encode_question(policy.tokenizer, problem), ids, (0.0,) * len(ids), text, finish)
            attempt = Group(problem, (made,), (task.grade(problem, text, truncated=cut),))
            (ours,) = judge(policy, [attempt], settings)
            found += [steps] * ours.accepted
            assert ExplainingGRPOTrainer._reason(trainer, problem, text, ids) == ours.reason
    assert found == accepted


@pytest.mark.parametrize("explain_with", ["answer", "wrong-answer", "no-answer"])
def test_the_controls_are_those_of_our_own_loop(explain_with: Any) -> None:
    """The answer shown is another one or none; and a control is taken whatever it says."""
    from types import SimpleNamespace

    from expo_lite.integrations.trl import ExplainingGRPOTrainer

    problems = task_from_rows(ROWS, test_rows=[{"question": "?", "answer": "1"}]).problems("train")
    settings = ExpoConfig(explain_with=explain_with, explanation_filter=("none",))
    place = SimpleNamespace(seed=0, global_step=0)
    trainer: Any = SimpleNamespace(_explanation=settings, _problems=problems, args=place, state=place)
    for problem in problems:
        text = str(ExplainingGRPOTrainer._shown(trainer, problem))
        answers = {p.answer for p in problems if f"The correct answer is {p.answer}" in text}
        others = {p.answer for p in problems} - {problem.answer}
        assert {"answer": answers == {problem.answer}, "no-answer": not answers}.get(explain_with, answers < others)
    assert ExplainingGRPOTrainer._reason(trainer, problems[0], "\\boxed{9}", (1,)) == "accepted"


def test_chains_are_spread_over_the_micro_batches() -> None:
    from expo_lite.integrations.trl import spread

    assert spread(0, 4) == []
    assert spread(3, 8) == [0, 2, 5]
    assert spread(4, 4) == [0, 1, 2, 3]
    assert spread(5, 2) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed"])
def test_accelerate_reads_the_configurations(name: str) -> None:
    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed": "DEEPSPEED"}
    config = load_config_from_file(str(EXAMPLES / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kinds[name]
    assert config.num_processes == 4


def test_the_example_trains_and_its_settings_are_trls(folder: Path, tmp_path: Path) -> None:
    """With vLLM's too: every name is one of the installed GRPOConfig."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import argparse

        import scale_with_trl
        from trl import GRPOConfig  # type: ignore[attr-defined]
    finally:
        sys.path.remove(str(EXAMPLES))
    given = argparse.Namespace(
        model="tiny", steps=1, problems=1, tokens=8, vllm_server="http://localhost:1", output=tmp_path
    )
    settings = scale_with_trl.arguments(given)
    assert settings["vllm_mode"] == "server"
    assert settings.keys() <= GRPOConfig.__dataclass_fields__.keys()
    assert load_file(folder / "example" / "adapter" / "adapter_model.safetensors")
