"""The one loop and what it turns: the trainer, objectives, optimizers, evaluation, checkpoints, the log."""
