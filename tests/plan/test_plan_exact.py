"""Lengths, shared prefixes and files of histograms against slow, plain forms of their rules; numbers of the streams."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.drafts import MEASURED, of_lengths
from harness.measure.plan.histograms import Histograms, is_histograms, read_histograms
from harness.measure.plan.lengths import (
    Fixed,
    Joint,
    Lognormal,
    Mixture,
    Part,
    Uniform,
    geometric,
    parse_short_form,
    sample,
    spec,
)
from harness.measure.plan.prefixes import HitRatio, beginning, hit_ratio, reuse
from harness.measure.plan.preset import PrefixSpec
from harness.measure.plan.streams import Purpose, interpolate, key, neg_log, raw, uniform

MASK = 2**64 - 1


def test_purposes_are_never_renumbered():
    """Every plan made so far depends on them."""
    assert {one.name: one.value for one in Purpose} == {
        "LENGTHS": 0, "ARRIVALS": 1, "PROMPTS": 2, "WARMUP_LENGTHS": 3, "REDRAWS": 4, "WARMUP_REDRAWS": 5, "ARRIVAL_STATES": 6,
        "TRACE_SAMPLE": 7, "TRACE_TICKS": 8, "SHARED": 9, "SESSIONS": 10, "SYSTEM_PROMPT": 11, "WARMUP_TRACE": 12,
    }  # fmt: skip


def test_keys_and_words_are_numpys():
    """A key is the first word of the purpose's SeedSequence, a stream PCG64's of the same."""
    for purpose in Purpose:
        sequence = np.random.SeedSequence(17, spawn_key=(purpose.value,))
        assert key(17, purpose) == int(sequence.generate_state(1, np.uint64)[0])
        assert raw(17, purpose, 3).tolist() == np.random.PCG64(sequence).random_raw(3).tolist()


def test_ends_of_the_numbers():
    """u = 0, the ends of the levels, and halves of the mantissa."""
    assert interpolate(
        np.array([0.0, 0.25, 0.5, 0.75]), np.array([0, 0.5, 1.0]), np.array([2.0, 4.0, 10.0])
    ).tolist() == [2, 3, 4, 7]
    u = np.array([0.0, 0.25, 0.29, 0.2928932188134524, 0.3, 0.5, 1 - 2**-53])
    assert neg_log(u) == pytest.approx([-math.log1p(-x) for x in u], rel=1e-15)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("fixed:1x10000000", Fixed(1, 10_000_000)),
        ("uniform:5-5x1-10000000", Uniform((5, 5), (1, 10_000_000))),
        ("lognormal:1x2:10", Lognormal(1, 2, 10.0)),
        ("lognormal:1x2:0.01", Lognormal(1, 2, 0.01)),
    ],
)
def test_the_ends_of_short_forms(text, values):
    """The least and greatest lengths and CVs."""
    assert parse_short_form(text) == values


@pytest.mark.parametrize(
    ("text", "what"),
    [("fixed:10000001x1", "out of range"), ("fixed:1x0", "out of range"), ("uniform:1-2x3-10000001", "out of range"),
     ("uniform:0-2x3-4", "out of range"), ("uniform:1-2x4-3", "backwards"), ("lognormal:1x2:10.1", "CV out of range"), ("lognormal:1x2:0", "CV"),
     ("lognormal:1x0", "out of range"), ("fixed:123456789x1", "cannot be read"), ("fixed:1", "cannot be read"), ("uniform:1x2", "cannot be read"),
     ("lognormal:1x2:", "cannot be read"), ("normal:1x2", "cannot be read")],
)  # fmt: skip
def test_beyond_the_ends_of_short_forms(text, what):
    """Refused with the text, and how the form is written."""
    with pytest.raises(ConfigError, match=what) as caught:
        parse_short_form(text)
    assert caught.value.value == text
    if what == "cannot be read" and not text.startswith("normal"):
        form = {"f": "fixed:PROMPTxOUTPUT", "u": "uniform:LO-HIxLO-HI", "l": "lognormal:MEANxMEAN[:CV]"}[text[0]]
        assert caught.value.advice == f"write it as {form}, lengths in whole tokens"
    if text.startswith("normal"):
        assert "fixed:PROMPTxOUTPUT or uniform:LO-HIxLO-HI or lognormal" in caught.value.advice


def test_refined_tables():
    """Eight steps of a (b / a)^(k / 8) between levels; above level 0.95 of a (b / a)^((k / 8)^power)."""
    levels, values = [0, 0.5, 0.95, 1.0], [10, 20, 20, 100]
    found = geometric(levels, values, 2.0)
    expected = [(0.0, 10.0)]
    for (low, a), (high, b) in pairwise(zip(levels, values, strict=True)):
        for k in range(1, 9):
            bend = 2.0 if low >= 0.95 else 1.0
            expected.append((low + (high - low) * k / 8, round(a * (b / a) ** ((k / 8) ** bend), 6)))
    assert found[0].tolist() == pytest.approx([level for level, _ in expected], abs=1e-15)
    assert found[1].tolist() == [value for _, value in expected]
    assert (found[0][8], found[0][16], found[0][-1]) == (0.5, 0.95, 1.0)
    straight = geometric([0, 1], [4, 64])
    assert straight[1].tolist() == [round(4 * 16 ** (k / 8), 6) for k in range(9)]


def test_lengths_of_tables():
    """The prompt straight between its quantiles at u, the output geometric between those of u's bin at v; whole, at least 1."""
    joint = Joint((0.0, 0.5, 1.0), (1, 101, 151), (0.0, 1.0), ((0.0, 0.25, (1, 1)), (0.25, 1.0, (16, 4096))))
    u, v = np.array([0.0, 0.1, 0.25, 0.5, 0.9]), np.array([0.9, 0.5, 0.5, 0.25, 0.0625])
    prompt, output = sample(joint, u, v)
    assert prompt.tolist() == [1, 21, 51, 101, 141]
    assert output.tolist() == [1, 1, 256, 64, 24]  # 16 x 256^v; at 1/16 half way from 16 to 32
    assert (prompt.dtype, output.dtype) == (np.int64, np.int64)


def test_lognormal_lengths():
    """The quantile of the standard normal at u, 5 deviations at most."""
    prompt, output = sample(
        Lognormal(1000, 50, 0.5), np.array([0.0, 0.5, 0.8413447460685429]), np.array([0.5, 1 - 2**-53, 0.0])
    )
    sigma = math.sqrt(math.log(1.25))

    def at(mean, z):
        return round(mean / math.sqrt(1.25) * math.exp(sigma * z))

    assert prompt.tolist() == [at(1000, -5), at(1000, 0), at(1000, 1)]
    assert output.tolist() == [at(50, 0), at(50, 5), at(50, -5)]


def test_lengths_of_a_mixture():
    """u chooses the part by its weight, and what is left of it the prompt; v the output; a level belongs to the next length."""
    parts = (Part(0.25, ((0.5, 10), (1.0, 20)), ((1.0, 5),)), Part(0.75, ((1.0, 30),), ((0.2, 1), (0.6, 2), (1.0, 3))))
    u = np.array([0.0, 0.1, 0.125, 0.2, 0.25, 0.9, 0.999999])
    v = np.array([0.0, 0.9, 0.9, 0.9, 0.1, 0.2, 0.6])
    prompt, output = sample(Mixture(parts), u, v)
    assert prompt.tolist() == [10, 10, 20, 20, 30, 30, 30]
    assert output.tolist() == [5, 5, 5, 5, 1, 2, 3]


def test_what_a_digest_says_of_lengths():
    """Plain values of the kind and its fields; a tail without a bend is as if there were none; a mixture is its digest."""
    assert spec(Fixed(3, 2)) == {"kind": "fixed", "prompt_tokens": 3, "output_tokens": 2}
    assert spec(Uniform((1, 2), (3, 4))) == {"kind": "uniform", "prompt_tokens": (1, 2), "output_tokens": (3, 4)}
    joint = Joint((0.0, 1.0), (1, 2), (0.0, 1.0), ((0.0, 1.0, (1, 1)),), 1.0)
    bent = Joint((0.0, 1.0), (1, 2), (0.0, 1.0), ((0.0, 1.0, (1, 1)),), 1.5)
    assert spec(joint).keys() == {"kind", "prompt_levels", "prompt_tokens", "output_levels", "bins"}
    assert spec(bent)["tail_power"] == 1.5


@pytest.mark.parametrize("coupling", [0.0, 0.3, -0.3, 1.0, -1.0])
def test_reuse_is_its_rule(coupling):
    """Row by row: the share wanted from the rank or from its own number, up to 16 tries among the 1,024 prompts before, the longest
    that was tried, or the first that is long enough."""
    table = PrefixSpec(block_tokens=16, token_hit_ratio_unlimited_cache=0.5, cached_fraction_quantile_levels=[0, 0.5, 1],
                       cached_fraction=[0, 0.4, 1], rank_coupling=coupling)  # fmt: skip
    count, seed = 1600, 6
    draft = of_lengths(parse_short_form("uniform:10-4000x1-1"), seed, count, None, MEASURED)
    prompt, rank = draft.prompt.tolist(), draft.rank.tolist()
    words = uniform(raw(seed, Purpose.SHARED, 2 * count)).tolist()
    base = key(seed, Purpose.SHARED)

    def at(start, counter):
        z = (start + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    expected = []
    for row in range(count):
        level = (rank[row] if coupling > 0 else 1 - rank[row]) if words[2 * row] < abs(coupling) else words[2 * row + 1]
        wanted = math.floor(np.interp(level, [0, 0.5, 1], [0, 0.4, 1]) * prompt[row])
        source = None
        for attempt in range(16 if row else 0):
            u = (at(at(base, row), attempt) >> 11) / 2**53
            tried = row - 1 - math.floor(u * min(row, 1024))
            if source is None or prompt[tried] > prompt[source]:
                source = tried
            if prompt[source] >= wanted:
                break
        expected.append(() if source is None else beginning(expected[source], source, min(wanted, prompt[source])))
    assert reuse(table, draft.prompt, draft.rank, seed) == expected


def test_the_beginning_of_a_prompt():
    """As many pairs as it takes, the last cut; what they do not cover comes from the row's own stream; of nothing nothing."""
    pairs = (4, 10, 5, 20)
    assert beginning(pairs, 9, 0) == ()
    assert beginning(pairs, 9, 10) == (4, 10)
    assert beginning(pairs, 9, 11) == (4, 10, 5, 1)
    assert beginning(pairs, 9, 31) == (4, 10, 5, 20, 9, 1)
    assert beginning((), 9, 3) == (9, 3)


def test_a_hit_ratio_of_nothing():
    """No requests share nothing."""
    assert hit_ratio([], 16) == HitRatio(0.0, 0.0, 16)


def client(folder, number, windows, rates=None):
    data = {str(s): {f"{name}_tokens": str(table) for name, table in fields.items()} for s, fields in windows.items()}
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(data))
    if rates is not None:
        lines = [f"{s},{rate},1.5,{'Gamma' if rate else ''},0.5,2.0" for s, rate in rates.items()]
        (folder / f"chunk-{number}-trace.csv").write_text("\n".join(lines) + "\n")


def test_all_of_a_folder_of_clients(tmp_path):
    """Parts by hand: each client's histograms over its windows, weighted with their requests, the window before where one has
    none of its own; lengths of 0 left out; rates of all, 0 where no file has a window; what was not used."""
    client(tmp_path, 1, {0: {"input": {10: 0.5, 0: 0.5}, "output": {4: 1.0}, "reason": {1: 1.0}}}, {0: 2.0, 600: 0.0})
    client(tmp_path, 2, {0: {"input": {30: 1.0}, "output": {5: 0.25, 6: 0.75}}, 600: {"input": {20: 1.0}, "output": {6: 1.0}}},
           {0: 1.0, 600: 1.0, 1800: 3.0})  # fmt: skip
    client(tmp_path, 3, {0: {"input": {99: 1.0}, "output": {99: 1.0}}}, {0: 0.0})
    found = read_histograms(tmp_path, None, None)
    weight = 1.0 + 5.0
    first = Part(pytest.approx(1 / weight), ((1.0, 10),), ((1.0, 4),))
    levels = (pytest.approx(0.8), 20), (1.0, 30)
    second = Part(pytest.approx(5 / weight), levels, ((pytest.approx(0.05), 5), (1.0, 6)))
    assert found == Histograms(
        Mixture((first, second)),
        (3.0, 1.0, 0.0, 3.0),
        600.0,
        (
            ("histograms: 2 of 3 clients, 3 windows; prompt and output of one client are drawn independently, arrivals with the rates "
            "of the windows (the clients' own burstiness is not replayed)"),
            "histograms: 14.29% of the requests have length 0 and were left out",
            "histograms: not used: reason_tokens",
        ),
    )  # fmt: skip
    assert found.mean_rate_rps == 7 / 4
    alone = read_histograms(tmp_path / "chunk-1-dataset.json", None, None)
    assert (alone.rates, alone.window_s, alone.mean_rate_rps) == ((2.0, 0.0), 600.0, 1.0)
    assert read_histograms(tmp_path, 600.0, 1800.0).lengths == Mixture((Part(1.0, ((1.0, 20),), ((1.0, 6),)),))


def test_what_files_of_distributions_look_like(tmp_path):
    """By content: a client's file, a folder with one, a table of quantiles; not rows, not Parquet, nothing that is not there."""
    client(tmp_path, 7, {0: {"input": {1: 1.0}, "output": {1: 1.0}}})
    assert is_histograms(tmp_path)
    assert is_histograms(tmp_path / "chunk-7-dataset.json")
    (tmp_path / "empty").mkdir()
    assert not is_histograms(tmp_path / "empty")
    assert not is_histograms(tmp_path / "none")
    for text, found in (
        ("quantile,prompt_tokens,output_tokens\n", True),
        ("prompt_tokens,output_tokens\n", False),
        ("PAR1", False),
        ('{"requests":[]}', False),
        ("", False),
    ):
        (tmp_path / "f").write_text(text)
        assert is_histograms(tmp_path / "f") is found
    (tmp_path / "f").write_text("quantile,prompt_tokens,output_tokens\n0,1,2\n\n0.5,10,20\n1,100,20\n")
    levels, outputs = (0.0, 0.5, 1.0), (2, 20, 20)
    assert read_histograms(tmp_path / "f", None, None) == Histograms(
        Joint(levels, (1, 10, 100), levels, ((0.0, 1.0, outputs),)),
        (),
        0,
        ("quantile table: prompt and output are drawn independently",),
    )
