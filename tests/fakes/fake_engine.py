"""A stand-in for docker: a command that asks a daemon, and a daemon whose containers are its own children, not the command's.

`fake_engine.py daemon FOLDER` listens on FOLDER/engine.sock; `fake_engine.py cli FOLDER WORDS..` is the command. A container runs
tests/fakes/fake_vllm.py with the variables that `--env NAME` passed and no others. FOLDER/calls.jsonl holds the words of every call.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

_VALUED = {"--name", "--network", "--ipc", "--gpus", "--device", "--security-opt", "--volume", "--env", "--entrypoint"}
_DIGEST = "registry.example/vllm@sha256:" + "ab" * 32
FAKE_VLLM = Path(__file__).with_name("fake_vllm.py")


def parsed(words: list[str]) -> tuple[dict[str, list[str]], str, list[str]]:
    """Options, image and command of `run`."""
    options: dict[str, list[str]] = {}
    at = 0
    while words[at].startswith("--"):
        valued = words[at] in _VALUED
        options.setdefault(words[at], []).append(words[at + 1] if valued else "")
        at += 1 + valued
    return options, words[at], words[at + 1 :]


class Daemon:
    def __init__(self) -> None:
        self.containers: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, words: list[str], env: dict[str, str], out: socket.socket) -> int:
        options, image, command = parsed(words)
        if image == "no/such:image":
            out.sendall(b"Unable to find image 'no/such:image' locally\n")
            return 125
        assert options["--entrypoint"] == ["vllm"]
        inside = {name: env[name] for name in options.get("--env", []) if name in env}
        name = options["--name"][0]
        self.containers[name] = made = subprocess.Popen(
            [sys.executable, str(FAKE_VLLM), *command], env=inside, stdout=out, stderr=out, start_new_session=True
        )
        code = made.wait()
        self.containers.pop(name, None)
        return code

    def answer(self, words: list[str]) -> tuple[int, str]:
        name = words[-1]
        found = self.containers.get(name)
        match words[0]:
            case "image":
                return 0, f'["{_DIGEST}"] sha256:{"cd" * 32}'
            case _ if found is None:
                return 1, f"Error: No such container: {name}"
            case "inspect":
                return 0, str(found.pid)
            case "kill":
                found.send_signal(int(words[1]))
            case "stop":
                found.terminate()
                try:
                    found.wait(float(words[2]))
                except subprocess.TimeoutExpired:
                    found.kill()
            case "rm":
                found.kill()
                found.wait()
        return 0, name


def serve(folder: Path) -> None:
    daemon = Daemon()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            call = json.loads(self.rfile.readline())
            with (folder / "calls.jsonl").open("a") as calls:
                calls.write(json.dumps(call["words"]) + "\n")
            if call["words"][0] == "run":
                code = daemon.run(call["words"][1:], call["env"], self.request)
            else:
                code, text = daemon.answer(call["words"])
                self.request.sendall(text.encode() + b"\n")
            with contextlib.suppress(BrokenPipeError):
                self.request.sendall(b"\0" + str(code).encode())

    with socketserver.ThreadingUnixStreamServer(str(folder / "engine.sock"), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        print("ready", flush=True)
        signal.sigwait({signal.SIGTERM})
        for made in list(daemon.containers.values()):
            made.kill()
        os._exit(0)


def ask(folder: Path, words: list[str], *, show: bool = True) -> int:
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(str(folder / "engine.sock"))
        there.sendall(json.dumps({"words": words, "env": dict(os.environ)}).encode() + b"\n")
        code = b""
        while block := there.recv(65536):
            text, nul, end = block.partition(b"\0")
            code += end if nul else b""
            if show:
                os.write(1, text)
        return int(code or b"1")


def main() -> None:
    what, folder, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if what == "daemon":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        serve(folder)
    if words[0] == "run":
        name = words[words.index("--name") + 1]
        for sig in (signal.SIGTERM, signal.SIGINT):  # --sig-proxy
            signal.signal(sig, lambda number, _: ask(folder, ["kill", str(number), name], show=False))
    sys.exit(ask(folder, words))


if __name__ == "__main__":
    main()
