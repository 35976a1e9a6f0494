"""Unsloth in a process of its own, since importing it patches transformers; prints what came out as JSON.

The arguments: a folder with an adapter that transformers wrote, a folder to write one to, and a model folder whose
generation settings are hostile.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from expo_lite.errors import ModelError
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import Row
from expo_lite.policy.factory import load_policy
from expo_lite.policy.scoring import score_rows
from expo_lite.policy.self_check import self_check
from expo_lite.records import SampleRequest, SamplingParams
from expo_lite.settings.groups import PolicyConfig

PROMPTS = ((2, 8, 9, 10, 11), (2, 8, 9, 10, 11, 12, 13, 14, 15, 16), (2, 20, 21))
ROWS = [Row(prompt, tuple(range(30, 30 + 7 * i))) for i, prompt in enumerate(PROMPTS, 1)]


def main() -> None:
    """Everything in one process: importing Unsloth takes longer than all of it."""
    theirs, ours, hostile = map(Path, sys.argv[1:])
    policy = load_policy("tiny", PolicyConfig(backend="unsloth"), seed=0)
    found: dict[str, Any] = {"kind": type(policy).__name__, "padding_side": [padding_side(policy)]}
    found["fresh"] = [p.double().sum().item() for p in policy.parameters().values()]
    policy.load_adapter(theirs)
    found["logprobs"] = scores(policy)
    with policy.reference():
        found["reference"] = scores(policy)
    found["greedy"] = sample(policy, 0.0)
    found["difference"] = self_check(policy, PROMPTS, temperature=1.0, token_budget=4096)
    found["padding_side"].append(padding_side(policy))
    found["too_long"] = [refusal(policy, "row"), refusal(policy, "prompt")]
    found["switches"] = switches(policy)
    ours.mkdir()
    policy.save_adapter(ours)
    native = load_policy("tiny", PolicyConfig(backend="unsloth", sampler="native"), seed=0, adapter=theirs)
    found["native_greedy"] = sample(native, 0.0)
    found["native"] = sample(native, 1.0)
    found["native_difference"] = self_check(native, PROMPTS, temperature=1.0, token_budget=4096)
    other = load_policy(str(hostile), PolicyConfig(backend="unsloth", sampler="native"), seed=0, adapter=theirs)
    found["native_hostile"] = sample(other, 1.0)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def padding_side(policy: Policy) -> str:
    return str(policy.tokenizer.padding_side)


def scores(policy: Policy) -> list[list[float]]:
    return [s.tolist() for s in score_rows(policy, ROWS, temperature=1.0, token_budget=64)]


def sample(policy: Policy, temperature: float) -> list[list[int]]:
    sampled = policy.sample([SampleRequest(p, 2) for p in PROMPTS], SamplingParams(temperature, 16), seed=5)
    return [list(completion.token_ids) for row in sampled for completion in row]


def refusal(policy: Policy, kind: str) -> str:
    limit = policy.base_model.config.max_position_embeddings  # type: ignore[attr-defined]
    try:
        if kind == "row":
            score_rows(policy, [Row((2,) * limit, (3,))], temperature=1.0, token_budget=8)
        else:
            policy.sample([SampleRequest((2,) * (limit - 15), 1)], SamplingParams(1.0, 16), seed=0)
    except ModelError as error:
        return str(error)
    return "none"


def switches(policy: Policy) -> list[str]:
    """The mode switches of three steps, each of which samples twice and scores three times."""
    unsloth: Any = importlib.import_module("expo_lite.policy.unsloth")
    scores(policy)  # what came before may have left it in either mode
    calls: list[str] = []
    for name in ("for_inference", "for_training"):
        original = getattr(unsloth.FastLanguageModel, name)

        def counted(model: Any, name: str = name, original: Any = original, **keywords: Any) -> Any:
            result = original(model, **keywords)
            calls.append(f"{name} {keywords.get('use_gradient_checkpointing')} {model.is_gradient_checkpointing}")
            return result

        setattr(unsloth.FastLanguageModel, name, counted)
    for _ in range(3):
        for _ in range(2):
            sample(policy, 1.0)
        for _ in range(3):
            scores(policy)
    return list(calls)  # policies that are loaded later are counted too


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
