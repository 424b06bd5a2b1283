"""The C files under sanitizers: reader_fuzz.c and golden_fuzz.c, with libFuzzer where clang has it, else with inputs.c.

`python -m tests.fuzz.c_files reader [-max_total_time=600 | FILE]` runs one program by hand with libFuzzer's words; a FILE is
one input, such as a finding's (base64 -d).
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.base.errors import ConfigError
from harness.measure.drive import cc, reader
from harness.measure.drive.golden import server
from tests.fuzz.checking import Came

HERE = Path(__file__).parent
SOURCES = {"reader": reader.SOURCE, "golden": server.SOURCE}
SMALL = {  # tables and batches that overflow in every input, where the true ones do in one of thousands
    "MAX_EVENTS = 512, MAX_ASKED = 16,": "MAX_EVENTS = 4, MAX_ASKED = 3,",
    "RECV_BYTES = 65536": "RECV_BYTES = 512",
    "KEEP_BYTES = 1 << 18, KEEP_READS = 1 << 14": "KEEP_BYTES = 1 << 12, KEEP_READS = 1 << 6",
    "2 * fd + 1024": "2 * fd + 4",
    "2 * r->ended_room : 1024": "2 * r->ended_room : 2",
    "2 * s->reads_room : 64": "2 * s->reads_room : 2",
    "2 * s->bytes_room : 4096": "2 * s->bytes_room : 16",
}
PROGRAMS: dict[str, tuple[str, Mapping[str, str]]] = {
    "reader": ("reader", {}),
    "small-reader": ("reader", SMALL),
    "golden": ("golden", {}),
}
SANITIZED = ["-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CLANGS = ["clang", *(f"clang-{version}" for version in range(30, 10, -1))]
BATCH_S = 10
MAX_BYTES = 512  # of an input
STUCK_S = 600
_SAID = re.compile(r"VIOLATED .*|ERROR: AddressSanitizer: \S+|runtime error: .*|TIMEOUT: .*|ERROR: libFuzzer: .*")
_PLACE = re.compile(rf"\b(?:{'|'.join(PROGRAMS)})\.c:\d+")


class NotHereError(Exception):
    """No compiler here makes sanitized programs; the text says why."""


def edited(text: str, edits: Mapping[str, str]) -> str:
    """Raises ValueError for what does not stand there once."""
    for old, new in edits.items():
        if text.count(old) != 1:
            raise ValueError(f"stands {text.count(old)} times: {old}")
        text = text.replace(old, new)
    return text


def _compiled(words: Sequence[str]) -> str:
    """What the compiler said against it; empty: nothing."""
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    return (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[0] if ran.returncode else ""


def libfuzzer(folder: Path) -> str | None:
    """A clang that links libFuzzer and the sanitizers."""
    probe = folder / "probe.c"
    probe.write_text("int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return !data && size; }\n")
    for name in CLANGS:
        words = [name, *SANITIZED, "-fsanitize=fuzzer", str(probe), "-o", str(folder / "probe")]
        if shutil.which(name) and not _compiled(words):
            return name
    return None


def corpus(harness: str) -> list[bytes]:
    """The inputs that stand in corpus/HARNESS.txt."""
    lines = (HERE / "corpus" / f"{harness}.txt").read_text().splitlines()
    return [bytes.fromhex(data) for line in lines if (data := line.partition("#")[0].strip())]


def build(name: str, folder: Path, clang: str | None = None, edits: Mapping[str, str] | None = None) -> Path:
    """One of PROGRAMS, its source edited once more, and beside it a folder `NAME-kept` with the corpus. Without a clang, our
    own inputs. Raises NotHereError."""
    harness, own = PROGRAMS[name]
    source, program = folder / f"{name}.c", folder / name
    kept = folder / f"{name}-kept"
    kept.mkdir()
    for number, data in enumerate(corpus(harness)):
        (kept / f"corpus-{number:03}").write_bytes(data)
    source.write_text(edited(edited(SOURCES[harness].read_text(), own), edits or {}))
    whole = [f'-DSOURCE="{source}"', str(HERE / f"{harness}_fuzz.c"), "-o", str(program)]
    try:
        if clang:
            steps = [[clang, *SANITIZED, "-fsanitize=fuzzer", *whole]]
        else:
            inputs, probe = str(folder / "inputs.o"), folder / "plain.c"
            probe.write_text("int main(void) { return 0; }\n")
            if why := _compiled([cc.compiler(), *SANITIZED, str(probe), "-o", str(folder / "plain")]):
                raise NotHereError(f"{cc.compiler()} does not link sanitizers: {why}")
            steps = [
                [cc.compiler(), "-O2", "-g", "-c", str(HERE / "inputs.c"), "-o", inputs],
                [cc.compiler(), *SANITIZED, "-fsanitize-coverage=trace-pc", inputs, *whole],
            ]
    except ConfigError as error:
        raise NotHereError(error.what) from None
    for step in steps:
        if why := _compiled(step):
            raise AssertionError(f"{' '.join(step)}: {why}")
    return program


def run(program: Path, *words: str, seed: int = 1) -> tuple[int, Came | None, str]:
    """How many inputs ran, what was found, and the input that found it in base64. `words`: limits, as libFuzzer has them."""
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        fixed = [f"-max_len={MAX_BYTES}", "-timeout=60", "-detect_leaks=0", "-print_final_stats=1", f"-artifact_prefix={folder}/"]  # fmt: skip
        command = [str(program), f"-seed={seed}", *fixed, *words, f"{program}-kept"]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=STUCK_S, check=False
            )
        except subprocess.TimeoutExpired:
            return 0, Came("hang", 1, f"{program.name} seed {seed}: no end after {STUCK_S} s"), ""
        crashes = [base64.b64encode(path.read_bytes()).decode() for path in Path(folder).iterdir()]
    count = re.search(r"number_of_executed_units:\s*(\d+)", ran.stderr)
    inputs = int(count[1]) if count else 0
    if ran.returncode == 0:
        return inputs, None, ""
    said, place = _SAID.search(ran.stderr), _PLACE.search(ran.stderr)
    text = re.sub(r"0x\w+", "..", said[0]) if said else f"exit status {ran.returncode}: {ran.stderr[-300:]}"
    return inputs, Came("C fault", 1, text, place[0] if place else program.name), "".join(crashes[:1])


def build_all(folder: Path) -> str:
    """All programs in `folder`, ready for `batch`; why they cannot be, or nothing."""
    folder.mkdir()
    try:
        clang = libfuzzer(folder)
        for name in PROGRAMS:
            build(name, folder, clang)
    except NotHereError as error:
        return str(error)
    return ""


def batch(folder: Path, seed: int) -> Iterator[tuple[str, str, Came]]:
    """Some seconds of one program, each in its turn: (input, program, what came of it)."""
    name = [*PROGRAMS][seed % len(PROGRAMS)]
    inputs, came, data = run(folder / name, f"-max_total_time={BATCH_S}", seed=seed)
    fine = ("", name, Came(None, 0, ""))
    for _ in range(inputs - (came is not None)):
        yield fine
    if came:
        yield data, name, came


def main() -> int:
    name, *words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        program = build(name, Path(folder), libfuzzer(Path(folder)))
        inputs = [] if any(not word.startswith("-") for word in words) else [f"{program}-kept"]
        return subprocess.run([str(program), f"-max_len={MAX_BYTES}", *words, *inputs], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
