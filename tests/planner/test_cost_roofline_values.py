"""Roofline estimates of a model of round numbers, each worked out by hand, and every reason why there is none."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.planner.roofline import Estimate, Shape, best_estimate, decode_attention_flops, estimate, flops_per_s
from tests.model.round_model import PLAIN

SHAPE = Shape(prompt_tokens=20, output_tokens=10)
PREFILL = 2 * 2950 * 20 + 2 * 4 * (5 + 5) * 3 * 20 * 20 / 2  # matrices, and the pairs of 3 layers
TOKEN = 2 * 2950 + 2 * 4 * (5 + 5) * 3 * 25  # in the middle of its output
READ = 3 * 2 * 16 * 40  # the 25 tokens of one sequence, in blocks of 16
LEAST = 1e-9


def memory_for(sequences, gpus=1):
    """Bytes of each GPU that hold so many sequences of 30 tokens beside the weights and 2 GB."""
    return (2e9 + 6000 / gpus + sequences * READ / gpus + 1) / 0.9


def told(shape=SHAPE, model=PLAIN, flops=1e15, bandwidth=1e15, sequences=4, gpus=1):
    return estimate(
        model, shape, flops=flops, bandwidth_bytes_per_s=bandwidth, memory_bytes=memory_for(sequences, gpus), gpus=gpus
    )


def test_what_a_shape_takes_for_granted():
    """No limit on time, the model's own dtypes, 90 % of the memory, half of the arithmetic and 70 % of the bandwidth."""
    assert asdict(SHAPE) == {
        "prompt_tokens": 20, "output_tokens": 10, "tpot_s": None, "kv_dtype": "auto", "weight_dtype": None, "memory_share": 0.9,
        "compute_efficiency": 0.5, "bandwidth_efficiency": 0.7,
    }  # fmt: skip


def test_bound_by_bandwidth():
    """A step reads the weights and 4 sequences at 0.7 of 1,000 bytes/s."""
    step = (6000 + 4 * READ) / 700
    assert told(bandwidth=1000) == Estimate(1, pytest.approx(4 / (10 * step)), 4, pytest.approx(step))


def test_bound_by_arithmetic():
    """A step computes 4 tokens, and before them 4 prompts were, at half of 1,000 operations/s."""
    step, prefill = 4 * TOKEN / 500, PREFILL / 500
    rate = 4 / (10 * step + 4 * prefill)
    assert told(flops=1000) == Estimate(1, pytest.approx(rate), 4, pytest.approx(step + 4 * prefill / 10))


def test_two_gpus_share_everything_out():
    """Half the weights and one of two heads on each; twice the arithmetic."""
    step = (3000 + 4 * READ / 2) / 700
    assert told(bandwidth=1000, gpus=2) == Estimate(2, pytest.approx(4 / (10 * step)), 4, pytest.approx(step))
    assert told(flops=1000, gpus=2).rps == pytest.approx(2 * told(flops=1000).rps)


def test_what_a_shape_asks_for():
    """8-bit cache and weights, half of the memory and other efficiencies, of 24 tokens and one."""
    shape = Shape(
        prompt_tokens=24, output_tokens=1, kv_dtype="fp8", weight_dtype="fp8", memory_share=0.45, compute_efficiency=0.25,
        bandwidth_efficiency=0.1,
    )  # fmt: skip
    weights, read = 2 * 200 + 2800, 3 * 2 * 16 * 20
    found = estimate(
        PLAIN, shape, flops=1e15, bandwidth_bytes_per_s=1000, memory_bytes=(2e9 + weights + 3 * read + 1) / 0.45, gpus=1
    )
    step = (weights + 3 * read) / 100
    assert found == Estimate(1, pytest.approx(3 / step), 3, pytest.approx(step))
    prefill = (2 * 2950 * 24 + 2 * 4 * 10 * 3 * 24 * 24 / 2) / 250
    slow = estimate(
        PLAIN, shape, flops=1000, bandwidth_bytes_per_s=1e15, memory_bytes=(2e9 + weights + 3 * read + 1) / 0.45, gpus=1
    )
    assert slow.tpot_s == pytest.approx(3 * (2 * 2950 + 2 * 4 * 10 * 3 * 24) / 250 + 3 * prefill)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("sequences", [4, 5])
def test_the_largest_batch_inside_the_promise(batch, sequences):
    """At the time of a batch it is that batch, and below that of one request there is none."""
    limit = (6000 + batch * READ) / 700
    for tpot_s, most in ((limit * (1 + LEAST), batch), (limit * (1 - LEAST), batch - 1)):
        found = told(replace(SHAPE, tpot_s=tpot_s), bandwidth=1000, sequences=sequences)
        assert (found.batch if found else 0) == most


def test_a_promise_that_any_batch_keeps():
    """Memory is the limit; a batch that takes exactly the time that was promised keeps it."""
    assert told(replace(SHAPE, tpot_s=told(bandwidth=1000).tpot_s), bandwidth=1000, sequences=5).batch == 4
    assert told(replace(SHAPE, tpot_s=1e9), bandwidth=1000).batch == 4
    assert told(replace(SHAPE, tpot_s=(6000 + READ) / 0.7 * (1 + LEAST)), bandwidth=1, sequences=1).batch == 1
    assert told(sequences=0) is None


@pytest.mark.parametrize(
    ("change", "words", "what"),
    [
        ({"prompt_tokens": 0}, {}, "prompt tokens is not a whole number of at least 1"),
        ({"output_tokens": 0}, {}, "output tokens is not a whole number of at least 1"),
        ({"prompt_tokens": 191}, {}, "request is longer than plain takes"),
        ({"tpot_s": 0}, {}, "time per output token (s) is 0"),
        ({"compute_efficiency": 1.1}, {}, "compute efficiency is out of range"),
        ({"bandwidth_efficiency": 1.1}, {}, "bandwidth efficiency is out of range"),
        ({}, {"flops": 0}, "FLOP/s is 0"),
        ({}, {"bandwidth": 0}, "bandwidth is 0"),
    ],
)
def test_what_is_refused(change, words, what):
    """By name."""
    with pytest.raises(ConfigError) as error:
        told(replace(SHAPE, **change), **words)
    assert error.value.what == what


def test_the_shortest_and_the_longest_request():
    """One token in, one out; and as many as the model takes."""
    assert told(Shape(prompt_tokens=1, output_tokens=1)).batch >= 1
    assert told(replace(SHAPE, prompt_tokens=190), sequences=40) is not None


def test_a_context_of_one_whole_chunk_is_all_seen():
    """8 tokens of a chunk of 8; of 9 one chunk is over, and half of one is seen."""
    chunk = replace(PLAIN, full_layers=0, window_layers=1, window=8, chunked=True)
    assert [decode_attention_flops(chunk, tokens) for tokens in (8, 9)] == [2 * 4 * 10 * 8, 2 * 4 * 10 * 4]


# ---------------------------------------------------------------- an instance


@pytest.mark.parametrize(
    ("gpu", "dtype", "tera"),
    [
        ("H100-SXM", "bfloat16", 989),
        ("H100-SXM", "fp8", 2 * 989),
        ("L4", "fp8", 242),
        ("A10G", "fp8", 70),
        ("L4", "int8", 121),
    ],
)
def test_peak_arithmetic(gpu, dtype, tera):
    """Dense BF16; FP8 weights double it where the GPU has FP8."""
    assert flops_per_s(gpu, dtype) == tera * 1e12


def test_every_gpu_without_fp8_is_in_the_table():
    """And one that is not in the table has no figure."""
    book = json.loads((data_dir("configs") / "prices" / "gpu_flops.json").read_text())
    assert set(book["no_fp8"]) < set(book["bf16_tflops"])
    assert flops_per_s("H900", "bfloat16") is None


def best(count=4, *, memory_bytes=None, model=PLAIN, shape=SHAPE, gpu="L4", bandwidth=1e-6):
    """On GPUs of 1,000 bytes/s that hold 4 sequences by themselves, unless said otherwise."""
    each = memory_for(4) if memory_bytes is None else memory_bytes
    return best_estimate(model, shape, gpu, count, memory_gb_each=each / 1e9, bandwidth_gb_per_s_each=bandwidth)


def test_the_best_of_the_ways_to_cut_an_instance():
    """Four GPUs: apart they hold 4 sequences each, in pairs 9 at half the weights, together 9 (a head is there twice) at a quarter:
    20 sequences in pairs take less time than 16 apart."""

    def cut(tp, batch):
        step = (6000 / tp + batch * READ / min(tp, 2)) / 700
        return 4 // tp * batch / (10 * step), f"{4 // tp} x TP{tp}, batch {batch}, TPOT {step * 1000:.1f} ms"

    room = memory_for(4) * 0.9 - 2e9
    ways = [cut(tp, int((room - 6000 / tp) // (READ / min(tp, 2)))) for tp in (1, 2, 4)]
    rps, how = best()
    assert (rps, how) == (pytest.approx(max(ways)[0], rel=1e-6), max(ways)[1])
    assert best(1) == (pytest.approx(ways[0][0] / 4, rel=1e-6), ways[0][1].replace("4 x", "1 x"))
    assert best(3)[0] == pytest.approx(max(3 * ways[0][0] / 4, ways[1][0] / 2), rel=1e-6)


def test_of_equal_ways_the_one_of_fewest_gpus_is_taken():
    """A limit of one sequence each, no weights: nothing is gained by pairs but what they share."""
    light = replace(PLAIN, weight_bytes=0.0, latent_dim=20)  # a latent is whole on each GPU, and so is what is read
    found = best(2, model=light, memory_bytes=(2e9 + READ + 1) / 0.9)
    assert found[1].startswith("2 x TP1, batch 1,")


def test_only_divisors_of_the_heads_are_cut():
    """Weights that take 8 GPUs: 8 heads go over them, 4 do not."""
    large, room = replace(PLAIN, weight_bytes=8e9), (2e9 + 1e9 + 10 * READ) / 0.9
    assert best(8, memory_bytes=room, model=replace(large, attention_heads=8))[1].startswith("1 x TP8,")
    assert best(8, memory_bytes=room, model=large) == "no batch fits and meets the time per output token"


def test_weights_of_the_dtype_that_is_asked_for():
    """Bound by arithmetic, 8-bit weights are twice as fast where the GPU has FP8, as published or as asked for."""
    memory_bytes = memory_for(4)
    plain = best(1, bandwidth=1e6, memory_bytes=memory_bytes)[0]
    published = best(1, bandwidth=1e6, memory_bytes=memory_bytes, model=replace(PLAIN, weight_dtype="fp8"))[0]
    asked = best(1, bandwidth=1e6, memory_bytes=memory_bytes, shape=replace(SHAPE, weight_dtype="fp8"))[0]
    assert published == pytest.approx(2 * plain)
    assert asked == pytest.approx(2 * plain)


def test_why_there_is_none():
    """No arithmetic known, weights too large for all GPUs together, or no batch fast enough."""
    assert best(gpu="H900") == "no FLOP/s known for H900"
    large = replace(PLAIN, weight_bytes=20e9)
    assert best(4, model=large, memory_bytes=5e9) == "weights of 20 GB do not fit in 18 GB"
    assert best(4, model=large, memory_bytes=5.6e9) == "no batch fits and meets the time per output token"  # 20.2 GB
    wide = replace(PLAIN, mlp_parameters=20 * 10**9, weight_bytes=40e9)  # 40 GB as published, 20 in 8 bits
    assert (
        best(4, model=wide, shape=replace(SHAPE, weight_dtype="fp8"), memory_bytes=5e9)
        == "weights of 20 GB do not fit in 18 GB"
    )
    assert best(shape=replace(SHAPE, tpot_s=1e-6)) == "no batch fits and meets the time per output token"
    for words in ({"bandwidth": 0}, {"memory_bytes": 0}):
        with pytest.raises(ConfigError, match=r"\((GB|GB/s)\) is 0"):
            best(**words)
