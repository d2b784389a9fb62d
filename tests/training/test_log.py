"""Metrics: FLOPs and MFU are counted as the paper's model has them, the log survives crashes and resumes."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from flax import linen as nn
from support import tiny_config, tiny_model, use_mesh

from configs import pretrain
from gpt1_jax.devices.chips import PEAK_FLOPS
from gpt1_jax.devices.memory import peak_memory
from gpt1_jax.devices.mesh import make_mesh
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.run import Run
from gpt1_jax.training import entries, log, plan, speed
from gpt1_jax.training.log import MetricsLog
from gpt1_jax.training.speed import Stopwatch, model_flops_utilization, training_flops_per_token


def read(directory: Path) -> list[dict[str, object]]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines]


def test_gpt_1_costs_725_megaflop_a_token() -> None:
    assert training_flops_per_token(pretrain.paper().model, 40_478) == pytest.approx(725e6, abs=0.5e6)


def test_attention_both_ways_takes_twice_the_flops_and_berts_output_meets_hidden_pieces_only() -> None:
    """BERT's further parameters: a dense layer and its bias, a norm, a bias a piece, and the embeddings' norm."""
    gpt1 = tiny_model()
    bert = tiny_model(causal=False, embedding_norm=True)
    more = training_flops_per_token(bert, 300) - training_flops_per_token(gpt1, 300)
    attention, width = gpt1.num_layers * gpt1.context_length * gpt1.d_model, gpt1.d_model
    share = round(0.15 * (gpt1.context_length - 2)) / gpt1.context_length
    output = share * (300 * width + width * width + 3 * width + 300)
    assert more == pytest.approx(6 * (attention + 2 * width + output - 300 * width))


def test_longer_contexts_cost_their_causal_attention() -> None:
    """Scores and mixing take two FLOPs each for half of T keys, forward once and backward twice: 6 · L · T · D."""
    model = tiny_model()
    longer = dataclasses.replace(model, context_length=model.context_length + 100)
    more = training_flops_per_token(longer, 300) - training_flops_per_token(model, 300)
    assert more == 3 * 2 * (2 * 32) * 100 / 2 * model.num_layers


def test_an_lstm_costs_six_flop_a_weight_of_its_matmuls() -> None:
    model = tiny_model(kind="lstm", num_layers=1, d_model=32, d_ff=48)
    vocab_size = 125
    with use_mesh():
        trunk, tokens = make_trunk(model, vocab_size), jnp.zeros((1, 1), jnp.int32)
        params = jax.eval_shape(lambda key: nn.unbox(trunk.init(key, tokens))["params"], jax.random.key(0))
    kernels = [leaf.size for name, leaf in params["blocks"].items() if name.endswith("kernel")]
    assert len(kernels) == 3
    assert training_flops_per_token(model, vocab_size) == 6 * (sum(kernels) + vocab_size * 32)


def test_mfu_is_none_where_the_peak_is_not_known_and_a_share_of_all_devices_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert model_flops_utilization(1000, 725e6, 8) is None
    monkeypatch.setitem(PEAK_FLOPS, jax.devices()[0].device_kind, 1e12)
    assert model_flops_utilization(1000, 725e6, 8) == pytest.approx(0.725 / 8)


def test_entries_of_later_steps_and_a_torn_last_line_are_dropped_on_resume(tmp_path: Path) -> None:
    entries = [{"step": s, "kind": k, "loss": 1.0} for s in range(1, 7) for k in ("train", "eval")]
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "kind": "tr')
    log = MetricsLog(epath.Path(tmp_path), step=4, num_steps=9)
    assert read(tmp_path) == entries[:8]  # at once, so that a second crash finds it right
    log.write(5, "train", {"loss": 0.5})
    log.close()
    assert read(tmp_path) == [*entries[:8], {"step": 5, "kind": "train", "loss": 0.5}]


def test_the_start_of_a_long_run_reads_only_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_lines: list[bytes] = []
    parse = entries._parse
    monkeypatch.setattr(entries, "_parse", lambda line: read_lines.append(line) or parse(line))
    lines = [
        json.dumps({"step": s, "kind": "train", "loss": 1.0, "seconds_per_step": s / 8})
        for s in range(1, 100_001)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run, model, mesh = Run(str(tmp_path)), tiny_config().model, make_mesh(tiny_config().mesh)
    assert plan.expect_seconds(run, model, mesh, 1e9) == 12_500
    log = MetricsLog(epath.Path(tmp_path), step=99_998, num_steps=200_000)
    log.write(99_999, "train", {"loss": 0.5})
    log.close()
    assert len(read_lines) < 30_000
    written = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert written[:-1] == lines[:99_998]
    assert json.loads(written[-1]) == {"step": 99_999, "kind": "train", "loss": 0.5}


def test_a_copy_that_shares_the_logs_bytes_keeps_them(tmp_path: Path) -> None:
    text = "".join(json.dumps({"step": s, "kind": "train", "loss": 1.0}) + "\n" for s in range(1, 7))
    (tmp_path / "metrics.jsonl").write_text(text)
    (tmp_path / "backup.jsonl").hardlink_to(tmp_path / "metrics.jsonl")
    MetricsLog(epath.Path(tmp_path), step=4, num_steps=9).close()
    assert len(read(tmp_path)) == 4 and (tmp_path / "backup.jsonl").read_text() == text


def test_each_call_is_one_line_on_disk_at_once_and_in_tensorboard(tmp_path: Path) -> None:
    log = MetricsLog(epath.Path(tmp_path), step=0, num_steps=9)
    for number, kind in enumerate(("train", "eval", "train"), start=1):
        log.write(number, kind, {"loss": 1.0, "seconds_per_step": 0.1})
        assert len(read(tmp_path)) == number
    log.close()
    assert [path.stat().st_size > 0 for path in (tmp_path / "tensorboard").iterdir()] == [True]


def test_numbers_that_are_not_finite_are_null_in_valid_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricsLog(epath.Path(tmp_path), step=0, num_steps=9)
    log.write(1, "train", {"loss": math.nan, "perplexity": math.inf, "grad_norm": -math.inf, "rate": 0.5})
    log.close()
    assert read(tmp_path) == [
        {"step": 1, "kind": "train", "loss": None, "perplexity": None, "grad_norm": None, "rate": 0.5}
    ]
    assert not capfd.readouterr().err and not caplog.records  # TensorBoard's writer would warn of each


def test_lines_that_a_disk_damaged_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [{"step": s, "kind": "train", "loss": 1.0} for s in range(1, 8)]
    lines: list[bytes] = [json.dumps(entry).encode() for entry in entries]
    lines[1] = b"\0" * 40
    lines[2] = b"\xff" + lines[2]
    lines[3] = b"[" * 100_000
    lines[4] = b'{"kind": "train"}'
    lines[5] = b"[1]"
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    MetricsLog(epath.Path(tmp_path), step=7, num_steps=9).close()
    assert read(tmp_path) == [entries[0], entries[6]]
    assert "5 damaged lines left out" in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [False, True])
def test_when_nobody_watches_any_more_the_training_goes_on(tmp_path: Path, terminal: bool) -> None:
    """The output goes to a pipe that nobody reads, or to a terminal that is gone."""
    program = f"""
import sys
from etils import epath
sys.stdout.isatty = lambda: {terminal}
from gpt1_jax.training.log import MetricsLog
log = MetricsLog(epath.Path({str(tmp_path)!r}), step=0, num_steps=9)
for step in range(1, 10):
    log.write(step, "train", {{"loss": 1.0, "tokens_per_second": 5.0}})
    log.tell("a line for nobody")
log.close()
"""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=broken, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("standard output is gone") == 1
    assert len(read(tmp_path)) == 9


def test_a_tensorboard_that_cannot_be_written_is_told_once_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The disk has 8 KB, so each write fails after some events."""
    written = [0]

    def write(self: object, event: object) -> None:
        written[0] += 1
        if written[0] > 50:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt1_jax.disk.events.EventsWriter.write_event", write)
    log = MetricsLog(epath.Path(tmp_path), step=0, num_steps=9)
    for step in range(30_000):
        log._boards[0].add(step, {"loss": 1.0})
    log.close()
    assert capfd.readouterr().err.count("TensorBoard's file failed") == 1


def test_a_full_disk_is_an_error_that_names_the_log(tmp_path: Path) -> None:
    log = MetricsLog(epath.Path(tmp_path), step=0, num_steps=9)
    assert log._file._file is not None
    with log._file._file, Path("/dev/full").open("ab", buffering=0) as full:
        log._file._file = full
        with pytest.raises(OSError, match=r"No space left on device.*metrics\.jsonl"):
            log.write(1, "train", {"loss": 1.0})
    log._file._file = None
    log.close()


def test_the_stopwatch_counts_steps_without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)
    watch = Stopwatch()
    now += 6
    watch.step()
    watch.step()
    watch.pause()
    now += 1000  # evaluation
    watch.resume()
    now += 3
    watch.step()
    assert watch.lap() == 3
    now += 5
    watch.step()
    assert watch.lap() == 5


def test_peak_memory_is_told_in_gigabytes() -> None:
    amount, unit, *_ = peak_memory().split()
    assert 0.05 < float(amount) < 500 and unit == "GB"


@pytest.mark.parametrize("appends", [True, False])
def test_lines_are_there_at_once_or_where_files_cannot_grow_when_saved(tmp_path: Path, appends: bool) -> None:
    path = epath.Path(tmp_path) / "lines"
    path.write_text("what was there\n")
    file = log.LineFile(path, ["first"], appends)
    file.add("second")
    assert path.read_text() == "first\n" + "second\n" * appends
    file.save()
    assert path.read_text() == "first\nsecond\n"
    file.add("third")
    file.close()
    assert path.read_text() == "first\nsecond\nthird\n"
