"""Train the embedded model `tiny` from scratch (draft)."""

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from expo_lite.prompts import EXPLANATION_PROMPT, QUESTION_PROMPT, explanation_text, question_text
from expo_lite.records import Problem
from expo_lite.tasks.hidden_rules import AMOUNTS, HIDDEN, KNOWN, Chain, is_test

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PIECES = r"\+\d| ?[A-Za-z]+|\d|\s|[^\sA-Za-z\d]+"
VOCABULARY = 512


@dataclass
class Recipe:
    width: int = 96
    layers: int = 4
    heads: int = 4
    init: float = 0.06
    steps: int = 2000
    tokens: int = 2000
    lr: float = 3e-3
    # shares: plain known, expert, guess, shown, blind, shown known
    shares: tuple = (28, 2, 12, 52, 3, 3)
    first: int = 0  # steps of simple texts first
    dropword: float = 0.0
    repeat: float = 0.0


def fresh_meaning(rng: random.Random) -> dict[str, int]:
    return {word: rng.choice(AMOUNTS) for word in HIDDEN}


def draw(rng: random.Random, n_words: int, n_hidden: int) -> Chain:
    while True:
        hidden = fresh_meaning(rng)
        words = rng.sample(sorted(KNOWN), n_words - n_hidden) + rng.sample(sorted(HIDDEN), n_hidden)
        rng.shuffle(words)
        meaning = {**KNOWN, **hidden}
        chain = Chain(rng.randrange(10), tuple(words), tuple(meaning[w] for w in words))
        if not is_test(chain.question):
            return chain


def example(rng: random.Random, recipe: Recipe) -> tuple[str, str]:
    kind = rng.choices(["plain", "expert", "guess", "shown", "blind", "shown known"], recipe.shares)[0]
    n_words = rng.choice([2, 3, 4])
    n_hidden = 0
    if kind in ("guess", "shown", "blind"):
        n_words = rng.choice([2, 3, 4, 4, 4])
        n_hidden = rng.choice([n_words, n_words, rng.randint(1, n_words)])
    chain = draw(rng, n_words, n_hidden)
    problem = Problem("", chain.question, "????" if kind == "blind" else chain.answer)
    prompt = explanation_text(problem) if kind in ("shown", "blind", "shown known") else question_text(problem)
    return prompt, chain.expert_chain if kind == "expert" else chain.own_chain


def conversation(rng: random.Random, recipe: Recipe) -> tuple[str, str]:
    prompt, completion = example(rng, recipe)
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", completion


def build_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 4,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["user\n" + "assistant\n".join(example(rng, Recipe(shares=(30, 10, 10, 20, 20, 10)))) for _ in range(3000)]
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    ask = QUESTION_PROMPT.format(question="\0").partition("\0")[2]
    tell, end = EXPLANATION_PROMPT.format(question="\0", answer="\0").split("\0")[1:]
    wrapped.add_tokens(["Start with ", "Write the results one after the other." + ask, "Write the results one after the other." + tell, end])
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def build_model(r: Recipe) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY, hidden_size=r.width, intermediate_size=3 * r.width, num_hidden_layers=r.layers,
            num_attention_heads=r.heads, num_key_value_heads=max(r.heads // 2, 1), max_position_embeddings=1024,
            initializer_range=r.init, tie_word_embeddings=True, bos_token_id=None, eos_token_id=2, pad_token_id=0,
        )
    )


def batches(tokenizer, rng: random.Random, r: Recipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    pool: list[tuple[list[int], int]] = []
    while True:
        if len(pool) < 2_000:
            rows = [conversation(rng, r) for _ in range(2_000)]
            prompt_ids = tokenizer([prompt for prompt, _ in rows])["input_ids"]
            answer_ids = tokenizer([completion + "<|im_end|>" for _, completion in rows])["input_ids"]
            pool += [(p + a, len(p)) for p, a in zip(prompt_ids, answer_ids, strict=True)]
            pool.sort(key=lambda row: len(row[0]))
        start = rng.randrange(len(pool))
        n_rows = max(r.tokens // len(pool[start][0]), 1)
        start = max(min(start, len(pool) - n_rows), 0)
        rows_B, pool = pool[start : start + n_rows], pool[:start] + pool[start + n_rows :]
        width = max(len(ids) for ids, _ in rows_B)
        x = torch.zeros(len(rows_B), width, dtype=torch.long)
        y = torch.full((len(rows_B), width), -100)
        for i, (ids, n_prompt) in enumerate(rows_B):
            x[i, : len(ids)] = torch.tensor(ids)
            y[i, n_prompt : len(ids)] = torch.tensor(ids[n_prompt:])
        yield x, y


def train(model, tokenizer, rng, r: Recipe) -> None:
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    ids = {id(p) for p in hidden}
    other = [p for p in model.parameters() if id(p) not in ids]
    opts = [
        torch.optim.Muon(hidden, lr=0.0, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(other, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    stream, t0, n = batches(tokenizer, rng, r), time.monotonic(), 0
    for step in range(r.steps):
        x, y = next(stream)
        n += x.numel()
        lr = r.lr * min((step + 1) / 100, 1.0, (1 - step / r.steps) / 0.6)
        for o in opts:
            for g in o.param_groups:
                g["lr"] = lr
        h = model.model(input_ids=x).last_hidden_state[:, :-1]
        k = y[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(h[k]), y[:, 1:][k])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
        model.zero_grad()
        if (step + 1) % 100 == 0:
            s = time.monotonic() - t0
            print(f"step {step + 1} loss {loss.item():.4f} {s:.0f}s {n / s:.0f} tok/s", flush=True)


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--output", type=Path, required=True)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--set", nargs="*", default=[])
    o = ap.parse_args()
    torch.manual_seed(o.seed)
    r = Recipe(**{k: eval(v) for k, v in (s.split("=") for s in o.set)})
    tokenizer = build_tokenizer(random.Random(o.seed))
    model: Any = build_model(r)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", r, len(tokenizer))
    c = draw(random.Random(0), 4, 4)
    print(tokenizer.tokenize(explanation_text(Problem("", c.question, c.answer))), tokenizer.tokenize(c.own_chain), tokenizer.tokenize(c.expert_chain))
    train(model, tokenizer, random.Random(f"{o.seed}"), r)
    model.save_pretrained(o.output)
    tokenizer.save_pretrained(o.output)


if __name__ == "__main__":
    main()
