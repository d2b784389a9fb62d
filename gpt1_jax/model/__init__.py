"""From arrays to logits and losses; this package knows nothing of text, files or training."""
