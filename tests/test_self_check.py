"""The start-up check: silent on a sampler that is right, and it stops the run on each way of being wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
from shaken import shaken

from expo_lite.commands.cli import run
from expo_lite.errors import ModelError
from expo_lite.policy import slots
from expo_lite.policy.batching import Row
from expo_lite.policy.choosing import choose
from expo_lite.policy.decoder import Decoder
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.self_check import MEAN_LIMIT_NATS, self_check
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Problem, SampleRequest, SamplingParams
from expo_lite.settings.groups import OptimizerConfig, PolicyConfig
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.learn import learn, logp_difference, make_optimizer

PROBLEMS = [Problem("1", "3 + 4", "7"), Problem("2", "12 + 7 - 3 + 40 - 2 + 88 - 15 + 4 - 31", "100")]


@pytest.fixture(scope="module")
def policy() -> HfPolicy:
    return shaken(HfPolicy("tiny", PolicyConfig(), seed=0), 0.03)


def prompts(policy: HfPolicy) -> list[tuple[int, ...]]:
    found = [encode(policy.tokenizer, p) for p in PROBLEMS for encode in (encode_question, encode_explanation)]
    assert len({len(prompt) for prompt in found}) == 4
    return found


def check(policy: HfPolicy) -> float:
    return self_check(policy, prompts(policy), temperature=1.0, token_budget=4096)


def test_a_right_sampler_passes(policy: HfPolicy) -> None:
    assert check(policy) < 1e-4
    assert check(shaken(HfPolicy("tiny", PolicyConfig(sampler="native"), seed=0), 0.03)) < 1e-4


def moved_positions(step: Any) -> Any:
    """New tokens are rotated as if they stood nine places further: what a sampler does that counts the padding."""

    def broken(self: Decoder, cache: Any, tokens_R: Any, slots_R: Any, positions_R: Any, rope: Any, width: int) -> Any:
        cos_Td, sin_Td = rope
        return step(self, cache, tokens_R, slots_R, positions_R, (cos_Td.roll(-9, 0), sin_Td.roll(-9, 0)), width)

    return broken


def test_what_lies_behind_a_rows_end_is_caught_when_attended_to(
    policy: HfPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right for each prompt alone, wrong together."""
    step = Decoder.step

    def unmasked(self: Decoder, cache: Any, tokens_R: Any, slots_R: Any, positions_R: Any, *others: Any) -> Any:
        return step(self, cache, tokens_R, slots_R, positions_R.max().expand_as(positions_R), *others)

    monkeypatch.setattr(Decoder, "step", unmasked)
    with pytest.raises(ModelError, match=r"together gives other tokens|differ from the scorer"):
        check(policy)


def test_a_sampler_without_the_adapter_is_caught(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = policy.sample

    def stale(requests: list[SampleRequest], params: SamplingParams, *, seed: int) -> Any:
        with policy.reference():
            return sample(requests, params, seed=seed)

    monkeypatch.setattr(policy, "sample", stale)
    with pytest.raises(ModelError, match=r"together gives other tokens|differ from the scorer"):
        check(policy)


def test_a_sampler_at_another_temperature_is_caught(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:

    def colder(logits_RV: torch.Tensor, *others: Any) -> Any:
        return choose(logits_RV * 1.3, *others)

    monkeypatch.setattr(slots, "choose", colder)
    with pytest.raises(ModelError, match="differ from the scorer"):
        check(policy)


def test_training_does_not_begin_on_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Decoder, "step", moved_positions(Decoder.step))
    words = ["train", "--model", "tiny", "--steps", "1", "--eval-problems", "0", "--output", str(tmp_path / "run")]
    assert run(words) == 1
    error = capsys.readouterr().err
    assert "together gives other tokens" in error or "differ from the scorer" in error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_difference_by_hand() -> None:
    rows = [
        Row((1,), (2, 3), advantage=1.0, weight=1.0, sampler_logprobs=(-1.0, -2.0)),
        Row((1,), (4,), sft_weight=1.0),  # sampled after another prompt
        Row((1,), (5,), advantage=1.0, weight=1.0, sampler_logprobs=(-0.5,)),
    ]
    logprobs = {2: torch.tensor([-0.2]), 0: torch.tensor([-1.1, -2.0]), 1: torch.tensor([-7.0])}
    found = logp_difference(rows, logprobs)
    # |-1.1 + 1| = 0.1, |-2 + 2| = 0, |-0.2 + 0.5| = 0.3
    assert found["sampling/logp_difference/mean"] == pytest.approx(0.4 / 3)
    assert found["sampling/logp_difference/max"] == pytest.approx(0.3)
    assert logp_difference([], {}) == {}


def test_it_is_logged_of_the_rows_trained_on_and_of_the_first_pass() -> None:
    config = resolve(TrainConfig(model="tiny", optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=0)))
    policy = shaken(HfPolicy("tiny", PolicyConfig(), seed=0), 0.03)
    (completions,) = policy.sample(
        [SampleRequest(prompts(policy)[1], 3)], SamplingParams(config.sampling.temperature, 20), seed=1
    )
    rows = [
        Row(c.prompt_ids, c.token_ids, advantage=a, weight=0.01, sampler_logprobs=c.logprobs)
        for c, a in zip(completions, (1.0, -1.0, 0.0), strict=True)
    ]
    optimizer = make_optimizer(policy, config)
    first = learn(policy, optimizer, rows, config, step=0, last_good="none")
    assert 0 < first["sampling/logp_difference/mean"] < 1e-4
    # the policy has moved, and the samples are now of an older one
    second = learn(policy, optimizer, rows, config, step=1, last_good="none")
    assert second["sampling/logp_difference/mean"] > MEAN_LIMIT_NATS["exact"]
