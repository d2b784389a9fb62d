"""What accelerators can do at best: their makers' published figures, a device as jax counts them."""

from typing import NamedTuple


class Chip(NamedTuple):
    """Fields: dense bfloat16 FLOP/s; bytes of memory; bytes/s to memory; bytes/s to the other chips of its slice, all
    links together."""

    flops: float
    memory: float
    memory_speed: float
    link_speed: float


# By the first part of a TPU topology's name. Google Cloud's documentation of each generation, "System architecture".
TPUS = {
    "v4": Chip(275e12, 32e9, 1228e9, 300e9),
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip(918e12, 32e9, 1640e9, 448e9),
    "tpu7x": Chip(1153.5e12, 96e9, 3690e9, 600e9),  # a chip is two devices
}

# By jax's device_kind.
PEAK_FLOPS = {
    "TPU v4": TPUS["v4"].flops,
    "TPU v5 lite": TPUS["v5e"].flops,
    "TPU v5e": TPUS["v5e"].flops,
    "TPU v5": TPUS["v5p"].flops,
    "TPU v5p": TPUS["v5p"].flops,
    "TPU v6 lite": TPUS["v6e"].flops,
    "TPU v6e": TPUS["v6e"].flops,
    "TPU7x": TPUS["tpu7x"].flops,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
}
