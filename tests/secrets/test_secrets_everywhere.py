"""A hundred keys in every place where a user may put one, a failure in every stage, and not one of them in what was written."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from echo_server import echoing
from keys import found_in, make_keys, texts_of
from place import Place

from tests.targets.target_spawning import write_command

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
KEYS = make_keys()
OURS, THEIRS, FLAGS, URLS, WORDS, NOTICE, WRONG = (
    KEYS[:40], KEYS[40:60], KEYS[60:70], KEYS[70:85], KEYS[85:90], KEYS[90:95], KEYS[95:],
)  # fmt: skip
SERVER = """
import os, sys, urllib.parse
said = [*sys.argv, *map(repr, sorted(os.environ.items())), urllib.parse.quote(str(dict(os.environ)))]
print("INFO 11-24 11:55:26 [utils.py:1] non-default args:", said, flush=True)
raise ValueError(f"cannot start with {dict(os.environ)} and {sys.argv}")
"""


def _hosted(place: Place, url: str) -> None:
    """Keys from variables, a server that says them, and every command that reads what was stored."""
    targets = [{"name": f"h{i}", "kind": ("hosted", "adopt")[i % 2], "model": "m", "url": url, "api_key_env": f"SERVICE_{i}_API_KEY"}
               for i in range(3)]  # fmt: skip
    notify = {"webhook_env": "HOOK", "command": ["sh", "-c", 'echo "$2" >&2; exit 3', "sh", "--token", NOTICE[1]]}
    config = place.config("hosted", targets=targets, notify=notify)
    place.run("run", config, "--dry-run")
    place.run("run", config, "--dry-run", "--json")
    place.run("run", config)
    place.run("run", place.config("sdk", targets=targets[:1], driver="sdk"))
    for words in (["analyse"], ["analyse", "--json"], ["report"], ["cost", "--allow-invalid"], ["recover"]):
        place.run(words[0], "results/hosted", *words[1:])
    place.run("compare", "results/hosted", "results/hosted", "--base-target", "h0", "--new-target", "h1")
    place.run("history", "index", "results")
    place.run("history", "sql", "SELECT * FROM runs", "--results", "results", "--json")
    place.run("cost", "export", "results/hosted", "--format", "opencost", "--out", "metrics.txt", "--allow-invalid")
    for debug in ([], ["--debug"]):  # a crash in a stage
        with pytest.MonkeyPatch.context() as patch:

            def crash(*_: object, **__: object) -> None:
                raise RuntimeError(f"crash with {OURS[0]} and {quote(OURS[1], safe='')}")

            patch.setattr("harness.pipeline.results_of", crash)
            patch.setattr("harness.judge.runs.analyse", crash)
            place.run(*debug, "report", "results/hosted")


def _servers(place: Place) -> None:
    """A server of ours that prints its environment and its command, and does not start."""
    write_command(place.inputs / "site", SERVER)
    model = place.inputs / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    env = {"PYTHONPATH": f"{place.inputs / 'site'}:{ROOT}"} | {
        f"AWS_{i}_SECRET_ACCESS_KEY": key for i, key in enumerate(THEIRS)
    }
    flags = {f"service-{i}-token": key for i, key in enumerate(FLAGS)} | {"max_num_batched_tokens": 8192}
    target = {"name": "own", "kind": "vllm", "model": str(model), "env": env, "flags": flags, "start_timeout_s": 120}
    config = place.config("own", targets=[target], loads=[{"concurrency": [1], "requests": 2}])
    place.run("run", config, "--dry-run")
    place.run("run", config)
    place.run("report", "results/own")
    for i, key in enumerate(WRONG):
        broken = target | {"env": {"HF_TOKEN": key, "OTHER": 3}, ("start_timeout_s", "colour", "flags")[i % 3]: [key]}
        place.run("run", place.config(f"wrong{i}", targets=[broken]))
        bad = {"name": "x", "kind": "hosted", "model": "m", "url": "http://127.0.0.1:1/v1", "api_key_env": f"{key}!"}
        place.run("plan", place.config(f"name{i}", targets=[bad]), "--out", "plans")


def _refused(place: Place) -> None:
    """Credentials in a URL, in a config and on the command line."""
    for i, key in enumerate(URLS):
        safe = quote(key, safe="")
        url = (
            f"http://user:{safe}@127.0.0.1:1/v1",
            f"http://127.0.0.1:1/v1?api_key={safe}",
            f"http://{key}@127.0.0.1:1/v1",
        )[i % 3]
        target = {"name": "u", "kind": ("hosted", "adopt")[i % 2], "model": "m", "url": url}
        config = place.config(f"url{i}", targets=[target])
        place.refused.append(place.run("run", config))
        place.refused.append(place.run("run", config, "--dry-run"))
        place.refused.append(place.run("plan", config, "--out", f"plan{i}"))
    rest = ["--model", "m", "--workload", "fixed:8x4", "--concurrency", "1", "--requests", "2", "--out", "one"]
    for key in WORDS:
        place.run("run", "--url", f"http://u:{quote(key, safe='')}@127.0.0.1:1/v1", *rest)
        place.run("run", "--url", f"http://127.0.0.1:1/v1?token={quote(key, safe='')}", *rest)
        place.run("run", "--url", "http://127.0.0.1:1/v1", f"--api-key={key}", *rest)
        place.run("run", "--url", "http://127.0.0.1:1/v1", "--api-key-env", f"{key}!", *rest)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Every command was run."""
    made = Place(tmp_path_factory.mktemp("written"), tmp_path_factory.mktemp("inputs"))
    with pytest.MonkeyPatch.context() as patch, echoing(OURS) as url:
        patch.chdir(made.folder)
        patch.setenv("XDG_CACHE_HOME", str(made.folder / "cache"))
        for i, key in enumerate(OURS):
            patch.setenv(f"SERVICE_{i}_API_KEY", key)
        for i, key in enumerate(NOTICE[2:]):
            patch.setenv(f"PROXY_{i}_URL", f"http://user:{quote(key, safe='')}@proxy.example:1")
        patch.syspath_prepend(str(made.inputs / "site"))
        _refused(made)
        made.left_by_refused = len(made.files())
        importlib.invalidate_caches()
        _servers(made)
        patch.setenv("HOOK", f"http://127.0.0.1:1/{quote(NOTICE[0], safe='')}")
        _hosted(made, url)
    return made


def test_no_key_is_in_what_was_written(place):
    """Files, packed ones and Parquet columns too, standard output and error: none of the hundred, in no spelling."""
    found: dict[str, list[str]] = {}
    searched = 0
    for path in place.files():
        texts = texts_of(path)
        searched += sum(map(len, texts))
        if keys := sorted({key for text in texts for key in found_in(text, KEYS)}):
            found[str(path.relative_to(place.folder))] = keys
    for at, text in enumerate(place.said):
        searched += len(text)
        if keys := found_in(text, KEYS):
            found[f"output {at}: {text[:80]}"] = keys
    total = len({key for keys in found.values() for key in keys})
    print(f"\n{len(KEYS)} keys, {sum(place.codes.values())} commands {dict(place.codes)}, {len(place.files())} files, "
          f"{searched:,} characters searched; {total} keys found in {len(found)} places")  # fmt: skip
    assert found == {}


def test_a_refused_url_leaves_nothing_behind(place):
    """Also in a dry run a URL with credentials is an error of the config, and not a file is written."""
    assert set(place.refused) == {2}
    assert place.left_by_refused == 0


def test_what_is_no_secret_is_still_told(place):
    """The flags and rows stand there: the batch size, the masked flag's name, every request."""
    manifests = [json.loads(path.read_text()) for path in place.folder.glob("results/own/*/manifest.json")]
    assert manifests
    assert {m["target"]["flags"]["max_num_batched_tokens"] for m in manifests} == {8192}
    assert {m["target"]["flags"]["service-0-token"] for m in manifests} == {"***"}
    counts = [
        json.loads(path.read_text())["row_counts"] for path in place.folder.glob("results/hosted/*/manifest.json")
    ]
    assert [count["requests"] for count in counts] == [110, 110, 110]
    logs = list(place.folder.glob("results/own/*/server.log"))
    assert logs
    assert all("cannot start" in path.read_text() for path in logs)
