"""tpu_vm.sh against a stand-in for gcloud: what it calls, and what it does in all that can befall a slice."""

import json
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from launch_support import LAUNCH, Answer, Cloud

TPU_VM = LAUNCH / "tpu_vm.sh"
PLACE = ["--zone=us-west4-a", "--project=p"]
TRAINING = ["--", "--config=configs/pretrain.py", "--workdir=gs://bucket/run"]
AWKWARD = [
    "--a=b c",
    "--b=it's",
    '--c="d"',
    "--d=$HOME `id` $(id)",
    "--e=*;&|<>",
    "--f=",
    "--g=\\",
    "--h=ü\n",
]
STATUS = "--command=systemctl"
ALIVE = ["-oConnectTimeout=15", "-oServerAliveInterval=30"]


def checksum(*flags: str) -> str:
    """Returns what distinguishes a training from others, from the script that starts it on a worker."""
    script = shlex.join(["exec", ".venv/bin/python", "-m", "gpt1_jax.main", *flags])
    done = subprocess.run(["cksum"], input=f"{script} \n", capture_output=True, text=True, check=True)
    return done.stdout.strip()


def workers(*states: str, training: str = checksum(*TRAINING[1:])) -> str:
    """What workers of these states print: SubState, ExecMainStatus and Description, in whatever order."""
    facts = [
        (f"SubState={name}", f"Description={training}", f"ExecMainStatus={code}")
        for name, code in map(str.split, states)
    ]
    return "".join(f"gpt1_jax: {' '.join(fact[:: (-1) ** i])}\n" for i, fact in enumerate(facts))


FIRST = workers(*["dead 0"] * 4)
RUNNING = workers(*["running 0"] * 3, "auto-restart 1")
DONE = workers(*["exited 0"] * 4)
WRONG = workers("auto-restart 137", "failed 2", "failed 2", "running 0")
FAILED = workers("failed 1", *["running 0"] * 3)
MIXED = workers(*["exited 0"] * 3, "auto-restart 143")
LOST = (255, "")


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    cloud = Cloud(tmp_path / "bin", "gcloud")
    cloud.script("sleep", "#!/bin/sh\n")
    return cloud


def told(cloud: Cloud) -> list[str]:
    """The calls that change something or ask the workers, in a word each."""
    words = {
        "queued-resources create": "create",
        "queued-resources delete": "delete",
        "tpu-vm scp": "copy",
        "tpu_worker.sh": "start",
        STATUS: "look",
        "journalctl": "journal",
        "queued-resources describe": "describe",
    }
    calls = [" ".join(call) for call in cloud.calls()]
    return [word for call in calls for part, word in words.items() if part in call]


def train(cloud: Cloud, slices: Sequence[Answer], workers: Sequence[Answer], expect: int) -> list[str]:
    """What `train` did while the slice and its workers went through these states."""
    cloud.answer("queued-resources list", *slices)
    cloud.answer(STATUS, *workers)
    _, err = cloud.run(TPU_VM, "train", *PLACE, "--spot", *TRAINING, expect=expect)
    print(err)
    return told(cloud)


def test_create(cloud: Cloud) -> None:
    cloud.run(TPU_VM, "create", *PLACE, "--name=mine", "--type=v6e-16", "--spot")
    assert cloud.calls() == [
        ["gcloud", "compute", "tpus", "queued-resources", "create", "mine", "--node-id=mine",
         "--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--spot", "--zone=us-west4-a",
         "--quiet", "--project=p"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "runtime"),
    [
        (["--type=v5litepod-16"], "v2-alpha-tpuv5-lite"),
        (["--type=v5p-32"], "v2-alpha-tpuv5"),
        (["--type=v4-32"], "tpu-ubuntu2204-base"),
        (["--type=v4-32", "--runtime=mine"], "mine"),
    ],
)
def test_the_runtime_fits_the_type(cloud: Cloud, flags: list[str], runtime: str) -> None:
    cloud.run(TPU_VM, "create", "--zone=z", *flags)
    (call,) = cloud.calls()
    assert f"--runtime-version={runtime}" in call
    assert "--spot" not in call and not any(word.startswith("--project") for word in call)


def test_delete_and_logs(cloud: Cloud) -> None:
    cloud.run(TPU_VM, "delete", *PLACE)
    cloud.run(TPU_VM, "logs", *PLACE, "--worker=3")
    delete, logs = cloud.calls()
    place = ["--zone=us-west4-a", "--quiet", "--project=p"]
    assert delete[3:] == ["queued-resources", "delete", "gpt1-jax", "--force", *place]
    follow = "sudo journalctl --unit=gpt1_jax --output=cat --lines=100 --follow"
    alive = [f"--ssh-flag={flag}" for flag in ALIVE]
    assert logs[3:] == ["tpu-vm", "ssh", "gpt1-jax", "--worker=3", *alive, f"--command={follow}", *place]


def test_what_the_workers_get_is_what_was_typed(cloud: Cloud, tmp_path: Path) -> None:
    """The parcel is opened as a worker does, and its train.sh run."""
    cloud.script(
        "gcloud",
        (cloud.directory / "gcloud").read_text()
        + "if 'scp' in sys.argv:\n    import shutil\n    shutil.copy(sys.argv[5], here / 'parcel')\n",
    )
    cloud.run(TPU_VM, "run", *PLACE, "--setup=echo 'a  b' > got", *TRAINING, *AWKWARD)
    copy, start = cloud.calls()
    assert copy[3:5] == ["tpu-vm", "scp"] and copy[6:8] == ["gpt1-jax:", "--worker=all"]
    assert copy[8:10] == [f"--scp-flag={flag}" for flag in ALIVE]
    assert start[3:7] == ["tpu-vm", "ssh", "gpt1-jax", "--worker=all"]
    assert not any("b c" in word for word in start)  # what was typed goes by the parcel alone

    home = tmp_path / "gpt1_jax"
    with tarfile.open(cloud.directory / "parcel") as parcel:
        assert not any("__pycache__" in name for name in parcel.getnames())
        secret = [parcel.getmember(name) for name in ("setup.sh", "train.sh")]
        assert [member.mode & 0o777 for member in secret] == [0o600] * 2
        parcel.extractall(home, filter="data")
    for name in (
        "configs/pretrain.py",
        "gpt1_jax/main.py",
        "launch/tpu_worker.sh",
        "pyproject.toml",
        "LICENSE",
    ):
        assert (home / name).exists()
    python = home / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.chmod(0o755)
    out = subprocess.run(["bash", "train.sh"], cwd=home, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == ["-m", "gpt1_jax.main", *TRAINING[1:], *AWKWARD]
    subprocess.run(["bash", "setup.sh"], cwd=home, check=True)
    assert (home / "got").read_text() == "a  b\n"


def test_dry_run_prints_all_and_calls_nothing(cloud: Cloud) -> None:
    out, _ = cloud.run(TPU_VM, "train", *PLACE, "--spot", "--dry_run", *TRAINING, *AWKWARD)
    assert cloud.calls() == []
    commands = [shlex.split(line) for line in out.splitlines() if line.startswith("gcloud ")]
    assert [command[3:5] for command in commands] == [
        ["queued-resources", "create"],
        ["tpu-vm", "scp"],
        ["tpu-vm", "ssh"],
        ["queued-resources", "delete"],
    ]
    (line,) = (line for line in out.splitlines() if line.startswith("exec "))
    words = subprocess.run(
        ["bash", "-c", line.replace("exec", "printf '%s\\0'", 1)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")[:-1]
    assert words == [".venv/bin/python", "-m", "gpt1_jax.main", *TRAINING[1:], *AWKWARD]


@pytest.mark.parametrize("action", ["create", "run", "logs", "delete"])
def test_each_part_has_a_dry_run(cloud: Cloud, action: str) -> None:
    out, _ = cloud.run(TPU_VM, action, *PLACE, "--dry_run", *(TRAINING if action == "run" else []))
    assert cloud.calls() == [] and out.count("gcloud compute tpus ") == (2 if action == "run" else 1)


def test_train_waits_starts_and_gives_back(cloud: Cloud) -> None:
    slices = ["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    assert train(cloud, slices, [FIRST, RUNNING, RUNNING, DONE], expect=0) == [
        "create", "look", "copy", "start", "look", "look", "look", "delete",
    ]  # fmt: skip


def test_a_preempted_slice_is_asked_for_again(cloud: Cloud) -> None:
    slices = ["", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "", "WAITING_FOR_RESOURCES", "ACTIVE"]
    assert train(cloud, slices, [FIRST, RUNNING, FIRST, RUNNING, DONE], expect=0) == [
        "create", "look", "copy", "start", "look",
        "delete", "create", "look", "copy", "start", "look", "look", "delete",
    ]  # fmt: skip
    starts = [call for call in cloud.calls() if "tpu_worker.sh" in call[-4]]
    assert starts[0] == starts[1]  # the very same, so that it resumes


def test_wrong_input_is_not_tried_again(cloud: Cloud) -> None:
    assert train(cloud, ["", "ACTIVE"], [FIRST, RUNNING, WRONG], expect=2) == [
        "create", "look", "copy", "start", "look", "look", "journal", "delete",
    ]  # fmt: skip


@pytest.mark.parametrize("before", [WRONG, FAILED])
def test_what_failed_before_the_command_is_started_anew(cloud: Cloud, before: str) -> None:
    """Its input, data in a bucket or a config, was mended."""
    done = train(cloud, ["ACTIVE"], [before, RUNNING, DONE], expect=0)
    assert done == ["look", "copy", "start", "look", "look", "delete"]


@pytest.mark.parametrize("state", ["running 0", "exited 0", "failed 2"])
def test_another_training_is_left_alone(cloud: Cloud, state: str) -> None:
    other = workers(state, *["running 0"] * 3, training=checksum("--workdir=gs://bucket/other"))
    assert train(cloud, ["ACTIVE"], [other], expect=2) == ["look"]


def test_a_training_that_crashes_for_good_ends(cloud: Cloud) -> None:
    done = train(cloud, ["ACTIVE"], [RUNNING, FAILED], expect=1)
    assert done == ["look", "look", "journal", "delete"]


def test_workers_that_disagree_start_again_but_not_at_once(cloud: Cloud) -> None:
    assert train(cloud, ["ACTIVE"], [RUNNING, MIXED, RUNNING, MIXED, DONE], expect=0).count("start") == 0


def test_workers_that_disagree_for_long_start_again(cloud: Cloud) -> None:
    """One was stopped by hand once the others were done."""
    done = train(cloud, ["ACTIVE"], [RUNNING, MIXED, MIXED, RUNNING, DONE], expect=0)
    assert done == ["look", "look", "look", "copy", "start", "look", "look", "delete"]


def test_a_slice_that_went_without_a_word(cloud: Cloud) -> None:
    """The queue still calls it active."""
    cloud.answer("tpu-vm describe", "PREEMPTED\n")
    done = train(cloud, ["ACTIVE", "", "ACTIVE"], [LOST, FIRST, DONE], expect=0)
    assert done == ["look", "delete", "create", "look", "copy", "start", "look", "delete"]


def test_workers_that_never_answer(cloud: Cloud) -> None:
    cloud.answer("tpu-vm describe", "READY\n")
    assert train(cloud, ["ACTIVE"], [LOST], expect=1) == ["look"] * 10 + ["delete"]


def test_a_worker_that_does_not_answer_is_not_taken_for_done(cloud: Cloud) -> None:
    assert train(cloud, ["ACTIVE"], [(255, workers(*["exited 0"] * 3)), DONE], expect=0) == [
        "look",
        "look",
        "delete",
    ]


def test_an_installation_that_never_works(cloud: Cloud) -> None:
    cloud.answer("tpu_worker.sh", (1, ""))
    assert train(cloud, ["ACTIVE"], [FIRST], expect=1) == ["look", "copy", "start"] * 10 + ["delete"]


def test_a_slice_that_is_refused(cloud: Cloud) -> None:
    assert train(cloud, ["", "FAILED"], [FIRST], expect=1) == ["create", "describe", "delete"]


def test_a_cloud_out_of_reach_is_waited_for_once_it_answered(cloud: Cloud) -> None:
    gone = [(1, "")] * 20
    assert train(cloud, ["ACTIVE", *gone, "ACTIVE"], [RUNNING, DONE], expect=0) == ["look", "look", "delete"]


def test_a_cloud_that_never_answers(cloud: Cloud) -> None:
    assert train(cloud, [(1, "")], [FIRST], expect=1) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["create"], "--zone is missing"),
        (["fly", *PLACE], "fly is not one of"),
        (["create", *PLACE, "--spott"], "--spott is not a flag"),
        (["create", *PLACE, "--name=A b"], "--name=A b is not a name"),
        (["create", *PLACE, "--type=v5e-16"], "--type=v5e-16 is not a kind that is known"),
        (["create", *PLACE, "--type="], "--type= is not a kind that is known"),
        (["train", *PLACE], "no training flags"),
        (["train", *PLACE, "--"], "no training flags"),
        (["train", *PLACE, "--", "--config=configs/pretrain.py", "--workdir=runs/x"], "must be on gs://"),
        (["train", *PLACE, "--", "--config=configs/pretrain.py", "--workdir=gs:///runs/x"], "name a bucket"),
        (
            ["train", *PLACE, "--", "--config=configs/pretain.py", "--workdir=gs://b/x"],
            "pretain.py is not a file that",
        ),
    ],
)
def test_what_is_typed_wrong_is_told(cloud: Cloud, words: list[str], told: str) -> None:
    _, err = cloud.run(TPU_VM, *words, expect=2)
    assert told in err and cloud.calls() == []


def test_a_worker_installs_and_starts_a_service(tmp_path: Path) -> None:
    """tpu_worker.sh, with stand-ins for what changes the machine."""
    cloud = Cloud(tmp_path / "bin", "sudo", "python3")
    home = tmp_path / "gpt1_jax"
    (home / "launch").mkdir(parents=True)
    (home / "launch/tpu_worker.sh").write_bytes((LAUNCH / "tpu_worker.sh").read_bytes())
    cloud.run("bash", home / "launch/tpu_worker.sh", cwd=tmp_path, expect=2)  # by hand, not by tpu_vm.sh
    assert cloud.calls() == []
    (home / "setup.sh").write_text("pwd > setup-was-here\n")
    (home / "train.sh").write_text(
        shlex.join(["exec", ".venv/bin/python", "-m", "gpt1_jax.main", *TRAINING[1:]]) + " \n"
    )
    cloud.run("bash", home / "launch/tpu_worker.sh", cwd=tmp_path)
    assert (home / "setup-was-here").read_text().strip() == str(home)
    stop, reset, *installs, service = cloud.calls()
    assert stop == ["sudo", "systemctl", "stop", "gpt1_jax"]
    assert reset == ["sudo", "systemctl", "reset-failed", "gpt1_jax"]
    assert installs[-1][-2:] == [".[tpu,demo]", "etils[epath-gcs]"]
    assert service[:3] == ["sudo", "systemd-run", "--unit=gpt1_jax"]
    assert service[-2:] == ["bash", "launch/tpu_start.sh"]
    assert f"--working-directory={home}" in service
    assert f"--description={checksum(*TRAINING[1:])}" in service
    assert {
        "--property=Restart=on-failure",
        "--property=RestartPreventExitStatus=2",
        "--property=StartLimitIntervalSec=1d",
        "--property=StartLimitBurst=20",
        "--property=RemainAfterExit=yes",
        "--property=LimitMEMLOCK=infinity",
        "--property=Wants=network-online.target",
        "--property=After=network-online.target",  # the last save goes to gs://: the network ends after it
    } <= set(service)


@pytest.fixture
def started(tmp_path: Path) -> Cloud:
    """Makes a worker on which tpu_start.sh may run: sudo runs its command, and the training says that it is there."""
    cloud = Cloud(tmp_path / "bin", "python3")
    cloud.script("sudo", '#!/bin/sh\nexec "$@"\n')
    (tmp_path / "train.sh").write_text("echo training\n")
    (tmp_path / "tmp").mkdir()
    return cloud


def start(cloud: Cloud, place: Path) -> tuple[str, str]:
    return cloud.run("bash", LAUNCH / "tpu_start.sh", cwd=place, TMPDIR=str(place / "tmp"))


def test_a_lock_file_that_libtpu_left_is_removed_at_each_start(started: Cloud, tmp_path: Path) -> None:
    lock = tmp_path / "tmp" / "libtpu_lockfile"
    for _ in range(2):
        lock.touch()
        assert start(started, tmp_path) == ("training\n", "")
        assert not lock.exists()
    assert start(started, tmp_path) == ("training\n", "")


def test_a_lock_file_that_a_process_holds_stays_and_is_told(started: Cloud, tmp_path: Path) -> None:
    lock = tmp_path / "tmp" / "libtpu_lockfile"
    with lock.open("w"):
        out, err = start(started, tmp_path)
    assert out == "training\n" and "another process uses the chips" in err
    assert lock.exists()
