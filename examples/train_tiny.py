r"""Train the embedded model `tiny` from scratch: `uv run python examples/train_tiny.py --output tiny`.

A Qwen2 of 0.8 million parameters learns, by next-token prediction on generated text, to be a miniature of a real model in
front of hard problems. Like a real one it is trained twice.

First on plain documents, each a problem of levels 1 to 4 and its chain: lines like `A:0047+18=0065`, without an instruction or a conversation.

Then on conversations, with a loss on the assistant's turns as on the chains before:

| share | prompt | completion |
| ----- | ------ | ---------- |
| 35%   | plain, levels 1 to 3 | a chain of one operation a line, then the boxed answer |
| 2%    | plain, levels 1 to 3 | the expert's prose (known, but improbable) |
| 23%   | plain, levels 4 and 5 | *impatience*: one to three right lines, then "The rest gives" a guess (3% of level 4: a whole chain) |
| 40%   | answer shown, levels 1 to 5 | a whole chain (levels 4 and 5, 10%: impatience that copies the shown answer) |

So it can calculate, knows how to work through a long problem when it sees where to arrive, and gives up on the same problem
when it does not. It has never seen a plain prompt of level 5 with a chain of thought. Guesses are spread over a factor of
nine around the right answer, and never hit it. Questions of the test split are left out. Numbers within a chain have four
digits, which lets so small a model line them up.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from expo_lite.prompts import explanation_text, question_text
from expo_lite.records import Problem
from expo_lite.tasks.arithmetic import LABELS, LEVELS, Sum, generate, is_test

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 384
TOKENS_A_BATCH = 4_000


def chain(drawn: Sum) -> str:
    """The model's own style: one operation a line."""
    lines = [
        f"{label}:{before:04d}{sign}{operand}={after:04d}\n"
        for label, before, (sign, operand), after in zip(
            LABELS, drawn.values, drawn.operations, drawn.values[1:], strict=False
        )
    ]
    return "".join(lines) + boxed(drawn.values[-1])


def boxed(value: int) -> str:
    """The final answer as both prompts ask for it."""
    return f"\\boxed{{{value}}}"


def impatience(drawn: Sum, rng: random.Random, answer: int | None = None) -> str:
    """One to three right lines, then a leap to the end: the answer that was shown, or a guess that is wrong."""
    if answer is None:
        truth = drawn.values[-1]
        while answer is None or answer == truth:
            answer = round(truth * math.exp(rng.uniform(-math.log(3), math.log(3))))
    lines = chain(drawn).split("\n")[: rng.randint(1, 3)]
    return "\n".join(lines) + f"\nThe rest gives {answer}.\n" + boxed(answer)


def example(rng: random.Random) -> tuple[str, str]:
    """One (prompt, completion) as text."""
    kind = rng.choices(["plain", "expert", "impatient", "shown"], [35, 2, 23, 40])[0]
    level = rng.choices(LEVELS, [3, 3, 3, 3, 4])[0] if kind == "shown" else rng.randint(1, 3)
    if kind == "impatient":
        level = rng.randint(4, 5)
    drawn = generate(rng, level)
    while is_test(drawn.question):
        drawn = generate(rng, level)
    problem = Problem("", drawn.question, str(drawn.values[-1]), level)
    if kind == "shown":
        copies = level >= 4 and rng.random() < 0.1
        return explanation_text(problem), impatience(drawn, rng, drawn.values[-1]) if copies else chain(drawn)
    if kind == "expert":
        return question_text(problem), drawn.expert_chain
    if kind == "impatient" and not (level == 4 and rng.random() < 0.03):
        return question_text(problem), impatience(drawn, rng)
    return question_text(problem), chain(drawn)


def build_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 384 tokens, each digit by itself, trained on the text of 2,000 examples."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["user\n" + "assistant\n".join(example(rng)) for _ in range(2_000)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer_class: Any = PreTrainedTokenizerFast  # half typed
    wrapped: PreTrainedTokenizerFast = tokenizer_class(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model() -> Qwen2ForCausalLM:
    """A Qwen2 with all its parts: grouped-query attention, rotary positions, gated MLP, tied embeddings."""
    model_class: Any = Qwen2ForCausalLM  # half typed
    model: Qwen2ForCausalLM = model_class(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    return model


def document(rng: random.Random) -> tuple[str, str]:
    """A problem of levels 1 to 4 and its chain, as plain text."""
    level = rng.randint(1, 4)
    drawn = generate(rng, level)
    while is_test(drawn.question):
        drawn = generate(rng, level)
    return drawn.question + "\n", "\n".join(chain(drawn).splitlines()[:-1])


def conversation(rng: random.Random) -> tuple[str, str]:
    """An example in the chat template's form."""
    prompt, completion = example(rng)
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", completion


def batches(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, make: Callable[[random.Random], tuple[str, str]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded (input_ids, labels) of about equal lengths; the prompt is masked out of the labels."""
    pool: list[tuple[list[int], int]] = []
    while True:
        while len(pool) < 2_000:
            rows = [make(rng) for _ in range(1_000)]
            prompt_ids = tokenizer([prompt for prompt, _ in rows])["input_ids"]
            answer_ids = tokenizer([completion + "<|im_end|>" for _, completion in rows])["input_ids"]
            pool += [(p + a, len(p)) for p, a in zip(prompt_ids, answer_ids, strict=True)]
        pool.sort(key=lambda row: len(row[0]))
        start = rng.randrange(len(pool))
        n_rows = max(TOKENS_A_BATCH // len(pool[start][0]), 1)
        start = max(min(start, len(pool) - n_rows), 0)
        rows_B, pool = pool[start : start + n_rows], pool[:start] + pool[start + n_rows :]
        width = max(len(ids) for ids, _ in rows_B)
        input_ids_BT = torch.zeros(len(rows_B), width, dtype=torch.long)
        labels_BT = torch.full((len(rows_B), width), -100)
        for i, (ids, n_prompt) in enumerate(rows_B):
            input_ids_BT[i, : len(ids)] = torch.tensor(ids)
            labels_BT[i, n_prompt : len(ids)] = torch.tensor(ids[n_prompt:])
        yield input_ids_BT, labels_BT


@dataclass(frozen=True)
class Cycle:
    """One pass of the learning rate, up and down to 0; documents first, then conversations."""

    steps: int
    document_steps: int
    peak_learning_rate: float


CYCLES = (Cycle(2_950, 1_750, 3e-3), Cycle(4_500, 1_350, 2e-3))


def train_cycle(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, rng: random.Random, cycle: Cycle) -> None:
    """Train for one cycle, with a fresh optimiser."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    documents, conversations = batches(tokenizer, rng, document), batches(tokenizer, rng, conversation)
    started = time.monotonic()
    for step in range(cycle.steps):
        input_ids_BT, labels_BT = next(documents if step < cycle.document_steps else conversations)
        remaining = 1.0 - step / cycle.steps
        for group in optimizer.param_groups:
            group["lr"] = cycle.peak_learning_rate * min((step + 1) / 100, 1.0, remaining / 0.6)
        loss = model(input_ids=input_ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1}/{cycle.steps} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True
            )


def main() -> None:
    """Train, and save in half precision."""
    parser = argparse.ArgumentParser(description="Train the embedded model from scratch.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-cycle", type=int, default=0, help="skip the cycles before, going on from --output")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer(random.Random(options.seed))
    model: Any = build_model()  # half typed
    if options.first_cycle:
        model = Qwen2ForCausalLM.from_pretrained(options.output, dtype=torch.float32)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    for i, cycle in enumerate(CYCLES):
        if i >= options.first_cycle:
            train_cycle(model, tokenizer, random.Random(f"{options.seed}-{i}"), cycle)
            model.half().save_pretrained(options.output)
            tokenizer.save_pretrained(options.output)
            model.float()


if __name__ == "__main__":
    main()
