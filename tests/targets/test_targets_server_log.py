"""What a server's log tells; the excerpts are from vLLM 0.32.0, shortened."""

from __future__ import annotations

import pytest

from harness.measure.targets.server import vllm_log

KV = """\
(APIServer pid=9) WARNING 11-24 12:12:16 [system_utils.py:255] ImportError: survived
(EngineCore pid=18376) ERROR 11-24 12:12:32 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=18376) ERROR 11-24 12:12:32 [core.py:1510]     raise ValueError(
(EngineCore pid=18376) ERROR 11-24 12:12:32 [core.py:1510] ValueError: To serve at least one request with max seq len (8192)
Process EngineCore:
ValueError: To serve at least one request with max seq len (8192)
Traceback (most recent call last):
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: 1 leaked shared_memory object
"""
TOO_LONG = """\
  File "/x/_dataclasses.py", line 121, in __init__
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len [type=value_error]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
LATER = """\
INFO:     Application startup complete.
(APIServer pid=9) ERROR 11-24 12:13:00 [serving.py:1] ValueError: one request's own mistake
(EngineCore pid=8) ERROR 11-24 12:14:00 [core.py:2] RuntimeError: CUDA error: an illegal memory access was encountered
(APIServer pid=9) ERROR 11-24 12:14:00 [async_llm.py:3] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.
"""
USAGE = "usage: vllm serve [-h]\n  [model_tag]\nvllm: error: unrecognized arguments: --max-modle-len=3\n"


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (KV, "ValueError: To serve at least one request with max seq len (8192)"),
        (USAGE, "unrecognized arguments: --max-modle-len=3"),
        (LATER, "RuntimeError: CUDA error: an illegal memory access was encountered"),
        ("\x1b[0;36m(W pid=1)\x1b[0;0m ERROR 11-24 12:00:00 [a.py:1] torch.OutOfMemoryError: CUDA\n", "torch.OutOfMemoryError: CUDA"),
        ("RuntimeError: Engine core initialization failed. See root cause above.\n", "RuntimeError: Engine core initialization failed. See root cause above."),
        ("one\ntwo\n(A pid=1) INFO 11-24 12:00:00 [a.py:1] three\nfour\n", "its log ends: two | three | four"),
        ("", "its log is empty"),
    ],
)  # fmt: skip
def test_cause_of_death(tmp_path, log, why):
    """The exception that began it is found; echoes, survived warnings and single requests' errors are not it."""
    (tmp_path / "log").write_text(log)
    assert vllm_log.cause(tmp_path / "log") == why


def test_a_validation_error_comes_with_its_reason(tmp_path):
    """pydantic's first line says nothing: the indented line after it is taken along, the link is not."""
    (tmp_path / "log").write_text(TOO_LONG)
    why = vllm_log.cause(tmp_path / "log")
    assert "max_model_len (100000) is greater" in why
    assert "For further information" not in why


@pytest.mark.parametrize(
    ("why", "word"),
    [
        ("exit status 2; unrecognized arguments: --x", "flags"),
        ("exit status 2; argument --max-num-seqs: invalid int value: 'many'", "flags"),
        ("torch.OutOfMemoryError: CUDA out of memory", "less memory"),
        ("ended by SIGKILL; its log ends: x", "less memory"),
        ("OSError: [Errno 98] Address already in use", "port"),
        ("User-specified max_model_len (100000)", "max_model_len"),
        ("something else", "read the log"),
    ],
)
def test_advice_fits_the_cause(why, word):
    """Each known cause has its own way out."""
    assert word in vllm_log.advice(why)


def test_phases_and_weights():
    """The newest telling line is the phase; the slowest worker's load time is the weights' time."""
    assert (
        vllm_log.phase("x Resolved architecture: LlamaForCausalLM\n") == "reading the model's config (LlamaForCausalLM)"
    )
    shards = "Starting to load model\nLoading safetensors checkpoint shards:  50% Completed | 1/2\nnoise"
    assert vllm_log.phase(shards) == "loading weights, 50 %"
    assert vllm_log.phase("noise\n") is None
    assert vllm_log.weights_s("Loading weights took 0.86 seconds\nLoading weights took 1.50 seconds") == 1.5
    assert vllm_log.weights_s("no word of it") is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Fetching 8 files:  12%|#2        | 1/8 [00:02<00:17,  2.48s/it]", "downloading weights, 12 %"),
        ("model-00001-of-00004.safetensors:  35%|###5      | 1.74G/4.98G [00:20<00:37, 86.1MB/s]", "downloading weights, 35 %"),
        ("Time spent downloading weights for Qwen/Qwen3-8B: 61.250000 seconds", "downloaded weights in 61.250000 s"),
        ("v0.33.0: Pulling from vllm/vllm-openai", "pulling the image vllm/vllm-openai"),
        ("Starting torch.compile", "compiling"),
        ("Dynamo bytecode transform time: 5.02 s", "compiling"),
        ("Compiling a graph for compile range (1, 8192) takes 12.40 s", "compiling"),
        ("DeepGEMM warmup:  42%|####2     | 42/100", "compiling kernels, DeepGEMM warmup, 42 %"),
        ("JIT kernel warmup starting.", "compiling kernels"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  51%|#####1    | 26/51", "capturing CUDA graphs, 51 %"),
        ("Graph capturing finished in 4 secs, took 0.62 GiB", "capturing CUDA graphs"),
        ("bar:  1%\rCapturing CUDA graphs (decode, FULL):   3%|\rCapturing CUDA graphs (decode, FULL):  88%|", "capturing CUDA graphs, 88 %"),
    ],
    ids=range(12),
)  # fmt: skip
def test_download_load_compile_and_capture_are_phases(line, words):
    """By the words of vLLM, of the hub's progress bars and of the container engines."""
    assert vllm_log.phase(f"{line}\nnoise") == words
