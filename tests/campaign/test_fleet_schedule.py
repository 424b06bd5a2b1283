"""Which box runs which cells: every cell is over exactly once, and repetitions stay whole unless a box was lost."""

from __future__ import annotations

import pytest
from campaign_values import spec
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.campaign import order
from harness.measure.campaign.fleet.schedule import MOST_LOST, Schedule, foreseen

BOXES = ("box-a", "box-b", "box-c")
H, A = {"H100": 8.0}, {"A100": 8.0}


def _steps(repetitions: int = 3):
    return order.ordered(spec(repetitions=repetitions))


def _schedule(repetitions: int = 3, needs=None, **boxes) -> Schedule:
    made = Schedule(_steps(repetitions), needs or {"a": {}, "b": {}})
    for name, has in boxes.items():
        made.came(name, has)
    return made


@given(data=st.data())
def test_every_cell_is_over_exactly_once_whatever_boxes_do(data):
    """Boxes come, end cells, give cells back and are lost in any order: no cell is on two boxes, none is over twice or forgotten; a
    repetition without a lost or drained box ran on one box, in its order."""
    schedule = _schedule(data.draw(st.integers(1, 4)))
    over: dict[str, str] = {}
    handed: dict[str, list] = {}
    torn: set[int] = set()
    while not schedule.over:
        free = [box for box in BOXES if box not in schedule.boxes]
        actions = [("came", box) for box in free] + [("work", box) for box in schedule.boxes] * 4
        actions += [("lost", box) for box in schedule.boxes] + [("back", box) for box in handed if handed[box]]
        action, box = data.draw(st.sampled_from(actions))
        if action == "came":
            schedule.came(box, {})
        elif action == "lost":
            torn |= {step.block for step in handed.get(box) or ()}
            running = handed.pop(box, [])
            back, ended = schedule.lost(box)
            assert [*([ended] if ended else []), *back] == running
            if ended:
                over[ended.name] = "lost"
        elif action == "back":
            torn |= {step.block for step in handed[box]}
            schedule.gave_back(box)
            handed[box] = []
        elif handed.get(box):
            step = handed[box].pop(0)
            assert step.name not in over
            over[step.name] = box
            schedule.ended(box, step.name)
        else:
            handed[box] = list(schedule.take(box))
            assert [step.index for step in handed[box]] == sorted(step.index for step in handed[box])
            assert len({step.block for step in handed[box]}) <= 1
        on_boxes = [step.name for steps in handed.values() for step in steps]
        assert len(on_boxes) == len(set(on_boxes))
        assert sorted((*over, *(step.name for step in schedule.left))) == sorted(s.name for s in schedule.steps)
    for block in {step.block for step in schedule.steps} - torn:
        assert len({over[step.name] for step in schedule.steps if step.block == block}) == 1


def test_a_box_takes_a_whole_repetition_in_its_order():
    """Three boxes, three repetitions: each has one, nothing is left for a second visit."""
    schedule = _schedule(**{box: {} for box in BOXES})
    taken = [schedule.take(box) for box in BOXES]
    assert [{step.block for step in piece} for piece in taken] == [{1}, {2}, {3}]
    assert [step for piece in taken for step in piece] == list(schedule.steps)
    assert schedule.take("box-a") == ()  # it has work


def test_labels_choose_the_box_and_the_larger_share_keeps_a_repetition_whole():
    """A box that can run both targets gets the repetition; one that could run a part of it waits. Without such a box each label's box
    gets its part of every repetition."""
    needs = {"a": H, "b": A}
    schedule = _schedule(needs=needs, both=H | A, half=A)
    assert schedule.take("half") == ()
    assert {step.cell.target for step in schedule.take("both")} == {"a", "b"}
    apart = _schedule(needs=needs, h=H, a=A)
    for box, target in (("h", "a"), ("a", "b")) * 3:
        piece = apart.take(box)
        assert {step.cell.target for step in piece} == {target}
        for step in piece:
            apart.ended(box, step.name)
    assert apart.over


def test_cells_no_box_can_run_are_stranded():
    """A label that no box has; a box whose amount is too small; the same after the only box is lost."""
    schedule = _schedule(needs={"a": H, "b": {}}, small={"H100": 4.0})
    assert {step.cell.target for step in schedule.stranded()} == {"a"}
    schedule.lost("small")
    assert len(schedule.stranded()) == len(schedule.steps)
    schedule.give_up(schedule.stranded())
    assert schedule.over


def test_a_lost_box_gives_its_cells_back_and_a_cell_that_ends_boxes_is_over():
    """The first loss gives all back, before later repetitions; the second of the same cell ends it, the others go on."""
    schedule = _schedule(1, one={}, two={})
    first = schedule.take("one")
    assert schedule.lost("one") == (first, None)
    assert schedule.take("two") == first
    assert MOST_LOST == 2
    assert schedule.lost("two") == (first[1:], first[0])
    schedule.came("three", {})
    assert schedule.take("three") == first[1:]


def test_a_begun_repetition_goes_on_where_it_was_and_is_not_dropped():
    """Resumed: the box of its earlier runs gets the rest; without that box another does. Time that has run out drops what was not begun."""
    steps = [step for step in _steps(2) if step.index > 3]
    schedule = Schedule(steps, {}, {1: "box-b"})
    schedule.came("box-a", {})
    schedule.came("box-b", {})
    assert {step.block for step in schedule.take("box-a")} == {2}
    assert {step.block for step in schedule.take("box-b")} == {1}
    alone = Schedule(steps, {}, {1: "box-b"})
    alone.came("box-a", {})
    assert {step.block for step in alone.take("box-a", lambda _block: False)} == {1}
    alone.drop_from(1)
    assert {step.block for step in alone.left} == {1}


@pytest.mark.parametrize(("boxes", "rounds"), [(1, 4), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_the_time_foreseen_is_that_of_the_longest_box(boxes, rounds):
    """Four repetitions of 10 s a cell over so many boxes."""
    schedule = _schedule(4, **{f"b{k}": {} for k in range(boxes)})
    where, seconds = foreseen(schedule, lambda steps: 10.0 * len(steps))
    assert set(where) == {step.name for step in schedule.steps}
    assert seconds == rounds * 80
