"""The sizes that a model's memory follows from: of an alias, a folder, a hub's cache or a GGUF file; without torch.

The aliases' sizes are shipped in `model_shapes.json`, under the names that a model's own config.json has for them.
"""

import json
import os
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from expo_lite.errors import ConfigError, ModelError
from expo_lite.settings.models import FAMILIES, PRESETS, Family, find_model

ALIASES_FILE = Path(__file__).parent / "model_shapes.json"
Projections = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """The parts of a layer in which those of one model may differ."""

    projections: Projections
    """Inputs and outputs of those that are quantised and get an adapter."""
    keys: int
    """Numbers that a token's keys have, side by side; the values are as wide."""
    weights: int
    """Outside its projections and its wide norms."""
    state: int = 0
    """Numbers that it keeps of a row, whatever its length."""


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
    """The query, key and value projections have biases (Qwen2)."""
    head_norms: int = 0
    """Weights of a layer's norms of queries and keys (Qwen3, OLMo 2)."""
    norms: int = 2
    """Norms of a layer that are as wide as the hidden state."""
    unlike: tuple[Layer, ...] = ()
    """All layers, where they are not alike; the widths above are then the greatest."""
    linear_values: int = 0
    """All value heads of linear attention side by side (Qwen3.5)."""
    per_layer: int = 0
    """Numbers of a token that each layer gets from embeddings of its own (Gemma 4)."""
    per_layer_vocabulary: int = 0
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
    def projections(self) -> Projections:
        """Inputs and outputs of a layer's seven projections."""
        h, i, q, kv = self.hidden, self.intermediate, self.query_width, self.kv_width
        return (h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)

    @property
    def each_layer(self) -> tuple[Layer, ...]:
        """All layers."""
        biases = self.query_width + 2 * self.kv_width if self.attention_bias else 0
        return self.unlike or (Layer(self.projections, self.kv_width, biases + self.head_norms),) * self.layers

    @property
    def n_projection_weights(self) -> int:
        """All that are quantised: of the layers, and of the one that makes their own inputs from the embeddings."""
        n_layers = sum(n_in * n_out for layer in self.each_layer for n_in, n_out in layer.projections)
        return n_layers + self.hidden * self.layers * self.per_layer

    @property
    def n_embedding_weights(self) -> int:
        """Weights of the embeddings, and of the head where it is a matrix of its own."""
        per_layer = self.per_layer_vocabulary * self.layers * self.per_layer
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + per_layer

    @property
    def n_other_weights(self) -> int:
        """Norms and biases."""
        wide = (self.layers * self.norms + 1) * self.hidden
        return wide + self.per_layer + sum(layer.weights for layer in self.each_layer)

    @property
    def n_parameters(self) -> int:
        """All parameters of the base model."""
        return self.n_projection_weights + self.n_embedding_weights + self.n_other_weights

    def n_adapter_weights(self, rank: int) -> int:
        """Parameters of a LoRA adapter of this rank on all projections."""
        return rank * sum(map(sum, chain.from_iterable(layer.projections for layer in self.each_layer)))


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


def context_of(model: str, max_completion_tokens: int, revision: str | None) -> int | None:
    """The longest sequence of a model in tokens; None if its sizes are not known.

    Raises:
        ConfigError: a completion leaves no room for any prompt.
    """
    try:
        context = find_shape(model, revision).positions
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
    shape = Shape(
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=int(config["vocab_size"]),
        positions=int(config["max_position_embeddings"]),
        tied=bool(config.get("tie_word_embeddings", kind.startswith("gemma"))),
        attention_bias=family.biased or bool(config.get("attention_bias", False)),
        head_norms=head_norms[family.head_norms],
        norms=sum(map(bool, family.norms)),
        family=kind,
    )
    if kind == "gemma4_text":
        return _gemma_4(config, shape)
    return _linear_attention(config, shape) if "linear_num_key_heads" in config else shape


def _kinds(config: dict[str, Any], every: int) -> list[str]:
    """The kind of each layer; by default one in so many has full attention."""
    n_layers, every = int(config["num_hidden_layers"]), int(config.get("full_attention_interval", every))
    return config.get("layer_types") or ["" if i % every else "full_attention" for i in range(1, n_layers + 1)]


def _linear_attention(config: dict[str, Any], shape: Shape) -> Shape:
    """A shape with layers of the gated delta net (arXiv 2412.06464), and gates of the heads' outputs in the others."""
    names = ("num_key_heads", "key_head_dim", "num_value_heads", "value_head_dim")
    n_keys, key_dim, n_values, value_dim = (int(config[f"linear_{name}"]) for name in names)
    kernel = int(config.get("linear_conv_kernel_dim", 4))
    values, mixed = n_values * value_dim, 2 * n_keys * key_dim + n_values * value_dim
    inputs, (q, *kvo) = [(shape.hidden, n) for n in (mixed, values, n_values, n_values)], shape.projections
    linear = Layer(
        (*inputs, (values, shape.hidden), *shape.projections[-3:]),
        keys=0,
        weights=mixed * kernel + 2 * n_values + value_dim,
        state=values * key_dim + mixed * kernel,
    )
    full = Layer(((q[0], q[1] * 2), *kvo), shape.kv_width, 2 * shape.head_dim)
    layers = tuple(full if kind == "full_attention" else linear for kind in _kinds(config, 4))
    return replace(shape, head_norms=2 * shape.head_dim, unlike=layers, linear_values=values)


def _gemma_4(config: dict[str, Any], shape: Shape) -> Shape:
    """A shape with wider heads in full attention, layers that take an earlier one's keys, and inputs for each layer."""
    keys_are_values, n_sharing = bool(config.get("attention_k_eq_v")), int(config.get("num_kv_shared_layers", 0))
    wide = {"head_dim": config.get("global_head_dim", 512)}
    if keys_are_values:
        wide |= {"num_key_value_heads": config.get("num_global_key_value_heads") or shape.kv_heads}
    full = [str(i) for i, kind in enumerate(_kinds(config, 6)) if kind == "full_attention"]
    special = config.get("per_layer_config") or dict.fromkeys(full, wide)
    h, n_inputs = shape.hidden, int(config.get("hidden_size_per_layer_input", 256))
    widest = shape.intermediate * (2 if n_sharing and config.get("use_double_wide_mlp") else 1)
    per_layer = ((h, n_inputs), (n_inputs, h)) if n_inputs else ()
    layers, dims = [], []
    for i in range(shape.layers):
        layer, shares = config | special.get(str(i), {}), i >= shape.layers - n_sharing
        dim = layer["head_dim"]
        q, kv, inner = shape.heads * dim, layer["num_key_value_heads"] * dim, widest if shares else shape.intermediate
        made = () if shares else ((h, kv),) * (1 if keys_are_values and str(i) in full else 2)
        projections = ((h, q), *made, (q, h), (h, inner), (h, inner), (inner, h), *per_layer)
        layers.append(Layer(projections, 0 if shares else kv, dim if shares else 2 * dim))
        dims.append(dim)
    return replace(
        shape,
        intermediate=widest,
        head_dim=max(dims),
        head_norms=2,
        norms=5 if n_inputs else 4,
        unlike=tuple(layers),
        per_layer=n_inputs,
        per_layer_vocabulary=int(config.get("vocab_size_per_layer_input", 262_144)),
    )


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
