"""Which cells of an experiment replay the same requests, and which must not."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from harness.config.experiment import ExperimentSpec
from harness.config.load import LoadSpec
from harness.measure.cell_plan import draw_plan
from harness.measure.run import Probe
from harness.records import Cell, Load

CELL = Cell("t", "lognormal:64x16", Load(concurrency=4), 1)
OPEN = Load(rate_rps=4.0)


def prompts(cell=CELL, seed=1, probe=None, **load):
    """What identifies a plan: seeds of the prompts with their lengths."""
    spec = ExperimentSpec(
        experiment="x",
        targets=[{"name": "t", "kind": "adopt", "model": "m", "url": "http://h/v1"}],
        workloads=[cell.workload],
        loads=[{"concurrency": [4], "requests": 20}],
        seed=seed,
    )
    load_spec = LoadSpec(**(load or {"concurrency": [4], "requests": 20}))
    drawn, _ = draw_plan(spec, cell, load_spec, probe)
    return {(r.prompt_seed, r.target_prompt_tokens) for r in drawn.requests}


def test_targets_replay_the_same_plan():
    """The target's name is in no plan; the same cell drawn twice is the same plan."""
    assert prompts() == prompts(replace(CELL, target="another"))


def test_all_other_cells_have_prompts_of_their_own():
    """Repetitions, loads, workloads and seeds share no prompt: none may find another's in the prefix cache."""
    plans = [prompts(replace(CELL, repetition=k)) for k in range(1, 6)]
    plans += [prompts(seed=2), prompts(replace(CELL, workload="lognormal:65x16"))]
    plans.append(prompts(replace(CELL, load=Load(concurrency=5)), concurrency=[5], requests=20))
    assert all(one.isdisjoint(other) for one, other in combinations(plans, 2))


def test_probes_of_a_search_have_prompts_of_their_own():
    """Each probe of a capacity search, and each repetition of the same probe, sends what no other does."""
    words = {"rate": [4.0], "requests": 20}
    cell = replace(CELL, load=OPEN)
    probes = [Probe(index, lambda: None, lambda rows: None) for index in (1, 2, 3)]
    plans = [prompts(replace(cell, repetition=k), probe=probe, **words) for probe in probes for k in (1, 2)]
    assert all(one.isdisjoint(other) for one, other in combinations([*plans, prompts(cell, **words)], 2))


WORKLOADS = ("lognormal:64x16", "lognormal:64x16?system=20", "chat", "agent", "seed-chat")


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("probe", [None, Probe(2, lambda: None, lambda rows: None)])
def test_a_salt_gives_other_words_and_the_same_plan(workload, probe):
    """No prompt that another salt has, warm-up and system prompt included; lengths, times, sessions, what prompts share and the hash
    are those of the plan."""
    cell = Cell("t", workload, OPEN, 1)
    spec = ExperimentSpec(
        experiment="x",
        targets=[{"name": "t", "kind": "adopt", "model": "m", "url": "http://h/v1"}],
        workloads=[workload],
        loads=[{"rate": [4.0], "requests": 80}],
    )
    load = LoadSpec(rate=[4.0], requests=80)
    plans = [draw_plan(spec, cell, load, probe, salt=salt).plan for salt in (0, 1, 2**52 + 1, 2**53 - 1)]
    assert len({plan.sha256 for plan in plans}) == 1
    assert plans[0] == draw_plan(spec, cell, load, probe).plan
    rows = [[*plan.warmup, *plan.requests] for plan in plans]
    for one, other in combinations(map(_seeds, rows), 2):
        assert one.isdisjoint(other)
    for again in rows[1:]:
        to = {}
        for first, then in zip(rows[0], again, strict=True):
            pairs = zip((first.prompt_seed, *first.prefix[::2]), (then.prompt_seed, *then.prefix[::2]), strict=True)
            assert all(to.setdefault(before, after) == after for before, after in pairs)
            assert replace(then, prompt_seed=first.prompt_seed, prefix=first.prefix) == first
            assert then.prefix[1::2] == first.prefix[1::2]
        assert len(set(to.values())) == len(to)


def _seeds(rows) -> set[int]:
    return {seed for row in rows for seed in (row.prompt_seed, *row.prefix[::2])}


def test_shares_have_their_salt_from_the_start_that_is_theirs_in_common():
    """Two machines with salts of their own: one system prompt, another with each start; none without a start."""
    cell, load = Cell("t", "fixed:64x16?system=20", OPEN, 1), LoadSpec(rate=[4.0], requests=20)

    def system(index: int, salt: int, start_at: str | None) -> tuple[int, int]:
        spec = ExperimentSpec(
            experiment="x",
            targets=[{"name": "t", "kind": "adopt", "model": "m", "url": "http://h/v1"}],
            workloads=[cell.workload],
            loads=[load],
            share={"index": index, "of": 2, "start_at": start_at},
        )
        plan = draw_plan(spec, cell, load, salt=salt).plan
        return plan.requests[0].prefix[0], plan.salt

    one, later = (system(0, 1, f"2026-11-27T01:3{minute}:00Z") for minute in (0, 1))
    assert one == system(1, 2, "2026-11-27T02:30:00+01:00")
    assert len({one, later, system(0, 1, None)}) == 3
    assert system(0, 1, None) == system(1, 2, None)
    assert system(0, 1, None)[1] == 0


@pytest.mark.parametrize("repetition", [1, 2])
def test_a_search_shows_the_plan_of_its_first_probe(repetition):
    """Drawn for a search's cell: the start rate for the longest probe."""
    searched = {"capacity": {"start_rps": 4.0, "probe_s": [5, 10]}}
    cell = replace(CELL, load=OPEN, repetition=repetition)
    assert prompts(cell, **searched) == prompts(cell, rate=[4.0], duration_s=10)
