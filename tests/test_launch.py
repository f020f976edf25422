"""Launch files, in environments that act as the clusters they are for."""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jaxcl.training.processes import Launch, find_launch

LAUNCH = Path(__file__).parents[1] / "launch"
QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.py"

SRUN = """#!{python}
# As srun does: the command once a task, each told which it is; the worst exit code.
import os, subprocess, sys
assert sys.argv[1] == "--kill-on-bad-exit=1"
tasks = [
    subprocess.Popen(sys.argv[2:], env=os.environ | {{"SLURM_PROCID": str(index)}})
    for index in range(int(os.environ["SLURM_NTASKS"]))
]
sys.exit(max(code if (code := task.wait()) >= 0 else 128 - code for task in tasks))
"""
GCLOUD = """#!{python}
# As gcloud does: the command on every worker, by a shell of its own.
import os, subprocess, sys
assert sys.argv[1:8] == "compute tpus tpu-vm ssh my-slice --zone us-central2-b".split()
assert sys.argv[8:10] == ["--worker=all", "--command"]
hosts = {{"TPU_WORKER_HOSTNAMES": "localhost,localhost"}}
workers = [
    subprocess.Popen(sys.argv[10], shell=True, env=os.environ | hosts | {{"TPU_WORKER_ID": index}})
    for index in "01"
]
sys.exit(max(worker.wait() for worker in workers))
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts commands of one's own before all others, and jaxcl as this Python has it."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def add(**scripts):
        for name, text in scripts.items():
            path = folder / name
            path.write_text(text.format(python=sys.executable))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    add(jaxcl="#!{python}\nfrom jaxcl.cli import main\nraise SystemExit(main())\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of LLVM
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    return add


def run(*command, **variables):
    return subprocess.run(
        [str(part) for part in command],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def training(tmp_path):
    """What follows `jaxcl train`, for two steps of a smaller quickstart into a folder."""
    config = tmp_path / "short.py"
    config.write_text(
        "import dataclasses\n"
        "from pathlib import Path\n"
        "from jaxcl import augment, cli, encoders\n"
        "def config():\n"
        f"    quickstart = cli.load_config(Path({str(QUICKSTART)!r}))\n"
        "    method = dataclasses.replace(\n"
        "        quickstart.method, encoder=encoders.SmallCNN((4, 8), batch_norm_groups=1)\n"
        "    )\n"
        "    views = augment.crops(8)\n"
        "    return dataclasses.replace(quickstart, method=method, views=views, evaluate=None)\n"
    )

    def into(out):
        return [config, "--out", out, "--run.devices", "None", "--train.epochs", "0.2"]

    return into


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_shell_scripts_are_clean():
    scripts = sorted(LAUNCH.glob("*.sh"))
    assert scripts
    found = run("shellcheck", *scripts)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_without_a_config_they_say_how_they_are_used(script):
    found = run("bash", script)
    assert found.returncode == 2
    assert "CONFIG --out RUN_DIR" in found.stderr


@pytest.mark.slow
def test_slurm_trains_one_run_over_its_tasks(commands, training, tmp_path):
    commands(srun=SRUN)
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
    }
    found = run("bash", LAUNCH / "slurm.sh", *training(tmp_path / "run"), **job)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("trained 2 steps") == 1
    assert (tmp_path / "run" / "checkpoints" / "00000002" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [
        (0, "0", False),
        (2, "0", False),
        (143, "0", True),
        (137, "1", True),
        (75, "3", True),
        (75, "100", False),
    ],
)
def test_slurm_queues_a_stopped_job_again(commands, tmp_path, code, restarts, requeued):
    commands(
        srun=f"#!/usr/bin/env bash\nexit {code}\n",
        scontrol=f'#!/usr/bin/env bash\necho "$@" > {tmp_path}/said\n',
    )
    job = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": restarts}
    found = run("bash", LAUNCH / "slurm.sh", "config.py", **job)
    assert found.returncode == code
    said = tmp_path / "said"
    assert (said.read_text() if said.exists() else "") == ("requeue 17\n" if requeued else "")


@pytest.mark.slow
def test_tpu_hosts_train_one_run(commands, training, tmp_path):
    with socket.socket() as free:
        if free.connect_ex(("localhost", 8476)) == 0:
            pytest.skip("the port of TPU pods is taken")
    commands(gcloud=GCLOUD)
    out = tmp_path / "a run of 'two' hosts"
    found = run("bash", LAUNCH / "tpu_vm.sh", "my-slice", "us-central2-b", *training(out))
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("trained 2 steps") == 1
    assert (out / "checkpoints" / "00000002" / "manifest.json").exists()


@pytest.mark.parametrize("file", ["jobset_gpu.yaml", "jobset_tpu.yaml"])
def test_every_pod_of_a_jobset_knows_its_place(file):
    job_set = yaml.safe_load((LAUNCH / file).read_text())
    (job,) = job_set["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"]
    assert spec["completionMode"] == "Indexed"
    (container,) = spec["template"]["spec"]["containers"]
    count = spec["completions"]
    service = f"{job_set['metadata']['name']}-{job['name']}"  # as JobSet names the pods
    hosts = [f"{service}-0-{index}.{job_set['metadata']['name']}" for index in range(count)]
    for index in range(count):
        fields = {
            "metadata.annotations['batch.kubernetes.io/job-completion-index']": str(index),
        }
        environment = {
            each["name"]: each["value"]
            if "value" in each
            else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            for each in container["env"]
        }
        if "google.com/tpu" in container["resources"]["limits"]:  # as GKE tells its hosts
            environment |= {"TPU_WORKER_HOSTNAMES": ",".join(hosts), "TPU_WORKER_ID": str(index)}
        assert find_launch(environment) == Launch(f"{hosts[0]}:8476", count, index)
    assert container["command"] == ["jaxcl", "train"]
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in spec["template"]["spec"]["volumes"]}
    out = container["args"][container["args"].index("--out") + 1]
    assert any(out.startswith(each["mountPath"]) for each in container["volumeMounts"])


def test_the_slice_of_a_jobset_has_as_many_hosts_as_pods():
    text = (LAUNCH / "jobset_tpu.yaml").read_text()
    topology = re.search(r"gke-tpu-topology: (\S+)", text)[1]
    rows, columns = map(int, topology.split("x"))
    hosts = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"]
    assert hosts == rows * columns // 4
