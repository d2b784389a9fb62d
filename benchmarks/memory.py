"""Peak memory of training beside PyTorch: python -m benchmarks.memory [--preset=tiny].

Each side takes three steps in a process of its own. The figure is the most memory that this process ever had at once,
libraries included.
"""

import itertools
import resource
import subprocess
import sys

from absl import flags

from benchmarks.settings import batches, settings
from benchmarks.training import SIDES, make_step
from gpt1_jax.door import door
from gpt1_jax.errors import Fault
from gpt1_jax.huge_pages import use_huge_pages

_SIDE = flags.DEFINE_string("side", None, "measure only this side, in this process")


def main(_: list[str]) -> None:
    """Prints a line for each side, then the same in JSON."""
    preset, batch = flags.FLAGS.preset, flags.FLAGS.batch
    config = settings(preset, batch)
    if _SIDE.value:
        step = make_step(_SIDE.value, config, same=False)
        for batch_of_tokens in itertools.islice(batches(config), 3):
            step(*batch_of_tokens)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    peaks: dict[str, int] = {}
    for side in SIDES:
        flags_ = [f"--preset={preset}", f"--batch={batch}", f"--side={side}"]
        command = [sys.executable, "-m", "benchmarks.memory", *flags_]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Fault(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        peaks[side] = int(done.stdout)
        print(
            f"{side:16} {peaks[side] / 1e9:6.2f} GB  gpt1_jax takes {peaks['gpt1_jax'] / peaks[side]:.2f} of it"
        )
    from benchmarks.timing import conclude  # late: this process is measured too if it is a side

    conclude(preset=preset, batch=config.train.batch_size, peak_bytes=peaks)


if __name__ == "__main__":
    use_huge_pages()
    door(main)
