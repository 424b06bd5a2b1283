"""Which build of vLLM a machine gets, and whether its NVIDIA driver runs it. Standard library only."""

from __future__ import annotations

from harness.measure import nvidia_driver
from harness.measure.gpu_build import CPU_LIST, GPU_LISTS, InstallError, build, distribution
from harness.measure.nvidia_driver import Box


def choose(*, gpu: bool, cpu: bool, cuda: str | None, box: Box, before: str | None) -> str:
    """The list to install: as asked, else by what shows of a GPU; a list that was chosen `before` for the GPU is kept."""
    if cpu:
        return CPU_LIST
    if cuda is not None:
        for name in GPU_LISTS:
            if (build(name).cuda or "").partition(".")[0] == cuda:
                return name
    if not gpu and not box.has_gpu:
        return CPU_LIST
    return before if before in GPU_LISTS else GPU_LISTS[0]


def check_driver(name: str, box: Box) -> str:
    """How the driver and the list's CUDA go together, in a line. Raises InstallError, with older builds that would run."""
    wanted = build(name)
    if wanted.cuda is None:
        hidden = (
            ""
            if box.has_gpu or not box.listed
            else f" (the driver lists {box.listed}, none is given to this container)"
        )
        return f"no GPU asked for: {box.gpus} here{hidden}"
    least = nvidia_driver.floor(wanted.cuda)
    needs = f"{distribution(name)} {wanted.vllm} is built for CUDA {wanted.cuda}: driver {least} or newer"
    if box.driver is None:
        return f"note: no NVIDIA driver shows here; {needs}"
    have = f"driver {box.driver} ({box.driver_from})"
    match nvidia_driver.runs(box.driver, wanted.cuda):
        case "no":
            raise InstallError(
                f"the NVIDIA driver is too old for this build of vLLM\n{have}; {needs}\n{_way_out(box.driver)}"
            )
        case "minor":
            return f"note: {have} runs CUDA {wanted.cuda} by minor version compatibility: code that is compiled to PTX at run time may not load"
        case _:
            return f"{have} runs CUDA {wanted.cuda}"


def _way_out(driver: str) -> str:
    older = [build(name) for name in GPU_LISTS[1:]]
    offers = [
        f"make vllm CUDA={one.cuda.partition('.')[0]} (vllm {one.vllm}, CUDA {one.cuda})"
        for one in older
        if one.cuda and nvidia_driver.runs(driver, one.cuda) in ("yes", "minor")
    ]
    newer = "update the driver; with NVIDIA's forward compatibility package (cuda-compat) add --any-driver"
    return ", or ".join([*offers, newer])
