"""Sampling with our own decoder: requests of any kind together, each completion from a random stream of its own.

What is sampled does not depend on which completions happen to be decoded together, but for rounding: matrix products
are shared out otherwise among more rows.

Axes: C completions, L longest completion in tokens.
"""

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from expo_lite.policy.decoder import Decoder
from expo_lite.policy.slots import Sampled, Slots, Waiting
from expo_lite.records import Completion, SampleRequest, SamplingParams


def sample(
    decoder: Decoder,
    requests: Sequence[SampleRequest],
    params: SamplingParams,
    *,
    seed: int,
    eos_ids: Sequence[int],
    on_ended: Callable[[int], None] = lambda n: None,
) -> list[list[Sampled]]:
    """Sample completions, one list a request, in order.

    Args:
        decoder: of the model's merged weights.
        requests: prompts with the number of completions wanted of each.
        params: temperature (0: greedy), top_p, longest completion in tokens, and rows decoded at the same time.
        seed: of the random streams, one a completion; a request may have its own seed.
        eos_ids: tokens that end a completion; the one that did is its last token.
        on_ended: told how many completions have just ended.

    Returns:
        Token ids with their log-probabilities under the full distribution at the sampling temperature (for greedy
        decoding, and whatever top_p is: at temperature 1 or as given, without the nucleus).
    """
    owners = [i for i, request in enumerate(requests) for _ in range(request.n_completions)]
    queue = deque(Waiting(number, owner) for number, owner in enumerate(owners))
    done: dict[int, Sampled] = {}
    if queue:
        slots = Slots(
            decoder,
            [request.prompt_ids for request in requests],
            uniforms(requests, params.max_completion_tokens, seed),
            params,
            n_slots=min(params.rows, len(queue)),
            eos_ids=eos_ids,
        )
        while queue or slots.n_rows:
            slots.fill(queue)
            ended = slots.harvest()  # a first token may be the last
            if slots.n_rows:
                slots.step()
                ended |= slots.harvest()
            done |= ended
            if ended:
                on_ended(len(ended))
    return by_request(requests, done)


def by_request(requests: Sequence[SampleRequest], done: Mapping[int, Sampled]) -> list[list[Sampled]]:
    """What was sampled by number, which runs through the requests, as one list a request."""
    numbers = itertools.count()
    return [[done[next(numbers)] for _ in range(request.n_completions)] for request in requests]


def uniforms(requests: Sequence[SampleRequest], n_tokens: int, seed: int) -> torch.Tensor:
    """A uniform number [C, L] for each token that may be sampled."""
    shared = torch.Generator().manual_seed(seed)
    rows = [torch.empty(0, n_tokens)]
    for request in requests:
        own = shared if request.seed is None else torch.Generator().manual_seed(request.seed)
        rows.append(torch.rand(request.n_completions, n_tokens, generator=own))
    return torch.cat(rows)


def to_completion(prompt_ids: tuple[int, ...], sampled: Sampled, tokenizer: Any) -> Completion:
    """A sampled row as a record, with its text."""
    text = tokenizer.decode(sampled.token_ids, skip_special_tokens=True)
    return Completion(prompt_ids, tuple(sampled.token_ids), tuple(sampled.logprobs), text, sampled.finish_reason)
