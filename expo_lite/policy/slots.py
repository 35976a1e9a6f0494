"""Sampling with our own decoder, by continuous batching: when a completion ends, the next one takes its slot.

All that a step reads or writes is in buffers of a fixed size on the device. The host knows which completion is in which
slot, and its length, since every row gets a token in every step; it only has to look which rows have ended.

Each completion has a random stream of its own. Its tokens do not depend on which others are decoded beside it, except
for rounding: matrix products are split differently among more rows.

Axes: C completions, S slots, R rows (the first slots, those in use), L longest completion in tokens, V vocabulary, H
hidden.
"""

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from expo_lite.memory.plan import CACHE_BLOCK, PREFILL_TOKENS, RECORDED_ROWS, RECORDED_WIDTH
from expo_lite.policy.choosing import choose, uniforms
from expo_lite.policy.decoder import Decoder, Replays
from expo_lite.records import FinishReason, SampleRequest, SamplingParams

LOOK_EVERY = {"cpu": 1, "cuda": 8}
"""Steps between two looks at which rows have ended: on a GPU a look waits for everything before it."""
ROW_STEP = {"cpu": 1, "cuda": RECORDED_ROWS}
"""Rows are decoded in multiples of this, up to all slots: on a GPU each number of rows is a recording, and a few more
rows cost nothing."""
WIDTH_STEP = {"cpu": 8, "cuda": RECORDED_WIDTH}
"""Positions attended to come in multiples of this."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A completion to sample: its number, which is also that of its random stream, and the index of its prompt."""

    number: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """Token ids of one completion, their log-probabilities, and why it ended."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class Slots:
    """The state of one sampling call."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[tuple[int, ...]],
        uniforms_CL: torch.Tensor,
        params: SamplingParams,
        *,
        n_slots: int,
        eos_ids: Sequence[int],
    ) -> None:
        """Make `n_slots` empty slots; row c of `uniforms_CL` is the random stream of completion c."""
        self._decoder, self._prompts, self._params, self._uniforms_CL = decoder, prompts, params, uniforms_CL
        self._eos_ids = frozenset(eos_ids)
        device, limit = decoder.device, params.max_completion_tokens
        self._kind = "cpu" if device.type == "cpu" else "cuda"
        # a width that is no multiple of 8 makes attention on a GPU pad its mask in every layer
        self._most_positions = _up(max(map(len, prompts)) + limit, 8)
        self._n_slots = n_slots
        room = max(map(len, prompts)) + 1 if self._kind == "cpu" else self._most_positions
        self._cache = decoder.new_cache(n_slots, _up(room, CACHE_BLOCK))
        self._rope = decoder.rope_table(_up(self._most_positions, CACHE_BLOCK))
        n_vocabulary = decoder.weights.embeddings_VH.shape[0]
        self._is_end_V = torch.zeros(n_vocabulary, dtype=torch.bool, device=device)
        self._is_end_V[torch.tensor(list(eos_ids), dtype=torch.long, device=device)] = True

        def numbers(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(self._n_slots, *shape, dtype=dtype, device=device)

        self._slots_S = torch.arange(self._n_slots, device=device)
        self._last_S, self._prompt_tokens_S, self._count_S = numbers(), numbers(), numbers()
        self._running_S = numbers(dtype=torch.bool)
        # one more column: a row that has ended writes after its end until the next look
        self._tokens_SL = numbers(limit + 1)
        self._logprobs_SL, self._uniforms_SL = (numbers(limit + 1, dtype=torch.float32) for _ in range(2))
        self._rows: list[tuple[Waiting, int]] = []  # each with the step at which it has begun
        self._n_steps = 0
        self._kept: tuple[int, tuple[torch.Tensor, ...], torch.Tensor] | None = None
        self._replays = Replays() if self._kind == "cuda" and torch.cuda.is_available() else None

    @property
    def n_rows(self) -> int:
        """Slots in use: the first ones."""
        return len(self._rows)

    @torch.no_grad()
    def fill(self, queue: deque[Waiting]) -> None:
        """Move waiting completions into free slots: prefill their prompts and choose their first tokens."""
        taken = [queue.popleft() for _ in range(min(self._n_slots - self.n_rows, len(queue)))]
        if not taken:
            return
        first = self.n_rows
        slots_of: dict[int, list[int]] = {}
        for slot, row in enumerate(taken, first):
            slots_of.setdefault(row.prompt, []).append(slot)
        hidden_of: dict[int, torch.Tensor] = {}
        if self._kept is not None and self._kept[0] in slots_of:
            prompt, kept, hidden_of[prompt] = self._kept
            self._cache.restore(kept, slots_of.pop(prompt))
        for piece in self._pieces(list(slots_of)):
            hidden_PH = self._decoder.prefill(
                self._cache, [self._prompts[p] for p in piece], [slots_of[p] for p in piece], self._rope
            )
            hidden_of |= dict(zip(piece, hidden_PH, strict=True))
        self._keep_unfinished(taken[-1].prompt, first + len(taken) - 1, hidden_of, queue)
        device = self._decoder.device
        slots_R = torch.arange(first, first + len(taken), device=device)
        self._prompt_tokens_S[slots_R] = torch.tensor([len(self._prompts[row.prompt]) for row in taken], device=device)
        self._count_S[slots_R] = 0
        self._running_S[slots_R] = True
        streams = self._uniforms_CL[[row.number for row in taken]]
        self._uniforms_SL[slots_R, : streams.shape[1]] = streams.to(device)
        self._rows += [(row, self._n_steps) for row in taken]
        self._pick(torch.stack([hidden_of[row.prompt] for row in taken]), slots_R)

    def _pieces(self, prompts: list[int]) -> list[list[int]]:
        """Split prompts into groups of at most `PREFILL_TOKENS` tokens."""
        pieces: list[list[int]] = []
        n_tokens = 0
        for prompt in prompts:
            n_tokens += len(self._prompts[prompt])
            if not pieces or n_tokens > PREFILL_TOKENS:
                pieces.append([])
                n_tokens = len(self._prompts[prompt])
            pieces[-1].append(prompt)
        return pieces

    def _keep_unfinished(
        self, prompt: int, slot: int, hidden_of: dict[int, torch.Tensor], queue: deque[Waiting]
    ) -> None:
        """Keep the last prompt's keys and values while some of its completions still wait."""
        if not queue or queue[0].prompt != prompt:
            self._kept = None
        elif self._kept is None or self._kept[0] != prompt:
            self._kept = prompt, self._cache.keep(slot, len(self._prompts[prompt])), hidden_of[prompt]

    @torch.no_grad()
    def step(self) -> None:
        """Decode one more token for every row, repeatedly until the next look."""
        for _ in range(LOOK_EVERY[self._kind]):
            width = min(_up(self._width(), WIDTH_STEP[self._kind]), self._most_positions)
            if width > self._cache.n_positions:
                self._cache.grow(_up(width, CACHE_BLOCK))
            n_rows = min(_up(self.n_rows, ROW_STEP[self._kind]), self._n_slots)
            if self._replays is not None:
                self._replays((n_rows, width), partial(self.advance, n_rows, width))
            else:
                self.advance(n_rows, width)
            self._n_steps += 1

    def _width(self) -> int:
        """Positions that the longest row attends to in the next step, its own included."""
        return max(len(self._prompts[row.prompt]) + 1 + self._n_steps - begun for row, begun in self._rows)

    def advance(self, n_rows: int, width: int) -> None:
        """The step itself, which uses buffers only."""
        slots_R = self._slots_S[:n_rows]
        # the last token chosen is the count-th of its completion; a row that has ended does not move on
        positions_R = self._prompt_tokens_S[:n_rows] + self._count_S[:n_rows] - 1
        hidden_RH = self._decoder.step(self._cache, self._last_S[:n_rows], slots_R, positions_R, self._rope, width)
        self._pick(hidden_RH, slots_R)

    def _pick(self, hidden_RH: torch.Tensor, slots_R: torch.Tensor) -> None:
        """Choose each row's next token, and note whether it is the last."""
        count_R = self._count_S[slots_R]
        tokens_R, logprobs_R = choose(
            self._decoder.logits(hidden_RH), self._uniforms_SL[slots_R, count_R], self._params
        )
        self._last_S[slots_R] = tokens_R
        self._tokens_SL[slots_R, count_R] = tokens_R
        self._logprobs_SL[slots_R, count_R] = logprobs_R
        running_R = self._running_S[slots_R]
        count_R = count_R + running_R
        self._count_S[slots_R] = count_R
        self._running_S[slots_R] = (
            running_R & ~self._is_end_V[tokens_R] & (count_R < self._params.max_completion_tokens)
        )

    @torch.no_grad()
    def harvest(self) -> dict[int, Sampled]:
        """Take out the rows that have ended, by completion number, and fill the gaps."""
        running = self._running_S[: self.n_rows].tolist()
        ended = [slot for slot, runs in enumerate(running) if not runs]
        if not ended:
            return {}
        ended_E = torch.tensor(ended, device=self._decoder.device)
        counts, tokens, logprobs = (x[ended_E].tolist() for x in (self._count_S, self._tokens_SL, self._logprobs_SL))
        taken = {
            self._rows[slot][0].number: Sampled(ids[:n], values[:n], self._reason(ids[n - 1]))
            for slot, n, ids, values in zip(ended, counts, tokens, logprobs, strict=True)
        }
        self._fill_gaps(running)
        return taken

    def _reason(self, last: int) -> FinishReason:
        return FinishReason.STOP if last in self._eos_ids else FinishReason.LENGTH

    def _fill_gaps(self, running: list[bool]) -> None:
        """Move the last running rows into free slots, so that the rows are the first slots again."""
        n_left = sum(running)
        holes = [slot for slot in range(n_left) if not running[slot]]
        movers = [slot for slot in range(n_left, len(running)) if running[slot]]
        if holes:
            device = self._decoder.device
            targets, sources = torch.tensor(holes, device=device), torch.tensor(movers, device=device)
            self._cache.move(sources, targets, min(self._width(), self._cache.n_positions))
            for state in (self._last_S, self._prompt_tokens_S, self._count_S, self._running_S, self._tokens_SL,
                          self._logprobs_SL, self._uniforms_SL):  # fmt: skip
                state[targets] = state[sources]
        self._running_S[n_left : len(running)] = False
        for hole, mover in zip(holes, movers, strict=True):
            self._rows[hole] = self._rows[mover]
        del self._rows[n_left:]


def _up(n: int, step: int) -> int:
    """Round up to a multiple of `step`."""
    return -(-n // step) * step


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
        params: temperature (0: greedy), top_p, longest completion, and rows decoded at the same time.
        seed: of the random streams, one a completion; a request may have its own seed.
        eos_ids: tokens that end a completion, and are its last token then.
        on_ended: called with the number of completions that have just ended.

    Returns:
        Token ids with their log-probabilities under the full distribution at the sampling temperature (1 for greedy
        decoding), whatever top_p is.
    """
    owners = [i for i, request in enumerate(requests) for _ in range(request.n_completions)]
    queue = deque(Waiting(number, owner) for number, owner in enumerate(owners))
    done: dict[int, Sampled] = {}
    if queue:
        prompts, streams_CL = [r.prompt_ids for r in requests], uniforms(requests, params.max_completion_tokens, seed)
        n_slots = min(params.rows, len(queue))
        slots = Slots(decoder, prompts, streams_CL, params, n_slots=n_slots, eos_ids=eos_ids)
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
    """Sort completions by number, which runs through the requests, into one list a request."""
    numbers = itertools.count()
    return [[done[next(numbers)] for _ in range(request.n_completions)] for request in requests]
