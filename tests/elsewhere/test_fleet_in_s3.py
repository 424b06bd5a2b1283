"""A campaign over boxes whose results go to a bucket: each run as it comes back; what is refused stays here; nobody else writes it meanwhile."""

from __future__ import annotations

import functools
import shutil

import pytest

from harness import pipeline
from harness.pipeline import upload_results
from harness.store.elsewhere import open_mirror
from harness.store.upload import Upload
from tests.campaign.fleet_values import LocalBoxes
from tests.elsewhere.test_results_in_s3 import Display, campaign, config, keys, manifests
from tests.waiting import until

pytestmark = pytest.mark.timing


class AtThird(Display):
    """`then` is called before the third cell begins."""

    def __init__(self, then) -> None:
        super().__init__()
        self._then = then

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith("x: cell 3/3"):
            self._then()


def test_runs_go_there_as_they_come_back_and_what_is_refused_is_finished_later(s3, bucket, golden, tmp_path, monkeypatch):  # fmt: skip
    """The first two are in the bucket before the third begins, and the campaign is nobody else's; then writing is denied: the third is kept and
    said, the campaign ends, and `harness upload` finishes, every cell once."""
    url = f"s3://{bucket}/nightly"
    here = open_mirror(url).here
    seen: list[str | None] = []

    def refuse() -> None:
        until(lambda: len(manifests(s3, bucket)) == 2, "the first two runs to be there")
        (path,) = (here / "e" / "campaigns").glob("*.json")
        (theirs := tmp_path / "theirs" / "e" / "campaigns").mkdir(parents=True)
        shutil.copy(path, theirs)
        seen.append(Upload(url, tmp_path / "theirs", print).refused(theirs / path.name))
        s3.deny(bucket, "s3:PutObject")

    boxes = LocalBoxes(tmp_path / "boxes", {"x": {}})
    monkeypatch.setattr(pipeline, "measure_fleet", functools.partial(pipeline.measure_fleet, find=boxes))
    made = config(golden.url) | {"fleet": {"wait_s": 0}, "loads": [{"concurrency": [1, 2, 3], "requests": 4}]}  # fmt: skip
    display = AtThird(refuse)
    upload = campaign(made, url, display)
    assert len(seen) == 1
    assert seen[0] is not None
    assert "another machine or folder writes this campaign" in seen[0]
    (last,) = (text.rpartition(" ")[2] for text in display.said if text.startswith("x: cell 3/3"))
    assert [path.name.partition("_")[2] for path in upload.pending if path.is_dir()] == [last]
    assert any("not uploaded, kept in" in text for text in display.said)
    s3.deny(bucket)
    done = upload_results(here, url, display.say)
    assert ([name.partition("_")[2] for name in done.runs], done.known, done.left) == ([last], 2, ())  # fmt: skip
    assert len(manifests(s3, bucket)) == 3
    assert done.indexed == 3
    assert not [name for name in keys(s3, bucket) if name.endswith(".lock")]
