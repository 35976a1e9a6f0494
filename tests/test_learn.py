"""One update on the tiny model: by hand, free where there is nothing to learn, harmless where it fails."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from shaken import shaken

from expo_lite.errors import DivergedError
from expo_lite.objectives import grpo_loss, js_divergence, sft_loss
from expo_lite.policy.batching import MicroBatch, Row, SoftLabels, micro_batches
from expo_lite.policy.hf import HfPolicy
from expo_lite.policy.scoring import score_rows
from expo_lite.settings.groups import LossConfig, OptimizerConfig, PolicyConfig
from expo_lite.settings.train import RunConfig, TrainConfig, resolve
from expo_lite.step import learn as module
from expo_lite.step.learn import accumulate, corrects, learn, learning_rate, make_optimizer

CONFIG = resolve(TrainConfig(model="tiny", steps=10, optimizer=OptimizerConfig(warmup_steps=0, learning_rate=0.01)))


class CountingPolicy(HfPolicy):
    """The tiny model, and how often it has been asked to score."""

    n_scored = 0

    def logprobs(self, batch: MicroBatch, *, temperature: float, gradient: bool = True) -> torch.Tensor:
        self.n_scored += 1
        return super().logprobs(batch, temperature=temperature, gradient=gradient)


@pytest.fixture
def policy() -> CountingPolicy:
    return shaken(CountingPolicy("tiny", CONFIG.policy, seed=0), 0.02, seed=1, only_b=True)


def rows(n: int = 7, **changes: Any) -> list[Row]:
    """Completions of all lengths, each with a policy term, some with the other terms."""
    generator = torch.Generator().manual_seed(2)
    made = []
    for i in range(n):
        ids = torch.randint(3, 300, (20 + 3 * i,), generator=generator).tolist()
        sft_weight = 0.02 if i % 3 == 0 else 0.0
        row = Row(tuple(ids[:8]), tuple(ids[8:]), 1.0 - 0.4 * i, 0.01 / (i + 1), 0.0, sft_weight)
        made.append(dataclasses.replace(row, **changes))
    return made


def adapter(policy: HfPolicy) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.parameters().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def update(policy: HfPolicy, rows: Sequence[Row], config: RunConfig = CONFIG, **kwargs: Any) -> dict[str, float]:
    optimizer = kwargs.pop("optimizer", None) or make_optimizer(policy, config)
    return learn(policy, optimizer, rows, config, step=3, last_good="'step-000003'", **kwargs)


def with_loss(**values: Any) -> RunConfig:
    return dataclasses.replace(CONFIG, loss=LossConfig(**values))


def test_learning_rates_by_hand() -> None:
    settings = OptimizerConfig(learning_rate=0.8, warmup_steps=4, lr_schedule="linear")
    config = resolve(TrainConfig(model="tiny", steps=12, optimizer=settings))
    rates = [learning_rate(config, step) for step in range(13)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates[8] == pytest.approx(0.4)
    assert rates[12] == 0.0
    short = dataclasses.replace(config, steps=2)  # the warmup alone is longer than the run
    assert [learning_rate(short, step) for step in (0, 1, 5)] == pytest.approx([0.2, 0.4, 0.0])


def test_the_optimizer_sees_the_adapter_and_nothing_else(policy: CountingPolicy) -> None:
    (group,) = make_optimizer(policy, CONFIG).param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in policy.parameters().values()}
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.0)


def test_rows_without_a_gradient_cost_nothing(policy: CountingPolicy) -> None:
    """No forward pass, no backward pass, no step."""
    optimizer, before = make_optimizer(policy, CONFIG), adapter(policy)
    metrics = update(policy, rows(3, advantage=0.0, sft_weight=0.0), optimizer=optimizer)
    assert policy.n_scored == 0
    assert same(before, adapter(policy))
    assert optimizer.state == {}
    assert metrics == {"learning_rate": 0.01, "update/n_rows": 0.0, "grad_norm": 0.0, "loss": 0.0}


def mixed_rows() -> list[Row]:
    """Rows as of `rows`, some with an advantage a token, some shaped, some with soft labels."""
    generator, mixed = torch.Generator().manual_seed(4), rows()
    for i, row in enumerate(mixed):
        n = len(row.completion_ids)
        changes: tuple[dict[str, Any], ...] = (
            {"token_advantages": tuple(torch.randn(n, generator=generator).tolist())},
            {"shaped_weight": 0.03, "weight": 0.0},
            {"soft_weight": 0.02, "soft": SoftLabels(
                torch.stack([torch.randperm(300, generator=generator)[:5] for _ in range(n)]),
                torch.log_softmax(torch.randn(n, 6, generator=generator), dim=1)[:, :5],
            )},
        )  # fmt: skip
        mixed[i] = dataclasses.replace(row, **changes[i % 3])
    return mixed


def test_an_advantage_a_token_by_hand(policy: CountingPolicy) -> None:
    """All equal, it is the advantage of the completion; one token's alone is that token's gradient, and they add up."""
    (plain,) = rows(1, sft_weight=0.0)
    n, unset = len(plain.completion_ids), dataclasses.replace(plain, advantage=123.0)

    def of(*advantages: float) -> torch.Tensor:
        return gradient(policy, in_batches(policy, [dataclasses.replace(unset, token_advantages=advantages)]))

    assert torch.equal(of(*[plain.advantage] * n), gradient(policy, in_batches(policy, [plain])))
    first, last = of(2.0, *[0.0] * (n - 1)), of(*[0.0] * (n - 1), -1.0)
    torch.testing.assert_close(of(2.0, *[0.0] * (n - 2), -1.0), first + last, atol=1e-7, rtol=1e-4)
    batch = in_batches(policy, [plain])[0]
    for parameter in policy.parameters().values():
        parameter.grad = None
    (-plain.weight * 2.0 * policy.logprobs(batch, temperature=1.0)[0]).backward()  # type: ignore[no-untyped-call]
    by_hand = torch.cat([p.grad.flatten() for p in policy.parameters().values() if p.grad is not None])
    torch.testing.assert_close(first, by_hand, atol=1e-7, rtol=1e-4)
    assert not dataclasses.replace(unset, token_advantages=(0.0,) * n).has_gradient


def test_soft_labels_in_one_pass_with_other_rows(policy: CountingPolicy) -> None:
    """Their term is the weighted divergence; the others' gradient stays what it is without them."""
    mixed = mixed_rows()
    soft = [dataclasses.replace(row, weight=0.0, sft_weight=0.0) for row in mixed if row.soft]
    others = [row for row in mixed if not row.soft]
    apart = gradient(policy, in_batches(policy, soft)) + gradient(policy, in_batches(policy, others))
    torch.testing.assert_close(gradient(policy, in_batches(policy, soft + others)), apart, atol=1e-6, rtol=1e-3)
    (batch,) = micro_batches(soft, token_budget=100_000, pad_id=policy.pad_id, packed=policy.packs)
    labels = [row.soft for row in batch.rows if row.soft]
    tokens, teacher = (torch.cat([getattr(x, name) for x in labels]) for name in ("tokens_TK", "logprobs_TK"))
    _, student = policy.listed_logprobs(batch, tokens, temperature=1.0)
    divergence = js_divergence(student, teacher)
    metrics = update(policy, soft)
    assert metrics["loss"] == pytest.approx(0.02 * divergence.sum().item(), rel=1e-4)
    assert metrics["expo/divergence"] == pytest.approx(divergence.mean().item(), rel=1e-4)


def test_padded_rows_learn_what_packed_ones_do(policy: CountingPolicy) -> None:
    """Advantages a token, shaped terms and soft labels, as models that cannot take packed rows get them."""
    assert policy.packs
    padded = micro_batches(mixed_rows(), token_budget=200, pad_id=policy.pad_id, packed=False)
    assert len(padded) > 1
    packed = gradient(policy, in_batches(policy, mixed_rows()))
    torch.testing.assert_close(gradient(policy, padded), packed, atol=1e-6, rtol=1e-3)


def _copy(source: HfPolicy, target: HfPolicy) -> None:
    with torch.no_grad():
        for name, parameter in target.parameters().items():
            parameter.copy_(source.parameters()[name])


def gradient(policy: HfPolicy, batches: Sequence[MicroBatch], config: RunConfig = CONFIG) -> torch.Tensor:
    for parameter in policy.parameters().values():
        parameter.grad = None
    accumulate(policy, batches, config, None)
    return torch.cat([p.grad.flatten() for p in policy.parameters().values() if p.grad is not None])


@pytest.mark.parametrize(
    ("kl_coef", "bits", "tolerance", "made"),
    [(0.5, 16, 1e-6, rows), (0.0, 4, 1e-5, rows), (0.0, 4, 1e-5, mixed_rows)],
)
def test_the_gradient_is_the_same_in_1_2_and_7_micro_batches(
    kl_coef: float, bits: Literal[4, 16], tolerance: float, made: Callable[[], list[Row]]
) -> None:
    """To 1e-6 in double precision; four-bit layers compute in fp32, whose own rounding is some 1e-6."""
    policy = shaken(CountingPolicy("tiny", PolicyConfig(bits=bits), seed=0), 0.02, seed=1, only_b=True)
    if bits == 16:
        policy._peft.double()
    config = with_loss(kl_coef=kl_coef)
    batch = [dataclasses.replace(row, kl_weight=0.01 if kl_coef else 0.0) for row in made()]
    widest = max(row.n_tokens for row in batch)
    gradients = []
    for budget, n in ((100_000, 1), (4 * widest, 2), (1, 7)):
        batches = micro_batches(batch, token_budget=budget, pad_id=policy.pad_id)
        assert len(batches) == n
        gradients.append(gradient(policy, batches, config))
    whole = gradients[0]
    assert whole.norm() > 0
    for split in gradients[1:]:
        assert float((split - whole).norm() / whole.norm()) < tolerance


def test_an_update_by_hand(policy: CountingPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates on one batch are two steps of AdamW, the second against the first one's log-probabilities."""
    batch = micro_batches(rows(), token_budget=100_000, pad_id=policy.pad_id, packed=policy.packs)[0]
    monkeypatch.setattr(module, "MAX_GRAD_NORM", 0.05)
    config = with_loss(updates_per_batch=2, clip_low=0.01, clip_high=0.02)
    other = CountingPolicy("tiny", CONFIG.policy, seed=0)
    _copy(policy, other)
    optimizer, old_N = make_optimizer(other, config), None
    for _ in range(2):
        optimizer.zero_grad()
        logprobs_N = other.logprobs(batch, temperature=1.0)
        old_N = logprobs_N.detach() if old_N is None else old_N
        terms = grpo_loss(
            logprobs_N, old_N, None, batch.advantages_N, batch.weights_N, batch.kl_weights_N,
            clip_low=0.01, clip_high=0.02, kl_coef=0.0,
        )  # fmt: skip
        loss = terms.loss + sft_loss(logprobs_N, batch.sft_weights_N)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(list(other.parameters().values()), 0.05)
        assert norm > 0.05
        optimizer.step()
    metrics = update(policy, rows(), config)
    assert same(adapter(policy), adapter(other))
    assert policy.n_scored == 2
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert metrics["clip_ratio/region_mean"] == pytest.approx(float(terms.n_clipped) / len(batch.targets_N))
    assert metrics["clip_ratio/region_mean"] > 0
    supervised_N = batch.sft_weights_N > 0
    assert metrics["expo/sft_loss"] == pytest.approx(-logprobs_N[supervised_N].mean().item(), rel=1e-5)
    assert metrics["update/n_tokens"] == sum(row.n_tokens for row in rows())


def test_the_reference_is_asked_where_the_kl_counts_alone(policy: CountingPolicy) -> None:
    config = with_loss(kl_coef=0.1)
    metrics = update(policy, rows(3, kl_weight=0.01), config)
    assert policy.n_scored == 2
    assert metrics["kl"] > 0
    update(policy, rows(3), config)
    assert policy.n_scored == 3


def test_the_kl_is_that_of_the_tokens_that_pay_it_however_they_are_split(policy: CountingPolicy) -> None:
    mixed = [*rows(3, kl_weight=0.01), *rows(3, advantage=0.0, weight=0.0, sft_weight=0.01)]
    start, found = adapter(policy), []
    for tokens in (16_384, 60, 1):
        config = with_loss(kl_coef=0.1)
        config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, micro_batch_tokens=tokens))
        found.append(update(policy, mixed, config)["kl"])
        for name, parameter in policy.parameters().items():
            parameter.data.copy_(start[name])
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


def hopeless(kind: str, policy: HfPolicy) -> tuple[list[Row], Any]:
    """Rows that give a loss or a gradient that is no number, and a hook to take away again."""
    if kind == "loss":
        return [*rows(3), *rows(1, sft_weight=float("inf"))], None
    last: Any = list(policy.parameters().values())[-1]
    return rows(3), last.register_hook(lambda grad: grad * float("inf"))


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_loss_that_is_no_number_leaves_the_adapter_as_it_was(kind: str, policy: CountingPolicy) -> None:
    optimizer = make_optimizer(policy, CONFIG)
    update(policy, rows(), optimizer=optimizer)
    before = adapter(policy)
    state = {key: value.clone() for p in optimizer.state.values() for key, value in p.items()}
    bad, hook = hopeless(kind, policy)
    with pytest.raises(DivergedError, match=r"Step 4: .*(inf|nan).* last good checkpoint is 'step-000003'"):
        update(policy, bad, optimizer=optimizer)
    assert same(before, adapter(policy))
    assert same(state, {key: value for p in optimizer.state.values() for key, value in p.items()})
    assert all(parameter.grad is None for parameter in policy.parameters().values())
    if hook:
        hook.remove()
    update(policy, rows(), optimizer=optimizer)  # and it can be trained on
    assert all(bool(p.isfinite().all()) for p in policy.parameters().values())
    assert not same(before, adapter(policy))


def in_fp16(monkeypatch: pytest.MonkeyPatch) -> HfPolicy:
    """The model as a Turing card would compute it; sixteen bits, for bitsandbytes has no such kernel on a CPU."""
    monkeypatch.setattr("expo_lite.policy.load.compute_type", lambda device: torch.float16)
    monkeypatch.setattr("expo_lite.policy.hf.use_lean_projections", lambda model: None)  # they are for fp32
    sixteen = dataclasses.replace(CONFIG.policy, bits=16)
    return shaken(HfPolicy("tiny", sixteen, seed=0), 0.02, seed=1, only_b=True)


def test_an_fp16_model_gets_the_gradient_of_the_fp32_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens weigh 1e-6 of the loss, as in a batch of 128 long completions: fp16 itself holds nothing below 6e-8."""
    sixteen = dataclasses.replace(CONFIG.policy, bits=16)
    exact = shaken(HfPolicy("tiny", sixteen, seed=0), 0.02, seed=1, only_b=True)
    half, light = in_fp16(monkeypatch), rows(weight=1e-6, sft_weight=0.0)
    assert (exact.scaler.is_enabled(), half.scaler.is_enabled()) == (False, True)
    config = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, learning_rate=1e-30))
    found = [update(policy, light, config)["grad_norm"] for policy in (exact, half)]
    assert found[1] == pytest.approx(found[0], rel=0.01)
    half.scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert update(half, light, config)["grad_norm"] < 0.9 * found[0]


def test_a_scale_that_overflows_costs_a_step_and_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    half = in_fp16(monkeypatch)
    half.scaler = torch.amp.GradScaler("cpu", 2.0**40, backoff_factor=2.0**-8)
    light, before = rows(weight=1e-6, sft_weight=0.0), adapter(half)
    skipped = update(half, light)
    assert (skipped["grad_norm"], skipped["update/loss_scale"]) == (0.0, 2.0**32)
    assert same(before, adapter(half))
    assert update(half, light)["grad_norm"] > 0
    assert not same(before, adapter(half))
    half.scaler = torch.amp.GradScaler("cpu", 1.0)  # nothing left to lower
    with pytest.raises(DivergedError):
        update(half, rows(3, advantage=float("inf")))


def in_batches(policy: HfPolicy, learned: Sequence[Row]) -> list[MicroBatch]:
    return micro_batches(learned, token_budget=100, pad_id=policy.pad_id, packed=policy.packs)


def test_the_sampler_correction_weighs_tokens_by_hand(policy: CountingPolicy) -> None:
    """The sampler says ln 2 more of every token: half the weight. ln 4 less: four times, cut to twice."""
    plain = rows(3, sft_weight=0.0, kl_weight=0.0)
    scored = [s.detach() for s in score_rows(policy, plain, temperature=1.0, token_budget=100)]

    def sampled(shift: float) -> list[Row]:
        logprobs = [tuple((s + shift).tolist()) for s in scored]
        return [dataclasses.replace(row, sampler_logprobs=own) for row, own in zip(plain, logprobs, strict=True)]

    exact = gradient(policy, in_batches(policy, plain))
    still = torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # moves nothing of the policy
    on = with_loss(sampler_correction="on")
    for shift, factor, cut in ((math.log(2), 0.5, 0.0), (0.0, 1.0, 0.0), (-math.log(4), 2.0, 1.0)):
        torch.testing.assert_close(
            gradient(policy, in_batches(policy, sampled(shift)), on), factor * exact, rtol=1e-3, atol=1e-7
        )
        assert torch.equal(gradient(policy, in_batches(policy, sampled(shift))), exact)  # auto: fp32 on a CPU
        off = update(policy, sampled(shift), optimizer=still)
        assert not any(name.startswith("sampling/importance") for name in off)
        logged = update(policy, sampled(shift), on, optimizer=still)
        assert logged["sampling/importance_sampling_ratio/mean"] == pytest.approx(factor, rel=1e-3)
        assert logged["sampling/importance_sampling_ratio/cut"] == cut
    # a chain that was sampled after another prompt has no sampler's values, and keeps its weight
    chain = dataclasses.replace(plain[0], weight=0.0, advantage=0.0, sft_weight=0.1)
    chains = in_batches(policy, [chain])
    assert torch.equal(gradient(policy, chains, on), gradient(policy, chains))


def test_a_policy_in_sixteen_bits_is_corrected(policy: CountingPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert policy.samples_exactly
    assert not corrects(policy, CONFIG)
    monkeypatch.setattr(policy, "samples_exactly", False)
    assert corrects(policy, CONFIG)
    assert not corrects(policy, with_loss(sampler_correction="off"))
