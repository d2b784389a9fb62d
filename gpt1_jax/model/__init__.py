"""Arrays in, logits and losses out; this room knows nothing of text, files or training."""
