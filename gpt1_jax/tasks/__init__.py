"""Labeled tasks: what they are, where their examples come from, and how an example becomes token sequences."""
