"""Chat templates at load: thinking, dates, names, files; and expert chains with thoughts.

The templates here behave as those of the models they are named after in what is at issue, and in nothing else.
"""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from expo_lite.commands import cli
from expo_lite.commands.eval import asked_alike
from expo_lite.errors import ConfigError, ModelError
from expo_lite.memory.limits import fitting
from expo_lite.policy.export import write_adapter, write_merged
from expo_lite.policy.factory import load_policy
from expo_lite.policy.load import load_tokenizer
from expo_lite.policy.template import settle
from expo_lite.prompts import chain_text, encode_question, rendered, thinks
from expo_lite.records import Problem
from expo_lite.run.target import find_target, resolve_run
from expo_lite.settings.groups import PLAIN, PolicyConfig
from expo_lite.settings.models import PRESETS
from expo_lite.settings.train import TrainConfig

QWEN3 = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set thought, content = '', message.content %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.last or thought %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
        {{- content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
R1 = """\
{{ bos_token }}{% for message in messages if message['role'] == 'system' %}{{ message['content'] }}{% endfor %}\
{% for message in messages if message['role'] != 'system' %}\
{% if message['role'] == 'user' %}{{ '<User>' + message['content'] }}{% else %}\
{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}\
{% endif %}{{ '<Assistant>' + content + eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<Assistant><think>\\n' }}{% endif %}"""
OLD_R1 = R1.replace("<Assistant><think>\\n", "<Assistant>")
SMOLLM3 = """\
{%- set off = enable_thinking is defined and not enable_thinking %}
{{- '<|im_start|>system\\nToday: ' + strftime_now("%d %B %Y") + (' /no_think' if off else ' /think') }}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and off %}{{- '<think>\\n\\n</think>\\n' }}{%- endif %}
    {{- message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n' if off else '') }}
{%- endif %}"""
LLAMA = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{%- if messages[0].role == 'system' %}{{- messages[0].content | trim }}{%- endif %}
{{- "<|eot_id|>" }}
{%- for message in messages if message.role != 'system' %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
BUILT_IN: Any = AutoTokenizer.from_pretrained(PRESETS["tiny"].source, local_files_only=True)
PROBLEM = Problem("p1", "1 + 1?", "2")
THOUGHT = "<think>\nOne and one.\n</think>\n\nIt is \\boxed{2}."


def settled(template: Any, **policy: Any) -> Any:
    """The built-in model's tokenizer with another template."""
    tokenizer = copy.copy(BUILT_IN)
    tokenizer.chat_template = template or tokenizer.chat_template
    settle(tokenizer, PolicyConfig(**policy), "mine")
    return tokenizer


def prompt(tokenizer: Any) -> str:
    return str(tokenizer.decode(encode_question(tokenizer, PROBLEM)))


def turn(tokenizer: Any, chain: str) -> str:
    """The ids that are trained on, prompt and chain, from where the assistant's turn begins."""
    text = chain_text(tokenizer, Problem("p1", "1 + 1?", "2", expert_chain=chain))
    return (prompt(tokenizer) + text).rpartition("\\boxed{}.")[2].partition("ssistant")[2]


def test_the_choice_to_think_is_made_in_the_template_itself() -> None:
    off, on = settled(QWEN3), settled(QWEN3, thinking="on")
    assert prompt(off).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert prompt(on).endswith("<|im_start|>assistant\n")
    assert rendered(off, [{"role": "user", "content": "a"}], enable_thinking=True).endswith("</think>\n\n")
    assert (thinks(off), thinks(on), thinks(settled(R1)), thinks(settled(None))) == (False, True, True, False)
    own = Path(PRESETS["tiny"].source) / "chat_template.jinja"
    assert settled(None, chat_template=own).chat_template == settled(None).chat_template  # and no warning
    assert settled(None).chat_template == (Path(PRESETS["tiny"].source) / "chat_template.jinja").read_text()
    for made, asked, same in ((on, "auto", on), (on, "off", off), (off, "on", on), (off, "auto", off)):
        assert settled(made.chat_template, thinking=asked).chat_template == same.chat_template
    assert "/no_think" in prompt(settled(SMOLLM3)) and "/think" in prompt(settled(SMOLLM3, thinking="on"))
    granite = "{{ 'think' if thinking else 'no' }}"
    assert prompt(settled(granite)) == "no" and prompt(settled("\n" + granite, thinking="on")) == "\nthink"


@pytest.mark.parametrize(("template", "asked", "why"), [(R1, "off", "always begins"), (None, "on", "does not say how")])
def test_a_template_without_the_choice_says_so(template: str | None, asked: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"--thinking {asked} does nothing for model 'mine': .* {why}"):
        settled(template, thinking=asked)


@pytest.mark.parametrize(
    ("template", "asked", "chain", "trained"),
    [
        (QWEN3, "on", THOUGHT, f"\n{THOUGHT}"),
        (QWEN3, "on", "One.\n</think>It is 2.", "\n<think>\nOne.\n</think>\n\nIt is 2."),
        (QWEN3, "on", "It is 2.", "\n<think>\n\n</think>\n\nIt is 2."),
        (QWEN3, "off", "It is 2.", "\n<think>\n\n</think>\n\nIt is 2."),
        (R1, "auto", THOUGHT, f">{THOUGHT}"),
        (R1, "auto", "It is 2.", "><think>\n\n</think>\n\nIt is 2."),
        (R1, "auto", "One.\n</think>It is 2.", "><think>\nOne.\n</think>It is 2."),
        (OLD_R1, "auto", THOUGHT, f">{THOUGHT}"),
        (SMOLLM3, "on", THOUGHT, f"\n{THOUGHT}"),
        (None, "auto", THOUGHT, f"\n{THOUGHT}"),  # ChatML knows no thoughts
        (None, "auto", "It is 2. ", "\nIt is 2. "),
    ],
)
def test_a_thought_is_written_once(template: str | None, asked: str, chain: str, trained: str) -> None:
    assert turn(settled(template, thinking=asked), chain) == trained


@pytest.mark.parametrize(
    ("template", "asked", "chain", "why"),
    [
        (QWEN3, "auto", THOUGHT, "thinking is off. Give --thinking on"),
        (SMOLLM3, "off", THOUGHT, "thinking is off"),
        (QWEN3, "on", "<think>\nOne and one.", "it needs <think>, </think> and an answer"),
        (QWEN3, "on", "<think>\nOne and one.</think>", "an answer after it"),
        (R1, "auto", "<think>\nOne and one.", "it needs"),
        (None, "auto", "One.</think>It is 2.", "it needs"),
    ],
)
def test_a_thought_that_has_no_place_is_refused(template: str | None, asked: str, chain: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"problem 'p1' has a thought .* {why}"):
        turn(settled(template, thinking=asked), chain)


def test_thoughts_are_counted_before_training() -> None:
    """A problem keeps its place without the chain; a short limit is told."""
    problems = [Problem("p1", "?", "2", expert_chain=THOUGHT), Problem("p2", "?", "2", expert_chain="It is 2.")]
    told: list[str] = []
    kept = fitting(problems, "tiny", 64, tokenizer=lambda: settled(QWEN3), warn=told.append)
    assert [problem.expert_chain for problem in kept] == [None, "It is 2."]
    assert told == [f"1 expert chains are left out. {told[0].split('out. ')[1]}"] and "--thinking on" in told[0]
    told.clear()
    assert fitting(problems, "tiny", 64, tokenizer=lambda: settled(QWEN3, thinking="on"), warn=told.append) == problems
    (line,) = told
    assert "completions end at 64 tokens" in line and "--max-completion-tokens 4096" in line
    told.clear()
    assert fitting(problems, "tiny", 64, tokenizer=lambda: settled(None), warn=told.append) == problems
    (line,) = told
    assert line.startswith("1 expert chain with a thought (<think>), and the chat template has no thinking")


def test_a_prompt_is_the_same_on_every_day() -> None:
    """The day is in the text, so that programs elsewhere write it too."""
    assert "Today Date: 26 Jul 2024\n" in prompt(settled(LLAMA))
    assert "Today: 26 July 2024 /no_think" in prompt(settled(SMOLLM3))
    assert "day 2024-07-26." in prompt(settled("{{ 'day ' + strftime_now('%Y-%m-%d') + '.' }}"))
    assert "strftime_now(" not in settled(LLAMA).chat_template
    assert prompt(settled("{%- set f = '%Y' %}{{ strftime_now(f) }}")) == "26 Jul 2024"


def test_of_templates_by_name_the_default_is_taken() -> None:
    named = {"default": LLAMA, "tool_use": "tools"}
    assert settled(named).chat_template == settled(LLAMA).chat_template
    with pytest.raises(ModelError, match=r"named rag, tool_use, and no default\. .* --chat-template FILE"):
        settled({"tool_use": "tools", "rag": "rag"})


def test_a_plain_template_for_a_base_model(tmp_path: Path) -> None:
    """Its turns end with the end token, and a text begins as the tokenizer begins one."""
    folder = shutil.copytree(PRESETS["tiny"].source, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"has no chat template\. Give an instruct model, .* --chat-template plain"):
        settle(tokenizer, PolicyConfig(), "base")
    settle(tokenizer, PolicyConfig(chat_template=Path(PLAIN)), "base")
    assert prompt(tokenizer).startswith("User: 1 + 1?\n") and prompt(tokenizer).endswith("\\boxed{}.\n\nAssistant:\n")
    turns = [{"role": "system", "content": "Count."}, *({"role": r, "content": "a"} for r in ("user", "assistant"))]
    whole = rendered(tokenizer, turns, add_generation_prompt=False)
    assert whole == "Count.\n\nUser: a\n\nAssistant:\na<|im_end|>\n\n"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("mine.jinja", "mine", "mine"),
        ("tokenizer_config.json", json.dumps({"chat_template": "mine"}), "mine"),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "default", "template": "mine"}]}), "mine"),
        ("tokenizer_config.json", "{}", "Cannot read the chat template"),
        ("mine.jinja", "{% if %}", "The chat template of model 'mine' cannot be used"),
        ("mine.jinja", "{{ raise_exception('no') }}", "cannot be used: no"),
    ],
)
def test_a_template_out_of_a_file(name: str, text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    if found == "mine":
        with pytest.warns(UserWarning, match=f"{name}' replaces the chat template that model 'mine' was trained with"):
            assert settled(None, chat_template=tmp_path / name).chat_template == "mine"
        (tmp_path / "adapter_config.json").write_text("{}")  # an adapter's own
        assert settled(None, chat_template=tmp_path / name).chat_template == "mine"
        return
    with pytest.raises(ConfigError, match=found):
        settled(None, chat_template=tmp_path / name)


def test_a_template_travels_with_what_was_trained(tmp_path: Path) -> None:
    """Given once, in a file that is gone afterwards, to a base model without any; and so does the choice to think."""
    base, file, run = tmp_path / "base", tmp_path / "mine.jinja", tmp_path / "run"
    shutil.copytree(PRESETS["tiny"].source, base)
    (base / "chat_template.jinja").unlink()
    file.write_text(QWEN3)
    flags = ["--thinking", "on", "--chat-template", str(file), "--bits", "16", "--eval-problems", "0"]
    small = ["--max-completion-tokens", "32", "--group-size", "2", "--problems-per-step", "1"]
    words = ["train", "--model", str(base), "--diagnostics-every", "0", "--output", str(run), *small]
    assert cli.run([*words, "--steps", "1", *flags]) == 0
    file.unlink()
    assert cli.run(["train", "--resume", "--output", str(run), "--steps", "2"]) == 0
    thinking = "{%- set enable_thinking = true %}\n" + QWEN3
    read = json.loads((run / "config.json").read_text())["prompts"]
    assert read["question"] == "<|im_start|>user\n{question}\n" + read["question"].partition("{question}\n")[2]
    assert read["explanation"].startswith("<|im_start|>user\n{question}\nThe correct answer is {answer}.")
    asked = json.loads((run / "samples.jsonl").read_text().splitlines()[0])["prompt"]
    target = find_target(str(run))
    policy: Any = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    expected = read["question"].replace("{question}", asked)
    assert policy.tokenizer.decode(encode_question(policy.tokenizer, Problem("", asked, ""))) == expected
    with pytest.warns(UserWarning, match="step-000002' was trained with another chat template"):
        load_policy(target.model, PolicyConfig(bits=16, chat_template=Path(PLAIN)), seed=0, adapter=target.adapter)
    write_adapter(policy, tmp_path / "adapter")
    write_merged(policy, tmp_path / "merged", "bf16")
    for place in ("run", "adapter", "merged"):
        found = find_target(str(tmp_path / place))
        assert load_tokenizer(found.model, found.policy).chat_template == thinking
        off = find_target(str(tmp_path / place), thinking="off")
        assert load_tokenizer(off.model, off.policy).chat_template == thinking.replace("true", "false", 1)
    again = resolve_run(TrainConfig(model=str(tmp_path / "adapter")))
    assert load_tokenizer(again.model, again.policy).chat_template == thinking
    assert asked_alike(find_target(str(base)), target).policy.chat_template == target.policy.chat_template
    (tmp_path / "adapter" / "chat_template.jinja").unlink()  # older programs wrote it into the tokenizer's settings
    (tmp_path / "adapter" / "tokenizer_config.json").write_text(json.dumps({"chat_template": R1}))
    old = find_target(str(tmp_path / "adapter"))
    assert load_tokenizer(old.model, old.policy).chat_template == R1


def test_a_missing_template_is_told_before_weights_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(PRESETS["tiny"].source, tmp_path / "base")
    for name in ("chat_template.jinja", "model.safetensors"):
        (folder / name).unlink()
    assert cli.run(["chat", str(folder), "--prompt", "1 + 1?"]) == 1
    assert "has no chat template" in capsys.readouterr().err
    assert cli.run(["chat", str(folder), "--prompt", "1 + 1?", "--chat-template", PLAIN]) == 1
    assert "Cannot read model" in capsys.readouterr().err
