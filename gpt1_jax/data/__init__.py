"""From text to batches: sources, tokenizers, token shards, and the batch of (seed, step)."""
