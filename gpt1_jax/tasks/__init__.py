"""The labeled tasks: what they are, where their examples come from, how an example becomes sequences."""
