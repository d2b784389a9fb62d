"""Many invocations of the commands for the price of few: a process that has imported everything forks for each.

As a program it is that process: it reads a JSON object a line from standard input, {"module", "arguments", "directory",
"stdin", "environment"}, and answers with {"code", "stdout", "stderr"}. The first thing a command does, starting over in
huge pages, is left out; tests/test_door.py starts commands as a user does.
"""

import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import gpt1_jax

ROOT = Path(__file__).parents[2]
PATIENCE = 300
# How the variables begin by which a cluster tells a process of others.
CLUSTERS = (
    "CUDA_VISIBLE", "JAX_COORDINATOR", "JAX_LOCAL_DEVICE_IDS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JOB_COMPLETION",
    "KUBERNETES_", "MEGASCALE_", "OMPI_", "SLURM_", "TPU_",
)  # fmt: skip


def plain_environment() -> dict[str, str]:
    """The variables for a command of one process, on the CPU.

    It compiles without LLVM's optimizations: three times faster, and what is proved is the same.
    """
    return {
        name: value for name, value in os.environ.items() if not name.startswith((*CLUSTERS, "XLA_FLAGS"))
    } | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


class Ended(NamedTuple):
    """How an invocation ended."""

    code: int
    stdout: str
    stderr: str


class Commands:
    """Starts commands of the package; a context, whose end is the server's."""

    def __enter__(self) -> "Commands":
        environment = plain_environment() | {
            "PYTHONPATH": str(ROOT),
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
        }
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=PATIENCE)

    def run(
        self,
        module: str,
        *arguments: str,
        directory: Path = ROOT,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Runs `python -m gpt1_jax.MODULE ARGUMENTS…` in a directory, to its end."""
        request = {
            "module": module,
            "arguments": arguments,
            "directory": str(directory),
            "stdin": stdin.decode("latin-1"),
            "environment": dict(environment or {}),
        }
        reader, writer = self._server.stdout, self._server.stdin
        assert reader is not None and writer is not None
        writer.write(json.dumps(request) + "\n")
        writer.flush()
        return Ended(**json.loads(reader.readline()))


def _serve() -> None:
    _import_all()
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


def _import_all() -> None:
    for module in pkgutil.walk_packages(gpt1_jax.__path__, "gpt1_jax."):
        # The commands are the modules outside of the rooms; their flags would meet.
        if module.name.count(".") > 1:
            importlib.import_module(module.name)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        stdin.write(request["stdin"].encode("latin-1"))
        stdin.seek(0)
        child = os.fork()
        if child == 0:
            _become(request, [stdin, stdout, stderr])
        code = _wait(child)
        stdout.seek(0)
        stderr.seek(0)
        return {
            "code": code,
            "stdout": stdout.read().decode(errors="backslashreplace"),
            "stderr": stderr.read().decode(errors="backslashreplace"),
        }


def _become(request: dict[str, Any], files: Sequence[IO[bytes]]) -> None:
    """Carries out a request in this process, and ends it."""
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        environment = request["environment"]
        os.environ.update(environment)
        encoding = environment.get("PYTHONIOENCODING", "utf-8")
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding=encoding, closefd=False)  # noqa: SIM115
            for number, mode in enumerate(("r", "w", "w"))
        )
        os.chdir(request["directory"])
        sys.argv = [request["module"], *request["arguments"]]
        runpy.run_module(f"gpt1_jax.{request['module']}", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> int:
    """The exit code of a child, −N where signal N ended it; one that goes on for too long is killed."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


if __name__ == "__main__":
    _serve()
