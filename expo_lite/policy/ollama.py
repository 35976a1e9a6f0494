"""Ollama's Modelfile of a GGUF file: the chat template as a Go template, and the tokens that end a turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from expo_lite.errors import ModelError


@dataclass(frozen=True, slots=True)
class ChatPieces:
    """What a chat template writes around what is said."""

    before_system: str | None
    """None where the template has no system turn."""
    after_system: str
    begin: str
    """Before the first question, where there is no system turn."""
    question_to_answer: str
    """Between a question and its answer, of a turn that is over."""
    answer_to_question: str
    generation: str
    """Behind the last question."""

    @classmethod
    def of(cls, tokenizer: Any) -> "ChatPieces":
        """Read off what the template makes of marked turns.

        Raises:
            ModelError: it changes what is said, or where.
        """
        question, answer, again = "QUESTION-MARK", "ANSWER-MARK", "AGAIN-MARK"
        rendered = _render(tokenizer, ("user", question), ("assistant", answer), ("user", again))
        try:
            begin, rest = rendered.split(question)
            to_answer, rest = rest.split(answer)
            to_question, _ = rest.split(again)
            only_begin, generation = _render(tokenizer, ("user", question)).split(question)
        except ValueError as error:
            raise ModelError(
                "The chat template does not keep turns as they are: Ollama cannot be told of it."
            ) from error
        before = after = None
        try:
            before, _, rest = _render(tokenizer, ("system", answer), ("user", question)).partition(answer)
            after, found, _ = rest.partition(question)
        except TemplateError:
            found = ""
        if only_begin != begin:
            raise ModelError("The chat template begins one turn and several unalike: Ollama cannot be told of it.")
        return cls(before if found else None, after or "", begin, to_answer, to_question, generation)

    def go_template(self) -> str:
        """The same as Go's text/template, over Ollama's .System and .Messages."""
        begin = self.begin
        if self.before_system is not None:
            begin = f"{{{{- if .System }}}}{self.before_system}{{{{ .System }}}}{self.after_system}"
            begin += f"{{{{ else }}}}{self.begin}{{{{ end }}}}\n"
        return (
            f"{begin}{{{{- range $i, $_ := .Messages }}}}\n"
            "{{- $last := eq (len (slice $.Messages $i)) 1 }}\n"
            '{{- if eq .Role "user" }}{{ .Content }}'
            f"{{{{ if $last }}}}{self.generation}{{{{ else }}}}{self.question_to_answer}{{{{ end }}}}\n"
            f'{{{{- else if eq .Role "assistant" }}}}{{{{ .Content }}}}{{{{ if not $last }}}}{self.answer_to_question}'
            "{{ end }}\n{{- end }}\n{{- end }}"
        )


def modelfile(tokenizer: Any, gguf_name: str, end_ids: Sequence[int], temperature: float, system: str = "") -> str:
    """A Modelfile beside a GGUF file; `system` is what the system says where a user says nothing else.

    Raises:
        ModelError: the chat template cannot be put into Ollama's, or what the system says cannot be quoted there.
    """
    if '"""' in system:
        raise ModelError('The system\'s turn has three quotation marks (""") in it, which end a text in a Modelfile.')
    stops = dict.fromkeys(tokenizer.convert_ids_to_tokens(list(end_ids)))
    lines = [
        f"FROM ./{gguf_name}",
        f'TEMPLATE """{ChatPieces.of(tokenizer).go_template()}"""',
        *([f'SYSTEM """{system}"""'] if system else []),
        *(f'PARAMETER stop "{stop}"' for stop in stops),
        f"PARAMETER temperature {temperature}",
    ]
    return "\n".join(lines) + "\n"


def _render(tokenizer: Any, *turns: tuple[str, str]) -> str:
    conversation = [{"role": role, "content": content} for role, content in turns]
    rendered: str = tokenizer.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return rendered
