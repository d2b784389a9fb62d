"""Which of several processes this is, according to flags, JAX's variables or a cluster; or that it is alone."""

import os
import re
from dataclasses import dataclass

from gpt1_jax.errors import Fault, UserError

# Processes wait for each other for this many seconds.
PATIENCE = 300

_FLAGS = ("--coordinator", "--num_processes", "--process_id")
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TOGETHER = (
    "--coordinator=HOST:PORT, --num_processes=N and --process_id=I go together, as do "
    f"{', '.join(_VARIABLES[:2])} and {_VARIABLES[2]}; give all three, or --num_processes=1 to train alone."
)
_DIGITS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Place:
    """The place of a process among several.

    Attributes:
        host, port: where process 0 listens.
        count: the number of processes.
        number: the number of this process, from 0.
        devices: the local GPUs that this process uses; None means all that it sees.
        source: the flag or variable that names host and port; "" if a cluster does.
    """

    host: str
    port: int
    count: int
    number: int
    devices: list[int] | None
    source: str

    @property
    def coordinator(self) -> str:
        """HOST:PORT of process 0."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find_place(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Place | None:
    """Returns this process's place, or None if it is alone.

    Each value comes from its flag, or else its variable, or else the cluster as JAX detects it: a TPU pod, GKE, Slurm
    or Open MPI.

    Raises:
        UserError: a value is wrong, or only some of them are given.
        Fault: a cluster was detected but does not supply the values.
    """
    values: list[str | int | None] = [coordinator, num_processes, process_id]
    names: list[str] = [*_FLAGS]
    for i, variable in enumerate(_VARIABLES):
        if values[i] is None and (text := os.environ.get(variable)):
            values[i], names[i] = text if i == 0 else _number(variable, text), variable
    address, count, number = values
    if isinstance(address, str):
        split_address(names[0], address)
    if isinstance(count, int) and count < 1:
        raise UserError(f"{names[1]}={count} is not a number of processes; give 1 or more.")
    if isinstance(number, int) and (number < 0 or (isinstance(count, int) and number >= count)):
        raise UserError(f"{names[2]}={number} is not one of {names[1]}={count}; number the processes from 0.")
    if (count == 1 and not number) or (values == [None] * 3 and _known_alone()):
        return None

    found = _detect(*values)
    if found[:3] == (None, None, None):
        return None
    if None in found[:3]:
        missing = [flag for flag, value in zip(_FLAGS, found[:3], strict=True) if value is None]
        raise UserError(f"{' and '.join(missing)} missing: {_TOGETHER}")
    address, count, number, devices = found
    host, port = split_address(names[0] if values[0] else "The cluster's coordinator", address)
    if not 0 <= number < count:
        raise UserError(f"This is process {number} of {count}, which is impossible: {_TOGETHER}")
    if count == 1:
        return None
    return Place(host, port, count, number, _own_devices(devices), names[0] if values[0] else "")


def _number(name: str, text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise UserError(f"{name}={text} is not a whole number; set it to one, or unset it.")
    return int(text)


def split_address(name: str, text: str) -> tuple[str, int]:
    """Splits HOST:PORT into host and port.

    Raises:
        UserError: the text has another form.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UserError(f"{name}={text} is ambiguous; write an IPv6 address as [ADDRESS]:PORT.")
    if not host or not _DIGITS.fullmatch(port):
        raise UserError(f"{name}={text} has no port; write HOST:PORT, such as 10.0.0.1:1234.")
    if not 1 <= int(port) <= 65535:
        raise UserError(f"{name}={text} has the port {port}; write one from 1 to 65535.")
    return host, int(port)


def _known_alone() -> bool:
    """Returns whether the environment is that of a lone process for which JAX would wait for others or ask a server.

    JAX believes Open MPI first, then Slurm, then a TPU, and so does this function.
    """
    from jax._src.clusters import OmpiCluster, SlurmCluster

    if OmpiCluster.is_env_present():
        return False
    # In a shell within an allocation, SLURM_NTASKS is what the allocation has room for, not what runs.
    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1" != os.environ.get("SLURM_NTASKS", "1"):
        print(
            f"Training alone: this is the only task of its Slurm step, but the allocation has room for "
            f"{os.environ['SLURM_NTASKS']}; start with srun to train with all of them.",
            flush=True,
        )
        return True
    # Colab's TPU.
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    lone = hosts and "," not in hosts and not os.environ.get("MEGASCALE_COORDINATOR_ADDRESS")
    return bool(lone) and not SlurmCluster.is_env_present()


def _detect(*values: str | int | None) -> tuple:
    """Returns coordinator, count, number and devices as given, or else as JAX detects them."""
    # jax.distributed.initialize asks this class as well.
    from jax._src.clusters import ClusterEnv

    try:
        return ClusterEnv.auto_detect_unset_distributed_params(*values, None, None, PATIENCE)  # pyright: ignore
    except (KeyError, RuntimeError, ValueError) as error:
        raise Fault(
            f"The cluster does not say who the other processes are ({type(error).__name__}: {error}); give "
            "--coordinator, --num_processes and --process_id, or --num_processes=1 to train alone."
        ) from error


def _own_devices(detected: list[int] | None) -> list[int] | None:
    """Returns the GPUs of this process: on Slurm, JAX takes the GPU with the task's number on its node.

    If Slurm shows each task only its own GPUs, as with --gpus-per-task, all that are visible belong to it.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    visible = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
    if detected and visible and ("SLURM_GPUS_PER_TASK" in os.environ or max(detected) >= len(visible)):
        return list(range(len(visible)))
    return detected
