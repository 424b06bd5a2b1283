"""Results in a bucket of a real S3 server over HTTP: put whole, read back once, finished after a kill, refused before a byte is sent."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from harness import pipeline
from harness.base.errors import ConfigError, StoreError
from harness.cli import run as run_words
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign import file, lock
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop
from harness.pipeline import upload_results
from harness.store import history
from harness.store.elsewhere import fetched, open_mirror
from harness.store.upload import Upload
from tests import commands
from tests.bench.history_nights import summary
from tests.elsewhere.s3_server import KEYS
from tests.fakes.golden_server import GoldenServer
from tests.waiting import until

pytestmark = pytest.mark.timing


def config(url: str, requests: int = 4) -> dict:
    """Two cells of four requests."""
    return {
        "experiment": "e", "targets": [{"name": "own", "kind": "adopt", "url": url, "model": "golden"}], "workloads": ["fixed:16x4"],
        "loads": [{"concurrency": [1, 2], "requests": requests}], "repetitions": 1, "warmup_requests": 0,
        "observe": {"gpu": "off"}, "min_free_gib": 0,
    }  # fmt: skip


@pytest.fixture
def words(tmp_path, golden):
    """An experiment's file."""
    path = tmp_path / "e.yaml"
    path.write_text(json.dumps(config(golden.url)))  # JSON is YAML
    return str(path)


class Display:
    """Keeps what is said; `at` is called with the number of each cell that begins."""

    def __init__(self, at=lambda number: None) -> None:
        self.said: list[str] = []
        self._at = at

    def phase(self, name: str) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)

    def cell(self, index: int, total: int, name: str) -> None:
        self._at(index)

    def progress(self, progress) -> None: ...


def campaign(experiment: dict, url: str, display: Display):
    """As `harness run --results URL`; the upload it went by."""
    spec, here = ExperimentSpec.model_validate(experiment), open_mirror(url).here
    with Upload(url, here, display.say) as upload:
        out = here / spec.experiment
        pipeline.run_campaign(spec, out, display, Stop(), Intent(), history=url, upload=upload)
    return upload


def keys(s3, bucket: str) -> list[str]:
    return [name.partition("/")[2] for name in s3.fs.find(bucket)]


def manifests(s3, bucket: str) -> list[str]:
    return [name for name in keys(s3, bucket) if name.endswith("/manifest.json")]


def other_machine(tmp_path, monkeypatch, name: str = "other") -> None:
    """From now on nothing was fetched before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


def test_a_campaign_goes_there_and_is_read_from_there(s3, bucket, words, tmp_path, monkeypatch):
    """Runs, campaign, report and history are in the bucket; another machine reads each file once; no key is anywhere."""
    url = f"s3://{bucket}/nightly"
    done = commands.harness("run", words, "--results", url, "--json")
    assert done.returncode == 0, done.stderr
    assert "results go to s3://" in done.stderr
    there = keys(s3, bucket)
    run_ids = sorted({name.split("/")[2] for name in manifests(s3, bucket)})
    assert [name.partition("_")[2] for name in run_ids] == ["own_fixed-16x4_c1_rep1", "own_fixed-16x4_c2_rep1"]
    campaign_id = run_ids[0].partition("_")[0]
    assert {f"nightly/e/campaigns/{campaign_id}.json", f"nightly/e/derived/{campaign_id}/report.html"} <= set(there)
    assert not [name for name in there if name.endswith((".lock", ".tmp", ".etags")) or "probe" in name]

    other_machine(tmp_path, monkeypatch)
    before = s3.asked()
    report = commands.harness("report", f"{url}/e", "--json")
    assert report.returncode == 0, report.stderr
    fetched_once = s3.asked() - before
    assert fetched_once["GET"] == sum(name.startswith("nightly/e/2") for name in there)  # every file of the runs, once
    mine, theirs = json.loads(done.stdout), json.loads(report.stdout)
    for side in (mine, theirs):
        side.pop("files")
    assert theirs == mine

    before = s3.asked()
    compared = commands.harness("compare", f"{url}/e", f"{url}/e@{campaign_id}", "--json")
    assert (compared.returncode, json.loads(compared.stdout)["base"]["campaign_id"]) == (0, campaign_id)
    cost = commands.harness("cost", f"{url}/e/{run_ids[0]}", "--json", "--usd-per-hour", "1")
    assert cost.returncode == 0, cost.stderr
    assert (s3.asked() - before)["GET"] == 0
    query = ("history", "sql", "--results", url, "--json", "SELECT count(*) AS n FROM runs")
    assert json.loads(commands.harness(*query).stdout) == [{"n": 2}]

    texts = [
        done.stdout,
        done.stderr,
        report.stderr,
        *(s3.fs.cat_file(f"{bucket}/{name}").decode("latin-1") for name in there),
    ]
    texts += [path.read_text("latin-1") for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [text for text in texts for key in KEYS.values() if key in text]


def test_a_bucket_that_cannot_be_written_is_found_before_anything_is_sent(s3, bucket, tmp_path):
    """Read-only, missing: exit code 5, three lines, and the server saw not one connection."""
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as unasked:
        path = tmp_path / "e.yaml"
        path.write_text(json.dumps(config(unasked.url)))
        s3.deny(bucket, "s3:PutObject")
        for url, why in ((f"s3://{bucket}/nightly", "s3:PutObject"), ("s3://no-such-bucket-here/x", "makes no bucket")):
            done = commands.harness("run", str(path), "--results", url, "--json")
            assert (done.returncode, done.stdout) == (5, "")
            assert why in done.stderr
            assert "Traceback" not in done.stderr
        assert unasked.connections == 0
    assert "no-such-bucket-here" not in [name.strip("/") for name in s3.fs.ls("")]


def test_what_is_refused_in_the_middle_is_kept_and_finished_later(s3, bucket, golden):
    """The second run cannot be put: said, kept, the campaign goes on to its end; `upload_results` finishes, and then finds nothing to do."""
    url = f"s3://{bucket}/nightly"
    display = Display(lambda number: s3.deny(bucket, "s3:PutObject") if number == 2 else None)
    upload = campaign(config(golden.url), url, display)
    assert [path.name.partition("_")[2] for path in upload.pending if path.is_dir()] == ["own_fixed-16x4_c2_rep1"]
    assert any("not uploaded, kept in" in text and "harness upload" in text for text in display.said)
    assert len(manifests(s3, bucket)) == 1
    s3.deny(bucket)
    first = upload_results(open_mirror(url).here, url, display.say)
    assert ([name.partition("_")[2] for name in first.runs], first.known, first.left) == (
        ["own_fixed-16x4_c2_rep1"],
        1,
        (),
    )
    assert first.indexed == 2  # the history was refused too
    before = len(s3.requests())
    again = upload_results(open_mirror(url).here, url, display.say)
    assert (again.runs, again.known, again.indexed, again.bytes) == ((), 2, 0, 0)
    assert [path for method, path in s3.requests()[before:] if method == "PUT" and ".parquet" in path] == []
    assert len(manifests(s3, bucket)) == 2


def test_a_campaign_that_is_run_here_now_is_left_to_its_run(s3, bucket, golden):
    """Its lock in the bucket is not let go under it, and nothing of it is put by another process."""
    url = f"s3://{bucket}/nightly"
    here, spec = open_mirror(url).here, ExperimentSpec.model_validate(config(golden.url))
    pipeline.run_campaign(spec, here / "e", Display(), Stop())
    (path,) = (here / "e" / "campaigns").glob("*.json")
    with lock.hold_file(file.lock_path(here / "e", path.stem), path.stem):
        done = upload_results(here, url, print)
    assert (done.runs, [name for name, _ in done.left]) == ((), [f"e/{path.stem}"])
    assert "in use" in done.left[0][1]
    assert not keys(s3, bucket)
    assert len(upload_results(here, url, print).runs) == 2


class FirstCellOnly(GoldenServer):
    """Answers four requests, and no other in a minute."""

    @property
    def ttft_s(self) -> float:
        return 0.002 if self.finished < 4 else 60.0

    @ttft_s.setter
    def ttft_s(self, value: float) -> None: ...


@pytest.fixture
def first_cell_only():
    with FirstCellOnly() as server:
        yield server


def test_a_killed_campaign_is_uploaded_and_resumed(s3, bucket, first_cell_only, tmp_path, monkeypatch):
    """kill -9 in the second cell: what had ended is there, the broken-off run is not; nobody else may go on, until the lock goes; elsewhere
    it is resumed from the bucket, and its first run is not measured again."""
    url, path = f"s3://{bucket}/nightly", tmp_path / "e.yaml"
    path.write_text(json.dumps(config(first_cell_only.url)))
    words = [sys.executable, "-m", "harness", "run", str(path), "--results", url]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    here = open_mirror(url).here
    until(lambda: first_cell_only.finished == 4 and first_cell_only.in_flight)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (campaign_id,) = {name.split("/")[2].partition("_")[0] for name in manifests(s3, bucket)}
    done = commands.harness("upload", str(here), url, "--json")
    assert (done.returncode, json.loads(done.stdout)["known"]) == (5, 1)
    assert "broken off" in done.stderr
    assert len(manifests(s3, bucket)) == 1

    s3.fs.pipe_file(f"{bucket}/nightly/e/campaigns/{campaign_id}.lock", b'{"holder": "x", "since_utc": "then"}')
    other_machine(tmp_path, monkeypatch)
    refused = commands.harness("run", str(path), "--results", url, "--resume")
    assert refused.returncode == 5, refused.stderr
    assert f"campaigns/{campaign_id}.lock" in refused.stderr
    s3.fs.rm_file(f"{bucket}/nightly/e/campaigns/{campaign_id}.lock")
    stored = s3.fs.info(f"{bucket}/{manifests(s3, bucket)[0]}")["ETag"]
    stopped = commands.harness("run", str(path), "--results", url, "--resume", "--dry-run", "--json")
    (left,) = {"own_fixed-16x4_c1_rep1", "own_fixed-16x4_c2_rep1"} - {
        manifests(s3, bucket)[0].split("/")[2].partition("_")[2]
    }
    assert [cell["name"] for cell in json.loads(stopped.stdout)["cells"]] == [left]
    assert s3.fs.info(f"{bucket}/{manifests(s3, bucket)[0]}")["ETag"] == stored


def test_two_campaigns_of_one_second_get_two_ids(s3, bucket, golden, tmp_path, monkeypatch):
    """Two machines begin in the same second under one prefix: the later one takes another id; a run of the same name is never replaced."""
    monkeypatch.setattr(file.clock, "utc_stamp", lambda: "20260101T020000Z")
    spec = ExperimentSpec.model_validate(config(golden.url))
    url, ids = f"s3://{bucket}/nightly", []
    uploads = [Upload(url, tmp_path / machine, print) for machine in "ab"]
    for upload in uploads:
        upload.probe()
        assert upload.exclusive
        made = file.create(upload.here / "e", spec, (), ("x",), upload.take)
        ids.append(made.campaign_id)
    assert ids == ["20260101T020000Z", "20260101T020000Z-2"]
    assert {name for name in keys(s3, bucket) if name.endswith(".json")} == {
        f"nightly/e/campaigns/{i}.json" for i in ids
    }

    # both were measured without the bucket, under one id, and are uploaded afterwards
    stranger = Upload(url, tmp_path / "c", print)
    mine = file.create(stranger.here / "e", spec, (), ("x",))
    assert mine.campaign_id == ids[0]
    path = file.path_of(stranger.here / "e", ids[0])
    assert stranger.refused(path) == "another campaign has this id there"
    for upload in uploads:
        upload.release()
    assert not [name for name in keys(s3, bucket) if name.endswith(".lock")]


def test_a_run_whose_files_are_on_their_way_is_not_there(s3, bucket, golden, tmp_path, monkeypatch):
    """Without its manifest a run is in no report and no query, whatever else of it is there."""
    url = f"s3://{bucket}/nightly"
    campaign(config(golden.url), url, Display())
    gone = next(name for name in manifests(s3, bucket) if "_c2_" in name)
    s3.fs.rm_file(f"{bucket}/{gone}")
    other_machine(tmp_path, monkeypatch)
    assert [path.name.partition("_")[2] for path in fetched(f"{url}/e").iterdir()] == ["own_fixed-16x4_c1_rep1"]
    assert history.sql(url, "SELECT count(*) FROM requests").rows == ((4,),)


def test_a_history_file_that_cannot_be_read_is_named(s3, bucket):
    """By its URL, not by that of the copy."""
    url = f"s3://{bucket}/nightly"
    history.index_campaign(url, [summary(0, tps=1.0)])
    s3.fs.pipe_file(f"{bucket}/nightly/history/month=2026-01/bad.parquet", b"not parquet at all")
    with pytest.raises(StoreError, match=f"{url}/history/month=2026-01/bad.parquet"):
        history.nights(url, ["output_tps"])


def test_the_views_of_the_page_answer_as_the_command_does(s3, bucket, golden):
    """DuckDB's, as results/README.md has them, over the files of a campaign."""
    url = f"s3://{bucket}/nightly"
    campaign(config(golden.url), url, Display())
    history.index_campaign(url, [summary(0, tps=1.0)])
    page = (commands.ROOT / "results" / "README.md").read_text()
    views = page.partition("```sql duckdb\n")[2].partition("```")[0].replace("BUCKET", bucket)
    with duckdb.connect() as con:
        con.register_filesystem(s3.fs)
        con.execute(views)
        for text in (
            "SELECT count(*), count(DISTINCT run_id), max(output_tps) FROM runs",
            "SELECT experiment, run_id, count(*) FROM requests GROUP BY ALL ORDER BY ALL",
        ):
            assert con.execute(text).fetchall() == list(history.sql(url, text).rows)
        assert con.execute("SELECT DISTINCT month FROM runs WHERE experiment = 'e' ORDER BY 1").fetchall()[0] == (
            "2026-01",
        )


def test_of_the_history_only_what_is_new_is_fetched(s3, bucket):
    """A listing each time; a file once."""
    url = f"s3://{bucket}/nightly"
    for night in range(3):
        history.index_campaign(url, [summary(night, tps=1.0)])
    asked = []
    for night in (3, 4):
        before = s3.asked()
        assert len(history.nights(url, ["output_tps"])) == night
        asked.append(dict(s3.asked() - before))
        history.index_campaign(url, [summary(night, tps=1.0)])
    assert asked == [{"LIST": 1, "GET": 3}, {"LIST": 1, "GET": 1}]


@pytest.mark.parametrize("ask", [lambda url: history.nights(url, ["output_tps"]), fetched], ids=["history", "report"])
def test_to_read_from_a_bucket_that_is_not_there_is_an_error(s3, ask):
    """And not an empty history; a prefix under which nothing is, is one."""
    with pytest.raises(StoreError, match="bucket does not exist"):
        ask("s3://no-such-bucket-here/x")


class _Expired(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # which answers a client that asks whether to go on with its body

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
        self.send_response(400)
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def expired():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Expired) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "check AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "expired"}, "the credentials have expired: renew them"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "give credentials"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(s3, expired, tmp_path, monkeypatch, change, advice):
    """A wrong endpoint, credentials that have expired, none at all."""
    for name, value in {**change, "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, expired if value == "expired" else value)
    with pytest.raises(StoreError, match=advice) as caught:
        Upload("s3://bucket-of-nobody/x", tmp_path, print).probe()
    assert not [key for key in KEYS.values() if key in str(caught.value)]


def test_a_url_is_not_taken_for_a_directory():
    """--out is of this machine; a place to upload to is a URL."""
    with pytest.raises(ConfigError, match="--results"):
        run_words._places("results", Path("s3://bucket/x"))
    with pytest.raises(ConfigError, match="leave --out out"):
        run_words._places("s3://bucket/x", Path("out"))
    done = commands.harness("upload", "results", "some/directory")
    assert (done.returncode, "that is no URL" in done.stderr) == (2, True)
