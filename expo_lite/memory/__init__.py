"""The memory plan: model sizes, what a run holds in each phase, and the limits that follow."""
