"""A hosted API that refuses the key, the account or the model: the first refusal ends its cells, three lines say which it was."""

from __future__ import annotations

import subprocess

import pytest
from campaign_values import Quiet, run, spec

from harness.base.errors import RefusedError, TargetError
from harness.config.target import TargetSpec
from harness.measure.refusals import IN_A_ROW, Refusals
from harness.measure.targets import open_target
from harness.records import RequestRecord
from harness.store.reader import find_runs, read_run
from tests.fakes.fake_api import Api, error, serving

pytestmark = pytest.mark.timing
NO_CREDIT = error(  # as OpenAI says it: longer than what is kept of an error
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: "
    "https://platform.openai.com/docs/guides/error-codes/api-errors.",
    "insufficient_quota",
)


def experiment(url: str, *, requests: int = 10_000, **more):
    """Two cells of so many requests at a hosted API, with warm-up requests."""
    target = {"name": "api", "kind": "hosted", "url": url, "model": "m", "api": "chat", "api_key_env": "SERVICE_KEY"}
    loads = [{"concurrency": [4, 8], "requests": requests}]
    shape = {"workloads": ["fixed:16x4"], "loads": loads, "repetitions": 1, "warmup_requests": 4}
    return spec(targets=[target | more], **shape)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("SERVICE_KEY", "sk-hunter-2-hunter")


CASES = {
    "wrong-key": (Api(key="another", public_models=True), "refused the key (HTTP 401)", "SERVICE_KEY"),
    "no-rights": (Api(replies=[(403, error("no"))] * 9), "refused the key (HTTP 403)", "SERVICE_KEY"),
    "payment": (Api(replies=[(402, error("pay first"))] * 9), "has no credit for the key (HTTP 402)", "balance"),
    "quota": (Api(replies=[(429, NO_CREDIT)] * 9), "has no credit for the key (HTTP 429)", "balance"),
    "credit-400": (
        Api(replies=[(400, error("Your credit balance is too low to access the API"))] * 9),
        "has no credit for the key (HTTP 400)",
        "balance",
    ),
    "model-404": (Api(models=("other",)), "does not know the model m (HTTP 404)", "harness probe URL"),
    "model-400": (
        Api(replies=[(400, error("bad", "model_not_found"))] * 9),
        "does not know the model m (HTTP 400)",
        "harness probe URL",
    ),
    "path": (Api(apis=("completions",)), "does not know the model m (HTTP 404)", "url and api"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_refusal_is_all_that_an_api_is_asked_for(case, tmp_path):
    """One POST in all, of two cells with 20,000 requests; three lines, exit code 3; the reply is a row."""
    api, what, advice = CASES[case]
    api.posts.clear()
    api.replies = list(api.replies)
    with serving(api) as url:
        ran = run(experiment(url), tmp_path)
    worst = ran.worst()
    lines = str(worst).splitlines()
    assert (type(worst), worst.exit_code, len(lines)) == (RefusedError, 3, 3)
    assert what in lines[0]
    assert advice in lines[2]
    assert len(api.posts) == 1
    assert api.billed == 0
    assert len(ran.failures) == 2
    rows = [row for path in find_runs(tmp_path) for row in read_run(path).requests.http_status.dropna()]
    assert len(rows) == 1


def test_a_key_that_the_list_of_models_refuses_is_never_sent_a_request_with(tmp_path):
    """401 at /models: asked once, nothing is sent."""
    api = Api(key="another")
    with serving(api) as url:
        ran = run(experiment(url), tmp_path)
    assert isinstance(ran.worst(), RefusedError)
    assert (api.gets, api.posts) == (["/v1/models"], [])


def test_without_warm_up_a_refusal_ends_the_run_too(tmp_path):
    """What was in flight is refused beside it; the hundred thousand are not sent."""
    api = Api(key="another", public_models=True)
    with serving(api) as url:
        ran = run(experiment(url, requests=100_000).model_copy(update={"warmup_requests": 0}), tmp_path)
    assert isinstance(ran.worst(), RefusedError)
    assert len(api.posts) < 5_000


def test_the_other_targets_cells_are_run(tmp_path):
    """A refused key costs its own target's cells."""
    api, good = Api(key="another", public_models=True), Api()
    with serving(api) as url, serving(good) as good_url:
        shape = experiment(url, name="refused").model_dump(mode="json")
        shape["targets"].append(shape["targets"][0] | {"name": "good", "url": good_url})
        shape |= {"loads": [{"concurrency": [1, 2], "requests": 3}], "repetitions": 2}
        ran = run(spec(**shape), tmp_path)
    assert len(api.posts) == 1
    assert sorted(name.split("_")[0] for name, _ in ran.failures) == ["refused"] * 4
    assert good.billed == 4 * 7


def row(status: int, words: str = "") -> RequestRecord:
    """One that was answered so."""
    fields = dict.fromkeys(RequestRecord.__dataclass_fields__)
    outcome = "ok" if status == 200 else "http_error"
    return RequestRecord(**fields | {"http_status": status, "error": words, "outcome": outcome})


@pytest.mark.parametrize(
    ("rows", "enough"),
    [
        ([row(401)], True),
        ([row(200), row(401)], True),
        ([row(402)], True),
        ([row(200), row(429, "insufficient_quota")], True),
        ([row(403)], True),
        ([row(200), row(403)], False),
        ([row(404)], True),
        ([row(200), row(404)], False),
        ([row(429)], False),
        ([row(429, "Rate limit reached for model `m` in organization o")] * 99, False),
        ([row(200), row(429, "You exceeded your current quota, per minute")] * 30, False),
        ([row(400, "prompt is too long: 9 tokens")] * 99, False),
        ([row(500)] * 99, False),
        ([row(200)] + [row(403)] * IN_A_ROW, True),
    ],
    ids=["401", "401-later", "402", "quota-later", "403", "403-later", "404", "404-later", "429", "rate-limits", "quotas-of-a-minute",
         "prompts", "failures", "403s-in-a-row"],
)  # fmt: skip
def test_what_is_enough_of_a_hosted_api(rows, enough):
    """A key, an account: at any time; rights and the model: at the first request; a rate limit or a bad prompt: never."""
    refusals = Refusals(at_once=True)
    refusals.note(rows)
    assert refusals.enough is enough


@pytest.mark.parametrize("status", [401, 403])
def test_an_own_server_may_refuse_nineteen(status):
    """Behind a gateway of one's own, 20 in a row are enough, and a 404 never."""
    refusals = Refusals()
    refusals.note([row(404)] * 99 + [row(status)] * (IN_A_ROW - 1))
    assert not refusals.enough
    refusals.note([row(status)])
    assert refusals.enough
    assert type(refusals.error(TargetSpec(name="a", kind="adopt", url="http://h/v1", model="m"), "x")) is TargetError


# ---------------------------------------------------------------- clocks and certificates


@pytest.mark.parametrize(
    ("off_s", "word"), [(86_400, "behind"), (-7_200, "ahead of")], ids=["day-behind", "two-hours-ahead"]
)
def test_a_clock_that_is_not_the_servers_is_refused(off_s, word, tmp_path):
    """More than an hour: prices and days of a budget go by the date. Three lines that name `date`; nothing is sent."""
    api = Api(clock_off_s=off_s)
    with serving(api) as url, pytest.raises(TargetError) as caught:
        open_target(experiment(url).targets[0], tmp_path / "log", lambda _: None)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "clock is not the server's" in lines[0]
    assert word in lines[1]
    assert "`date`" in lines[2]
    assert api.posts == []


@pytest.mark.parametrize(("off_s", "warned"), [(600, True), (20, False)], ids=["ten-minutes", "twenty-seconds"])
def test_a_clock_that_is_a_little_off_is_said(off_s, warned, tmp_path):
    """A minute or more is a warning and stands in the manifest's checks."""
    said: list[str] = []
    with serving(Api(clock_off_s=off_s)) as url:
        target = open_target(experiment(url).targets[0], tmp_path / "log", said.append)
    assert ("clock" in target.info.checks) is warned
    assert any("warning" in line and "clock" in line for line in said) is warned


def test_an_answer_out_of_a_cache_is_as_old_as_the_cache_says(tmp_path):
    """A date of yesterday with an age of a day is now."""
    with serving(Api(clock_off_s=-86_400, headers={"age": "86400"})) as url:
        target = open_target(experiment(url).targets[0], tmp_path / "log", lambda _: None)
    assert "clock" not in target.info.checks


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [("20990101000000Z", "20990201000000Z", "`date`"), ("20010101000000Z", "20010201000000Z", "`date`"), ("20200101000000Z", "20990101000000Z", "ca_file")],
    ids=["not-yet", "expired", "not-trusted"],
)  # fmt: skip
def test_a_certificate_of_another_time_asks_for_a_look_at_the_clock(before, after, word, tmp_path):
    """Three lines; one that is merely not trusted asks for its CA."""
    pem, trusted = tmp_path / "pem", tmp_path / "ca.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    words += f" -not_before {before} -not_after {after} -keyout {pem} -out {trusted}"
    subprocess.run(words.split(), check=True, capture_output=True)
    pem.write_text(pem.read_text() + trusted.read_text())
    more = {} if word == "ca_file" else {"ca_file": str(trusted)}
    with serving(Api(), pem) as url, pytest.raises(TargetError) as caught:
        open_target(experiment(url, **more).targets[0], tmp_path / "log", lambda _: None)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "certificate" in lines[0]
    assert word in lines[2]


def test_what_was_refused_is_said_once(tmp_path):
    """Each cell of the target fails with the same words, and the display shows them."""
    display = Quiet()
    with serving(Api(key="another", public_models=True)) as url:
        run(experiment(url), tmp_path, display=display)
    failed = [line for line in display.said if line.startswith("failed:")]
    assert len(failed) == 2
    assert all("no more is sent" in line for line in failed)
    assert not any("hunter" in line for line in display.said)
