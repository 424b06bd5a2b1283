"""A server in a container: docker's or podman's command line, its name, and how it is ended.

The container shares the host's network and shared memory, sees all GPUs, and reads the model from where it lies. Environment variables
are passed by name, so that no value stands on a command line. Docker's server is a child of its daemon and not of ours: it is
ended by its name, by the harness, and by the guard where the harness is gone. Not yet run on a GPU, nor on a real engine.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.base.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ENGINES = ("docker", "podman")
_ASK_S = 30.0
_STOP_S = 15
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg")  # the second: WSL
# Of the shell's variables, those that mean the same inside: not PATH, HOME or where CUDA lies on the host.
_PASSED = re.compile(
    r"(?:VLLM_|HF_|HUGGING_FACE_|TRANSFORMERS_|NCCL_|FLASHINFER_|TORCH_NCCL_|PYTORCH_|OMP_|GLOO_)\w+"
    r"|CUDA_(?:VISIBLE_DEVICES|DEVICE_ORDER|MODULE_LOADING)|NVIDIA_VISIBLE_DEVICES|DO_NOT_TRACK|TOKENIZERS_PARALLELISM"
    r"|(?:http|https|no|all)_proxy|(?:HTTP|HTTPS|NO|ALL)_PROXY"
)


@dataclass(frozen=True, slots=True)
class Container:
    """One container to be; `engine` is docker or podman, as a path."""

    engine: str
    image: str
    name: str

    def words(
        self, env: Mapping[str, str], own: Iterable[str], mounts: Mapping[str, str], *, gpus: bool | None = None
    ) -> list[str]:
        """What stands before `serve`. `own`: names of variables that the target sets, passed whatever they are. `mounts`: path -> ro or
        rw, each at the same path inside. `gpus`: None asks whether the driver's device files are here."""
        podman = Path(self.engine).name == "podman"
        words = [self.engine, "run", "--rm", "--name", self.name, "--network", "host", "--ipc", "host"]
        if gpus if gpus is not None else any(Path(file).exists() for file in _GPU_FILES):
            words += ["--device", "nvidia.com/gpu=all"] if podman else ["--gpus", "all"]
        if podman:
            words += ["--security-opt", "label=disable"]  # SELinux would hide what is mounted
        for path, mode in mounts.items():
            words += ["--volume", f"{path}:{path}:{mode}"]
        for name in sorted({*own, *(n for n in env if _PASSED.fullmatch(n))} & set(env)):
            words += ["--env", name]
        return [*words, "--entrypoint", "vllm", self.image]

    @property
    def removal(self) -> list[str]:
        """The command that ends it at once and leaves nothing of it."""
        return [self.engine, "rm", "--force", self.name]

    def end(self) -> None:
        """SIGTERM, SIGKILL after 15 s, removed. Says nothing of a container that is not there."""
        _ask([self.engine, "stop", "-t", str(_STOP_S), self.name], _ASK_S + _STOP_S)
        _ask(self.removal, _ASK_S)

    def pid(self) -> int | None:
        """Its first process as this machine numbers it; None while there is none, or where the engine is another machine's."""
        pid = _ask([self.engine, "inspect", "--format", "{{.State.Pid}}", self.name], _ASK_S)
        return int(pid) if pid and pid.isdigit() and pid != "0" else None

    def facts(self) -> dict[str, str]:
        """For the manifest: the image as asked for, and what it was at that moment."""
        names = _ask([self.engine, "image", "inspect", "--format", "{{json .RepoDigests}} {{.Id}}", self.image], _ASK_S)
        digests, _, image_id = (names or "").rpartition(" ")
        try:
            digest = ", ".join(json.loads(digests)) if digests else ""
        except (ValueError, TypeError):
            digest = ""
        facts = {"image": self.image, "image_engine": Path(self.engine).name}
        return facts | {
            "image_digest": digest or "not told (a local image has none)",
            "image_id": image_id or "not told",
        }


def _ask(command: Sequence[str], timeout_s: float) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def named(image: str, engine: str | None, log_path: Path, path: str) -> Container:
    """A container for `image`, named after the run's log. Raises TargetError where neither engine is on `path`."""
    wanted = (engine,) if engine else ENGINES
    engine_path = next((where for name in wanted if (where := shutil.which(name, path=path))), None)
    if engine_path is None:
        raise TargetError(
            "no container engine on PATH",
            " or ".join(wanted),
            "install docker or podman, or give python: instead of image:",
        )
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", log_path.stem)[:80]
    return Container(engine_path, image, f"harness-{stem}-{secrets.token_hex(3)}")
