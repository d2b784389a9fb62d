"""The training loop and its parts: the trainer, objectives, optimizers, evaluation, checkpoints and the log."""
