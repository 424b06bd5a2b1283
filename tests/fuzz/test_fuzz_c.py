"""The C files under sanitizers, by this machine's own compiler and our own inputs; clang and libFuzzer are for `make fuzz`."""

from __future__ import annotations

import base64

import pytest

from tests.fuzz import c_files

INPUTS = 1000
PLANTED = {  # program, what stands in its source, what stood there or could have
    "a long read does not fit": ("reader", "while (room < s->bytes + (int64_t)n) room *= 2;", ";"),
    "an end and a close of one stream come together": ("reader", "if (is_asked(r, k, e.fd)) break;", ""),
    "an end is told of a stream that was given up": ("reader", "!s || s->serial != e.serial", "!s"),
    "a stream is read after its close": ("reader", "!s->handed && (what = take(r, s, fd))", "(what = take(r, s, fd))"),
    "bytes are held for ever": ("reader", "r->held -= s->bytes + READ_BYTES * s->reads;", ""),
    "stamps are kept for ever": ("small-reader", " || s->reads_room > KEEP_READS", ""),
    "a descriptor is told twice": ("small-reader", " || is_asked(r, k, fd)", ""),
    "the ring grows from the wrong end": ("small-reader", "        r->first = 0;\n", ""),
    "no tokens": ("golden", "n < 1 || n > MAX_TOKENS", "n > MAX_TOKENS"),
    "tokens in the log that were never sent": ("golden", "    if (p->now) p->now->n = p->done;\n", ""),
    "a request behind another waits": ("golden", "forget(p, whole);\n    }\n", "forget(p, whole);\n        return;\n    }\n"),
    "a deadline out of order": ("golden", "if (moved != p) sift(moved, at);", "if (moved != p) place(moved, at);"),
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds a program, its source edited, or skips."""

    def build(name, edits=None):
        try:
            return c_files.build(name, tmp_path_factory.mktemp("c"), edits=edits)
        except c_files.NotHereError as error:
            pytest.skip(str(error))

    return build


@pytest.mark.parametrize("name", c_files.PROGRAMS)
def test_the_corpus_and_what_grows_out_of_it(built, name):
    """No sanitizer complains, and everything that was sent is read, reported and logged as it should be."""
    inputs, came, data = c_files.run(built(name), f"-runs={INPUTS}")
    assert came is None, (came, data)
    assert inputs == INPUTS


@pytest.mark.parametrize("what", PLANTED)
def test_a_fault_is_found(built, what):
    """Each of these faults, by an input that finds it again alone."""
    name, old, new = PLANTED[what]
    program = built(name, {old: new})
    _, came, data = c_files.run(program, f"-runs={INPUTS}")
    assert came is not None
    assert came.finding == "C fault"
    for path in program.with_name(f"{name}-kept").iterdir():
        path.unlink()
    (program.with_name(f"{name}-kept") / "found").write_bytes(base64.b64decode(data))
    inputs, again, _ = c_files.run(program, "-runs=2")
    assert (inputs, again) == (1, came)


def test_an_edit_that_fits_nothing_is_refused():
    """Or a planted fault, or the small tables, would be none without anyone noticing."""
    with pytest.raises(ValueError, match="stands 0 times"):
        c_files.edited("int a;", {"int b;": ""})


def test_without_sanitizers_the_reason_is_said(tmp_path, monkeypatch):
    """No compiler, and one that cannot link them."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert c_files.build_all(tmp_path / "none") == "no C compiler"
    script = tmp_path / "cc"
    script.write_text("#!/bin/sh\necho cannot find -lasan >&2\nexit 1\n")
    script.chmod(0o700)
    assert c_files.build_all(tmp_path / "bare").endswith("does not link sanitizers: cannot find -lasan")
