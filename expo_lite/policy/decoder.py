"""A decoder of Llama's kind (`FAMILIES`) for sampling: plain operators on merged weights, no modules.

Rows are decoded in slots of a cache that is written in place. `step` reads no value of a tensor, and its shapes follow
from the number of rows and the width they attend to, so a GPU can record it once and replay it (`Replays`). Each row
begins at position 0 of its slot, so prompts of unequal lengths need no padding. Query heads that share a key head are
treated as several queries of it, so keys and values are never repeated. Prompts are laid end to end for the prefill;
each is computed once for its group, and its keys and values are copied into each row's slot.

Axes: R rows (slots 0 to R), S slots, T positions in a slot, W positions attended to, N tokens laid end to end, H
hidden, h query, key and value heads, k key heads, g query heads a key head, d head dimension, n rotations.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from expo_lite.memory.machine import out_of_memory
from expo_lite.policy.batching import band
from expo_lite.policy.merged import DenseWeights
from expo_lite.policy.products import Product

Attend = Callable[[int, torch.Tensor], torch.Tensor]
"""The attention: a layer's number and its rotated heads [N, h, d] to the output of all query heads [N, h * d]."""
Rope = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines [T, rotations, d] of positions, for each of the model's rotations."""


class SlotCache:
    """Keys and values of all layers: two buffers [S, k, T, d] a layer.

    If `turned`, the keys of a head lie dimension by dimension, not token by token, which saves a quarter of attention's
    time on a CPU.
    """

    def __init__(self, weights: DenseWeights, n_slots: int, n_positions: int, *, turned: bool) -> None:
        """Make buffers of zeros for `n_positions` tokens in each slot: masked values must be numbers too."""
        like = weights.embeddings_VH
        nothing = like.new_zeros(n_slots, weights.n_keys, 0, weights.head_dim)
        self._turned = turned
        self.keys = [nothing for _ in weights.layers]
        self.values = [nothing for _ in weights.layers]
        self.n_positions = 0
        self.grow(n_positions)

    def grow(self, n_positions: int) -> None:
        """Make room for this many positions and keep the contents. One buffer at a time exists twice."""
        for buffers, turned in ((self.keys, self._turned), (self.values, False)):
            for i, old in enumerate(buffers):
                n_slots, n_keys, _, head_dim = old.shape
                sizes = (head_dim, n_positions) if turned else (n_positions, head_dim)
                larger = old.new_zeros(n_slots, n_keys, *sizes)
                buffers[i] = larger.transpose(2, 3) if turned else larger
                buffers[i][:, :, : self.n_positions] = old
        self.n_positions = n_positions

    def move(self, sources: torch.Tensor, targets: torch.Tensor, width: int) -> None:
        """Copy the first `width` positions of slots to other slots."""
        for buffer in (*self.keys, *self.values):
            buffer[targets, :, :width] = buffer[sources, :, :width]

    def keep(self, slot: int, n_tokens: int) -> tuple[torch.Tensor, ...]:
        """Copy the keys and values of the first tokens in a slot."""
        return tuple(buffer[slot, :, :n_tokens].clone() for buffer in (*self.keys, *self.values))

    def restore(self, kept: tuple[torch.Tensor, ...], slots: list[int]) -> None:
        """Put the copy that `keep` made into slots."""
        for buffer, tokens_kTd in zip((*self.keys, *self.values), kept, strict=True):
            buffer[slots, :, : tokens_kTd.shape[1]] = tokens_kTd


class Decoder:
    """Forward passes of merged weights, with a cache."""

    def __init__(self, weights: DenseWeights, *, fused: bool | None = None) -> None:
        """Take the weights; `fused` makes attention one kernel (default: except on a CPU)."""
        self.weights = weights
        self.device = weights.embeddings_VH.device
        self._fused = self.device.type != "cpu" if fused is None else fused
        self._scale = weights.attention_scale
        self._windows = {layer.window for layer in weights.layers}
        self._width = (weights.embeddings_VH.shape[1],)
        self._n_roped = weights.n_queries + weights.n_keys

    def new_cache(self, n_slots: int, n_positions: int) -> SlotCache:
        """A cache in the layout that is fastest for `step`."""
        return SlotCache(self.weights, n_slots, n_positions, turned=not self._fused)

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """Logits [N, V] of the next token, fp32."""
        return self.weights.head(hidden_NH).float()

    def rope_table(self, n_positions: int) -> Rope:
        """Cosines and sines of all positions; the sines of a head's first half are negative."""
        positions_T1 = torch.arange(n_positions, device=self.device, dtype=torch.float32)[:, None]
        angles_Tnd = torch.stack([positions_T1 * frequencies_d for frequencies_d, _ in self.weights.ropes], dim=1)
        scales_n1 = torch.tensor([[scale] for _, scale in self.weights.ropes], device=self.device)
        cos_Tnd, sin_Tnd = angles_Tnd.cos() * scales_n1, angles_Tnd.sin() * scales_n1
        dtype = self.weights.embeddings_VH.dtype
        return torch.cat([cos_Tnd, cos_Tnd], dim=2).to(dtype), torch.cat([-sin_Tnd, sin_Tnd], dim=2).to(dtype)

    def step(
        self,
        cache: SlotCache,
        tokens_R: torch.Tensor,
        slots_R: torch.Tensor,
        positions_R: torch.Tensor,
        rope: Rope,
        width: int,
    ) -> torch.Tensor:
        """Feed one token to each of the first R slots; returns hidden states [R, H].

        Args:
            cache: receives the tokens' keys and values.
            tokens_R: one token per row.
            slots_R: 0, 1, 2, ...
            positions_R: positions of these tokens, all below `width`.
            rope: result of `rope_table`.
            width: positions attended to; those after a row's own are masked.
        """
        n_rows, w = len(tokens_R), self.weights
        n_shared = w.n_queries // w.n_keys
        places_W = torch.arange(width, device=self.device)
        masks: dict[int | None, torch.Tensor] = {}
        for window in self._windows:
            hidden_RW = places_W > positions_R[:, None]
            if window is not None:
                hidden_RW |= places_W <= positions_R[:, None] - window
            mask_RW = torch.zeros_like(hidden_RW, dtype=w.embeddings_VH.dtype).masked_fill_(hidden_RW, -torch.inf)
            many = mask_RW[:, None, None].expand(n_rows, w.n_keys, n_shared, width)
            masks[window] = many if self._fused else many.reshape(n_rows * w.n_keys, n_shared, width)

        def attend(layer: int, heads_Rhd: torch.Tensor) -> torch.Tensor:
            q, k, v = torch.split(heads_Rhd, [w.n_queries, w.n_keys, w.n_keys], dim=1)
            cache.keys[layer][slots_R, :, positions_R] = k
            cache.values[layer][slots_R, :, positions_R] = v
            keys, values = cache.keys[layer][:n_rows, :, :width], cache.values[layer][:n_rows, :, :width]
            queries = q.reshape(n_rows, w.n_keys, n_shared, w.head_dim)
            mask_BgW = masks[w.layers[layer].window]
            if self._fused:
                output = scaled_dot_product_attention(queries, keys, values, attn_mask=mask_BgW, scale=self._scale)
                return output.reshape(n_rows, -1)
            # three products of batches: a quarter faster than the CPU's own kernel at a handful of queries
            scores_BgW = torch.baddbmm(mask_BgW, queries.flatten(0, 1), keys.flatten(0, 1).mT, alpha=self._scale)
            return torch.bmm(scores_BgW.softmax(dim=-1), values.flatten(0, 1)).view(n_rows, -1)

        return self._run(tokens_R, positions_R, rope, attend)

    def prefill(
        self, cache: SlotCache, prompts: Sequence[tuple[int, ...]], slots: Sequence[Sequence[int]], rope: Rope
    ) -> torch.Tensor:
        """Feed prompts, laid end to end, each into all of its slots; returns their last hidden states [P, H]."""
        lengths, w = [len(prompt) for prompt in prompts], self.weights
        places = [torch.tensor(own, device=self.device) for own in slots]
        tokens_N = torch.tensor([token for prompt in prompts for token in prompt], device=self.device)
        positions_N = torch.cat([torch.arange(n, device=self.device) for n in lengths])

        def attend(layer: int, heads_Nhd: torch.Tensor) -> torch.Tensor:
            outputs, window = [], w.layers[layer].window
            for piece, own in zip(torch.split(heads_Nhd, lengths), places, strict=True):
                q, k, v = torch.split(piece.transpose(0, 1)[None], [w.n_queries, w.n_keys, w.n_keys], dim=1)
                cache.keys[layer][own, :, : len(piece)] = k
                cache.values[layer][own, :, : len(piece)] = v
                mask = band(piece.shape[0], window, self.device)
                output = scaled_dot_product_attention(
                    q, k, v, mask, is_causal=mask is None, scale=self._scale, enable_gqa=True
                )
                outputs.append(output[0])
            return torch.cat(outputs, dim=1).transpose(0, 1).flatten(1)

        hidden_NH = self._run(tokens_N, positions_N, rope, attend)
        return hidden_NH[torch.tensor(lengths, device=self.device).cumsum(0) - 1]

    def _run(self, tokens_N: torch.Tensor, positions_N: torch.Tensor, rope: Rope, attend: Attend) -> torch.Tensor:
        """Run all layers, with attention as given; returns hidden states [N, H] after the last norm."""
        w = self.weights
        turns = list(zip(*(torch.split(table[positions_N], 1, dim=1) for table in rope), strict=True))
        hidden_NH = w.embeddings_VH[tokens_N]
        if w.embedding_scale != 1:
            hidden_NH *= w.embedding_scale
        for i, layer in enumerate(w.layers):
            before_attention_H, after_attention_H, before_mlp_H, after_mlp_H = layer.norms
            joined = layer.qkv(self._normed(hidden_NH, before_attention_H))
            heads_Nhd = joined.view(len(tokens_N), -1, w.head_dim)
            roped = heads_Nhd[:, : self._n_roped]
            if layer.head_norm_hd is not None:
                self._norm_heads(roped, layer.head_norm_hd)
            if layer.rope is not None:
                cos_N1d, sin_N1d = turns[layer.rope]
                turned = roped.roll(w.head_dim // 2, dims=-1)
                roped.mul_(cos_N1d).addcmul_(turned, sin_N1d)
            if w.long_queries is not None:
                beta, n = w.long_queries
                factors_N = 1 + beta * torch.log(1 + torch.floor(positions_N / n))
                heads_Nhd[:, : w.n_queries] *= factors_N[:, None, None].to(heads_Nhd.dtype)
            hidden_NH = self._added(layer.output, attend(i, heads_Nhd), hidden_NH, after_attention_H)
            gate_NI, up_NI = layer.gate_up(self._normed(hidden_NH, before_mlp_H)).chunk(2, dim=1)
            hidden_NH = self._added(layer.down, w.activation(gate_NI).mul_(up_NI), hidden_NH, after_mlp_H)
        return self._normed(hidden_NH, w.norm_H)

    def _normed(self, x_NH: torch.Tensor, norm_H: torch.Tensor | None) -> torch.Tensor:
        if norm_H is None:
            return x_NH
        if norm_H.dtype == x_NH.dtype:
            return rms_norm(x_NH, self._width, norm_H, self.weights.norm_eps)
        return rms_norm(x_NH.float(), self._width, norm_H, self.weights.norm_eps).to(x_NH.dtype)

    def _norm_heads(self, heads_Nhd: torch.Tensor, norm_hd: torch.Tensor) -> None:
        """Norm queries and keys in place: each head, or all of a kind together."""
        w = self.weights
        if not w.joint_norms:
            torch.mul(rms_norm(heads_Nhd, (w.head_dim,), None, w.norm_eps), norm_hd, out=heads_Nhd)
            return
        sizes = [w.n_queries, w.n_keys]
        for part, norm in zip(torch.split(heads_Nhd, sizes, 1), torch.split(norm_hd, sizes), strict=True):
            part.copy_(rms_norm(part, tuple(part.shape[1:]), norm, w.norm_eps))

    def _added(
        self, product: Product, x_NI: torch.Tensor, hidden_NH: torch.Tensor, norm_H: torch.Tensor | None
    ) -> torch.Tensor:
        """A product, normed if the family does that, added to the residual stream."""
        return product.added(x_NI, hidden_NH) if norm_H is None else hidden_NH + self._normed(product(x_NI), norm_H)


class Replays:
    """Records a decoding step as a CUDA graph the first time each shape comes, and replays it afterwards.

    A replay costs the host one launch instead of hundreds. A step must read and write the same buffers every time.
    Recordings share one pool of memory, and are freed with this object. If a step cannot be recorded, it and all others
    of the process run without recording, with a warning: a failed recording leaves memory behind (pytorch issues
    180395, 190348). Not yet run on a GPU; a test without one holds that a step reads no value and leaves nothing on the
    CPU.
    """

    failed: ClassVar[bool] = False
    """A step of this process could not be recorded."""
    stream: ClassVar[torch.cuda.Stream | None] = None
    """The only stream beside the main one: torch keeps a workspace of cuBLAS, 8 MiB or more, for each."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def __call__(self, shape: Hashable, step: Callable[[], None]) -> None:
        """Run the step once."""
        if shape in self._graphs:
            self._graphs[shape].replay()
            return
        if Replays.failed:
            step()
            return
        main, beside = torch.cuda.current_stream(), Replays.stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        Replays.stream = beside
        # this is the step itself; libraries initialise themselves in it, which must not happen in a recording
        beside.wait_stream(main)
        with torch.cuda.stream(beside):
            step()
        main.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=beside):
                step()  # recorded, not run
        except RuntimeError as error:
            torch.cuda.set_stream(main)  # torch leaves the recording's stream current
            if out_of_memory(error):
                raise
            Replays.failed = True
            warnings.warn(f"Decoding continues without CUDA graphs, slower: {error}", stacklevel=2)
            return
        self._pool = graph.pool()
        self._graphs[shape] = graph
