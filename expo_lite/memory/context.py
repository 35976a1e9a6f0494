"""Which problems fit into a model's context, before anything is sampled of them.

The rule: the longer one of a problem's two prompts, the one that shows the answer, and a completion of
`max_completion_tokens` must fit together. What does not is left out, and counted. An expert chain that does not fit
behind its prompt is left out alone.

Lengths are looked at in characters first, since tokenising a long text takes minutes: a token is at least one byte of
UTF-8, and at most as long as the longest of the vocabulary. Only what lies between is tokenised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from expo_lite.errors import ConfigError, DataError, ModelError
from expo_lite.memory.shapes import find_shape
from expo_lite.prompts import Turns, encode_explanation, encode_question, explanation_turns, question_turns
from expo_lite.records import Problem, Prompts

TEMPLATE_TOKENS = 512
"""More than a chat template adds to a turn; the number itself is looked at where this one does not decide."""
MERGED = 16
"""More tokens than a question changes where it meets what stands around it."""
GROWTH = 11
"""Bytes that normalisation makes at most of one that is not ASCII: NFKC makes 33 of the three of U+FDFA."""


@dataclass(frozen=True, slots=True)
class Context:
    """A model's longest sequence, and what a completion takes of it, in tokens."""

    tokens: int
    max_completion_tokens: int

    @property
    def room(self) -> int:
        """What is left for a prompt."""
        return self.tokens - self.max_completion_tokens


def fitting(
    problems: Sequence[Problem],
    model: str,
    max_completion_tokens: int,
    *,
    tokenizer: Callable[[], Any],
    warn: Callable[[str], None] = lambda line: None,
) -> list[Problem]:
    """The problems that fit, in their order; those that do not are counted in a warning.

    Args:
        problems: of one task.
        model: as typed.
        max_completion_tokens: the longest completion.
        tokenizer: asked for only where characters do not decide, or the model's sizes are not known without loading it.
        warn: told what is left out.

    Raises:
        ConfigError: a completion leaves no room for any prompt.
        DataError: no problem fits.
    """
    length = _length(model, tokenizer)
    if length is None or not problems:
        return list(problems)
    context = Context(length, max_completion_tokens)
    if context.room < 1:
        raise ConfigError(
            f"A completion of {max_completion_tokens:,} tokens leaves no room for a question: the context of model "
            f"'{model}' has {length:,}. Lower --max-completion-tokens."
        )
    kept = list(problems)
    if not all(_surely(p, context) for p in problems):
        kept = _kept(problems, context, _Measure(tokenizer()), warn)
    if not kept:
        raise DataError(
            f"No problem of {len(problems):,} fits: with completions of {max_completion_tokens:,} tokens no prompt "
            f"may have more than {context.room:,} of the {length:,} tokens of the context of model '{model}'. Lower "
            "--max-completion-tokens, or take shorter problems."
        )
    return kept


def _length(model: str, tokenizer: Callable[[], Any]) -> int | None:
    try:
        return find_shape(model).positions
    except ModelError:
        tokenizer()  # of a hub model, which is in the cache afterwards
    try:
        return find_shape(model).positions
    except ModelError:
        return None


def _most_tokens(text: str) -> int:
    """What a text can have at most."""
    return len(text) if text.isascii() else GROWTH * len(text.encode("utf-8", "surrogatepass"))


def _conversations(problem: Problem) -> tuple[Turns, Turns]:
    return question_turns(problem), explanation_turns(problem)


def _most_content_tokens(turns: Turns) -> int:
    """What is said in a conversation, without what the chat template adds to its turns."""
    return sum(_most_tokens(turn["content"]) for turn in turns)


def _surely(problem: Problem, context: Context) -> bool:
    """Whether prompt and chain fit, whatever the tokenizer."""
    prompt = max(TEMPLATE_TOKENS * len(turns) + _most_content_tokens(turns) for turns in _conversations(problem))
    return _fits(problem, prompt, context)


def _fits(problem: Problem, prompt: int, context: Context) -> bool:
    return prompt + max(context.max_completion_tokens, _most_tokens(problem.expert_chain or "") + 1) <= context.tokens


class _Measure:
    """Lengths in tokens, of texts that are short enough to be tokenised."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._longest_token = max(map(len, tokenizer.get_vocab()))
        self._around: dict[Prompts, tuple[tuple[int, int], ...]] = {}

    def bounds(self, problem: Problem) -> tuple[int, int]:
        """Fewest and most tokens of the longer prompt: those around question and answer, and what characters show."""
        around = self._around.get(problem.prompts)
        if around is None:
            empty = Problem("", "", "", prompts=problem.prompts)
            around = tuple(zip(self._lengths(empty), map(_most_content_tokens, _conversations(empty)), strict=True))
            self._around[problem.prompts] = around
        filled = map(_most_content_tokens, _conversations(problem))
        most = max(tokens + now - then for (tokens, then), now in zip(around, filled, strict=True))
        return max(tokens for tokens, _ in around) - MERGED, most + MERGED

    def prompt(self, problem: Problem, most: int) -> int:
        """Tokens of the longer prompt; `most` and one where characters show that they are more."""
        characters = max(sum(len(turn["content"]) for turn in turns) for turns in _conversations(problem))
        if characters > most * self._longest_token:
            return most + 1
        return max(self._lengths(problem))

    def _lengths(self, problem: Problem) -> tuple[int, int]:
        return len(encode_question(self._tokenizer, problem)), len(encode_explanation(self._tokenizer, problem))

    def chain(self, text: str, most: int) -> int:
        """Tokens of a chain and of the one that ends it, likewise."""
        too_long = len(text) > most * self._longest_token
        return most + 1 if too_long else len(self._tokenizer.encode(text, add_special_tokens=False)) + 1


def _kept(
    problems: Sequence[Problem], context: Context, measure: _Measure, warn: Callable[[str], None]
) -> list[Problem]:
    kept, n_chains = [], 0
    for problem in problems:
        least, most = measure.bounds(problem)
        if not _fits(problem, most, context):
            tokens = least if least > context.room else measure.prompt(problem, context.room)
            if tokens > context.room:
                continue
            left = context.tokens - tokens
            if problem.expert_chain and measure.chain(problem.expert_chain, left) > left:
                problem, n_chains = replace(problem, expert_chain=None), n_chains + 1
        kept.append(problem)
    if n_long := len(problems) - len(kept):
        warn(
            f"{n_long:,} of {len(problems):,} problems are left out: with completions of "
            f"{context.max_completion_tokens:,} tokens their prompts do not fit into the model's context of "
            f"{context.tokens:,}."
        )
    if n_chains:
        warn(f"{n_chains:,} expert chains are left out: they do not fit into the context behind their question.")
    return kept
