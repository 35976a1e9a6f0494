"""Our decoding against transformers' own, the scorer, the softmax and its neighbours; and sampling by generate."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from shaken import shaken

from expo_lite.policy import choosing, lora, slots
from expo_lite.policy.batching import Row
from expo_lite.policy.choosing import choose
from expo_lite.policy.decoder import Decoder, SlotCache
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.merged import DenseWeights, merge
from expo_lite.policy.native import _cut
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Completion, FinishReason, Problem, SampleRequest, SamplingParams
from expo_lite.settings.groups import PolicyConfig
from expo_lite.tasks.hidden_rules import puzzles


def problems(n_a_level: int) -> list[Problem]:
    """Problems of all levels, mixed: prompts and replies of very different lengths."""
    drawn = [next(puzzles("train", level, seed=i)) for i in range(n_a_level) for level in (5, 1, 3, 2, 4)]
    return [Problem(str(i), d.question, d.answer) for i, d in enumerate(drawn)]


@pytest.fixture(scope="module")
def policy() -> HfPolicy:
    return shaken(HfPolicy("tiny", PolicyConfig(), seed=0), 0.01, only_b=True)


def generated(policy: HfPolicy, prompts: Sequence[tuple[int, ...]], limit: int) -> list[tuple[int, ...]]:
    """The completions of transformers' own `generate`, greedy, each prompt alone; cut behind the first end token."""
    policy._enter("sampling")
    replies = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = policy.base_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=list(policy.eos_ids),
            pad_token_id=policy.pad_id,
            use_cache=True,
        )
        replies.append(tuple(out[0, len(prompt) :].tolist()))
    return replies


def sampled(policy: HfPolicy, prompts: Sequence[tuple[int, ...]], params: SamplingParams) -> list[Completion]:
    return [group[0] for group in policy.sample([SampleRequest(prompt, 1) for prompt in prompts], params, seed=0)]


def test_greedy_decoding_is_that_of_generate(policy: HfPolicy) -> None:
    prompts = [encode_question(policy.tokenizer, problem) for problem in problems(1)]
    prompts.append(encode_explanation(policy.tokenizer, problems(1)[0]))
    expected = generated(policy, prompts, 30)
    assert len({len(reply) for reply in expected}) > 1
    ours = sampled(policy, prompts, SamplingParams(0.0, 30, rows=3))
    assert [completion.token_ids for completion in ours] == expected
    ends = Counter(completion.finish_reason for completion in ours)
    assert min(ends[FinishReason.STOP], ends[FinishReason.LENGTH]) > 0  # the limit cuts some of them


def check_logprobs(policy: HfPolicy, groups: Sequence[tuple[Completion, ...]], params: SamplingParams) -> None:
    """The sampler's log-probabilities are the scorer's, to 1e-4 nats."""
    completions = [completion for group in groups for completion in group]
    rows = [Row(completion.prompt_ids, completion.token_ids) for completion in completions]
    scored = score_rows(policy, rows, temperature=params.temperature, token_budget=2048)
    ours = torch.tensor([value for completion in completions for value in completion.logprobs])
    torch.testing.assert_close(ours, torch.cat(scored), rtol=0, atol=1e-4)


@pytest.mark.parametrize("params", [SamplingParams(0.7, 60), SamplingParams(2.0, 60, 0.8)])
def test_sampled_log_probabilities_are_the_scorers(policy: HfPolicy, params: SamplingParams) -> None:
    requests = [SampleRequest(encode_question(policy.tokenizer, problem), 3) for problem in problems(2)]
    groups = policy.sample(requests, params, seed=0)
    assert len({completion.token_ids for group in groups for completion in group}) > 10
    check_logprobs(policy, groups, params)


def first_token_probs(policy: HfPolicy, prompt: tuple[int, ...], temperature: float) -> torch.Tensor:
    """The softmax behind a prompt, by transformers' own forward pass, in double precision."""
    policy._enter("sampling")
    with torch.no_grad():
        logits_V = policy.base_model(torch.tensor([prompt]), use_cache=False).logits[0, -1].double()
    probs_V: torch.Tensor = (logits_V / temperature).softmax(dim=0)
    return probs_V


def p_value(counts: Counter[int], probs_V: torch.Tensor) -> float:
    """Of the chi-square test; tokens that are expected fewer than five times are counted together."""
    n = sum(counts.values())
    observed_V = torch.tensor([float(counts[token]) for token in range(len(probs_V))], dtype=torch.float64)
    rare_V = probs_V * n < 5
    observed = [*observed_V[~rare_V].tolist(), float(observed_V[rare_V].sum())]
    expected = [*(probs_V[~rare_V] * n).tolist(), float(probs_V[rare_V].sum() * n)]
    assert len(observed) > 5
    if expected[-1] == 0:
        assert observed.pop() == expected.pop() == 0
    return float(chisquare(observed, expected).pvalue)


def test_first_tokens_come_as_often_as_the_softmax_says(policy: HfPolicy) -> None:
    temperature = 4.0
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    params = SamplingParams(temperature, 1, rows=5_000)
    (completions,) = policy.sample([SampleRequest(prompt, 10_000)], params, seed=0)
    counts = Counter(completion.token_ids[0] for completion in completions)
    probs_V = first_token_probs(policy, prompt, temperature)
    assert p_value(counts, probs_V) > 0.001
    # and the test can fail: the softmax of another temperature is told apart
    assert p_value(counts, first_token_probs(policy, prompt, temperature * 1.5)) < 0.001


LOG = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).log()


@pytest.mark.parametrize(
    ("uniform", "top_p", "token"),
    [
        (0.0, 1.0, 0),
        (0.51, 1.0, 2),  # never the token without probability
        (0.81, 1.0, 3),
        (1.0, 1.0, 3),  # cannot come, but must not leave the vocabulary
        (0.99, 0.4999, 0),  # the first token alone reaches it
        (0.62, 0.8, 0),  # of 0.8, 0.5 are the first token's
        (0.63, 0.8, 2),
        (0.99, 1e-9, 0),
    ],
)
def test_a_token_by_hand(uniform: float, top_p: float, token: int) -> None:
    tokens_R, logprobs_R = choose(LOG, torch.tensor([uniform]), SamplingParams(1.0, 1, top_p))
    assert tokens_R.tolist() == [token]
    assert logprobs_R.tolist() == [LOG[0, token].item()]  # of the whole distribution, whatever top_p cut off


@pytest.mark.parametrize("n", [4, choosing.BLOCK * choosing.BLOCK])
def test_a_row_that_is_not_a_number_spoils_no_other(n: int) -> None:
    """A GPU would stop at an index beyond the vocabulary, and say little."""
    logits_RV = torch.zeros(2, n)
    logits_RV[0, 1] = torch.nan
    tokens_R, logprobs_R = choose(logits_RV, torch.tensor([0.5, 0.5]), SamplingParams(1.0, 1))
    assert bool(((tokens_R >= 0) & (tokens_R < n)).all())
    assert bool(logprobs_R[0].isnan())
    assert float(logprobs_R[1]) == pytest.approx(-math.log(n), rel=1e-5)


def test_temperature_by_hand() -> None:
    # 0.5, 0.3 and 0.2 squared, over their sum of 0.38
    tokens_R, logprobs_R = choose(LOG, torch.tensor([0.67]), SamplingParams(0.5, 1))
    assert tokens_R.tolist() == [2]
    assert logprobs_R.exp().tolist() == pytest.approx([0.09 / 0.38])
    greedy_R, values_R = choose(LOG, torch.tensor([0.99]), SamplingParams(0.0, 1))
    assert (greedy_R.tolist(), values_R.tolist()) == ([0], [LOG[0, 0].item()])


def test_a_large_vocabulary_is_searched_in_blocks_with_the_same_result() -> None:
    n = choosing.BLOCK * choosing.BLOCK
    torch.manual_seed(0)
    logits_RV = 3 * torch.randn(64, n)
    logits_RV[:, ::3] = -torch.inf
    logits_RV[0, 5 * choosing.BLOCK : 9 * choosing.BLOCK] = -torch.inf  # whole blocks without a probability
    uniforms_R = torch.rand(64)
    uniforms_R[:4] = torch.tensor([0.0, 1.0, 1 - 2**-24, 0.5])
    tokens_R, logprobs_R = choose(logits_RV, uniforms_R, SamplingParams(1.0, 1))
    probs_RV = logits_RV.double().softmax(dim=1)
    cumulative_RV = probs_RV.cumsum(dim=1)
    upto_R = cumulative_RV.gather(1, tokens_R[:, None]).squeeze(1)
    own_R = probs_RV.gather(1, tokens_R[:, None]).squeeze(1)
    # the share lies within the token's own piece of the whole, to the rounding of fp32
    assert bool((uniforms_R.double() <= upto_R + 1e-6).all())
    assert bool((uniforms_R.double() >= upto_R - own_R - 1e-6).all())
    assert bool((own_R > 0).all())
    torch.testing.assert_close(logprobs_R.double(), own_R.log(), rtol=0, atol=1e-5)
    # and where V is no multiple of a block, or small, the plain way is taken: same tokens but for rounding
    plain_R, _ = choose(
        torch.cat([logits_RV, torch.full((64, 1), -torch.inf)], dim=1), uniforms_R, SamplingParams(1.0, 1)
    )
    assert int((plain_R == tokens_R).sum()) >= 60


def seeded(policy: HfPolicy, n: int) -> list[SampleRequest]:
    return [
        SampleRequest(encode_question(policy.tokenizer, problem), 1 + i % n, seed=1000 + i)
        for i, problem in enumerate(problems(1))
    ]


def check_same(first: Sequence[Completion], second: Sequence[Completion]) -> None:
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    for a, b in zip(first, second, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_a_request_with_its_own_seed_does_not_see_its_neighbours(policy: HfPolicy) -> None:
    params = SamplingParams(1.0, 25, rows=3)
    requests = seeded(policy, 3)
    together = policy.sample(requests, params, seed=0)
    backwards = policy.sample(requests[::-1], params, seed=9)[::-1]
    for request, one, other in list(zip(requests, together, backwards, strict=True))[1:4]:
        (alone,) = policy.sample([request], SamplingParams(1.0, 25), seed=5)
        assert len(one) == request.n_completions
        assert all(completion.prompt_ids == request.prompt_ids for completion in one)
        check_same(one, alone)
        check_same(one, other)


def test_a_shorter_limit_is_a_prefix(policy: HfPolicy) -> None:
    """One token more or less to sample gives nobody else's random numbers to anyone."""
    requests = [replace(request, n_completions=1) for request in seeded(policy, 1)]
    long = [group[0] for group in policy.sample(requests, SamplingParams(1.0, 40), seed=0)]
    short = [group[0] for group in policy.sample(requests, SamplingParams(1.0, 7), seed=0)]
    assert [c.token_ids[:7] for c in long] == [c.token_ids for c in short]
    assert {len(c.token_ids) for c in short} == {7}
    assert {c.finish_reason for c in short} == {FinishReason.LENGTH}


def test_completions_of_one_prompt_differ_and_a_seed_brings_them_back(policy: HfPolicy) -> None:
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    params = SamplingParams(3.0, 20)
    request = SampleRequest(prompt, 16)
    (first,), (again,), (other,) = (policy.sample([request], params, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert len({c.token_ids for c in first}) > 8
    assert len({c.token_ids for c in first} & {c.token_ids for c in other}) < 4
    twice = policy.sample([request, request], params, seed=3)  # the same prompt asked twice is not the same sample
    # log-probabilities may differ by rounding: matrix products are shared out otherwise with more rows
    assert [c.token_ids for c in twice[0]] == [c.token_ids for c in first]
    assert [c.token_ids for c in twice[1]] != [c.token_ids for c in first]


def test_finish_reasons(policy: HfPolicy) -> None:
    prompts = [encode_question(policy.tokenizer, problem) for problem in problems(2)]
    for completion in sampled(policy, prompts, SamplingParams(1.0, 30)):
        ended = completion.token_ids[-1] in policy.eos_ids
        assert (completion.finish_reason is FinishReason.STOP) == ended
        assert not set(completion.token_ids[:-1]) & set(policy.eos_ids)
        assert len(completion.logprobs) == len(completion.token_ids)
        assert ended or len(completion.token_ids) == 30
        assert "<|im_end|>" not in completion.text


def test_nothing_is_asked_for(policy: HfPolicy) -> None:
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    assert policy.sample([], SamplingParams(1.0, 5), seed=0) == []
    none, some = policy.sample([SampleRequest(prompt, 0), SampleRequest(prompt, 2)], SamplingParams(1.0, 5), seed=0)
    assert (len(none), len(some)) == (0, 2)


class Passes:
    """The decoder's inputs: prompts to prefill, and rows in each step."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, ...]] = []
        self.rows: list[int] = []


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    seen = Passes()
    prefill, step = Decoder.prefill, Decoder.step

    def seen_prefill(self: Decoder, cache: SlotCache, prompts: list[tuple[int, ...]], *others: Any) -> torch.Tensor:
        seen.prompts += prompts
        return prefill(self, cache, prompts, *others)

    def seen_step(self: Decoder, cache: SlotCache, tokens_R: torch.Tensor, *others: Any) -> torch.Tensor:
        seen.rows.append(len(tokens_R))
        return step(self, cache, tokens_R, *others)

    monkeypatch.setattr(Decoder, "prefill", seen_prefill)
    monkeypatch.setattr(Decoder, "step", seen_step)
    return seen


def groups_of(policy: HfPolicy) -> list[SampleRequest]:
    return [SampleRequest(encode_question(policy.tokenizer, problem), 4) for problem in problems(1)]


def lengths_of(groups: Sequence[tuple[Completion, ...]]) -> list[int]:
    return [len(completion.token_ids) for group in groups for completion in group]


def test_the_place_of_a_finished_row_is_taken_by_the_next(policy: HfPolicy, passes: Passes) -> None:
    requests = groups_of(policy)
    lengths = lengths_of(policy.sample(requests, SamplingParams(2.5, 60, rows=5), seed=0))
    assert passes.prompts == [request.prompt_ids for request in requests]  # once, though their rows come bit by bit
    assert len(set(lengths)) > 4
    # no work but the completions' own, and no place empty while one waits
    assert sum(passes.rows) == sum(length - 1 for length in lengths)
    places = [0] * 5  # when each is free again
    for length in lengths:
        places[places.index(min(places))] += length - 1
    assert len(passes.rows) == max(places)
    waves = sum(max(lengths[i : i + 5]) - 1 for i in range(0, 20, 5))
    assert len(passes.rows) < 0.85 * waves


def test_looking_seldom_and_padded_shapes_change_nothing(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: ends are looked at every few steps, and rows and widths come in multiples."""
    params = SamplingParams(2.5, 40, rows=6)
    expected = policy.sample(groups_of(policy), params, seed=0)
    for name, value in (("LOOK_EVERY", 7), ("ROW_STEP", 4), ("WIDTH_STEP", 64)):
        monkeypatch.setitem(getattr(slots, name), "cpu", value)
    found = policy.sample(groups_of(policy), params, seed=0)
    assert len(set(lengths_of(expected))) > 4
    for a, b in zip(expected, found, strict=True):
        check_same(a, b)


def test_prefill_in_pieces_changes_nothing(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = seeded(policy, 2)
    whole = policy.sample(requests, SamplingParams(1.0, 30), seed=0)
    monkeypatch.setattr(slots, "PREFILL_TOKENS", 300)
    pieces = policy.sample(requests, SamplingParams(1.0, 30), seed=0)
    for a, b in zip(whole, pieces, strict=True):
        check_same(a, b)


def test_merged_weights_follow_the_adapter_and_leave_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when sampling is broken off."""
    policy = shaken(HfPolicy("tiny", PolicyConfig(), seed=0), 0.05, only_b=True)
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    before = first_token_probs(policy, prompt, 1.0)

    def sample() -> tuple[Completion, ...]:
        return policy.sample([SampleRequest(prompt, 4)], SamplingParams(1.0, 20), seed=0)[0]

    adapted = sample()
    with policy.reference():
        assert sample() != adapted
    assert sample() == adapted
    with monkeypatch.context() as patch:
        patch.setattr(slots, "choose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sample()
    assert torch.equal(before, first_token_probs(policy, prompt, 1.0))
    shaken(policy, 0.1, seed=1, only_b=True)  # as an optimiser does: in place
    moved = sample()
    assert moved != adapted
    check_logprobs(policy, [moved], SamplingParams(1.0, 20))


def test_weights_are_merged_once_a_phase_and_let_go_when_training_begins(
    policy: HfPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[DenseWeights] = []

    def counted(model: Any, **how: Any) -> DenseWeights:
        merged.append(merge(model, **how))
        return merged[-1]

    monkeypatch.setattr(lora, "merge", counted)
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    row = Row(prompt, (5, 6))
    for n_phases in (1, 2):
        score_rows(policy, [row], temperature=1.0, token_budget=999)
        assert policy._decoder is None
        for _ in range(2):
            policy.sample([SampleRequest(prompt, 1)], SamplingParams(1.0, 2), seed=0)
        assert len(merged) == n_phases


PROMPTS = ((2, 8, 9, 10, 11), (2, 8, 9, 10, 11, 12, 13, 14, 15, 16), (2, 20, 21))


@pytest.fixture(scope="module")
def native() -> HfPolicy:
    return HfPolicy("tiny", PolicyConfig(sampler="native"), seed=0)


def natively(native: HfPolicy, temperature: float, n: int = 3, seed: int = 0, **others: Any) -> list[Completion]:
    requests = [SampleRequest(prompt, n) for prompt in PROMPTS]
    return [c for row in native.sample(requests, SamplingParams(temperature, 16, **others), seed=seed) for c in row]


@pytest.mark.parametrize("params", [SamplingParams(0.0, 16), SamplingParams(2.0, 16, 0.8, rows=4)])
def test_it_samples_what_our_decoder_samples(native: HfPolicy, params: SamplingParams) -> None:
    own = HfPolicy("tiny", PolicyConfig(sampler="own"), seed=0)
    requests = [SampleRequest(prompt, 3, seed=i or None) for i, prompt in enumerate(PROMPTS)]
    theirs, ours = (p.sample(requests, params, seed=5) for p in (native, own))
    assert len({c.token_ids for row in ours for c in row}) >= len(PROMPTS)
    for a, b in zip(theirs, ours, strict=True):
        assert [c.token_ids for c in a] == [c.token_ids for c in b]
        for x, y in zip(a, b, strict=True):
            assert x.logprobs == pytest.approx(y.logprobs, abs=1e-4)


def test_prompts_are_decoded_together_as_far_as_they_fit(native: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    generate = native.base_model.generate

    def seen(**keywords: Any) -> Any:
        calls.append(tuple(keywords["input_ids"].shape))
        # padded on the left, and the padding masked
        assert bool((keywords["attention_mask"][:, -1] == 1).all())
        assert bool((keywords["input_ids"][keywords["attention_mask"] == 0] == native.pad_id).all())
        # no setting of generation is left to a default
        assert keywords["do_sample"] is False
        assert {
            "max_new_tokens",
            "min_new_tokens",
            "repetition_penalty",
            "eos_token_id",
            "pad_token_id",
            "num_beams",
        } <= keywords.keys()
        return generate(**keywords)

    monkeypatch.setattr(native.base_model, "generate", seen)
    natively(native, 1.0, rows=4)
    assert [n for n, _ in calls] == [4, 4, 1]
    assert calls[0][1] == max(map(len, PROMPTS))


def test_the_seed_decides_and_the_global_one_is_left_alone(native: HfPolicy) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = natively(native, 1.0), natively(native, 1.0), natively(native, 1.0, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert [c.token_ids for c in first] == [c.token_ids for c in again] != [c.token_ids for c in other]
    assert len({c.token_ids for c in first}) > len(PROMPTS)  # completions of one prompt differ


def test_rows_are_cut_at_the_first_end_token() -> None:
    cut = _cut([5, 2, 0, 0], [-1.0, -2.0, -3.0, -4.0], {2, 0})
    assert (cut.token_ids, cut.logprobs, cut.finish_reason) == ([5, 2], [-1.0, -2.0], FinishReason.STOP)
    whole = _cut([5, 6], [-1.0, -2.0], {2})
    assert (whole.token_ids, whole.finish_reason) == ([5, 6], FinishReason.LENGTH)
