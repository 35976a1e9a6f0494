r"""ExP-GRPO in one file, with torch, transformers and peft alone: `uv run python examples/exp_grpo_in_one_file.py`.

Read it from top to bottom. It trains the built-in model on the built-in task, in about two minutes on one core. A test
holds its loss, its gradient and its first optimiser step equal to the library's (tests/test_one_file.py).

The method (arXiv 2507.02834): sample G completions of each problem and compare them with each other (GRPO). Where all G
are wrong there is nothing to compare. There the model sees the right answer, explains it, and learns that explanation
*as if the answer had not been shown*.

This file leaves out:
1. Four-bit weights, prompts computed once a group, logits made in chunks, continuous batching, memory limits.
2. Several updates a batch (so the ratio is always 1), the KL penalty, schedules, a correction for inexact samplers.
3. Gates, controls, and filters beyond the answer (the default one reads nothing here); explanations kept, or the best.
4. The grader: an answer counts here if it is the same text.
5. Checkpoints, resuming, logs, reports, intervals, and the diagnosis before a run.

Axes: B rows of the batch, P problems, G completions a problem, T tokens, V vocabulary.
"""

import random
import re
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = Path(__file__).parents[1] / "expo_lite" / "assets" / "tiny"
STEPS, PROBLEMS_PER_STEP, GROUP_SIZE, MAX_COMPLETION_TOKENS = 70, 8, 8, 64
LEARNING_RATE, WARMUP_STEPS, CLIP, ADVANTAGE_EPSILON = 1e-3, 5, 0.2, 1e-4
EXP_SFT_COEF = 0.04  # the paper's beta: the weight of the explanation term
N_EASY, HELD_OUT = 2, 40

# 1. The task: words turn a dial of ten digits. The model knows half of them; it has never read what the others add.

KNOWN = {
    "hop": 3, "skip": 5, "climb": 4, "march": 1, "glide": 7, "leap": 8, "trot": 2, "roll": 6,
    "slide": 2, "spin": 6, "vault": 8, "dash": 5, "crawl": 1, "drift": 3, "swing": 4, "stride": 7,
}  # fmt: skip
HIDDEN = {
    "blorp": 6, "flim": 2, "dax": 7, "wug": 4, "tove": 1, "snark": 8, "quib": 3, "zindle": 5,
    "mobe": 4, "fep": 8, "gorp": 1, "yaff": 5, "kript": 2, "lund": 7, "vash": 3, "jubb": 6,
}  # fmt: skip


class Problem(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


def draw_problem(rng: random.Random, *, hard: bool, held_out: bool) -> Problem:
    """Draw a problem of four words, all hidden if it is hard, else all known; one in eight is held out, by checksum."""
    amounts = HIDDEN if hard else KNOWN
    while True:
        value, words = rng.randrange(10), rng.sample(sorted(amounts), 4)
        lines, results = [f"Start with {value}."], []
        for label, word in zip("ABCD", words, strict=True):
            value = (value + amounts[word]) % 10
            lines.append(f"{label}: {word}.")
            results.append(f"{label}={value}")
        question = "\n".join([*lines, "Write the results one after the other."])
        if (zlib.crc32(question.encode()) % 8 == 0) == held_out:
            return Problem(question, ", ".join(results))


# 2. The two prompts. The policy is trained and measured after the first; the second shows the answer.

QUESTION_PROMPT = "{question}\nReason step by step, and put your final answer within \\boxed{}."
EXPLANATION_PROMPT = (
    "{question}\nThe correct answer is {answer}. Explain step by step how to reach it from the question alone, "
    "and put the final answer within \\boxed{}."
)


def prompt_ids(tokenizer: Any, template: str, problem: Problem) -> list[int]:
    """Token ids of a prompt, up to where the assistant begins."""
    text = template.replace("{question}", problem.question).replace("{answer}", problem.answer)
    turns = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))


# 3. Sampling and grading.


class Completion(NamedTuple):
    """A sampled completion; `ended` says that its last token is the end token, and not the limit's doing."""

    token_ids: list[int]
    text: str
    ended: bool


def load() -> tuple[Any, Any]:
    """The model with a fresh LoRA adapter on all seven projections, and its tokenizer."""
    auto_model: Any = AutoModelForCausalLM  # half typed
    base = auto_model.from_pretrained(MODEL, dtype=torch.float32)
    torch.manual_seed(0)
    projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=projections, task_type="CAUSAL_LM")
    return get_peft_model(base, lora), AutoTokenizer.from_pretrained(MODEL, padding_side="left")


@torch.no_grad()
def sample(model: Any, tokenizer: Any, prompts: list[list[int]], *, n: int, greedy: bool = False) -> list[Completion]:
    """`n` completions of each prompt at temperature 1, in the order of the prompts."""
    padded = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    how |= {"num_return_sequences": n, "max_new_tokens": MAX_COMPLETION_TOKENS, "pad_token_id": tokenizer.pad_token_id}
    ids_BT = model.generate(**padded, **how)
    completions = []
    for row in ids_BT[:, padded["input_ids"].shape[1] :].tolist():
        ended = tokenizer.eos_token_id in row
        ids = row[: row.index(tokenizer.eos_token_id) + 1] if ended else row
        completions.append(Completion(ids, tokenizer.decode(ids, skip_special_tokens=True), ended))
    return completions


def reward(completion: Completion, problem: Problem) -> float:
    """Return 1.0 if the completion ended, and its last box holds the answer; else 0.0."""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", completion.text) if completion.ended else []
    return float(bool(boxes) and boxes[-1].replace(" ", "") == problem.answer.replace(" ", ""))


# 4. The loss: a weighted sum over tokens. The weights are those of the whole batch.


class Row(NamedTuple):
    """A completion to learn from; `weight` and `sft_weight` are the share of each of its tokens in the two terms."""

    prompt_ids: list[int]
    completion_ids: list[int]
    advantage: float = 0.0
    weight: float = 0.0
    sft_weight: float = 0.0


def make_rows(
    groups: list[tuple[list[int], list[Completion], list[float]]], explained: list[tuple[list[int], Completion]]
) -> list[Row]:
    """Rows of all groups (prompt, completions, rewards) and of the explanations (question prompt, explanation).

    An advantage is the reward minus its group's mean, over the group's deviation. The GRPO term is the mean over a
    completion's tokens, then over all completions; the explanation term is EXP_SFT_COEF times the log-probability of
    the explanation, averaged over the step's problems.
    """
    rewards_PG = torch.tensor([rewards for _, _, rewards in groups])
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    advantages_PG = centred_PG / (rewards_PG.std(dim=1, keepdim=True) + ADVANTAGE_EPSILON)
    n = advantages_PG.numel()
    rows = [
        Row(prompt, completion.token_ids, advantage=advantage, weight=1 / n / len(completion.token_ids))
        for (prompt, completions, _), group in zip(groups, advantages_PG.tolist(), strict=True)
        for completion, advantage in zip(completions, group, strict=True)
        if advantage  # a group of equal rewards has no gradient
    ]
    return rows + [Row(prompt, c.token_ids, sft_weight=EXP_SFT_COEF / len(groups)) for prompt, c in explained]


def token_logprobs(model: Any, rows: list[Row]) -> torch.Tensor:
    """Log-probabilities [B, T - 1] of every token after the first, with a gradient."""
    width = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)  # padded on the right: nothing sees what comes after it
    for ids_T, row in zip(ids_BT, rows, strict=True):
        ids = row.prompt_ids + row.completion_ids
        ids_T[: len(ids)] = torch.tensor(ids)
    logits_BTV = model(input_ids=ids_BT).logits[:, :-1]
    return torch.log_softmax(logits_BTV, dim=-1).gather(2, ids_BT[:, 1:, None]).squeeze(2)


def exp_grpo_loss(model: Any, rows: list[Row]) -> torch.Tensor:
    """The clipped GRPO loss minus the weighted log-probability of the explanations, each after the question alone."""
    logprobs_BT = token_logprobs(model, rows)
    old_logprobs_BT = logprobs_BT.detach()  # one update a batch: the policy that sampled is the policy that learns
    weights_BT, sft_weights_BT = torch.zeros_like(logprobs_BT), torch.zeros_like(logprobs_BT)
    for i, row in enumerate(rows):
        start = len(row.prompt_ids) - 1  # the last token of the prompt predicts the completion's first
        piece = slice(start, start + len(row.completion_ids))
        weights_BT[i, piece], sft_weights_BT[i, piece] = row.weight, row.sft_weight
    advantages_B1 = torch.tensor([[row.advantage] for row in rows])
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    clipped_BT = ratio_BT.clamp(1 - CLIP, 1 + CLIP)
    surrogate_BT = torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)
    return -(weights_BT * surrogate_BT).sum() - (sft_weights_BT * logprobs_BT).sum()


def update(model: Any, optimizer: torch.optim.Optimizer, rows: list[Row], step: int) -> float:
    """Take one AdamW step, with gradients of at most norm 1; return the loss."""
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS)
    optimizer.zero_grad()
    loss = exp_grpo_loss(model, rows)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


# 5. The loop.


def measure(model: Any, tokenizer: Any, when: str) -> None:
    """Print how many held-out problems are solved, greedily."""
    for kind in ("hard", "easy"):
        rng = random.Random(kind)
        problems = [draw_problem(rng, hard=kind == "hard", held_out=True) for _ in range(HELD_OUT)]
        prompts = [prompt_ids(tokenizer, QUESTION_PROMPT, problem) for problem in problems]
        n_right = sum(map(reward, sample(model, tokenizer, prompts, n=1, greedy=True), problems))
        print(f"{when}: {n_right:.0f} of {HELD_OUT} held-out {kind} problems are solved")


def main() -> None:
    """Train, and measure before and after."""
    model, tokenizer = load()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0)
    rng, started = random.Random(0), time.monotonic()
    measure(model, tokenizer, "before")
    for step in range(STEPS):
        # the first problems are easy: what the model can already do holds it in place
        problems = [draw_problem(rng, hard=i >= N_EASY, held_out=False) for i in range(PROBLEMS_PER_STEP)]
        prompts = [prompt_ids(tokenizer, QUESTION_PROMPT, problem) for problem in problems]
        sampled = sample(model, tokenizer, prompts, n=GROUP_SIZE)
        groups = []
        for i, problem in enumerate(problems):
            completions = sampled[i * GROUP_SIZE : (i + 1) * GROUP_SIZE]
            groups.append((prompts[i], completions, [reward(c, problem) for c in completions]))

        # explain where all are wrong, and keep what ends in the right answer: after the prompt that does not show it
        failed = [i for i, (_, _, rewards) in enumerate(groups) if not any(rewards)]
        shown = [prompt_ids(tokenizer, EXPLANATION_PROMPT, problems[i]) for i in failed]
        explanations = sample(model, tokenizer, shown, n=1) if failed else []
        explained = [(prompts[i], e) for i, e in zip(failed, explanations, strict=True) if reward(e, problems[i])]

        rows = make_rows(groups, explained)
        loss = update(model, optimizer, rows, step) if rows else 0.0
        means = [sum(rewards) / GROUP_SIZE for _, _, rewards in groups]
        hard, easy = (sum(some) / len(some) for some in (means[N_EASY:], means[:N_EASY]))
        about = f"all wrong {len(failed)}, explained {len(explained)} | loss {loss:.4f}"
        print(
            f"step {step + 1} | {time.monotonic() - started:.0f} s | reward hard {hard:.2f}, easy {easy:.2f} | {about}"
        )
    measure(model, tokenizer, "after")


if __name__ == "__main__":
    main()
