"""What is taken away is what was trained: read back by transformers, and by llama.cpp where it is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from shaken import shaken
from test_decoder import CONFIGS, PROMPTS, folder_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from expo_lite.commands import cli
from expo_lite.commands.export import checked_problems
from expo_lite.errors import ModelError
from expo_lite.policy.export import (
    MOST_NATS,
    check_export,
    greedy,
    modelfile,
    plain_config,
    write_merged,
    write_model_gguf,
)
from expo_lite.policy.factory import load_policy
from expo_lite.policy.hf import HfPolicy
from expo_lite.prompts import encode_question
from expo_lite.run.target import find_target
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.models import PRESETS

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


def test_an_adapter_loads_on_the_base_that_it_names(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the lines that are printed, and in four bits, as it was trained; the card has the same lines."""
    folder = export(run, "adapter")
    printed = capsys.readouterr().out.split("load it:\n")[1]
    names: dict[str, Any] = {}
    exec(compile(printed, "printed", "exec"), names)  # noqa: S102 (our own text)
    assert printed.replace(str(folder), folder.name) in (folder / "README.md").read_text()
    assert (folder / "tokenizer.json").is_file()
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
    assert (run / "export" / f"run-step-000003-gguf-{dtype}" / f"run-step-000003.{dtype}.gguf").is_file()
    if dtype == "f16":
        assert "20 of 20 greedy completions are the same" in capsys.readouterr().out


def test_llama_cpp_answers_alike(run: Path, replies: list[tuple[tuple[int, ...], str]]) -> None:
    """The same token ids out of the same text, and the same greedy completions."""
    llama_cpp = pytest.importorskip("llama_cpp")
    folder = export(run, "ollama")
    (file,) = folder.glob("*.gguf")
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    model = llama_cpp.Llama(str(file), n_ctx=512, verbose=False)
    for prompt, text in replies:
        assert model.tokenize(tokenizer.decode(prompt).encode(), add_bos=False, special=True) == list(prompt)
        reply = model.create_completion(list(prompt), max_tokens=64, temperature=0.0, top_k=1)
        assert reply["choices"][0]["text"] == text


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture(kind: str, tmp_path: Path) -> None:
    policy = shaken(HfPolicy(str(folder_of(kind, tmp_path / "base")), PolicyConfig(bits=16, lora_rank=4), seed=0), 0.1)
    completions = greedy(policy, PROMPTS, 24)
    write_merged(policy, tmp_path / "merged", "f32")
    found = check_export(tmp_path / "merged", completions, CPU)
    assert (found.n_same, found.mean_nats < 1e-4) == (len(PROMPTS), True)
    if kind == "biased":  # no released model has these biases, and GGUF's readers do not know them
        return
    write_model_gguf(policy, tmp_path / "a.gguf", "f32", source=str(tmp_path), name="a")
    found = check_export(tmp_path / "a.gguf", completions, CPU, plain_config(policy, torch.float32))
    assert (found.n_same, found.mean_nats < 1e-4) == (len(PROMPTS), True)


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


def test_a_modelfile_leaves_the_template_to_the_gguf_file() -> None:
    """A template of our own beside the file's writes the BOS token twice."""
    assert modelfile("a.gguf", 0.7) == "FROM ./a.gguf\nPARAMETER temperature 0.7\n"
    assert 'SYSTEM """Be brief."""\n' in modelfile("a.gguf", 0.7, "Be brief.")
