"""The names that TRL, Unsloth, Axolotl and others have for our settings."""

_TABLE = """
--model                  base-model model-id model-name model-name-or-path model-path adapter lora-model-dir
TARGET                   target model run checkpoint
RUNS                     runs run folder output
FOLDER                   folder run output
PLAN                     plan
FILE                     file data
--task jsonl:FILE        dataset datasets dataset-name dataset-path data-path data-files train-file
--method                 rl algorithm trainer loss-type
--steps                  max-steps num-steps epochs num-epochs num-train-epochs
--group-size             num-generations num-samples num-return-sequences n rollouts
--samples                num-generations num-samples num-return-sequences n
--problems-per-step      batch-size train-batch-size per-device-train-batch-size micro-batch-size
--output                 output-dir out run-name
--resume                 resume-from-checkpoint continue
--save-every             save-steps
--eval-every             eval-steps evals-per-epoch
--log wandb              wandb use-wandb wandb-project report-to logger
--log tensorboard        tensorboard logging-dir
--question-prompt        system-prompt prompt-template
--bits 4                 load-in-4bit quantize quantization load-in-8bit qlora
--bits 16                bf16 fp16 dtype torch-dtype mixed-precision
--lora-rank              lora-r rank r
--max-completion-tokens  max-new-tokens max-completion-length max-length max-seq-length max-tokens sequence-len
--prompt-tokens          max-prompt-length
--learning-rate          lr
--lr-schedule            lr-scheduler lr-scheduler-type
--warmup-steps           warmup warmup-ratio
--micro-batch-tokens     gradient-accumulation-steps gradient-checkpointing
--kl-coef                beta kl
--dpo-beta               beta
--clip-low               epsilon cliprange
--clip-high              epsilon-high
--advantage-scale        scale-rewards
--updates-per-batch      num-iterations ppo-epochs
--exp-sft-coef           sft-coef rpo-alpha
"""
"""Our flag, perhaps with a value, and the words that others have for it."""

SYNONYMS: dict[str, list[str]] = {}
"""Our flags for each word; of several those that a command has count."""
for _line in _TABLE.strip().splitlines():
    _ours, _, _others = _line.partition("  ")
    for _other in _others.split():
        SYNONYMS.setdefault(_other, []).append(_ours)


def our_flags(word: str) -> list[str]:
    """Return our flags for a name of others, written as a flag or as a setting."""
    return SYNONYMS.get(word.lower().lstrip("-").replace("_", "-"), [])
