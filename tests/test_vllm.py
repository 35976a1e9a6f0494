"""The vLLM sampler: every argument against the installed library; the adapter handed over after every update.

vLLM itself needs a GPU and has not been run here. Where it is installed (extra `vllm`) its signatures are read; the
hand-over is tested on a stand-in for the engine alone, which shows when it happens and not that vLLM takes it.
"""

import gc
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from expo_lite.errors import ModelError
from expo_lite.policy.vllm import VllmSampler, _sampled, sampling_arguments
from expo_lite.records import FinishReason, SampleRequest, SamplingParams
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


class Adapted(torch.nn.Module):
    """One projection, with the adapter of peft."""

    def __init__(self) -> None:
        super().__init__()
        self.peft: Any = get_peft_model(
            torch.nn.Sequential(torch.nn.Linear(3, 3)), LoraConfig(r=2, target_modules=["0"])
        )
        self.vllm_engine = "an engine"
        self.taken: list[tuple[str, list[float]]] = []
        self.asked: list[Any] = []

    def load_lora(self, folder: str, *, load_tensors: bool) -> str:
        assert load_tensors
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "adapter_config.json").write_text("{}")  # as Unsloth does
        self.taken.append((folder, [float(p.detach().sum()) for p in self.parameters() if p.requires_grad]))
        return f"request {len(self.taken)}"

    def fast_generate(self, prompts: list[Any], *, lora_request: Any, **_others: Any) -> list[Any]:
        self.asked.append(lora_request)
        completion = SimpleNamespace(
            token_ids=(2,), logprobs=[{2: SimpleNamespace(logprob=-0.5)}], finish_reason="stop"
        )
        return [SimpleNamespace(outputs=[completion]) for _ in prompts]


def sampler_of(engine: Adapted, monkeypatch: pytest.MonkeyPatch) -> VllmSampler:
    monkeypatch.setattr(VllmSampler, "_params", lambda *_: [])  # vLLM's own class
    return VllmSampler(engine, [2])


def test_the_adapter_goes_over_after_every_update_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = Adapted()
    sampler = sampler_of(engine, monkeypatch)
    adapter = [p for p in engine.parameters() if p.requires_grad]
    assert len(adapter) == 2
    optimizer = torch.optim.AdamW(adapter, lr=0.1)
    for update in range(3):
        for _ in range(2):
            sampler.sample([SampleRequest((1,), 1)], SamplingParams(1.0, 4), seed=0)
        assert sampler.version == update + 1
        engine.peft(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert engine.asked == ["request 1", "request 1", "request 2", "request 2", "request 3", "request 3"]
    assert len({tuple(values) for _, values in engine.taken}) == 3
    # in one folder, which is not where the run was started
    assert len({folder for folder, _ in engine.taken}) == 1
    assert list(tmp_path.iterdir()) == []
    folder = Path(engine.taken[0][0])
    assert folder.exists()
    del sampler
    gc.collect()
    assert not folder.exists()


def test_the_reference_is_sampled_without_an_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Adapted()
    sampler = sampler_of(engine, monkeypatch)
    with engine.peft.disable_adapter():
        sampler.sample([SampleRequest((1,), 1)], SamplingParams(1.0, 4), seed=0)
        assert engine.taken == []
    sampler.sample([SampleRequest((1,), 1)], SamplingParams(1.0, 4), seed=0)
    assert engine.asked == [None, "request 1"]


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
