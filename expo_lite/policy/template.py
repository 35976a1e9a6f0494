"""The chat template of a policy: one text that fixes what else would change from day to day or program to program.

It is chosen once, at load, and from then on travels as the tokenizer's own: into checkpoints and every exported form.
What it fixes is written into the text, so that who applies it with no argument gets the prompt of training.
"""

import json
import re
import warnings
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from expo_lite.errors import ConfigError, ModelError
from expo_lite.prompts import FIXED, rendered
from expo_lite.run.target import ADAPTER_CONFIG
from expo_lite.settings.groups import PLAIN, PolicyConfig, Thinking
from expo_lite.settings.models import ASSETS

DAY = date(2024, 7, 26)
"""The date that every template is told; Llama's own, where a program gives none."""
ARGUMENTS = ("enable_thinking", "thinking")
"""The names by which templates take the choice: of Qwen3 and SmolLM3, and of Granite and DeepSeek."""
HOW = f"--chat-template FILE, or --chat-template {PLAIN} for a plain one."
_TURN = [{"role": "user", "content": "a"}]
_NOW = re.compile(r"strftime_now\(\s*(?:(['\"])(.*?)\1)?[^()]*\)")


def settle(tokenizer: Any, config: PolicyConfig, name: str) -> None:
    """Give the tokenizer of a model its one template, with the date and the choice to think fixed.

    A template given in place of the model's own is a warning, unless an adapter brings it.

    Args:
        tokenizer: the tokenizer of transformers, which is changed.
        config: `chat_template`, else the tokenizer's own is taken; and `thinking`.
        name: the model's name as typed, for errors.

    Raises:
        ConfigError: the file has no template, or the template cannot think or not think as asked.
        ModelError: the model has no template, or several and none by default.
    """
    file = ASSETS / "plain.jinja" if str(config.chat_template) == PLAIN else config.chat_template
    own = tokenizer.chat_template
    found = own if file is None else _read(file)
    if isinstance(found, dict) and "default" not in found:
        names = ", ".join(sorted(found))
        raise ModelError(f"Model '{name}' has chat templates named {names}, and no default. Give one in a file: {HOW}")
    template = found["default"] if isinstance(found, dict) else found
    if template is None:
        raise ModelError(f"Model '{name}' has no chat template. Give an instruct model, or a template: {HOW}")
    try:
        tokenizer.chat_template = _fixed(tokenizer, _dated(template), config.thinking, name)
    except TemplateError as error:
        raise ConfigError(f"The chat template of model '{name}' cannot be used: {error}.") from error
    is_other = isinstance(own, str) and bare(own) != bare(tokenizer.chat_template)
    if file is not None and is_other and not (file.parent / ADAPTER_CONFIG).exists():
        what = f"'{config.chat_template}' replaces the chat template that model '{name}' was trained with"
        warnings.warn(f"{what}: its replies may be much worse. Leave it out unless that is meant.", stacklevel=2)


def bare(template: str) -> str:
    """The template with the date fixed, and without the choice to think: what makes two of them the same."""
    return FIXED.sub("", _dated(template)).strip()


def _dated(template: str) -> str:
    return _NOW.sub(lambda call: repr(DAY.strftime(call[2] or "%d %b %Y")), template)


def _fixed(tokenizer: Any, template: str, thinking: Thinking, name: str) -> str:
    """The template with the choice to think in its first line, if it has one; one that was made stays with auto."""
    made = FIXED.match(template)
    if made and thinking == "auto":
        return template
    template = template[made.end() if made else 0 :]

    def prompt(**arguments: bool) -> str:
        return rendered(tokenizer, _TURN, chat_template=template, **arguments)

    for argument in ARGUMENTS:
        if prompt(**{argument: True}) != prompt(**{argument: False}):
            return f"{{%- set {argument} = {'true' if thinking == 'on' else 'false'} %}}\n{template}"
    always = prompt().rstrip().endswith("<think>")
    if thinking == ("off" if always else "on"):
        says = "always begins with a thought" if always else "does not say how to"
        raise ConfigError(f"--thinking {thinking} does nothing for model '{name}': its chat template {says}.")
    return template


def _read(file: Path) -> Any:
    """The template in a file, or those by name that a tokenizer_config.json has."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text)["chat_template"] if file.suffix == ".json" else text
        return {one["name"]: one["template"] for one in found} if isinstance(found, list) else found
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"Cannot read the chat template '{file}': {error}.") from error
