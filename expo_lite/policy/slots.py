"""Completions being decoded, each in a slot; a slot whose completion has ended is taken by the next one that waits.

Everything that a step reads or writes is in buffers of a fixed size on the device. What is in which slot, and how far
along, the host knows without asking: a row gets a token in every step. Only which rows have ended must be looked at.

Axes: S slots, R rows (the slots that are decoded: the first ones), L longest completion in tokens, V vocabulary, H
hidden.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from expo_lite.memory.plan import CACHE_BLOCK, PREFILL_TOKENS, RECORDED_ROWS, RECORDED_WIDTH
from expo_lite.policy.choosing import choose
from expo_lite.policy.decoder import Decoder
from expo_lite.policy.replays import Replays
from expo_lite.records import FinishReason, SamplingParams

LOOK_EVERY = {"cpu": 1, "cuda": 8}
"""Steps between two looks at which rows have ended: on a GPU a look waits for everything before it."""
ROW_STEP = {"cpu": 1, "cuda": RECORDED_ROWS}
"""Rows are decoded in multiples of this, or all slots: on a GPU each number of rows is a recording, and a few rows more
cost nothing. The slots themselves are as many as were asked for: each has a cache of its own, which the memory plan and
its halving count."""
WIDTH_STEP = {"cpu": 8, "cuda": RECORDED_WIDTH}
"""Likewise of the positions that are attended to."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A completion to be sampled: its number, which is that of its random stream too, and which prompt it continues."""

    number: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """One completion's token ids and their log-probabilities; ended by end-of-sequence or by the limit."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class Slots:
    """The state of a sampling call."""

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
        """Empty slots.

        Args:
            decoder: of the merged weights.
            prompts: that the completions continue.
            uniforms_CL: a random stream for each completion, by its number.
            params: how to sample.
            n_slots: completions decoded at the same time.
            eos_ids: tokens that end a completion.
        """
        self._decoder, self._prompts, self._params, self._uniforms_CL = decoder, prompts, params, uniforms_CL
        self._eos_ids = frozenset(eos_ids)
        device, limit = decoder.device, params.max_completion_tokens
        self._kind = "cpu" if device.type == "cpu" else "cuda"
        self._most_positions = max(map(len, prompts)) + limit
        self._n_slots = n_slots
        on_cpu = self._kind == "cpu"
        room = max(map(len, prompts)) + 1 if on_cpu else self._most_positions
        self._cache = decoder.new_cache(self._n_slots, _up(room, CACHE_BLOCK))
        self._rope = decoder.rope_table(_up(self._most_positions, CACHE_BLOCK))
        n_vocabulary = decoder.weights.embeddings_VH.shape[0]
        self._is_end_V = torch.zeros(n_vocabulary, dtype=torch.bool, device=device)
        self._is_end_V[torch.tensor(list(eos_ids), dtype=torch.long, device=device)] = True

        def numbers(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(self._n_slots, *shape, dtype=dtype, device=device)

        self._slots_S = torch.arange(self._n_slots, device=device)
        self._last_S, self._prompt_tokens_S, self._count_S = numbers(), numbers(), numbers()
        self._running_S = numbers(dtype=torch.bool)
        # one column more: a row that has ended writes behind its end until it is looked at
        self._tokens_SL = numbers(limit + 1)
        self._logprobs_SL, self._uniforms_SL = (numbers(limit + 1, dtype=torch.float32) for _ in range(2))
        self._rows: list[Waiting] = []
        self._begun: list[int] = []
        self._n_steps = 0
        self._kept: tuple[int, tuple[torch.Tensor, ...], torch.Tensor] | None = None
        self._replays = Replays() if self._kind == "cuda" and torch.cuda.is_available() else None

    @property
    def n_rows(self) -> int:
        """Slots that are taken: the first ones."""
        return len(self._rows)

    @torch.no_grad()
    def fill(self, queue: deque[Waiting]) -> None:
        """Let the next ones in: their prompts are computed, and their first tokens chosen."""
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
        self._rows += taken
        self._begun += [self._n_steps] * len(taken)
        self._pick(torch.stack([hidden_of[row.prompt] for row in taken]), slots_R)

    def _pieces(self, prompts: list[int]) -> list[list[int]]:
        """Prompts in groups of at most `PREFILL_TOKENS` tokens."""
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
        """Keep the last prompt's keys and values while completions of it still wait."""
        if not queue or queue[0].prompt != prompt:
            self._kept = None
        elif self._kept is None or self._kept[0] != prompt:
            self._kept = prompt, self._cache.keep(slot, len(self._prompts[prompt])), hidden_of[prompt]

    @torch.no_grad()
    def step(self) -> None:
        """One token more for every row, as often as it takes until the next look."""
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
        """Positions that the next step's furthest row attends to, its own included."""
        return max(
            len(self._prompts[row.prompt]) + 1 + self._n_steps - begun
            for row, begun in zip(self._rows, self._begun, strict=True)
        )

    def advance(self, n_rows: int, width: int) -> None:
        """The step itself, of buffers alone."""
        slots_R = self._slots_S[:n_rows]
        # the last chosen token is the count-th of its completion; a row that has ended stays where it is
        positions_R = self._prompt_tokens_S[:n_rows] + self._count_S[:n_rows] - 1
        hidden_RH = self._decoder.step(self._cache, self._last_S[:n_rows], slots_R, positions_R, self._rope, width)
        self._pick(hidden_RH, slots_R)

    def _pick(self, hidden_RH: torch.Tensor, slots_R: torch.Tensor) -> None:
        """Choose each row's next token, and take down whether it is its last."""
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
        """Take out the rows that have ended, by number, and close the ranks."""
        running = self._running_S[: self.n_rows].tolist()
        ended = [slot for slot, runs in enumerate(running) if not runs]
        if not ended:
            return {}
        ended_E = torch.tensor(ended, device=self._decoder.device)
        counts, tokens, logprobs = (x[ended_E].tolist() for x in (self._count_S, self._tokens_SL, self._logprobs_SL))
        taken = {
            self._rows[slot].number: Sampled(ids[:n], values[:n], self._reason(ids[n - 1]))
            for slot, n, ids, values in zip(ended, counts, tokens, logprobs, strict=True)
        }
        self._close_ranks(running)
        return taken

    def _reason(self, last: int) -> FinishReason:
        return FinishReason.STOP if last in self._eos_ids else FinishReason.LENGTH

    def _close_ranks(self, running: list[bool]) -> None:
        """Move the last rows that go on into the slots that are free."""
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
            self._rows[hole], self._begun[hole] = self._rows[mover], self._begun[mover]
        del self._rows[n_left:], self._begun[n_left:]


def _up(n: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-n // step) * step
