"""An export is what was trained: read back by transformers and by llama.cpp."""

import copy
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from jinja2 import Environment
from llama import Llama
from shaken import shaken
from test_decoder import CONFIGS, PROMPTS, folder_of
from test_template import BUILT_IN, LLAMA, QWEN3, R1, SMOLLM3
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, AutoTokenizer

from expo_lite.commands import cli
from expo_lite.commands.export import checked_problems
from expo_lite.errors import ModelError
from expo_lite.policy.export import (
    MOST_NATS,
    check_export,
    greedy,
    modelfile,
    ollama_template,
    plain_config,
    write_merged,
)
from expo_lite.policy.factory import load_policy
from expo_lite.policy.gguf_file import _splitting, begins_with_bos, write_gguf
from expo_lite.policy.gguf_tokenizer import read_tokenizer
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.template import settle
from expo_lite.prompts import encode_question, question_turns, rendered
from expo_lite.records import Problem
from expo_lite.run.folder import JsonLines
from expo_lite.run.target import find_target
from expo_lite.settings.groups import PLAIN, PolicyConfig
from expo_lite.settings.models import PRESETS
from expo_lite.tasks.hidden_rules import EXAMPLE

CPU = torch.device("cpu")
TINY = PRESETS["tiny"].source


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps at a rate at which they show."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "--model", "tiny", "--steps", "3", "--learning-rate", "0.01", "--eval-problems", "2"]
    assert cli.run([*words, "--eval-samples", "2", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def replies(run: Path) -> list[tuple[tuple[int, ...], str]]:
    """Prompts, and what the trained policy makes of them, without their end tokens."""
    target = find_target(str(run))
    policy: Any = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    prompts = [encode_question(policy.tokenizer, problem) for problem in checked_problems(target)]
    assert len(prompts) == 20
    prompts = prompts[::3]
    return [(c.prompt_ids, c.text) for c in greedy(policy, prompts, 64)]


def export(run: Path, to: str, *more: str) -> Path:
    output = run / "export" / to
    assert cli.run(["export", str(run), "--to", to, "--output", str(output), *more]) == 0
    return output


def texts_of(model: Any, prompts: list[tuple[int, ...]], tokenizer: Any) -> list[str]:
    found = []
    for prompt in prompts:
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=64, do_sample=False)[0, len(prompt) :]
        found.append(tokenizer.decode(ids, skip_special_tokens=True))
    return found


def test_a_merged_model_answers_alike_and_its_card_has_the_figures(
    run: Path, replies: list[tuple[tuple[int, ...], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(run, "merged", "--dtype", "f16")
    out = capsys.readouterr().out
    assert "20 of 20 greedy completions are the same" in out
    assert "hf upload OWNER/NAME" in out
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert texts_of(model, [prompt for prompt, _ in replies], tokenizer) == [text for _, text in replies]
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    assert texts_of(base, [prompt for prompt, _ in replies], tokenizer) != [text for _, text in replies]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: tiny\n")
    assert "| optimizer.learning_rate | 0.01 |" in card
    assert "| 5 | 3 | 2 |" in card
    assert str(run) not in card


def ran_example(run: Path, to: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[dict[str, Any], str]:
    """Run what an export prints; returns its names and what it printed. The card has the same lines."""
    folder = run / "export" / f"{to}-asked"
    assert cli.run(["export", str(run), "--to", to, "--output", str(folder), *more]) == 0
    code = capsys.readouterr().out.split("load it and ask it:\n")[1].strip()
    assert code.replace(str(folder), folder.name) in (folder / "README.md").read_text()
    names: dict[str, Any] = {}
    exec(compile(code, "printed", "exec"), names)  # noqa: S102 (our own text)
    return names, capsys.readouterr().out


def asked_in(run: Path) -> Problem:
    """A held-out problem of the run."""
    rows = JsonLines(run / "evaluation" / "step-000000" / "samples.jsonl").read()
    return Problem("", rows[0]["prompt"], "")


def test_the_printed_example_asks_as_in_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of the run's own held-out problems, to the letter; what it prints is what the trained policy answers."""
    names, printed = ran_example(run, "merged", capsys, "--dtype", "f32")
    assert names["turns"] == question_turns(asked_in(run))
    target = find_target(str(run))
    policy: Any = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    prompt = encode_question(policy.tokenizer, asked_in(run))
    assert names["inputs"]["input_ids"].tolist() == [list(prompt)]
    assert printed == f"{greedy(policy, [prompt], 64)[0].text}\n"


def test_an_adapter_loads_on_the_base_that_it_names(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the lines that are printed, and in four bits, as it was trained."""
    names, printed = ran_example(run, "adapter", capsys)
    assert names["turns"] == question_turns(asked_in(run)) and printed.strip()
    assert any(type(module).__name__ == "Linear4bit" for module in names["model"].modules())
    target = find_target(str(run))
    policy: Any = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    (reply,) = greedy(policy, [encode_question(policy.tokenizer, checked_problems(target)[0])], 64)
    logits_TV = names["model"](torch.tensor([[*reply.prompt_ids, *reply.token_ids]])).logits[0].float()
    logprobs_TV = torch.log_softmax(logits_TV[len(reply.prompt_ids) - 1 : -1], 1)
    found = logprobs_TV.gather(1, torch.tensor(reply.token_ids)[:, None])[:, 0]
    assert float((found - torch.tensor(reply.logprobs)).abs().mean()) < MOST_NATS


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_a_gguf_file_is_read_back(run: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a folder for each type, where none is named."""
    assert cli.run(["export", str(run), "--to", "gguf", "--dtype", dtype]) == 0
    file = run / "export" / f"run-step-000003-gguf-{dtype}" / f"run-step-000003.{dtype}.gguf"
    assert file.is_file()
    if dtype == "f16":
        read, own = read_tokenizer(file, "mine"), AutoTokenizer.from_pretrained(TINY)
        texts = [EXAMPLE, own.chat_template, *own.get_added_vocab()]  # with the phrases that are tokens
        assert [read.encode(text, add_special_tokens=False) for text in texts] == [own.encode(text) for text in texts]
        out = capsys.readouterr().out
        assert "20 of 20 greedy completions are the same" in out
        compile(out.split("load it and ask it:\n")[1], "printed", "exec")
        assert re.search(r"# in the usual four bits: llama-quantize .*\.f16\.gguf.* .*\.q4_k_m\.gguf.* Q4_K_M\n", out)


def test_llama_cpp_answers_alike(run: Path, replies: list[tuple[tuple[int, ...], str]]) -> None:
    """The same token ids out of the same text, and the same greedy completions."""
    (file,) = export(run, "gguf").glob("*.gguf")
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    model = Llama(file)
    for prompt, text in replies:
        assert model.tokens(tokenizer.decode(prompt)) == list(prompt)
        assert model.greedy(prompt, 64) == text


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture(kind: str, tmp_path: Path) -> None:
    policy = shaken(HfPolicy(str(folder_of(kind, tmp_path / "base")), PolicyConfig(bits=16, lora_rank=4), seed=0), 0.1)
    completions = greedy(policy, PROMPTS, 24)
    write_merged(policy, tmp_path / "merged", "f32")
    found = check_export(tmp_path / "merged", completions, CPU)
    assert (found.n_same, found.mean_nats < 1e-4) == (len(PROMPTS), True)
    if kind == "biased":  # no released model has these biases, and GGUF's readers do not know them
        return
    write_gguf(policy, tmp_path / "a.gguf", "f32", source=str(tmp_path), name="a")
    found = check_export(tmp_path / "a.gguf", completions, CPU, plain_config(policy, torch.float32))
    assert (found.n_same, found.mean_nats < 1e-4) == (len(PROMPTS), True)
    model = Llama(tmp_path / "a.gguf")
    for c in completions:
        by_llama_cpp = model.logprobs(c.prompt_ids, c.token_ids, policy.base_model.config.vocab_size)
        assert by_llama_cpp == pytest.approx(c.logprobs, abs=1e-4)


def test_another_model_is_not_kept(tmp_path: Path) -> None:
    policy = HfPolicy(str(folder_of("qwen3", tmp_path / "base")), PolicyConfig(bits=16, lora_rank=4), seed=0)
    write_merged(policy, tmp_path / "merged", "f32")
    completions = greedy(shaken(policy, 0.1), PROMPTS, 24)
    with pytest.raises(ModelError, match="is not what was trained"):
        check_export(tmp_path / "merged", completions, CPU)


def test_nothing_is_overwritten_and_a_model_has_no_adapter(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["export", str(run), "--output", str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert cli.run(["export", "tiny", "--to", "adapter", "--output", str(tmp_path / "a")]) == 2
    assert "without an adapter" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


GO: dict[str, Any] = {  # the words of Ollama's language that are used, in Jinja's
    r"{{ range .*? }}{{ \$last := .*? }}": "{% for turn in turns %}",
    r"{{ (if|else if) eq \.Role (.*?) }}": lambda m: f"{{% {'el' * ('else' in m[1])}if turn.role == {m[2]} %}}",
    r"{{ if (not )?\$last }}": r"{% if \1loop.last %}",
    r"{{ if \.System }}": "{% if system %}",
    r"{{ \.System }}": "{{ system }}",
    r"{{ \.Content }}": "{{ turn.content }}",
    r"{{ else }}": "{% else %}",
    r"{{ end }}$": "{% endfor %}",
    r"{{ end }}": "{% endif %}",
}  # fmt: skip


def ollama(template: str, turns: list[dict[str, str]]) -> str:
    """The prompt that Ollama makes of a conversation."""
    for go, jinja in GO.items():
        template = re.sub(go, jinja, template)
    system = "".join(turn["content"] for turn in turns if turn["role"] == "system")
    rendered_by: Any = Environment(autoescape=False)  # noqa: S701 (no page)
    return str(rendered_by.from_string(template).render(system=system, turns=turns))


TEMPLATES: list[tuple[str | None, dict[str, Any]]] = [
    (None, {}),
    (None, {"chat_template": Path(PLAIN)}),
    (LLAMA, {}),
    (QWEN3, {"thinking": "off"}),
    (QWEN3, {"thinking": "on"}),
    (R1, {}),
    (SMOLLM3, {}),
]


@pytest.mark.parametrize(("template", "policy"), TEMPLATES)
def test_ollama_writes_the_same_prompts_with_one_bos(template: str | None, policy: dict[str, Any]) -> None:
    """It is given the template in its own language: it knows few, and would ask the model without any."""
    tokenizer = with_bos(template, **policy)
    assert begins_with_bos(tokenizer) is (template in (LLAMA, R1) or "chat_template" in policy)
    written = ollama_template(tokenizer)
    talk = [
        {"role": role, "content": f"It's {role}\n {i}."}
        for i, role in enumerate(["system", *["user", "assistant"] * 3])
    ]
    for turns in (talk[1:2], talk[1:4], talk[1:6], talk[:2], talk[:6]):
        assert ollama(written, turns) == rendered(tokenizer, turns).removeprefix(tokenizer.bos_token)


def with_bos(template: str | None, **policy: Any) -> Any:
    """The built-in model's tokenizer, with a token that begins a text and another template."""
    tokenizer = copy.deepcopy(BUILT_IN)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = None if policy.get("chat_template") else template or tokenizer.chat_template
    settle(tokenizer, PolicyConfig(**policy), "mine")
    return tokenizer


def test_a_template_that_ollama_cannot_have() -> None:
    for template in ("{{ messages[0]['content'] }}{{ messages|length }}", "{{ messages[-1]['content'] | upper }}"):
        with pytest.raises(ModelError, match=r"cannot be written for Ollama: .* Take --to gguf"):
            ollama_template(with_bos(template))


def test_a_modelfile_has_the_turns_before_a_question() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1\n+ 1?"}]
    text = modelfile(with_bos(None), "a.gguf", 0.7, turns)
    assert text.startswith('FROM ./a.gguf\nTEMPLATE """{{ if .System }}')
    assert text.endswith('SYSTEM """Be brief."""\nMESSAGE user """1\n+ 1?"""\nPARAMETER temperature 0.7\n')
    with pytest.raises(ModelError, match="ends a text"):
        modelfile(with_bos(None), "a.gguf", 0.7, [{"role": "system", "content": '"""'}])


def test_a_gguf_file_has_the_settled_template_and_says_if_it_begins_with_bos(tmp_path: Path) -> None:
    """Written of a folder, and of a GGUF file whose own template was another."""
    folder = folder_of("llama-3.2", tmp_path / "base")
    (folder / "chat_template.jinja").write_text(LLAMA)
    policy = HfPolicy(str(folder), PolicyConfig(bits=16, lora_rank=4), seed=0)
    policy.tokenizer.bos_token = "<|endoftext|>"

    def written(name: str, source: Path) -> dict[str, Any]:
        write_gguf(policy, tmp_path / name, "f32", source=str(source), name="a")
        return {key: field.contents() for key, field in gguf.GGUFReader(tmp_path / name).fields.items()}

    first = written("a.gguf", folder)
    assert first["tokenizer.chat_template"] == policy.tokenizer.chat_template != LLAMA
    assert first["tokenizer.ggml.add_bos_token"] is True
    policy.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    again = written("b.gguf", tmp_path / "a.gguf")
    assert again["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"
    assert again["tokenizer.ggml.add_bos_token"] is False
    assert again["tokenizer.ggml.tokens"] == first["tokenizer.ggml.tokens"]


QWEN = str(import_module("transformers.models.qwen2.tokenization_qwen2").PRETOKENIZE_REGEX)
QWEN35 = str(import_module("transformers.models.qwen3_5.tokenization_qwen3_5").PRETOKENIZE_REGEX)
BYTES, BYTES_ALONE = pre_tokenizers.ByteLevel(False, use_regex=False), pre_tokenizers.ByteLevel(False)


def split(pattern: str) -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


@pytest.mark.parametrize(
    ("stages", "name"),
    [
        ([split(QWEN), BYTES], "qwen2"),
        ([split(QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), BYTES], "llama-bpe"),
        ([pre_tokenizers.Digits(True), BYTES_ALONE], "smollm"),
        ([BYTES_ALONE], "gpt-2"),
        ([split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5]+"), split(QWEN), BYTES], None),  # as DeepSeek's
        ([split(QWEN35), BYTES], "qwen35"),
        ([split(QWEN.replace(r"\p{L}+", r"[\p{L}\p{M}]+")), BYTES], None),
        ([pre_tokenizers.Digits(False), BYTES_ALONE], None),
        ([pre_tokenizers.ByteLevel(True)], None),
    ],
)
def test_only_known_ways_to_split_text_get_a_name(stages: list[Any], name: str | None) -> None:
    """GGUF's readers know them by name alone: under another one they make other tokens."""
    tokenizer = Tokenizer(BPE({}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages)
    about = json.loads(tokenizer.to_str())
    if name:
        assert _splitting(about) == name
        about["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(ModelError, match="is not known here; llama-bpe, qwen2, qwen35, smollm, gpt-2 are"):
        _splitting(about)
