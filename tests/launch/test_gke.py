"""The JobSet manifests, field by field, and what they and the image run, for real, as two pods on this machine."""

import ast
import json
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command_support import ROOT, Runner, last_step
from launch_support import LAUNCH, Cloud, small_run

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra test)")

MANIFESTS = {name: yaml.safe_load((LAUNCH / f"gke/{name}.yaml").read_text()) for name in ("tpu", "gpu")}
each = pytest.mark.parametrize("name", MANIFESTS)


def job(name: str) -> dict[str, Any]:
    (replicated,) = MANIFESTS[name]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod(name: str) -> dict[str, Any]:
    return job(name)["template"]["spec"]


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    return only


@each
def test_the_api_knows_every_field(name: str) -> None:
    """Against the models that are generated from JobSet's and Kubernetes' own definitions."""
    module = pytest.importorskip(
        "kubeflow_trainer_api.models.jobset_v1alpha2_job_set",
        reason="kubeflow-trainer-api is not installed (extra test)",
    )
    model = module.JobsetV1alpha2JobSet.from_dict(MANIFESTS[name])  # refuses wrong types and missing fields
    lost = list(missing(MANIFESTS[name], json.loads(model.to_json())))
    assert lost == []


def missing(given: Any, known: Any, path: str = "") -> Any:
    """Paths of what is given and not known."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in known:
                yield f"{path}.{key}"
            else:
                yield from missing(value, known[key], f"{path}.{key}")
    elif isinstance(given, list):
        for i, (value, other) in enumerate(zip(given, known, strict=True)):
            yield from missing(value, other, f"{path}[{i}]")
    elif given != known:
        yield path


@each
def test_what_the_jobset_is(name: str) -> None:
    manifest = MANIFESTS[name]
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert manifest["kind"] == "JobSet"
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
    assert set(manifest["spec"]) - {"coordinator"} == {"failurePolicy", "replicatedJobs"}
    assert job(name)["completionMode"] == "Indexed"
    assert job(name)["parallelism"] == job(name)["completions"]


@each
def test_all_start_again_but_not_after_exit_code_2(name: str) -> None:
    """batch/v1 fails the Job on the first pod: with the reason PodFailurePolicy on 2, else BackoffLimitExceeded."""
    assert job(name)["backoffLimit"] == 0
    assert job(name)["podFailurePolicy"] == {
        "rules": [
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": container(name)["name"], "operator": "In", "values": [2]},
            }
        ]
    }
    assert pod(name)["restartPolicy"] == "Never"  # what podFailurePolicy needs
    policy = MANIFESTS[name]["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0  # RestartJobSet, the default, is what no rule matches
    assert policy["restartStrategy"] == "BlockingRecreate"
    (rule,) = policy["rules"]
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule.pop("name"))
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}


@each
def test_there_is_time_to_save_and_spot_is_asked_for(name: str) -> None:
    assert pod(name)["terminationGracePeriodSeconds"] >= 60
    kubelet = yaml.safe_load((LAUNCH / "gke/nodes.yaml").read_text())["kubeletConfig"]
    for_pods = kubelet["shutdownGracePeriodSeconds"] - kubelet["shutdownGracePeriodCriticalPodsSeconds"]
    assert pod(name)["terminationGracePeriodSeconds"] <= for_pods  # else it is promised and not held
    assert kubelet["shutdownGracePeriodSeconds"] <= 120  # what GKE grants
    text = (ROOT / "launch/README.md").read_text()
    pools = [line for line in text.splitlines() if line.startswith("gcloud container node-pools create")]
    assert len(pools) == 2
    assert all(
        "--spot" in line and "--system-config-from-file=launch/gke/nodes.yaml" in line for line in pools
    )


@each
def test_what_was_tokenized_and_compiled_outlives_the_pods(name: str) -> None:
    """The bucket is mounted where the cache is."""
    (volume,) = (volume for volume in pod(name)["volumes"] if volume["name"] == "cache")
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "BUCKET"
    assert (
        "rename-dir-limit" in volume["csi"]["volumeAttributes"]["mountOptions"]
    )  # a corpus is made beside its place
    assert {"name": "cache", "mountPath": "/cache"} in container(name)["volumeMounts"]
    template = job(name)["template"]
    assert template["metadata"] == {"annotations": {"gke-gcsfuse/volumes": "true"}}
    text = (ROOT / "launch/README.md").read_text()
    assert "--addons=GcsFuseCsiDriver" in text
    assert pod(name)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod(name)["tolerations"] == [
        {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]


@each
def test_the_training_fits_the_devices(name: str) -> None:
    config, place, cache, batch, *_ = container(name)["args"]
    assert config == "--config=configs/pretrain.py:small" and place.startswith("--workdir=gs://BUCKET/")
    assert cache == "--config.data.cache_dir=/cache"
    (devices,) = container(name)["resources"]["limits"].values()
    assert batch.startswith("--config.train.batch_size=")
    assert int(batch.partition("=")[2]) % (devices * job(name)["parallelism"]) == 0


def test_a_tpu_slice() -> None:
    selector = pod("tpu")["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    chips = 1
    for side in selector["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    assert container("tpu")["resources"] == {"limits": {"google.com/tpu": chips // job("tpu")["parallelism"]}}
    assert MANIFESTS["tpu"]["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert not any("coordinator" in argument for argument in container("tpu")["args"])  # GKE tells


def test_gpu_nodes_know_each_other() -> None:
    manifest = MANIFESTS["gpu"]
    (replicated,) = manifest["spec"]["replicatedJobs"]
    assert manifest["spec"]["coordinator"] == {
        "replicatedJob": replicated["name"], "jobIndex": 0, "podIndex": 0,
    }  # fmt: skip
    assert container("gpu")["env"] == [
        {
            "name": "COORDINATOR",
            "valueFrom": {
                "fieldRef": {"fieldPath": "metadata.annotations['jobset.sigs.k8s.io/coordinator']"},
            },
        }
    ]
    assert replicated["replicas"] == 1
    assert container("gpu")["args"][-3:] == [
        "--coordinator=$(COORDINATOR):8476",
        f"--num_processes={job('gpu')['parallelism']}",
        "--process_id=$(JOB_COMPLETION_INDEX)",  # Kubernetes sets it in an indexed Job
    ]
    assert pod("gpu")["nodeSelector"]["cloud.google.com/gke-accelerator"] == "nvidia-h100-80gb"
    assert container("gpu")["resources"] == {"limits": {"nvidia.com/gpu": 8}}


@each
def test_what_a_reader_puts_in(tmp_path: Path, name: str) -> None:
    """The command at the manifest's head, kubectl being a stand-in."""
    text = (LAUNCH / f"gke/{name}.yaml").read_text()
    head, _, rest = text.partition("apiVersion")
    assert rest.count("IMAGE") == 1 and rest.count("BUCKET") == 2
    kubectl = Cloud(tmp_path / "bin", "kubectl")
    kubectl.script("kubectl", '#!/bin/sh\necho "$@" >"${0%/*}/said"\ncat >"${0%/*}/got"\n')
    kubectl.run("bash", "-c", " ".join(re.findall(r"^#   +(.*)", head, re.MULTILINE)))
    assert (kubectl.directory / "said").read_text() == "apply --filename=-\n"
    got = yaml.safe_load((kubectl.directory / "got").read_text())
    only = got["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert only["image"] == f"us-docker.pkg.dev/PROJECT/gpt1-jax/train:{'tpu' if name == 'tpu' else 'cuda'}"
    assert only["args"][1] == "--workdir=gs://my-bucket/runs/pretrain-small"


def test_the_image_has_what_it_copies() -> None:
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
    assert entrypoint() == ["python3", "-m", "gpt1_jax.main"]
    # What pip installs is there before pip runs.
    installing = next(number for number, line in enumerate(lines) if line.startswith("RUN pip install"))
    assert not any(line.startswith("COPY ") for line in lines[installing:])


def entrypoint() -> list[str]:
    (line,) = (x for x in (LAUNCH / "Dockerfile").read_text().splitlines() if x.startswith("ENTRYPOINT "))
    return ast.literal_eval(line.removeprefix("ENTRYPOINT "))


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return str(found.getsockname()[1])


@pytest.mark.slow
@each
def test_its_pods_train_together(runner: Runner, tmp_path: Path, name: str) -> None:
    """Runs the image's entry point with the manifest's arguments and each pod's environment, on the CPU.

    GKE names the other pods in a TPU pod's environment, which jax's own detection reads.
    """
    port, workdir = free_port(), tmp_path / "run"
    small = small_run(runner, workdir, **{"train.num_steps": 20})
    processes = []
    for number in range(2):
        told = {
            "tpu": {
                "JAX_FORCE_TPU_INIT": "1",  # as if there were chips
                "TPU_WORKER_HOSTNAMES": "localhost,localhost",
                "TPU_WORKER_ID": str(number),
                "JAX_COORDINATOR_PORT": port,
                "MEGASCALE_COORDINATOR_ADDRESS": "",
                "MEGASCALE_NUM_SLICES": "1",
                "MEGASCALE_SLICE_ID": "0",
            },
            "gpu": {"COORDINATOR": "localhost", "JOB_COMPLETION_INDEX": str(number)},
        }[name]
        arguments = [
            re.sub(r"\$\((\w+)\)", lambda found, told=told: told[found[1]], argument).replace(
                ":8476", f":{port}"
            )
            for argument in container(name)["args"][4:]  # the small training has its own of the others
        ]
        processes.append(
            subprocess.Popen(
                [*entrypoint(), *arguments, *small],
                cwd=ROOT,
                env=runner.environment | told | {"JAX_NUM_CPU_DEVICES": "1"},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    try:
        outs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outs
    assert "mesh {'data': 2" in outs[0] and last_step(workdir) == 20
