"""A `vllm` package that runs tests/fakes/fake_vllm.py, and specs that start it."""

from __future__ import annotations

from pathlib import Path

from harness.config import TargetSpec

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = f"""
import runpy, sys
sys.argv[0] = "api_server.py"
runpy.run_path({str(_ROOT / "tests" / "fakes" / "fake_vllm.py")!r}, run_name="__main__")
"""


def make_package(folder: Path) -> Path:
    """Write the package `vllm` under `folder`, and a model directory beside it; returns the model's."""
    package = folder / "fake_site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for up in (package, package.parent, package.parent.parent):
        (up / "__init__.py").touch()
    (package / "api_server.py").write_text(_PROGRAM)
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
