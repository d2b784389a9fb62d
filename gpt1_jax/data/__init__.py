"""From text to batches: sources, tokenizers, token shards, and batches as a function of seed and step."""
