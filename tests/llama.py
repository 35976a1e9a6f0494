"""llama.cpp itself, which reads the GGUF files that we write."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found, import-untyped, unused-ignore]


class Llama:
    """A GGUF file in llama.cpp, with one slot and a cache in fp32."""

    def __init__(self, file: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 1024, 1, 1
        params.warmup, params.verbosity = False, -1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(params)

    def tokens(self, text: str) -> list[int]:
        """The ids of a text that may have control tokens."""
        data = json.dumps({"content": text, "parse_special": True}).encode()
        request = urllib.request.Request(f"{self._server.listening_address}/tokenize", data)  # noqa: S310 (itself)
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            return list(json.load(reply)["tokens"])

    def greedy(self, prompt: Sequence[int], n: int) -> str:
        """The text of up to `n` tokens after a prompt."""
        asked = {"prompt": list(prompt), "n_predict": n, "temperature": 0.0}
        return str(self._server.handle_completions(asked)["choices"][0]["text"])

    def logprobs(self, prompt: Sequence[int], tokens: Sequence[int], vocabulary: int) -> list[float]:
        """Log-probabilities of given tokens after a prompt."""
        found = []
        for i, token in enumerate(tokens):
            asked = {"prompt": [*prompt, *tokens[:i]], "n_predict": 1, "n_probs": vocabulary, "cache_prompt": False}
            for seed in range(99):  # it lists nothing beside a token of half a letter, or an end token
                (choice,) = self._server.handle_completions(asked | {"samplers": [], "seed": seed})["choices"]
                if choice["logprobs"]:
                    break
            listed = choice["logprobs"]["content"][0]["top_logprobs"]
            found.append(next(each["logprob"] for each in listed if each["id"] == token))
        return found
