"""A hundred keys in files, behind commands, in variables and in every header; a failure in every stage; not one of them in what was written,
said, shown by `ps`, handed to a child, or left by a crash."""

from __future__ import annotations

import base64
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from echo_server import echoing
from keys import found_in, make_keys, texts_of
from place import Place

from harness.measure.drive import processes
from tests.fakes.fake_api import Api, serving
from tests.waiting import until

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
KEYS = make_keys(100, seed=20261126)
FILES, COMMANDS, VARIABLES = KEYS[:35], KEYS[35:60], KEYS[60:]
WAYS = 2 if "HARNESS_LONG" in os.environ else 1  # each stage with the traceback and without, or in turn
AUTHS, APIS = ("bearer", "x-api-key", "api-key"), ("messages", "responses", "chat", "completions")
EARLY = (  # before a key is read that no variable holds
    "harness.measure.campaign.campaign.forecast",
    "harness.measure.campaign.server.open_target",
    "harness.pipeline.draw_plan",
    "harness.measure.inquiry.asking.read_key",
)
STAGES = {  # where a failure is put -> the command's words; CONFIG and URL are put in
    "harness.measure.campaign.campaign.forecast": "run CONFIG",
    "harness.measure.campaign.server.open_target": "run CONFIG",
    "harness.measure.targets.hosted.vocabulary": "run CONFIG",
    "harness.measure.targets.identity.get": "run CONFIG",
    "harness.pipeline.draw_plan": "run CONFIG",
    "harness.measure.provenance.manifest_of": "run CONFIG",
    "harness.measure.cell.Observers": "run CONFIG",
    "harness.measure.phases.warm_up": "run CONFIG",
    "harness.measure.phases.prompts": "run CONFIG",
    "harness.measure.phases.drive": "run CONFIG",
    "harness.measure.drive.processes.request_head": "run CONFIG",
    "harness.measure.drive.driver.start_workers": "run CONFIG",
    "harness.measure.drive.collect.Collector.collect": "run CONFIG",
    "harness.store.writer.RunWriter.add": "run CONFIG",
    "harness.store.writer.RunWriter.finish": "run CONFIG",
    "harness.pipeline.analyse": "run CONFIG",
    "harness.pipeline.price_runs": "run CONFIG",
    "harness.pipeline.write_report": "run CONFIG",
    "harness.pipeline.index_campaign": "run CONFIG",
    "harness.measure.inquiry.asking.read_key": "probe URL",
    "harness.measure.inquiry.asking.identity.served_by": "probe URL",
    "harness.measure.inquiry.asking.request": "probe URL",
    "harness.measure.inquiry.asking.seen_of": "probe URL",
    "harness.measure.inquiry.findings.Findings.rows": "probe URL",
    "harness.measure.inquiry.findings.Findings.preset": "probe URL",
    "harness.cli.probe.dump_yaml": "probe URL",
    "harness.judge.runs.analyse": "analyse results/keys0",
    "harness.pipeline.results_of": "report results/keys0 --allow-invalid",
    "harness.report.run.tables.render": "report results/keys0 --allow-invalid",
    "harness.price.run_cost.price_runs": "cost results/keys0 --allow-invalid",
    "harness.judge.compare.sides.load_side": "compare results/keys0 results/keys4",
    "harness.judge.runs.index_runs": "history index results",
    "harness.measure.recover.runs_left": "recover results/keys0",
    "harness.measure.plan.drawing.draw": "workloads sample chat",
    "harness.price.prices.catalogue": "prices gpt",
    "harness.measure.observe.doctor.machine.examine": "doctor",
    "harness.config.preset.load_preset": "targets list",
}


class Watch:
    """What `ps` shows of the processes that are begun: command lines of all, and the environment of each that may be read."""

    def __init__(self) -> None:
        self.lines: set[str] = set()
        self.environments: dict[str, set[str]] = {}  # command line -> environments
        self._over = threading.Event()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.03):
            for process in me.children(recursive=True):
                try:
                    line, environment = (
                        " ".join(process.cmdline()),
                        "\n".join(f"{k}={v}" for k, v in process.environ().items()),
                    )
                except psutil.Error:
                    continue
                self.lines.add(line)
                self.environments.setdefault(line, set()).add(environment)

    @contextmanager
    def looking(self) -> Iterator[None]:
        look = threading.Thread(target=self._look)
        look.start()
        try:
            yield
        finally:
            self._over.set()
            look.join()


def key_file(folder: Path, name: str, key: str) -> str:
    path = folder / name
    path.write_text(f"{key}\n")
    path.chmod(0o600)
    return str(path)


def places(inputs: Path) -> list[dict]:
    """Where each of the hundred keys is: keys of a target."""
    made = [{"api_key_file": key_file(inputs, f"file{i}", key)} for i, key in enumerate(FILES)]
    made += [{"api_key_command": ["cat", key_file(inputs, f"ring{i}", key)]} for i, key in enumerate(COMMANDS)]
    return made + [{"api_key_env": f"PLACE_{i}_KEY"} for i in range(len(VARIABLES))]


def _runs(place: Place, url: str, where: list[dict]) -> int:
    """Keys that no stage has, and every eighth other: experiments of four targets, each of another dialect and header. How many cells."""
    chosen = [one for at, one in enumerate(where) if at % 8 == 0 or at >= 2 * len(STAGES)]
    for at in range(0, len(chosen), 4):
        targets = [
            {
                "name": f"t{i}",
                "kind": "hosted",
                "model": "m",
                "url": url,
                "api": APIS[i % 4],
                "auth": AUTHS[(at + i) % 3],
            }
            | one
            for i, one in enumerate(chosen[at : at + 4])
        ]
        loads = [{"concurrency": [4], "requests": 16}]
        place.run(*(["--debug"] if at % 8 else []), "run", place.config(f"keys{at}", targets=targets, loads=loads))
    return len(chosen)


def _stages(place: Place, url: str, where: list[dict]) -> None:
    """A failure that says the key, put into each stage, with the traceback or without; each time another key and place."""
    for number, (stage, words) in enumerate(STAGES.items()):
        for debug in (False, True) if WAYS == 2 else (number % 2 == 1,):
            spot = (2 * number + debug) % len(where)
            if stage in EARLY or words.split()[0] not in ("run", "probe"):  # what only reads knows the environment's
                spot = len(where) - 1 - spot % len(VARIABLES)
            if words.startswith("probe") and "api_key_command" in where[spot]:
                spot -= len(FILES)  # it takes no command
            key = KEYS[spot]
            target = {"name": "t", "kind": "hosted", "model": "m", "url": url, "auth": AUTHS[number % 3]} | where[spot]
            config = place.config(
                f"stage{number}{debug}", targets=[target], loads=[{"concurrency": [1], "requests": 2}]
            )
            said = f"{key} {quote(key, safe='')} {base64.b64encode(key.encode()).decode()}"

            def crash(*_: object, said: str = said, **__: object) -> None:
                raise RuntimeError(f"crash with {said}")

            option = next(
                (
                    f"--{name.replace('_', '-')}={value}"
                    for name, value in where[spot].items()
                    if name != "api_key_command"
                ),
                "",
            )
            filled = words.replace("CONFIG", config).replace("URL", f"{url} --model m {option}").split()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(stage, crash)
                place.run(*(["--debug"] if debug else []), *filled)


def _probes(place: Place, where: list[dict]) -> None:
    """The command against an API that is right, and one that takes no key of ours."""
    for api in (Api(), Api(key="another", public_models=True), Api(key="another")):
        with serving(api) as url:
            for one in (where[0], where[-1]):
                ((name, value),) = one.items()
                place.run("probe", url, f"--{name.replace('_', '-')}", value, "--out", "found.yaml")
                place.run("probe", url, f"--{name.replace('_', '-')}", value, "--json")
    for key in KEYS[:10]:  # the key where its place should be
        place.refused.append(place.run("probe", "http://127.0.0.1:9/v1", "--api-key-file", key))
        place.refused.append(place.run("probe", "http://127.0.0.1:9/v1", "--api-key-env", f"{key}!"))
        target = {"name": "t", "kind": "hosted", "model": "m", "url": "http://127.0.0.1:9/v1", "api_key_file": key}
        place.refused.append(place.run("run", place.config("wrong-place", targets=[target])))
        header = {
            "name": "t",
            "kind": "hosted",
            "model": "m",
            "url": "http://127.0.0.1:9/v1",
            "headers": {"x-api-key": key},
        }
        place.refused.append(place.run("run", place.config("header", targets=[header])))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Every command was run."""
    made = Place(tmp_path_factory.mktemp("written"), tmp_path_factory.mktemp("inputs"))
    made.watch = Watch()
    with pytest.MonkeyPatch.context() as patch, echoing([]) as url:
        patch.chdir(made.folder)
        patch.setattr(processes, "subprocess", subprocess)  # what is looked at is what a real worker is handed
        patch.setenv("XDG_CACHE_HOME", str(made.folder / "cache"))
        for i, key in enumerate(VARIABLES):
            patch.setenv(f"PLACE_{i}_KEY", key)
        where = places(made.inputs)
        with made.watch.looking():
            made.cells = _runs(made, url, where)
            _stages(made, url, where)
            _probes(made, where)
    return made


def test_no_key_is_in_what_was_written_or_said(place):
    """Files, Parquet columns, output and tracebacks of every command: none of the hundred, in no spelling."""
    found: dict[str, list[str]] = {}
    searched = 0
    texts = {str(path.relative_to(place.folder)): texts_of(path) for path in place.files()}
    texts |= {f"output {at}: {text[:80]}": [text] for at, text in enumerate(place.said)}
    for name, pieces in texts.items():
        searched += sum(map(len, pieces))
        if keys := sorted({key for text in pieces for key in found_in(text, KEYS)}):
            found[name] = keys
    total = len({key for keys in found.values() for key in keys})
    print(f"\n{len(KEYS)} keys, {sum(place.codes.values())} commands {dict(place.codes)}, {len(STAGES)} stages, {len(place.files())} files, "
          f"{searched:,} characters searched; {total} keys found in {len(found)} places")  # fmt: skip
    assert found == {}


def test_every_command_got_to_its_keys(place):
    """The search would find nothing where nothing ran: runs have rows, failures of all stages were met."""
    assert len(list(place.folder.glob("results/keys*/*/requests.parquet"))) == place.cells
    assert sum(text.count("crash with ***") for text in place.said) >= len(STAGES)
    assert place.codes["probe", 0] >= 4
    assert place.codes["probe", 3] >= 8


def test_ps_shows_no_key(place):
    """The command line of every process that was begun: workers, commands of keyrings, compilers."""
    assert any("harness.measure.drive.worker" in line for line in place.watch.lines)
    assert [line for line in place.watch.lines if found_in(line, KEYS)] == []


def test_no_worker_is_handed_a_key_in_its_environment(place):
    """Nor has any child one from a file or a command: those are known to the harness alone, which tells them through a pipe."""
    for line, environments in place.watch.environments.items():
        keys = KEYS if "harness.measure.drive.worker" in line else [*FILES, *COMMANDS]
        assert [key for text in environments for key in found_in(text, keys)] == [], line


def test_a_key_in_the_place_of_its_place_is_refused_unshown(place):
    """A config's error, exit code 2."""
    assert set(place.refused) == {2}


def test_a_worker_gets_no_variable_that_a_config_names_for_a_key(monkeypatch):
    """Of whatever name; nor one that holds its own key among other words."""
    from harness.base import redaction
    from harness.measure.drive.processes import environment_of

    for name in ("PLACE", "OTHER", "HARMLESS", "SOME_TOKEN"):
        monkeypatch.setenv(name, f"x {KEYS[9]}" if name == "OTHER" else f"value of {name}")
    redaction.learn_data({"api_key_env": "PLACE"}, os.environ)
    assert {"PLACE", "OTHER", "HARMLESS", "SOME_TOKEN"} & set(environment_of(KEYS[9])) == {"HARMLESS"}


# ---------------------------------------------------------------- crashes


def cores(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("core*") if path.is_file() and path.stat().st_size > 100_000]


@pytest.fixture
def dumping(tmp_path):
    """A folder where a crash leaves a core; skips where this kernel writes none there."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if "/" in pattern or pattern.startswith("|") or hard == 0:
        pytest.skip(f"this kernel's cores are elsewhere, or none: {pattern!r}, at most {hard} bytes")
    folder = tmp_path / "control"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", "import os; os.abort()"], cwd=folder, preexec_fn=unlimited, check=False)
    if not cores(folder):
        pytest.skip("a crash leaves no core in this folder")
    work = tmp_path / "work"
    work.mkdir()
    return work


def unlimited() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@pytest.mark.parametrize("who", ["worker", "harness"])
def test_a_crash_with_a_key_in_memory_leaves_no_core(who, dumping, tmp_path):
    """A worker that is killed by SIGSEGV while it waits for a reply, and the harness itself, where cores are allowed."""
    api = Api(key=KEYS[3], held=threading.Event())
    where = key_file(tmp_path, "key", KEYS[3])
    place = Place(dumping, tmp_path)
    with serving(api) as url:
        target = {"name": "t", "kind": "hosted", "model": "m", "url": url, "api": "chat", "api_key_file": where}
        config = place.config("core", targets=[target], loads=[{"concurrency": [2], "requests": 4}])
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(dumping / "cache")}
        words = [sys.executable, "-m", "harness", "run", config]
        process = subprocess.Popen(
            words,
            cwd=dumping,
            env=environment,
            preexec_fn=unlimited,  # noqa: PLW1509 - nothing of ours runs in threads that hold locks
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            until(lambda: len(api.posts) == 2 or process.poll() is not None)
            assert process.poll() is None, process.communicate()[0].decode()
            workers = [
                p.pid for p in psutil.Process(process.pid).children() if "harness.measure.drive.worker" in p.cmdline()
            ]
            os.kill(process.pid if who == "harness" else workers[0], signal.SIGSEGV)
            said = process.communicate(timeout=120)[0].decode()
        finally:
            api.held.set()
            process.kill()
            process.wait()
    assert process.returncode == (-signal.SIGSEGV if who == "harness" else 7), said
    assert cores(dumping) == []
    assert found_in(said, [KEYS[3]]) == []
    assert [path for path in place.files() for text in texts_of(path) if found_in(text, [KEYS[3]])] == []
