"""harness.measure.observe.environment and doctor."""

import json
import platform
import subprocess

import pytest

from harness.measure import gpu_build
from harness.measure.observe import machine
from harness.measure.observe.doctor.machine import broken_companions, examine
from harness.measure.observe.environment import collect, public_environment


def test_secrets_stay_out():
    """Variables whose name says secret and credentials inside URLs are not recorded; what changes vLLM is."""
    seen = public_environment(
        {
            "VLLM_API_KEY": "s3cret",
            "VLLM_HF_TOKEN": "s3cret",
            "VLLM_DB_password": "s3cret",
            "OPENAI_API_KEY": "s3cret",
            "HOME": "somewhere",
            "VLLM_S3_URL": "https://me:s3cret@store.example/x",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "CUDA_VISIBLE_DEVICES": "0,1",
            "OMP_NUM_THREADS": "2",
        }
    )
    assert "s3cret" not in json.dumps(seen)
    assert seen == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "OMP_NUM_THREADS": "2",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_S3_URL": "https://***@store.example/x",
    }


def test_collect_is_json_and_keeps_the_host_private(monkeypatch):
    """Provenance is plain JSON with the facts asked for; the host's name and keys of the environment are not in it."""
    monkeypatch.setattr(platform, "node", lambda: "secret-host-name")
    monkeypatch.setenv("VLLM_API_KEY", "s3cret-key")
    facts = collect([{"index": 0, "name": "Fake"}], {"plan_notes": ["x"]})
    text = json.dumps(facts)
    assert "secret-host-name" not in text
    assert "s3cret-key" not in text
    assert len(facts["host_sha256"]) == 12
    assert facts["packages"]["psutil"] == gpu_build.installed("psutil")
    assert facts["gpus"] == [{"index": 0, "name": "Fake"}]
    assert facts["plan_notes"] == ["x"]
    assert facts["memory_bytes"] > 0
    assert facts["cores"]["logical"] >= 1


def test_git_state(tmp_path):
    """Commit and dirtiness of a repository; None outside one."""
    assert machine.git_state(str(tmp_path)) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "a"], check=True)
    clean = machine.git_state(str(tmp_path))
    (tmp_path / "a").write_text("2")
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    assert machine.git_state(str(tmp_path))["dirty"] is True


def test_cgroup_limits_are_the_tightest_of_the_path(tmp_path, monkeypatch):
    """A limit on a parent cgroup holds for the child; "max" is no limit."""
    files = {
        "/sys/fs/cgroup/a/b/cpu.max": "max 100000",
        "/sys/fs/cgroup/a/cpu.max": "150000 100000",
        "/sys/fs/cgroup/a/b/memory.max": "8589934592",
        "/sys/fs/cgroup/memory.max": "max",
    }
    monkeypatch.setattr(machine, "read_text", files.get)
    monkeypatch.setattr(machine, "cgroup_path", lambda: "/sys/fs/cgroup/a/b")
    assert machine.cgroup_limits() == {"cpu_quota_cores": 1.5, "memory_limit_bytes": 8 << 30}
    files.clear()
    assert machine.cgroup_limits() == {"cpu_quota_cores": None, "memory_limit_bytes": None}


def test_doctor_covers_what_it_promises(monkeypatch):
    """Every item is examined once or more, each finding is in a known state, and what is not ok says what to do."""
    lines = examine()
    items = {line.item for line in lines}
    promised = {"GPU", "NVIDIA driver", "NVML", "vLLM", "embedded model", "Python", "gcc", "chromium", "clock source"}
    assert promised | {"CPU governor", "ulimit -n", "cores", "memory", "free disk"} <= items
    for line in lines:
        assert line.state in {"ok", "missing", "warn"}
        assert line.detail
        assert line.state == "ok" or line.how_to_get
    monkeypatch.setattr(machine, "clock_source", lambda: "hpet")
    monkeypatch.setattr(machine, "governor", lambda: "powersave")
    monkeypatch.setattr(machine, "open_files_limit", lambda: {"soft": 1024, "hard": 1024})
    warned = {line.item for line in examine() if line.state == "warn"}
    assert {"clock source", "CPU governor", "ulimit -n"} <= warned


@pytest.mark.timing
def test_doctor_sees_boards(with_nvml):
    """With NVML every board is a line, and counters that it lacks are told."""
    code = """
from harness.measure.observe.doctor.machine import examine
print(json.dumps([asdict(l) for l in examine()]))"""
    lines = with_nvml(code, gpus=2, flags="no_energy")
    assert [line["state"] for line in lines if line["item"] == "GPU"] == ["ok", "ok"]
    assert "no energy on 2 boards" in next(line["detail"] for line in lines if line["item"] == "NVML")


def _install(folder, name, version, so=None):
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    record = f"{info.name}/METADATA,,\n"
    if so is not None:
        (folder / name).mkdir()
        (folder / name / "_core.so").write_bytes(so)
        record += f"{name}/_core.so,,\n"
    (info / "RECORD").write_text(record)


def test_broken_companions(tmp_path, monkeypatch):
    """torchaudio and torchcodec are named where their binaries need CUDA beside a CPU build of torch, only then."""
    _install(tmp_path, "torch", "2.13.0+cpu")
    _install(tmp_path, "torchaudio", "2.11.0", b"\x7fELF..libcudart.so.13\0..")
    _install(tmp_path, "torchcodec", "0.9.0", b"\x7fELF..libtorch_cpu.so\0..")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert broken_companions() == ["torchaudio"]
    monkeypatch.setattr(gpu_build, "installed", lambda _: "2.13.0")
    assert broken_companions() == []
