"""Preference pairs: which completions meet, whose they are, and that a broken run goes on with the same ones."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from shaken import shaken

from expo_lite.errors import CheckpointError
from expo_lite.grading import Grader
from expo_lite.loop import train
from expo_lite.memory.limits import Limits
from expo_lite.policy.batching import Row, micro_batches
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_question
from expo_lite.records import Completion, FinishReason, Group, Pair, Problem, Verdict
from expo_lite.run.folder import RunFolder
from expo_lite.settings.groups import DpoConfig, ExpoConfig, HeldOutConfig, PolicyConfig, RolloutConfig
from expo_lite.settings.metrics import TIMES
from expo_lite.settings.train import TrainConfig, resolve
from expo_lite.step.learn import accumulate, make_optimizer
from expo_lite.step.methods import Experience, dpo_rows, sample_experience
from expo_lite.step.pairs import make_pairs, pair_rows
from expo_lite.step.run import RefreshStore, Run
from expo_lite.tasks import load_task

pytestmark = pytest.mark.usefixtures("unchecked")

SCORED: Any = {"temperature": 1.0, "token_budget": 4_096}
PROBLEM = Problem("p", "Start with 10.\nA: add 11.\nWhat is the result?", "21", 1, expert_chain="So \\boxed{21}.")


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


@pytest.fixture
def policy() -> HfPolicy:
    return HfPolicy("tiny", PolicyConfig(), seed=0)


def group(policy: HfPolicy, problem_id: str, verdicts: list[bool]) -> Group:
    problem = dataclasses.replace(PROBLEM, problem_id=problem_id)
    prompt_ids = encode_question(policy.tokenizer, problem)
    completions = []
    for i, right in enumerate(verdicts):
        text = f"\\boxed{{{21 if right else i}}}"
        ids = (*policy.tokenizer.encode(text), policy.end_id)
        completions.append(Completion(prompt_ids, ids, (0.0,) * len(ids), text, FinishReason.STOP))
    return Group(problem, tuple(completions), tuple(Verdict(right, "", "") for right in verdicts))


def test_the_first_wrong_completion_meets_the_chain(policy: HfPolicy) -> None:
    groups = [group(policy, "a", [True, False, False]), group(policy, "b", [True] * 3), group(policy, "c", [False] * 3)]
    chain = (*policy.tokenizer.encode("A:0010+11=0021\n\\boxed{21}"), policy.end_id)
    (pair,), metrics = make_pairs(policy, groups, {"a": chain, "b": chain}, **SCORED)
    assert metrics == {"pairs/new": 1, "pairs/none_wrong": 1, "pairs/no_chosen": 1}
    assert pair.problem == groups[0].problem
    assert (pair.chosen_ids, pair.rejected_ids) == (chain, groups[0].completions[1].token_ids)
    (row,) = pair_rows(policy, [pair], step=3)
    assert row["chosen"] == [{"role": "assistant", "content": "A:0010+11=0021\n\\boxed{21}"}]
    assert row["rejected"] == [{"role": "assistant", "content": "\\boxed{1}"}]
    assert row["prompt"][0]["content"].startswith("Start with 10.")
    assert make_pairs(policy, [], {}, **SCORED) == ([], {"pairs/new": 0, "pairs/none_wrong": 0, "pairs/no_chosen": 0})


def test_a_truncated_completion_is_rejected_only_where_all_wrong_ones_are(policy: HfPolicy) -> None:
    whole = group(policy, "a", [False, True, False])
    cut = dataclasses.replace(whole.completions[0], finish_reason=FinishReason.LENGTH)
    mixed = dataclasses.replace(whole, completions=(cut, *whole.completions[1:]))
    (pair,), _ = make_pairs(policy, [mixed], {"a": (5, 6)}, **SCORED)
    assert pair.rejected_ids == whole.completions[2].token_ids
    last = dataclasses.replace(whole.completions[2], finish_reason=FinishReason.LENGTH)
    all_cut = dataclasses.replace(whole, completions=(cut, whole.completions[1], last))
    (pair,), _ = make_pairs(policy, [all_cut], {"a": (5, 6)}, **SCORED)
    assert pair.rejected_ids == cut.token_ids


def test_the_reference_is_the_policy_with_its_adapter_off(policy: HfPolicy) -> None:
    groups = [group(policy, "a", [False, False])]
    chain = policy.tokenizer.encode("A:0010+11=0021\n\\boxed{21}")
    (fresh,), _ = make_pairs(policy, groups, {"a": tuple(chain)}, **SCORED)
    scored = nats(policy, fresh)  # a fresh adapter changes nothing
    assert scored == pytest.approx([fresh.ref_chosen_nats, fresh.ref_rejected_nats], abs=1e-4)
    shaken(policy, 0.1, seed=1)  # as after an update with a large learning rate
    (again,), _ = make_pairs(policy, groups, {"a": tuple(chain)}, **SCORED)
    assert (again.ref_chosen_nats, again.ref_rejected_nats) == (fresh.ref_chosen_nats, fresh.ref_rejected_nats)
    assert abs(nats(policy, fresh)[0] - scored[0]) > 0.1


def nats(policy: HfPolicy, pair: Pair) -> list[float]:
    rows = [Row(pair.prompt_ids, ids) for ids in (pair.chosen_ids, pair.rejected_ids)]
    return [float(logprobs_T.sum()) for logprobs_T in score_rows(policy, rows, **SCORED)]


def test_the_update_is_that_of_the_dpo_loss_however_it_is_split(policy: HfPolicy) -> None:
    config = resolve(TrainConfig(model="tiny", method="exp-dpo", dpo=DpoConfig(dpo_beta=0.3)))
    groups = [group(policy, name, [False, False]) for name in "abcde"]
    chain = tuple(policy.tokenizer.encode("A:0010+11=0021\n\\boxed{21}"))
    pairs, _ = make_pairs(policy, groups, {name: chain[: 5 + i] for i, name in enumerate("abcde")}, **SCORED)
    shaken(policy, 0.05, seed=1)
    rows = dpo_rows(Experience((), (), 0.0, tuple(pairs)), config)

    policy.logprobs(micro_batches(rows, token_budget=4_096, pad_id=0)[0], temperature=1.0)  # warm: first-time products
    margins = []
    for pair in pairs:
        chosen, rejected = nats(policy, pair)
        margins.append(0.3 * (chosen - pair.ref_chosen_nats - rejected + pair.ref_rejected_nats))
    loss = sum(math.log1p(math.exp(-margin)) for margin in margins) / 5
    assert loss != pytest.approx(math.log(2), abs=0.01)

    def gradients(budget: int, packed: bool) -> tuple[float, list[torch.Tensor]]:
        for parameter in policy.parameters().values():
            parameter.grad = None
        batches = micro_batches(rows, token_budget=budget, pad_id=policy.pad_id, packed=packed)
        assert len(batches) == (1 if budget == 4_096 else 5)
        totals = accumulate(policy, batches, config, None)
        return float(totals.loss), [p.grad.clone() for p in policy.parameters().values() if p.grad is not None]

    whole, expected = gradients(4_096, packed=True)
    assert whole == pytest.approx(loss, abs=1e-4)
    assert sum(float(gradient.abs().sum()) for gradient in expected) > 0
    for budget, packed in ((64, True), (4_096, False), (64, False)):
        value, found = gradients(budget, packed)
        assert value == pytest.approx(whole, abs=1e-5)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_store_ages_forgets_and_survives_json() -> None:
    pair = Pair(PROBLEM, (1, 2), (3,), (4, 5), -1.5, -1 / 3)
    store = RefreshStore(Pair, 3)
    store.put([pair], step=4)
    assert store.to_json(step=7) == []
    again = RefreshStore(Pair, 3)
    again.load_json(json.loads(json.dumps(store.to_json(step=6))))
    assert again.get("p", step=6) == pair
    assert again.get("p", step=7) is None
    again.put([], step=7)
    assert again.to_json(step=6) == []
    once = RefreshStore(Pair, 0)
    once.put([pair], step=0)
    assert once.get("p", step=10_000) == pair
    with pytest.raises(CheckpointError, match="unknown setting 'chosen'"):
        once.load_json([{"made": 1, "record": {"chosen": 3}}])


@pytest.mark.parametrize(("pairs", "chosen"), [("offline", "explanation"), ("online", "expert")])
def test_online_pairs_come_from_the_updated_policy(
    pairs: Literal["offline", "online"], chosen: Literal["explanation", "expert"], policy: HfPolicy, grader: Grader
) -> None:
    dpo = DpoConfig(pairs, chosen=chosen)
    kept = ExpoConfig(explanation_refresh_steps=None if pairs == "offline" else 1)
    config = resolve(TrainConfig(model="tiny", method="exp-dpo", group_size=2, dpo=dpo, explanation=kept))
    task = load_task("hidden-rules", grader=grader)
    problems = task.problems("train", levels=(5,), limit=8)

    def start() -> Run:
        optimizer, folder = make_optimizer(policy, config), RunFolder(Path("unused"))
        return Run(config, folder, policy, task, problems, [], optimizer, Limits.of(config))

    run = start()
    before = sample_experience(run, problems)
    assert len(before.new_pairs) >= 2
    shaken(policy, 0.1, seed=1)  # as after an update with a large learning rate
    fresh = sample_experience(start(), problems)  # the same random numbers
    run.step = 1
    if pairs == "offline":
        assert fresh.new_pairs == before.new_pairs
        again = sample_experience(run, problems)
        made = {pair.problem.problem_id for pair in before.new_pairs}
        assert made.isdisjoint(pair.problem.problem_id for pair in again.new_pairs)  # each is made once
        assert again.pairs[0] in before.new_pairs
    else:
        old = {pair.problem.problem_id: pair.rejected_ids for pair in before.new_pairs}
        new = {pair.problem.problem_id: pair.rejected_ids for pair in fresh.new_pairs}
        assert old != new
        again = sample_experience(run, problems)
        assert not set(before.new_pairs) & set(again.pairs)


def run(folder: Path, steps: int, *, resume: bool = False) -> None:
    """Train on three problems, so that pairs are used again; of a level that is failed, and explained."""
    train(
        resolve(
            TrainConfig(
                model="tiny",
                levels=(4,),
                method="exp-dpo",
                steps=steps,
                group_size=4,
                problems_per_step=2,
                train_problems=3,
                diagnostics_every=0,
                output=folder,
                resume=resume,
                save_every=10,
                sampling=RolloutConfig(max_completion_tokens=120),
                dpo=DpoConfig("online"),
                explanation=ExpoConfig(explanation_refresh_steps=3),
                evaluation=HeldOutConfig(eval_problems=0),
            )
        )
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def test_a_resumed_run_goes_on_with_the_same_pairs(tmp_path: Path) -> None:
    run(tmp_path / "whole", 4)
    run(tmp_path / "broken", 2)
    with (tmp_path / "broken" / "pairs.jsonl").open("a") as file:  # a step that no checkpoint has is cut off
        file.write('{"step": 3, "problem_id": "x"}\n')
    run(tmp_path / "broken", 4, resume=True)
    adapters = [tmp_path / name / "checkpoints/step-000004/adapter_model.safetensors" for name in ("whole", "broken")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")
    files = [(tmp_path / name / "pairs.jsonl").read_text() for name in ("whole", "broken")]
    assert files[0] == files[1]
    used, new = (sum(row[f"pairs/{name}"] for row in metrics(tmp_path / "whole")) for name in ("used", "new"))
    assert used > new == len(files[0].splitlines()) > 0
    assert all(0 <= row["rewards/accuracies"] <= 1 for row in metrics(tmp_path / "whole") if row["pairs/used"])


def test_trl_takes_the_pairs(tmp_path: Path, policy: HfPolicy) -> None:
    pair = Pair(PROBLEM, (1,), tuple(policy.tokenizer.encode("\\boxed{21}")), (7, 8), 0.0, 0.0)
    rows = pair_rows(policy, [pair] * 4, step=1)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from expo_lite.settings.models import TINY

    dataset: Any = load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    auto: Any = AutoModelForCausalLM
    arguments: Any = DPOConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=2,
        report_to=[],
        bf16=False,
        use_cpu=True,
    )
    trainer: Any = DPOTrainer(
        model=auto.from_pretrained(TINY.source),
        args=arguments,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(TINY.source),
    )
    # its loss needs a GPU: what is looked at is what the loss would be given, chosen ones first
    batch = next(iter(trainer.get_train_dataloader()))
    texts = policy.tokenizer.batch_decode(batch["input_ids"])
    prompt = policy.tokenizer.decode(encode_question(policy.tokenizer, PROBLEM))
    assert [text.startswith(prompt) for text in texts] == [True] * 4
    wanted = [policy.tokenizer.decode(ids) for ids in (pair.chosen_ids, pair.rejected_ids)]
    assert [text.removeprefix(prompt).split("<|im_end|>")[0] for text in texts] == [wanted[0]] * 2 + [wanted[1]] * 2
