"""Estimates of time, dollars and disk, and what is refused before the start; flags read back from a log."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from decimal import Decimal

import pytest
from campaign_values import Quiet, spec
from test_campaign_file import run_of

from harness import pipeline
from harness.base.errors import ConfigError, StoreError
from harness.judge.account_limits import declared_limits
from harness.measure.campaign import forecast, order, preflight
from harness.measure.campaign.campaign import foresee
from harness.measure.campaign.flags import read_back
from harness.measure.drive.pacing import Account
from harness.measure.run import Stop
from harness.store.manifest import read_manifest, write_manifest

HOSTED = {"name": "api", "kind": "hosted", "url": "https://api.example.com/v1", "model": "acme/model-x"}
PRICE = {"provider": "acme", "model": "model-x", "input_usd_per_million": 2.0, "output_usd_per_million": 10.0}


def test_times_say_what_they_rest_on(tmp_path):
    """A duration is declared, a count of requests is guessed, and an earlier run of the cell is better than both."""
    loads = [
        {"concurrency": [1], "requests": 4},
        {"concurrency": [2], "duration_s": 60},
        {"rate": [2.0], "duration_s": 30},
    ]
    made = spec(loads=loads, repetitions=1, workloads=["fixed:16x4"], order="as-written")
    earlier = run_of(tmp_path, "a_fixed-16x4_c1_rep1", "20260101T000000Z", "complete")
    manifest = read_manifest(earlier)
    drive = {"measure": {"started_ns": 0, "ended_ns": 7_000_000_000}}
    write_manifest(earlier, replace(manifest, drive=drive, row_counts={"requests": 4}))
    seen = {cell.name: (round(cell.seconds), cell.basis) for cell in foresee(made, tmp_path).cells}
    assert seen["a_fixed-16x4_c1_rep1"] == (8, "earlier run")  # 7 s of phases and what a cell takes beside them
    assert seen["b_fixed-16x4_c1_rep1"][1] == "guess"
    assert seen["a_fixed-16x4_c2_rep1"][1] == "declared"
    assert 60 < seen["a_fixed-16x4_c2_rep1"][0] < 70
    assert 29 < seen["a_fixed-16x4_r2_rep1"][0] < 40
    assert [p.name for p in tmp_path.iterdir()] == [earlier.name]  # nothing was written


@pytest.mark.parametrize(
    ("search", "seconds"),
    [
        ({"start_rps": 8}, 12 * (60 + 600) / 2),
        ({"start_rps": 200}, 12 * (28 + 80) / 2),
        ({"start_rps": 200, "probe_s": [30, 180], "probes": 10}, 10 * (30 + 180) / 2),
    ],
    ids=["slow", "fast", "declared"],
)
def test_a_capacity_search_takes_what_its_probes_take_at_the_first_rate(tmp_path, search, seconds):
    """Half of all probes at their longest: longer at a slow server, as declared where it is declared."""
    made = spec(targets=[spec().targets[0].model_dump()], loads=[{"capacity": search}], repetitions=1, workloads=["fixed:16x4"],
                slo={"ttft_from_schedule_s": 1})  # fmt: skip
    (cell,) = foresee(made, tmp_path).cells
    assert (cell.basis, cell.seconds) == ("guess", pytest.approx(seconds))


@pytest.mark.parametrize(
    "limits", [{"rpm": 30}, {"tpm": 400}, {"rpm": 50, "output_tpm": 90}, {"rpm": 1000}, {"rpm": 7, "pace": False}]
)
def test_a_paced_cell_lasts_as_long_as_its_account_lets_it(tmp_path, limits):
    """Never longer than the gate itself holds the plan back when replies take no time, and the gate's own slack at most shorter."""
    target = HOSTED | {"price": PRICE, "limits": limits}
    made = spec(targets=[target], loads=[{"concurrency": [4], "requests": 100}], repetitions=1, workloads=["fixed:16x4"],
                warmup_requests=0)  # fmt: skip
    (cell,) = foresee(made, tmp_path).cells
    account, declared, now_ns = Account(), declared_limits(made.targets[0].limits), 0
    takes = {"requests": 1, "tokens": 20, "input_tokens": 16, "output_tokens": 4}
    for _ in range(100 if made.targets[0].limits.pace else 0):
        now_ns += account.wait_ns(declared, takes, now_ns, 60)
        account.take(dict(takes), now_ns, 60)
    held_s = now_ns / 1e9
    unpaced = foresee(spec(targets=[HOSTED | {"price": PRICE}], loads=[{"concurrency": [4], "requests": 100}], repetitions=1,
                           workloads=["fixed:16x4"], warmup_requests=0), tmp_path).cells[0].seconds  # fmt: skip
    assert cell.seconds == pytest.approx(unpaced) if not held_s else 0.98 * held_s < cell.seconds < held_s + unpaced
    assert (cell.basis == "declared") == bool(held_s)


def test_pauses_until_the_gpus_are_cool_are_in_the_estimate(tmp_path):
    """Without a GPU none; where the config requires one, cool_down.timeout_s before each of 16 cells; once pauses were seen, their mean."""
    assert foresee(spec(), tmp_path).cool_down_s == 0
    wanted = {"observe": {"gpu": "required"}, "cool_down": {"timeout_s": 90}}
    warm, cold = foresee(spec(**wanted), tmp_path), foresee(spec(), tmp_path)
    assert warm.cool_down_s == 16 * 90
    assert warm.total_s == pytest.approx(cold.total_s + 16 * 90)
    assert warm.cells[3].seconds == pytest.approx(cold.cells[3].seconds + 90)
    for name, waited_s in (("a_fixed-16x4_c1_rep1", 10.0), ("a_fixed-16x4_c2_rep1", 30.0)):
        earlier = run_of(tmp_path, name, "20260101T000000Z", "failed")
        pause = {"cool_down": {"state": "back", "waited_s": waited_s, "why": ""}}
        write_manifest(earlier, replace(read_manifest(earlier), environment=pause))
    assert foresee(spec(**wanted), tmp_path).cool_down_s == 16 * 20


def test_a_campaign_learns_how_long_its_pauses_are(tmp_path):
    """Until a cell was seen it is the longest that may be; a cell without a pause says that there are none."""
    (step,) = order.ordered(spec(), ["a_fixed-16x4_c1_rep1"])
    pace = forecast.Pace(tmp_path, 120)
    assert pace.cool_down_s() == 120
    pace.saw_cell(step, 5, None)
    assert pace.cool_down_s() == 0
    pace.saw_cell(step, 5, 40)
    size = {forecast.key_of(step): forecast.PlanSize(1, 1, 1, None)}
    assert pace.seconds([step], size, spec()) == 5 + 40 + forecast._ASK_S


def test_hosted_dollars_are_the_plans_tokens_at_the_declared_price(tmp_path):
    """2 cells x 100 requests of 1,000 + 200 tokens at $2 and $10 per million: 100 x (0.002 + 0.002) x 2 = $0.80."""
    made = spec(
        targets=[HOSTED, {**HOSTED, "name": "free", "kind": "adopt"}], workloads=["fixed:1000x200"], repetitions=2,
        loads=[{"concurrency": [4], "requests": 100}], cost={"hosted": [PRICE]},
    )  # fmt: skip
    seen = foresee(made, tmp_path)
    assert seen.hosted_usd == Decimal("0.8")
    assert [cell.usd for cell in seen.cells if cell.name.startswith("free")] == [None, None]
    unknown = foresee(made.model_copy(update={"cost": type(made.cost)()}), tmp_path)
    assert unknown.hosted_usd is None
    assert "has no price" in unknown.notes[0]


@pytest.mark.parametrize(
    "cost_or_hardware",
    [
        {"cost": {"hosted": [{"provider": "no-such-provider", "model": "x"}]}},
        {"cost": {"hosted": [{"provider": "openai", "model": "no-such-model"}]}},
        {"targets": [{"name": "a", "kind": "vllm", "model": "m", "hardware": "aws/no-such-instance"}]},
    ],
)
def test_a_price_that_is_missing_is_found_before_the_start(tmp_path, cost_or_hardware):
    """ConfigError before anything is written or started, and in a dry run."""
    made = spec(**cost_or_hardware)
    with pytest.raises(ConfigError):
        foresee(made, tmp_path / "out")
    with pytest.raises(ConfigError):
        pipeline.measure_campaign(made, tmp_path / "out", None, Stop())
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_too_full_is_refused(tmp_path, monkeypatch):
    """2 GiB free, 1.5 GiB to be written, 1 GiB to stay free: StoreError with all three; with half a GiB it fits."""
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: usage(0, 0, 2 << 30))
    with pytest.raises(StoreError) as caught:
        preflight.check_disk(spec(min_free_gib=1), tmp_path / "not" / "yet", 3 << 29)
    assert "2.00 GiB free" in caught.value.value
    assert "1.50 GiB" in caught.value.value
    preflight.check_disk(spec(min_free_gib=0.5), tmp_path, 3 << 29)


_LOG = """
(APIServer pid=1) INFO 11-24 12:24:53 [api_utils.py:286] non-default args: {'port': 23911, 'max_model_len': 2048, 'max_num_seqs': 64}
(EngineCore pid=2) INFO 11-24 12:25:01 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m', \
dtype=torch.bfloat16, max_seq_len=2048, tensor_parallel_size=1, quantization=None, enforce_eager=True, kv_cache_dtype=auto, seed=0, \
enable_prefix_caching=True, enable_chunked_prefill=True, pooler_config=None
"""


def test_flags_are_held_against_the_servers_log(tmp_path):
    """Flags that the log repeats agree; one that the engine runs otherwise is marked; one it does not show is left out."""
    log = tmp_path / "server.log"
    log.write_text(_LOG)
    asked = {
        "model": "m", "max_model_len": 2048, "max_num_seqs": 128, "enforce_eager": True, "no_enable_prefix_caching": True,
        "enable_chunked_prefill": True, "kv_cache_dtype": "fp8", "dtype": "bfloat16", "quantization": "auto", "swap_space": 4,
    }  # fmt: skip
    seen = read_back(asked, log)
    assert {flag for flag, words in seen.items() if words.endswith("(differs)")} == {
        "flag max_num_seqs", "flag no_enable_prefix_caching", "flag kv_cache_dtype",
    }  # fmt: skip
    assert seen["flag max_num_seqs"] == "asked 128, log: parsed 64 (differs)"
    assert seen["flag dtype"] == "asked bfloat16, log: engine torch.bfloat16"
    assert "flag swap_space" not in seen
    assert read_back(asked, tmp_path / "none") == read_back(asked, None) == {}


@pytest.mark.parametrize(
    ("parsed", "asked", "same"),
    [
        ("[1, 2, 4]", [1, 2, 4], True),
        ("[1, 2, 4]", ["1", "2", "4"], True),
        ("[1, 2]", [1, 2, 4], False),
        ("[8]", 8, True),
        ("[8, 16]", 8, False),
        ("'/health,/metrics'", ["/health", "/metrics"], True),
        ("'8'", [8, 16], False),
    ],
)
def test_lists_are_compared_as_lists(tmp_path, parsed, asked, same):
    """Value by value; a single value is a list of one; what vLLM keeps as a text has commas."""
    log = tmp_path / "server.log"
    log.write_text(
        f"(APIServer pid=1) INFO 11-24 12:24:53 [api_utils.py:286] non-default args: {{'some_sizes': {parsed}}}\n"
    )
    assert read_back({"some_sizes": asked}, log)["flag some_sizes"].endswith("(differs)") is not same


# `vllm serve` 0.24 to 0.33 with --data-parallel-size 4, and the older module, which takes the flag and runs one API server.
_SERVE = """
(APIServer pid=1) INFO 11-24 12:24:50 [serve.py:107] Defaulting api_server_count to data_parallel_size (4).
(APIServer pid=1) INFO 11-24 12:24:53 [api_utils.py:286] non-default args: {'api_server_count': 4, 'data_parallel_size': 4}
(APIServer pid=1) INFO 11-24 12:24:54 [utils.py:261] Started 4 API server processes
"""
_MODULE = "(APIServer pid=1) INFO 11-24 12:24:53 [api_utils.py:286] non-default args: {'api_server_count': 4, 'data_parallel_size': 4}\n"


@pytest.mark.parametrize(
    ("log_text", "asked", "key", "words"),
    [
        (_SERVE, {"api_server_count": 4}, "flag api_server_count", "asked 4, log: parsed 4, running 4"),
        (_MODULE, {"api_server_count": 4}, "flag api_server_count", "asked 4, log: parsed 4, running 1 (differs)"),
        (_SERVE, {"data_parallel_size": 4}, "API servers", "4 ranks, 4 running"),
        (_MODULE, {"data_parallel_size": 4}, "API servers", "4 ranks, 1 running (differs)"),
    ],
    ids=["asked", "asked of the module", "by the ranks", "by the ranks of the module"],
)
def test_api_servers_are_counted_by_what_was_started(tmp_path, log_text, asked, key, words):
    """The parser repeats the number that it was given, whatever runs."""
    log = tmp_path / "server.log"
    log.write_text(log_text)
    assert read_back(asked, log)[key] == words


def test_ranks_behind_a_load_balancer_of_somebody_elses_have_one_api_server(tmp_path):
    """Nothing is expected of the number then."""
    log = tmp_path / "server.log"
    log.write_text(_MODULE)
    assert "API servers" not in read_back({"data_parallel_size": 4, "data_parallel_rank": 1}, log)


def test_a_single_run_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    """One cell against a URL: with no room for its prompts nothing is asked of the server and nothing written."""
    usage = namedtuple("usage", "total used free")  # noqa: PYI024
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: usage(0, 0, 10 << 20))
    target = {"name": "a", "kind": "adopt", "url": "http://127.0.0.1:9/v1", "model": "golden"}
    load = {"concurrency": [1], "requests": 5000}
    made = spec(targets=[target], workloads=["fixed:2000x4"], loads=[load], repetitions=1, min_free_gib=0)
    with pytest.raises(StoreError, match="not enough disk space"):
        pipeline.measure_one(made, tmp_path / "run", Quiet(), Stop())
    assert not (tmp_path / "run").exists()
