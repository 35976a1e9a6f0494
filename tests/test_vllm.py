"""The vLLM sampler: every argument against the installed library; the adapter handed over after every update.

vLLM itself needs a GPU and has not been run here. Where it is installed (extra `vllm`) its signatures are read; the hand-over is
tested on a stand-in for the engine alone, which shows when it happens and not that vLLM takes it.
"""

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expo_lite.errors import ModelError
from expo_lite.policy.vllm import VllmSampler, _sampled, sampling_arguments
from expo_lite.records import FinishReason, SamplingParams
from expo_lite.settings.machine import is_installed

installed = pytest.mark.skipif(not is_installed("vllm"), reason="vllm is not installed (extra 'vllm')")


@installed
@pytest.mark.filterwarnings("ignore")
def test_every_argument_is_one_that_vllm_takes() -> None:
    import vllm
    from vllm.inputs import TokensPrompt

    given = sampling_arguments(4, SamplingParams(0.7, 16, 0.9), [1, 2], 3)
    params = vllm.SamplingParams(**given)
    assert (params.n, params.temperature, params.top_p, params.seed) == (4, 0.7, 0.9, 3)
    altering = {"presence_penalty", "frequency_penalty", "repetition_penalty", "min_p", "top_k", "watermarking"}
    assert altering <= given.keys()
    assert altering <= set(inspect.signature(vllm.SamplingParams).parameters)
    keywords: dict[str, Any] = {"sampling_params": [params], "lora_request": None, "use_tqdm": False}
    inspect.signature(vllm.LLM.generate).bind(object(), [{"prompt_token_ids": [1]}], **keywords)
    assert "prompt_token_ids" in TokensPrompt.__annotations__


class Engine(torch.nn.Module):
    """Takes adapters down."""

    vllm_engine = "an engine"

    def __init__(self) -> None:
        super().__init__()
        self.lora = torch.nn.Parameter(torch.ones(3))
        self.base = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.taken: list[tuple[str, list[float]]] = []

    def load_lora(self, name: str, *, load_tensors: bool) -> str:
        assert load_tensors
        self.taken.append((name, self.lora.tolist()))
        return name


def test_the_adapter_goes_over_after_every_update_and_only_then() -> None:
    engine = Engine()
    sampler = VllmSampler(engine, [2])
    optimizer = torch.optim.AdamW([engine.lora], lr=0.1)
    for update in range(3):
        sampler.hand_over()
        sampler.hand_over()
        assert sampler.version == update + 1
        engine.lora.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert [name for name, _ in engine.taken] == ["adapter-1", "adapter-2", "adapter-3"]
    assert len({tuple(values) for _, values in engine.taken}) == 3


def test_a_model_without_an_engine_is_refused() -> None:
    with pytest.raises(ModelError, match="could not start vLLM"):
        VllmSampler(torch.nn.Linear(1, 1), [2])


def test_a_completion_of_vllm_by_hand() -> None:
    entries = [
        {5: SimpleNamespace(logprob=-0.5)},
        {2: SimpleNamespace(logprob=-0.25), 7: SimpleNamespace(logprob=-0.1)},
    ]
    output = SimpleNamespace(token_ids=(5, 2), logprobs=entries, finish_reason="stop")
    sampled = _sampled(output)
    assert (sampled.token_ids, sampled.logprobs) == ([5, 2], [-0.5, -0.25])
    assert sampled.finish_reason is FinishReason.STOP
    output.finish_reason = "length"
    assert _sampled(output).finish_reason is FinishReason.LENGTH
