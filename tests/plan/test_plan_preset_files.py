"""Preset files: what each key may be, what it is where it is left out, and what the file as a whole becomes."""

from __future__ import annotations

from copy import deepcopy

import pytest
import yaml
from pydantic import ValidationError

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import Process
from harness.measure.plan.lengths import Fixed, Joint
from harness.measure.plan.preset import Preset, load_preset

SOURCE = {"name": "x", "repository": "y", "licence": "CC0"}
SHAPE = {"shape": "fixed:3x2", "source": SOURCE}
TABLES = {
    "prompt_quantile_levels": [0, 0.5, 1],
    "prompt_tokens": [1, 20, 300],
    "output_given_prompt_quantile_levels": [0, 1],
    "output_tokens_by_prompt_bin": [
        {"prompt_rank": [0, 0.25], "output_tokens": [1, 5]},
        {"prompt_rank": [0.25, 1], "output_tokens": [5, 5]},
    ],
    "source": SOURCE,
}
PREFIX = {
    "block_tokens": 16,
    "token_hit_ratio_unlimited_cache": 0.5,
    "cached_fraction_quantile_levels": [0, 1],
    "cached_fraction": [0, 0.9],
}
SESSIONS = {
    "context_limit_tokens": 4096,
    "quantile_levels": [0, 1],
    "calls_per_session": [1, 9],
    "first_prompt_tokens": [1, 9],
    "new_prompt_tokens_per_later_call": [1, 9],
    "output_tokens": [0, 9],
    "think_time_s": [0, 9.5],
}
OF_SESSIONS = {"sessions": SESSIONS, "source": SOURCE}


def put(data, place, value):
    """A copy of the data with the value at `a.b.0.c`."""
    data = deepcopy(data)
    *parents, last = place.split(".")
    at = data
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    at[int(last) if isinstance(at, list) else last] = value
    return data


def test_what_is_left_out_of_a_shape():
    """Every key of a preset, of its arrivals and of its source has its documented value where the file does not name it."""
    assert Preset.model_validate(SHAPE).model_dump() == {
        "description": "",
        "assumptions": None,
        "filter": None,
        "shape": "fixed:3x2",
        "sessions": None,
        "prompt_quantile_levels": None,
        "prompt_tokens": None,
        "output_given_prompt_quantile_levels": None,
        "output_tail_power": 1,
        "output_tokens_by_prompt_bin": None,
        "check": {},
        "requests_per_month": None,
        "prefix": None,
        "arrivals": {
            "process": None,
            "mean_rate_rps": None,
            "interarrival_cv": None,
            "requests_per_10s_bin": None,
            "note": None,
        },
        "source": SOURCE | {"path": None, "commit": None, "cite": None, "tokenizer": None},
    }


def test_what_is_left_out_of_sessions_and_prefixes():
    """Sessions are compacted to nothing, prefixes independent of the prompt's length, unless the file says otherwise."""
    found = Preset.model_validate(OF_SESSIONS | {"prefix": PREFIX})
    extra = {"sessions": None, "token_hit_ratio_previous_call": None, "compaction_keeps_tokens": 0}
    assert found.sessions.model_dump() == SESSIONS | extra
    assert found.prefix.model_dump() == PREFIX | {"rank_coupling": 0}


def test_what_a_preset_becomes():
    """Tables: the joint distribution; a shape: its short form; sessions: no lengths of their own. Arrivals: Poisson, the process
    named, or else the rates of the 10 s bins."""
    bins = ((0.0, 0.25, (1, 5)), (0.25, 1.0, (5, 5)))
    joint = Joint((0.0, 0.5, 1.0), (1, 20, 300), (0.0, 1.0), bins, 1.5)
    assert Preset.model_validate(TABLES | {"output_tail_power": 1.5}).lengths() == joint
    shape = Preset.model_validate(SHAPE)
    assert shape.lengths() == Fixed(3, 2)
    assert Preset.model_validate(OF_SESSIONS).lengths() is None
    assert shape.process() == Process("poisson", (), (), None)
    assert Preset.model_validate(put(SHAPE, "arrivals.process", "gamma:2")).process() == Process("gamma", (2.0,))
    counted = put(put(SHAPE, "arrivals.process", "gamma:2"), "arrivals.requests_per_10s_bin", [5, 0, 5])
    assert Preset.model_validate(counted).process() == Process("rates", (), (5, 0, 5), 10.0)


NUMBERS = [  # preset, place, values that are taken, values that are not
    (SHAPE, "requests_per_month", [1], [0]),
    (SHAPE, "arrivals.mean_rate_rps", [1e-9, 2], [0, -1, float("inf"), float("nan")]),
    (SHAPE, "arrivals.interarrival_cv", [0, 3.5], [-0.01, float("inf")]),
    (SHAPE, "arrivals.requests_per_10s_bin", [[1], [0, 1]], [[], [0, 0]]),
    (SHAPE, "arrivals.process", ["batch", "ramp:1-2"], ["bursty", "trace:0"]),
    (SHAPE, "shape", ["uniform:1-2x3-4"], ["fixed:0x2", "chat", None]),
    (TABLES, "output_tail_power", [0.1, 10], [0.09, 10.1]),
    (TABLES, "prompt_tokens", [[1, 1, 1], [1, 2, 2]], [[0, 1, 2], [1, 2], [1, 3, 2], [1, 2, 3, 4], None]),
    (TABLES, "prompt_quantile_levels", [[0, 0.1, 1]], [[0, 0, 1], [0, 1, 1], [0.1, 0.5, 1], [0, 0.5, 0.9], [0, 1], None]),
    (TABLES, "output_given_prompt_quantile_levels", [[0.0, 1.0]], [[0.0, 0.9], [0.1, 1.0], [0.0, 0.5, 1.0], None]),
    (TABLES, "output_tokens_by_prompt_bin.0.output_tokens", [[1, 1]], [[0, 1], [2, 1], [1]]),
    (TABLES, "output_tokens_by_prompt_bin.1.output_tokens", [[1, 1]], [[0, 1], [2, 1], [1]]),
    (TABLES, "output_tokens_by_prompt_bin.0.prompt_rank", [], [[0, 0.2], [0.1, 0.25], [0, 0.3], [0, 1], [0.25, 0.25]]),
    (TABLES, "output_tokens_by_prompt_bin.1.prompt_rank", [], [[0.25, 0.9], [0.2, 1], [0.3, 1], [0.25, 1.5]]),
    (TABLES, "output_tokens_by_prompt_bin", [], [[], None]),
    (SHAPE | {"prefix": PREFIX}, "prefix.block_tokens", [1], [0]),
    (SHAPE | {"prefix": PREFIX}, "prefix.token_hit_ratio_unlimited_cache", [0, 1], [-0.01, 1.01]),
    (SHAPE | {"prefix": PREFIX}, "prefix.rank_coupling", [-1, 1], [-1.01, 1.01]),
    (SHAPE | {"prefix": PREFIX}, "prefix.cached_fraction", [[0, 1], [0, 0]], [[-0.1, 1], [0, 1.01], [0.5, 0.4], [0]]),
    (SHAPE | {"prefix": PREFIX}, "prefix.cached_fraction_quantile_levels", [[0, 1]], [[0, 0.5], [0.5, 1], [0, 0.5, 1]]),
    (OF_SESSIONS, "sessions.context_limit_tokens", [2], [1]),
    (OF_SESSIONS, "sessions.calls_per_session", [[1, 1]], [[0, 9], [9, 1], [1]]),
    (OF_SESSIONS, "sessions.first_prompt_tokens", [[1, 1]], [[0, 9], [9, 1], [1]]),
    (OF_SESSIONS, "sessions.new_prompt_tokens_per_later_call", [[1, 1]], [[0, 9], [9, 1], [1]]),
    (OF_SESSIONS, "sessions.output_tokens", [[0, 0]], [[-1, 9], [9, 1], [1]]),
    (OF_SESSIONS, "sessions.think_time_s", [[0, 0]], [[-1, 9], [9, 1], [1], [0, float("inf")]]),
    (OF_SESSIONS, "sessions.quantile_levels", [[0, 1]], [[0, 0.9], [0.1, 1], [0, 0.5, 1], []]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "place", "taken", "refused"), NUMBERS, ids=[place for _, place, _, _ in NUMBERS])
def test_the_ends_of_what_a_key_may_be(data, place, taken, refused):
    """The ends of each range belong to it, what lies just beyond them does not."""
    for value in taken:
        Preset.model_validate(put(data, place, value))
    for value in refused:
        with pytest.raises(ValidationError):
            Preset.model_validate(put(data, place, value))


@pytest.mark.parametrize("place", ["typo", "arrivals.typo", "source.typo", "prefix.typo", "sessions.typo",
                                   "output_tokens_by_prompt_bin.0.typo"])  # fmt: skip
def test_unknown_keys_are_refused_everywhere(place):
    """A misspelt key is an error, not a key without effect."""
    data = TABLES | {"prefix": PREFIX} if "sessions" not in place else OF_SESSIONS
    with pytest.raises(ValidationError, match="Extra inputs"):
        Preset.model_validate(put(data, place, 1))


def test_a_preset_is_of_one_kind_and_stays_as_it_is():
    """Two kinds, or none, are refused, and so is part of the tables; a preset once read cannot be changed."""
    for data in (TABLES | SHAPE, SHAPE | OF_SESSIONS, TABLES | OF_SESSIONS, {"source": SOURCE}):
        with pytest.raises(ValidationError, match="exactly one of"):
            Preset.model_validate(data)
    for table in (
        "prompt_quantile_levels",
        "prompt_tokens",
        "output_given_prompt_quantile_levels",
        "output_tokens_by_prompt_bin",
    ):
        with pytest.raises(ValidationError, match="the tables are"):
            Preset.model_validate({key: value for key, value in TABLES.items() if key != table})
    with pytest.raises(ValidationError, match="frozen"):
        Preset.model_validate(SHAPE).shape = "fixed:9x9"


@pytest.mark.parametrize(
    ("data", "what", "value", "advice"),
    [
        (SHAPE | {"shap": 1}, "unknown key", "shap", "did you mean shape?"),
        (SHAPE | {"zzz": 1}, "unknown key", "zzz", f"keys allowed here: {', '.join(Preset.model_fields)}"),
        (put(SHAPE, "arrivals.notes", "x"), "unknown key", "arrivals.notes", "did you mean note, process?"),
        ({"source": SOURCE}, "bad value", "(top level)",
         "a preset has exactly one of shape, sessions and the tables of prompt and output tokens"),
        (put(SHAPE, "shape", "fixed:0x1"), "bad value", "(top level)",
         "workload length out of range: fixed:0x1; prompt and output need 1 to 10,000,000 tokens"),
        (put(TABLES, "output_tokens_by_prompt_bin.1.output_tokens", [9]), "bad value", "(top level)",
         "output of bin (0.25, 1.0): levels must rise from 0 to 1, with as many tokens, not falling, from 1 up"),
        (put(OF_SESSIONS, "sessions.think_time_s", [-1, 2]), "bad value", "sessions",
         "think_time_s: levels must rise from 0 to 1, with as many values, not falling, from 0 up"),
        (put(OF_SESSIONS, "sessions.context_limit_tokens", 1), "bad value", "sessions.context_limit_tokens = 1",
         "Input should be greater than or equal to 2"),
    ],
)  # fmt: skip
def test_errors_of_preset_files_name_the_place(tmp_path, data, what, value, advice):
    """File, key and what to do about it."""
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError) as caught:
        load_preset(path)
    assert (caught.value.what, caught.value.value, caught.value.advice) == (f"{path}: {what}", value, advice)


def test_a_file_that_is_no_preset(tmp_path):
    """A list is not a preset: the error says what it is."""
    path = tmp_path / "p.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="not a workload preset") as caught:
        load_preset(path)
    assert caught.value.value == "list"
