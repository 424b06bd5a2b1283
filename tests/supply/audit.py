"""Known vulnerabilities of every version in configs/constraints, by pip-audit: `make audit`.

pip-audit calls a package that its feed does not know "skipped", and ends with 0 where all are. So a version that is known to be
vulnerable is asked for first: a feed that does not know that one is no feed, and this says NOT AUDITED.
Exit codes: 0 nothing is known, 1 vulnerabilities are, 3 not audited, or not all of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.supply.locks import CONSTRAINTS, pins

FEEDS = ("pypi", "osv")
KNOWN = "PyYAML==5.3"  # CVE-2020-14343, of 2020
PIP_AUDIT = (sys.executable, "-m", "pip_audit")


class FeedError(Exception):
    """A feed that does not answer, in one line."""


def ask(lines: list[str], feed: str, command: tuple[str, ...] = PIP_AUDIT) -> list[dict]:
    """What pip-audit finds of pins, a dict a package. Raises FeedError with its last line where it found nothing out."""
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "pins.txt", Path(folder) / "told.json"
        # Without markers, for every platform, and without the build's name (+cpu), which no feed knows.
        asked.write_text("".join(f"{line.partition(';')[0].partition('+')[0].strip()}\n" for line in lines))
        words = ["--requirement", str(asked), "--no-deps", "--disable-pip", "--vulnerability-service", feed]
        words += ["--progress-spinner", "off", "--format", "json", "--output", str(told)]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        try:
            return json.loads(told.read_text())["dependencies"]
        except (OSError, ValueError, KeyError):
            raise FeedError((done.stderr.strip().splitlines() or ["no output"])[-1][:300]) from None


def open_feed(command: tuple[str, ...] = PIP_AUDIT) -> str:
    """The first feed that knows a known vulnerability. Raises FeedError with a line for each that does not."""
    refusals = []
    for feed in FEEDS:
        try:
            if any(found.get("vulns") for found in ask([KNOWN], feed, command)):
                return feed
            refusals.append(f"{feed}: knows nothing of {KNOWN}, which is vulnerable")
        except FeedError as error:
            refusals.append(f"{feed}: {error}")
    raise FeedError("\n".join(refusals))


def main(command: tuple[str, ...] = PIP_AUDIT) -> int:
    """Ask of all lists and print what is known. See the module's docstring for the exit codes."""
    known, skipped = 0, 0
    try:
        feed = open_feed(command)
        for path in sorted(CONSTRAINTS.glob("*.txt")):
            for found in ask(pins(path.read_text(encoding="utf-8")), feed, command):
                if "skip_reason" in found:
                    skipped += 1
                    print(f"{path.name}: {found['name']} was not audited: {found['skip_reason']}")
                for vulnerability in found.get("vulns", ()):
                    known += 1
                    fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
                    print(f"{path.name}: {found['name']} {found['version']}: {vulnerability['id']}, fixed in {fixed}")
    except FeedError as error:
        print(f"NOT AUDITED: no feed of known vulnerabilities answers\n{error}\nrun it where one can be reached")
        return 3
    print(f"{known} known vulnerabilities by {feed}; {skipped} packages were not audited")
    return 1 if known else 3 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
