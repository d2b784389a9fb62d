"""Joining other processes, where the environment tells of some, of none, or of one."""

import jax
import numpy as np
import pytest

from gpt1_jax.errors import Fault, UserError
from gpt1_jax.training import hosts


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What jax.distributed.initialize is called with, and no environment of a cluster."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: calls.append(given))
    for name in ("TPU_WORKER_HOSTNAMES", "JAX_COORDINATOR_ADDRESS", "MEGASCALE_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),  # Colab: jax would ask a server that is not there
        ({"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0", "MEGASCALE_COORDINATOR_ADDRESS": "t1v-0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0", "JAX_COORDINATOR_ADDRESS": "t1v-0:1234"}, True),
    ],
)
def test_jax_is_asked_unless_there_is_one_tpu_host(
    environment: dict[str, str], asked: bool, joined: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.join(None, None, None)
    assert bool(joined) == asked


def test_what_is_given_goes_before_the_environment(
    joined: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    hosts.join("10.0.0.1:1234", 2, 1)
    assert joined == [("10.0.0.1:1234", 2, 1)]


@pytest.mark.parametrize(
    ("theirs", "raised"),
    [
        (UserError("there is no such file"), UserError),
        (NotADirectoryError(20, "Not a directory"), UserError),
        (ConnectionResetError("503"), Fault),
        (OSError(28, "No space left on device"), Fault),
    ],
    ids=["input", "path", "network", "disk"],
)
def test_others_are_told_whether_it_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, theirs: Exception, raised: type[Exception]
) -> None:
    """By the exit code: 2 is final for every launcher, 1 is not."""
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
