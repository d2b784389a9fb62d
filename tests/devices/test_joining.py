"""Flags, variables and clusters say which process this is; the others learn of an error on one."""

import os

import jax
import numpy as np
import pytest
from faults.commands import CLUSTERS

from gpt1_jax.devices import hosts
from gpt1_jax.devices.places import Place, find_place
from gpt1_jax.errors import Fault, UserError

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
}
JAX = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "JAX_COORDINATOR_PORT": "1234",
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(CLUSTERS):
            monkeypatch.delenv(name)


def find(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *flags: str | int | None
) -> Place | None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    coordinator, num_processes, process_id = flags or (None, None, None)
    return find_place(coordinator, num_processes, process_id)  # pyright: ignore[reportArgumentType]


def test_flags_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, {}, "host:1", 3, 2) == Place("host", 1, 3, 2, None, "--coordinator")


def test_variables_of_jax_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(monkeypatch, JAX)
    assert found == Place("10.0.0.1", 1234, 2, 1, None, "JAX_COORDINATOR_ADDRESS")


def test_a_flag_goes_before_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, JAX, None, None, 0) == Place(
        "10.0.0.1", 1234, 2, 0, None, "JAX_COORDINATOR_ADDRESS"
    )


@pytest.mark.parametrize("flags", [(None, None, None), ("h:1", 1, 0), (None, 1, None)])
def test_one_is_alone(monkeypatch: pytest.MonkeyPatch, flags: tuple[str | int | None, ...]) -> None:
    assert find(monkeypatch, {}, *flags) is None


@pytest.mark.parametrize("environment", [SLURM, {"JAX_NUM_PROCESSES": "4"} | SLURM])
def test_to_be_alone_can_be_asked_for_in_a_cluster(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    assert find(monkeypatch, environment, None, 1, None) is None


@pytest.mark.parametrize(
    ("flags", "environment", "told"),
    [
        ((None, 2, None), {}, "--coordinator and --process_id missing"),
        (("h:1", None, None), {}, "--num_processes and --process_id missing"),
        (("h:1", 2, None), {}, "--process_id missing"),
        (None, {"JAX_PROCESS_ID": "0"}, "--coordinator and --num_processes missing"),
        (None, {"JAX_COORDINATOR_ADDRESS": "h:1"}, "JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        (("h", 2, 0), {}, "--coordinator=h has no port"),
        (("h:", 2, 0), {}, "--coordinator=h: has no port"),
        ((":1", 2, 0), {}, "--coordinator=:1 has no port"),
        (("h:x", 2, 0), {}, "--coordinator=h:x has no port"),
        (("h:0", 2, 0), {}, "from 1 to 65535"),
        (("h:65536", 2, 0), {}, "from 1 to 65535"),
        (("::1:5", 2, 0), {}, r"write an IPv6 address as \[ADDRESS\]:PORT"),
        (("h:1", 2, 2), {}, "--process_id=2 is not one of --num_processes=2"),
        (("h:1", 2, -1), {}, "--process_id=-1 is not one of"),
        (("h:1", 0, 0), {}, "--num_processes=0 is not a number of processes"),
        (("h:1", -2, 0), {}, "--num_processes=-2 is not a number of processes"),
        (None, JAX | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two is not a whole number"),
        (None, JAX | {"JAX_PROCESS_ID": "1.0"}, "JAX_PROCESS_ID=1.0 is not a whole number"),
        (None, JAX | {"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID=-1 is not a whole number"),
        (None, JAX | {"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2 is not one of JAX_NUM_PROCESSES=2"),
        (None, JAX | {"JAX_COORDINATOR_ADDRESS": "h"}, "JAX_COORDINATOR_ADDRESS=h has no port"),
    ],
)
def test_what_does_not_fit_is_told(
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str | int | None, ...] | None,
    environment: dict[str, str],
    told: str,
) -> None:
    with pytest.raises(UserError, match=told):
        find(monkeypatch, environment, *(flags or ()))


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, dict.fromkeys(JAX, "")) is None


def test_an_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(monkeypatch, {}, "[fe80::1]:1234", 2, 0)
    assert found is not None and (found.host, found.port) == ("fe80::1", 1234)
    assert found.coordinator == "[fe80::1]:1234"


# ── Clusters ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_slurm_tells_and_each_task_has_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, SLURM) == Place("node3", 61447, 4, 3, [1], "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert find(monkeypatch, SLURM) == Place("node3", 61447, 4, 3, [1], "")


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({"SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0"}, [0]),
        ({"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "2,3"}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [0]),  # --gpu-bind=single:1
        ({"CUDA_VISIBLE_DEVICES": "GPU-a"}, [0]),
    ],
)
def test_where_a_task_sees_its_own_gpus_only_it_takes_them_all(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], devices: list[int]
) -> None:
    """JAX would take the second of one."""
    found = find(monkeypatch, SLURM | environment)
    assert found is not None and found.devices == devices


def test_devices_of_the_users_own_choice_are_left_to_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(monkeypatch, SLURM | {"JAX_LOCAL_DEVICE_IDS": "0,1"})
    assert found is not None and found.devices is None


def test_a_shell_in_an_allocation_is_alone_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a shell that salloc -n4 opens, the number of tasks is the allocation's, but the step has one."""
    assert find(monkeypatch, SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    assert "Training alone" in capsys.readouterr().out


def test_a_job_of_one_task_has_all_gpus_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert find(monkeypatch, SLURM | one) is None


def test_a_cluster_that_tells_nonsense_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Fault, match="The cluster does not say who the other processes are"):
        find(monkeypatch, SLURM | {"SLURM_JOB_ID": "seven"})


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),  # Colab: jax would ask a server that is not there
        ({"TPU_WORKER_HOSTNAMES": "t1v-0", "MEGASCALE_COORDINATOR_ADDRESS": ""}, False),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0", "MEGASCALE_COORDINATOR_ADDRESS": "t1v-0"}, True),
    ],
)
def test_jax_is_asked_unless_there_is_one_tpu_host(
    environment: dict[str, str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def detect(*given: object) -> tuple[None, None, None, None]:
        calls.append(given)
        return None, None, None, None

    monkeypatch.setattr("jax._src.clusters.ClusterEnv.auto_detect_unset_distributed_params", detect)
    assert find(monkeypatch, environment) is None
    assert bool(calls) == asked


@pytest.mark.parametrize(
    "lone", [{"TPU_WORKER_HOSTNAMES": "localhost"}, SLURM | {"SLURM_STEP_NUM_TASKS": "1"}]
)
def test_open_mpi_is_believed_before_slurm_and_a_tpu(
    lone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """mpirun in a shell of an allocation: that step has one task, and mpirun's processes are many."""
    assert find(monkeypatch, lone | OPEN_MPI) == Place("10.96.0.1", 1234, 4, 2, [0], "")


def test_slurm_is_believed_before_a_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(monkeypatch, SLURM | {"TPU_WORKER_HOSTNAMES": "localhost"})
    assert found is not None and (found.count, found.number) == (4, 3)


def test_alone_jax_is_not_asked_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
    with hosts.joined(None, None, None):
        pass


# ── One fails, all are told ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("theirs", "raised"),
    [
        (UserError("there is no such file"), UserError),
        (NotADirectoryError(20, "Not a directory", "a/b"), UserError),
        (ConnectionResetError("503"), Fault),
        (OSError(28, "No space left on device"), Fault),
    ],
    ids=["input", "path", "network", "disk"],
)
def test_others_are_told_whether_it_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, theirs: Exception, raised: type[Exception]
) -> None:
    """The exit code decides: 2 is final for every launcher, 1 is not."""
    sent: list[np.ndarray] = []
    monkeypatch.setattr(hosts, "alone", lambda: False)
    monkeypatch.setattr(hosts, "wait", lambda: None)

    def gather(mine: np.ndarray) -> np.ndarray:
        sent.append(mine)
        return np.stack([sent[0], mine])

    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", gather)

    def fail() -> None:
        raise theirs

    with pytest.raises(type(theirs)):
        hosts.together(fail)
    with pytest.raises(raised, match=r"^Process 0: "):
        hosts.together(lambda: None)
