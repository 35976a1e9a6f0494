"""One optimiser step of the trainer in expo_lite.integrations.trl, in one process and then in two.

The first argument is a folder, whose `adapter` is started from. One process with two micro-batches writes the trained
adapter to `trained-1-2`, two with one each to `trained-2-1`; then examples/scale_with_trl.py writes to `example`. With
`unsloth` as second argument there is one process, in a trainer that Unsloth has patched, with a model that Unsloth has
loaded; it writes to `trained-1-2` as well.

Everything is imported once; the processes are copies, with rank and number in the environment as `accelerate launch`
sets them. What is sampled is a function of the prompt and the place in its group, so that one and two processes learn
from the same.
"""

import json
import os
import runpy
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if PATCHED := sys.argv[2:] == ["unsloth"]:
    from unsloth import FastLanguageModel
    from unsloth.models.rl import PatchFastRL  # type: ignore[import-not-found]

    PatchFastRL("GRPO", FastLanguageModel)  # it does so itself where there is a GPU

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig  # type: ignore[attr-defined]

from expo_lite.integrations.trl import ExplainingGRPOTrainer
from expo_lite.policy.factory import load_policy
from expo_lite.settings.groups import ExpoConfig, PolicyConfig
from expo_lite.settings.models import PRESETS
from expo_lite.tasks.rows import task_from_rows

EXAMPLE = Path(__file__).parent.parent / "examples" / "scale_with_trl.py"
GROUP, PROBLEMS = 4, 3  # two processes share the second group
ROWS = [{"question": f"Start with {i}.\nA: hop.", "answer": str(i + 3), "problem_id": f"p{i}"} for i in range(PROBLEMS)]


def rolled_out(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """The first problem is answered rightly now and then, the others never; an explanation is right."""
    tokenizer, ids_of, prompt_ids = trainer.processing_class, [], []
    for number, prompt in enumerate(prompts):
        text = prompt[-1]["content"]
        asked = int(text.partition("Start with ")[2][0])
        explained = "The correct answer is" in text
        place = 0 if explained else trainer.accelerator.process_index * len(prompts) + number
        answer = asked + 3 if explained or (asked == 0 and place % GROUP == 1) else 9
        said = f"A:{'x' * (1 + place % GROUP)} \\boxed{{{answer}}}"
        ids_of.append([*tokenizer.encode(said, add_special_tokens=False), tokenizer.eos_token_id])
        prompt_ids.append(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
    return {"prompt_ids": prompt_ids, "completion_ids": ids_of, "logprobs": None}


def trainer_of(folder: Path, per_device: int, **settings: Any) -> ExplainingGRPOTrainer:
    source = PRESETS["tiny"].source
    model: Any
    if PATCHED:
        model = load_policy("tiny", PolicyConfig(backend="unsloth", bits=16), seed=0, adapter=folder / "adapter")._peft  # type: ignore[attr-defined]
    else:
        base: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(folder / "adapter"), is_trainable=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    arguments: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": per_device,
        "num_generations": GROUP,
        "max_completion_length": 24,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "beta": 0.0,
        "loss_type": "grpo",
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "shuffle_dataset": False,
        "gradient_checkpointing": False,
    }
    task = task_from_rows(ROWS, test_rows=[{"question": "?", "answer": "1"}])
    return ExplainingGRPOTrainer(
        model,
        task=task,
        explanation=ExpoConfig(exp_sft_coef=0.5),
        args=GRPOConfig(**arguments | settings),
        processing_class=tokenizer,
        rollout_func=rolled_out,
    )


def learn(folder: Path, n: int, n_micro_batches: int) -> None:
    per_device = GROUP * PROBLEMS // n // n_micro_batches
    trainer = trainer_of(folder, per_device, gradient_accumulation_steps=n_micro_batches)
    trainer.train()
    if trainer.accelerator.is_main_process:
        trained = folder / f"trained-{n}-{n_micro_batches}"
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(str(trained))
        (trained / "log.json").write_text(json.dumps(trainer.state.log_history))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # or a process that ends first aborts


def example(folder: Path) -> None:
    words = ["--steps", "1", "--problems", "2", "--tokens", "32", "--output", str(folder / "example")]
    sys.argv = [str(EXAMPLE), *words]
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def in_processes(n: int, work: Callable[[], None]) -> None:
    """Copies of this process, that know of one another where there are several."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n):
        children.append(os.fork())
        if children[-1] == 0:
            code = 1
            try:
                if n > 1:
                    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
                    found = place | {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
                    os.environ.update({name: str(value) for name, value in found.items()})
                work()
                code = 0
            finally:
                os._exit(code)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a process failed")


def main() -> None:
    folder = Path(sys.argv[1])
    in_processes(1, partial(learn, folder, 1, 2))
    if not PATCHED:
        in_processes(2, partial(learn, folder, 2, 1))
        in_processes(1, partial(example, folder))


if __name__ == "__main__":
    main()
