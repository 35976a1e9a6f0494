"""The tokenizer of a GGUF file, made of the file's own vocabulary.

transformers makes another one for most files: it cuts Gemma's words into pieces and has no BOS, splits text for Llama 3
as for GPT-2, and takes tokens that are not control tokens, such as Qwen3's <think>, for plain text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import Keys, TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf import read_gguf_metadata

from expo_lite.errors import ModelError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKED = _WORDS.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"\s\p{L}\p{N}", r"\s\p{L}\p{M}\p{N}")
_BYTES, _BYTES_OF_WORDS = ByteLevel(False, use_regex=False), ByteLevel(False)
SPLITTINGS: dict[str, Any] = {
    "llama-bpe": Sequence([Split(Regex(_WORDS % r"\p{N}{1,3}"), "isolated"), _BYTES]),
    "qwen2": Sequence([Split(Regex(_WORDS % r"\p{N}"), "isolated"), _BYTES]),
    "qwen35": Sequence([Split(Regex(_MARKED % r"\p{N}"), "isolated"), _BYTES]),
    "smollm": Sequence([Digits(True), _BYTES_OF_WORDS]),
    "gpt-2": Sequence([_BYTES_OF_WORDS]),
}
"""Each rule that splits text before byte-level BPE merges, by its name in llama.cpp
(https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp)."""
PROBE = "Ah: 12 + 3 = 15. 'No'"
"""Every tokenizer of a language model can write it."""
SPACE = "\u2581"
"""A space in a SentencePiece vocabulary."""
_KEYS = Keys.Tokenizer


def read_tokenizer(path: Path, name: str) -> Any:
    """Make the tokenizer of a GGUF file, with its special tokens and its chat template.

    Args:
        path: the file.
        name: the model's name as typed, for errors.

    Raises:
        ModelError: its kind or the rule that splits text is not known here, or it loses text.
    """
    about, _ = read_gguf_metadata(str(path), (_KEYS.LIST, _KEYS.MERGES))
    kind, rule, tokens = about[_KEYS.MODEL], about.get(_KEYS.PRE), about[_KEYS.LIST]
    types = about.get(_KEYS.TOKEN_TYPE) or [TokenType.NORMAL] * len(tokens)
    if kind != "llama" and (kind != "gpt2" or rule not in SPLITTINGS):
        raise ModelError(
            f"The tokenizer of model '{name}' is of a kind ('{kind}', which splits text by the rule '{rule}') that is "
            "not read from GGUF files here. Give the original model: OWNER/NAME of the hub, or its folder."
        )
    made = _sentencepiece(about, types) if kind == "llama" else _byte_level(about)
    whole = {TokenType.UNKNOWN: True, TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    made.add_tokens(
        [AddedToken(tokens[i], normalized=False, special=whole[k]) for i, k in enumerate(types) if k in whole]
    )
    roles = {"bos_token": _KEYS.BOS_ID, "eos_token": _KEYS.EOS_ID, "unk_token": _KEYS.UNK_ID, "pad_token": _KEYS.PAD_ID}
    special: dict[str, Any] = {role: tokens[about[key]] for role, key in roles.items() if key in about}
    special["add_bos_token"] = bool(about.get(_KEYS.ADD_BOS, kind == "llama"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **special)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = about.get(_KEYS.CHAT_TEMPLATE)
    if tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False)) != PROBE:
        raise ModelError(f"The tokenizer of model '{name}' loses text: '{path}' is not whole. Fetch it anew.")
    return tokenizer


def _byte_level(about: Mapping[str, Any]) -> Any:
    """BPE of bytes, whose merges are in the file."""
    rule, vocabulary = about[_KEYS.PRE], {token: number for number, token in enumerate(about[_KEYS.LIST])}
    merges = [tuple(merge.split(" ")) for merge in about[_KEYS.MERGES]]
    made: Any = Tokenizer(BPE(vocabulary, merges, ignore_merges=rule == "llama-bpe"))
    made.pre_tokenizer, made.decoder = SPLITTINGS[rule], decoders.ByteLevel()
    made.normalizer = normalizers.NFC() if rule.startswith("qwen") else None
    return made


def _sentencepiece(about: Mapping[str, Any], types: list[int]) -> Any:
    """BPE of characters: the merges that make each token, those of the highest score first."""
    tokens, merges = about[_KEYS.LIST], list[tuple[str, str]]()
    normal = {tokens[i]: about[_KEYS.SCORES][i] for i, kind in enumerate(types) if kind == TokenType.NORMAL}
    for token in sorted(normal, key=normal.__getitem__, reverse=True):
        pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
        merges += [pair for pair in pairs if pair[0] in normal and pair[1] in normal]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    unknown = tokens[about[_KEYS.UNK_ID]] if _KEYS.UNK_ID in about else None
    made: Any = Tokenizer(BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    first = int(about.get(_KEYS.ADD_PREFIX, True))  # a space before the text
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE)] * first + [normalizers.Replace(" ", SPACE)])
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(back + [decoders.Strip(" ", 1, 0)] * first)
    return made
