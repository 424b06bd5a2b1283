"""A worker process: `python -m harness.measure.drive.worker`, its config as one line of JSON on standard input.

After that line standard input carries commands (`go START_NS`, `drain`, `abort`); its end means that the parent
is gone and ends the worker. The API key comes over this pipe and is never written down.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.base import clock, redaction
from harness.base.files import NO_ROOM_EXIT_CODE, is_no_room
from harness.measure.drive import scheduling, shard, turns
from harness.measure.drive.loop import Loop, LoopConfig
from harness.measure.drive.proxy import Proxy
from harness.measure.drive.spool import Writer
from harness.records import Timeouts

CONTROL_FD = 0


def read_line(fd: int) -> bytes:
    """One line from a pipe, byte-exact: what follows it stays in the pipe."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            raise SystemExit(3)
        line += byte
    return bytes(line)


def raise_file_limit() -> None:
    """A connection is a file descriptor: use what the system lets us."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, ValueError, OSError):
        pass


def without_key(api_key: str) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Hides the key in messages that hold what a server sent: the bytes of an exchange, the SDK's facts."""
    hide = redaction.veil(api_key)

    def veil(message: tuple[Any, ...]) -> tuple[Any, ...]:
        match message[0]:
            case "exchange":
                return (*message[:-1], hide(message[-1]))
            case "facts":
                kind, index, facts, content = message
                texts = {name: redaction.known(text) for name, text in facts.items() if isinstance(text, str)}
                if content is not None and (whole := "".join(content[0])) != (kept := redaction.known(whole)):
                    content = [kept], content[1]
                return kind, index, facts | texts, content
        return message

    return veil


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    config: dict[str, Any] = json.loads(read_line(CONTROL_FD))
    redaction.learn(config["api_key"])
    redaction.learn(((config["proxy"] or (None,))[-1] or "").partition(" ")[2])
    redaction.terminal()  # the file that a dying worker's last words go to
    raise_file_limit()
    scratch, worker = Path(config["scratch"]), int(config["worker"])
    spool = Writer(scratch, worker)
    spool.veil = without_key(config["api_key"]) if config["api_key"] else None
    share = shard.Shard(scratch, worker)
    if config["driver"] == "sdk":
        from harness.measure.drive import sdk

        sdk.run(config, share, spool, CONTROL_FD, turns.of_worker(scratch, worker))
    else:
        _wire(config, share, spool, turns.of_worker(scratch, worker))
    spool.close()


def _wire(config: dict[str, Any], share: shard.Shard, spool: Writer, sessions: turns.Turns | None) -> None:
    os.set_blocking(CONTROL_FD, False)
    wire_config = LoopConfig(
        base_url=config["base_url"],
        ca_file=config["ca_file"],
        head=config["head"].encode("latin-1"),
        slots=config["slots"],
        timeouts=Timeouts(*config["timeouts"]),
        duration_ns=config["duration_ns"],
        kernel_stamps=config["kernel_stamps"],
        reader=config["reader"],
        spoken=config["spoken"],
        proxy=Proxy(*config["proxy"]) if config["proxy"] else None,
        kept=config["kept"],
        resends=config["resends"],
    )
    loop = Loop(wire_config, share, spool, CONTROL_FD, sessions)
    obtained = scheduling.ask_priority()
    loop.prepare()
    gc.collect()
    gc.disable()  # a full collection over the replies in flight would stop the reads for up to half a second
    spool.put(("ready",))
    waited_before = clock.core_wait_s()
    loop.run()
    waited = clock.core_wait_s()
    anchor = clock.anchor()
    spool.put(("anchor", anchor.monotonic_ns, anchor.offset_ns, anchor.error_ns))
    report = {
        "cpu_s": clock.process_cpu_s() - loop.cpu_start_s,
        "loop_lag_max_s": loop.lag_max_ns / 1e9,
        "late_sends": loop.exchanges.late_sends,
        "unwritten": len(loop.unwritten),
        "user_reads": loop.exchanges.user_reads + loop.reader.user_reads,
        "careful": loop.exchanges.careful_replies,
        "cut": loop.cut,
        "stopped_max_s": loop.stopped_max_ns / 1e9,
        "priority": obtained,
        "gave_up_s": loop.gave_up_s,
        "reader": loop.reader.name,
        "core_wait_s": None if waited is None or waited_before is None else waited - waited_before,
        "ended_ns": clock.monotonic_ns(),
    }
    spool.put(("report", json.dumps(report)))


def run() -> int:
    """The exit code."""
    try:
        main()
    except OSError as error:
        if not is_no_room(error):
            raise
        return NO_ROOM_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(run())
