"""Bodies sent and chunks read."""

from __future__ import annotations

import json

import pytest

from harness.base.errors import ConfigError
from harness.measure.drive.dialect import MAX_ERROR_CHARS, clean_error, encode, error_message, path
from harness.measure.drive.dialect.chat import ChatReply as Reply
from harness.measure.drive.turns import Content
from harness.records import Endpoint, PlannedRequest, Prompt

REQUEST = PlannedRequest(0, None, 3, 7, None, 1)
IDS = Prompt(0, None, (1, 2, 3))
TEXT = Prompt(0, "a b c", None)


def body(api: str, prompt: Prompt, *, vllm: bool) -> dict:
    return json.loads(encode(Endpoint("http://h/v1", "m", api, vllm_extensions=vllm), REQUEST, prompt))


def test_vllm_completions_fix_the_output_length():
    """With vLLM's extensions the length is pinned from both sides and usage runs along."""
    got = body("completions", IDS, vllm=True)
    assert got["prompt"] == [1, 2, 3]
    assert (got["max_tokens"], got["min_tokens"], got["ignore_eos"]) == (7, 7, True)
    assert got["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (got["temperature"], got["stream"]) == (0, True)


@pytest.mark.parametrize(
    ("api", "more"),
    [("completions", {"prompt": "a b c"}), ("chat", {"messages": [{"role": "user", "content": "a b c"}]})],
)
def test_a_plain_body_asks_for_the_length_and_for_usage_at_the_end(api, more):
    """Text, max_tokens and ignore_eos, and nothing else of vLLM's own, even where a later turn follows."""
    endpoint = Endpoint("http://h/v1", "m", api, vllm_extensions=True, body="plain")
    got = json.loads(encode(endpoint, REQUEST, TEXT, followed=True))
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    assert got == {"model": "m", "max_tokens": 7, "temperature": 0, "ignore_eos": True} | more | usage


def test_hosted_chat_has_nothing_of_vllm():
    """A hosted API gets standard fields only."""
    got = body("chat", TEXT, vllm=False)
    assert got["messages"] == [{"role": "user", "content": "a b c"}]
    assert got["max_completion_tokens"] == 7
    assert got["stream_options"] == {"include_usage": True}
    assert not {"ignore_eos", "min_tokens", "max_tokens"} & set(got)


def test_vllm_chat_fixes_the_output_length_too():
    """vLLM's chat takes the length under the older name, from both sides."""
    got = body("chat", TEXT, vllm=True)
    assert (got["max_tokens"], got["min_tokens"], got["ignore_eos"]) == (7, 7, True)
    assert "max_completion_tokens" not in got


def test_chat_refuses_token_ids():
    """Token ids cannot be sent as a message."""
    with pytest.raises(ConfigError):
        body("chat", IDS, vllm=True)


def chunk(text: str | None = None, usage: int | None = None, finish: str | None = None, **delta: object) -> bytes:
    choice = {"index": 0, "finish_reason": finish} | ({"delta": delta} if text is None else {"text": text})
    value: dict = {"choices": [choice]}
    if usage is not None:
        value["usage"] = {"prompt_tokens": 5, "completion_tokens": usage}
    return json.dumps(value).encode()


def read(*chunks: bytes) -> Reply:
    reply = Reply()
    for i, data in enumerate(chunks):
        reply.take(data, i)
    return reply


def test_running_usage_gives_tokens_per_chunk():
    """Differences of the running usage are the chunks' tokens; a chunk whose text is held back still bears its token."""
    reply = read(
        chunk("a", 1), chunk("", 2), chunk("bc", 5), b'{"choices": [], "usage": {"completion_tokens": 5}}', b"[DONE]"
    )
    assert reply.chunk_ns == [0, 1, 2]
    assert reply.chunk_tokens() == (1, 1, 3)
    assert (reply.output, reply.prompt, reply.done) == (5, 5, True)


def test_role_only_chunk_bears_nothing():
    """The first chat chunk names a role and has no token."""
    reply = read(chunk(role="assistant", content=""), chunk(content="a"), chunk(finish="stop"))
    assert reply.chunk_ns == [1]
    assert reply.finish_reason == "stop"


def test_without_running_usage_tokens_per_chunk_are_unknown():
    """Usage that comes only at the end is a total: it says nothing about single chunks."""
    reply = read(chunk("a"), chunk("b"), chunk("", 2, "length"))
    assert reply.chunk_ns == [0, 1]
    assert reply.chunk_tokens() is None
    assert reply.output == 2


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"tool_calls": [{"function": {"name": "f"}}]},
        {"tool_calls": [{"function": {"arguments": "{"}}]},
    ],
)
def test_reasoning_and_tool_calls_bear_tokens(delta):
    """Whatever the model wrote is a token, not only content."""
    assert read(chunk(**delta)).chunk_ns == [0]


def test_the_first_visible_token_is_text_or_a_call():
    """Role, reasoning (in every field that servers have for it) and a held-back text are not seen; the first of them that is, is."""
    hidden = [
        chunk(role="assistant", content=""),
        chunk(reasoning_content="x"),
        chunk(reasoning="x"),
        chunk(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}]),
        chunk("", 7),
    ]
    for seen in (
        chunk("a"),
        chunk(content="a"),
        chunk(content=[{"type": "text", "text": "a"}]),
        chunk(content="a", reasoning="x"),
        chunk(tool_calls=[{"function": {"name": "f"}}]),
    ):
        reply = read(*hidden, seen, chunk(content="b"))
        assert reply.first_visible_ns == len(hidden)
        assert reply.reasoning_chunks == 3 + (b'"reasoning"' in seen)
    assert read(*hidden).first_visible_ns is None


def test_token_ids_say_how_many_tokens_a_chunk_holds():
    """Where the server names them, with usage only at the end or not at all; a chunk whose text is held back bears them too."""
    named = [{"choices": [{"index": 0, "text": text, "token_ids": ids}]} for text, ids in (("a", [5]), ("", [6, 7]))]
    end = {"choices": [{"index": 0, "text": "", "token_ids": [], "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
    reply = read(*(json.dumps(value).encode() for value in (*named, end, usage)))
    assert (reply.chunk_ns, reply.chunk_tokens(), reply.output) == ([0, 1], (1, 2), 3)
    both = [value | {"usage": {"completion_tokens": n}} for value, n in zip(named, (1, 3), strict=True)]
    assert read(*(json.dumps(value).encode() for value in both)).chunk_tokens() == (1, 2)


def test_usage_details_are_kept():
    """Cached and reasoning tokens come from usage details; null details stay unknown."""
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    reply = read(json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3} | details}).encode())
    assert (reply.cached, reply.reasoning) == (4, 2)
    reply = read(b'{"choices": [], "usage": {"prompt_tokens": 5, "prompt_tokens_details": null}}')
    assert (reply.cached, reply.output) == (None, None)


@pytest.mark.parametrize(
    ("total", "output"),
    [(135, 103), (41, 9), (136, 9), (134, 9), (None, 9), ("135", 9)],
    ids=["beside", "inside", "more", "less", "no total", "not a number"],
)
def test_reasoning_counted_beside_the_completion_is_output(total, output):
    """xAI's 32 + 9 + 94 = 135: the reply has 103 output tokens, 94 of them reasoning; where the total does not say so, it has what is said."""
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": total,
        "completion_tokens_details": {"reasoning_tokens": 94},
    }
    reply = Reply()
    reply.take(json.dumps({"choices": [], "usage": usage}).encode(), 1)
    assert (reply.output, reply.reasoning) == (output, 94)


@pytest.mark.parametrize("data", [b"{oops", b"[1]", b'"x"', b'{"choices": [3]}', b'{"choices": 3}', b"\xff\xfe"])
def test_what_is_no_chunk_raises_value_error(data):
    """Bytes of another shape are refused, never guessed."""
    with pytest.raises(ValueError):
        Reply().take(data, 0)


def test_error_texts_are_short_and_without_secrets():
    """The key, and what looks like one, leaves no trace in an error."""
    text = clean_error("bad\nkey topsecret, also sk-abcdefghijk and Bearer abcdefghi " + "x" * 500, "topsecret")
    assert "topsecret" not in text
    assert "abcdefghi" not in text
    assert "\n" not in text
    assert len(text) == MAX_ERROR_CHARS
    assert text.startswith("bad key ***, also *** and *** xxx")


def test_error_message_of_usual_bodies():
    """OpenAI's and vLLM's error shapes give their message; other bodies none."""
    assert error_message(b'{"error": {"message": "m"}}') == "m"
    assert error_message(b'{"message": "m"}') == "m"
    assert error_message(b'{"detail": "m"}') == "m"
    assert error_message(b"<html>") is None
    assert error_message(b'{"error": null}') is None
    assert error_message(b'{"error": {"code": 5}}') is None


@pytest.mark.parametrize(("api", "below"), [("chat", "/chat/completions"), ("completions", "/completions")])
def test_each_api_has_its_path(api, below):
    """Below base_url, where every server of this dialect serves it."""
    assert path(Endpoint("http://h/v1", "m", api)) == below


def test_what_a_later_turn_needs_is_kept():
    """Text of both APIs, and token ids where the server names them, of the first choice and in order."""
    content = Content()
    reply = Reply(content)
    for n, choice in enumerate(
        ({"text": "a", "token_ids": [5, 6]}, {"delta": {"content": "b"}}, {"delta": {"role": "x"}})
    ):
        choices = [choice, {"text": "other", "token_ids": [9]}]
        reply.take(json.dumps({"choices": choices}).encode(), n)
    reply.take(b'{"choices": [], "usage": {"completion_tokens": 3}}', 3)
    assert "".join(content.text) == "ab"
    assert content.token_ids == [5, 6]


def test_a_reply_that_said_nothing_knows_nothing():
    """Before its first event every count is None, and no time, no end and no error is known."""
    reply = Reply()
    known = (reply.prompt, reply.cached, reply.output, reply.reasoning, reply.finish_reason, reply.error)
    assert known == (None,) * 6
    assert (reply.chunk_ns, reply.first_visible_ns, reply.done, reply.chunk_tokens()) == ([], None, False, None)


def test_taking_an_event_says_whether_it_bore_tokens():
    """True for text; False for a role, a usage chunk, the end and an error."""
    reply = Reply()
    bore = [reply.take(data, 0) for data in (
        chunk(role="assistant", content=""), chunk("a"), chunk("", finish="stop"), b'{"choices": [], "usage": null}',
        b'{"choices": [], "usage": {"completion_tokens": 1}}', b"[DONE]", b'{"error": {"code": 5}}',
    )]  # fmt: skip
    assert bore == [False, True, False, False, False, False, False]
    assert (reply.error, reply.done) == ("error", True)


def test_no_reasoning_beside_the_completion():
    """Nothing is added where reasoning is 0, whatever the total is."""
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    for details in ({"reasoning_tokens": 0}, {"reasoning_tokens": None}, {}):
        reply = read(json.dumps({"choices": [], "usage": usage | {"completion_tokens_details": details}}).encode())
        assert reply.output == 3
