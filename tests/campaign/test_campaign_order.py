"""Which cells, in which order."""

from __future__ import annotations

from collections import Counter

import pytest
from campaign_values import spec

from harness.base.errors import ConfigError
from harness.measure.campaign.order import blocks, from_names, ordered, server_key, visits


def test_every_cell_stands_once_and_blocks_are_repetitions():
    """16 cells, each once; the first 8 are repetition 1, the last 8 repetition 2; indices count from 1."""
    steps = ordered(spec())
    assert len({s.name for s in steps}) == len(steps) == 16
    assert [s.block for s in steps] == [1] * 8 + [2] * 8
    assert [s.index for s in steps] == list(range(1, 17))
    assert [len(b) for b in blocks(steps)] == [8, 8]


def test_a_target_is_visited_once_a_block():
    """All four cells of a target in a block follow each other, so that its server starts once."""
    found = visits(ordered(spec()))
    assert [len(v) for v in found] == [4, 4, 4, 4]
    assert Counter((v[0].cell.target, v[0].block) for v in found) == dict.fromkeys(
        [("a", 1), ("a", 2), ("b", 1), ("b", 2)], 1
    )


def test_the_order_is_a_function_of_the_seed():
    """The same seed gives the same order; over 20 seeds many orders occur, and each target is first in some of them."""
    assert ordered(spec(seed=5)) == ordered(spec(seed=5))
    orders = [tuple(s.name for s in ordered(spec(seed=seed))) for seed in range(20)]
    assert len(set(orders)) == 20
    assert {names[0].split("_")[0] for names in orders} == {"a", "b"}
    assert len({names[0] for names in orders}) > 3


def test_blocks_are_shuffled_on_their_own():
    """Two repetitions of one experiment do not share their order (for this seed)."""
    first, second = blocks(ordered(spec(seed=1)))
    assert [s.name[:-1] for s in first] != [s.name[:-1] for s in second]


def test_as_written_is_the_order_of_the_file():
    """order: as-written keeps targets, workloads and loads as they stand, repetitions outermost."""
    names = [s.name for s in ordered(spec(order="as-written"))]
    assert names[:5] == [
        "a_fixed-16x4_c1_rep1", "a_fixed-16x4_c2_rep1", "a_fixed-24x2_c1_rep1", "a_fixed-24x2_c2_rep1", "b_fixed-16x4_c1_rep1",
    ]  # fmt: skip
    assert names[8] == "a_fixed-16x4_c1_rep2"


def test_only_keeps_the_order_of_the_rest():
    """Two globs: their cells, in the order they have in the whole campaign."""
    whole = [s.name for s in ordered(spec())]
    kept = [s.name for s in ordered(spec(), ("a_*_c1_*", "*24x2_c2_rep2"))]
    assert kept == [n for n in whole if (n.startswith("a_") and "_c1_" in n) or n.endswith("24x2_c2_rep2")]
    assert len(kept) == 6


def test_only_without_a_match_shows_names():
    """A glob that fits nothing: ConfigError with the glob and names that exist."""
    with pytest.raises(ConfigError, match="rep1") as caught:
        ordered(spec(), ("*_c99_*",))
    assert caught.value.value == "*_c99_*"


def test_two_cells_of_one_name_are_refused():
    """The same load twice would write two runs into one directory."""
    loads = [{"concurrency": [1], "requests": 4}, {"concurrency": [1], "requests": 8}]
    with pytest.raises(ConfigError, match="one name"):
        ordered(spec(loads=loads))


def test_a_name_that_no_directory_takes_is_refused():
    """In bytes, not letters: found before the first cell, not by the file system in its middle."""
    ordered(spec(workloads=["/" + "e" * 180]))
    with pytest.raises(ConfigError, match="longer than 200 bytes") as caught:
        ordered(spec(workloads=["/" + "e" * 200]))
    assert "e" * 200 in caught.value.value


def test_recorded_names_give_the_same_steps():
    """A recorded order comes back as the same steps; a name that the config has not is named."""
    steps = ordered(spec())
    assert from_names(spec(), [s.name for s in steps]) == steps
    with pytest.raises(ConfigError, match="_rep2"):
        from_names(spec(repetitions=1), [s.name for s in steps])


@pytest.mark.parametrize(("restart", "starts"), [("never", 1), ("each_repetition", 2)])
def test_a_single_targets_server_is_kept_or_started_each_repetition(restart, starts):
    """One target, two repetitions: one server with never, two with each_repetition."""
    one = spec(targets=[{"name": "a", "kind": "vllm", "model": "m"}], restart=restart)
    assert len({server_key(one, s) for s in ordered(one)}) == starts
