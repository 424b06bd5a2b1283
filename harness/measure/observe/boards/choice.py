"""Which boards are the target's, and how surely.

In this order: those that the target's `gpus:` names; those where NVML lists a process of the target; of a server of ours that
NVML hides (a container), as many as its flags ask for, from the first of CUDA_VISIBLE_DEVICES on, as vLLM takes them. What is
left is watched and called uncertain: somebody else's board may be among it, so no energy is told.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from math import prod
from urllib.parse import urlsplit

import psutil

from harness.base.loopback import is_loopback
from harness.config.target import parallel_sizes
from harness.measure.observe import host, machine
from harness.measure.observe.boards import nvml
from harness.measure.observe.boards.gpus import Gpus
from harness.records import TargetInfo

_OURS = ("vllm", "offline")
# Processes that listen for a server which is somewhere else, perhaps on another machine; and for one on this machine.
_TUNNELS = frozenset({"ssh", "sshd", "autossh", "kubectl", "cloudflared", "chisel", "frpc"})
_PROXIES = frozenset(
    {"docker-proxy", "rootlessport", "rootlesskit", "slirp4netns", "pasta", "gvproxy", "nginx", "haproxy", "envoy", "socat"}
)  # fmt: skip


def is_here(info: TargetInfo) -> bool:
    """Whether the target answers at this machine, as far as its URL says."""
    name = urlsplit(info.base_url).hostname or ""
    own = bool(info.pids) or is_loopback(info.base_url) or host.is_own_address(name)
    return info.kind != "hosted" and own


def roots_of(info: TargetInfo) -> tuple[int, ...]:
    """The target's first processes: those of a server of ours, else who listens on its port."""
    url = urlsplit(info.base_url)
    return info.pids or tuple(host.listener_pids(url.port or (443 if url.scheme == "https" else 80)))


def open_boards(
    info: TargetInfo, declared: Sequence[str] = (), used_before: Mapping[str, int] | None = None
) -> Gpus | str:
    """The target's boards as Gpus, or why there are none to watch. `declared`: the target's `gpus:` (indices, UUIDs).

    `used_before`: bytes in use by uuid before the target was started. Gpus.certain says whether the choice is sure.
    """
    if not is_here(info):
        return f"the target at {urlsplit(info.base_url).hostname} runs on another machine"
    roots = roots_of(info)
    if not info.pids and (tunnel := _named(roots, _TUNNELS)):
        return f"the listener on the target's port is {tunnel}, a tunnel: the server may be on another machine"
    tree = host.process_tree(roots)
    gpus = nvml.open_gpus(tree)
    if isinstance(gpus, str):
        return gpus
    gpus.sees_all_processes = machine.sees_all_processes()
    gpus.used_before = used_before or {}
    reason = gpus.watch(tree, list(declared)) if declared else None
    if not declared and not gpus.target_seen:
        reason = _without_process(gpus, info, roots, tree)
    if reason is None:
        return gpus
    gpus.close()
    return reason


def _without_process(gpus: Gpus, info: TargetInfo, roots: Sequence[int], tree: Collection[int]) -> str | None:
    """Choose where NVML lists no process of the target; returns why nothing is to be watched."""
    ours = info.kind in _OURS
    loaded = _loaded_cuda(tree)
    proxy = _named(roots, _PROXIES)
    if loaded is False and (ours or (not proxy and _is_vllm(tree))):
        return "no process of the target has loaded CUDA, so it uses no GPU"
    if not ours and not loaded:
        listener = proxy or _named(roots, None)
        gpus.why = f"all visible: the listener on the target's port is {listener}" if listener else "all visible"
        return None
    environment = _environment(roots)
    visible = visible_devices(environment)
    if ours:
        return _first_of(gpus, info, tree, visible, environment)
    if visible is None:
        visible = [str(index) for index in gpus.indices]
    if reason := gpus.watch(tree, visible):
        return reason
    gpus.certain = len(visible) == 1
    return None


def _first_of(
    gpus: Gpus,
    info: TargetInfo,
    tree: Collection[int],
    visible: Sequence[str] | None,
    environment: Mapping[str, str],
) -> str | None:
    """The boards of a server of ours by its flags; uncertain where CUDA's order of them is not NVML's."""
    words = list(visible) if visible is not None else [str(index) for index in gpus.indices]
    count = prod(parallel_sizes(info.flags, here=True).values())
    if reason := gpus.watch(tree, words[:count]):
        return reason
    same_order = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len(set(gpus.names)) == 1
    gpus.certain = count <= len(words) and (same_order or not any(word.isdigit() for word in words))
    if visible is None:
        gpus.why += f": the first {count} of {len(words)}, by the server's flags"
    elif count < len(words):
        gpus.why += f": the first {count} of CUDA_VISIBLE_DEVICES={','.join(words)}, by the server's flags"
    return None


def _loaded_cuda(pids: Collection[int]) -> bool | None:
    """Whether one of the processes has CUDA's driver library mapped; None if none of them may be looked at."""
    maps = [text for pid in pids if (text := machine.read_text(f"/proc/{pid}/maps")) is not None]
    return any("libcuda.so" in text for text in maps) if maps else None


def _named(pids: Collection[int], names: frozenset[str] | None) -> str | None:
    """`NAME (pid N)` of the first process whose name is in `names` (None: of the first one); None where none is."""
    for pid in pids:
        try:
            name = psutil.Process(pid).name()
        except psutil.Error:
            continue
        if names is None or name in names:
            return f"{name} (pid {pid})"
    return None


def _is_vllm(pids: Collection[int]) -> bool:
    for pid in pids:
        try:
            if any("vllm" in word.lower() for word in psutil.Process(pid).cmdline()):
                return True
        except psutil.Error:
            continue
    return False


def _environment(roots: Collection[int]) -> Mapping[str, str]:
    """The environment of the first process that may be asked, else ours."""
    for pid in roots:
        try:
            return psutil.Process(pid).environ()
        except psutil.Error:
            continue
    return os.environ


def visible_devices(environment: Mapping[str, str]) -> list[str] | None:
    """CUDA_VISIBLE_DEVICES, None where it is not set; CUDA stops at the first negative one."""
    text = environment.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    words: list[str] = []
    for word in (w.strip() for w in text.split(",")):
        if not word or word.startswith("-") or word == "NoDevFiles":
            break
        words.append(word)
    return words
