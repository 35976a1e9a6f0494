"""Measured figures, without torch: statistics, figures, tables, paired differences, and a run read back."""
