"""`expo-lite chat`: ask the base model and the trained one the same question, side by side."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from rich.console import Console

from expo_lite.commands.command import Command, say_device, target_of
from expo_lite.errors import ConfigError
from expo_lite.memory.shapes import context_of
from expo_lite.prompts import encode_question
from expo_lite.records import FinishReason, Problem, SampleRequest, SamplingParams
from expo_lite.run.progress import working
from expo_lite.run.target import Target, as_it_is
from expo_lite.settings.measuring import LoadingConfig
from expo_lite.settings.models import TINY, find_model
from expo_lite.settings.schema import SEED, TOKENS, typed
from expo_lite.tasks.hidden_rules import EXAMPLE, in_lines
from expo_lite.terminal import Terminal, say, side_by_side

BASE = "base"
"""The author of the reply without the adapter."""


@dataclass(frozen=True, kw_only=True)
class Chat(LoadingConfig, Command):
    """Ask a run and its base model the same questions, and read both answers side by side.

    Example: expo-lite chat runs/first
    """

    target: str
    """A run folder (its newest checkpoint), a checkpoint, an adapter folder, or a model."""
    prompt: str | None = None
    """One question to answer. Default: questions are read line by line, from the keyboard or a pipe."""
    temperature: Annotated[float, Interval(ge=0, le=100)] = 0.7
    """The randomness of the replies; 0 takes the most probable token."""
    max_completion_tokens: Annotated[int | None, TOKENS] = None
    """The longest reply in tokens. Default: the run's own, else by model."""
    seed: Annotated[int, SEED] = 0
    """The seed of the replies."""

    def run(self) -> None:
        """Answer the questions."""
        typed(self)
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("--prompt is empty. Give a question.")
        target = as_it_is(target_of(self, self.target), self.bits)
        chat(target, self, Terminal())


def chat(target: Target, asked: Chat, console: Console) -> None:
    """Answer the prompt, or every line of the input.

    Raises:
        ExpoLiteError: the model cannot be loaded, or memory runs out.
    """
    from expo_lite.policy.factory import load_policy

    params = SamplingParams(asked.temperature, asked.max_completion_tokens or target.max_completion_tokens)
    if asked.max_completion_tokens:
        context_of(target.model, asked.max_completion_tokens, target.policy.revision)
    say_device(console, target)
    with working(console, f"loading {target.label}"):
        policy = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    is_tiny = find_model(target.model) is TINY
    if is_tiny:
        say(console, f"tiny knows one kind of question, that of the task hidden-rules, such as: {EXAMPLE}")
    for number, question in enumerate(questions(asked, console)):
        text = in_lines(question) if is_tiny else question
        request = SampleRequest(encode_question(policy.tokenizer, Problem("", text, "", prompts=target.prompts)), 1)
        replies = {}
        for author in (BASE, "trained") if target.adapter else (target.label,):
            with policy.reference() if author == BASE else contextlib.nullcontext():
                ((reply,),) = policy.sample([request], params, seed=asked.seed + number)
            cut_off = reply.finish_reason is not FinishReason.STOP
            note = f" (cut off at {len(reply.token_ids)} tokens)" if cut_off else ""
            replies[author + note] = reply.text
        show(replies, console)


def questions(asked: Chat, console: Console) -> Iterator[str]:
    """Yield the prompt, or the lines of the input that are not blank."""
    if asked.prompt is not None:
        yield asked.prompt
        return
    typed = sys.stdin.isatty()
    if typed:
        say(console, "Each line is a question of its own, as in training. `quit`, `exit` or Ctrl-D ends.")
    for line in filter(None, map(str.strip, sys.stdin)):
        if line.lower() in ("quit", "exit"):
            return
        if not typed:
            say(console, f"> {line}")
        yield line


def show(replies: dict[str, str], console: Console) -> None:
    """Print replies by author: in columns on a terminal, else one after the other."""
    if console.is_terminal:
        console.print(side_by_side(replies))
        return
    for author, text in replies.items():
        say(console, f"{author}:\n{text}\n")
