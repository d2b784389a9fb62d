"""Attention by kernels for TPUs and GPUs, and the one place that chooses among the forms of attention."""
