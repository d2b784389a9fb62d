"""The one loop and what it turns: objectives, optimizers, sharding, checkpoints, metrics."""
