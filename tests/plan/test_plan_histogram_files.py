"""Files of histograms and quantiles that can be used, at their ends, and those that cannot, with place and value."""

from __future__ import annotations

import json

import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.histograms import Histograms, is_histograms, read_histograms
from harness.measure.plan.lengths import Joint, Mixture, Part


def dataset(folder, window, number=1):
    path = folder / f"chunk-{number}-dataset.json"
    path.write_text(json.dumps({"0": window}))
    return path


def window(prompt="{5: 1.0}", output="{6: 1.0}"):
    return {"input_tokens": prompt, "output_tokens": output}


def refused(path, *span):
    with pytest.raises(ConfigError) as caught:
        read_histograms(path, *(span or (None, None)))
    return caught.value.what, caught.value.value, caught.value.advice


@pytest.mark.parametrize(
    ("table", "levels"),
    [
        ("{5: 1}", ((1.0, 5),)),
        ("{10000000: 1.0}", ((1.0, 10_000_000),)),
        ("{7: 0.5, 5: 0.5, 6: 0.0}", ((0.5, 5), (1.0, 7))),  # in order of the lengths, what never occurs left out
        (
            "{5: 0.2497, 6: 0.7494}",
            ((pytest.approx(0.2497 / 0.9991), 5), (1.0, 6)),
        ),  # a sum of 1 to 0.001, brought to 1
        ("{0: 0.5, 5: 0.5}", ((1.0, 5),)),
        ('{"5": 0.5, 6.0: 0.5}', ((0.5, 5), (1.0, 6))),
        ({"5": 0.5, "6": 0.5}, ((0.5, 5), (1.0, 6))),  # not as text
    ],
)
def test_histograms_that_can_be_used(tmp_path, table, levels):
    """Shares rise to 1 over the lengths; the sum may be off by what was rounded away."""
    path = dataset(tmp_path, window(table) | {"more": "{1: 1.0}"})
    found = read_histograms(path, None, None)
    weight = found.lengths.parts[0].weight
    assert found.lengths == Mixture((Part(weight, levels, ((1.0, 6),)),))
    assert (weight, found.rates, found.window_s, found.mean_rate_rps) == (1.0, (), 0.0, None)
    assert found.notes[0].startswith("histograms: 1 of 1 clients, 0 windows; ")
    assert found.notes[-1] == "histograms: not used: more"


@pytest.mark.parametrize(
    ("table", "what", "value", "advice"),
    [
        ("{5: 0.5", "cannot be read", ": '{5: 0.5'", "{tokens: probability, ..} is expected"),
        ("[5]", "cannot be read", ": '[5]'", "{tokens: probability, ..} is expected"),
        (None, "cannot be read", ": None", "{tokens: probability, ..} is expected"),
        ("{-1: 1.0}", "cannot be used", ": -1: 1.0", "0 to 10,000,000 tokens, no negative share"),
        ("{10000001: 1.0}", "cannot be used", ": 10000001: 1.0", "0 to 10,000,000 tokens, no negative share"),
        ("{5: 1.5, 6: -0.5}", "cannot be used", ": 6: -0.5", "0 to 10,000,000 tokens, no negative share"),
        ("{5: 0.9989}", "cannot be used", "", "its probabilities sum to 0.9989, not 1"),
        ("{5: 1.0011}", "cannot be used", "", "its probabilities sum to 1.0011, not 1"),
        ("{'x': 1.0}", "cannot be used", "", "invalid literal for int() with base 10: 'x'"),
        ("{5: None}", "cannot be used", "", "float() argument must be a string or a real number, not 'NoneType'"),
    ],
)
@pytest.mark.parametrize("field", ["input_tokens", "output_tokens"])
def test_histograms_that_cannot_be_used(tmp_path, field, table, what, value, advice):
    """File, window, field and value."""
    path = dataset(tmp_path, window() | {field: table})
    assert refused(path) == (f"histogram {what}", f"{path}, window 0, {field}{value}", advice)


def test_windows_with_an_empty_histogram_say_nothing(tmp_path):
    """The window before stands for them; a file whose windows all say nothing has no requests."""
    path = tmp_path / "chunk-1-dataset.json"
    path.write_text(json.dumps({"600": window("{}"), "0": window(), "1200": window("{9: 1.0}"), "1800": 5}))
    rates = tmp_path / "chunk-1-trace.csv"
    rates.write_text("600,3,1,Gamma\n1200,1,1,Gamma\n")
    assert read_histograms(path, None, None).lengths.parts[0].prompt == ((0.75, 5), (1.0, 9))
    rates.write_text("-5,1,1,\n")
    assert refused(path)[:2] == ("window cannot be used", f"{rates}, line 1: '-5,1,1,'")
    path.write_text(json.dumps({"0": window("{}")}))
    rates.write_text("0,1,1,Gamma\n")
    assert refused(path) == ("no client has requests in these windows", str(path), "widen from and to")
    path.write_text(json.dumps({"0": window("{0: 1.0}")}))
    assert refused(path)[0] == "no client has requests in these windows"


def test_rates_of_a_client(tmp_path):
    """second, rate, CV, pattern: a rate without a pattern is none, an empty one 0; windows outside the slice are not counted."""
    path = dataset(tmp_path, window())
    rates = tmp_path / "chunk-1-trace.csv"
    rates.write_text("0,2,1,Gamma\n10,4,1,\n20,,1,Gamma\n30,5.5,1,x\n")
    found = read_histograms(path, None, None)
    assert (found.rates, found.window_s, found.mean_rate_rps) == ((2.0, 0.0, 0.0, 5.5), 10.0, 7.5 / 4)
    assert (read_histograms(path, 10.0, 30.0001).rates, read_histograms(path, 0.0, 30.0).rates) == (
        (0.0, 0.0, 5.5),
        (2.0, 0.0, 0.0),
    )
    assert read_histograms(path, 30.0, None).rates == ()  # one window has no length
    assert refused(path, 10.0, 30.0)[0] == "no client has requests in these windows"


@pytest.mark.parametrize(
    "line",
    ["x,1,1,Gamma", "0,x,1,Gamma", "0,1,1", "0,-1,1,Gamma", "0,inf,1,Gamma", "inf,1,1,Gamma", "nan,1,1,Gamma", ""],
)
def test_rates_that_cannot_be_used(tmp_path, line):
    """The line, and what is expected."""
    path = dataset(tmp_path, window())
    rates = tmp_path / "chunk-1-trace.csv"
    rates.write_text(f"0,1,1,Gamma\n{line}\n")
    assert refused(path) == (
        "window cannot be used", f"{rates}, line 2: {line!r}", "second,rate,cv,pattern,parameter,parameter is expected"
    )  # fmt: skip


def test_windows_must_stand_in_step(tmp_path):
    """Multiples of the least distance between two of them, of all clients; the first that does not is told."""
    for number, text in enumerate(("0,1,1,Gamma\n20,1,1,Gamma\n", "20,2,1,Gamma\n30,2,1,Gamma\n")):
        dataset(tmp_path, window(), number)
        (tmp_path / f"chunk-{number}-trace.csv").write_text(text)
    assert read_histograms(tmp_path, None, None).rates == (1.0, 0.0, 3.0, 2.0)
    (tmp_path / "chunk-0-trace.csv").write_text("3,1,1,Gamma\n")
    assert refused(tmp_path)[:2] == (
        "the windows of the trace files do not follow each other",
        "windows of 10 s, and one at 20 s",
    )


def test_a_client_file_that_is_not_json(tmp_path):
    """The file is named."""
    path = tmp_path / "chunk-1-dataset.json"
    path.write_text('{"0": {"input_tokens": "{5: 1.0}"')
    assert is_histograms(path)
    assert refused(path)[:2] == ("client file is not JSON", str(path))


def quantiles(tmp_path, *lines):
    path = tmp_path / "q.csv"
    path.write_text("\n".join((" Quantile , prompt_tokens,output_tokens,more", *lines)))
    assert is_histograms(path)
    return path


def test_a_quantile_table_at_its_ends(tmp_path):
    """Levels from 0 to 1, lengths that do not fall, from 1 to ten million."""
    found = read_histograms(quantiles(tmp_path, "0,1,1", "0.5,1,1,x", "1,10000000,10000000"), None, None)
    levels = (0.0, 0.5, 1.0)
    lengths = Joint(levels, (1, 1, 10_000_000), levels, ((0.0, 1.0, (1, 1, 10_000_000)),))
    assert found == Histograms(lengths, (), 0, ("quantile table: prompt and output are drawn independently",))


@pytest.mark.parametrize(
    ("line", "advice"),
    [(line, "quantiles rise from 0 to 1, lengths do not fall and are 1 or more")
     for line in ("0,9,9", "nan,9,9", "-1,9,9", "0.5,4,9", "0.5,9,4", "0.5,10000001,9", "0.5,9,10000001")]
    + [(line, "numbers are needed") for line in ("x,9,9", "0.5,x,9", "0.5,9,x", "0.5,9", "0.5,9.5,9")],
)  # fmt: skip
def test_quantiles_that_cannot_be_used(tmp_path, line, advice):
    """The line as it stands in the file, blank ones counted."""
    path = quantiles(tmp_path, "0,5,5", "", line, "1,20000000,20000000")
    assert refused(path) == ("quantile cannot be used", f"{path}, line 4: {line!r}", advice)


@pytest.mark.parametrize("lines", [("0,5,5", "0.9,6,6"), ("0.1,5,5", "1,6,6"), ("0,5,5",), ("1,5,5",), ()])
def test_a_quantile_table_that_is_not_whole(tmp_path, lines):
    """It begins at 0 and ends at 1."""
    path = quantiles(tmp_path, *lines)
    levels = [float(line.split(",")[0]) for line in lines]
    assert refused(path) == ("quantile table is not whole", f"{path}: quantiles {levels}", "it must go from 0 to 1")


def test_the_least_length_of_a_quantile_table(tmp_path):
    """0 tokens cannot be sent."""
    for line in ("0,0,5", "0,5,0"):
        path = quantiles(tmp_path, line, "1,9,9")
        assert refused(path)[:2] == ("quantile cannot be used", f"{path}, line 2: {line!r}")
