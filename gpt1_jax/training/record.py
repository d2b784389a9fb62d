"""What a training leaves in its run directory as it goes on: logged steps, evaluations and checkpoints."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from gpt1_jax.config import TrainConfig
from gpt1_jax.devices import hosts
from gpt1_jax.devices.memory import device_memory
from gpt1_jax.errors import Stopped
from gpt1_jax.pages.page import write_page
from gpt1_jax.run import Run
from gpt1_jax.training import divergence, stopping
from gpt1_jax.training.checkpoints import Checkpoints, is_log_spaced
from gpt1_jax.training.divergence import Guard
from gpt1_jax.training.evaluation import perplexity
from gpt1_jax.training.log import MetricsLog
from gpt1_jax.training.showing import Showing
from gpt1_jax.training.speed import Stopwatch, model_flops_utilization
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.state import State

# The end of a training, or a stop, waits for the page no longer than this.
_PAGE_SECONDS = 30
# A page takes the longer the more there is to draw, so it is written only after so many times as long as the last took.
_PAGE_REST = 20


def is_evaluated(stage: Stage, config: TrainConfig, step: int) -> bool:
    """Returns whether an evaluation follows a step."""
    return step == config.num_steps or step % config.eval_every == 0 or step in stage.early


def lacks_evaluation(stage: Stage, run: Run, config: TrainConfig, step: int) -> bool:
    """Returns whether a checkpoint was saved, but a stop or a crash left no time for the evaluation due then."""
    return step > 0 and is_evaluated(stage, config, step) and run.results().get("step") != step


class Due(NamedTuple):
    """What to do after a step.

    Attributes:
        stop, save, evaluate: whether to do so.
        look: whether to check that the step was finite, because too many before it were not.
    """

    stop: bool
    save: bool
    evaluate: bool
    look: bool


class Record:
    """The log, the checkpoints and the evaluations of a run, from the step at which it begins or is resumed.

    Metrics of step n are on disk before checkpoint n is. The evaluation comes after the checkpoint, since a stop may
    leave no time for both; the next start makes up a missing evaluation.
    """

    def __init__(
        self,
        stage: Stage,
        config: TrainConfig,
        run: Run,
        checkpoints: Checkpoints,
        log: MetricsLog,
        first: int,
    ) -> None:
        self._stage, self._config, self._run = stage, config, run
        self._checkpoints, self._log = checkpoints, log
        self._saved = first
        self._evaluated = False
        self._sampling = Showing("the sample")
        self._paging = Showing("the page report.html")
        self._page: threading.Thread | None = None
        self._page_due = 0.0
        self._samples: dict[int, str] = {}
        self.directory = run.directory
        self.watch = Stopwatch()
        self.guard = Guard(first)
        self._best: dict[str, Any] | None = run.results().get("best")
        checkpoints.best = self._best["step"] if self._best else None

    def read(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Waits for a dispatched step, checks it and any running save, and logs it if that is due."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.watch.step()
        if not self.guard.look(step, values):
            self._log.tell(
                f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; the update is skipped"
            )
        if step % self._config.log_every == 0 or step in (1, self._config.num_steps):
            self._write(step, values)
        self._log.advance(step, values)
        self._checkpoints.watch()

    def _write(self, step: int, values: dict[str, float]) -> None:
        seconds = self.watch.lap()
        speed = self._stage.tokens_per_step / seconds
        nats = values["loss"] if self._stage.task is None else values.get("lm_loss")
        shown = {"loss": values["loss"]} | ({} if nats is None else {"perplexity": perplexity(nats)})
        values = shown | values | {"tokens_per_second": speed, "seconds_per_step": seconds}
        known = {
            "mfu": model_flops_utilization(speed, self._stage.flops_per_token, jax.device_count()),
            "memory_gb": device_memory(),
        }
        self._log.write(step, "train", values | {name: x for name, x in known.items() if x is not None})

    @contextlib.contextmanager
    def compiling(self) -> Iterator[Callable[[str], None]]:
        """Within its context a program is compiled, which is no part of the steps' time; yields what prints a line."""
        self.watch.pause()
        with self._log.during("compiling"):
            yield self._log.tell
        self.watch.resume()

    def save(self, step: int, state: State) -> None:
        """Starts to save a step, unless it is saved already; older checkpoints go only while steps are finite.

        Raises:
            Diverged, DivergedAgain: the step's update made numbers that are not finite.
        """
        if self._saved == step:
            return
        if not divergence.is_finite(state):
            raise divergence.give_up(self.guard, step, self._run, self._checkpoints)
        self._checkpoints.proven = self.guard.proven(self._checkpoints.steps())
        with self._log.during("saving"):
            self._checkpoints.save(step, state)
        self._saved = step

    def due(self, step: int, stop: bool) -> Due:
        """Returns what to do after a dispatched step; `stop` is whether a signal asked for a stop."""
        config = self._config
        spaced = config.keep_log_spaced and is_log_spaced(step)
        return Due(
            stop=stop,
            save=step == config.num_steps or step % config.checkpoint_every == 0 or spaced,
            evaluate=is_evaluated(self._stage, config, step),
            look=self.guard.nearly_lost,
        )

    def act(self, step: int, state: State, due: Due) -> None:
        """Does what is due after a step whose metrics have been read.

        Raises:
            Stopped: a signal asked for it; the step is saved.
            Diverged, DivergedAgain: too many steps in a row were not finite.
        """
        self.watch.pause()
        if self.guard.lost(at_end=step == self._config.num_steps):
            raise divergence.give_up(self.guard, step, self._run, self._checkpoints)
        # The first evaluation is compiled, which takes minutes for a large model; no stop can wait for that.
        first = due.evaluate and not self._evaluated
        end = step == self._config.num_steps
        if due.stop or end or ((due.save or first) and not self.guard.failed):
            self.save(step, state)
        if due.stop:
            raise self._leave(step)
        if due.evaluate:
            self.evaluate(step, state)
        self.watch.resume()

    def evaluate(self, step: int, state: State) -> None:
        """Measures, logs and writes results.json; the checkpoint of the best score so far stays when older ones go.

        Raises:
            Stopped: a signal asked for it meanwhile; the step is saved.
        """
        try:
            with self._log.during("evaluating"):
                values = self._stage.evaluate(state.params)
            self._evaluated = True
            self._log.write(step, "eval", values)
            self._judge(step, values)
            if self._checkpoints.best == step:
                self.save(step, state)
            self._show_sample(step, state)
            self._show_page(step)
        except Stopped:
            self.save(step, state)
            raise self._leave(step) from None

    def _show_sample(self, step: int, state: State) -> None:
        sample = self._stage.sample
        if sample is None:
            return
        with self._log.during("writing a sample"):
            if hosts.alone():
                self._sampling(lambda: self._keep_sample(step, sample(state.params)))
            else:  # if one left it out, the others would wait for it for ever
                self._keep_sample(step, sample(state.params))

    def _keep_sample(self, step: int, sample: tuple[str, str]) -> None:
        self._log.write_sample(step, *sample)
        self._samples[step] = " … ".join(sample)

    def _show_page(self, step: int) -> None:
        """Writes report.html anew beside the training, unless that would slow it down; the last one is waited for."""
        if not hosts.first():
            return
        if step == self._config.num_steps:
            # Otherwise the last evaluation might be missing.
            self._wait_for_page()
        last = step == self._config.num_steps
        if (last or time.monotonic() >= self._page_due) and not (self._page and self._page.is_alive()):
            samples = dict(self._samples)
            self._page = threading.Thread(
                target=lambda: self._paging(lambda: self._write_page(samples)), name="page", daemon=True
            )
            self._page.start()
        if last:
            self._wait_for_page()

    def _write_page(self, samples: dict[int, str]) -> None:
        began = time.monotonic()
        write_page(self._run, samples=samples)
        ended = time.monotonic()
        self._page_due = ended + _PAGE_REST * (ended - began)

    def _wait_for_page(self) -> None:
        if self._page is not None:
            self._page.join(_PAGE_SECONDS)

    def _judge(self, step: int, values: dict[str, float]) -> None:
        """Writes the last and the best evaluation to results.json."""
        best, score = self._best, self._stage.score
        sign = 1 if score == "loss" else -1
        finite = {
            name: value if math.isfinite(value) else None for name, value in values.items()
        }  # as JSON has it
        # A best of a later step was undone by a crash; a best without a score does not count.
        known = None if best is None or best["step"] >= step else best[score]
        new = finite[score]
        if best is None or known is None or (new is not None and sign * new < sign * known):
            best = {"step": step, **finite}
        self._best, self._checkpoints.best = best, best["step"]
        if hosts.first():
            about = {"kind": self._stage.kind, "task": self._stage.task, "step": step}
            results = about | {"validation": finite, "best": best}
            if self._stage.positive_label is not None:
                results["positive_label"] = self._stage.positive_label
            self._run.write_results(results)

    def _leave(self, step: int) -> Stopped:
        self._checkpoints.wait()
        # An interpreter that ends during the writing leaves half a file under another name.
        self._wait_for_page()
        return stopping.stopped(f"with step {step} saved in {self._run.directory}")
