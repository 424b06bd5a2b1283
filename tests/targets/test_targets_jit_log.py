"""Lines of a server's log that mean a compilation."""

from __future__ import annotations

import pytest

from harness.base import clock
from harness.measure.targets.server.jit_log import JitWatch, jit_kind

ENGINE = "(EngineCore pid=812) WARNING 11-26 04:40:01 [jit_monitor.py:141] "
SPIKE = " This causes a latency spike; consider extending warmup to cover this shape/config."
INFO = "INFO 11-26 04:40:01 "


# From the format strings of vLLM 0.24, 0.28, 0.32 and 0.33, Triton 3.9, PyTorch 2.13 and FlashInfer.
@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (f"{ENGINE}Triton kernel JIT compilation during inference: _fwd_kernel.{SPIKE}", "kernel JIT"),
        (f"{ENGINE}CuTeDSL JIT compilation during inference: gemm (x=1).{SPIKE}", "kernel JIT"),
        (f"{ENGINE}TileLang JIT compilation during inference: mla.{SPIKE}", "kernel JIT"),
        (f"{ENGINE}Triton kernel JIT compilation during inference: _k (key=None).", "kernel JIT"),
        ("Triton autotuning for function _moe,", "Triton autotune"),
        ("(EngineCore_0 pid=9) Autotuning kernel _moe with config BLOCK_M: 16, num_warps: 4", "Triton autotune"),
        (f"{INFO}[monitor.py:40] Starting torch.compile", "torch.compile"),
        (f"{INFO}[backends.py:1167] Dynamo bytecode transform time: 4.11 s", "torch.compile"),
        (f"{INFO}[backends.py:399] Compiling a graph for compile range (1, 8192) takes 9.20 s", "torch.compile"),
        (f"{INFO}[gpu_worker.py:939] Compile and warming up model for size 8", "torch.compile"),
        ("torch._dynamo hit config.recompile_limit (8)", "torch.compile"),
        ("AUTOTUNE mm(16x576, 576x1536)", "Inductor autotune"),
        ("SingleProcess AUTOTUNE benchmarking takes 0.7310 seconds and 1.2040 seconds", "Inductor autotune"),
        ("2025-02-27 12:24:22,992 - INFO - flashinfer.jit: Loading JIT ops: batch_mla_attention", "FlashInfer JIT"),
        (
            "(Worker_TP1 pid=9) 2026-05-19 02:40:27,870 - INFO - autotuner.py:457 - flashinfer.jit: [Autotuner]: Autotuning process starts ...",
            "FlashInfer JIT",
        ),
        ("DeepGEMM warmup:  42%|####      | 42/100", "kernel warm-up"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  88%|####", "CUDA graph capture"),
        (f"{INFO}[gpu_model_runner.py:6582] Graph capturing finished in 3 secs, took 0.25 GiB", "CUDA graph capture"),
        (f"{INFO}[backends.py:296] Directly load the compiled graph(s) for compile range (1, 8) from the cache, took 0.1 s", None),
        (f"{INFO}[jit_monitor.py:82] Kernel JIT monitor activated; monitored JIT compilations during inference will use mode=warn.", None),
        ('(APIServer pid=1) INFO:     127.0.0.1:40 - "POST /v1/completions HTTP/1.1" 200 OK', None),
        (f"{INFO}[loggers.py:271] Engine 000: Avg prompt throughput: 51.2 tokens/s, Running: 4 reqs", None),
    ],
    ids=range(22),
)  # fmt: skip
def test_a_line_is_a_compilation_or_not(line, kind):
    """Each kind of line, and lines that look like one."""
    assert jit_kind(line) == kind


def test_a_watch_sees_what_came_after_it_began(tmp_path):
    """Lines from before are not counted; a half line waits for its end; each has our stamp and the log's time."""
    log = tmp_path / "server.log"
    line = f"{ENGINE}Triton kernel JIT compilation during inference: _old.{SPIKE}\n"
    log.write_text(line)
    watch = JitWatch(log)
    before_ns = clock.monotonic_ns()
    with log.open("a") as out:
        out.write(line.replace("_old", "_new")[:-20])
        out.flush()
        assert watch.look() == 0
        out.write(line[-20:])
    assert watch.look() == watch.look() == 1
    (found,) = watch.lines
    assert (found.kind, found.logged_at) == ("kernel JIT", "11-26 04:40:01")
    assert found.text.startswith("Triton kernel JIT compilation during inference: _new.")
    assert before_ns <= found.seen_ns <= clock.monotonic_ns()


def test_a_progress_bars_carriage_returns_end_lines(tmp_path):
    """tqdm writes its bar over itself."""
    log = tmp_path / "server.log"
    log.touch()
    watch = JitWatch(log)
    log.write_text("Capturing CUDA graphs:  0%\rCapturing CUDA graphs: 50%\r\n")
    assert watch.look() == 2


def test_of_many_lines_the_first_are_kept_and_all_counted(tmp_path):
    """A server that compiles without end does not fill the manifest."""
    log = tmp_path / "server.log"
    log.touch()
    watch = JitWatch(log)
    log.write_text("AUTOTUNE mm(1x1)\n" * 500)
    assert (watch.look(), len(watch.facts())) == (500, 200)


def test_without_a_log_nothing_is_seen():
    """An adopted server."""
    assert JitWatch(None).look() == 0
