"""The workers that process the parts of a job: this process, other processes of this machine, or a Beam pipeline."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from typing import Protocol

from gpt1_jax.data.shards import Job, Part, Result, process
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import Fault, UserError

# With fewer parts than this, the present process does them all.
FEW = 4


class Workers(Protocol):
    """Whoever processes the parts of a job, in any order."""

    def __call__(
        self,
        job: Job,
        parts: Sequence[Part],
        tokenizer: Tokenizer | None,
        progress: Callable[[Result], None],
        finished: Callable[[Part], None],
        /,
    ) -> None:
        """Processes each part at least once and returns when all are done.

        Args:
            job: the job that the parts belong to.
            parts: what to do, at least one.
            tokenizer: the job's tokenizer, for workers within this process.
            progress: called, by workers within this process, with the result of a part so far.
            finished: may be called with each part that is done.
        """
        ...


def local_workers(
    job: Job,
    parts: Sequence[Part],
    tokenizer: Tokenizer | None,
    progress: Callable[[Result], None],
    finished: Callable[[Part], None],
) -> None:
    """Processes a few parts one by one in this process, and many in new processes, one for each core at a time.

    A process that is lost, say for want of memory, is started again, at most twice.

    Raises:
        Fault: a process was lost each time.
    """
    cores = os.cpu_count() or 1
    if cores == 1 or len(parts) < FEW:
        for part in parts:
            process(job, part, tokenizer, cores, progress)
            finished(part)
        return
    # Each process gets enough parts that its start costs little in comparison.
    size = -(-len(parts) // (4 * cores))
    chunks = [parts[start : start + size] for start in range(0, len(parts), size)]
    # Each thread waits for one process at a time.
    with ThreadPoolExecutor(cores) as pool:
        waiting = {pool.submit(_process_elsewhere, job, chunk): chunk for chunk in chunks}
        try:
            for future in as_completed(waiting):
                future.result()
                for part in waiting[future]:
                    finished(part)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _process_elsewhere(job: Job, parts: Sequence[Part], tries: int = 3) -> None:
    described = json.dumps([asdict(part) for part in parts])
    line = [sys.executable, "-m", "gpt1_jax.data.shards", json.dumps(asdict(job)), described]
    # The writing end closes when this process ends, for whatever reason, and the worker notices.
    reading, writing = os.pipe()
    try:
        ended = subprocess.run(line, stdin=reading, capture_output=True, text=True, check=False)
    finally:
        os.close(reading)
        os.close(writing)
    if ended.returncode == 2:
        raise UserError(ended.stderr.strip())
    if ended.returncode and tries > 1:
        _process_elsewhere(job, parts, tries - 1)
    elif ended.returncode:
        raise Fault(
            f"Processes for {parts[0].kind} of {job.source} ended with {ended.returncode} again and again; the last "
            f"words were {ended.stderr.strip()[-500:]!r}."
        )


def beam_workers(runner: str, options: Sequence[str]) -> Workers:
    """Returns workers that process all parts in one Apache Beam pipeline.

    Args:
        runner: the name of a Beam runner.
        options: Beam's options, NAME=VALUE or NAME.

    Raises:
        UserError: Beam is not installed, or refuses the runner or the options.
    """
    try:
        # Imported late, since it takes seconds.
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner
    except ImportError as error:
        raise UserError(
            f"--runner={runner} needs Apache Beam ({error.name} is missing); pip install 'gpt1_jax[beam]'."
        ) from error
    try:
        create_runner(runner)
    except ValueError as error:
        raise UserError(
            f"--runner={runner} is not a runner of Beam's ({error}); choose one that is."
        ) from error
    settings = PipelineOptions([f"--runner={runner}", *(f"--{option}" for option in options)])

    def work(
        job: Job,
        parts: Sequence[Part],
        tokenizer: Tokenizer | None,
        progress: Callable[[Result], None],
        finished: Callable[[Part], None],
    ) -> None:
        with beam.Pipeline(options=settings) as pipeline:
            _ = pipeline | beam.Create(parts) | beam.Reshuffle() | beam.Map(partial(process, job))

    return work
