"""The run folder: its files, checkpoints and metrics, and what a RUN or MODEL stands for."""
