"""`expo-lite chat`: the base model and the trained one answer the same question, side by side."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval
from rich import box
from rich.console import Console, RenderableType
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
"""Tokens that are written at a time."""
NARROW = 72
"""Columns below which answers stand below one another."""


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
    """Of the replies."""
    bits: Literal[4, 16] | None = None
    """How many bits the weights have. Default: the run's own, as it was trained; of a model by itself 16."""
    base_model: str | None = None
    """The model below an adapter folder, if not the one that the adapter names."""

    def run(self) -> None:
        """Check, load, then answer."""
        check_values(self)
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("--prompt is empty. Give a question.")
        target = as_it_is(find_target(self.target, base_model=self.base_model, bits=self.bits), self.bits)
        chat(target, self, Terminal())


@dataclass(slots=True)
class Reply:
    """What one of the two is writing."""

    title: str
    text: str = ""
    ended: bool = False
    note: str = ""
    token_ids: list[int] = field(default_factory=list)


def chat(target: Target, asked: Chat, console: Console) -> None:
    """Answer the prompt, or every line that is typed, until the end of input.

    Raises:
        ExpoLiteError: whatever can be foreseen to go wrong.
    """
    from expo_lite.grading import Grader
    from expo_lite.policy.factory import load_policy

    say_device(console)
    with working(console, f"loading {target.label}"):
        policy = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    tokens = asked.max_completion_tokens or target.max_completion_tokens
    prompts = target.prompts
    in_form = find_model(target.model) is TINY
    if in_form:
        say(console, f"tiny knows one kind of question, that of the task hidden-rules, such as: {EXAMPLE}")
    with Grader() as grader:
        for number, question in enumerate(questions(asked, console)):
            own = in_lines(question) if in_form else question
            problem = Problem("chat", own, asked.show_answer or "", prompts=prompts)
            encode: Any = encode_question if asked.show_answer is None else encode_explanation
            prompt_ids = encode(policy.tokenizer, problem)
            params = SamplingParams(asked.temperature, tokens)
            replies = [
                Reply("base" if target.adapter else target.label),
                *([Reply("trained")] if target.adapter else []),
            ]
            with Display(replies, console) as show:
                for place, reply in enumerate(replies):
                    as_base = bool(target.adapter) and place == 0
                    for _ in written(policy, reply, prompt_ids, params, as_base=as_base, seed=asked.seed + number):
                        show()
                    if asked.show_answer is not None:
                        verdict = grader.grade(asked.show_answer, reply.text)
                        reply.note = "ends in the answer" if verdict.correct else f"not the answer: {verdict.reason}"
                        show()


def questions(asked: Chat, console: Console) -> Iterator[str]:
    """The prompt, or the lines of the input that are not blank."""
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
    policy: "Policy",
    reply: Reply,
    prompt_ids: tuple[int, ...],
    params: SamplingParams,
    *,
    as_base: bool,
    seed: int,
) -> Iterator[None]:
    """Write a reply piece by piece; comes back after each."""
    with policy.reference() if as_base else contextlib.nullcontext():
        while not reply.ended:
            room = min(PIECE, params.max_completion_tokens - len(reply.token_ids))
            request = SampleRequest((*prompt_ids, *reply.token_ids), 1)
            piece = SamplingParams(params.temperature, room, params.top_p)
            ((completion,),) = policy.sample([request], piece, seed=seed + len(reply.token_ids))
            reply.token_ids += completion.token_ids
            stopped = completion.finish_reason is FinishReason.STOP
            reply.ended = stopped or len(reply.token_ids) >= params.max_completion_tokens
            reply.note = "" if stopped or not reply.ended else f"cut off at {len(reply.token_ids)} tokens"
            ids = reply.token_ids[:-1] if stopped else reply.token_ids
            reply.text = policy.tokenizer.decode(ids)
            yield


class Display:
    """While this is open the replies are on the screen as they grow; without a terminal they are printed at its end."""

    def __init__(self, replies: list[Reply], console: Console) -> None:
        """Show nothing yet."""
        self._replies, self._console = replies, console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="visible")

    def __enter__(self) -> "Display":
        """Begin."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __call__(self) -> None:
        """Show what there is now."""
        if self._console.is_terminal:
            self._live.update(side_by_side(self._replies, self._console.width), refresh=True)

    def __exit__(self, *_: object) -> None:
        """Leave the last state where it is."""
        if self._console.is_terminal:
            self._live.stop()
            return
        for reply in self._replies:
            say(self._console, f"{heading(reply)}:\n{reply.text}\n")


def heading(reply: Reply) -> str:
    """Who writes, and what is to be said of it."""
    return f"{reply.title} ({reply.note})" if reply.note else reply.title


def side_by_side(replies: list[Reply], width: int) -> RenderableType:
    """The replies in columns, or below one another where there is too little room."""
    if width < NARROW:
        return Text("\n\n").join(Text.assemble((heading(r), "bold"), "\n", visible(r.text)) for r in replies)
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1))
    for reply in replies:
        table.add_column(Text(heading(reply)), ratio=1)
    table.add_row(*(Text(visible(reply.text)) for reply in replies))
    return table
