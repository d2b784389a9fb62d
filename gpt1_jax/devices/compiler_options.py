"""What the compiler is told, a place for all platforms: to send while it computes.

TPUs need nothing: the options that others set for them are on by themselves, and leave the program as it is, byte for
byte. CPUs have nothing to set.
"""

from jax.sharding import Mesh

OPTIONS: dict[str, dict[str, bool]] = {
    # Gathers of parameters and sums of gradients run beside the matrix products before and after them.
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": True,
        "xla_gpu_enable_pipelined_all_gather": True,
        "xla_gpu_enable_pipelined_all_reduce": True,
        "xla_gpu_enable_pipelined_reduce_scatter": True,
        "xla_gpu_enable_while_loop_double_buffering": True,
    },
}


def compiler_options(mesh: Mesh) -> dict[str, bool]:
    """The options of programs for a mesh, by the compilers' own names; none for one device, which sends nothing."""
    return {} if mesh.size == 1 else OPTIONS.get(mesh.devices.flat[0].platform, {})
