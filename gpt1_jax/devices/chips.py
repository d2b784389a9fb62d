"""What accelerators can do at best, by their makers' published figures; a device is what jax counts as one."""

from typing import NamedTuple


class Chip(NamedTuple):
    """The figures of a chip.

    Attributes:
        flops: dense bfloat16 FLOP/s.
        memory: bytes of memory.
        link_speed: bytes/s that it sends to the other chips of its slice, over all its links.
        network_speed: bytes/s that it sends to other slices.
        clock: cycles/s.
        matrix_unit: rows of a matrix unit.
    """

    flops: float
    memory: float
    link_speed: float
    network_speed: float
    clock: float
    matrix_unit: int


# By the first part of a TPU topology's name, from Google Cloud's documentation of each generation, "System
# architecture". Links have half of the bandwidth that it calls bidirectional. It gives no network for v4, here taken
# from v5p, and no clocks. These follow from the peaks and the matrix units' FLOPs per cycle, and agree with the cycles
# that the compiler expects.
TPUS = {
    "v4": Chip(275e12, 32 * 2**30, 300e9, 6.25e9, 1.05e9, 128),
    "v5e": Chip(197e12, 16 * 2**30, 200e9, 3.125e9, 1.5e9, 128),
    "v5p": Chip(459e12, 95 * 2**30, 600e9, 6.25e9, 1.75e9, 128),
    "v6e": Chip(918e12, 32 * 2**30, 400e9, 12.5e9, 1.75e9, 256),
    # A chip is two devices.
    "tpu7x": Chip(1153.5e12, 96 * 2**30, 300e9, 6.25e9, 2.2e9, 256),
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
