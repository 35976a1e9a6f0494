"""Sampling by the backend's own generate: transformers', or Unsloth's faster one where Unsloth loaded the model.

The completions of one prompt are decoded together and nothing else with them: there is no padding to get wrong, and nothing for
left padding, which Unsloth switches on, to change. Finished rows go on computing until the last one ends, which is what our own
loop does better. The model's own generation settings must have been made neutral (`LoraPolicy` does): generate would mix them in.

Axes: R rows (completions of one prompt), T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from expo_lite.policy.sampler import Sampled
from expo_lite.records import FinishReason, SampleRequest, SamplingParams


class Recorder(LogitsProcessor):
    """Takes down the log-probability of each token: when it has been chosen, that is when the next one's logits come."""

    def __init__(self, temperature: float) -> None:
        """Nothing taken down yet."""
        self._temperature = temperature
        self._pending_RV: torch.Tensor | None = None
        self._taken: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note the token that was chosen last, and keep the distribution of the next one; changes nothing."""
        self._note(input_ids)
        self._pending_RV = (scores.float() / self._temperature).log_softmax(dim=1)
        return scores

    def logprobs(self, sequences_RT: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [R, T] of the new tokens of what generate returned, which holds the last of them."""
        self._note(sequences_RT)
        return torch.cat(self._taken, dim=1)

    def _note(self, input_ids_RT: torch.Tensor) -> None:
        if self._pending_RV is not None:
            self._taken.append(self._pending_RV.gather(1, input_ids_RT[:, -1:]))


def sample(
    model: Any,
    requests: Sequence[SampleRequest],
    params: SamplingParams,
    *,
    seed: int,
    eos_ids: Sequence[int],
    pad_id: int,
) -> list[list[Sampled]]:
    """Sample completions, one list a request, in order; arguments and results as those of `sampler.sample`."""
    device = model.get_input_embeddings().weight.device
    results = []
    with torch.random.fork_rng():  # generate draws from torch's own generators
        for request, own_seed in zip(requests, request_seeds(requests, seed), strict=True):
            torch.manual_seed(own_seed)
            rows: list[Sampled] = []
            while len(rows) < request.n_completions:
                n = min(params.rows, request.n_completions - len(rows))
                prompts_RT = torch.tensor([request.prompt_ids] * n, device=device)
                rows += _generate(model, prompts_RT, params, eos_ids=eos_ids, pad_id=pad_id)
            results.append(rows)
    return results


def request_seeds(requests: Sequence[SampleRequest], seed: int) -> list[int]:
    """A seed for each request: its own, or one drawn for it from that of the call."""
    drawn = torch.randint(2**62, (len(requests),), generator=torch.Generator().manual_seed(seed)).tolist()
    return [d if request.seed is None else request.seed for d, request in zip(drawn, requests, strict=True)]


def _generate(
    model: Any, prompts_RT: torch.Tensor, params: SamplingParams, *, eos_ids: Sequence[int], pad_id: int
) -> list[Sampled]:
    recorder = Recorder(params.temperature or 1.0)
    sequences_RT = model.generate(
        input_ids=prompts_RT,
        attention_mask=torch.ones_like(prompts_RT),
        logits_processor=[recorder],
        **generate_arguments(params, eos_ids=eos_ids, pad_id=pad_id),
    )
    # lists are copies: what generate returns may be an inference tensor, or be overwritten by the next call
    logprobs = recorder.logprobs(sequences_RT).tolist()
    tokens = sequences_RT[:, prompts_RT.shape[1] :].tolist()
    return [_cut(ids, values, set(eos_ids)) for ids, values in zip(tokens, logprobs, strict=True)]


def generate_arguments(params: SamplingParams, *, eos_ids: Sequence[int], pad_id: int) -> dict[str, Any]:
    """Every argument of generate that bears on what is sampled, so that no default of a model or library does."""
    chosen: dict[str, Any] = {"do_sample": False}
    if params.temperature:
        chosen = {"do_sample": True, "temperature": params.temperature, "top_p": params.top_p, "top_k": 0}
    return chosen | {
        "num_return_sequences": 1,
        "num_beams": 1,
        "max_new_tokens": params.max_completion_tokens,
        "min_new_tokens": 0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "eos_token_id": list(eos_ids),
        "pad_token_id": pad_id,
        "use_cache": True,
        "return_dict_in_generate": False,
    }


def _cut(ids: list[int], logprobs: list[float], eos_ids: set[int]) -> Sampled:
    """A row up to its first end token; what generate padded it with is dropped."""
    for i, token in enumerate(ids):
        if token in eos_ids:
            return Sampled(ids[: i + 1], logprobs[: i + 1], FinishReason.STOP)
    return Sampled(ids, logprobs, FinishReason.LENGTH)
