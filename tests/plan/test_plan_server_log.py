"""A vLLM server's own log as a trace. The fixture was written by vLLM 0.32 at its debug level (`--enable-log-requests
--enable-log-outputs`), start-up lines and most of its /tokenize requests left out; USAGE is what the same server's usage said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli.catalogue import workloads
from harness.measure.plan.drawing import draw
from harness.records import Load

LOG = Path(__file__).parent / "data" / "vllm_0.32_requests.log"
FIRST = (1, 2)  # "Hello", two tokens: the harness's own, at the server's start
USAGE = [
    (152, 11), (22, 18), (181, 17), (35, 11), (23, 5), (63, 7), (181, 2), (184, 16), (154, 9), (20, 7), (90, 7), (90, 4),
    (154, 6), (6, 9), (53, 4), (37, 17), (64, 2), (61, 7), (39, 4), (54, 11), (151, 16), (60, 4), (184, 2), (90, 17),
]  # fmt: skip
BOUND = 5  # four completions that could have ended early (vLLM logs no output of completions); the last chat's reply is cut off


def plan_of(path, load=None, requests=None):
    load = load or Load(arrivals="trace")
    return draw(
        str(path), load, requests=requests, duration_s=None, seed=1, warmup_requests=0, context_limit_tokens=None
    )


def written(tmp_path, *lines):
    path = tmp_path / "server.log"
    path.write_text("\n".join(lines) + "\n")
    return path


def request(number, stamp="11-24 10:00:00", ids="1, 2, 3", params="ignore_eos=True, max_tokens=7, min_tokens=0"):
    """The two lines of one request, as vLLM 0.32 writes them."""
    place = f"(APIServer pid=7) DEBUG {stamp} [entrypoints/.../utils/request_logger.py:55]"
    return (
        f"{place} Request cmpl-{number} details: prompt: 'x', prompt_token_ids: [{ids}], prompt_embeds shape: None.",
        f"{place.replace('DEBUG', 'INFO')} Received request cmpl-{number}: params: SamplingParams(n=1, {params}), lora_request: None.",
    )


def test_a_real_log_has_the_lengths_of_the_servers_usage():
    """Every prompt and output length of 24 requests, streamed and not, completions and chat, is the one that usage said, in
    order and at the second of its line; requests for tokenization are not taken for requests."""
    plan, notes = plan_of(LOG)
    assert [(r.target_prompt_tokens, r.target_output_tokens) for r in plan.requests] == [FIRST, *USAGE]
    seconds = [r.scheduled_ns // 10**9 for r in plan.requests]
    assert seconds[0] == 0
    assert seconds[1] == 1
    assert seconds == sorted(seconds)
    assert notes[0] == "trace: vLLM server log, 25 of 25 rows read"
    assert any("ticks of 1 s" in note for note in notes)


def test_outputs_that_the_log_does_not_tell_are_counted():
    """vLLM does not log what completions generated: where they were not forced to max_tokens, the note says in how many rows
    max_tokens stands for it."""
    _, notes = plan_of(LOG)
    assert any(f"in {BOUND} of the 25 rows the log does not say how much was generated" in note for note in notes)


def test_fit_says_it_too(tmp_path):
    """The fitted preset carries that note as an assumption, and none of the prompts."""
    out = tmp_path / "mine.yaml"
    done = CliRunner().invoke(workloads, ["fit", str(LOG), "--out", str(out)])
    assert done.exit_code == 0, done.output
    data = yaml.safe_load(out.read_text())
    assert "max_tokens, the most it may have been" in data["assumptions"]
    assert data["check"]["rows"] == 25
    assert "noise master" in LOG.read_text()
    assert "noise" not in out.read_text()


def test_older_releases_say_the_prompt_on_the_received_line(tmp_path):
    """Up to vLLM 0.10: prompt and its ids stand on the "Received request" line at the INFO level; a prompt that talks about
    token ids does not fool the reader."""
    line = ("INFO 07-01 10:00:00 [logger.py:41] Received request chatcmpl-1: prompt: 'prompt_token_ids: [9], x', params: "
            "SamplingParams(n=1, ignore_eos=False, max_tokens=5, min_tokens=5, logprobs=None), prompt_token_ids: [4, 5, 6, 7], "
            "prompt_embeds shape: None, lora_request: None, prompt_adapter_request: None.")  # fmt: skip
    plan, _ = plan_of(written(tmp_path, line), Load(concurrency=1), 1)
    assert [(r.target_prompt_tokens, r.target_output_tokens) for r in plan.requests] == [(4, 5)]


def test_a_log_over_new_year(tmp_path):
    """Times have no year: December is followed by January of the next."""
    path = written(tmp_path, *request(1, "12-31 23:59:59"), *request(2, "01-01 00:00:01"))
    assert [r.scheduled_ns // 10**9 for r in plan_of(path)[0].requests][1] in (2, 3)  # spread inside ticks of 2 s


def test_prompts_cut_in_the_log_are_bad_rows(tmp_path):
    """With --max-log-len 3 a prompt of which three ids are shown may be longer: an error that names the line."""
    args = "INFO 11-24 10:00:00 [api_utils.py:286] non-default args: {'max_log_len': 3, 'enable_log_requests': True}"
    path = written(tmp_path, args, *request(1, ids="1, 2"), *request(2))
    with pytest.raises(ConfigError) as caught:
        plan_of(path)
    assert f"{path}, line 4, column token ids" in caught.value.value
    assert "--max-log-len" in caught.value.advice
    plan, notes = plan_of(f"{path}?skip_bad=1")
    assert [r.target_prompt_tokens for r in plan.requests] == [2]
    assert any("1 bad rows skipped" in note for note in notes)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (['INFO:     127.0.0.1:33044 - "POST /v1/completions HTTP/1.1" 200 OK'], "no token counts"),
        (["INFO 11-24 10:00:00 [api_server.py:1] vLLM API server version 0.32.0"], "holds no requests"),
        ([request(1)[1]], "how long its prompts were"),
    ],
)
def test_logs_without_lengths_say_how_to_get_them(tmp_path, lines, what):
    """uvicorn's access lines, a log without requests, and one of the INFO level: what is missing, and the flags for it."""
    with pytest.raises(ConfigError, match=what) as caught:
        plan_of(written(tmp_path, *lines))
    assert "--enable-log-requests" in caught.value.advice
    assert "DEBUG" in caught.value.advice


def test_golden_digest_of_the_log():
    """The fixture's plan is the same bytes on every machine, Python and NumPy."""
    assert plan_of(LOG)[0].sha256[:16] == "423878d00bb8fa87"
