"""Run by a test in a process of its own: the peak of resident memory, in bytes, of a real update step.

    python measured_update.py MODEL N_ROWS PROMPT COMPLETION MICRO_BATCH_TOKENS

Linux only: the kernel counts the peak anew when asked to, so that loading does not hide the step's.
"""

import gc
import json
import re
import sys
from pathlib import Path

from expo_lite.policy.batching import Row
from expo_lite.policy.hf import HfPolicy
from expo_lite.settings.groups import OptimizerConfig
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.learn import learn, make_optimizer


def resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


def main(model: str, n_rows: int, prompt: int, completion: int, micro_batch_tokens: int) -> None:
    config = resolve(TrainConfig(model=model, optimizer=OptimizerConfig(micro_batch_tokens=micro_batch_tokens)))
    policy = HfPolicy(model, config.policy, seed=0)
    optimizer = make_optimizer(policy, config)

    def step(rows: int, completion: int) -> None:
        # prompts differ, or they would be computed once
        batch = [Row((5 + i,) * prompt, (7,) * completion, advantage=1.0, weight=1e-3) for i in range(rows)]
        learn(policy, optimizer, batch, config, step=9, last_good="none")

    step(1, 8)  # makes the optimiser's state
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident("VmRSS")
    step(n_rows, completion)
    sys.stdout.write(json.dumps({"before": before, "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
