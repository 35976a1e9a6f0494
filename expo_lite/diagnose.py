"""Whether explanations are good positives: probable under the plain prompt, and of use for the answer.

Own chains, explanations and expert chains are compared on the same problems: negative log-likelihood a token (nats), and the
answer lift log pi(a*|q, c) - log pi(a*|q).
"""

from collections.abc import Sequence

from expo_lite.batching import Row
from expo_lite.explain import answer_lifts, encode_target
from expo_lite.metrics import mean
from expo_lite.policy.base import Policy
from expo_lite.policy.scoring import score_rows
from expo_lite.prompts import encode_question
from expo_lite.records import Explanation, Group


def diagnose(
    policy: Policy, groups: Sequence[Group], explanations: Sequence[Explanation], *, token_budget: int
) -> dict[str, float]:
    """Mean NLL a token of own, explanation and expert chains under the plain prompt, and the mean lift of the first two.

    One own chain a problem is scored, and only explanations that were accepted; a kind that is absent has no entry.
    """
    own = [(group.problem, group.completions[0]) for group in groups]
    accepted = [explanation for explanation in explanations if explanation.accepted]
    with_expert = [group.problem for group in groups if group.problem.expert_chain]
    rows = {
        "expo/nll_own": [Row(completion.prompt_ids, completion.token_ids) for _, completion in own],
        "expo/nll_explanation": [Row(explanation.prompt_ids, explanation.target_ids) for explanation in accepted],
        "expo/nll_expert": [
            Row(encode_question(policy.tokenizer, p), encode_target(policy, p.expert_chain or "")) for p in with_expert
        ],
    }
    metrics = {}
    for name, kind in rows.items():
        if kind:
            scored = score_rows(policy, kind, temperature=1.0, token_budget=token_budget)
            metrics[name] = mean(-float(logprobs_T.mean()) for logprobs_T in scored)
    chains = {
        "expo/answer_lift_own": [(problem, completion.text) for problem, completion in own],
        "expo/answer_lift": [(explanation.problem, explanation.completion.text) for explanation in accepted],
    }
    for name, texts in chains.items():
        if texts:
            metrics[name] = mean(answer_lifts(policy, texts, token_budget=token_budget))
    return metrics
