"""Sampling by vLLM through Unsloth: one set of base weights for both, and the adapter handed over after every update.

What has run where: the arguments are held against the signatures of vLLM 0.31 and Unsloth in a test, where both are
installed. None of it has yet been run: vLLM needs a GPU.

Standby, which hands vLLM's memory back while the policy trains, is Unsloth's `UNSLOTH_VLLM_STANDBY=1`; whoever sets it
gets it.
"""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from expo_lite.errors import ModelError
from expo_lite.policy.merged import adapter_is_off
from expo_lite.policy.slots import Sampled
from expo_lite.records import FinishReason, SampleRequest, SamplingParams

MEMORY_SHARE = 0.5
"""Of the GPU's memory, for vLLM: the weights that both use, and its cache of keys and values."""
VLLM_ROWS = 255
"""The most completions that vLLM decodes at the same time."""


class VllmSampler:
    """Samples from the engine that Unsloth keeps beside a model."""

    def __init__(self, model: Any, eos_ids: Sequence[int]) -> None:
        """Take a peft model that was loaded with `fast_inference`; no adapter has been handed over yet.

        Raises:
            ModelError: Unsloth could not start vLLM, and went on without it.
        """
        if getattr(model, "vllm_engine", None) is None:
            raise ModelError(
                "Unsloth could not start vLLM for this model; what it said is above. Take --sampler native."
            )
        self._model = model
        self._eos_ids = list(eos_ids)
        self._stamp: tuple[float, ...] = ()
        self._adapter: Any = None
        # Unsloth writes the adapter's settings into it, once
        self._folder = tempfile.mkdtemp(prefix="expo-lite-vllm-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.version = 0
        """How many adapters the engine has been given: one more after every update."""

    def sample(self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int) -> list[list[Sampled]]:
        """Sample completions, one list a request, in order; of the base model while the adapter is off."""
        off = adapter_is_off(self._model)
        if not off:
            self.hand_over()
        outputs = self._model.fast_generate(
            [{"prompt_token_ids": list(request.prompt_ids)} for request in requests],
            sampling_params=self._params(requests, params, seed),
            lora_request=None if off else self._adapter,
            use_tqdm=False,
        )
        return [[_sampled(completion) for completion in output.outputs] for output in outputs]

    def hand_over(self) -> None:
        """Give the engine the adapter as it is now, unless it has it: a sum over each of its tensors tells."""
        tensors = [p.detach() for p in self._model.parameters() if p.requires_grad]
        stamp = tuple(torch.stack([t.double().sum() for t in tensors]).tolist())
        if stamp != self._stamp:
            self.version += 1
            # a new request each time, with a number of its own: the engine keeps an adapter under its number
            self._adapter = self._model.load_lora(self._folder, load_tensors=True)
            self._stamp = stamp

    def _params(self, requests: Sequence[SampleRequest], params: SamplingParams, seed: int) -> list[Any]:
        import vllm

        return [
            vllm.SamplingParams(**sampling_arguments(request.n_completions, params, self._eos_ids, own_seed))
            for request, own_seed in zip(requests, request_seeds(requests, seed), strict=True)
        ]


def request_seeds(requests: Sequence[SampleRequest], seed: int) -> list[int]:
    """A seed for each request: its own, or one drawn for it from that of the call."""
    drawn = torch.randint(2**62, (len(requests),), generator=torch.Generator().manual_seed(seed)).tolist()
    return [d if request.seed is None else request.seed for d, request in zip(drawn, requests, strict=True)]


def sampling_arguments(n: int, params: SamplingParams, eos_ids: list[int], seed: int) -> dict[str, Any]:
    """What `vllm.SamplingParams` is given for one prompt: every field that bears on what is sampled."""
    return {
        "n": n,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "watermarking": False,
        "max_tokens": params.max_completion_tokens,
        "stop_token_ids": eos_ids,
        "seed": seed,
        "logprobs": 0,  # the chosen token's alone; at the temperature, which is how Unsloth sets the engine up
        "detokenize": False,
    }


def _sampled(completion: Any) -> Sampled:
    ids = list(completion.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(ids, completion.logprobs, strict=True)]
    stopped = completion.finish_reason == "stop"
    return Sampled(ids, logprobs, FinishReason.STOP if stopped else FinishReason.LENGTH)
