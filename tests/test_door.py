"""The command line: wrong input is one sentence on standard error and exit code 2, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs import pretrain
from gpt1_jax.config import schema
from gpt1_jax.main import default_workdir
from gpt1_jax.tasks.catalog import CATALOG

ROOT = Path(__file__).parents[1]
TINY = f"--config={ROOT}/configs/pretrain.py:tiny"


def start(directory: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            [TINY, "--config.model.nun_layers=3"],
            ["config.model.nun_layers", "did you mean model.num_layers?"],
        ),
        (
            [TINY, "--config.modle.num_layers=3"],
            ["config.modle.num_layers", "did you mean model.num_layers?"],
        ),
        ([TINY, "--config.model.num_layers=three"], ["config.model.num_layers='three'", "a whole number"]),
        ([TINY, "--config.model.num_layers", "three"], ["config.model.num_layers='three'", "a whole number"]),
        ([TINY, "--config.model.num_layers=2.5"], ["config.model.num_layers='2.5'", "a whole number"]),
        ([TINY, "--config.model.num_layers=0"], ["config.model.num_layers=0", "at least 1"]),
        ([TINY, "--config.model.dtype=float64"], ["config.model.dtype='float64'", "bfloat16"]),
        ([TINY, "--config.optimizer.learning_rate=inf"], ["config.optimizer.learning_rate=inf"]),
        ([TINY, "--config.model.num_heads=3"], ["model.num_heads=3", "model.d_model=256"]),
        ([TINY, "--config.train.accumulation=3"], ["train.accumulation=3", "train.batch_size=8"]),
        ([TINY, "--config.mesh.tensor=0"], ["mesh.tensor=0"]),
        ([TINY, "--config.model=3"], ["config.model is a section"]),
        ([TINY, "--config.seed"], ["--config.seed has no value"]),
        ([], ["--config is missing"]),
        (["--config"], ["--config has no value"]),
        (["--config=absent.py"], ["--config=absent.py", "does not exist"]),
        (["--config=."], ["--config=. is not a Python file"]),
        ([f"--config={ROOT}/pyproject.toml"], ["pyproject.toml is not a Python file"]),
        ([TINY.replace("tiny", "gigantic")], ["gigantic has no such preset", "tiny"]),
        ([TINY, "--colour=red"], ["colour"]),
        ([TINY, "--wrkdir=here"], ["wrkdir", "workdir"]),
        ([TINY, "--workdir"], ["--workdir"]),
        ([TINY, "extra"], ["'extra'"]),
        (["--config.seed=3"], ["--config.seed", "--config=FILE.py"]),
    ],
)
def test_wrong_input_is_a_sentence_and_exit_code_2(
    arguments: list[str], named: list[str], tmp_path: Path
) -> None:
    result = start(tmp_path, "-m", "gpt1_jax.main", *arguments)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(name in line for name in named), line
    assert "Traceback" not in result.stdout + result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("raised", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("raise UserError('The field is wrong.')", 2, "error: The field is wrong.\n"),
        ("raise Fault('The run failed.')", 1, "error: The run failed.\n"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 143, "Stopped by SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGHUP); time.sleep(60)", 129, "Stopped by SIGHUP"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, "Stopped by Ctrl-C"),
    ],
)
def test_a_command_ends_with_its_exit_code(raised: str, code: int, stderr: str, tmp_path: Path) -> None:
    program = f"""
import os, signal, time
from gpt1_jax.door import door
from gpt1_jax.errors import Fault, UserError
def main(_): {raised}
door(main)
"""
    result = start(tmp_path, "-c", program)
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith(stderr)
    assert len(result.stderr.splitlines()) == bool(stderr)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_that_the_caller_has_ignored_stays_so(tmp_path: Path, name: str) -> None:
    """nohup ignores SIGHUP like this; it holds even if jax took SIGTERM meanwhile."""
    program = f"""
import os, signal, time
signal.signal(signal.{name}, signal.SIG_IGN)
from gpt1_jax import signals
from gpt1_jax.door import door
def main(_):
    signals.listen_again()
    os.kill(os.getpid(), signal.{name})
    time.sleep(0.2)  # for the thread that hears it
    print(signals.requested())
door(main)
"""
    result = start(tmp_path, "-c", program)
    assert (result.returncode, result.stdout) == (0, "None\n"), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_what_opens_a_tpu_takes_no_signal_away(tmp_path: Path, number: signal.Signals) -> None:
    """libtpu ignores SIGHUP in a process that has no handler for it."""
    pytest.importorskip("libtpu")
    program = f"""
import os, time
from gpt1_jax.ahead.compiling import find_devices
from gpt1_jax.door import door
def main(_):
    find_devices("v5e:2x2", 1)
    os.kill(os.getpid(), {int(number)})
    time.sleep(60)
door(main)
"""
    result = start(tmp_path, "-c", program)
    assert result.returncode == 128 + number and "Stopped by" in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("first", "saved", "said"),
    [
        ("SIGINT", False, "Ctrl-C again: left without saving; "),
        ("SIGINT", True, "Ctrl-C again: left at once."),
        ("SIGTERM", False, "Ctrl-C after SIGTERM: left without saving; "),
        ("SIGHUP", True, "Ctrl-C after SIGHUP: left at once."),
    ],
)
def test_a_second_signal_that_is_ctrl_c_says_whether_something_is_lost(
    tmp_path: Path, first: str, saved: bool, said: str
) -> None:
    program = f"""
import os, signal, time
from gpt1_jax import signals
from gpt1_jax.door import door
def main(_):
    with signals.something_to_save():
        os.kill(os.getpid(), signal.{first})
        time.sleep(0.5)
        if {saved}:
            signals.stopped(signal.{first}, "saved")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
door(main)
"""
    result = start(tmp_path, "-c", program)
    assert result.returncode == 130 and said in result.stderr, result.stderr


def test_what_is_typed_is_utf8_where_the_locale_is_ascii(tmp_path: Path) -> None:
    """Flags and names of files, and what runs wrote of them."""
    (tmp_path / "é").write_text("中")
    program = """
import sys
from absl import flags
from gpt1_jax.door import door
name = flags.DEFINE_string("name", None, "")
door(lambda _: print(ascii(name.value), open(name.value).read()))
"""
    result = start(tmp_path, "-c", program, "--name=é", LC_ALL="C", PYTHONUTF8="0")
    assert (result.returncode, result.stdout) == (0, "'\\xe9' 中\n"), result.stderr


def test_numbers_of_64_bits_are_not_taken_from_the_environment(tmp_path: Path) -> None:
    """JAX_ENABLE_X64 would change what is computed."""
    program = """
import os
os.environ["JAX_ENABLE_X64"] = "1"
from gpt1_jax.door import door
def main(_):
    import jax
    print(jax.config.jax_enable_x64)
door(main)
"""
    result = start(tmp_path, "-c", program)
    assert (result.returncode, result.stdout) == (0, "False\n"), result.stderr


def test_a_fault_of_ours_shows_where_it_is(tmp_path: Path) -> None:
    program = "from gpt1_jax.door import door\ndef main(_): raise ZeroDivisionError\ndoor(main)"
    result = start(tmp_path, "-c", program)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr


def test_output_that_nobody_reads_ends_quietly(tmp_path: Path) -> None:
    code = "from gpt1_jax.door import door; door(lambda _: [print(x, flush=True) for x in range(100_000)])"
    pipe = f"{sys.executable} -c '{code}' 2> err | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", pipe],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["0", "141"] and (tmp_path / "err").read_text() == ""


@pytest.mark.parametrize("command", ["main", "compile"])
def test_help_tells_every_key_with_its_meaning_and_does_not_wait_for_jax(
    tmp_path: Path, command: str
) -> None:
    ended = start(tmp_path, "-X", "importtime", "-m", f"gpt1_jax.{command}", "--help")
    assert ended.returncode == 0
    imported = set(re.findall(r"\| +([\w.]+)$", ended.stderr, re.MULTILINE))
    assert "absl.flags" in imported and "jax" not in imported
    told = " ".join(ended.stdout.split())
    for key in schema().values():
        assert f"--config.{key.name}=" in told and f": {key.help}" in told
    assert max(map(len, ended.stdout.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [("gpt1_jax",), ("gpt1_jax", "nosuch"), ("gpt1_jax.main", "--confg=x")])
def test_lists_and_wrong_flags_do_not_wait_for_jax(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = start(tmp_path, "-X", "importtime", "-m", *arguments)
    imported = set(re.findall(r"\| +([\w.]+)$", ended.stderr, re.MULTILINE))
    assert "gpt1_jax" in imported and not imported & {"jax", "rich", "tensorboardX"}


def test_help_of_training_lists_presets_and_tasks(tmp_path: Path) -> None:
    told = start(tmp_path, "-m", "gpt1_jax.main", "--help").stdout
    words = set(re.findall(r"\w+", told[told.index("Presets") :]))
    assert words >= {*filter(None, pretrain.PRESETS), *CATALOG}


@pytest.mark.parametrize("flag", ["--help", "-h", "-?", "--helpshort"])
def test_help_tells_the_flags_of_the_command_and_no_other(tmp_path: Path, flag: str) -> None:
    ended = start(tmp_path, "-m", "gpt1_jax", "report", flag)
    assert ended.returncode == 0 and ended.stdout.startswith("Shows runs as a page")
    defined = re.findall(r"flags\.DEFINE_\w+\(\s*\"(\w+)\"", (ROOT / "gpt1_jax" / "report.py").read_text())
    assert re.findall(r"^  --(\w+)=", ended.stdout, re.MULTILINE) == sorted(defined)


def test_overrides_reach_the_config(tmp_path: Path) -> None:
    """Keys may be given as --key=value and as --key value, optional ones too; the last one counts."""
    program = """
import gpt1_jax.main as main
from gpt1_jax import config_flag
from gpt1_jax.overrides import from_dict
from gpt1_jax.door import door
def show(_):
    config = from_dict(config_flag.read(main._CONFIG))
    print(config.seed, config.init_from, config.optimizer.learning_rate, config.mesh.data, config.model.dtype)
door(show)
"""
    flags = ["--config.seed=1", "--config.seed", "2", "--config.init_from=runs/other"]
    flags += [
        "--config.optimizer.learning_rate=1",
        "--config.mesh.data=-1",
        "--config.model.dtype",
        "bfloat16",
    ]
    result = start(tmp_path, "-c", program, TINY, *flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["2", "runs/other", "1.0", "-1", "bfloat16"]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("top_k=-1 is out of range", "--top_k=-1 is out of range"),
        ("set num_beams, or leave it out", "set --num_beams, or leave it out"),
        ("set beyond_context=slide", "set --beyond_context=slide"),
        ("seed=3 has no place, and stop=5", "--seed=3 has no place, and stop=5"),
        ("the seed of x/num_beams is 'top_k'", "the seed of x/num_beams is 'top_k'"),
    ],
)
def test_an_error_names_flags_as_they_are_typed(tmp_path: Path, raised: str, told: str) -> None:
    program = f"""
import gpt1_jax.generate
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
def main(_): raise UserError({raised!r})
door(main)
"""
    result = start(tmp_path, "-c", program, "--seed=3", "--top_k=-1")
    assert (result.returncode, result.stderr) == (2, f"error: {told}\n")


@pytest.mark.parametrize(
    ("spec", "directory"),
    [
        ("configs/pretrain.py:tiny", "runs/pretrain-tiny"),
        ("configs/pretrain.py", "runs/pretrain"),
        ("/a/b/mine.py:small", "runs/mine-small"),
    ],
)
def test_presets_have_run_directories_of_their_own(spec: str, directory: str) -> None:
    assert default_workdir(spec) == directory


def test_a_closed_standard_input_is_no_pipe_of_ours(tmp_path: Path) -> None:
    """Otherwise /dev/stdin would be the next descriptor that is opened, and reading it would never end."""
    command = [
        sys.executable,
        "-m",
        "gpt1_jax.predict",
        "--workdir=w",
        "--input=/dev/stdin",
        f"--output={tmp_path}/o",
    ]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "w is not a run directory" in done.stderr


def test_a_warning_is_a_line_for_a_reader_without_the_time_and_place_of_its_code(tmp_path: Path) -> None:
    program = """
from absl import logging
from gpt1_jax.door import door

def main(_):
    logging.warning("%s is left out", "a line")
    logging.info("not told")

door(main)
"""
    done = start(tmp_path, "-c", program)
    assert (done.returncode, done.stderr) == (0, "warning: a line is left out\n")
