"""Load a base model and its tokenizer from the hub or its cache, a folder, or a GGUF file; quantised as configured.

Every backend brings its own `Reader`, and shares fetching, checks and errors.
"""

import contextlib
import gc
import json
import re
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import torch
from bitsandbytes.nn.modules import Linear4bit
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    logging,
)

from expo_lite.errors import ModelError, first_line
from expo_lite.memory.machine import out_of_memory
from expo_lite.policy.device import compute_type, wrong_widths
from expo_lite.policy.gguf_tokenizer import read_tokenizer
from expo_lite.policy.template import settle
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.models import find_model

HUB_FILES = ["*.json", "model*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]
"""Files to fetch of a hub model: no pickles, no second copy in another format, as Mistral has them."""
HUB_TIMEOUT_S = 10.0
ROUTERS = re.compile(r"router|altup|\.gate$|expert_gate$")
"""Names of the layers that choose experts, or mix Gemma 3n's streams: they read their weights past an adapter."""
LANGUAGE_PART = {
    r"^language_model\.lm_head": "lm_head",
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
}
"""Names of weights in a checkpoint that also sees or hears, and those of the language model alone."""
_AUTO_MODEL: Any = AutoModelForCausalLM  # these four are half typed
_QUANTISATION: Any = BitsAndBytesConfig
_LOGGING: Any = logging
_MODELS: Any = MODEL_FOR_CAUSAL_LM_MAPPING
_UNREADABLE = (OSError, EOFError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError,
               ImportError, struct.error, SafetensorError, StrictDataclassError)  # fmt: skip
"""Errors that transformers and its readers raise for broken files, and for those that need another package."""
_NOT_FETCHED = (OSError, ValueError, httpx.HTTPError)
"""Errors of a hub that cannot be reached or refuses, and of a disk that is full."""

Reader = Callable[[str, PolicyConfig, torch.device], tuple[Any, set[str]]]
"""Reads a source; returns a model, and the names of missing weights."""


def load_base(
    source: str, name: str, config: PolicyConfig, device: torch.device, *, read: Reader | None = None
) -> tuple[Any, Any]:
    """Load the base model, quantised as configured, and its tokenizer.

    Args:
        source: OWNER/NAME on the hub, a folder or a GGUF file.
        name: the model's name as typed, for errors.
        config: revision, trust_remote_code and bits.
        device: device to put it on.
        read: the backend's reader. Default: transformers.

    Raises:
        ModelError: the model cannot be found, read, held in memory or trained.
    """
    _LOGGING.set_verbosity_error()
    _LOGGING.disable_progress_bar()
    is_local = Path(source).exists()
    folder = source if is_local else _fetch(source, config)
    try:
        _check_files(Path(folder), name)
        tokenizer = load_tokenizer(name, config, folder)  # its faults are told before the weights are read
        model, missing = (read or _read)(folder, config, device)
    except (*_UNREADABLE, MemoryError) as error:
        if out_of_memory(error):
            room = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) else "the memory that is free"
            raise ModelError(f"Model '{name}' does not fit into {room}: {first_line(error)}") from error
        raise _unread(name, source, error) from error
    missing = missing or _misshapen(model)  # a missing weight has not been quantised
    if missing:
        raise ModelError(
            f"Model '{name}' does not fit its config.json: {len(missing)} weights are missing or of another shape "
            f"({min(missing)}, ...)."
        )
    _check(model, tokenizer, name)
    if config.bits == 16 and four_bits(model):
        warnings.warn(f"Model '{name}' is stored in 4 bits: 16 bits hold those weights, not finer ones.", stacklevel=2)
        model = model.dequantize()
    _check_four_bits(model, name, device)
    _switch_off_dropout(model)
    # adapters name their base by it; a GGUF file is read through a folder that no longer exists
    model.name_or_path = str(Path(source).absolute()) if is_local else source
    model.config._commit_hash = None if is_local else Path(folder).name
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # the first forward pass would repack the weight in place, and later gradients would be wrong
            module.support_avx512bf16_for_cpu = False
    return model, tokenizer


def load_tokenizer(name: str, config: PolicyConfig, source: str = "") -> Any:
    """Load the tokenizer of a model by any name that `--model` takes, or from `source`, with its chat template settled.

    Raises:
        ConfigError: the model does not exist, or its chat template cannot be what is asked for.
        ModelError: the tokenizer cannot be fetched or read, or has no chat template.
    """
    source = source or find_model(name, config.revision).source
    path = Path(source if Path(source).exists() else _fetch(source, config))
    folder, options = _options(path, config)
    try:
        is_gguf = path.suffix == ".gguf"
        tokenizer = read_tokenizer(path, name) if is_gguf else AutoTokenizer.from_pretrained(folder, **options)
    except _UNREADABLE as error:
        raise _unread(name, source, error) from error
    if not tokenizer.encode("1 + 2 = 3", add_special_tokens=False):
        raise ModelError(f"Model '{name}' has no vocabulary: its tokenizer's files are missing.")
    settle(tokenizer, config, name)
    return tokenizer


def _unread(name: str, source: str, error: BaseException) -> ModelError:
    if "trust_remote_code" in str(error):
        return ModelError(f"Model '{name}' runs Python code of its own: read it, then take --trust-remote-code.")
    return ModelError(f"Cannot read model '{name}' from '{source}': {first_line(error)}")


def _options(path: Path, config: PolicyConfig) -> tuple[str, dict[str, Any]]:
    """The folder and the arguments with which transformers reads a folder or a GGUF file."""
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": config.trust_remote_code}
    return (str(path.parent), options | {"gguf_file": path.name}) if path.suffix == ".gguf" else (str(path), options)


def _fetch(source: str, config: PolicyConfig) -> str:
    """Return the cache folder of a hub model, fetched if necessary; as it is in the cache if the hub does not give it.

    The folder's name is the commit. Without a network this takes seconds.
    """
    patterns = [*HUB_FILES, *(["*.py"] if config.trust_remote_code else [])]
    fetch = partial(snapshot_download, source, revision=config.revision, allow_patterns=patterns)
    try:
        HfApi().model_info(source, revision=config.revision, timeout=HUB_TIMEOUT_S)  # fetching retries for a minute
        return str(fetch())
    except _NOT_FETCHED as error:
        with contextlib.suppress(*_NOT_FETCHED):
            folder = str(fetch(local_files_only=True))
            if not isinstance(error, OfflineModeIsEnabled):
                warnings.warn(f"Model '{source}' is taken from the cache: {first_line(error)}", stacklevel=2)
            return folder
        raise ModelError(_why_not_fetched(source, config, error)) from error


def _why_not_fetched(source: str, config: PolicyConfig, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return f"Model '{source}' is gated: accept its terms on the hub, and set HF_TOKEN."
    if isinstance(error, RepositoryNotFoundError):
        return f"The hub has no model '{source}' (or it is private: set HF_TOKEN)."
    if isinstance(error, RevisionNotFoundError):
        return f"Model '{source}' has no revision '{config.revision}'."
    if isinstance(error, httpx.TransportError | OfflineModeIsEnabled | LocalEntryNotFoundError):
        return (
            f"Model '{source}' is not wholly in the hub's cache, and the hub cannot be reached. Where there is a "
            f"network, `hf download {source}` fetches it; or give a copy's folder as --model. 'tiny' needs no download."
        )
    return f"Cannot fetch model '{source}': {first_line(error)}"


def _read(source: str, config: PolicyConfig, device: torch.device) -> tuple[Any, set[str]]:
    is_gguf = Path(source).suffix == ".gguf"
    # transformers dequantises GGUF and cannot quantise in the same pass
    in_two_passes = is_gguf and config.bits != 16
    with plain_weights(source) if in_two_passes else contextlib.nullcontext((source, set[str]())) as (plain, missing):
        folder, options = _options(Path(plain), config)
        whole: Any = None if "gguf_file" in options else AutoConfig.from_pretrained(folder, **options)
        options |= {"output_loading_info": True} | _placement(config, device) | _language_part(whole)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You passed `quantization_config`")  # to a base that has one: that holds
            model, info = _AUTO_MODEL.from_pretrained(folder, **options)
    model.is_part = "key_mapping" in options and _MODELS.get(type(whole), None) is not type(model)
    settle_attention(model)
    return model, missing | set(info["missing_keys"])


def _language_part(whole: Any) -> dict[str, Any]:
    """The arguments that load of a model which also sees or hears the one that reads and writes text."""
    part = whole and whole.get_text_config(decoder=True)
    if part is whole:
        return {}
    # where the checkpoint has both matrices, transformers leaves them apart
    part.tie_word_embeddings = whole.tie_word_embeddings or part.tie_word_embeddings
    return {"config": part, "key_mapping": LANGUAGE_PART}


def settle_attention(model: Any) -> None:
    """Take the attention that knows a cap of its logits (Gemma 2): the others leave that out without a word."""
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")


@contextlib.contextmanager
def plain_weights(source: str) -> Iterator[tuple[str, set[str]]]:
    """Give a folder with a GGUF file's dequantised weights, without its tokenizer, and the names of missing weights.

    Any other source is given as it is.
    """
    path = Path(source)
    if path.suffix != ".gguf":
        yield source, set()
        return
    options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    model, info = _AUTO_MODEL.from_pretrained(
        str(path.parent), dtype=torch.float32, output_loading_info=True, **options
    )
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None  # or it refuses to be saved
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        del model
        gc.collect()
        yield plain, set(info["missing_keys"])


def linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """The layers that may have an adapter, by name: all linear ones of the decoder's blocks, but for routers.

    Nor may two of a Mamba block, whose fused kernels take the weights past the adapter.
    """
    modules = dict(model.named_modules())

    def fits(name: str) -> bool:
        parent, _, own = name.rpartition(".")
        fused = own in ("out_proj", "dt_proj") and "mamba" in f"{parent} {type(modules[parent]).__name__}".lower()
        return any(part.isdigit() for part in name.split(".")) and not fused and not ROUTERS.search(name)

    return {n: module for n, module in modules.items() if isinstance(module, torch.nn.Linear) and fits(n)}


def has_experts(model: Any) -> bool:
    """Tell whether some layers of a model are mixtures of experts."""
    return any("Expert" in type(module).__name__ for module in model.modules())


def four_bits(model: Any) -> dict[str, Any]:
    """The layers of a model whose weights are held in four bits, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def _misshapen(model: Any) -> set[str]:
    """Names of four-bit weights whose shape differs from the configuration, which transformers does not check."""
    layers = four_bits(model).items()
    return {n for n, m in layers if tuple(m.weight.quant_state.shape) != (m.out_features, m.in_features)}


def _switch_off_dropout(model: Any) -> None:
    """Set every dropout to 0: log-probabilities are taken in train mode."""
    for module in model.modules():
        for owner in (module, getattr(module, "config", module)):
            for name, value in list(vars(owner).items()):
                if "drop" in name and isinstance(value, float):
                    setattr(owner, name, 0.0)
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0


def _check_files(folder: Path, name: str) -> None:
    """Raise ModelError for a folder that transformers would read as something else than a plain model."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"Model '{name}' is an adapter. Download it (`hf download`), and give its folder as --model.")
    file = folder / "config.json"
    about = json.loads(file.read_text(encoding="utf-8")).get("quantization_config") if file.is_file() else None
    if about and not about.get("load_in_4bit"):
        kind = about.get("quant_method", "unknown")
        raise ModelError(f"Model '{name}' is stored quantised ({kind}). Give its original: --bits 4 quantises that.")


def _placement(config: PolicyConfig, device: torch.device) -> dict[str, Any]:
    dtype = compute_type(device)
    options: dict[str, Any] = {"dtype": dtype, "device_map": {"": str(device)}}
    if config.bits != 16:
        options["quantization_config"] = _QUANTISATION(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return options


def _check(model: Any, tokenizer: Any, name: str) -> None:
    n_rows, vocabulary = model.get_input_embeddings().num_embeddings, tokenizer.get_vocab()
    last = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[last] >= n_rows:
        raise ModelError(
            f"Model '{name}' has an embedding of {n_rows:,} tokens, and its tokenizer has {len(vocabulary):,}: "
            f"'{last}' is number {vocabulary[last]:,}. Give the tokenizer that belongs to the model."
        )
    if not linear_layers(model):
        raise ModelError(f"Model '{name}' has no linear layers (torch.nn.Linear), to which an adapter is added.")


def _check_four_bits(model: Any, name: str, device: torch.device) -> None:
    """Raise ModelError if bitsandbytes reads this model's four-bit weights back wrongly on this machine."""
    if any("altup" in layer for layer in four_bits(model)):
        raise ModelError(
            f"Model '{name}' (Gemma 3n) clips some of its weights in training, not in 4 bits: take --bits 16."
        )
    wrong = wrong_widths((layer.in_features for layer in four_bits(model).values()), device)
    if wrong:
        width, error = max(wrong.items(), key=lambda found: found[1])
        raise ModelError(
            f"Model '{name}' cannot be held in 4 bits here: bitsandbytes {version('bitsandbytes')} on this machine "
            f"reads weights of {width} inputs back with an error of {error:.0%}, where 9% is right. Take --bits 16."
        )
