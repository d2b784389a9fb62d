"""Who does the tasks of a job: this process and its threads, processes of this machine, or a Beam pipeline."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial

from gpt1_jax.data.shards import Done, Job, Task, do
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import Fault, UserError

FEW = 4  # tasks that this process does alone


# Do tasks of a job, at least one, in any order, each at least once, and return when all are done. Those who work in
# this process use the tokenizer that is handed to them, and tell how far a task is; the last argument may be told of
# each task that is done.
Workers = Callable[
    [Job, Sequence[Task], Tokenizer | None, Callable[[Done], None], Callable[[Task], None]], None
]


def local_workers(
    job: Job,
    tasks: Sequence[Task],
    tokenizer: Tokenizer | None,
    progress: Callable[[Done], None],
    finished: Callable[[Task], None],
) -> None:
    """One task after the other in this process where there are few; else a process for each, one a core at a time.

    A process that is lost, for want of memory say, is started again for its task, twice. Raises Fault where that
    does not help.
    """
    cores = os.cpu_count() or 1
    if cores == 1 or len(tasks) < FEW:
        for task in tasks:
            do(job, task, tokenizer, cores, progress)
            finished(task)
        return
    size = -(-len(tasks) // (4 * cores))  # so many for each process that starting it weighs little
    chunks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    with ThreadPoolExecutor(cores) as pool:  # each thread waits for one process at a time
        waiting = {pool.submit(_do_in_process, job, chunk): chunk for chunk in chunks}
        try:
            for future in as_completed(waiting):
                future.result()
                for task in waiting[future]:
                    finished(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _do_in_process(job: Job, tasks: Sequence[Task], tries: int = 3) -> None:
    described = json.dumps([asdict(task) for task in tasks])
    line = [sys.executable, "-m", "gpt1_jax.data.shards", json.dumps(asdict(job)), described]
    reading, writing = os.pipe()  # whose writing end closes when this process ends, however that is
    try:
        ended = subprocess.run(line, stdin=reading, capture_output=True, text=True, check=False)
    finally:
        os.close(reading)
        os.close(writing)
    if ended.returncode == 2:
        raise UserError(ended.stderr.strip())
    if ended.returncode and tries > 1:
        _do_in_process(job, tasks, tries - 1)
    elif ended.returncode:
        raise Fault(
            f"Processes for {tasks[0].kind} of {job.source} ended with {ended.returncode} again and again; the last "
            f"words were {ended.stderr.strip()[-500:]!r}."
        )


def beam_workers(runner: str, options: Sequence[str]) -> Workers:
    """Those of an Apache Beam pipeline, one for all tasks.

    `options` are Beam's, NAME=VALUE or NAME. Raises UserError where Beam is not installed or refuses them.
    """
    try:
        import apache_beam as beam  # late: it takes seconds
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner
    except ImportError as error:
        raise UserError(
            f"--runner={runner} needs Apache Beam ({error.name} is missing): pip install 'gpt1_jax[beam]'"
        ) from error
    try:
        create_runner(runner)
    except ValueError as error:
        raise UserError(f"--runner={runner} is none of Beam's ({error})") from error
    settings = PipelineOptions([f"--runner={runner}", *(f"--{option}" for option in options)])

    def work(
        job: Job,
        tasks: Sequence[Task],
        tokenizer: Tokenizer | None,
        progress: Callable[[Done], None],
        finished: Callable[[Task], None],
    ) -> None:
        with beam.Pipeline(options=settings) as pipeline:
            _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.Map(partial(do, job))

    return work
