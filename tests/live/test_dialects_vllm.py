"""Responses and Messages on a real vLLM server, by both drivers: tokens to the token where the API permits it, and the same words as chat."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from harness.measure.drive import dialect
from harness.measure.drive.sse import SseParser
from harness.measure.drive.turns import Content
from harness.measure.plan.prompts import prompts
from harness.records import PlannedRequest
from harness.store.reader import read_run
from tests.live.test_run_vllm import BUSY_MACHINE, run

pytestmark = [pytest.mark.vllm, pytest.mark.timing, pytest.mark.timeout(900)]
REQUESTS = 24
SEEDS = {("responses", "wire"): 41, ("responses", "sdk"): 42, ("messages", "wire"): 43, ("messages", "sdk"): 44}


@pytest.fixture(scope="module", params=list(SEEDS), ids=" ".join)
def measured(request, vllm_server, tmp_path_factory):
    """API, rows and the run's part of the document, of a run of this API through this driver."""
    api, driver = request.param
    out = tmp_path_factory.mktemp("dialect") / "run"
    words = ("--api", api, "--driver", driver, "--workload", "uniform:60-90x8-16", "--concurrency", "4")
    document = run(vllm_server, out, *words, "--requests", str(REQUESTS), "--seed", str(SEEDS[request.param]))
    return api, read_run(out).requests, document["runs"][0]


def test_every_request_is_ok(measured):
    """And says how it ended."""
    _, rows, _ = measured
    assert set(rows.outcome) == {"ok"}
    assert rows.finish_reason.notna().all()


def test_prompts_have_the_planned_tokens(measured):
    """By usage: the template is counted in, what was cached too; and by the server's own counter."""
    _, rows, one = measured
    assert (rows.prompt_tokens == rows.target_prompt_tokens).all()
    (check,) = [check for check in one["tokens"] if check["kind"] == "prompt"]
    assert check["usage"] == check["server_counter"] == check["planned"]


def test_replies_have_the_tokens_of_the_servers_counter(measured):
    """By usage; over Responses every one has the planned length, over Messages, which takes no ignore_eos, none is longer."""
    api, rows, one = measured
    (check,) = [check for check in one["tokens"] if check["kind"] == "output"]
    assert check["usage"] == check["server_counter"]
    assert (rows.output_tokens <= rows.target_output_tokens).all()
    if api == "responses":
        assert (rows.output_tokens == rows.target_output_tokens).all()


def test_chunks_and_reasoning(measured):
    """A chunk holds a token or more, nothing is reasoning, and the first chunk is seen."""
    _, rows, _ = measured
    assert all(0 < len(row.chunk_ns) <= row.output_tokens for row in rows.itertuples())
    assert (rows.reasoning_chunks == 0).all()
    assert not rows.reasoning_hidden.any()
    assert (rows.first_visible_ns == rows.first_token_ns).all()


def test_the_verdict_finds_nothing_wrong(measured):
    """What a dialect does not say (tokens a chunk, a forced length) is no fault of the run."""
    _, _, one = measured
    found = {reason["code"] for reason in one["reasons"] if reason["severity"] != "warning"}
    assert found <= BUSY_MACHINE | {"window_too_short", "too_few_requests"}, one["reasons"]


def _said(server, api: str) -> tuple[str, dialect.Reply]:
    """The text of one greedy reply, and what its stream said."""
    endpoint = replace(server.endpoint, api=api)
    request = PlannedRequest(0, None, 40, 24, None, 4711)
    (prompt,) = prompts([request], replace(server.vocabulary, prompt_overhead_tokens=8), "chat")
    content = Content()
    reply, events = dialect.reply(dialect.spoken(endpoint), content), SseParser()
    headers = {"content-type": "application/json"}
    url = f"{endpoint.base_url}{dialect.path(endpoint)}"
    with httpx.stream(
        "POST", url, content=dialect.encode(endpoint, request, prompt), headers=headers, timeout=60
    ) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_bytes():
            for event in events.feed(piece):
                reply.take(event.data, 0)
    return "".join(content.text), reply


def test_all_dialects_of_a_chat_say_the_same(vllm_server):
    """One prompt, temperature 0: the same prompt tokens and the same text over chat and Responses; over Messages as far as it goes."""
    said = {api: _said(vllm_server, api) for api in ("chat", "responses", "messages")}
    assert len({reply.prompt for _, reply in said.values()}) == 1
    text, chat = said["chat"]
    assert said["responses"][0] == text
    assert said["responses"][1].output == chat.output == 24
    shorter, messages = said["messages"]
    assert text.startswith(shorter)
    assert messages.output <= 24
    assert all(reply.done for _, reply in said.values())
