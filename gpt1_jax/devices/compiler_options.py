"""Compiler options for all platforms.

TPUs need none: the options that others set for them are on by default, and leave the program the same byte for byte.
CPUs have none.
"""

from jax.sharding import Mesh

OPTIONS: dict[str, dict[str, bool]] = {
    # Products are cuBLAS's, which adds biases and computes GELU as it writes them (docs/measured.md).
    "gpu": {"xla_gpu_enable_triton_gemm": False},
}
# They let devices send while they compute.
OVERLAP: dict[str, dict[str, bool]] = {
    # Parameters are gathered and gradients summed while the matrix products before and after them run.
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": True,
        "xla_gpu_enable_pipelined_all_gather": True,
        "xla_gpu_enable_pipelined_all_reduce": True,
        "xla_gpu_enable_pipelined_reduce_scatter": True,
        "xla_gpu_enable_while_loop_double_buffering": True,
    },
}


def compiler_options(mesh: Mesh) -> dict[str, bool]:
    """Returns the options of programs for a mesh, by the compilers' names; one device sends nothing."""
    platform = mesh.devices.flat[0].platform
    return OPTIONS.get(platform, {}) | (OVERLAP.get(platform, {}) if mesh.size > 1 else {})
