"""Every test sees eight devices of the CPU, so that meshes can be tried anywhere."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
