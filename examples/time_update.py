"""Time an update on a CPU by what it keeps for its backward pass: all activations, products or inputs of layers.

    uv run python examples/time_update.py [ROUNDS]

The built-in model with 64 rows of 32 + 44 tokens, and a random one in the shape of SmolLM2-135M, with 8 layers and a
vocabulary of 4,096, with 8 rows of 64 + 64; both in fp32. Rounds alternate. Times are of the processor, so that other
programs matter less; ratios are medians over rounds.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from expo_lite.memory.plan import Keeps
from expo_lite.memory.shapes import ALIASES_FILE
from expo_lite.policy import hf
from expo_lite.policy.batching import Row, collate
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.models import TINY

ROUNDS = 7


def make_model(folder: str) -> None:
    """Write the random model, with the built-in model's tokenizer."""
    sizes = json.loads(ALIASES_FILE.read_text(encoding="utf-8"))["smollm2-135m"]
    kind: Any = CONFIG_MAPPING[sizes.pop("model_type")]
    torch.manual_seed(0)
    config = kind(**sizes | {"num_hidden_layers": 8, "vocab_size": 4096})
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for file in Path(TINY.source).iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)


def measure(folder: str, n_rows: int, n_prompt: int, n_completion: int, n_rounds: int) -> None:
    """Print seconds, and ratios to the update that keeps all activations."""
    policy = hf.HfPolicy(folder, PolicyConfig(bits=16), seed=0)
    rows = [Row((5 + i, *range(5, 4 + n_prompt)), tuple(range(10, 10 + n_completion))) for i in range(n_rows)]
    batch = collate(rows, list(range(n_rows)), pad_id=0)

    def seconds(keeps: Keeps) -> float:
        policy.keeps = keeps
        for parameter in policy.parameters().values():
            parameter.grad = None
        started = time.process_time()
        policy.logprobs(batch, temperature=1.0).sum().backward()  # type: ignore[no-untyped-call]
        return time.process_time() - started

    names: tuple[Keeps, ...] = get_args(Keeps)
    rounds = [{keeps: seconds(keeps) for keeps in names} for _ in range(n_rounds + 1)][1:]  # the first warms up
    for keeps in names:
        ratio = statistics.median(each[keeps] / each["activations"] for each in rounds)
        print(f"{keeps:11} {statistics.median(each[keeps] for each in rounds):6.2f} s {ratio:5.2f}")


if __name__ == "__main__":
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print("tiny")
    measure(TINY.source, 64, 32, 44, asked)
    print("in the shape of SmolLM2-135M")
    with tempfile.TemporaryDirectory() as made:
        make_model(made)
        measure(made, 8, 64, 64, asked)
