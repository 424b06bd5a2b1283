"""`--slo`: the promise of a run that has no config, from the command line to what is judged."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli.run import plan_command, run
from harness.cli.shape import parse_slo, spec_of
from harness.config.experiment import SloSpec
from harness.judge.metrics import slo_of
from tests.fakes.golden_server import GoldenServer

PROMISE = "ttft_from_schedule_s=0.5,tpot_s=0.05,attainment=0.95"
WORDS = ["--url", "http://127.0.0.1:9/v1", "--workload", "fixed:16x8", "--rate", "2", "--duration", "10"]


def spec_from(command, *words: str):
    """What the command would run: its words, parsed."""
    context = command.make_context(command.name, [*WORDS, "--out", "x", *words])
    return spec_of(context.params)


@pytest.mark.parametrize("command", [run, plan_command])
def test_run_and_plan_take_the_promise(command):
    """Every key of an experiment's slo can be said; without the word there is no promise."""
    assert spec_from(command).slo is None
    assert spec_from(command, "--slo", PROMISE).slo == SloSpec(ttft_from_schedule_s=0.5, tpot_s=0.05, attainment=0.95)
    for name in SloSpec.model_fields:
        words = f"{name}=0.5" if name != "attainment" else "attainment=0.5,ttft_s=1"
        assert getattr(parse_slo(words), name) == 0.5


def test_it_replaces_the_configs_promise(tmp_path):
    """A limit that the config states and the word does not is gone."""
    config = tmp_path / "e.yaml"
    config.write_text(
        'experiment: t\ntargets: [{name: a, kind: adopt, url: "http://127.0.0.1:9/v1", model: m}]\n'
        'workloads: ["fixed:8x4"]\nloads: [{concurrency: [1], requests: 2}]\nslo: {e2el_s: 9, attainment: 0.5}\n'
    )
    params = run.make_context("run", [str(config), "--slo", "tpot_s=0.05"]).params
    assert spec_of(params).slo == SloSpec(tpot_s=0.05)


@pytest.mark.parametrize(
    ("text", "value", "advice"),
    [
        ("tpot=0.05", "tpot", "did you mean tpot_s?"),
        ("ttft_from_shedule_s=1", "ttft_from_shedule_s", "did you mean ttft_from_schedule_s?"),
        ("zzz=1", "zzz", "keys allowed here: ttft_from_schedule_s"),
        ("tpot_s=50ms", "tpot_s=50ms", "seconds"),
        ("tpot_s=", "tpot_s=", "seconds"),
        ("tpot_s=-1", "tpot_s = -1.0", "greater than 0"),
        ("tpot_s=0", "tpot_s = 0.0", "greater than 0"),
        ("tpot_s=nan", "tpot_s = nan", "finite"),
        ("tpot_s=inf", "tpot_s = inf", "finite"),
        ("tpot_s=1,attainment=1.01", "attainment = 1.01", "less than or equal to 1"),
        ("attainment=0.9", "attainment=0.9", "e.g. ttft_from_schedule_s=0.5"),
        ("tpot_s=1,tpot_s=2", "tpot_s=2", "e.g."),
        ("tpot_s", "tpot_s", "e.g."),
        ("", "", "e.g."),
    ],
)
def test_what_is_wrong_is_named(text, value, advice):
    """An unknown key names the nearest, a bad number the rule that it breaks; exit code 2."""
    with pytest.raises(ConfigError) as error:
        parse_slo(text)
    assert error.value.value == value
    assert advice in str(error.value.advice)
    assert error.value.exit_code == 2


@pytest.mark.timing
def test_a_run_against_a_url_is_judged_by_it(tmp_path, monkeypatch):
    """The manifest holds the promise, and the summary an attainment: all of a slack one, none of one that cannot be kept."""
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path / "locks"))
    found = {}
    with GoldenServer(ttft_s=0.002, itl_s=0.001) as server:
        for limit in ("1000", "0.000001"):
            out = tmp_path / limit
            words = ["--url", server.url, "--model", "golden", "--workload", "fixed:16x4", "--concurrency", "2"]
            done = CliRunner().invoke(
                run, [*words, "--requests", "60", "--out", str(out), "--slo", f"e2el_s={limit}", "--json"],
                standalone_mode=False,
            )  # fmt: skip
            (shown,) = json.loads(done.stdout)["runs"]
            manifest = json.loads((out / "manifest.json").read_text())
            assert slo_of(manifest["config"]) == {"e2el_s": float(limit)}
            found[limit] = shown["scalars"]["attainment"]
    assert found == {"1000": 1.0, "0.000001": 0.0}
