"""`harness probe` against APIs of every behaviour: what is found, what it costs, and the preset that comes of it."""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal

import pytest
import yaml

from harness.base import clock
from harness.base.errors import RefusedError, TargetError
from harness.cli import main
from harness.config.experiment import parse_experiment
from harness.config.target import TargetSpec
from harness.measure.inquiry import GENERATIONS, OUTPUT_TOKENS, Inquiry
from harness.price.ledger import rows_of
from harness.store.reader import find_runs, read_run
from tests.fakes.fake_api import PATHS, Api, error, serving

pytestmark = pytest.mark.timing
KEY = "sk-hunter-2-hunter"


def probe(monkeypatch, *words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    monkeypatch.setattr(sys, "argv", ["harness", "probe", *words])
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def asked(api: Api, model: str | None = None, **more):
    """Findings of an inquiry of it."""
    with serving(api) as url:
        spec = TargetSpec.model_validate({"name": "p", "kind": "hosted", "url": url, "model": model or "?"} | more)
        inquiry = Inquiry(spec, lambda _: None)
        return inquiry.ask(inquiry.open(model))


def all_bodies(api: Api) -> list[dict]:
    return [body for _, body, _ in api.posts]


# ---------------------------------------------------------------- what it costs

BEHAVIOURS = {
    "plain": {},
    "one-dialect": {"apis": ("messages",)},
    "two-dialects": {"apis": ("completions", "responses")},
    "path-405": {"apis": ("chat",), "no_path": 405},
    "no-list": {"lists_models": False},
    "many-models": {"models": ("a", "m", "b")},
    "refuses-temperature": {"temperature": False},
    "refuses-stream-options": {"stream_options": False, "usage": "always"},
    "refuses-ignore-eos": {"ignore_eos": "refused"},
    "refuses-all": {"temperature": False, "stream_options": False, "ignore_eos": "refused", "limits": ("max_tokens",)},
    "strict": {"strict": True},
    "llama-cpp": {
        "lacking": 500,
        "apis": ("chat", "completions"),
        "no_path": 404,
    },  # a request without messages is a 500 there
    "no-stream": {"streams": False},
    "no-usage": {"usage": "never"},
    "takes-nothing": {"takes_nothing": True},
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_no_api_is_asked_for_more_than_three_short_replies(name):
    """Whatever it refuses, and also one that replies to requests without a prompt."""
    api = Api(**BEHAVIOURS[name])
    with serving(api) as url:
        spec = TargetSpec.model_validate({"name": "p", "kind": "hosted", "url": url, "model": "m"})
        inquiry = Inquiry(spec, lambda _: None)
        try:
            found = inquiry.ask(inquiry.open("m"))
        except TargetError:
            assert name == "takes-nothing"
            found = inquiry.findings
    assert api.billed <= GENERATIONS
    assert found.generations == api.billed
    assert found.requests == len(api.posts)
    limits = [body[key] for body in all_bodies(api) for key in body if key.startswith("max_")]
    assert max(limits) <= OUTPUT_TOKENS
    assert all(any(key.startswith("max_") for key in body) for body in all_bodies(api))


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    "served", [("chat",), ("messages",), ("responses",), ("completions",), tuple(PATHS)], ids="-".join
)
def test_the_dialects_that_are_served_are_found(served):
    """Each alone, and all four: no path is told from one without a reply."""
    found = asked(Api(apis=served))
    assert {api for api, how in found.apis.items() if how != "no"} == set(served)
    assert found.apis[found.api] == "replied"


def test_a_path_that_is_405_is_not_served():
    """As some gateways say it."""
    found = asked(Api(apis=("chat",), no_path=405))
    assert [api for api, how in found.apis.items() if how != "no"] == ["chat"]


@pytest.mark.parametrize(
    ("limits", "taken", "refused"),
    [
        (("max_tokens", "max_completion_tokens"), ["max_completion_tokens", "max_tokens"], []),
        (("max_tokens",), ["max_tokens"], ["max_completion_tokens"]),
        (("max_completion_tokens",), ["max_completion_tokens"], ["max_tokens"]),
    ],
    ids=["both", "old", "new"],
)
def test_the_field_that_bounds_a_reply_is_found(limits, taken, refused):
    """In chat there are two."""
    found = asked(Api(apis=("chat",), limits=limits))
    assert sorted(found.limits_taken) == sorted(taken)
    assert [name for name in found.refused if name.startswith("max_")] == refused


@pytest.mark.parametrize(
    ("how", "ends_after", "word"),
    [("honoured", 2, "honoured"), ("ignored", 2, "no effect"), ("refused", 2, "refused"), ("honoured", 99, "taken")],
    ids=["honoured", "no-effect", "refused", "not-to-be-seen"],
)
def test_what_ignore_eos_does_is_found(how, ends_after, word):
    """By the ends of two replies; a model that would write on anyway shows nothing."""
    found = asked(Api(ignore_eos=how, ends_after=ends_after))
    assert found.ignore_eos == word


@pytest.mark.parametrize("usage", ["asked", "always", "never"])
@pytest.mark.parametrize("other", [("messages",), ()], ids=["beside-messages", "alone"])
def test_when_usage_comes_is_found(usage, other):
    """In the dialect that is chosen: Messages always have it, which says nothing of chat."""
    assert asked(Api(apis=("chat", *other), usage=usage)).usage_comes == usage


@pytest.mark.parametrize(
    ("api", "cached", "reasoning"),
    [
        ("chat", "usage.prompt_tokens_details.cached_tokens", "usage.completion_tokens_details.reasoning_tokens"),
        ("responses", "usage.input_tokens_details.cached_tokens", "usage.output_tokens_details.reasoning_tokens"),
        ("messages", "usage.cache_read_input_tokens", None),
    ],
)
def test_where_usage_says_cached_and_reasoning_is_found(api, cached, reasoning):
    """The paths of their numbers, zero too."""
    found = asked(Api(apis=(api,), cached=0, reasoning=0))
    assert found.usage_field("cached_tokens", "cache_read") == cached
    assert found.usage_field("reasoning_tokens") == reasoning


@pytest.mark.parametrize(
    ("headers", "family"),
    [
        ({"X-RateLimit-Limit-Requests": "60", "x-ratelimit-remaining-tokens": "9000"}, "x-ratelimit"),
        ({"anthropic-ratelimit-requests-limit": "50", "retry-after": "3"}, "anthropic-ratelimit"),
        ({"retry-after": "3"}, None),
        ({}, None),
    ],
    ids=["openai", "anthropic", "retry-after", "none"],
)
def test_headers_that_tell_of_limits_are_found(headers, family):
    """Their family, and each with its value."""
    found = asked(Api(headers=headers))
    assert found.limit_headers == family
    assert {name.lower(): value for name, value in headers.items()}.items() <= found.headers.items()


@pytest.mark.parametrize("auth", ["bearer", "x-api-key", "api-key"])
def test_the_header_of_the_key_is_found_without_a_request_that_costs(auth, monkeypatch):
    """By the list of models."""
    monkeypatch.setenv("MY_KEY", KEY)
    api = Api(key=KEY, auth=auth)
    assert asked(api, api_key_env="MY_KEY").auth == auth
    assert api.billed == GENERATIONS


def test_times_are_those_of_the_wire():
    """By the server's own stamps, on whatever machine: no shorter than it held the answer back, and no longer than from its answer to the
    request before until the request after had come."""
    api = Api(takes_s=0.02)
    begun_ns = clock.monotonic_ns()
    found = asked(api)
    first_reply = len(api.gets) + next(at for at, body in enumerate(all_bodies(api)) if "stream" in body)

    def bounds_s(at):
        before_ns = api.exchanges[at - 1].answered_ns if at else begun_ns
        one, after = api.exchanges[at : at + 2]
        return (one.answered_ns - one.came_ns) / clock.NS, (after.came_ns - before_ns) / clock.NS

    assert len(api.gets) == 3  # the first and two over the connection that stands
    least, most = bounds_s(0)
    assert api.takes_s <= least <= found.first_answer_s <= most
    least, most = map(min, zip(bounds_s(1), bounds_s(2), strict=True))
    assert api.takes_s <= least <= found.round_trip_s <= most
    least, most = bounds_s(first_reply)
    assert api.takes_s <= least <= found.first.ttft_s <= most


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("public", [True, False], ids=["public-list", "closed-list"])
def test_a_wrong_key_ends_it_before_anything_is_generated(public, monkeypatch):
    """Three lines and exit code 3; one question in all where the list is public."""
    monkeypatch.setenv("MY_KEY", KEY)
    api = Api(key="another", public_models=public)
    with serving(api) as url:
        code, out, err = probe(monkeypatch, url, "--api-key-env", "MY_KEY")
    assert (code, out, len(api.posts), api.billed) == (3, "", 1 if public else 0, 0)
    assert "MY_KEY was refused" in err
    assert KEY not in err


def test_a_model_that_is_not_there_is_named(monkeypatch):
    """Exit code 3, nothing is billed."""
    api = Api(models=("other",))
    with serving(api) as url:
        code, _, err = probe(monkeypatch, url, "--model", "m")
    assert (code, api.billed) == (3, 0)
    assert "does not know the model m" in err


def test_without_a_model_the_only_one_is_asked_and_of_several_one_is_to_be_named(monkeypatch):
    """The names are shown."""
    assert asked(Api(models=("only",))).model == "only"
    with serving(Api(models=("a", "b"))) as url:
        code, _, err = probe(monkeypatch, url)
    assert code == 3
    assert "a, b" in err
    assert "--model" in err


def test_an_account_without_credit_is_told():
    """402 in place of the first reply."""
    api = Api(replies=[(402, error("pay first"))] * 9)
    with pytest.raises(RefusedError, match="402"):
        asked(api)
    assert api.billed == 0


def test_a_url_that_serves_no_dialect_is_told():
    """All four paths are absent."""
    with pytest.raises(TargetError, match="none of the four dialects"):
        asked(Api(apis=()))


@pytest.mark.parametrize(
    "secret", ["http://u:hunter-2@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?api_key=hunter-2"], ids=["user", "query"]
)
def test_a_secret_in_the_url_is_refused_unshown(secret, monkeypatch):
    """Exit code 2; it stands in no line."""
    code, out, err = probe(monkeypatch, secret)
    assert code == 2
    assert "hunter" not in out + err


def test_max_usd_that_cannot_be_kept_is_refused_before_anything_that_costs(monkeypatch):
    """No price is known of a server of one's own."""
    api = Api()
    with serving(api) as url:
        code, _, err = probe(monkeypatch, url, "--max-usd", "1")
    assert (code, api.billed) == (2, 0)
    assert "--max-usd cannot be kept" in err


@pytest.mark.parametrize(("max_usd", "code"), [("1", 0), ("0.000002", 2)], ids=["enough", "too-little"])
def test_max_usd_is_held_against_the_list_price(max_usd, code, monkeypatch, tmp_path):
    """Of the provider whose API the URL is."""
    monkeypatch.setattr("harness.measure.inquiry.asking.provider_at", lambda _: "openai")
    monkeypatch.setenv("HARNESS_LEDGER_DIR", str(tmp_path))
    api = Api(models=("gpt-4o-mini",))
    with serving(api) as url:
        assert probe(monkeypatch, url, "--max-usd", max_usd)[0] == code
    assert api.billed == (GENERATIONS if code == 0 else 0)
    assert len(rows_of(tmp_path)[0]) == (1 if code == 0 else 0)


@pytest.mark.parametrize(("usage", "known"), [("always", True), ("never", False)])
def test_what_a_probe_spends_is_in_the_ledger_of_its_key(usage, known, monkeypatch, tmp_path):
    """By its replies' usage, or where they tell none at the worst case of each; what was reserved beyond goes back; `harness spend` has it."""
    monkeypatch.setattr("harness.measure.inquiry.asking.provider_at", lambda _: "openai")
    monkeypatch.setenv("HARNESS_LEDGER_DIR", str(tmp_path))
    api = Api(models=("gpt-4o-mini",), apis=("chat",), usage=usage)
    with serving(api) as url:
        code, _, said = probe(monkeypatch, url)
    assert code == 0
    (row,) = rows_of(tmp_path)[0]
    most = Decimal(re.search(r"tokens: \$([0-9.]+) by list price of openai", said)[1])
    assert row.run.startswith("probe ")
    assert (0 < row.usd < most / 2) if known else (most / 2 < row.usd <= most)


def test_a_probe_without_a_ledger_asks_nothing_that_costs(monkeypatch, tmp_path):
    """Exit 5, three lines."""
    monkeypatch.setattr("harness.measure.inquiry.asking.provider_at", lambda _: "openai")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_LEDGER_DIR", str(tmp_path / "file"))
    api = Api(models=("gpt-4o-mini",))
    with serving(api) as url:
        code, _, said = probe(monkeypatch, url)
    assert (code, api.posts) == (5, [])
    assert "ledger" in said


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://x.openai.azure.com/openai/v1", "azure"),
        ("http://127.0.0.1:8000/v1", None),
    ],
    ids=["openai", "groq", "azure", "own"],
)
def test_whose_api_a_url_is(url, provider):
    """By the price book's patterns."""
    from harness.price.provider import provider_at

    assert provider_at(url) == provider


# ---------------------------------------------------------------- the preset


@pytest.mark.parametrize("name", [name for name in BEHAVIOURS if name != "takes-nothing"])
def test_the_preset_is_taken_back_and_runs(name, tmp_path, monkeypatch):
    """Printed, read by the config's loader, and a run with it gets good replies from that API at the first attempt."""
    monkeypatch.chdir(tmp_path)
    api = Api(**BEHAVIOURS[name])
    with serving(api) as url:
        code, out, err = probe(monkeypatch, url, "--model", "m", "--out", "found.yaml")
        assert code == 0, err
        assert out
        target = {"name": "a", "preset": "./found.yaml", "model": "m"}
        data = {"experiment": "t", "targets": [target], "workloads": ["fixed:8x2"], "loads": [{"concurrency": [2], "requests": 4}],
                "warmup_requests": 1, "observe": {"gpu": "off"}}  # fmt: skip
        spec = parse_experiment(data, "x").targets[0]
        assert (spec.kind, spec.url) == ("hosted", url)
        if name == "no-stream":
            return
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(data))
        monkeypatch.setattr(sys, "argv", ["harness", "run", "x.yaml", "--allow-invalid"])
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit):
            main()
    (path,) = find_runs(tmp_path / "results" / "t")
    assert set(read_run(path).requests.outcome) == {"ok"}


def test_the_json_has_findings_table_and_preset(monkeypatch):
    """One document."""
    with serving(Api()) as url:
        code, out, _ = probe(monkeypatch, url, "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["findings"]["generations"] == GENERATIONS
    assert shown["table"]["dialect chat"] == "replied"
    assert shown["preset"]["read"] == "inquiry"
