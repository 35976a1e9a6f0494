"""One training step in its order: rollout, explanations, pairs, the method's rows, the update."""
