"""A price that a paid run would need afterwards is looked for before its first request."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign.preflight import check_prices


def spec(price, request=None):
    target = {
        "name": "t",
        "kind": "hosted",
        "url": "https://llm.example.net/v1",
        "model": "d",
        "price": price,
        "request": request or {},
    }
    return ExperimentSpec.model_validate(
        {
            "experiment": "x",
            "targets": [target],
            "workloads": ["fixed:16x8"],
            "loads": [{"concurrency": [1], "requests": 1}],
        }
    )


@pytest.mark.parametrize(
    ("price", "request_fields", "what"),
    [
        ({"provider": "openai", "model": "gpt-55"}, {}, "no price of this model"),
        ({"provider": "openai", "model": "gpt-5-mini"}, {"service_tier": "turbo"}, "no price of this service"),
    ],
    ids=["model", "service"],
)
def test_a_target_without_a_price_is_refused_before_it_is_paid(price, request_fields, what):
    """A model or a service that the price book does not have; with declared dollars both may be sent to."""
    with pytest.raises(ConfigError, match=what):
        check_prices(spec(price, request_fields))
    check_prices(spec({**price, "input_usd_per_million": 1, "output_usd_per_million": 2}, request_fields))
    check_prices(spec({"provider": "openai", "model": "gpt-5-mini"}, {"service_tier": "flex"}))
