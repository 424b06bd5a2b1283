"""The whole Prometheus text of a run's cost, line by line."""

from __future__ import annotations

from dataclasses import replace

from harness.config.experiment import CostSpec
from harness.price.opencost import opencost_text
from harness.price.run_cost import cost_run
from harness.records import Hardware
from tests.price.cost_summaries import summary

BOX = Hardware("box", "3.60", "quote", "2026-11-01")
SPEC = CostSpec(utilisation=0.5, input_output_price_ratio=4)


def text(run, box=BOX):
    return opencost_text([(run, cost_run(run, box, SPEC))])


def test_the_whole_text_by_hand():
    """$3.60/h at half use: $0.1667 a million tokens, 1 to 4 for input and output; half of it if full; a quarter found in the cache."""
    run = replace(summary(usage=((1000, 250, 200, 0),) * 4), config={"model_version": "2"})
    head = f'model_name="m",model_version="2",namespace="{run.experiment}"'
    tail = f'run_id="{run.run_id}",workload_type="fixed:1000x200"'

    def sample(basis, method, phase, usd):
        inside = f'allocation_method="{method}",cost_basis="{basis}",{head},phase="{phase}",{tail}'
        return f"llm_cost_per_million_tokens{{{inside}}} {usd}"

    assert text(run).splitlines() == [
        "# HELP llm_total_hourly_cost USD per paid hour of the machine, estimate from a benchmark",
        "# TYPE llm_total_hourly_cost gauge",
        f"llm_total_hourly_cost{{{head},{tail}}} 3.6",
        "# HELP llm_cost_per_million_tokens USD per million tokens, estimate from a benchmark",
        "# TYPE llm_cost_per_million_tokens gauge",
        sample("allocation", "none", "", "0.166666666667"),
        sample("usage", "none", "", "0.0833333333335"),
        sample("allocation", "price-ratio", "prompt", "0.111111111111"),
        sample("usage", "price-ratio", "prompt", "0.0555555555555"),
        sample("allocation", "price-ratio", "generation", "0.444444444444"),
        sample("usage", "price-ratio", "generation", "0.222222222222"),
        "# HELP llm_cache_savings_fraction Share of prompt tokens found in the prefix cache",
        "# TYPE llm_cache_savings_fraction gauge",
        f"llm_cache_savings_fraction{{{head},{tail}}} 0.25",
    ]
    assert text(run).endswith("0.25\n")


def test_each_figure_is_there_where_it_is_known():
    """Without a machine only what was found in the cache, of no named version; without a total the split alone; without usage no cache."""
    bare = text(summary(usage=((1, 0, 1, 0),)), box=None).splitlines()
    assert [line.partition("{")[0] for line in bare if line[0] != "#"] == ["llm_cache_savings_fraction"]
    assert 'model_version="",' in bare[-1]
    assert bare[-1].endswith(" 0.0")
    some = text(summary(usage=(), total_tps=None)).splitlines()
    assert sum('phase="prompt"' in line for line in some) == 2
    assert not any('phase=""' in line or "savings" in line for line in some)
