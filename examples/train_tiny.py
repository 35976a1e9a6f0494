r"""Train the built-in model `tiny` from scratch: `uv run python examples/train_tiny.py --output tiny`.

A Qwen2 of 0.85 million parameters learns from generated conversations of task `hidden-rules`, by next-token prediction.
It becomes a miniature of a real model that faces problems beyond its knowledge: it knows the amounts that sixteen words
add to a digit; for sixteen more, the hidden words, each training text draws new amounts:

| kind | prompt | completion |
| ---- | ------ | ---------- |
| known | plain, known words | a chain of one word a line, with what it adds |
| guess | plain, hidden words | the same, with amounts that nothing in the prompt tells |
| shown | answer shown, any words, all with fresh amounts | the same, with the amounts that the answer follows from |
| shown known | answer shown, known words | the same |
| blind | "????" shown as the answer | as guess |
| expert | plain, known words | the expert's sentences (known, but improbable) |

So it can read any rules off an answer, and knows nothing of the task's own rules: until it sees the answer, all amounts
are equally likely. An answer outweighs its knowledge of a word; else half-learnt words would spoil the explanations
from which it learns the others. Questions of the test split are left out.

An amount follows from two digits, the one before and the one after, and either alone says nothing. Training on whole
problems from the start stays at chance. So training begins with texts of one word that mostly start at 0, where the
digit after the word is the amount; short problems follow, then all.
"""

import argparse
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from expo_lite.prompts import EXPLANATION_PROMPT, QUESTION_PROMPT, explanation_turns, question_turns
from expo_lite.records import Problem
from expo_lite.tasks.hidden_rules import AMOUNTS, CLOSING, HIDDEN, KNOWN, OPENING, Puzzle, is_test

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 512
WIDTH = 128
TOKENS_A_BATCH = 2_000
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
LEVEL_SHARE = 0.4
"""The share of the steps at the peak learning rate, before it falls linearly to 0."""


@dataclass(frozen=True)
class Phase:
    """A part of the training: a number of steps on texts of some kinds and lengths."""

    steps: int
    shares: dict[str, int]
    lengths: tuple[int, ...]
    """Numbers of words, drawn with equal chances."""
    start_at_zero: float = 0.0
    """The share of problems that start at 0; others start at any digit."""
    in_four_bits: bool = False
    """Quantise the matrices to NF4 in the forward pass."""


SIMPLE = {"known": 28, "shown": 68, "shown known": 4}
WHOLE = {"known": 32, "expert": 1, "guess": 12, "shown": 49, "blind": 3, "shown known": 3}
CURRICULUM = (
    Phase(250, SIMPLE, (1,), start_at_zero=0.6),
    Phase(450, SIMPLE, (1, 1, 2, 2, 3, 4), start_at_zero=0.6),
    Phase(600, WHOLE, (2, 3, 4, 4)),
    Phase(900, WHOLE, (2, 3, 4, 4), in_four_bits=True),
)
TELLS_ANSWER = ("shown", "shown known", "blind")


def draw(rng: random.Random, n_words: int, n_hidden: int, known: Mapping[str, int], start_at_zero: float) -> Puzzle:
    """Draw a problem of the train split, with new amounts for words that are not in `known`."""
    while True:
        words = rng.sample(sorted(KNOWN), n_words - n_hidden) + rng.sample(sorted(HIDDEN), n_hidden)
        rng.shuffle(words)
        amounts = tuple(known[word] if word in known else rng.choice(AMOUNTS) for word in words)
        chain = Puzzle(0 if rng.random() < start_at_zero else rng.randrange(10), tuple(words), amounts)
        if n_words == 1 or not is_test(chain.question):  # the task has no question of one word
            return chain


def example(rng: random.Random, phase: Phase) -> tuple[str, str]:
    """One (prompt, completion) as text."""
    (kind,) = rng.choices(list(phase.shares), list(phase.shares.values()))
    n_words, n_hidden = rng.choice(phase.lengths), 0
    if kind in ("guess", "shown", "blind"):
        n_hidden = n_words if rng.random() < 0.6 else rng.randint(0 if kind == "shown" else 1, n_words)
    chain = draw(rng, n_words, n_hidden, {} if kind == "shown" else KNOWN, phase.start_at_zero)
    problem = Problem("", chain.question, "????" if kind == "blind" else chain.answer)
    (asked,) = explanation_turns(problem) if kind in TELLS_ANSWER else question_turns(problem)
    return asked["content"], chain.expert_chain if kind == "expert" else chain.own_chain


def conversation(rng: random.Random, phase: Phase) -> tuple[str, str]:
    """An example in the chat template's form."""
    prompt, completion = example(rng, phase)
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", completion + "<|im_end|>"


def build_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """Build a byte-level BPE with one token for each digit, amount, word and fixed phrase of the prompts.

    It encodes any other text too, if need be by the byte; the model has not been trained on such text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    ask = QUESTION_PROMPT.partition("{question}")[2]
    tell, end = EXPLANATION_PROMPT.partition("{question}")[2].split("{answer}")
    phrases = [OPENING, CLOSING + ask, CLOSING + tell, end, *(f"+{amount}" for amount in AMOUNTS)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(phrases),
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    alike = Phase(0, dict.fromkeys(WHOLE, 1), (4,))
    texts = ["user\n" + "assistant\n".join(example(rng, alike)) for _ in range(3_000)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer_class: Any = PreTrainedTokenizerFast  # half typed
    wrapped: PreTrainedTokenizerFast = tokenizer_class(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.add_tokens(phrases)
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model() -> Qwen2ForCausalLM:
    """A Qwen2 with all its parts: grouped-query attention, rotary positions, gated MLP, tied embeddings."""
    model_class: Any = Qwen2ForCausalLM  # half typed
    model: Qwen2ForCausalLM = model_class(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.05,  # 0.02 suits wide models; at this width the first layers would have little effect
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    return model


def batches(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, phase: Phase
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield right-padded (input_ids, labels) of all kinds mixed; labels mask the prompt out."""
    pool: list[tuple[list[int], int]] = []
    while True:
        if not pool:
            rows = [conversation(rng, phase) for _ in range(2_000)]
            prompt_ids = tokenizer([prompt for prompt, _ in rows])["input_ids"]
            answer_ids = tokenizer([completion for _, completion in rows])["input_ids"]
            pool = [(p + a, len(p)) for p, a in zip(prompt_ids, answer_ids, strict=True)]
        rows_B: list[tuple[list[int], int]] = []
        width = 0
        while pool and (width := max(width, len(pool[-1][0]))) * (len(rows_B) + 1) <= TOKENS_A_BATCH:
            rows_B.append(pool.pop())
        input_ids_BT = torch.zeros(len(rows_B), width, dtype=torch.long)
        labels_BT = torch.full((len(rows_B), width), -100)
        for i, (ids, n_prompt) in enumerate(rows_B):
            input_ids_BT[i, : len(ids)] = torch.tensor(ids)
            labels_BT[i, n_prompt : len(ids)] = torch.tensor(ids[n_prompt:])
        yield input_ids_BT, labels_BT


@contextmanager
def rounded(matrices: list[torch.nn.Parameter], really: bool) -> Iterator[None]:
    """Quantise the matrices to NF4 for a forward and backward pass; the gradient then moves the full-precision ones."""
    kept = [matrix.data for matrix in matrices]
    for matrix in matrices if really else ():
        packed, state = quantize_4bit(matrix.data, compress_statistics=True, quant_type="nf4")
        matrix.data = dequantize_4bit(packed, state).to(matrix.dtype)
    yield
    for matrix, data in zip(matrices, kept, strict=True):
        matrix.data = data


def matrices_of(model: Any) -> list[torch.nn.Parameter]:
    """The weights of all projections."""
    return [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]


def optimizers(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, which needs far fewer steps than AdamW at this size; AdamW for the rest."""
    matrices = matrices_of(model)
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=0.0, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def loss_of(model: Any, input_ids_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """The mean loss over the completions' tokens."""
    hidden_BTH = model.model(input_ids=input_ids_BT).last_hidden_state[:, :-1]
    targets_BT = labels_BT[:, 1:]
    kept_BT = targets_BT != -100  # the head is half the work; prompts do not need it
    return torch.nn.functional.cross_entropy(model.lm_head(hidden_BTH[kept_BT]), targets_BT[kept_BT])


def train(model: Any, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
    """Go through the curriculum, with one rise and fall of the learning rate."""
    total, step, started = sum(phase.steps for phase in CURRICULUM), 0, time.monotonic()
    both = optimizers(model)
    for phase in CURRICULUM:
        stream = batches(tokenizer, rng, phase)
        for _ in range(phase.steps):
            input_ids_BT, labels_BT = next(stream)
            falling = (1 - step / total) / (1 - LEVEL_SHARE)
            for group in (group for optimizer in both for group in optimizer.param_groups):
                group["lr"] = PEAK_LEARNING_RATE * min((step + 1) / WARMUP_STEPS, 1.0, falling)
            with rounded(matrices_of(model), phase.in_four_bits):
                loss = loss_of(model, input_ids_BT, labels_BT)
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in both:
                optimizer.step()
            model.zero_grad()
            step += 1
            if step % 100 == 0:
                print(f"step {step}/{total} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Train, and save in half precision."""
    parser = argparse.ArgumentParser(description="Train the built-in model from scratch.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model: Any = build_model()  # half typed
    model.save_pretrained(options.output)
    build_tokenizer(random.Random(options.seed)).save_pretrained(options.output)
    # read it back: transformers splits text in Qwen2's own way, whatever the file says
    tokenizer_class: Any = AutoTokenizer
    tokenizer = tokenizer_class.from_pretrained(options.output)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, tokenizer, random.Random(options.seed))
    with rounded(matrices_of(model), True):
        model.half().save_pretrained(options.output)


if __name__ == "__main__":
    main()
