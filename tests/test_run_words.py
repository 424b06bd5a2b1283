"""What the words of `harness run` make of an experiment."""

from __future__ import annotations

import json

import pytest

from harness.base.errors import ConfigError
from harness.cli.run import run
from harness.cli.shape import spec_of


def test_a_name_that_is_no_experiment_is_told_the_nearest():
    """Not that a file is missing: what was meant was a name."""
    with pytest.raises(ConfigError) as caught:
        spec_of(run.make_context("run", ["quickstrt", "--dry-run"]).params)
    assert (caught.value.value, "quickstart" in caught.value.advice) == ("quickstrt", True)


def test_a_url_takes_the_place_of_a_server_that_would_be_started(tmp_path):
    """Interpreter, image, boards, flags and variables of the config are of a server that is not there."""
    own = {"flags": {"max-num-seqs": 4}, "python": "/opt/x/bin/python", "gpus": [1], "port": 8123}
    targets = [{"name": "a", "kind": "vllm", "model": "embedded:tiny", **own}]
    text = {
        "experiment": "t",
        "targets": targets,
        "workloads": ["fixed:8x8"],
        "loads": [{"concurrency": [1], "requests": 2}],
    }
    (tmp_path / "e.yaml").write_text(json.dumps(text))
    words = [str(tmp_path / "e.yaml"), "--url", "http://127.0.0.1:9/v1"]
    (target,) = spec_of(run.make_context("run", words).params).targets
    assert (target.kind, target.flags, target.env, target.python, target.gpus) == ("adopt", {}, {}, None, [])
