"""Fitting into memory: what is chosen, and that running out of it loses nothing; on the built-in model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from expo_lite import loop
from expo_lite.errors import ModelError
from expo_lite.memory import limits as fit
from expo_lite.memory.limits import Limits, fitted
from expo_lite.memory.machine import out_of_memory
from expo_lite.memory.plan import GIB, MemoryPlan, Workload, plan_for
from expo_lite.memory.shapes import find_shape
from expo_lite.policy import scoring, slots
from expo_lite.policy.batching import Row
from expo_lite.policy.hf import HfPolicy
from expo_lite.settings.groups import LossConfig, OptimizerConfig, PolicyConfig, RolloutConfig
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.learn import learn, make_optimizer
from expo_lite.step.run import Run

SETTINGS: dict[str, Any] = {
    "steps": 2,
    "problems_per_step": 3,
    "group_size": 4,
    "levels": (2,),
    "save_every": 2,
    "diagnostics_every": 0,
}


class RunsOut:
    """Raises torch.OutOfMemoryError at the given calls of a function, counted from 1 once it is armed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, at: tuple[int, ...]) -> None:
        self.calls, self.armed = 0, True
        real = getattr(module, name)

        def function(*args: Any, **kwargs: Any) -> Any:
            self.calls += self.armed
            if self.armed and self.calls in at:
                raise torch.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.\nMore."
                )
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, function)

    def wait_for_the_first_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count from here on."""
        self.armed, take_step = False, loop.take_step

        def armed_step(run: Run) -> dict[str, float]:
            self.armed = True
            return take_step(run)

        monkeypatch.setattr(loop, "take_step", armed_step)


def test_a_phase_is_repeated_with_half_until_it_fits() -> None:
    said: list[str] = []
    limits = Limits(1000, 12, warn=said.append)

    def phase() -> int:
        if limits.sampling_rows > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")
        return limits.sampling_rows

    assert limits.sampling(phase) == 3
    assert limits.sampling_rows == 3
    assert limits.micro_batch_tokens == 1000
    assert said == [
        f"out of memory (CUDA out of memory. Tried to allocate 2.00 GiB): again with sampling {n} rows at a time"
        for n in (6, 3)
    ]


def test_a_single_row_that_does_not_fit_is_a_clear_error() -> None:
    def phase() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    limits = Limits(1000, 4)
    with pytest.raises(ModelError, match=r"Out of memory \(.*9.00 GiB\).*--max-completion-tokens"):
        limits.sampling(phase)
    assert limits.sampling_rows == 1
    with pytest.raises(ModelError, match="Out of memory"):
        limits.updating(phase, one_row=300)
    assert limits.micro_batch_tokens == 250  # the first size at which every micro-batch had a single row


def test_an_update_that_does_not_fit_with_a_single_row_keeps_less() -> None:
    said: list[str] = []
    limits = Limits(500, 4, "products", warn=said.append)

    def phase() -> str:
        if limits.keeps != "inputs":
            raise torch.OutOfMemoryError("no")
        return limits.keeps

    assert (limits.updating(phase, one_row=300), limits.micro_batch_tokens) == ("inputs", 250)
    assert said[-1] == "out of memory (no): again with all but the inputs of layers computed twice"


def test_what_failed_is_let_go_of_before_the_next_try() -> None:
    limits = Limits(1000, 4)
    alive: list[int] = []

    class Large:
        def __del__(self) -> None:
            alive.remove(id(self))

    def phase() -> int:
        assert not alive
        held = Large()
        alive.append(id(held))
        if limits.sampling_rows > 1:
            raise torch.OutOfMemoryError("no")
        return 1

    assert limits.sampling(phase) == 1


def run(folder: Path, **changes: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], list[dict[str, Any]]]:
    """Train a little; the adapter, the metrics and the samples."""
    from expo_lite.settings.groups import ExpoConfig, HeldOutConfig

    always = {"evaluation": HeldOutConfig(eval_problems=0), "explanation": ExpoConfig(explain="all")}
    settings = SETTINGS | always | changes
    loop.train(TrainConfig(model="tiny", output=folder, **settings), console=Console())
    adapter = load_file(folder / "checkpoints" / "step-000002" / "adapter_model.safetensors")
    files = ((folder / name).read_text() for name in ("metrics.jsonl", "samples.jsonl"))
    metrics, samples = ([json.loads(line) for line in text.splitlines()] for text in files)
    return adapter, metrics, samples


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("undisturbed") / "run")


def test_running_out_of_memory_gives_the_same_run(
    undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # in the first step in the middle of decoding, in the second one at once
    runs_out = RunsOut(monkeypatch, slots, "choose", at=(7, 9))
    runs_out.wait_for_the_first_step(monkeypatch)
    RunsOut(monkeypatch, scoring, "token_logprobs", at=(1,)).wait_for_the_first_step(monkeypatch)
    adapter, _, samples = run(tmp_path / "run")
    assert runs_out.calls > 60
    # smaller batches round differently in the last digits, not in what is sampled
    assert samples == undisturbed[2]
    for name, tensor in undisturbed[0].items():
        torch.testing.assert_close(adapter[name], tensor, rtol=1e-4, atol=1e-6)
    out = capsys.readouterr().out
    assert "warning: out of memory" in out
    assert "again with sampling 128 rows at a time" in out
    assert "again with micro-batches of 8192 tokens" in out


def test_running_out_of_memory_in_the_optimiser_says_how_to_go_on(
    undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its step cannot be repeated, for a part of it may have been taken; the run goes on from its checkpoint."""
    out = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    step, taken = torch.optim.AdamW.step, []

    def fails_once(self: Any, *_: Any) -> Any:
        taken.append(self)
        if len(taken) == 2:
            raise out
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", fails_once)
    folder = tmp_path / "a run"
    line = f"Then go on with `expo-lite train --resume --output '{folder}'`."
    with pytest.raises(
        ModelError, match=r"Out of memory \(CUDA out of memory. Tried to allocate 20.00 MiB\)\. Close"
    ) as raised:
        run(folder, save_every=1)
    assert str(raised.value).endswith(line)
    adapter, metrics, _ = run(folder, save_every=1, resume=True)
    assert [row["step"] for row in metrics] == [1, 2]
    for name, tensor in undisturbed[0].items():
        assert torch.equal(adapter[name], tensor)
    assert "This run has finished" not in capsys.readouterr().out
    run(folder, save_every=1, resume=True)
    assert "This run has finished: all its 2 steps are done. Give more --steps to go on.\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def policy() -> HfPolicy:
    return HfPolicy("tiny", TrainConfig().policy, seed=0)


def rows() -> list[Row]:
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 20, (n,), generator=generator).tolist())

    return [Row(ids(20), ids(10 + 5 * i), advantage=(-1.0) ** i, weight=0.01, kl_weight=0.01) for i in range(6)]


def test_the_gradient_is_the_same_after_running_out_in_the_middle(
    policy: HfPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, updates = (2, 5), 2
    config = resolve(
        TrainConfig(
            model="tiny",
            loss=LossConfig(kl_coef=0.1, updates_per_batch=updates),
            optimizer=OptimizerConfig(micro_batch_tokens=150, learning_rate=1e-5),
        )
    )
    start = {name: p.detach().clone() for name, p in policy.parameters().items()}
    gradients: list[list[torch.Tensor]] = []
    metrics = []
    for fails in ((), at):
        with monkeypatch.context() as patch:
            RunsOut(patch, scoring, "token_logprobs", at=fails)
            limits, optimizer = Limits(150, 256), make_optimizer(policy, config)
            optimizer.register_step_pre_hook(lambda *_: gradients.append(flat_gradients(policy)))
            metrics.append(learn(policy, optimizer, rows(), config, step=9, last_good="none", limits=limits))
            assert limits.micro_batch_tokens == 150 // 2 ** len(fails)
        with torch.no_grad():
            for name, parameter in policy.parameters().items():
                parameter.copy_(start[name])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-6)
    assert len(gradients) == 2 * updates
    for i, (whole, halved) in enumerate(zip(gradients[:updates], gradients[updates:], strict=True)):
        assert float(torch.cat(whole).norm()) > 1e-4
        # sums in another order: a few roundings of fp32 apart, which AdamW makes more of from pass to pass
        tolerance = 5e-6 if i == 0 else 1e-3
        assert float((torch.cat(halved) - torch.cat(whole)).norm()) < tolerance * float(torch.cat(whole).norm())


def flat_gradients(policy: HfPolicy) -> list[torch.Tensor]:
    return [p.grad.flatten().clone() for p in policy.parameters().values() if p.grad is not None]


def test_a_row_that_does_not_fit_leaves_the_adapter_alone(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(TrainConfig(model="tiny"))
    before = {name: p.detach().clone() for name, p in policy.parameters().items()}
    RunsOut(monkeypatch, scoring, "token_logprobs", at=tuple(range(1, 100)))
    with pytest.raises(ModelError, match="or take a smaller model"):
        learn(policy, make_optimizer(policy, config), rows(), config, step=0, last_good="none")
    assert all(torch.equal(before[name], p) for name, p in policy.parameters().items())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def of(gib: float) -> None:
        monkeypatch.setattr(fit, "ram_bytes", lambda: gib * GIB)

    yield of


def test_the_plan_chooses_what_the_user_leaves_open(machine: Any) -> None:
    machine(23)
    config, plan = fitted(resolve(TrainConfig(model="tiny")))
    assert (config.optimizer.micro_batch_tokens, config.sampling.sampling_rows) == (16_384, 256)
    assert plan is not None
    machine(5)
    config, plan = fitted(resolve(TrainConfig(model="qwen2.5-0.5b", sampling=RolloutConfig(sampling_rows=16))))
    assert plan is not None
    assert plan.fits
    assert config.sampling.sampling_rows == 16
    assert (config.optimizer.micro_batch_tokens or 0) < 16_384


def test_a_resumed_run_keeps_its_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 7B model on a card with 24 GiB free, then with a little less, then with much less; and the other way round."""

    def free(gib: float) -> None:
        def plan_here(
            model: str, workload: Workload, policy: PolicyConfig, tokens: int | None, rows: int | None
        ) -> MemoryPlan:
            shape, on_gpu = find_shape("qwen2.5-7b"), replace(workload, kind="gpu", completion_tokens=1024)
            return plan_for(shape, on_gpu, gib * GIB, policy.sampler, micro_batch_tokens=tokens, sampling_rows=rows)

        monkeypatch.setattr(fit, "_plan_here", plan_here)

    config = resolve(TrainConfig(model="tiny"))
    for started, sampler, later in ((24, "auto", (23.5, 12, 24)), (12, "native", (24,))):
        free(started)
        first, _ = fitted(config)
        assert first.policy.sampler == sampler
        for gib in later:
            free(gib)
            again, plan = fitted(config, first)
            assert again == first
            assert plan is not None
            assert plan.workload.sampler == ("own" if sampler == "auto" else "native")


def test_a_model_of_unknown_size_gets_the_caps() -> None:
    config, plan = fitted(resolve(TrainConfig(model="nobody/nothing-cached")))
    assert (config.optimizer.micro_batch_tokens, config.sampling.sampling_rows, plan) == (16_384, 256, None)


def test_limits_go_into_a_checkpoint() -> None:
    halved, fresh = Limits(512, 8, "products"), Limits(16_384, 256)
    fresh.load_json(json.loads(json.dumps(halved.to_json())))
    assert (fresh.micro_batch_tokens, fresh.sampling_rows, fresh.keeps) == (512, 8, "products")


LACKING = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]
OTHERS = [RuntimeError("CUDA error: an illegal memory access was encountered"), ValueError("memory")]


@pytest.mark.parametrize("error", LACKING + OTHERS, ids=str)
def test_lack_of_memory_is_known_alone_and_behind_another_error(error: Exception) -> None:
    assert out_of_memory(error) == (error in LACKING)
    other = ValueError("the graph could not be recorded")
    other.__context__ = error
    assert out_of_memory(other) == (error in LACKING)


def test_other_errors_pass_through() -> None:
    def phase() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        Limits(1000, 4).sampling(phase)


LIMITED = """
import resource, sys
import torch
from expo_lite.commands import cli
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
room = held + (int(sys.argv[1]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
sys.exit(cli.run(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are set as Linux has them")
@pytest.mark.parametrize(("room_mib", "codes"), [(1_000, (0, 1)), (4_000, (0,))])
def test_little_memory_ends_well_or_in_one_line(room_mib: int, codes: tuple[int, ...], tmp_path: Path) -> None:
    words = ["train", "--model", "tiny", "--steps", "2", "--eval-problems", "4", "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(room_mib), *words], capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in codes
    assert not done.returncode or done.stderr.strip().splitlines()[-1].startswith("error: ")
