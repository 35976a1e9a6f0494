"""The mathematics: by hand, against TRL on the same tensors, and under attack."""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expo_lite.objectives import (
    ADVANTAGE_EPSILON,
    confidence_advantages,
    dpo_terms,
    group_advantages,
    grpo_loss,
    inserted_advantages,
    js_divergence,
    kl_divergence,
    listed_logprobs,
    sampler_correction,
    scheduled,
    sft_loss,
    shaped_loss,
    token_weights,
)

LOW, HIGH = 0.2, 0.28


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    # mean 1/4; deviation over n-1: sqrt((9/16 + 3/16) / 3) = 1/2
    got = group_advantages(rewards, scale="group")
    expected = torch.tensor([0.75, -0.25, -0.25, -0.25]) / (0.5 + ADVANTAGE_EPSILON)
    torch.testing.assert_close(got[0], expected)
    assert torch.equal(got[1:], torch.zeros(2, 4))
    torch.testing.assert_close(group_advantages(rewards, scale="none")[0], torch.tensor([0.75, -0.25, -0.25, -0.25]))
    # five ones of twelve: mean 5/12, squares 5 * (7/12)^2 + 7 * (5/12)^2 = 35/12, over 11
    batch = group_advantages(rewards, scale="batch")[0, 0]
    torch.testing.assert_close(batch, torch.tensor(0.75 / (math.sqrt(35 / 12 / 11) + ADVANTAGE_EPSILON)))


def test_a_dead_group_has_exactly_no_advantage_whatever_the_rounding() -> None:
    rewards = torch.full((2, 7), 0.1)  # the mean of seven 0.1 is not 0.1 in fp32
    for scale in ("group", "batch", "none"):
        assert torch.equal(group_advantages(rewards, scale=scale), torch.zeros(2, 7))


def test_token_weights_by_hand() -> None:
    lengths = torch.tensor([1, 3])
    torch.testing.assert_close(
        token_weights(lengths, normalisation="sequence", max_completion_tokens=9), torch.tensor([1 / 2, 1 / 6])
    )
    torch.testing.assert_close(
        token_weights(lengths, normalisation="token", max_completion_tokens=9), torch.tensor([1 / 4, 1 / 4])
    )
    torch.testing.assert_close(
        token_weights(lengths, normalisation="dr_grpo", max_completion_tokens=9), torch.tensor([1 / 18, 1 / 18])
    )


def test_clipping_by_hand() -> None:
    # ratios 2 and 1/2, with advantages of either sign
    new = torch.log(torch.tensor([2.0, 2.0, 0.5, 0.5]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    ones, zeros = torch.ones(4), torch.zeros(4)
    terms = grpo_loss(new, zeros, None, advantages, ones, zeros, clip_low=LOW, clip_high=HIGH, kl_coef=0.0)
    # min(2, 1.28) + min(-2, -1.28) + min(0.5, 0.8) + min(-0.5, -0.8)
    torch.testing.assert_close(terms.loss, torch.tensor(-(1.28 - 2.0 + 0.5 - 0.8)))
    assert terms.n_clipped == 2  # raised far enough, lowered far enough


def test_tokens_outside_the_policy_term_cannot_overflow_it() -> None:
    new, old = torch.tensor([-5.0, -1.0], requires_grad=True), torch.tensor([-100.0, -1.0])  # e to the 95th
    terms = grpo_loss(
        new, old, None, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]), torch.zeros(2),
        clip_low=LOW, clip_high=HIGH, kl_coef=0.0,
    )  # fmt: skip
    terms.loss.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert (terms.loss.item(), new.grad.tolist()) == (-0.5, [0.0, -0.5])


def test_kl_by_hand() -> None:
    # log ratios 0, ln 2 and -ln 2: 0, 2 - ln 2 - 1, and 1/2 + ln 2 - 1
    found = kl_divergence(torch.log(torch.tensor([0.5, 0.25, 0.5])), torch.log(torch.tensor([0.5, 0.5, 0.25])))
    torch.testing.assert_close(found, torch.tensor([0.0, 1 - math.log(2), math.log(2) - 0.5]))


def test_the_supervised_term_is_a_weighted_nll() -> None:
    logprobs = torch.tensor([-1.0, -3.0], requires_grad=True)
    loss = sft_loss(logprobs, torch.tensor([0.5, 0.25]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.5 + 0.75)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([-0.5, -0.25]))


def test_an_inserted_member_is_measured_by_the_others() -> None:
    rewards = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    got = inserted_advantages(rewards, scale="group")
    # 1 over a deviation that counts as 1; 3/4 over 1/2; 0
    torch.testing.assert_close(got, torch.tensor([1.0, 0.75 / (0.5 + ADVANTAGE_EPSILON), 0.0]))
    torch.testing.assert_close(inserted_advantages(rewards, scale="none"), torch.tensor([1.0, 0.75, 0.0]))
    assert inserted_advantages(torch.zeros(2, 4), scale="batch").tolist() == pytest.approx([1.0, 1.0])


def test_the_shaped_term_by_hand() -> None:
    logprobs = torch.log(torch.tensor([0.1, 0.9, 0.001])).requires_grad_()
    loss = shaped_loss(logprobs, torch.tensor([2.0, 1.0, 1.0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(-(2 * 0.5 + 0.9 + 0.001 / 0.101))
    assert logprobs.grad is not None
    # 0.1 p / (p + 0.1)^2 times the weight
    torch.testing.assert_close(logprobs.grad, -torch.tensor([2 * 0.25, 0.09, 0.0001 / 0.101**2]))


def test_confident_mistakes_are_the_worst_by_hand() -> None:
    # p = 0.4 and 0.2, D = 0.8: rewards -1/2 * 0.4/0.4 and -1/2 * 0.2/0.6; the mean is -1/3
    got = confidence_advantages(torch.log(torch.tensor([0.4, 0.2])))
    torch.testing.assert_close(got, torch.tensor([-1 / 2 + 1 / 3, -1 / 6 + 1 / 3]))
    assert torch.equal(confidence_advantages(torch.full((8,), -0.3)), torch.zeros(8))
    extreme = confidence_advantages(torch.tensor([-900.0, -0.1, -1000.0]))  # exp(-900) is no fp32 number
    assert extreme.isfinite().all()
    assert extreme.sum().abs() < 1e-7


def test_the_divergence_by_hand() -> None:
    """Two tokens and the rest as one: S = (1/2, 1/4, 1/4) and T = (1/4, 1/4, 1/2)."""
    student = torch.log(torch.tensor([[0.5, 0.25], [0.5, 0.25]])).requires_grad_()
    got = js_divergence(student, torch.log(torch.tensor([[0.25, 0.25], [0.5, 0.25]])))
    # the middle is (3/8, 1/4, 3/8): both sides give 1/2 ln 4/3 + 1/4 ln 2/3
    torch.testing.assert_close(got, torch.tensor([0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3), 0.0]))
    (gradient,) = torch.autograd.grad(got.sum(), student)
    assert gradient[0, 0] > 0  # the token that the teacher finds less probable
    assert gradient[1].abs().max() < 1e-6
    whole = js_divergence(torch.tensor([[0.0, -100.0]]), torch.tensor([[-100.0, 0.0]]))  # nothing in common, no rest
    assert whole.item() == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_listed_logprobs_are_those_of_all_logits(chunk: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 6, generator=generator, requires_grad=True)
    head = torch.randn(20, 6, generator=generator)
    tokens = torch.randint(0, 20, (7, 4), generator=generator)
    all_logprobs = torch.log_softmax(hidden @ head.T / 0.7, dim=-1)
    listed, logprobs = listed_logprobs(hidden, tokens, head, temperature=0.7, chunk_tokens=chunk)
    assert torch.equal(listed, tokens)
    torch.testing.assert_close(logprobs, all_logprobs.gather(1, tokens))
    ours, theirs = (
        torch.autograd.grad(x.square().sum(), hidden)[0] for x in (logprobs, all_logprobs.gather(1, tokens))
    )
    torch.testing.assert_close(ours, theirs)
    bias = torch.linspace(-1, 1, 20)
    capped = torch.log_softmax(2 * torch.tanh((hidden @ head.T + bias) / 2) / 0.7, dim=-1).gather(1, tokens)
    _, logprobs = listed_logprobs(hidden, tokens, head, temperature=0.7, bias_V=bias, cap=2.0, chunk_tokens=chunk)
    torch.testing.assert_close(logprobs, capped)
    best, logprobs = listed_logprobs(hidden, 4, head, temperature=0.7, chunk_tokens=chunk)
    assert torch.equal(best, torch.log_softmax(hidden @ head.T, dim=-1).topk(4).indices)
    torch.testing.assert_close(logprobs, torch.log_softmax(hidden @ head.T / 0.7, dim=-1).topk(4).values)


def test_dpo_by_hand() -> None:
    # rewards 0.5 * (-2 + 4) = 1 and 0.5 * (-3 + 3) = 0: margin 1; then 0 and 0.5 * (-1 + 5) = 2: margin -2
    columns = torch.tensor([[-2.0, -3.0, -4.0, -3.0], [-7.0, -1.0, -7.0, -5.0]]).T
    columns.requires_grad_()
    chosen, rejected, ref_chosen, ref_rejected = columns
    halves = torch.tensor([0.5, 0.5])
    terms = dpo_terms(chosen, rejected, ref_chosen, ref_rejected, halves, dpo_beta=0.5)
    torch.testing.assert_close(terms.chosen_rewards_K, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(terms.rejected_rewards_K, torch.tensor([0.0, 2.0]))
    # mean of log(1 + e^-1) and log(1 + e^2)
    assert terms.loss.item() == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2)
    # by the chosen ones' nats: -0.5 / 2 times 1 / (1 + e^1) and 1 / (1 + e^-2)
    (gradient,) = torch.autograd.grad(terms.loss, columns)
    expected = -0.25 / (1 + torch.exp(torch.tensor([1.0, -2.0])))
    torch.testing.assert_close(gradient[:2], torch.stack([expected, -expected]))


@pytest.mark.parametrize(("schedule", "half"), [("constant", 4.0), ("linear", 2.0), ("cosine", 2.0)])
def test_schedules(schedule: str, half: float) -> None:
    assert scheduled(4.0, schedule=schedule, progress=0.0) == pytest.approx(4.0)
    assert scheduled(4.0, schedule=schedule, progress=0.5) == pytest.approx(half)
    assert scheduled(4.0, schedule=schedule, progress=1.0) == pytest.approx(4.0 if schedule == "constant" else 0.0)


# --- TRL on the same tensors -------------------------------------------------------------------------------------

P, G, T, MAX_TOKENS = 3, 4, 11, 16
NORMALISATION = {"grpo": "sequence", "dapo": "token", "dr_grpo": "dr_grpo"}


def trl_loss(loss_type: str, kl_coef: float, logps: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """TRL's own `_compute_loss`, given its log-probabilities instead of a model."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_a, **_k: (logps, torch.zeros_like(logps), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=kl_coef,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        epsilon_low=LOW,
        epsilon_high=HIGH,
        loss_type=loss_type,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        max_completion_length=MAX_TOKENS,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    compute_loss: Any = GRPOTrainer._compute_loss
    loss: torch.Tensor = compute_loss(trainer, SimpleNamespace(training=True), inputs)
    return loss


@pytest.mark.parametrize("loss_type", NORMALISATION)
def test_loss_and_gradient_equal_trl(loss_type: str) -> None:
    kl_coef = 0.1
    generator = torch.Generator().manual_seed(3)

    def noise(scale: float) -> torch.Tensor:
        return torch.randn(P * G, T, generator=generator) * scale

    lengths = torch.randint(1, T + 1, (P * G,), generator=generator)
    mask = torch.arange(T) < lengths[:, None]
    logps = -noise(1.0).abs()
    old, ref = logps + noise(0.3), logps + noise(0.3)
    rewards = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    centred = rewards - rewards.mean(1, keepdim=True)
    advantages = (centred / (rewards.std(1, keepdim=True) + 1e-4)).flatten()  # as TRL's scale_rewards="group"

    theirs_logps = logps.clone().requires_grad_()
    theirs = trl_loss(
        loss_type,
        kl_coef,
        theirs_logps,
        {
            "prompt_ids": torch.zeros(P * G, 1, dtype=torch.long),
            "prompt_mask": torch.ones(P * G, 1, dtype=torch.long),
            "completion_ids": torch.zeros(P * G, T, dtype=torch.long),
            "completion_mask": mask.long(),
            "advantages": advantages,
            "old_per_token_logps": old,
            "ref_per_token_logps": ref,
            "num_items_in_batch": mask.sum(),
        },
    )
    theirs.backward()  # type: ignore[no-untyped-call]

    ours_logps = logps.clone().requires_grad_()
    weights = token_weights(lengths, normalisation=NORMALISATION[loss_type], max_completion_tokens=MAX_TOKENS)
    weights_N = weights[:, None].expand(-1, T)[mask]
    ours = grpo_loss(
        ours_logps[mask],
        old[mask],
        ref[mask],
        group_advantages(rewards, scale="group").flatten()[:, None].expand(-1, T)[mask],
        weights_N,
        weights_N,
        clip_low=LOW,
        clip_high=HIGH,
        kl_coef=kl_coef,
    ).loss
    ours.backward()  # type: ignore[no-untyped-call]

    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert ours_logps.grad is not None
    assert theirs_logps.grad is not None
    torch.testing.assert_close(ours_logps.grad, theirs_logps.grad, atol=1e-5, rtol=1e-5)
    assert theirs_logps.grad.abs().sum() > 0


def test_a_wrong_sampler_is_made_good_in_expectation() -> None:
    """Over all four tokens, each as often as the wrong sampler takes it: weighted, the gradient is the exact one."""
    logits_V = torch.tensor([0.5, -0.3, 1.0, 0.1], requires_grad=True)
    sampler_V = torch.softmax(torch.tensor([0.9, -0.8, 0.7, 0.4]), 0)  # what a wrong adapter would sample from
    advantages_V = torch.tensor([1.0, -1.0, 0.5, -0.5])

    def gradient(taken_V: torch.Tensor, correction_V: torch.Tensor) -> torch.Tensor:
        logprobs_V = torch.log_softmax(logits_V, 0)
        none_V = torch.zeros(4)
        terms = grpo_loss(
            logprobs_V, logprobs_V.detach(), None, advantages_V, taken_V * correction_V, none_V,
            clip_low=0.2, clip_high=0.2, kl_coef=0.0,
        )  # fmt: skip
        return torch.autograd.grad(terms.loss, logits_V)[0]

    policy_V = torch.softmax(logits_V, 0).detach()
    exact = gradient(policy_V, torch.ones(4))
    uncorrected = gradient(sampler_V, torch.ones(4))
    wide, narrow = (sampler_correction(policy_V.log(), sampler_V.log(), most=most) for most in (10.0, 1.2))
    torch.testing.assert_close(gradient(sampler_V, wide), exact)
    assert (wide > 1.2).any()
    assert (gradient(sampler_V, narrow) - exact).norm() < (uncorrected - exact).norm()
    assert (uncorrected - exact).norm() > 0.1 * exact.norm()
