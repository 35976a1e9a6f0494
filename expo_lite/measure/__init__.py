"""Measuring a policy: graded samples, statistics, evaluation, and whether explanations are good positives."""
