"""What keeps a table's row from running on this machine: its files, its GPUs, its memory. Starts and downloads nothing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from harness.base.errors import HarnessError
from harness.config.model.memory import GB, fit, weight_bytes
from harness.config.published import Row, TableTarget
from harness.measure.observe.boards import nvml
from harness.measure.observe.machine import usable_memory_bytes
from harness.measure.plan.workload import read_workload
from harness.measure.targets import command, embedded

_EMBEDDED = "embedded:"
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides whether a server can run here. `gpu_memory_bytes`: one entry a GPU; None where NVML does not tell."""

    vllm: bool
    gpu_names: tuple[str, ...]
    gpu_memory_bytes: tuple[int | None, ...]
    memory_bytes: int  # of the machine or its cgroup, whichever is less
    no_gpu_because: str = ""

    @property
    def words(self) -> str:
        gpus = ", ".join(self.gpu_names) or f"no GPU ({self.no_gpu_because})"
        return (
            f"{gpus}, {self.memory_bytes / GB:.1f} GB of memory, vLLM {'installed' if self.vllm else 'not installed'}"
        )


def this_machine() -> Machine:
    """Reads NVML and /proc; takes milliseconds."""
    memory = usable_memory_bytes()
    vllm = importlib.util.find_spec("vllm") is not None
    gpus = nvml.open_gpus()
    if isinstance(gpus, str):
        return Machine(vllm, (), (), memory, gpus)
    try:
        facts = gpus.static()
    finally:
        gpus.close()
    names = tuple(str(fact["name"]) for fact in facts)
    return Machine(vllm, names, tuple(fact["memory_total_bytes"] for fact in facts), memory)


def obstacles(target: TableTarget, row: Row, machine: Machine) -> list[str]:
    """Every reason why the row cannot run here, in words with numbers; empty where it can."""
    reasons = []
    if not machine.vllm:
        reasons.append("vLLM is not installed here (python -m harness.measure.targets.install)")
    reasons += _files(target, row)
    reasons += _gpus(target, machine)
    return reasons


def _files(target: TableTarget, row: Row) -> list[str]:
    """The model's files and the workload's."""
    reasons = []
    name = target.model
    if name.startswith(_EMBEDDED):
        if name.removeprefix(_EMBEDDED) not in embedded.NAMES:
            reasons.append(f"no embedded model {name!r}: there are {', '.join(embedded.NAMES)}")
    else:
        try:
            spec = target.spec("target")
            command.resolve_model(spec, command.environment(spec), lambda _: None)
        except HarnessError as error:
            reasons.append(f"model not here: {error.what}: {error.value}")
    try:
        read_workload(row.workload)
    except HarnessError as error:
        reasons.append(f"workload not here: {error.what}: {error.value}")
    return reasons


def _gpus(target: TableTarget, machine: Machine) -> list[str]:
    """GPUs and memory, by the same arithmetic as `harness cost memory`."""
    try:
        shape = target.model_shape()
    except HarnessError as error:
        return [f"model config: {error.what}: {error.value}"]
    weights = None if shape is None else weight_bytes(shape)
    size = "" if weights is None else f" for {weights / GB:.1f} GB of weights"
    if target.gpus == 0:
        kv = float(target.env.get("VLLM_CPU_KVCACHE_SPACE", "4")) * _GIB  # vLLM's CPU build takes 4 GiB unless told
        if weights is not None and not machine.gpu_names and weights + kv > machine.memory_bytes:
            return [
                f"needs {(weights + kv) / GB:.1f} GB of memory (weights and KV cache), this machine has {machine.memory_bytes / GB:.1f} GB"
            ]
        return []
    have = len(machine.gpu_names)
    if have < target.gpus:
        return [f"needs {target.gpus} GPU{'s' * (target.gpus > 1)}{size}, this machine has {have or 'none'}"]
    known = [size for size in machine.gpu_memory_bytes if size is not None]
    if shape is None or not known:
        return []
    context = target.context_tokens or shape.max_tokens
    try:
        room = fit(shape, min(known), context_tokens=context, tensor_parallel=target.gpus)
    except HarnessError as error:
        return [f"memory cannot be judged: {error.what}: {error.value}"]
    if room.sequences == 0:
        need = f"{room.weights_per_gpu / GB:.1f} GB of weights per GPU and one sequence of {context} tokens"
        return [f"does not fit: {need}, in 90 % of {min(known) / GB:.1f} GB"]
    return []
