"""gpt1_jax: pre-train and fine-tune GPT-1-class language models in JAX."""
