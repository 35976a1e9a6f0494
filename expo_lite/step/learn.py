"""One update: weighted rows in, a changed adapter and metrics out.

With one update a batch the old log-probabilities are the new ones, detached; with more they are kept from the first
pass. The same scorer makes old, new and reference values.

Where the model computes in fp16 (a GPU before Ampere), `torch.amp.GradScaler` scales the loss up: a token's share of it
is below what fp16 can hold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from expo_lite.errors import DivergedError
from expo_lite.memory.limits import Limits
from expo_lite.objectives import grpo_loss, js_divergence, sampler_correction, scheduled, sft_loss, shaped_loss
from expo_lite.policy.base import Policy
from expo_lite.policy.batching import MicroBatch, Row, micro_batches
from expo_lite.settings.train import RunConfig
from expo_lite.step.pairs import dpo_metrics, preferences

MAX_GRAD_NORM = 1.0
"""Gradients with a larger norm are scaled down to it."""
MOST_CORRECTION = 2.0
"""The largest weight of the sampler correction, which bounds what one token can do (TRL has the same)."""


def make_optimizer(policy: Policy, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over the adapter, without weight decay."""
    return torch.optim.AdamW(policy.parameters().values(), lr=config.optimizer.learning_rate, weight_decay=0.0)


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of a step counted from 0: up in a line over the warmup, then as scheduled."""
    warmup = config.optimizer.warmup_steps
    if step < warmup:
        return config.optimizer.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(config.steps - warmup, 1)
    return scheduled(config.optimizer.learning_rate, schedule=config.optimizer.lr_schedule, progress=min(progress, 1.0))


@dataclass(slots=True)
class Totals:
    """Sums over the micro-batches of one pass; tensors, so that a GPU is not made to wait for each."""

    loss: torch.Tensor
    kl_nats: torch.Tensor
    n_clipped: torch.Tensor
    sft_nats: torch.Tensor
    correction: torch.Tensor
    """Sum of the sampler correction's weights, and below it how many were cut at the largest one."""
    n_cut: torch.Tensor
    divergence: torch.Tensor
    n_soft_tokens: int = 0
    n_corrected_tokens: int = 0
    n_policy_tokens: int = 0
    n_kl_tokens: int = 0
    n_sft_tokens: int = 0
    n_tokens: int = 0
    old_logprobs: dict[int, torch.Tensor] = field(default_factory=dict)
    """Log-probabilities by row, so that they outlast another split into micro-batches."""

    @classmethod
    def zero(cls, device: torch.device) -> "Totals":
        """Nothing summed yet."""
        return cls(*torch.zeros(7, device=device))

    def metrics(self) -> dict[str, float]:
        """Means over the tokens that each sum was taken over."""
        sums = {
            "clip_ratio/region_mean": (self.n_clipped, self.n_policy_tokens),
            "kl": (self.kl_nats, self.n_kl_tokens),
            "sampling/importance_sampling_ratio/mean": (self.correction, self.n_corrected_tokens),
            "sampling/importance_sampling_ratio/cut": (self.n_cut, self.n_corrected_tokens),
            "expo/sft_loss": (self.sft_nats, self.n_sft_tokens),
            "expo/divergence": (self.divergence, self.n_soft_tokens),
        }
        means = {name: float(total) / n for name, (total, n) in sums.items() if n}
        return {"update/n_tokens": float(self.n_tokens)} | means


def learn(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    config: RunConfig,
    *,
    step: int,
    last_good: str,
    limits: Limits | None = None,
) -> dict[str, float]:
    """Take `updates_per_batch` optimiser steps on the rows.

    Rows without a gradient cost nothing. Where no row has one, the adapter and the optimiser stay as they are.

    Returns:
        Metrics of the last pass; those of pairs (`dpo_metrics`) and the sampler's difference are of the first.

    Raises:
        DivergedError: a loss or gradient is not finite; the adapter has not been changed by it.
        ModelError: the memory does not hold a single row's pass; the adapter has not been changed by it.
    """
    useful = [row for row in rows if row.has_gradient]
    rate = learning_rate(config, step)
    metrics = {"learning_rate": rate, "update/n_rows": float(len(useful)), "grad_norm": 0.0, "loss": 0.0}
    if not useful:
        return metrics
    for group in optimizer.param_groups:
        group["lr"] = rate
    limits = limits or Limits.of(config)
    shortest = min(row.n_tokens for row in useful)
    one_row = shortest if policy.packs else 2 * shortest - 1  # no two rows fit into so few tokens
    parameters = list(policy.parameters().values())
    old_logprobs: dict[int, torch.Tensor] | None = None

    def whole_pass() -> Totals:
        optimizer.zero_grad(set_to_none=True)  # also what a pass that ran out of memory has accumulated
        tokens, policy.keeps = limits.micro_batch_tokens, limits.keeps
        batches = micro_batches(
            useful, token_budget=tokens, pad_id=policy.pad_id, device=policy.device, packed=policy.packs
        )
        return accumulate(policy, batches, config, old_logprobs)

    for _ in range(config.loss.updates_per_batch):
        totals = limits.updating(whole_pass, one_row=one_row)
        if old_logprobs is None:
            old_logprobs = totals.old_logprobs
            metrics |= logp_difference(useful, old_logprobs)
            if any(row.side for row in useful):
                nats = [old_logprobs[i].sum() for i in range(len(useful))]
                metrics |= dpo_metrics(useful, nats, dpo_beta=config.dpo.dpo_beta)
        policy.scaler.unscale_(optimizer)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
        loss = float(totals.loss)
        too_large = policy.scaler.get_scale() > 1 and not math.isfinite(grad_norm)  # of the scaled loss: tried smaller
        if not math.isfinite(loss) or not (math.isfinite(grad_norm) or too_large):
            optimizer.zero_grad(set_to_none=True)
            raise _diverged(step, loss, grad_norm, last_good)
        policy.scaler.step(optimizer)  # skipped where scaled gradients have overflowed
        policy.scaler.update()
        metrics |= {"grad_norm": 0.0 if too_large else grad_norm, "loss": loss}
    if policy.scaler.is_enabled():
        metrics["update/loss_scale"] = policy.scaler.get_scale()
    optimizer.zero_grad(set_to_none=True)
    return metrics | totals.metrics()


def _diverged(step: int, loss: float, grad_norm: float, last_good: str) -> DivergedError:
    return DivergedError(
        f"Step {step + 1}: the loss is {loss} and the gradient's norm {grad_norm}. The last good checkpoint is "
        f"{last_good}. Lower --learning-rate or --exp-sft-coef and start anew with another --output; resumed, the run "
        "would come to the same."
    )


def logp_difference(rows: Sequence[Row], logprobs: Mapping[int, torch.Tensor]) -> dict[str, float]:
    """The difference between sampler's and scorer's log-probabilities, nats a token: mean and largest.

    It is about 1e-6 in fp32 and 1e-2 in bf16; more means that the sampler has another adapter, model or setting.
    Chains that were sampled after another prompt do not count.
    """
    differences = [
        logprobs[i].cpu() - torch.tensor(row.sampler_logprobs) for i, row in enumerate(rows) if row.sampler_logprobs
    ]
    if not differences:
        return {}
    differences_N = torch.cat(differences).abs()
    return {
        "sampling/logp_difference/mean": float(differences_N.mean()),
        "sampling/logp_difference/max": float(differences_N.max()),
    }


def corrects(policy: Policy, config: RunConfig) -> bool:
    """True if the policy term is weighted for the difference between sampler and scorer."""
    asked = config.loss.sampler_correction
    return not policy.samples_exactly if asked == "auto" else asked == "on"


def _correction(batch: MicroBatch, old_N: torch.Tensor, totals: Totals) -> torch.Tensor:
    """The weight [N] of each token; 1 if the policy has not sampled it itself."""
    pieces = []
    for row, old_T in zip(batch.rows, torch.split(old_N, batch.lengths), strict=True):
        if not (row.sampler_logprobs and row.weight):
            pieces.append(torch.ones_like(old_T))
            continue
        sampler_T = torch.tensor(row.sampler_logprobs, device=old_T.device)
        weights_T = sampler_correction(old_T, sampler_T, most=MOST_CORRECTION)
        totals.correction += weights_T.sum()
        totals.n_cut += (weights_T >= MOST_CORRECTION).sum()
        totals.n_corrected_tokens += len(weights_T)
        pieces.append(weights_T)
    return torch.cat(pieces)


def _scored(policy: Policy, batch: MicroBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities [N] and, if a row has soft labels, the divergence [N] from the teacher's, in one pass."""
    k = max((row.soft.tokens_TK.shape[1] for row in batch.rows if row.soft), default=0)
    if not k:
        return policy.logprobs(batch, temperature=temperature), None
    soft = [
        (row.soft.tokens_TK, row.soft.logprobs_TK) if row.soft
        else (torch.zeros(n, k, dtype=torch.long), torch.zeros(n, k))  # has no weight
        for row, n in zip(batch.rows, batch.lengths, strict=True)
    ]  # fmt: skip
    tokens_NK, teacher_NK = (torch.cat(column).to(policy.device) for column in zip(*soft, strict=True))
    listed = torch.cat([batch.targets_N[:, None], tokens_NK], dim=1)
    _, logprobs = policy.listed_logprobs(batch, listed, temperature=temperature)
    return logprobs[:, 0], js_divergence(logprobs[:, 1:], teacher_NK)


def accumulate(
    policy: Policy, batches: Sequence[MicroBatch], config: RunConfig, old_logprobs: Mapping[int, torch.Tensor] | None
) -> Totals:
    """One pass over the micro-batches: scaled gradients are summed into the adapter, nothing is divided."""
    totals = Totals.zero(policy.device)
    loss_config, temperature = config.loss, config.sampling.temperature
    for batch in batches:
        ref_logprobs_N = None
        if any(row.kl_weight for row in batch.rows):
            with policy.reference():
                ref_logprobs_N = policy.logprobs(batch, temperature=temperature, gradient=False)
        logprobs_N, divergence_N = _scored(policy, batch, temperature)
        pieces = torch.split(logprobs_N.detach(), batch.lengths)
        totals.old_logprobs |= dict(zip(batch.indices, pieces, strict=True))
        old_N = logprobs_N.detach() if old_logprobs is None else torch.cat([old_logprobs[i] for i in batch.indices])
        weights_N = batch.weights_N
        if corrects(policy, config):
            weights_N = weights_N * _correction(batch, old_N, totals)
        terms = grpo_loss(
            logprobs_N,
            old_N,
            ref_logprobs_N,
            batch.advantages_N,
            weights_N,
            batch.kl_weights_N,
            clip_low=loss_config.clip_low,
            clip_high=loss_config.clip_high,
            kl_coef=loss_config.kl_coef,
        )
        loss = terms.loss + sft_loss(logprobs_N, batch.sft_weights_N)
        if any(row.shaped_weight for row in batch.rows):
            loss = loss + shaped_loss(logprobs_N, batch.shaped_weights_N)
        if divergence_N is not None:
            loss = loss + (batch.soft_weights_N * divergence_N).sum()
            totals.divergence += divergence_N.detach().where(batch.soft_weights_N > 0, 0.0).sum()
            totals.n_soft_tokens += int((batch.soft_weights_N > 0).sum())
        if any(row.side for row in batch.rows):
            nats = [logprobs_T.sum() for logprobs_T in torch.split(logprobs_N, batch.lengths)]
            loss = loss + preferences(batch.rows, nats, dpo_beta=config.dpo.dpo_beta).loss
        policy.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        imitated_N = batch.sft_weights_N > 0
        totals.loss += loss.detach()
        totals.kl_nats += terms.kl_nats
        totals.n_clipped += terms.n_clipped
        totals.sft_nats -= logprobs_N.detach().where(imitated_N, 0.0).sum()
        totals.n_sft_tokens += sum(len(row.completion_ids) for row in batch.rows if row.sft_weight > 0)
        totals.n_policy_tokens += sum(len(row.completion_ids) for row in batch.rows if row.weight)
        totals.n_kl_tokens += sum(len(row.completion_ids) for row in batch.rows if row.kl_weight)
        totals.n_tokens += sum(row.n_tokens for row in batch.rows)
        # what is left of the graph holds hidden states: not beside the next micro-batch
        del logprobs_N, divergence_N, terms, loss
    return totals
