"""GPU counters through NVML: the only module that imports pynvml (package nvidia-ml-py).

Units and meanings follow NVIDIA's NVML API reference, "Device Queries": power in mW (on Ampere and newer, GA100
excepted, an average over one second), energy in mJ since the driver was loaded (Volta and newer), clocks in MHz, memory
in bytes, utilisation in percent of NVML's own sample period. All bits set means "not available" and becomes None.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pynvml as nvml

from harness.base import clock
from harness.measure.observe.boards.gpus import Gpus
from harness.measure.observe.boards.unit import BoardError, Memory, Unit, Utilisation

# This board will never tell, or this driver does not know the question: try the next reader, then remember the gap.
_UNSUPPORTED = frozenset(
    {
        nvml.NVML_ERROR_NOT_SUPPORTED,
        nvml.NVML_ERROR_NO_PERMISSION,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        nvml.NVML_ERROR_INVALID_ARGUMENT,
        nvml.NVML_ERROR_DEPRECATED,
    }
)
# Nothing this time, perhaps the next: a process list that grew between two calls, a sample not taken yet.
_NOT_NOW = frozenset(
    {nvml.NVML_ERROR_INSUFFICIENT_SIZE, nvml.NVML_ERROR_NO_DATA, nvml.NVML_ERROR_NOT_READY, nvml.NVML_ERROR_IN_USE}
)
_MOST_XIDS = 100  # in one reading: a board that fails for good repeats its Xid
_KEPT_BITS = 6  # of a call's duration: a class is at most 1/32 of its value wide
_NOT_AVAILABLE = frozenset({nvml.NVML_VALUE_NOT_AVAILABLE_uint.value, nvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value})


def _known(value: int) -> int | None:
    return None if value in _NOT_AVAILABLE else value


def _utilisation(handle: Any) -> Utilisation:
    use = nvml.nvmlDeviceGetUtilizationRates(handle)
    return Utilisation(_known(use.gpu), _known(use.memory))


def _memory_v2(handle: Any) -> Memory:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    return Memory(_known(memory.total), _known(memory.used), reserved_in_used=False)


def _memory_v1(handle: Any) -> Memory:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Memory(_known(memory.total), _known(memory.used), reserved_in_used=True)


def _processes(function: Callable[[Any], Any]) -> Callable[[Any], dict[int, int | None]]:
    """Process ids as this process's PID namespace sees them, with the bytes that each holds (None: not told)."""

    def read(handle: Any) -> dict[int, int | None]:
        held_by: dict[int, int | None] = {}
        for process in function(handle):  # one with two contexts is listed twice
            held = None if process.usedGpuMemory is None else _known(process.usedGpuMemory)
            before = held_by.get(int(process.pid))
            held_by[int(process.pid)] = held if before is None else before + (held or 0)
        return held_by

    return read


def _active_nvlinks(handle: Any) -> int:
    """Links that are up; raises NVMLError (not supported) for a board without any."""
    active = 0
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            active += nvml.nvmlDeviceGetNvLinkState(handle, link) == nvml.NVML_FEATURE_ENABLED
        except nvml.NVMLError as error:
            if link == 0 or error.value not in _UNSUPPORTED:
                raise
            break
    return active


# Each counter's readers, newest first: the next one is tried where the driver lacks a function.
_READERS: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "energy": (nvml.nvmlDeviceGetTotalEnergyConsumption,),
    "power": (nvml.nvmlDeviceGetPowerUsage,),
    "utilisation": (_utilisation,),
    "memory": (_memory_v2, _memory_v1),
    "SM clock": (lambda h: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM),),
    "memory clock": (lambda h: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_MEM),),
    "temperature": (
        lambda h: nvml.nvmlDeviceGetTemperatureV(h, nvml.NVML_TEMPERATURE_GPU),
        lambda h: nvml.nvmlDeviceGetTemperature(h, nvml.NVML_TEMPERATURE_GPU),
    ),
    "clock event reasons": (
        nvml.nvmlDeviceGetCurrentClocksEventReasons,
        nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    ),
    "processes": (
        _processes(nvml.nvmlDeviceGetComputeRunningProcesses_v3),
        _processes(nvml.nvmlDeviceGetComputeRunningProcesses_v2),
    ),
    "name": (nvml.nvmlDeviceGetName,),
    "power limit": (nvml.nvmlDeviceGetEnforcedPowerLimit,),
    "default power limit": (nvml.nvmlDeviceGetPowerManagementDefaultLimit,),
    "SM clock limit": (lambda h: nvml.nvmlDeviceGetMaxClockInfo(h, nvml.NVML_CLOCK_SM),),
    "persistence mode": (nvml.nvmlDeviceGetPersistenceMode,),
    "ECC mode": (nvml.nvmlDeviceGetCurrentEccMode,),
    "uncorrected ECC errors": (
        lambda h: nvml.nvmlDeviceGetTotalEccErrors(h, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
    ),
    "MIG mode": (lambda h: nvml.nvmlDeviceGetMigMode(h)[0],),
    "active NVLinks": (_active_nvlinks,),
    "PCIe width": (nvml.nvmlDeviceGetCurrPcieLinkWidth,),
    "PCIe width limit": (nvml.nvmlDeviceGetMaxPcieLinkWidth,),
    "PCIe generation limit": (nvml.nvmlDeviceGetMaxPcieLinkGeneration,),
    "PCI bus": (lambda h: nvml.nvmlDeviceGetPciInfo(h).busId,),
}


class CallTimes:
    """How long calls take, by name, in little memory: what our own questions cost the driver. Not for use from two threads at once."""

    def __init__(self) -> None:
        self._seen: dict[str, Counter[int]] = {}
        self._longest_ns: dict[str, int] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time what happens inside, a call that fails too."""
        begun_ns = clock.monotonic_ns()
        try:
            yield
        finally:
            self.add(name, clock.monotonic_ns() - begun_ns)

    def add(self, name: str, took_ns: int) -> None:
        shift = max(0, took_ns.bit_length() - _KEPT_BITS)
        self._seen.setdefault(name, Counter())[took_ns >> shift << shift] += 1
        self._longest_ns[name] = max(took_ns, self._longest_ns.get(name, 0))

    def facts(self) -> dict[str, dict[str, float]]:
        """Name -> count, p50_us (3 % too low at most) and max_us."""
        return {
            name: {
                "count": seen.total(),
                "p50_us": _median_ns(seen) / 1e3,
                "max_us": self._longest_ns[name] / 1e3,
            }
            for name, seen in sorted(self._seen.items())
        }


def _median_ns(seen: Counter[int]) -> int:
    left = (seen.total() + 1) // 2
    for took_ns, count in sorted(seen.items()):
        left -= count
        if left <= 0:
            return took_ns
    raise ValueError("no call was timed")


def _unit(handle: Any, index: int, times: CallTimes, parent: Unit | None = None) -> Unit:
    """A board or slice whose `ask` remembers which reader of a counter works for it."""
    reader: dict[str, int] = {}
    unsupported: set[str] = set()

    def ask(counter: str) -> Any:
        readers = _READERS[counter]
        while (at := reader.get(counter, 0)) < len(readers):
            try:
                with times.of(counter):
                    value = readers[at](handle)
            except nvml.NVMLError as error:
                if error.value in _UNSUPPORTED:
                    reader[counter] = at + 1
                    continue
                if error.value in _NOT_NOW:
                    return None
                raise BoardError(str(error)) from None
            return _known(value) if isinstance(value, int) else value
        unsupported.add(counter)
        return None

    return Unit(index, nvml.nvmlDeviceGetUUID(handle), ask, unsupported, parent)


def open_gpus(pids: Collection[int] = (), devices: Sequence[str] | None = None) -> Gpus | str:
    """Initialise NVML and choose what to watch (see Gpus.watch); a string says why there is no NVML.

    `pids` is the target's process tree, empty if unknown. Never raises for a machine without NVML.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _why_not(error)
    times = CallTimes()
    try:
        handles, boards, notes = _open_boards(times)
    except nvml.NVMLError as error:
        _shut_down()
        return _why_not(error)
    gpus = Gpus(boards, notes, _driver(), _shut_down, calls=times.facts, xids=_xid_reader(handles))
    reason = gpus.watch(pids, devices) if boards else "; ".join(("NVML works but has no usable GPU", *notes))
    if reason is None:
        return gpus
    gpus.close()
    return reason


def _open_boards(times: CallTimes) -> tuple[dict[int, Any], list[Unit], list[str]]:
    """Handles by index, boards, and what could not be opened."""
    handles: dict[int, Any] = {}
    boards, notes = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            board = _unit(handle, index, times)
            if board.ask("MIG mode") == nvml.NVML_DEVICE_MIG_ENABLE:
                board.slices.extend(_open_slices(handle, board, times))
        except (nvml.NVMLError, BoardError) as error:
            notes.append(f"GPU {index} could not be opened: {error}")
        else:
            handles[index] = handle
            boards.append(board)
    return handles, boards, notes


def _open_slices(handle: Any, board: Unit, times: CallTimes) -> list[Unit]:
    slices = []
    for position in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            slice_handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, position)
        except nvml.NVMLError_NotFound:  # positions may have gaps
            continue
        slices.append(_unit(slice_handle, board.index, times, parent=board))
    return slices


def _xid_reader(handles: Mapping[int, Any]) -> Callable[[], list[tuple[int, int]]]:
    """A function that gives the (board, Xid) of critical errors since its last call; always empty where NVML has no events."""
    events = _or_none(nvml.nvmlEventSetCreate)
    if events is None:
        return list
    index_of: dict[int | None, int] = {}
    for index, handle in handles.items():
        try:
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError:
            continue
        index_of[_address(handle)] = index

    def read() -> list[tuple[int, int]]:
        xids: list[tuple[int, int]] = []
        while index_of and len(xids) < _MOST_XIDS:
            try:
                event = nvml.nvmlEventSetWait_v2(events, 0)
            except nvml.NVMLError:  # a timeout: none is left
                break
            xids.append((index_of.get(_address(event.device), -1), int(event.eventData)))
        return xids

    return read


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _driver() -> dict[str, str | None]:
    cuda = _or_none(nvml.nvmlSystemGetCudaDriverVersion_v2)
    return {
        "driver_version": _or_none(nvml.nvmlSystemGetDriverVersion),
        "cuda_driver_version": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "nvml_version": _or_none(nvml.nvmlSystemGetNVMLVersion),
    }


def _or_none(query: Callable[[], Any]) -> Any:
    try:
        return query()
    except nvml.NVMLError:
        return None


def _shut_down() -> None:
    _or_none(nvml.nvmlShutdown)


def _why_not(error: Any) -> str:
    match error.value:
        case nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return "no NVML: libnvidia-ml.so.1 is not on this machine (no NVIDIA driver, or not mounted into the container)"
        case nvml.NVML_ERROR_DRIVER_NOT_LOADED:
            return "no NVML: the NVIDIA kernel driver is not loaded"
        case nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            return (
                "no NVML: the NVML library and the loaded kernel driver differ in version; reboot or reload the driver"
            )
        case nvml.NVML_ERROR_NO_PERMISSION:
            return "no NVML: no permission to talk to the NVIDIA driver (/dev/nvidiactl)"
        case _:
            return f"no NVML: {error}"
