"""The groups of a training run's settings: data, policy, rollouts, ExPO, loss, pairs, optimiser and evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from expo_lite.settings.machine import Backend, Sampler
from expo_lite.settings.schema import AT_LEAST_0, COEFFICIENT, COMPLETIONS, POSITIVE, ROWS, TEMPERATURE, TOKENS

ExplainWith = Literal["answer", "wrong-answer", "no-answer"]
ExplanationFilter = Literal["arithmetic", "verified", "steps", "lift", "reliance", "none"]
Teacher = Literal["current", "frozen"]
Thinking = Literal["auto", "on", "off"]
PLAIN = "plain"
"""The chat template of ours that `chat_template` names in place of a file."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections of a Llama's layer."""
Rounding = Literal["never", "gold"]
"""The rounded answers that count: never any, or those that round to a decimal gold."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The data of a task, the names of its fields, and its difficulty."""

    data: Path | None = None
    """Read this local file, or folder in the hub's layout, instead of the hub."""
    test_file: Path | None = None
    """Take the test problems from this file. Without it a lone file holds out a fixed 10%."""
    fields: tuple[str, ...] = ()
    """Names of the data's fields, as ROLE=NAME with question, answer, level, subject or chain as ROLE.
    A nested field has a dotted NAME. level= reads no levels. Usual names need not be given."""
    skip_bad_rows: bool = False
    """Skip rows of the data that cannot be read, and count them. Default: the first one is an error."""
    difficulty: tuple[str, ...] = ()
    """Settings of a reasoning-gym data set, as KEY=VALUE or NAME.KEY=VALUE."""
    rounding: Rounding = "never"
    """The rounding that is allowed. never: none. gold: an answer is right if the gold is a decimal of at least three
    digits, and the answer rounded to as many places is the gold (1/3 for the gold 0.3333)."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The base model and its adapter."""

    revision: str | None = None
    """The revision of a hub model: a branch, tag or commit. Default: its newest; the run keeps to that commit."""
    trust_remote_code: bool = False
    """Run the Python code that a model brings with it. Read the code first: it can do all that you can."""
    bits: Literal[4, 16] | None = None
    """Bits of the base model's weights. 4 is NF4 with double quantisation;
    16 is bf16 on a GPU (fp16 on one before Ampere) and fp32 on a CPU.
    Default: those that the adapter to start from was trained on, else 4."""
    lora_targets: tuple[str, ...] = ()
    """The projections of a layer that get an adapter, by the model's own names, such as q_proj v_proj.
    Default: all linear layers, without head and routers."""
    lora_rank: Annotated[int, Interval(ge=1, le=1_024)] = 16
    """The rank of the LoRA adapter."""
    lora_alpha: Annotated[int, Interval(ge=1, le=65_536)] = 32
    """The scale of the adapter: its output is multiplied by lora_alpha / lora_rank."""
    backend: Backend = "auto"
    """The library that holds and runs the model: unsloth, hf (transformers) or auto.
    With auto it is unsloth where that is installed and there is a GPU, else hf."""
    sampler: Sampler = "auto"
    """The sampler: own is our decoder, native the backend's generate.
    With auto it is own where it knows the model and the memory plan has room for its dense weights, else native."""
    thinking: Thinking = "auto"
    """Let the model think before it answers: on, off or auto, by its chat template's own argument.
    auto: off if the template offers the choice; an adapter or exported model keeps its setting."""
    chat_template: Path | None = None
    """A file with a chat template in place of the model's own, or plain: one of ours, for a base model without any.
    An adapter brings its own."""


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """The sampling of completions for training."""

    temperature: Annotated[float, TEMPERATURE] = 1.0
    """The sampling temperature of completions and explanations. Log-probabilities are computed at the same one."""
    max_completion_tokens: Annotated[int | None, TOKENS] = None
    """The longest completion, in tokens. The default depends on the model; `expo-lite models` shows it."""
    sampling_rows: Annotated[int | None, ROWS] = None
    """Completions decoded at the same time. Default: what the memory plan allows, at most 256."""
    resample: Annotated[int, Interval(ge=0, le=4_096)] = 0
    """Sample an all-wrong group again (grpo), up to this many times, and use the first whose rewards differ."""


@dataclass(frozen=True, slots=True)
class ExpoConfig:
    """Self-explanations: the settings that the paper leaves open."""

    exp_sft_coef: Annotated[float | None, COEFFICIENT] = None
    """The weight of what the method adds to GRPO. Default: 0.04 for exp-grpo and gt-sft-grpo, the paper's beta;
    1 for insert and self-distill, 0.25 for grade-negatives, 0.1 for soft-explain (0.01 with --teacher current)."""
    exp_sft_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The schedule by which exp_sft_coef falls to 0 over the run."""
    exp_sft_normalisation: Literal["sequence", "token"] = "sequence"
    """sequence takes the sum over the tokens of a chain, as the paper's formula has it.
    With token it is their mean, as in the GRPO term, which makes the term some hundred times smaller."""
    explain: Literal["all", "all-wrong"] | None = None
    """Which problems get a chain: all of them, as in the paper's formula, or those whose whole group is wrong.
    Default: all-wrong; for exp-dpo and sft all. star, prefix and hint take all-wrong always."""
    explanation_refresh_steps: Annotated[int | None, AT_LEAST_0] = None
    """Use an explanation, or a pair of exp-dpo, again until it is this many steps old. 1 makes a new one each time,
    0 makes it once. Default: 1, for exp-dpo 10, for prefix 0."""
    explain_with: ExplainWith = "answer"
    """The answer that the explanation prompt shows. wrong-answer (another problem's) and no-answer are controls.
    A run that gains as much from them has not learned from explanations. Verdicts are against the true answer."""
    explanation_filter: tuple[ExplanationFilter, ...] = ("arithmetic",)
    """The filters of explanations: arithmetic, verified, steps, lift, reliance, or several of these; or none.
    Every filter but none requires a right answer. verified, the paper's filter, requires nothing more.
    arithmetic: no equation in the chain is wrong.
    steps: the task finds every step right. Where it has no check, the equations hold and lead to the answer; a chain
    without equations is refused.
    lift: the chain makes the right answer more probable.
    reliance: seeing the answer adds at most max_reliance.
    With none every explanation counts, and the right answer replaces its own; controls stay as they were written."""
    explanations_per_problem: Annotated[int, COMPLETIONS] = 1
    """Explanations sampled for a problem. Of those accepted the one with the highest lift is used."""
    max_reliance: Annotated[float, POSITIVE] = 0.3
    """Maximum gain in log-probability per token (nats) from seeing the answer; used by the filter reliance."""
    explanation_temperature: Annotated[float | None, TEMPERATURE] = None
    """The sampling temperature of explanations. Default: that of completions, at which training scores them.
    If that is above 1, give 1 here: with explanations at 1.5 the built-in model lost every level."""
    teacher: Teacher = "frozen"
    """The policy that scores with the answer shown (self-distill, soft-explain).
    current: the policy in training; frozen: the policy at the start."""
    train_context: Literal["hinted", "plain"] = "hinted"
    """The prompt after which completions are trained (hint). With hinted it is the one they were sampled after, as
    published, and with plain the question prompt without the hint, as explanations are trained."""
    explanation_prompt: Path | None = None
    """A text file with the explanation prompt, in the form of question_prompt, with {question} and {answer} in it.
    The system prompt of question_prompt comes before it too, unless it has its own.
    Or skeleton: one of ours that asks for an outline without the answer first, and for the explanation from it."""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The GRPO loss."""

    kl_coef: Annotated[float, COEFFICIENT] = 0.0
    """The weight of the KL divergence from the reference: the base model, or the adapter that the run started from."""
    clip_low: Annotated[float, Interval(ge=0, le=1)] = 0.2
    """The probability ratio is clipped at 1 - clip_low. With one update a batch it is 1, and nothing is clipped."""
    clip_high: Annotated[float, COEFFICIENT] = 0.2
    """The probability ratio is clipped at 1 + clip_high, likewise."""
    advantage_scale: Literal["group", "batch", "none"] = "group"
    """Advantages are divided by the standard deviation of rewards in the group, in the batch, or by nothing."""
    loss_normalisation: Literal["sequence", "token", "dr_grpo"] = "sequence"
    """sequence takes the mean over tokens, then completions; token takes the mean over all tokens of the batch.
    With dr_grpo the sum is divided by the constant max_completion_tokens."""
    updates_per_batch: Annotated[int, COMPLETIONS] = 1
    """Optimiser steps on one batch of samples."""
    sampler_correction: Literal["auto", "on", "off"] = "auto"
    """Weight each sampled token by its probability under the policy over that under the sampler, at most 2.
    auto: on if sampler and trainer differ numerically (16 bits), off in fp32."""


@dataclass(frozen=True, slots=True)
class DpoConfig:
    """Pairs and loss of exp-dpo."""

    pairs: Literal["offline", "online"] = "online"
    """The time when pairs are made (exp-dpo). With offline each is made once, by the initial policy.
    With online the policy as it is makes it again after explanation_refresh_steps."""
    chosen: Literal["explanation", "expert"] = "explanation"
    """The chain that is preferred to the policy's own wrong completion (exp-dpo): its explanation, or the expert's."""
    dpo_beta: Annotated[float, POSITIVE] = 0.1
    """The strength of the pull towards the reference (exp-dpo): the base model, or the adapter started from."""


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """The optimiser, its learning rate and its limits."""

    learning_rate: Annotated[float | None, Interval(gt=0, le=10)] = None
    """The peak learning rate. The default depends on the model and, for exp-dpo, is lower (`expo-lite models`)."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The schedule by which the learning rate falls to 0 after the warmup."""
    warmup_steps: Annotated[int, AT_LEAST_0] = 5
    """The number of steps over which the learning rate rises to its peak."""
    micro_batch_tokens: Annotated[int | None, Interval(ge=1, le=2**24)] = None
    """Tokens, padding included, of one forward and backward pass.
    Default: what the memory plan allows, at most 16,384."""


@dataclass(frozen=True, slots=True)
class HeldOutConfig:
    """Held-out evaluation before and after training."""

    eval_problems: Annotated[int, Interval(ge=0, le=1_000_000)] = 40
    """Held-out problems of each level; of a task without levels, of all.
    0 switches evaluation off."""
    eval_samples: Annotated[int, COMPLETIONS] = 16
    """Completions of each held-out problem; pass@k is measured for k = 1, 4, 16, ... up to it."""
    eval_temperature: Annotated[float, TEMPERATURE] = 0.7
    """The sampling temperature of the evaluation, before and after training."""
    eval_every: Annotated[int, AT_LEAST_0] = 0
    """Steps between evaluations on the way, which keep the best checkpoint as checkpoints/best. 0: none on the way.
    Held-out problems that choose a checkpoint flatter it: measure what you report on others (`expo-lite eval`)."""
