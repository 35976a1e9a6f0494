"""Sampling by generate: what it draws, where it ends, and what its log-probabilities are."""

from typing import Any

import pytest
import torch

from expo_lite.policy.batching import Row
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.native import Recorder, _cut, generate_arguments
from expo_lite.policy.scoring import score_rows
from expo_lite.records import Completion, FinishReason, SampleRequest, SamplingParams
from expo_lite.settings.groups import PolicyConfig

PROMPTS = ((2, 8, 9, 10, 11), (2, 8, 9, 10, 11, 12, 13, 14, 15, 16), (2, 20, 21))


@pytest.fixture(scope="module")
def policy() -> HfPolicy:
    return HfPolicy("tiny", PolicyConfig(sampler="native"), seed=0)


def sample(policy: HfPolicy, temperature: float, n: int = 3, seed: int = 0, **others: Any) -> list[Completion]:
    requests = [SampleRequest(prompt, n) for prompt in PROMPTS]
    return [c for row in policy.sample(requests, SamplingParams(temperature, 16, **others), seed=seed) for c in row]


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_log_probabilities_are_those_of_the_scorer_at_the_temperature(policy: HfPolicy, temperature: float) -> None:
    completions = sample(policy, temperature)
    rows = [Row(c.prompt_ids, c.token_ids) for c in completions]
    scored = torch.cat(score_rows(policy, rows, temperature=temperature or 1.0, token_budget=4096))
    own = torch.tensor([value for c in completions for value in c.logprobs])
    torch.testing.assert_close(own, scored, rtol=0, atol=1e-4)


def test_greedy_is_greedy_in_our_loop_too(policy: HfPolicy) -> None:
    own = HfPolicy("tiny", PolicyConfig(sampler="own"), seed=0)
    assert [c.token_ids for c in sample(policy, 0.0)] == [c.token_ids for c in sample(own, 0.0)]


def test_the_seed_decides_and_the_global_one_is_left_alone(policy: HfPolicy) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = sample(policy, 1.0), sample(policy, 1.0), sample(policy, 1.0, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert [c.token_ids for c in first] == [c.token_ids for c in again] != [c.token_ids for c in other]
    assert len({c.token_ids for c in first}) > len(PROMPTS)  # completions of one prompt differ


def test_a_request_with_its_own_seed_does_not_depend_on_its_neighbours(policy: HfPolicy) -> None:
    params = SamplingParams(1.0, 16)
    (alone,) = policy.sample([SampleRequest(PROMPTS[0], 3, seed=11)], params, seed=0)
    beside = policy.sample([SampleRequest(PROMPTS[1], 2), SampleRequest(PROMPTS[0], 3, seed=11)], params, seed=5)[1]
    assert alone == beside


def test_the_nucleus_is_cut(policy: HfPolicy) -> None:
    narrow = sample(policy, 1.0, top_p=1e-6)
    assert [c.token_ids for c in narrow] == [c.token_ids for c in sample(policy, 0.0)]


def test_rows_are_cut_at_the_first_end_token() -> None:
    cut = _cut([5, 2, 0, 0], [-1.0, -2.0, -3.0, -4.0], {2, 0})
    assert (cut.token_ids, cut.logprobs, cut.finish_reason) == ([5, 2], [-1.0, -2.0], FinishReason.STOP)
    whole = _cut([5, 6], [-1.0, -2.0], {2})
    assert (whole.token_ids, whole.finish_reason) == ([5, 6], FinishReason.LENGTH)


def test_the_recorder_by_hand() -> None:
    recorder = Recorder(temperature=2.0)
    first, second = torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0, 0.0]])
    assert recorder(torch.tensor([[9]]), first) is first  # the prompt alone: nothing to note yet
    recorder(torch.tensor([[9, 1]]), second)
    logprobs = recorder.logprobs(torch.tensor([[9, 1, 1]]))
    # token 1 of logits (0, 1), then token 1 of logits (2, 0)
    expected = torch.tensor([[-0.313262, -2.126928]])
    torch.testing.assert_close(logprobs, expected)


def test_no_setting_of_generation_is_left_to_a_default() -> None:
    given = generate_arguments(SamplingParams(0.7, 10, 0.9), eos_ids=(1, 2), pad_id=0)
    assert given["temperature"] == 0.7
    assert given["top_p"] == 0.9
    assert given["top_k"] == 0
    assert {"min_new_tokens", "repetition_penalty", "eos_token_id", "pad_token_id", "max_new_tokens"} <= given.keys()
