"""`expo-lite chat`: ask the base model and the trained one the same question, side by side."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from expo_lite.commands.command import Command, say_device
from expo_lite.errors import ConfigError
from expo_lite.prompts import encode_explanation, encode_question
from expo_lite.records import FinishReason, Problem, SampleRequest, SamplingParams
from expo_lite.run.progress import working
from expo_lite.run.target import Target, as_it_is, find_target
from expo_lite.settings.models import TINY, find_model
from expo_lite.settings.schema import AT_LEAST_1, SEED, check_values
from expo_lite.tasks.hidden_rules import EXAMPLE, in_lines
from expo_lite.terminal import Terminal, say, visible

if TYPE_CHECKING:
    from expo_lite.policy.base import Policy

PIECE = 16
"""Tokens to write at a time."""
BASE = "base"
"""The author of the reply without the adapter."""


@dataclass(frozen=True, kw_only=True)
class Chat(Command):
    """Ask a run and its base model the same questions, and read both answers side by side."""

    target: str
    """A run folder (its newest checkpoint), a checkpoint, an adapter folder, or a model."""
    prompt: str | None = None
    """One question to answer. Default: questions are read line by line, from the keyboard or a pipe."""
    show_answer: str | None = None
    """Show this answer after the question, as for a self-explanation, and say whether the reply ends in it."""
    temperature: Annotated[float, Interval(ge=0, le=100)] = 0.7
    """How random the replies are; 0 takes the most probable token."""
    max_completion_tokens: Annotated[int | None, AT_LEAST_1] = None
    """The longest reply in tokens. Default: the run's own, else by model."""
    seed: Annotated[int, SEED] = 0
    """The seed of the replies."""
    bits: Literal[4, 16] | None = None
    """How many bits the weights have. Default: the run's own, as it was trained; of a model by itself 16."""
    base_model: str | None = None
    """The model below an adapter folder, if not the one that the adapter names."""

    def run(self) -> None:
        """Answer the questions."""
        check_values(self)
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("--prompt is empty. Give a question.")
        target = as_it_is(find_target(self.target, base_model=self.base_model, bits=self.bits), self.bits)
        chat(target, self, Terminal())


@dataclass(slots=True)
class Reply:
    """A reply as it grows, with its author."""

    author: str
    text: str = ""
    ended: bool = False
    note: str = ""
    token_ids: list[int] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """The author, and the note in brackets."""
        return f"{self.author} ({self.note})" if self.note else self.author


def chat(target: Target, asked: Chat, console: Console) -> None:
    """Answer the prompt, or every line of the input.

    Raises:
        ExpoLiteError: the model cannot be loaded, or memory runs out.
    """
    from expo_lite.grading import Grader
    from expo_lite.policy.base import load_policy

    say_device(console)
    with working(console, f"loading {target.label}"):
        policy = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    is_tiny = find_model(target.model) is TINY
    if is_tiny:
        say(console, f"tiny knows one kind of question, that of the task hidden-rules, such as: {EXAMPLE}")
    params = SamplingParams(asked.temperature, asked.max_completion_tokens or target.max_completion_tokens)
    encode: Any = encode_question if asked.show_answer is None else encode_explanation
    with Grader() as grader:
        for number, question in enumerate(questions(asked, console)):
            text = in_lines(question) if is_tiny else question
            problem = Problem("chat", text, asked.show_answer or "", prompts=target.prompts)
            prompt_ids = encode(policy.tokenizer, problem)
            replies = [Reply(author) for author in ((BASE, "trained") if target.adapter else (target.label,))]
            live = Live(console=console, auto_refresh=False, vertical_overflow="visible")
            with live if console.is_terminal else contextlib.nullcontext():
                for reply in replies:
                    with policy.reference() if reply.author == BASE else contextlib.nullcontext():
                        for _ in written(policy, reply, prompt_ids, params, seed=asked.seed + number):
                            live.update(side_by_side(replies), refresh=console.is_terminal)
                    if asked.show_answer is not None:
                        verdict = grader.grade(asked.show_answer, reply.text)
                        reply.note = "ends in the answer" if verdict.correct else f"not the answer: {verdict.reason}"
                        live.update(side_by_side(replies), refresh=console.is_terminal)
            if not console.is_terminal:
                for reply in replies:
                    say(console, f"{reply.heading}:\n{reply.text}\n")


def questions(asked: Chat, console: Console) -> Iterator[str]:
    """Yield the prompt, or the lines of the input that are not blank."""
    if asked.prompt is not None:
        yield asked.prompt
        return
    typed = sys.stdin.isatty()
    if typed:
        say(console, "Each line is a question of its own, as in training. Ctrl-D ends.")
    while True:
        if typed:
            console.print("> ", end="")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            if not typed:
                say(console, f"> {line.strip()}")
            yield line.strip()


def written(
    policy: "Policy", reply: Reply, prompt_ids: tuple[int, ...], params: SamplingParams, *, seed: int
) -> Iterator[None]:
    """Write a reply piece by piece, and yield after each."""
    while not reply.ended:
        room = min(PIECE, params.max_completion_tokens - len(reply.token_ids))
        request = SampleRequest((*prompt_ids, *reply.token_ids), 1)
        piece = SamplingParams(params.temperature, room)
        ((completion,),) = policy.sample([request], piece, seed=seed + len(reply.token_ids))
        reply.token_ids += completion.token_ids
        stopped = completion.finish_reason is FinishReason.STOP
        reply.ended = stopped or len(reply.token_ids) >= params.max_completion_tokens
        reply.note = "" if stopped or not reply.ended else f"cut off at {len(reply.token_ids)} tokens"
        reply.text = policy.tokenizer.decode(reply.token_ids[:-1] if stopped else reply.token_ids)
        yield


def side_by_side(replies: list[Reply]) -> Table:
    """Return the replies in columns."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1))
    for reply in replies:
        table.add_column(Text(visible(reply.heading)), ratio=1)
    table.add_row(*(Text(visible(reply.text)) for reply in replies))
    return table
