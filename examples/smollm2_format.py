r"""Teach SmolLM2-135M-Instruct the form of an answer: `uv run python examples/smollm2_format.py GGUF FOLDER`.

Untaught, the model rambles. On thirteen kinds of one- and two-step problems (temperature 1.0, two worked examples in
the prompt, 64 tokens; some also at 0.4, and at 0.7 without examples and with 160 tokens) at most one explanation in
eight ended in the answer that it was shown. Supervised steps on expert chains of easy problems (2 to 4 boxes of 2 to 4
things) teach it to be brief, to box its answer and to stop:

    Anna buys 3 boxes with 4 stickers in each, and finds 5 more stickers. How many stickers does Anna have?
    3 * 4 = 12, and 12 + 5 = 17. The answer is \boxed{17}.

FOLDER becomes a model like any other, with the adapter merged. FOLDER/problems has train.jsonl and test.jsonl
(smollm2_boxes.py): problems with larger numbers; no product of the test split occurs in training. Each problem has two
expert chains: `expert_chain` in the style of GSM8K, and `terse_chain` as above.
"""

import argparse
import json
import random
from pathlib import Path

from smollm2_boxes import Split, problems

from expo_lite.policy.batching import Row
from expo_lite.policy.export import write_merged
from expo_lite.policy.hf import HfPolicy
from expo_lite.prompts import encode_question
from expo_lite.records import Problem
from expo_lite.settings.groups import OptimizerConfig, PolicyConfig, RolloutConfig
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.explain import encode_target
from expo_lite.step.learn import learn, make_optimizer

N_TRAIN, N_TEST = 1_000, 200


def main() -> None:
    """Train, merge, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file of SmolLM2-135M-Instruct")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    policy = HfPolicy(given.model, PolicyConfig(bits=16, lora_rank=16, lora_alpha=32), seed=0)
    config = resolve(
        TrainConfig(
            model="tiny",  # only for its defaults
            sampling=RolloutConfig(max_completion_tokens=64),
            optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=2, micro_batch_tokens=2048),
        )
    )
    optimizer, rng, rows = make_optimizer(policy, config), random.Random(0), problems("easy", 300)
    for step in range(given.steps):
        drawn = rng.sample(rows, 16)
        targets = [encode_target(policy, row["terse_chain"]) for row in drawn]
        batch = [
            Row(
                encode_question(policy.tokenizer, Problem(row["question"], row["question"], row["answer"])),
                target,
                sft_weight=1 / sum(map(len, targets)),
            )
            for row, target in zip(drawn, targets, strict=True)
        ]
        metrics = learn(policy, optimizer, batch, config, step=step, last_good="none")
        print(f"step {step + 1}: {metrics['expo/sft_loss']:.3f} nats a token", flush=True)
    write_merged(policy, given.folder, "f32")
    write_problems(given.folder / "problems")


def write_problems(folder: Path) -> None:
    """Write the two files of the task `jsonl:FOLDER`."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: tuple[tuple[Split, int], ...] = (("train", N_TRAIN), ("test", N_TEST))
    for split, n in splits:
        lines = [json.dumps(row) + "\n" for row in problems(split, n)]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
