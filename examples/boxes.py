r"""Word problems for a pretrained model that can explain: the task `python:examples/boxes.py`, and its lessons.

    uv run python examples/boxes.py GGUF FOLDER

teaches SmolLM2-135M-Instruct the problems of levels 1 to 3, alone and with their answers shown, and writes the model to
FOLDER: 170 steps, 40 to 80 CPU minutes. Levels 4 and 5 are for reinforcement learning:

| level | problem | in the lessons |
| ----- | ------- | -------------- |
| 1 | a product of two digits, one of them up to 5 | yes |
| 2 | the same, and 2 to 30 more or less | yes |
| 3 | a digit times a number of two digits, in parts; no two digits above 5 meet | yes |
| 4 | a product of two digits from 6 on, and 11 to 49 more or less | no |
| 5 | the same product, and 101 to 499 more | no |

A chain is brief: "Karl buys 8 boxes with 7 stickers in each and finds 346 more. How many stickers does Karl have?" has
`8*7=56. 56+346=402. \boxed{402}`. No name and no thing of the task occurs in the lessons, and no product of levels 4
and 5. The splits share these nine products and differ in the numbers beside them.
"""

import argparse
import random
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expo_lite.grading import Grader
from expo_lite.records import Problem
from expo_lite.tasks.base import FixedTask, Split

LEVELS = (1, 2, 3, 4, 5)
N_PROBLEMS = {"train": 2_000, "test": 200}
"""The most problems of a level."""
NAMES = ("Karl", "Lena", "Marco", "Nora", "Oscar", "Paula", "Quentin", "Rosa", "Simon", "Tara")
THINGS = ("pencils", "shells", "stamps", "stickers", "tickets")
LESSON_NAMES = ("Anna", "Ben", "Clara", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas")
LESSON_THINGS = ("apples", "books", "cards", "coins", "marbles")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The model's own without its system prompt, which would be a fifth of the tokens."""
_EQUATION = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")


def numbers(rng: random.Random, level: int) -> tuple[int, int, int]:
    """Draw the number of boxes, of things in each, and of things found; the last is negative for things given away."""
    while True:
        boxes, each = rng.randint(2, 9), rng.randint(12, 99) if level == 3 else rng.randint(2, 9)
        tens, ones = divmod(each, 10)
        if level == 3 and (ones < 2 or min(boxes, tens) > 5 or min(boxes, ones) > 5):
            continue
        if level != 3 and (min(boxes, each) > 5) != (level > 3):
            continue
        more = {1: 0, 2: rng.randint(2, 30), 3: 0, 4: rng.randint(11, 49), 5: rng.randint(101, 499)}[level]
        sign = 1 if level == 5 or boxes * each - more < 2 else rng.choice((-1, 1))
        if boxes * each != 36 or level < 4:  # 6*6 is 4*9, which is taught
            return boxes, each, sign * more


def problem(rng: random.Random, level: int, names: tuple[str, ...], things: tuple[str, ...]) -> Problem:
    """Draw a problem with its chain."""
    (boxes, each, more), name, thing = numbers(rng, level), rng.choice(names), rng.choice(things)
    found = f" and finds {more} more" if more > 0 else f" and gives {-more} to a friend" if more else ""
    tens, ones = each // 10 * 10, each % 10
    total = boxes * each
    steps = [f"{boxes}*{each}={total}"]
    if tens:
        steps = [f"{tens}*{boxes}={tens * boxes}", f"{ones}*{boxes}={ones * boxes}"]
        steps.append(f"{tens * boxes}+{ones * boxes}={total}")
    if more:
        steps.append(f"{total}{more:+}={total + more}")
    answer = str(total + more)
    question = f"{name} buys {boxes} boxes with {each} {thing} in each{found}. How many {thing} does {name} have?"
    return Problem(question, question, answer, level, None, ". ".join([*steps, f"\\boxed{{{answer}}}"]))


def problems(split: Split, level: int) -> Iterator[Problem]:
    """Draw distinct problems of a level; the numbers alone decide whether one belongs to the test split."""
    rng, seen = random.Random(f"boxes-{split}-{level}"), set[str]()
    for _ in range(20 * N_PROBLEMS[split]):
        drawn = problem(rng, level, NAMES, THINGS)
        is_test = random.Random(drawn.expert_chain).random() < 0.2
        if is_test == (split == "test") and drawn.question not in seen:
            seen.add(drawn.question)
            yield drawn
        if len(seen) == N_PROBLEMS[split]:
            return


def equations(chain: str) -> list[tuple[str, list[str], str]]:
    """The equations of a chain: sign, numbers and result. The two numbers of a sum or product come in either order."""
    found = _EQUATION.findall(chain)
    return [(sign, [a, b] if sign == "-" else sorted((a, b)), result) for a, sign, b, result in found]


@dataclass(frozen=True)
class Boxes(FixedTask):
    """The task; it can also tell whether the steps of a chain are right."""

    def check_steps(self, problem: Problem, completion: str) -> bool:
        """Return whether the chain has the equations of the expert's and no other, and ends in the answer.

        That is strict: it refuses a right chain that gets there in another way.
        """
        expected = equations(problem.expert_chain or "")
        right_box = completion.rstrip(". \n").endswith(f"\\boxed{{{problem.answer}}}")
        return equations(completion) == expected and completion.count("=") == len(expected) and right_box


def pool(split: Split) -> tuple[Problem, ...]:
    """The problems of a split, level by level."""
    return tuple(drawn for level in LEVELS for drawn in problems(split, level))


TASK = Boxes("boxes", LEVELS, pool("train"), pool("test"), Grader())


@dataclass(frozen=True)
class Stage:
    """A part of the lessons, with an adapter of its own that is merged at its end."""

    steps: int
    learning_rate: float
    """The peak; after five steps it falls to 0 in a line."""
    levels: tuple[int, ...]
    """A problem's level is drawn from these."""


STAGES = (
    Stage(100, 1e-3, (1, 2, 3)),
    Stage(70, 7e-4, (1, 2, 2, 2, 3, 3)),
)
N_PROBLEMS_A_STEP = 16  # every other one has its answer shown


def rows_of(policy: Any, rng: random.Random, stage: Stage) -> list[Any]:
    """Draw the rows of a step, whose weights sum to 1 over all tokens to learn."""
    from expo_lite.policy.batching import Row
    from expo_lite.prompts import encode_explanation, encode_question
    from expo_lite.step.explain import encode_target

    tokenizer = policy.tokenizer
    pairs = []
    for i in range(N_PROBLEMS_A_STEP):
        drawn = problem(rng, rng.choice(stage.levels), LESSON_NAMES, LESSON_THINGS)
        prompt = (encode_explanation if i % 2 else encode_question)(tokenizer, drawn)
        pairs.append((prompt, encode_target(policy, drawn.expert_chain or "")))
    n_tokens = sum(len(target) for _, target in pairs)
    return [Row(prompt, target, sft_weight=1 / n_tokens) for prompt, target in pairs]


def teach(source: str, folder: Path, stage: Stage, *, seed: int) -> None:
    """Train an adapter on a stage of the lessons, and write the model with the adapter merged, in fp32.

    Args:
        source: the GGUF file of SmolLM2-135M-Instruct, or the folder of the stage before.
        folder: where the model goes.
        stage: what is taught.
        seed: of the adapter and the problems.
    """
    from expo_lite.policy.export import write_merged
    from expo_lite.policy.hf import HfPolicy
    from expo_lite.settings.groups import OptimizerConfig, PolicyConfig, RolloutConfig
    from expo_lite.settings.train import TrainConfig, resolve
    from expo_lite.step.learn import learn, make_optimizer

    policy = HfPolicy(source, PolicyConfig(bits=16, lora_rank=32, lora_alpha=64), seed=seed)
    policy.tokenizer.chat_template = CHAT_TEMPLATE
    rate = OptimizerConfig(learning_rate=stage.learning_rate, lr_schedule="linear", micro_batch_tokens=1024)
    config = resolve(
        TrainConfig(model="tiny", steps=stage.steps, sampling=RolloutConfig(max_completion_tokens=64), optimizer=rate)
    )
    optimizer, rng, started = make_optimizer(policy, config), random.Random(seed), time.monotonic()
    for step in range(stage.steps):
        metrics = learn(policy, optimizer, rows_of(policy, rng, stage), config, step=step, last_good="none")
        if step % 10 == 9:
            print(
                f"step {step + 1}: {metrics['expo/sft_loss']:.4f} nats a token, {time.monotonic() - started:.0f} s",
                flush=True,
            )
    write_merged(policy, folder, "f32")


def main() -> None:
    """Teach stage by stage, and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file of SmolLM2-135M-Instruct")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as first:
        for number, (source, folder) in enumerate(((given.model, Path(first)), (first, given.folder))):
            teach(source, folder, STAGES[number], seed=number)


if __name__ == "__main__":
    main()
