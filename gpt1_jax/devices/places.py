"""Which of several processes this is: told by flags, by JAX's variables, by a cluster; or alone."""

import os
import re
from dataclasses import dataclass

from gpt1_jax.errors import Fault, UserError

PATIENCE = 300  # seconds that processes wait for each other

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

    Args:
        host, port: where process 0 is found.
        count: how many processes there are.
        number: which this is, from 0.
        devices: the local GPUs that are this process's own; None: all it sees.
        source: the flag or variable that names host and port; empty where a cluster does.
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
    """This process's place; None where it is alone.

    Each value is the flag's, else the variable's, else what the cluster tells, as JAX detects it: a TPU pod, GKE,
    Slurm, Open MPI.

    Raises:
        UserError: a value is wrong, or some are there and others not.
        Fault: a cluster is detected that does not tell what it should.
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
        raise UserError(f"{names[1]}={count} is no number of processes; give 1 or more.")
    if isinstance(number, int) and (number < 0 or (isinstance(count, int) and number >= count)):
        raise UserError(f"{names[2]}={number} is none of {names[1]}={count}; number the processes from 0.")
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
        raise UserError(f"This is process {number} of {count}, which cannot be: {_TOGETHER}")
    if count == 1:
        return None
    return Place(host, port, count, number, _own_devices(devices), names[0] if values[0] else "")


def _number(name: str, text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise UserError(f"{name}={text} is no whole number; set it to one, or unset it.")
    return int(text)


def split_address(name: str, text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT.

    Raises:
        UserError: it is none.
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
    """Whether the environment tells of a lone process where JAX would wait for others, or ask a server for them.

    JAX believes Open MPI first, then Slurm, then a TPU; so is it here.
    """
    from jax._src.clusters import OmpiCluster, SlurmCluster

    if OmpiCluster.is_env_present():
        return False
    # A shell in an allocation: SLURM_NTASKS is what the allocation has room for, not what runs.
    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1" != os.environ.get("SLURM_NTASKS", "1"):
        print(
            f"Training alone: this is the only task of its Slurm step, though the allocation is for "
            f"{os.environ['SLURM_NTASKS']}; start with srun to train with all of them.",
            flush=True,
        )
        return True
    # Colab's TPU
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    lone = hosts and "," not in hosts and not os.environ.get("MEGASCALE_COORDINATOR_ADDRESS")
    return bool(lone) and not SlurmCluster.is_env_present()


def _detect(*values: str | int | None) -> tuple:
    """Coordinator, count, number and devices: as given, else as JAX detects a cluster."""
    from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize asks

    try:
        return ClusterEnv.auto_detect_unset_distributed_params(*values, None, None, PATIENCE)  # pyright: ignore
    except (KeyError, RuntimeError, ValueError) as error:
        raise Fault(
            f"The cluster does not tell who the other processes are ({type(error).__name__}: {error}); give "
            "--coordinator, --num_processes and --process_id, or --num_processes=1 to train alone."
        ) from error


def _own_devices(detected: list[int] | None) -> list[int] | None:
    """The GPUs of this process: on Slurm JAX takes the one of the task's number on its node.

    Where Slurm shows each task its own only, as --gpus-per-task makes it, they are all of what is visible.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    visible = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
    if detected and visible and ("SLURM_GPUS_PER_TASK" in os.environ or max(detected) >= len(visible)):
        return list(range(len(visible)))
    return detected
