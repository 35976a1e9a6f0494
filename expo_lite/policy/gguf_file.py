"""A merged model of a known family as a GGUF file, which llama.cpp, Ollama and LM Studio read.

Names and layout are GGUF's own (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md); the `gguf` package writes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch

from expo_lite.errors import ModelError
from expo_lite.policy.export import DTYPES, merged_state, plain_config
from expo_lite.policy.gguf_tokenizer import SPACE, SPLITTINGS
from expo_lite.policy.lora import LoraPolicy
from expo_lite.policy.merged import head_dim, rope
from expo_lite.prompts import rendered
from expo_lite.settings.models import FAMILIES, Family

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
_SHAPING = ("type", "pattern", "behavior", "invert", "individual_digits", "add_prefix_space", "use_regex")
"""The settings of a stage before the merges that decide where text is split."""


def write_gguf(policy: LoraPolicy, file: Path, dtype: GgufType, *, source: str, name: str) -> None:
    """Write merged weights and tokenizer as a GGUF file.

    Args:
        policy: with the weights.
        file: file to write or replace.
        dtype: type of matrices; vectors are f32, and so are matrices whose rows are no whole blocks of q8_0.
        source: source of the base model; if that is a GGUF file, its tokenizer is copied.
        name: the model's name, as readers show it.

    Raises:
        ModelError: GGUF has no form for the model or its tokenizer.
    """
    tokenizer, full = policy.tokenizer, torch.float32 if dtype == "q8_0" else DTYPES[dtype]
    config = plain_config(policy, full)
    family = FAMILIES.get(config.model_type, Family())
    unlike = _has_other_windows(config, family)
    if not family.gguf or unlike:
        known = ", ".join(name for name, family in FAMILIES.items() if family.gguf)
        what = f"'{config.model_type}'{' with these sliding windows' if unlike else ''}"
        raise ModelError(f"Only {known} models can be written as GGUF, not {what}.")
    arch = gguf.MODEL_ARCH[family.gguf.upper()]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(name)
    _add_sizes(writer, config)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if dtype == 'f32' else 'MOSTLY'}_{dtype.upper()}"])
    if Path(source).suffix == ".gguf":
        _copy_tokenizer(writer, Path(source))
    else:
        _add_tokenizer(writer, tokenizer, config.vocab_size)
    writer.add_eos_token_id(policy.end_id)
    writer.add_add_bos_token(begins_with_bos(tokenizer))
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for own, tensor in _tensors(config, merged_state(policy, full)):
        written = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if written is None:
            raise ModelError(f"GGUF has no place for the weight '{own}'.")
        _add_tensor(writer, written, tensor, dtype)
    _add_rope(writer, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _has_other_windows(config: Any, family: Family) -> bool:
    """Tell whether the readers of GGUF files would use other windows: Gemma 3's fixed pattern is all that they know."""
    full = [kind == "full_attention" for kind in getattr(config, "layer_types", None) or ()]
    if family.gguf == "gemma3":
        return full != [i % 6 == 0 for i in range(1, len(full) + 1)]
    return not all(full)


def _add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _tensors(config: Any, weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights as GGUF has them: Llama's pairs of a rotation side by side, Gemma's norms plus 1."""
    for name, tensor in weights.items():
        if FAMILIES[config.model_type].gemma and name.endswith("norm.weight"):
            tensor = tensor.float() + 1
        for projection, n_heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if config.model_type == "llama" and f".{projection}." in name:
                halves = tensor.reshape(n_heads, 2, tensor.shape[0] // n_heads // 2, *tensor.shape[1:])
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        yield name, tensor


def _add_tensor(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor, dtype: GgufType) -> None:
    data, kind = tensor.float().cpu().numpy(), gguf.GGMLQuantizationType[dtype.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if tensor.ndim == 1 or tensor.shape[-1] % block:
        kind = gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(data), kind), raw_dtype=kind)


def _add_rope(writer: gguf.GGUFWriter, config: Any) -> None:
    """Write the base of the rotation and its scaling: a rule that GGUF knows, or a factor for each frequency."""
    about = config.rope_parameters
    if "sliding_attention" in about:
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base_swa(about["sliding_attention"]["rope_theta"])
        about = about["full_attention"]
    writer.add_rope_freq_base(about["rope_theta"])
    kind = about["rope_type"]
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(about["factor"])
        if kind == "yarn":
            most = about.get("original_max_position_embeddings") or config.max_position_embeddings
            writer.add_rope_scaling_orig_ctx_len(most)
    elif kind != "default":
        frequencies_d, _ = rope(config, torch.device("cpu"))
        exponents_d = torch.arange(0, 2 * len(frequencies_d), 2, dtype=torch.float32) / (2 * len(frequencies_d))
        plain_d = 1.0 / about["rope_theta"] ** exponents_d
        writer.add_tensor("rope_freqs.weight", (plain_d / frequencies_d).numpy())


def begins_with_bos(tokenizer: Any) -> bool:
    """Tell whether prompts begin with the BOS token. A GGUF file's readers then add it, and drop the template's own."""
    bos = tokenizer.bos_token
    return bos is not None and rendered(tokenizer, [{"role": "user", "content": "a"}]).startswith(bos)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, n_vocabulary: int) -> None:
    """Write a BPE tokenizer: tokens, their kinds, and merges or scores.

    One of bytes has merges and a rule that splits text; one of characters (SentencePiece) has a score for each token.
    """
    about = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = about["model"], {token["id"]: token for token in about["added_tokens"]}
    tokens = {number: text for text, number in model["vocab"].items()}
    tokens |= {number: token["content"] for number, token in added.items()}
    kinds, space = gguf.TokenType, _puts_space_first(about)
    splitting = _splitting(about) if space is None else ""
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]

    def kind(number: int) -> gguf.TokenType:
        if number in added:
            return kinds.CONTROL if added[number]["special"] else kinds.USER_DEFINED
        is_byte = space is not None and re.fullmatch(r"<0x[0-9A-F]{2}>", tokens.get(number, ""))
        return kinds.BYTE if is_byte else kinds.NORMAL if number in tokens else kinds.UNUSED

    names = [tokens.get(number, f"[PAD{number}]") for number in range(n_vocabulary)]
    writer.add_token_list(names)
    writer.add_token_types([kind(number) for number in range(n_vocabulary)])
    if space is None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splitting)
        writer.add_token_merges(merges)
    else:
        scores = {merge.replace(" ", ""): -float(rank) for rank, merge in reversed(list(enumerate(merges)))}
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([scores.get(name, 0.0) for name in names])
        writer.add_add_space_prefix(space)
    for role in ("pad", "bos", "unk"):
        if (number := getattr(tokenizer, f"{role}_token_id")) is not None:
            getattr(writer, f"add_{role}_token_id")(number)


def _puts_space_first(about: dict[str, Any]) -> bool | None:
    """Tell whether a SentencePiece tokenizer puts a space before the text; None for a tokenizer of another kind."""
    normaliser, space = about["normalizer"] or {}, {"String": " "}
    # Gemma's splits at spaces, which are gone by then
    if not about["model"].get("byte_fallback") or (about["pre_tokenizer"] or {}).get("pattern", space) != space:
        return None
    replaced = {"type": "Replace", "pattern": space, "content": SPACE}
    shapes = {False: [replaced], True: [{"type": "Prepend", "prepend": SPACE}, replaced]}
    return next((put for put, shape in shapes.items() if normaliser.get("normalizers", [normaliser]) == shape), None)


def _splitting(about: dict[str, Any]) -> str:
    """The name in llama.cpp of the rule that splits text before a byte-level BPE tokenizer merges."""

    def shaping(rule: dict[str, Any], *before: dict[str, Any]) -> list[list[Any]]:
        stages = [*before, *rule.get("pretokenizers", [rule])]
        return [[stage[name] for name in _SHAPING if name in stage] for stage in stages]

    normaliser = about["normalizer"] or {"type": "NFC"}
    kept = shaping(about["pre_tokenizer"] or {"type": "none"}, *[normaliser] * (normaliser["type"] != "NFC"))
    found = next((name for name, rule in SPLITTINGS.items() if kept == shaping(json.loads(rule.__getstate__()))), None)
    if about["model"]["type"] != "BPE" or found is None:
        raise ModelError(
            f"The tokenizer splits text in a way ({about['model']['type']} after {json.dumps(kept)}) whose name in "
            f"llama.cpp is not known here; {', '.join(SPLITTINGS)} are. Take --to merged, and convert that by "
            "llama.cpp's convert_hf_to_gguf.py."
        )
    return found


def _copy_tokenizer(writer: gguf.GGUFWriter, source: Path) -> None:
    keys = gguf.Keys.Tokenizer
    for name, field in gguf.GGUFReader(source).fields.items():
        if name.startswith("tokenizer.") and name not in (keys.EOS_ID, keys.ADD_BOS, keys.CHAT_TEMPLATE):
            is_list = field.types[0] is gguf.GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if is_list else None)
