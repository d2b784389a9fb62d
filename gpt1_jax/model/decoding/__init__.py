"""From states to text, a token at a time: sampling, beams, caches."""
