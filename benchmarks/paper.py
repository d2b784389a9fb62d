"""Tables 2 to 5 and figure 2 of the paper with one command, for any pre-trained run, ours beside the paper's:

    python -m benchmarks.paper --init_from=RUN --data=DIR --output=DIR2 [--lstm_from=RUN] [--seeds=0,1,2]

DIR holds the data sets as they are distributed, a folder each: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE, WNLI, AX
(or diagnostic), SNLI, SciTail, RACE, StoryCloze, DPR. Those that are missing are left out, which the page says. Every
fine-tuning is a run directory DIR2/TASK/VARIANT/SEED; the same command goes on wherever it was stopped.

DIR2/paper.md has the tables, paper.json their numbers, figure2_left.png and figure2_right.png the pictures, and
submission.zip the predictions for GLUE's server, of the seeds that validate best. The right of figure 2 needs
checkpoints on the way: pre-train with train.keep_log_spaced=true.
"""

import json
import sys
from functools import cache
from pathlib import Path

from absl import flags

from benchmarks.glue_submission import write_submission
from benchmarks.paper_pictures import draw_transfers, draw_zero_shot
from benchmarks.paper_runs import Plan, find_data, read_curves, work
from benchmarks.paper_tables import make_page, to_json, transfer_curves
from benchmarks.published import Cell
from benchmarks.run_flags import INIT_FROM, LSTM_FROM, OUTPUT, SEEDS, SET
from benchmarks.seeds import Score, score
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run

_DATA = flags.DEFINE_string("data", None, "the directory of the data sets")


def main(_: list[str]) -> None:
    """Makes what is missing, part by part, and writes the page after each part."""
    start, data, output = INIT_FROM.value, _DATA.value, OUTPUT.value
    if start is None or data is None or output is None:
        raise UserError("--init_from=RUN, --data=DIR and --output=DIR2 are all needed.")
    plan = Plan(
        Path(output), start, LSTM_FROM.value, tuple(SEEDS.value or ("0", "1", "2")), tuple(SET.value or ())
    )
    plan.output.mkdir(parents=True, exist_ok=True)
    for flag, run in (("--init_from", plan.start), ("--lstm_from", plan.lstm)):
        if run is not None:
            Run(run, flag).config()
    sources, missing = find_data(Path(data))
    for task, why in missing.items():
        print(f"{task} is left out: {why}", file=sys.stderr)
    for _part in work(plan, sources):
        write(plan.output, sources, missing)
    print(write(plan.output, sources, missing), end="")


def write(output: Path, sources: dict[str, str], missing: dict[str, str]) -> str:
    """Writes tables, numbers, pictures and GLUE's files from the runs that are finished; returns the page."""

    @cache
    def scores(cell: Cell, variant: str) -> Score | None:
        return score(output / cell.task / variant, cell, sources[cell.task]) if cell.task in sources else None

    curves = read_curves(output)
    page = make_page(output, scores, missing, curves)
    lacking = write_submission(output)
    if lacking:
        page += f"\nGLUE's server also wants {', '.join(lacking)}, which submission.zip lacks.\n"
    write_whole(output / "paper.md", page)
    write_whole(output / "paper.json", json.dumps(to_json(scores, curves), indent=1) + "\n")
    if transferred := transfer_curves(scores):
        draw_transfers(transferred, output / "figure2_left.png")
    if curves:
        draw_zero_shot(curves, output / "figure2_right.png")
    return page


if __name__ == "__main__":
    door(main)
