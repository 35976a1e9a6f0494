"""The sizes that a model's memory follows from: of an alias, a folder, a hub's cache or a GGUF file; without torch.

The aliases' sizes are shipped in `model_shapes.json`, under the names that a model's own config.json has for them.
"""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from expo_lite.errors import ConfigError, ModelError
from expo_lite.settings.models import FAMILIES, PRESETS, Family, find_model

ALIASES_FILE = Path(__file__).parent / "model_shapes.json"


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of Llama's kind."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    """The longest sequence in tokens."""
    tied: bool
    """The head is the embeddings' own matrix."""
    attention_bias: bool = False
    """Of the query, key and value projections (Qwen2)."""
    head_norms: int = 0
    """Weights of a layer's norms of queries and keys (Qwen3, OLMo 2)."""
    norms: int = 2
    """Norms of a layer that are as wide as the hidden state."""
    gated: bool = False
    """The query projection also makes a gate of each head's output (Qwen3.5)."""
    linear_layers: int = 0
    """Layers with linear attention in place of queries, keys and values (Qwen3.5)."""
    linear_projections: tuple[tuple[int, int], ...] = ()
    """Inputs and outputs of the projections of such a layer, without those of its MLP."""
    linear_values: int = 0
    """All value heads of such a layer side by side."""
    linear_state: int = 0
    """Numbers that such a layer keeps of a row."""
    linear_weights: int = 0
    """Of such a layer, outside its projections and wide norms."""
    family: str = "llama"
    """The model's type by its configuration."""

    @property
    def query_width(self) -> int:
        """All query heads side by side."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """All key heads side by side; the values are as wide."""
        return self.kv_heads * self.head_dim

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's seven projections: those that are quantised and get an adapter."""
        h, i, q, kv = self.hidden, self.intermediate, self.query_width, self.kv_width
        return (h, q * (1 + self.gated)), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)

    @property
    def attention_layers(self) -> int:
        """Layers with queries, keys and values."""
        return self.layers - self.linear_layers

    @property
    def all_projections(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the projections of all layers."""
        linear = self.linear_projections + self.projections[-3:]
        return self.attention_layers * self.projections + self.linear_layers * linear

    @property
    def n_projection_weights(self) -> int:
        """Weights of all projections of all layers."""
        return sum(n_in * n_out for n_in, n_out in self.all_projections)

    @property
    def n_embedding_weights(self) -> int:
        """Of the embeddings, and of the head where it is a matrix of its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def n_other_weights(self) -> int:
        """Norms and biases."""
        biases = self.query_width + 2 * self.kv_width if self.attention_bias else 0
        wide = (self.layers * self.norms + 1) * self.hidden
        return wide + self.attention_layers * (biases + self.head_norms) + self.linear_layers * self.linear_weights

    @property
    def n_parameters(self) -> int:
        """All parameters of the base model."""
        return self.n_projection_weights + self.n_embedding_weights + self.n_other_weights

    def n_adapter_weights(self, rank: int) -> int:
        """Parameters of a LoRA adapter of this rank on all projections."""
        return rank * sum(map(sum, self.all_projections))


def find_shape(name: str, revision: str | None = None) -> Shape:
    """The sizes of a model, by any name that `--model` takes; of a hub model's revision, by default the newest.

    Raises:
        ConfigError: there is no such model.
        ModelError: its sizes cannot be read here; those of a hub model are known once it is in the hub's cache.
    """
    source = find_model(name, revision).source
    alias = next((alias for alias, preset in PRESETS.items() if preset.source == source), "")
    if alias in _aliases():
        return _aliases()[alias]
    path = Path(source)
    if path.suffix == ".gguf":
        return _of_gguf(path)
    file = path / "config.json" if path.exists() else _cached(source, cached_commit(name, revision))
    if file is None:
        raise ModelError(
            f"The sizes of '{name}' are not known here: it is not an alias, and not in the hub's cache. Fetch them "
            f"with `hf download {source} config.json`, which is small, or give a folder with that file."
        )
    try:
        return shape_of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"'{file}' is not the configuration of a Llama-like model: {error!r}.") from error


def context_of(model: str, max_completion_tokens: int) -> int | None:
    """The longest sequence of a model in tokens; None if its sizes are not known.

    Raises:
        ConfigError: a completion leaves no room for any prompt.
    """
    try:
        context = find_shape(model).positions
    except ModelError:
        return None
    if max_completion_tokens >= context:
        raise ConfigError(
            f"A completion of {max_completion_tokens:,} tokens leaves no room for a question: the context of model "
            f"'{model}' has {context:,}. Lower --max-completion-tokens."
        )
    return context


def shape_of(config: dict[str, Any]) -> Shape:
    """The sizes that a config.json holds; raises KeyError where one is missing."""
    config = config | config.get("text_config", {})
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kind = str(config.get("model_type", "llama"))
    family = FAMILIES.get(kind, Family())
    kv_heads, head_dim = int(config.get("num_key_value_heads") or heads), int(config.get("head_dim") or hidden // heads)
    head_norms = {"": 0, "each": 2 * head_dim, "joint": (heads + kv_heads) * head_dim}
    layers, every = int(config["num_hidden_layers"]), config.get("full_attention_interval")
    return Shape(
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=int(config["vocab_size"]),
        positions=int(config["max_position_embeddings"]),
        tied=bool(config.get("tie_word_embeddings", family.gemma)),
        attention_bias=family.biased or bool(config.get("attention_bias", False)),
        head_norms=head_norms["each" if every else family.head_norms],
        norms=sum(map(bool, family.norms)),
        family=kind,
        **(_linear_attention(config, hidden, layers - layers // every) if every else {}),
    )


def _linear_attention(config: dict[str, Any], hidden: int, layers: int) -> dict[str, Any]:
    """The sizes of layers with the gated delta net (arXiv 2412.06464), and of the gates in the others."""
    names = ("num_key_heads", "key_head_dim", "num_value_heads", "value_head_dim", "conv_kernel_dim")
    n_keys, key_dim, n_values, value_dim, kernel = (int(config[f"linear_{name}"]) for name in names)
    values, mixed = n_values * value_dim, 2 * n_keys * key_dim + n_values * value_dim
    return {
        "gated": bool(config.get("attn_output_gate", True)),
        "linear_layers": layers,
        "linear_projections": (*((hidden, n) for n in (mixed, values, n_values, n_values)), (values, hidden)),
        "linear_values": values,
        "linear_state": values * key_dim + mixed * kernel,
        "linear_weights": mixed * kernel + 2 * n_values + value_dim,
    }


@cache
def _aliases() -> dict[str, Shape]:
    configs = json.loads(ALIASES_FILE.read_text(encoding="utf-8"))
    return {alias: shape_of(config) for alias, config in configs.items()}


def cached_commit(name: str, revision: str | None) -> str | None:
    """The commit of a hub model's revision that the hub's cache has; else the revision as it is given."""
    ref = _cache(find_model(name).source) / "refs" / (revision or "main")
    return ref.read_text(encoding="ascii").strip() if ref.is_file() else revision


def _cache(source: str) -> Path:
    """The folder of OWNER/NAME in the hub's cache; huggingface_hub itself is slow to import."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    return hub / f"models--{source.replace('/', '--')}"


def _cached(source: str, commit: str | None) -> Path | None:
    """The config.json that the hub's cache has of a commit; without one the newest."""
    files = _cache(source).glob(f"snapshots/{commit or '*'}/config.json")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


@cache  # of a large vocabulary it takes seconds, and a run asks at each step
def _of_gguf(path: Path) -> Shape:
    from gguf import GGUFReader  # imports numpy

    try:
        reader = GGUFReader(path)
        kind = str(reader.fields["general.architecture"].contents())

        def field(name: str, default: int | None = None) -> int:
            found = reader.fields.get(f"{kind}.{name}")
            if found is None and default is None:
                raise KeyError(name)
            return int(found.contents()) if found else int(default or 0)

        heads, hidden = field("attention.head_count"), field("embedding_length")
        names = {tensor.name: tensor for tensor in reader.tensors}
        return Shape(
            hidden=hidden,
            intermediate=field("feed_forward_length"),
            layers=field("block_count"),
            heads=heads,
            kv_heads=field("attention.head_count_kv", heads),
            head_dim=field("attention.key_length", hidden // heads),
            vocabulary=int(names["token_embd.weight"].shape[1]),
            positions=field("context_length"),
            tied="output.weight" not in names,
            attention_bias="blk.0.attn_q.bias" in names,
            head_norms=sum(int(names[n].shape[0]) for n in map("blk.0.attn_{}_norm.weight".format, "qk") if n in names),
            norms=sum(f"blk.0.{n}_norm.weight" in names for n in ("attn", "post_attention", "ffn", "post_ffw")),
            family={"gemma3": "gemma3_text"}.get(kind, kind),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError(f"'{path}' is not the GGUF file of a Llama-like model: {error!r}.") from error
