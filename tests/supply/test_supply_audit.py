"""`make audit` never says that nothing is known where nothing was asked."""

from __future__ import annotations

import sys

import pytest

from tests.supply import audit

# Stands in for pip-audit: knows the vulnerabilities that its words after --knows name, skips what its words after --skips name.
STAND_IN = """
import json, sys
words = sys.argv[1:]
mode = words.pop(0)
feed = words[words.index("--vulnerability-service") + 1]
if mode == "no network" or (mode == "only osv" and feed == "pypi"):
    sys.exit("Failed to resolve the feed's host")
told = []
for line in open(words[words.index("--requirement") + 1]):
    name, _, version = line.strip().partition("==")
    if mode == "knows nobody" or (mode == "skips one" and name == "torch"):
        told.append({"name": name, "skip_reason": "Dependency not found"})
        continue
    bad = mode != "empty" and (line.strip() == "PyYAML==5.3" or (mode == "knows one" and name == "torch"))
    vulns = [{"id": "PYSEC-1", "fix_versions": ["9"]}] if bad else []
    told.append({"name": name, "version": version, "vulns": vulns})
open(words[words.index("--output") + 1], "w").write(json.dumps({"dependencies": told}))
"""


@pytest.fixture
def audited(tmp_path, monkeypatch, capsys):
    """Audits a list of two packages against a stand-in of the given kind; returns exit code and output."""
    (tmp_path / "small.txt").write_text("# head\njinja2==3.1.6\ntorch==2.0+cpu ; python_version >= '3.12'\n")
    monkeypatch.setattr(audit, "CONSTRAINTS", tmp_path)

    def run(mode: str) -> tuple[int, str]:
        code = audit.main((sys.executable, "-c", STAND_IN, mode))
        return code, capsys.readouterr().out

    return run


@pytest.mark.parametrize("mode", ["no network", "knows nobody", "empty"])
def test_without_a_feed_nothing_is_called_clean(audited, mode):
    """No network, a feed that knows no package (pip-audit ends with 0 then), one without vulnerabilities: NOT AUDITED, exit code 3."""
    code, text = audited(mode)
    assert code == 3
    assert text.startswith("NOT AUDITED")
    assert "known vulnerabilities by" not in text


def test_a_vulnerability_is_named_with_its_list_and_the_version_that_mends_it(audited):
    """Exit code 1; a marker and a build's name do not keep a package from being asked about."""
    code, text = audited("knows one")
    assert code == 1
    assert "small.txt: torch 2.0: PYSEC-1, fixed in 9" in text


def test_where_nothing_is_known_the_feed_is_named(audited):
    """The second feed serves where the first does not; exit code 0."""
    assert audited("only osv") == (0, "0 known vulnerabilities by osv; 0 packages were not audited\n")


def test_a_package_that_was_not_audited_is_named_and_is_no_success(audited):
    """One package that the feed does not know: named, exit code 3."""
    code, text = audited("skips one")
    assert code == 3
    assert "torch was not audited" in text
