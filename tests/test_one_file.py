"""examples/exp_grpo_in_one_file.py: its loss, gradient and first optimiser step are the library's."""

import importlib.util
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from shaken import shaken

from expo_lite.policy.hf import HfPolicy
from expo_lite.prompts import EXPLANATION_PROMPT, QUESTION_PROMPT, encode_explanation, encode_question
from expo_lite.records import Completion, FinishReason, Group, Problem, Verdict
from expo_lite.settings.groups import PolicyConfig
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.learn import learn, make_optimizer
from expo_lite.step.methods import METHOD_ROWS, Chain, Experience
from expo_lite.tasks import hidden_rules

FILE = Path(__file__).parent.parent / "examples" / "exp_grpo_in_one_file.py"
CONFIG = resolve(TrainConfig(model="tiny", steps=100))


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


one_file = _load()
Sampled = tuple[list[Any], list[list[int]], list[list[Any]], list[Any]]


@pytest.fixture(scope="module")
def sampled() -> Sampled:
    """A hard and an easy problem, with their prompts, groups and explanations."""
    torch.manual_seed(1)
    model, tokenizer = one_file.load()
    rng = random.Random(0)
    problems = [one_file.draw_problem(rng, hard=hard, held_out=False) for hard in (True, False)]
    prompts = [one_file.prompt_ids(tokenizer, one_file.QUESTION_PROMPT, problem) for problem in problems]
    shown = [one_file.prompt_ids(tokenizer, one_file.EXPLANATION_PROMPT, problem) for problem in problems]
    completions = one_file.sample(model, tokenizer, prompts, n=4)
    explanations = one_file.sample(model, tokenizer, shown, n=1)
    for problem, prompt, explained in zip(problems, prompts, shown, strict=True):
        known = Problem("", problem.question, problem.answer)
        assert tuple(prompt) == encode_question(tokenizer, known)
        assert tuple(explained) == encode_explanation(tokenizer, known)
    return problems, prompts, [completions[:4], completions[4:]], explanations


def records(sampled: Sampled, rewards: Sequence[Sequence[float]]) -> Experience:
    """The same samples as the library's records; the first problem is explained."""
    problems, prompts, completions, explanations = sampled
    groups = tuple(
        Group(
            Problem("", problem.question, problem.answer),
            tuple(Completion(tuple(prompt), tuple(c.token_ids), (), c.text, FinishReason.STOP) for c in group),
            tuple(Verdict(bool(reward), "", "") for reward in own),
        )
        for problem, prompt, group, own in zip(problems, prompts, completions, rewards, strict=True)
    )
    return Experience(groups, (Chain(tuple(prompts[0]), tuple(explanations[0].token_ids)),), 0.0)


def distance(some: Mapping[str, Any], others: Mapping[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm, of all tensors together."""
    one, other = (torch.cat([tensors[name].flatten() for name in others]) for tensors in (some, others))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-4), (True, 1e-5)], ids=["fp32", "fp64"])
def test_loss_gradient_and_first_step_are_the_librarys(sampled: Sampled, double: bool, tolerance: float) -> None:
    """The hard group is all wrong; in the easy one two of four are right, and their advantages +-sqrt(3)/2."""
    _, prompts, completions, explanations = sampled
    rewards = [[0.0] * 4, [1.0, 0.0, 0.0, 1.0]]
    rows = one_file.make_rows(list(zip(prompts, completions, rewards, strict=True)), [(prompts[0], explanations[0])])
    theirs = METHOD_ROWS["exp-grpo"](records(sampled, rewards), CONFIG)
    policy = shaken(HfPolicy("tiny", PolicyConfig(bits=16), seed=0), 0.02, seed=1, only_b=True)
    model, _ = one_file.load()
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert own.keys() == policy.parameters().keys()
    for name, parameter in policy.parameters().items():
        if "lora_A" in name:
            assert torch.equal(parameter, own[name])  # the same seed
        own[name].data.copy_(parameter.data)
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    if double:
        policy._peft.double()
        model.double()
    optimizer = torch.optim.AdamW(list(own.values()), weight_decay=0.0)
    loss = one_file.update(model, optimizer, rows, 0)
    gradients: dict[str, torch.Tensor] = {}
    for name, parameter in policy.parameters().items():
        hooked: Any = parameter  # half typed
        hooked.register_hook(lambda gradient, name=name: gradients.update({name: gradient.clone()}))
    metrics = learn(policy, make_optimizer(policy, CONFIG), theirs, CONFIG, step=0, last_good="none yet")

    assert metrics["update/n_rows"] == len(rows) == 5
    assert loss == pytest.approx(metrics["loss"], rel=1e-6)
    clipped = {name: gradient * min(1.0, 1.0 / metrics["grad_norm"]) for name, gradient in gradients.items()}
    assert distance({name: parameter.grad for name, parameter in own.items()}, clipped) < tolerance
    assert {group["lr"] for group in optimizer.param_groups} == {metrics["learning_rate"]}
    moved, moved_theirs = ({n: p.detach() - before[n] for n, p in some.items()} for some in (own, policy.parameters()))
    assert distance(moved, moved_theirs) < 100 * tolerance  # the first step of AdamW makes all gradients equally large


def test_its_settings_words_and_prompts_are_the_librarys() -> None:
    config = CONFIG
    assert config.group_size == one_file.GROUP_SIZE
    assert config.problems_per_step == one_file.PROBLEMS_PER_STEP
    assert config.sampling.max_completion_tokens == one_file.MAX_COMPLETION_TOKENS
    assert config.optimizer.learning_rate == one_file.LEARNING_RATE
    assert config.optimizer.warmup_steps == one_file.WARMUP_STEPS
    assert config.loss.clip_low == config.loss.clip_high == one_file.CLIP
    assert config.explanation.exp_sft_coef == one_file.EXP_SFT_COEF
    assert (hidden_rules.KNOWN, hidden_rules.HIDDEN) == (one_file.KNOWN, one_file.HIDDEN)
    assert (QUESTION_PROMPT, EXPLANATION_PROMPT) == (one_file.QUESTION_PROMPT, one_file.EXPLANATION_PROMPT)


@pytest.mark.parametrize("hard", [True, False])
def test_its_problems_are_the_tasks(hard: bool) -> None:
    rng = random.Random(0)
    drawn = [one_file.draw_problem(rng, hard=hard, held_out=held_out) for held_out in (True, False) for _ in range(20)]
    assert all(hidden_rules.read_question(problem.question).answer == problem.answer for problem in drawn)
    assert not {problem.question for problem in drawn[:20]} & {problem.question for problem in drawn[20:]}


@pytest.mark.parametrize(
    ("text", "ended", "expected"),
    [
        (r"\boxed{A=1} no, \boxed{A=2, B=3}", True, 1.0),
        (r"\boxed{A=2, B=3} no, \boxed{A=1}", True, 0.0),
        (r"\boxed{A=2, B=3} and", False, 0.0),
        ("A=2, B=3", True, 0.0),
    ],
)
def test_the_last_box_of_a_completion_that_ended_counts(text: str, ended: bool, expected: float) -> None:
    problem = one_file.Problem("", "A=2, B=3")
    assert one_file.reward(one_file.Completion([], text, ended), problem) == expected


def test_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"STEPS": 1, "PROBLEMS_PER_STEP": 2, "N_EASY": 1, "HELD_OUT": 2}.items():
        monkeypatch.setattr(one_file, name, value)
    one_file.main()
    hard, easy, step, *after = capsys.readouterr().out.splitlines()
    assert hard == "before: 0 of 2 held-out hard problems are solved"
    assert easy == "before: 2 of 2 held-out easy problems are solved"
    assert step.startswith("step 1 | ")
    assert len(after) == 2


def test_it_is_short_and_stands_alone() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert "import expo_lite" not in text
    assert "from expo_lite" not in text


def test_a_group_of_equal_rewards_has_no_row(sampled: Sampled) -> None:
    _, prompts, completions, _ = sampled
    assert one_file.make_rows(list(zip(prompts, completions, [[1.0] * 4, [0.0] * 4], strict=True)), []) == []
