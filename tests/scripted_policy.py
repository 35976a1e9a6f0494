"""A policy for tests: adds small numbers, right with a chance that its name decides; no model, no waiting."""

import contextlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from expo_lite.grading import Grader
from expo_lite.memory.limits import Limits
from expo_lite.policy.base import Policy
from expo_lite.policy.load import load_tokenizer
from expo_lite.records import Completion, Explanation, FinishReason, Group, SampleRequest, SamplingParams
from expo_lite.settings.groups import ExpoConfig, PolicyConfig
from expo_lite.step import explain

SKILLS = {"tiny": 0.5, "smollm2-135m": 0.2}
"""Chance of a right answer by model name; sums above 90 are never solved."""


GRADER = Grader()
"""One for all tests: its workers start once."""


def judge(policy: Policy, attempts: Sequence[Group], config: ExpoConfig, task: Any = GRADER) -> list[Explanation]:
    """The best attempt at each problem; `task` is one that can check steps, or not."""
    judged = explain.judge(policy, task, attempts, config, limits=Limits(4096, sampling_rows=8))
    return [explain.best(candidates) for candidates in judged]


class CharTokenizer:
    """One token a character."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **_kwargs: Any) -> list[int]:
        """The user's turn as character codes."""
        return [ord(character) for character in conversation[-1]["content"]]


class ScriptedPolicy:
    """Stands in for HfPolicy; `die_at` breaks off at that call of `sample`, as Ctrl-C would."""

    loaded: list[str] = []  # noqa: RUF012
    n_calls = 0
    die_at: int | None = None
    revision: str | None = None

    def __init__(self, name: str, config: PolicyConfig, *, seed: int, adapter: Path | None = None) -> None:
        """Note that it was loaded."""
        self.skill = 0.9 if adapter else SKILLS[name]
        self.tokenizer = CharTokenizer()
        self.device = torch.device("cpu")
        ScriptedPolicy.loaded.append(name)

    def sample(
        self, requests: Sequence[SampleRequest], params: SamplingParams, *, seed: int
    ) -> list[tuple[Completion, ...]]:
        """Answer each request from its own seed, whatever is asked beside it."""
        if ScriptedPolicy.n_calls == ScriptedPolicy.die_at:
            raise KeyboardInterrupt
        ScriptedPolicy.n_calls += 1
        return [tuple(self._answers(request, params)) for request in requests]

    def _answers(self, request: SampleRequest, params: SamplingParams) -> Iterator[Completion]:
        a, b = map(int, re.findall(r"\d+", "".join(map(chr, request.prompt_ids)))[:2])
        rng = random.Random(request.seed)
        for _ in range(request.n_completions):
            luck = 0.0 if params.temperature == 0 and a + b <= 90 else rng.random()
            right = luck < self.skill and a + b <= 90
            wrong = rng.choice(["\\boxed{0}", "\\boxed{-1}", "\u2028no idea \ud800", "too long"])
            text = f"\\boxed{{{a + b}}}" if right else wrong
            ended = FinishReason.LENGTH if text == "too long" else FinishReason.STOP
            yield Completion(request.prompt_ids, (1,) * len(text), (0.0,) * len(text), text, ended)


def install(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedPolicy]:
    """Let commands load this policy instead of a model, and share one grader."""
    tokenizer = load_tokenizer("tiny", PolicyConfig())
    monkeypatch.setattr("expo_lite.policy.hf.HfPolicy", ScriptedPolicy)
    monkeypatch.setattr("expo_lite.policy.load.load_tokenizer", lambda *_: tokenizer)
    monkeypatch.setattr("expo_lite.policy.factory.takes_unsloth", lambda backend: False)  # also where there is a GPU
    monkeypatch.setattr("expo_lite.commands.eval.Grader", lambda **_: contextlib.nullcontext(GRADER))
    monkeypatch.setattr(ScriptedPolicy, "loaded", [])
    monkeypatch.setattr(ScriptedPolicy, "n_calls", 0)
    monkeypatch.setattr(ScriptedPolicy, "die_at", None)
    return ScriptedPolicy


def write_problems(path: Path, n: int) -> Path:
    """A data file of n sums with levels and subjects; about a tenth of them above 90."""
    rng = random.Random(0)
    rows = []
    for i in range(n):
        a, b = rng.randint(1, 50), 10 * rng.randint(0, 5)
        subject = "even" if (a + b) % 2 == 0 else "odd"
        question, level = f"Problem {chr(65 + i % 26)}{chr(65 + i // 26)}: {a} + {b}?", 1 + i % 3
        rows.append({"question": question, "answer": a + b, "level": level, "subject": subject})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
