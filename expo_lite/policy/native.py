"""Sampling by the backend's own `generate`: that of transformers, or Unsloth's if Unsloth loaded the model.

As many completions as fit are decoded together, padded on the left. `generate` computes the scores; the next token is
chosen here, from a random stream a completion, and forced on it, so the same seed gives the same samples as our own
decoder. Unlike there, finished rows compute until the last one ends. The model's own generation settings must be
neutral (`LoraPolicy` sees to that), or `generate` would apply them too.

Axes: R rows (completions), T tokens, V vocabulary, L longest completion in tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from expo_lite.policy.choosing import choose, uniforms
from expo_lite.policy.slots import Sampled, by_request
from expo_lite.records import FinishReason, SampleRequest, SamplingParams


class Chooser(LogitsProcessor):
    """Chooses each row's next token, bars all others, and notes its log-probability."""

    def __init__(self, uniforms_RL: torch.Tensor, params: SamplingParams) -> None:
        """Take a random stream a row."""
        self._uniforms_RL, self._params = uniforms_RL, params
        self.taken: list[torch.Tensor] = []
        """Log-probabilities [R] of the tokens chosen so far, a tensor each."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Set the scores of all tokens except the chosen ones to minus infinity."""
        tokens_R, logprobs_R = choose(scores.float(), self._uniforms_RL[:, len(self.taken)], self._params)
        self.taken.append(logprobs_R)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens_R[:, None], 0.0)


def sample(
    model: Any,
    requests: Sequence[SampleRequest],
    params: SamplingParams,
    *,
    seed: int,
    eos_ids: Sequence[int],
    pad_id: int,
    on_ended: Callable[[int], None] = lambda n: None,
) -> list[list[Sampled]]:
    """Sample completions, one list a request, in order; `pad_id` pads prompts, the rest is as in `slots.sample`."""
    streams_CL = uniforms(requests, params.max_completion_tokens, seed)
    owners = [i for i, request in enumerate(requests) for _ in range(request.n_completions)]
    # rows of one generate are padded to one width
    order = sorted(range(len(owners)), key=lambda number: -len(requests[owners[number]].prompt_ids))
    done: dict[int, Sampled] = {}
    for start in range(0, len(order), params.rows):
        numbers = order[start : start + params.rows]
        prompts = [requests[owners[number]].prompt_ids for number in numbers]
        chooser = Chooser(streams_CL[numbers].to(model.device), params)
        rows = _generate(model, prompts, chooser, params.max_completion_tokens, eos_ids=eos_ids, pad_id=pad_id)
        done.update(zip(numbers, rows, strict=True))
        on_ended(len(rows))
    return by_request(requests, done)


def _generate(
    model: Any, prompts: Sequence[tuple[int, ...]], chooser: Chooser, limit: int, *, eos_ids: Sequence[int], pad_id: int
) -> list[Sampled]:
    width = max(map(len, prompts))
    padded = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    seen = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    # it takes the most probable token, the only one that `Chooser` leaves; no default may change that
    sequences_RT = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(seen, device=model.device),
        logits_processor=[chooser],
        do_sample=False,
        num_return_sequences=1,
        num_beams=1,
        max_new_tokens=limit,
        min_new_tokens=0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=list(eos_ids),
        pad_token_id=pad_id,
        use_cache=True,
        return_dict_in_generate=False,
    )
    # lists are copies: what generate returns may be an inference tensor, or be overwritten by the next call
    tokens, logprobs = sequences_RT[:, width:].tolist(), torch.stack(chooser.taken, dim=1).tolist()
    return [_cut(ids, values, set(eos_ids)) for ids, values in zip(tokens, logprobs, strict=True)]


def _cut(ids: list[int], logprobs: list[float], eos_ids: set[int]) -> Sampled:
    """Cut a row after its first end token; the rest is padding."""
    for i, token in enumerate(ids):
        if token in eos_ids:
            return Sampled(ids[: i + 1], logprobs[: i + 1], FinishReason.STOP)
    return Sampled(ids, logprobs, FinishReason.LENGTH)
