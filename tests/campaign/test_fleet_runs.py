"""Campaigns over boxes: every cell is there once, whichever box is lost; what is stopped goes on; who cannot run a cell says so."""

from __future__ import annotations

import pytest
from campaign_values import Quiet, spec, states
from fleet_values import LocalBoxes

from harness import pipeline
from harness.base.errors import ConfigError
from harness.config.experiment import parse_experiment
from harness.judge.boxes import box_of
from harness.measure.campaign import file
from harness.measure.campaign.campaign import conclude
from harness.measure.campaign.course import Course, prepare
from harness.measure.campaign.fleet.where import HERE, foresee_boxes
from harness.measure.campaign.forecast import forecast
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop
from harness.price.ledger import rows_of
from harness.store.manifest import read_manifest
from harness.store.reader import read_run

pytestmark = pytest.mark.timing


def _two_targets(url: str, **changes):
    targets = [{"name": n, "kind": "adopt", "url": url, "model": "golden"} for n in ("a", "b")]
    changes = {"loads": [{"concurrency": [1], "requests": 4}], "repetitions": 4, "fleet": {"wait_s": 0}} | changes
    return spec(**({"targets": targets, "workloads": ["fixed:16x4"]} | changes))


def over_fleet(made, out, intent, display, stop, boxes):
    return pipeline.measure_fleet(made, out, display, stop, intent, None, boxes)


def _runs(out, ran):
    return {run_dir.name.partition("_")[2]: read_manifest(run_dir) for run_dir in ran.run_dirs}


def test_a_box_lost_in_a_cell_costs_no_cell_and_doubles_none(golden, tmp_path):
    """A box is unplugged while its second cell runs: all four cells are complete runs, none twice; repetitions that lost no box stand
    on one box; nothing is left on the way."""
    lost = []

    def on_news(name, line):
        cells = [text for text in display.said if text.startswith(f"{name}: cell")]
        if not lost and len(cells) == 2:
            lost.append(name)
            line.unplug()

    display, out = Quiet(), tmp_path / "out"
    boxes = LocalBoxes(tmp_path / "boxes", {"x": {}, "y": {}}, on_news)
    made = _two_targets(golden.url, repetitions=2)
    ran = over_fleet(made, out, Intent(), display, Stop(), boxes)
    assert len(lost) == 1
    assert list(states(out).values()) == ["complete"] * 4
    manifests = _runs(out, ran)
    assert len(manifests) == len(ran.run_dirs) == 4
    torn = {m.cell.repetition for m in manifests.values() if box_of(m.environment) == lost[0]}
    by_block = {k: {box_of(m.environment) for m in manifests.values() if m.cell.repetition == k} for k in range(1, 3)}
    assert {k for k, boxes_of in by_block.items() if len(boxes_of) > 1} <= torn
    assert any("given back" in text for text in display.said)
    several = {k for k, boxes_of in by_block.items() if len(boxes_of) > 1}
    assert sum("is on several boxes" in text for text in display.said) == len(several)
    assert all(len(read_run(run_dir).requests) == 4 for run_dir in ran.run_dirs)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    conclude(made, out, ran, (), (), None, 0)
    assert file.read(file.path_of(out, ran.campaign_id)).state == "finished"


def test_what_was_stopped_goes_on_where_it_was(golden, tmp_path):
    """Ctrl-C in a cell drains all boxes: the campaign stays open, and resumed it has every cell once, sent in words of its own."""
    stop, display = Stop(), Quiet()

    def on_news(name, line):
        if any("phase" in text or "measuring" in text for text in display.said):
            stop.request() if not stop.asked else None

    made = _two_targets(golden.url, repetitions=1)
    out = tmp_path / "out"
    first = over_fleet(made, out, Intent(), display, stop, LocalBoxes(tmp_path / "1", {"x": {}}, on_news))
    assert first.stopped
    assert len(first.run_dirs) < 2
    second = over_fleet(made, out, Intent(resume="newest"), Quiet(), Stop(), LocalBoxes(tmp_path / "2", {"x": {}}))
    assert second.campaign_id == first.campaign_id
    assert list(states(out).values()) == ["complete"] * 2
    assert len(second.run_dirs) == len(set(second.run_dirs)) == 2
    assert len({read_manifest(run_dir).environment["prompt_salt"] for run_dir in second.run_dirs}) == 2


def test_a_cell_without_a_box_has_failed_and_says_what_it_needs(tmp_path):
    """A target asks for a label that no box has, and the box that could run the other has another harness: each cell is a failed run that
    says why. The dry run has shown it before."""
    targets = [
        {"name": n, "kind": "adopt", "url": "http://127.0.0.1:9/v1", "model": "golden", "resources": {label: 8.0}}
        for n, label in (("a", "A100"), ("b", "H100"))
    ]
    made, out, display = _two_targets("", targets=targets, repetitions=1), tmp_path / "out", Quiet()
    has = {"x": {"H100": 4.0}, "old": {"A100": 8.0}}
    prepared = prepare(made, out, Intent())
    coming = forecast(made, out, prepared.todo, prepared.sizes, None)
    foreseen = foresee_boxes(made, out, prepared, coming, LocalBoxes(tmp_path / "dry", has))
    assert {cell.name.partition("_")[0]: cell.box for cell in foreseen.cells} == {"a": "old", "b": "none"}
    boxes = LocalBoxes(tmp_path / "boxes", has)
    boxes.facts["old"] = {"harness_version": "0.0.1"}
    ran = over_fleet(made, out, Intent(), display, Stop(), boxes)
    assert list(states(out).values()) == ["failed"] * 2
    errors = {name.partition("_")[0]: error for name, error in ran.failures}
    assert "b needs {H100: 8}; x has {H100: 4}" in errors["b"].value
    assert "a needs {A100: 8}" in errors["a"].value
    assert errors["a"].exit_code == 3
    assert any(text.startswith("old: out of the campaign: another harness; 0.0.1") for text in display.said)


def test_hosted_cells_are_measured_from_here_under_one_cap(golden, tmp_path, monkeypatch):
    """An own target and a hosted one, two repetitions, a cap of $2 before $3.20: the own cells are on boxes, the hosted ones on none, after
    them; both repetitions of these together keep to the cap; no box has a ledger. The dry run says where each is measured."""
    price = {"provider": "acme", "model": "golden", "input_usd_per_million": 0, "output_usd_per_million": 1000}
    targets = [{"name": "own", "kind": "adopt", "url": golden.url, "model": "golden"},
               {"name": "api", "kind": "hosted", "url": golden.url, "model": "golden", "price": price}]  # fmt: skip
    made = _two_targets(golden.url, targets=targets, repetitions=2, max_usd=2, loads=[{"concurrency": [8], "requests": 400}])  # fmt: skip
    monkeypatch.setenv("HARNESS_LEDGER_DIR", str(tmp_path / "ledger"))
    boxes, out = LocalBoxes(tmp_path / "boxes", {"x": {}, "y": {}}), tmp_path / "out"
    prepared = prepare(made, out, Intent())
    coming = forecast(made, out, prepared.todo, prepared.sizes, None)
    foreseen = foresee_boxes(made, out, prepared, coming, LocalBoxes(tmp_path / "dry", {"x": {}, "y": {}}))
    assert {(cell.name.partition("_")[0], cell.box) for cell in foreseen.cells} == {("own", "x"), ("own", "y"), ("api", HERE)}  # fmt: skip
    ran = over_fleet(made, out, Intent(), Quiet(), Stop(), boxes)
    runs = _runs(out, ran)
    where = {name: box_of(manifest.environment) for name, manifest in runs.items()}
    assert {box for name, box in where.items() if name.startswith("api")} == {None}
    assert {box for name, box in where.items() if name.startswith("own")} <= {"x", "y"}
    assert sorted(states(out).values()) == ["complete"] * 4
    rows, _ = rows_of(tmp_path / "ledger")
    billed = sum(read_run(run_dir).requests.output_tokens.sum() for run_dir in ran.run_dirs if "_api_" in run_dir.name)
    assert 1800 <= billed <= sum(row.usd for row in rows) * 1000 <= 2000
    assert not list(tmp_path.glob("boxes/*/ledger"))
    ended = max(read_run(run_dir).requests.ended_ns.max() for run_dir in ran.run_dirs if "_own_" in run_dir.name)
    assert ended < min(read_run(run_dir).requests.sent_ns.min() for run_dir in ran.run_dirs if "_api_" in run_dir.name)


def test_repetitions_that_do_not_fit_into_the_time_are_left_out(tmp_path, monkeypatch):
    """Time for one repetition of three: the others are dropped whole, in the file too, and the campaign is over."""
    monkeypatch.setattr(Course, "fits_time", lambda course, block, until_s: block[0].block == 1)
    target = {"name": "absent", "kind": "adopt", "url": "http://127.0.0.1:9/v1", "model": "m"}
    made, out = _two_targets("", targets=[target], repetitions=3), tmp_path / "out"
    ran = over_fleet(made, out, Intent(), Quiet(), Stop(), LocalBoxes(tmp_path / "boxes", {"x": {}}))
    assert ran.dropped == (2, 3)
    assert list(states(out)) == ["absent_fixed-16x4_c1_rep1"]
    assert file.read(file.path_of(out, ran.campaign_id)).dropped_repetitions == (2, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fleet": {"on": "http://head:1/x"}}, "no cluster"),
        ({"fleet": {}, "targets": [{"name": "h", "kind": "hosted", "url": "https://api.example.com/v1", "model": "m"}]},
         "no target is a box's own"),
        ({"fleet": {}, "targets": [{"name": "own", "kind": "vllm", "model": "embedded:tiny"},
                                   {"name": "h", "kind": "hosted", "url": "https://api.example.com/v1", "model": "m", "resources": {"H100": 8}}]},
         "is no box's own"),
        ({"targets": [{"name": "a", "kind": "vllm", "model": "embedded:tiny", "resources": {"H100": 8}}]},
         "give fleet"),
    ],
)  # fmt: skip
def test_a_fleet_that_cannot_be_meant_is_refused(changes, words):
    """Bad address, a target that all boxes would load at once, labels without a fleet: ConfigError that says so."""
    data = spec().model_dump(mode="json") | changes
    with pytest.raises(ConfigError) as error:
        parse_experiment(data, "x")
    assert words in str(error.value)
