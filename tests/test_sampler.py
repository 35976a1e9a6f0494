"""Our decoding against transformers' own, against the scorer, against the softmax; and against its neighbours."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from shaken import shaken
from smollm2 import gguf_file

from expo_lite.policy import sampler
from expo_lite.policy.batching import Row
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.sampler import choose
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import Completion, FinishReason, Problem, SampleRequest, SamplingParams
from expo_lite.settings.groups import PolicyConfig
from expo_lite.tasks.arithmetic import sums


def problems(n_a_level: int) -> list[Problem]:
    """Problems of all levels, mixed: prompts and replies of very different lengths."""
    drawn = [next(sums("train", level, seed=i)) for i in range(n_a_level) for level in (5, 1, 3, 2, 4)]
    return [Problem(str(i), d.question, str(d.values[-1])) for i, d in enumerate(drawn)]


@pytest.fixture(scope="module")
def policy() -> HfPolicy:
    return shaken(HfPolicy("tiny", PolicyConfig(), seed=0), 0.01, only_b=True)


def generated(policy: HfPolicy, prompts: Sequence[tuple[int, ...]], limit: int) -> list[tuple[int, ...]]:
    """What transformers' own `generate` says, greedily, each prompt alone; cut behind the first end token."""
    policy._peft.eval()
    replies = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = policy._model.generate(
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


def check_greedy(policy: HfPolicy, prompts: Sequence[tuple[int, ...]], limit: int, rows: Sequence[int]) -> None:
    """Token for token the same as `generate`, however many rows are decoded together."""
    expected = generated(policy, prompts, limit)
    assert len({len(prompt) for prompt in prompts}) > 1
    assert len({len(reply) for reply in expected}) > 1
    for n in rows:
        ours = sampled(policy, prompts, SamplingParams(0.0, limit, rows=n))
        assert [completion.token_ids for completion in ours] == expected


def test_greedy_decoding_is_that_of_generate(policy: HfPolicy) -> None:
    prompts = [encode_question(policy.tokenizer, problem) for problem in problems(1)]
    prompts += [encode_explanation(policy.tokenizer, problem) for problem in problems(1)]
    check_greedy(policy, prompts, 50, rows=(256, 3))
    ends = Counter(completion.finish_reason for completion in sampled(policy, prompts, SamplingParams(0.0, 50)))
    assert min(ends[FinishReason.STOP], ends[FinishReason.LENGTH]) > 0  # the limit cuts some of them


@pytest.mark.slow
def test_greedy_decoding_of_a_real_model_is_that_of_generate(pytestconfig: pytest.Config) -> None:
    policy = shaken(HfPolicy(str(gguf_file(pytestconfig)), PolicyConfig(), seed=0), 0.002, only_b=True)
    questions = ["What is 3 + 4?", "Say yes.", "Tom has 3 boxes of 12 pencils and loses 5 pencils. How many are left?"]
    questions += ["Name the capital of France in one word.", "List the numbers from 1 to 30, with commas between them."]
    prompts = [encode_question(policy.tokenizer, Problem(question, question, "7")) for question in questions]
    prompts.append(encode_explanation(policy.tokenizer, Problem("p", "What is 3 + 4?", "7")))
    check_greedy(policy, prompts, 48, rows=(256, 2))
    params = SamplingParams(0.8, 24, 0.95)
    check_logprobs(policy, policy.sample([SampleRequest(p, 2) for p in prompts], params, seed=0), params)


def check_logprobs(policy: HfPolicy, groups: Sequence[tuple[Completion, ...]], params: SamplingParams) -> None:
    """The sampler's log-probabilities are the scorer's, to 1e-4 nats."""
    completions = [completion for group in groups for completion in group]
    rows = [Row(completion.prompt_ids, completion.token_ids) for completion in completions]
    scored = score_rows(policy, rows, temperature=params.temperature, token_budget=2048)
    ours = torch.tensor([value for completion in completions for value in completion.logprobs])
    torch.testing.assert_close(ours, torch.cat(scored), rtol=0, atol=1e-4)


@pytest.mark.parametrize("params", [SamplingParams(1.0, 60), SamplingParams(0.7, 60), SamplingParams(2.0, 60, 0.8)])
def test_sampled_log_probabilities_are_the_scorers(policy: HfPolicy, params: SamplingParams) -> None:
    requests = [SampleRequest(encode_question(policy.tokenizer, problem), 3) for problem in problems(2)]
    groups = policy.sample(requests, params, seed=0)
    assert len({completion.token_ids for group in groups for completion in group}) > 10
    check_logprobs(policy, groups, params)


def first_token_probs(policy: HfPolicy, prompt: tuple[int, ...], temperature: float) -> torch.Tensor:
    """The softmax behind a prompt, by transformers' own forward pass, in double precision."""
    policy._peft.eval()
    with torch.no_grad():
        logits_V = policy._model(torch.tensor([prompt]), use_cache=False).logits[0, -1].double()
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


@pytest.mark.parametrize("temperature", [4.0, 8.0])
def test_first_tokens_come_as_often_as_the_softmax_says(policy: HfPolicy, temperature: float) -> None:
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    params = SamplingParams(temperature, 1, rows=5_000)
    (completions,) = policy.sample([SampleRequest(prompt, 20_000)], params, seed=0)
    counts = Counter(completion.token_ids[0] for completion in completions)
    probs_V = first_token_probs(policy, prompt, temperature)
    assert p_value(counts, probs_V) > 0.001
    # and the test can fail: the softmax of another temperature is told apart
    assert p_value(counts, first_token_probs(policy, prompt, temperature * 1.5)) < 0.001


def test_top_p_leaves_the_smallest_set_that_reaches_it(policy: HfPolicy) -> None:
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    probs_V = first_token_probs(policy, prompt, 6.0)
    order = probs_V.argsort(descending=True).tolist()
    mass, nucleus = 0.0, set()
    for token in order:
        if mass >= 0.6:
            break
        nucleus.add(token)
        mass += float(probs_V[token])
    assert 5 < len(nucleus) < len(order) / 2
    (completions,) = policy.sample([SampleRequest(prompt, 20_000)], SamplingParams(6.0, 1, 0.6, 20_000), seed=0)
    counts = Counter(completion.token_ids[0] for completion in completions)
    assert set(counts) == nucleus
    inside_V = torch.zeros_like(probs_V)
    inside_V[list(nucleus)] = probs_V[list(nucleus)] / mass
    assert p_value(counts, inside_V) > 0.001


LOG = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).log()


@pytest.mark.parametrize(
    ("uniform", "top_p", "token"),
    [
        (0.0, 1.0, 0),
        (0.49, 1.0, 0),
        (0.51, 1.0, 2),  # never the token without probability
        (0.79, 1.0, 2),
        (0.81, 1.0, 3),
        (1.0, 1.0, 0),  # cannot come, but must not leave the vocabulary
        (0.99, 0.4999, 0),  # the first token alone reaches it
        (0.99, 0.51, 2),
        (0.62, 0.8, 0),  # of 0.8, 0.5 are the first token's
        (0.63, 0.8, 2),
        (0.99, 0.81, 3),
        (0.99, 1e-9, 0),
    ],
)
def test_a_token_by_hand(uniform: float, top_p: float, token: int) -> None:
    tokens_R, logprobs_R = choose(LOG, torch.tensor([uniform]), SamplingParams(1.0, 1, top_p))
    assert tokens_R.tolist() == [token]
    assert logprobs_R.tolist() == [LOG[0, token].item()]  # of the whole distribution, whatever top_p cut off


def test_temperature_by_hand() -> None:
    # 0.5, 0.3 and 0.2 squared, over their sum of 0.38
    tokens_R, logprobs_R = choose(LOG, torch.tensor([0.67]), SamplingParams(0.5, 1))
    assert tokens_R.tolist() == [2]
    assert logprobs_R.exp().tolist() == pytest.approx([0.09 / 0.38])
    greedy_R, values_R = choose(LOG, torch.tensor([0.99]), SamplingParams(0.0, 1))
    assert (greedy_R.tolist(), values_R.tolist()) == ([0], [LOG[0, 0].item()])


def seeded(policy: HfPolicy, n: int) -> list[SampleRequest]:
    return [
        SampleRequest(encode_question(policy.tokenizer, problem), 1 + i % n, seed=1000 + i)
        for i, problem in enumerate(problems(1))
    ]


def check_same(first: Sequence[Completion], second: Sequence[Completion]) -> None:
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    for a, b in zip(first, second, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_a_request_with_its_own_seed_does_not_see_its_neighbours(policy: HfPolicy, rows: int) -> None:
    params = SamplingParams(1.0, 25, rows=rows)
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
    for limit in (1, 2):
        assert all(len(c.token_ids) <= limit for c in sampled(policy, prompts, SamplingParams(1.0, limit)))


def test_nothing_is_asked_for(policy: HfPolicy) -> None:
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    assert policy.sample([], SamplingParams(1.0, 5), seed=0) == []
    none, some = policy.sample([SampleRequest(prompt, 0), SampleRequest(prompt, 2)], SamplingParams(1.0, 5), seed=0)
    assert (len(none), len(some)) == (0, 2)


@pytest.fixture
def shapes(policy: HfPolicy) -> Iterator[list[tuple[int, int]]]:
    """Rows and tokens of each forward pass of the decoder."""
    seen: list[tuple[int, int]] = []

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(tuple(kwargs["input_ids"].shape))

    handle = policy._model.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    yield seen
    handle.remove()


def test_a_groups_prompt_is_prefilled_once_and_finished_rows_leave(
    policy: HfPolicy, shapes: list[tuple[int, int]]
) -> None:
    easy, hard = (encode_question(policy.tokenizer, problem) for problem in problems(1)[1::-1])
    width = max(len(easy), len(hard))
    groups = policy.sample([SampleRequest(easy, 8), SampleRequest(hard, 8)], SamplingParams(1.0, 60), seed=0)
    lengths = [len(completion.token_ids) for group in groups for completion in group]
    assert shapes[0] == (2, width)  # 2 prompts, 16 completions
    rows = [rows for rows, tokens in shapes[1:] if tokens == 1]
    assert len(rows) == len(shapes) - 1 == max(lengths) - 1
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > rows[-1]
    for step, n in enumerate(rows, 1):
        n_running = sum(length > step for length in lengths)
        assert n_running <= n <= n_running / (1 - sampler.LEAVE_SHARE) + 1


def test_rows_bound_what_is_decoded_together(policy: HfPolicy, shapes: list[tuple[int, int]]) -> None:
    requests = seeded(policy, 4)
    policy.sample(requests, SamplingParams(1.0, 5, rows=3), seed=0)
    assert max(rows for rows, _ in shapes) == 3


def test_prefill_in_pieces_changes_nothing(policy: HfPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = seeded(policy, 2)
    whole = policy.sample(requests, SamplingParams(1.0, 30), seed=0)
    monkeypatch.setattr(sampler, "PREFILL_TOKENS", 300)
    pieces = policy.sample(requests, SamplingParams(1.0, 30), seed=0)
    for a, b in zip(whole, pieces, strict=True):
        check_same(a, b)


@pytest.mark.parametrize("bits", [4, 16])
def test_dense_weights_for_sampling_leave_the_model_as_it_was(
    bits: Any, monkeypatch: pytest.MonkeyPatch, policy: HfPolicy
) -> None:
    """Also when sampling is broken off."""
    policy = shaken(HfPolicy("tiny", PolicyConfig(bits=bits), seed=0), 0.05, only_b=True)
    prompt = encode_question(policy.tokenizer, problems(1)[0])
    before = first_token_probs(policy, prompt, 1.0)
    adapted = policy.sample([SampleRequest(prompt, 4)], SamplingParams(1.0, 20), seed=0)
    with policy.reference():
        base = policy.sample([SampleRequest(prompt, 4)], SamplingParams(1.0, 20), seed=0)
    assert base != adapted

    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "choose", broken)
        with pytest.raises(KeyboardInterrupt):
            policy.sample([SampleRequest(prompt, 4)], SamplingParams(1.0, 20), seed=0)
    assert torch.equal(before, first_token_probs(policy, prompt, 1.0))
    layers: Callable[[], Iterator[Any]] = policy._model.modules
    assert not any("forward" in vars(module) for module in layers() if hasattr(module, "lora_A"))
