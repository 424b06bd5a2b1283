"""A `vllm` package that runs tests/fakes/fake_vllm.py, and specs that start it."""

from __future__ import annotations

from pathlib import Path

from harness.config.target import TargetSpec

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = f"""
import runpy, sys

def main():
    sys.argv[0] = "vllm"
    runpy.run_path({str(_ROOT / "tests" / "fakes" / "fake_vllm.py")!r}, run_name="__main__")

if __name__ == "__main__":
    main()
"""


def write_command(site: Path, program: str) -> Path:
    """Write a package `vllm` under `site` whose command runs `program`, and metadata that says it is installed; returns the command's file."""
    package = site / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True, exist_ok=True)
    for up in (package, package.parent, package.parent.parent):
        (up / "__init__.py").touch()
    (package / "main.py").write_text(program)
    info = site / "vllm-0.0.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.0.0\n")
    return package / "main.py"


def make_package(folder: Path) -> Path:
    """Write the package `vllm` under `folder`, and a model directory beside it; returns the model's."""
    write_command(folder / "fake_site", _PROGRAM)
    model = folder / "some-model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return model


def spec(folder: Path, mode: str = "ok", **more: object) -> TargetSpec:
    """A target that starts the fake in `mode`."""
    env = {"PYTHONPATH": f"{folder / 'fake_site'}:{_ROOT}", "FAKE_VLLM_MODE": mode}
    env |= more.pop("env", {})  # type: ignore[arg-type]
    values = {
        "name": "own",
        "kind": "vllm",
        "model": str(folder / "some-model"),
        "start_timeout_s": 120,
        "env": env,
    } | more
    return TargetSpec.model_validate(values)
