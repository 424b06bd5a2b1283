"""Whole results of memory on a model of round numbers, each worked out by hand beside it, and every default and bound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.base.errors import ConfigError
from harness.config.model import memory
from harness.config.model.memory import (
    KV_BYTES,
    WEIGHT_BYTES,
    Fit,
    KvBlocks,
    block_tokens_of,
    fit,
    kv_bytes_per_token,
    layer_token_bytes,
    predict_kv_blocks,
    sequence_kv_bytes,
    state_layer_bytes,
    weight_bytes,
)
from tests.model.round_model import PLAIN

WINDOWS = replace(PLAIN, full_layers=1, window_layers=2, window=40)
CHUNKS = replace(WINDOWS, chunked=True)
STATES = replace(PLAIN, full_layers=1, state_layers=2, state_bytes=1001)  # a state needs 26 tokens of 40 bytes
LATENT = replace(PLAIN, latent_dim=7)


def test_bytes_of_a_number():
    """Whole types by their width, 4-bit ones with their scales; labels as vLLM and the hub name them."""
    assert WEIGHT_BYTES == {
        "float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "int8": 1, "int4": (4 + (16 + 4) / 128) / 8,
        "mxfp4": (4 + 8 / 32) / 8, "nvfp4": (4 + 8 / 16) / 8,
    }  # fmt: skip
    assert KV_BYTES == {
        "float32": 4, "bfloat16": 2, "float16": 2, "half": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1, "int8": 1,
    }  # fmt: skip
    assert memory.GB == 1_000_000_000


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (None, 6000),
        ("float32", 4 * 3000),
        ("bfloat16", 2 * 3000),
        ("fp8", 2 * 200 + 2800),
        ("mxfp4", 2 * 1200 + 1800 * 4.25 / 8),  # attention stays
        ("nvfp4", 2 * 200 + 2800 * 4.5 / 8),
    ],
)
def test_weights_brought_to_a_dtype(dtype, size):
    """Embedding and the rest at 2 bytes at least, the layers' matrices at the dtype's."""
    assert weight_bytes(PLAIN, dtype) == size


@pytest.mark.parametrize(
    ("model", "dtype", "gpus", "size"),
    [
        (PLAIN, "auto", 1, 2 * 2 * 5 * 2),
        (PLAIN, "auto", 2, 2 * 1 * 5 * 2),
        (PLAIN, "auto", 4, 2 * 1 * 5 * 2),  # each GPU has one head, the same one twice
        (PLAIN, "fp8", 1, 2 * 2 * 5),
        (replace(PLAIN, kv_heads=7), "int8", 2, 2 * 3 * 5),
        (LATENT, "auto", 1, 7 * 2),
        (LATENT, "float32", 4, 7 * 4),
    ],
)
def test_a_token_in_a_layer(model, dtype, gpus, size):
    """Keys and values of the heads on one GPU, or the latent, whole on each."""
    assert layer_token_bytes(model, dtype, gpus) == size
    assert kv_bytes_per_token(model, dtype, gpus) == 3 * size


@pytest.mark.parametrize(("gpus", "size"), [(1, 1001), (2, 501), (4, 251)])
def test_a_state_on_each_gpu(gpus, size):
    """Shared out, a byte begun is a byte."""
    assert state_layer_bytes(STATES, gpus) == size


@pytest.mark.parametrize(
    ("model", "block", "dtype", "gpus", "tokens"),
    [
        (PLAIN, 16, "auto", 1, 16),
        (PLAIN, 1, "auto", 1, 1),
        (STATES, 16, "auto", 1, 32),  # two of 640 bytes hold 1,001
        (STATES, 13, "auto", 1, 26),
        (STATES, 16, "fp8", 1, 64),
        (STATES, 16, "auto", 2, 32),  # 501 of 320
        (replace(STATES, state_bytes=640), 16, "auto", 1, 16),
    ],
)
def test_tokens_of_a_block(model, block, dtype, gpus, tokens):
    """As asked, or so many times that that a state goes in."""
    assert block_tokens_of(model, block, dtype, gpus) == tokens


def test_tokens_of_a_block_where_nothing_else_is_said():
    """In the model's own dtype on one GPU: five of 224 bytes hold a state beside a latent, on two GPUs three hold half of it."""
    latent = replace(STATES, latent_dim=7)
    assert (block_tokens_of(latent, 16), block_tokens_of(latent, 16, "auto", 2)) == (80, 48)
    assert layer_token_bytes(PLAIN) == 40


@pytest.mark.parametrize(
    ("model", "tokens", "size"),
    [
        (PLAIN, 1, 3 * 16 * 40),
        (PLAIN, 16, 3 * 16 * 40),
        (PLAIN, 17, 3 * 32 * 40),
        (WINDOWS, 30, 3 * 2 * 16 * 40),
        (WINDOWS, 100, (7 + 2 * (3 + 1)) * 16 * 40),  # 40 tokens in 3 blocks, and one that they began in
        (CHUNKS, 100, (7 + 2 * 3) * 16 * 40),
        (STATES, 33, (2 + 2 * 2) * 32 * 40),
        (replace(STATES, state_blocks=3), 33, (2 + 2 * 3) * 32 * 40),
        (LATENT, 17, 3 * 32 * 14),
    ],
)
def test_a_sequence(model, tokens, size):
    """Full layers in whole blocks, a window and a chunk in theirs, states whatever the length."""
    assert sequence_kv_bytes(model, tokens) == size


def test_a_sequence_on_several_gpus_and_in_other_blocks():
    """8-bit numbers, one of two heads on each GPU, blocks of 10."""
    assert sequence_kv_bytes(PLAIN, 31, kv_dtype="fp8", tensor_parallel=2, block_tokens=10) == 3 * 40 * 10
    assert sequence_kv_bytes(STATES, 31, kv_dtype="fp8", tensor_parallel=2, block_tokens=10) == (1 + 4) * 60 * 10
    assert sequence_kv_bytes(replace(STATES, latent_dim=7), 49, tensor_parallel=2) == (2 + 4) * 48 * 14


def test_what_fits():
    """Nine tenths of 40,000 bytes, less half of the weights and an overhead of 1,000; 2 blocks of 3 layers of 20 bytes each."""
    found = fit(PLAIN, 40_000, context_tokens=20, tensor_parallel=2, overhead_bytes=1000)
    assert found == Fit(2, 3000.0, 32_000.0, 16, 16 * 20)
    other = fit(
        PLAIN,
        40_000,
        context_tokens=20,
        memory_share=0.5,
        overhead_bytes=0,
        kv_dtype="fp8",
        weight_dtype="fp8",
        block_tokens=10,
    )
    assert other == Fit(1, 3200.0, 16_800.0, 14, 14 * 20)
    assert fit(PLAIN, 1000, context_tokens=20, overhead_bytes=0) == Fit(1, 6000.0, 0.0, 0, 0)
    assert fit(PLAIN, 40_000 + 2e9 / 0.9, context_tokens=20).kv_per_gpu == pytest.approx(30_000, abs=1)


def blocks(model, **words):
    """Of 100,000 bytes in blocks of 16."""
    return predict_kv_blocks(model, 100_000, 16, **words)


def counted(number, each, needed, length):
    return KvBlocks(number, each, int(number / needed * length), number / needed)


def test_blocks_of_layers_of_one_kind():
    """100,000 bytes / (3 layers x 16 x 40): 52 blocks; 200 tokens take 13 of them, at least one."""
    assert blocks(PLAIN) == counted(52, 1920, 13, 200)
    assert blocks(PLAIN, max_model_len=160) == counted(52, 1920, 10, 160)
    assert blocks(PLAIN, kv_dtype="fp8", tensor_parallel=2) == counted(208, 480, 13, 200)


def test_blocks_of_windows_and_chunks():
    """Groups of one layer: a window needs its 39 tokens and those in flight, in one block more than they fill; a chunk its 40."""
    assert blocks(WINDOWS) == counted(156, 640, 13 + 2 * (13 + 1), 200)  # 8,192 in flight: all 200
    assert blocks(CHUNKS) == counted(156, 640, 13 + 2 * 13, 200)
    assert blocks(WINDOWS, max_in_flight_tokens=10) == counted(156, 640, 13 + 2 * (4 + 1), 200)  # 49 tokens
    assert blocks(WINDOWS, max_in_flight_tokens=9) == counted(156, 640, 13 + 2 * (3 + 1), 200)  # 48
    assert blocks(CHUNKS, max_in_flight_tokens=8) == counted(156, 640, 13 + 2 * 3, 200)
    assert blocks(CHUNKS, max_in_flight_tokens=9) == counted(156, 640, 13 + 2 * 4, 200)


def test_blocks_of_states():
    """Blocks of 32 tokens; two groups of one state layer each keep two blocks of a request, or one without prefix caching."""
    assert blocks(STATES) == counted(78, 1280, 7 + 2 * 2, 200)
    assert blocks(STATES, prefix_caching=False) == counted(78, 1280, 7 + 2, 200)
    assert blocks(STATES, kv_dtype="fp8") == counted(78, 1280, 4 + 2 * 2, 200)
    assert blocks(STATES, tensor_parallel=2) == counted(156, 640, 7 + 2 * 2, 200)
    latent = replace(STATES, latent_dim=7)  # whole on each GPU: half of a state, 501 bytes, takes three blocks of 224
    assert blocks(latent, tensor_parallel=2) == counted(100_000 // 672, 672, 5 + 2 * 2, 200)


@pytest.mark.parametrize(
    ("kinds", "size", "groups"),
    [
        ((3, 0, 0), 3, (1, 0, 0)),
        ((2, 3, 0), 2, (1, 2, 0)),  # one and a half times as many is no padding
        ((3, 4, 0), 4, (1, 1, 0)),
        ((4, 3, 0), 4, (1, 1, 0)),
        ((2, 0, 6), 2, (1, 0, 3)),
        ((2, 3, 5), 2, (1, 2, 3)),
        ((0, 1, 1), 1, (0, 1, 1)),
    ],
)
def test_groups_of_layers(kinds, size, groups):
    """As many layers as the rarest kind has, or, where no kind has half as many again, as the commonest."""
    full, window, states = kinds
    model = replace(
        PLAIN,
        full_layers=full,
        window_layers=window,
        window=10**6 if window else None,
        state_layers=states,
        state_bytes=640,
    )
    needed = groups[0] * 13 + groups[1] * 14 + groups[2] * 2
    assert predict_kv_blocks(model, 10**6, 16) == counted(10**6 // (size * 640), size * 640, needed, 200)


BAD = {
    "tensor parallel size": lambda n: layer_token_bytes(PLAIN, "auto", n),
    "block size (tokens)": lambda n: block_tokens_of(PLAIN, n),
    "tokens": lambda n: sequence_kv_bytes(PLAIN, n),
    "KV cache (bytes)": lambda n: predict_kv_blocks(PLAIN, n, 16),
    "max model length (tokens)": lambda n: predict_kv_blocks(replace(PLAIN, max_tokens=n), 1, 16),
}


@pytest.mark.parametrize("what", BAD)
def test_counts_of_one_are_the_least(what):
    """One is taken, none is refused by the number's name."""
    BAD[what](1)
    with pytest.raises(ConfigError) as error:
        BAD[what](0)
    assert error.value.what == f"{what} is not a whole number of at least 1"


@pytest.mark.parametrize(
    ("ask", "what", "value"),
    [
        (lambda: state_layer_bytes(STATES, 0), "tensor parallel size is not a whole number of at least 1", "0"),
        (lambda: layer_token_bytes(PLAIN, "auto", 3), "heads do not divide over the GPUs", "4 by 3"),
        (lambda: layer_token_bytes(PLAIN, "int2"), "KV cache dtype is not known", "int2"),
        (lambda: weight_bytes(PLAIN, "int2"), "weight dtype is not known", "int2"),
        (lambda: fit(PLAIN, 0, context_tokens=1), "GPU memory (bytes) is 0", "0"),
        (lambda: fit(PLAIN, 1, context_tokens=1, memory_share=0), "share of GPU memory is out of range", "0"),
        (lambda: fit(PLAIN, 1, context_tokens=1, overhead_bytes=-1), "overhead (bytes) is negative", "-1"),
    ],
)  # fmt: skip
def test_what_is_refused(ask, what, value):
    """What it is, and the value."""
    with pytest.raises(ConfigError) as error:
        ask()
    assert (error.value.what, error.value.value) == (what, value)
