"""ExP-GRPO in TRL's trainer, on as many GPUs as `accelerate launch` is given; on a CPU with the built-in model.

    uv sync --extra trl
    uv run python examples/scale_with_trl.py --steps 2
    uv run accelerate launch --config_file examples/accelerate/fsdp.yaml examples/scale_with_trl.py \
        --model Qwen/Qwen2.5-7B-Instruct --task math --steps 300 --vllm-server http://localhost:8000

The guide examples/guides/more_gpus.md says when this is worth it, and what has been run.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import GRPOConfig  # type: ignore[attr-defined]

from expo_lite import load_task
from expo_lite.grading import Grader
from expo_lite.integrations.trl import ExplainingGRPOTrainer
from expo_lite.settings.groups import ExpoConfig
from expo_lite.settings.models import find_model
from expo_lite.tasks.base import say_read
from expo_lite.terminal import Terminal

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments(given: argparse.Namespace) -> dict[str, Any]:
    """TRL's settings, as near to those of `expo-lite train` as they can be."""
    on_gpu = torch.cuda.is_available()
    found: dict[str, Any] = {
        "output_dir": str(given.output),
        "max_steps": given.steps,
        "num_generations": 8,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": given.problems,  # a group a pass
        "max_completion_length": given.tokens,
        "learning_rate": find_model(given.model).learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 5,
        "loss_type": "grpo",
        "beta": 0.0,
        "temperature": 1.0,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_checkpointing": on_gpu,
        "report_to": "none",
        "logging_steps": 1,
    }
    if given.vllm_server:
        found |= {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": given.vllm_server}
    return found


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny", help="an alias of expo-lite's, OWNER/NAME or a folder")
    parser.add_argument("--task", default="hidden-rules")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--problems", type=int, default=8, help="problems a step and process")
    parser.add_argument("--tokens", type=int, default=64, help="longest completion")
    parser.add_argument("--vllm-server", help="URL of `trl vllm-serve --model MODEL`")
    parser.add_argument("--output", type=Path, default=Path("runs/trl"))
    given = parser.parse_args()
    task = load_task(given.task, grader=Grader())
    say_read(task, Terminal())
    trainer = ExplainingGRPOTrainer(
        find_model(given.model).source,
        task=task,
        explanation=ExpoConfig(exp_sft_coef=0.04, explain="all-wrong"),
        args=GRPOConfig(**arguments(given)),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=PROJECTIONS, task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(str(given.output / "adapter"))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # or a process that ends first takes the others with it


if __name__ == "__main__":
    main()
