"""The first experiment on an H100, an 8xH100, A10Gs, a MIG slice, in a pod and on somebody else's server: file, model, price, boards, words."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
H100, A10G = "NVIDIA H100 80GB HBM3", "NVIDIA A10G"
A10G_MIB = 23028

# What `harness run quickstart WORDS` would run here, what it says, and what a report of its first run would price it with.
CHOOSE = """
from dataclasses import asdict, replace
from types import SimpleNamespace
from harness.measure.observe import machine
machine.container, machine.virtualisation = (lambda: KIND), (lambda: FIRMWARE)
from harness.base import clock
from harness.cli import shape
from harness.cli.run import run
from harness.measure.observe.boards.inventory import boards
from harness.measure.observe.boards.nvml import open_gpus
from harness.price.machine_price import machine_price
from tests.price.cost_summaries import summary
notes = []
shape._say = notes.append
spec = shape.spec_of(run.make_context("run", ["quickstart", *WORDS]).params)
target = spec.targets[0]
gpus = open_gpus()
watched = [] if isinstance(gpus, str) or target.kind != "vllm" else gpus.static()[: SEEN]
facts = {"gpus": watched, "machine_boards": [b.name for b in boards()], "machine": FIRMWARE, "container": KIND}
one = summary(kind=target.kind, created_utc="20261124T113000Z")
one = replace(one, experiment=spec.experiment, environment=facts, config=spec.public(), cell=replace(one.cell, target=target.name))
price = machine_price(one)
print(json.dumps({
    "file": spec.experiment, "model": target.model, "flags": target.flags, "url": target.url, "notes": notes,
    "price": price.hardware and [price.hardware.name, price.hardware.usd_per_hour, price.hardware.basis], "why": price.why,
    "concurrency": [c for load in spec.loads for c in load.concurrency],
}))
"""


@pytest.fixture
def box(with_nvml, tmp_path):
    """What `harness run quickstart` does on a box with these boards; `words`: more of its command line."""

    def choose(*words, firmware=None, container=None, seen=1, hub=None, **fake):
        head = f"WORDS, FIRMWARE, KIND, SEEN = {list(words)!r}, {firmware!r}, {container!r}, {seen}\n"
        return with_nvml(head + CHOOSE, HF_HOME=hub or tmp_path / "no hub", HF_HUB_CACHE="", **fake)

    return choose


def hub_model(home: Path, name: str, layers: int) -> None:
    """A model in the hub cache, as huggingface_hub lays it out, of Llama 3.1 8B's width and so many layers."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    shape = json.loads((ROOT / "configs" / "models" / "llama-3.1-8b.json").read_text())
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    config = shape | {"num_hidden_layers": layers, "architectures": ["LlamaForCausalLM"]}
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "tokenizer.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"")


def test_one_h100(box):
    """quickstart-gpu with graphs and a ladder to 1,024, the dummy 8B and said; seven machines sell it, so no dollars, and they are named."""
    got = box(gpus=1, name=H100)
    assert (got["file"], got["model"]) == ("quickstart-gpu", "embedded:llama-3.1-8b-dummy")
    assert got["flags"] == {"max-model-len": 4096}
    assert got["concurrency"] == [1, 4, 16, 64, 256, 1024]
    assert any("DUMMY weights (speed is real, text is not)" in note for note in got["notes"])
    assert got["price"] is None
    assert "7 machines of the price table have 1 x NVIDIA H100 80GB HBM3" in got["why"]
    assert "aws/p5.4xlarge $6.88/h (2026-07-20)" in got["why"]
    assert "--instance PROVIDER/NAME" in got["why"]
    assert any(note == f"note: no price: {got['why']}" for note in got["notes"])


def test_one_h100_of_a_known_instance(box):
    """The firmware's own name of the instance is one match: proposed, and said before the run too."""
    got = box(gpus=1, name=H100, firmware="Amazon EC2 p5.4xlarge")
    assert got["price"] == ["aws/p5.4xlarge (1 x H100-SXM, us-east-1, on demand)", "6.88", "proposed"]
    assert any("price PROPOSED, not declared: aws/p5.4xlarge" in note and "2026-07-20" in note for note in got["notes"])


def test_an_h100_whose_price_is_given(box):
    """--instance is declared, not proposed, and nothing is said of other machines."""
    got = box("--instance", "runpod/secure_h100_sxm", gpus=1, name=H100)
    assert got["price"] == ["runpod/secure_h100_sxm (1 x H100-SXM, any, on demand)", "3.99", "declared"]
    assert not any("price" in note for note in got["notes"])


def test_eight_h100(box):
    """One board is used and that is said; the price asked for is that of all eight."""
    got = box(gpus=8, name=H100)
    assert got["file"] == "quickstart-gpu"
    assert any("takes 1 of the 8 boards" in note for note in got["notes"])
    assert got["price"] is None
    assert "5 machines of the price table have 8 x NVIDIA H100 80GB HBM3" in got["why"]
    aws = box(gpus=8, name=H100, firmware="Amazon EC2 p5.48xlarge")
    assert aws["price"][1:] == ["55.04", "proposed"]


def test_a_model_that_needs_several_boards(box, tmp_path):
    """MODEL= of 70 GB and more than one board: as many as it needs, and no more; one alone is told that it does not fit."""
    hub_model(tmp_path, "org/wide", layers=160)
    assert box("--model", "org/wide", gpus=8, name=H100, hub=tmp_path)["flags"]["tensor-parallel-size"] == 2
    alone = box("--model", "org/wide", gpus=1, name=H100, hub=tmp_path)
    assert any("does not seem to fit" in note for note in alone["notes"])


def test_the_largest_model_at_hand_that_fits(box, tmp_path):
    """Of three in the hub cache the 80 GB one does not fit, an unfinished one is none, and the larger of the others is taken."""
    for name, layers in (("org/small", 8), ("org/eight", 32), ("org/huge", 190)):
        hub_model(tmp_path, name, layers)
    hub_model(tmp_path, "org/half", 64)
    half = tmp_path / "hub" / "models--org--half" / "snapshots" / "abc"
    (half / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    got = box(gpus=1, name=H100, hub=tmp_path)
    assert got["model"] == "org/eight"
    assert not any("DUMMY" in note for note in got["notes"])
    assert box(gpus=1, name=A10G, memory_mib=12288, hub=tmp_path)["model"] == "org/small"


def test_a10g(box):
    """24 GB holds the 8B shape; one board is sold twice, four in one machine only, which is proposed."""
    one = box(gpus=1, name=A10G, memory_mib=A10G_MIB)
    assert (one["file"], one["model"], one["price"]) == ("quickstart-gpu", "embedded:llama-3.1-8b-dummy", None)
    assert "it may be aws/g5.xlarge $1.006/h (2026-07-20), aws/g5.2xlarge $1.212/h (2026-07-20)" in one["why"]
    four = box(gpus=4, name=A10G, memory_mib=A10G_MIB)
    assert four["price"] == ["aws/g5.12xlarge (4 x A10G, us-east-1, on demand)", "5.672", "proposed"]
    absent = box(gpus=1, name=A10G, memory_mib=A10G_MIB, firmware="Amazon EC2 g5.4xlarge")
    assert absent["price"] is None
    assert "the price table has no Amazon EC2 g5.4xlarge with 1 x NVIDIA A10G" in absent["why"]


def test_a_mig_slice(box):
    """Sized by the slice and not by its board; the price table sells no slices."""
    got = box(gpus=1, name=H100, mig=2, slice_mib=40448)
    assert (got["file"], got["model"], got["price"]) == ("quickstart-gpu", "embedded:llama-3.1-8b-dummy", None)
    assert "on a MIG slice of NVIDIA H100 80GB HBM3: the price table sells whole GPUs" in got["why"]
    assert "for the slice" in got["why"]
    small = box(gpus=1, name=H100, mig=7, slice_mib=9984)
    assert small["model"] == "embedded:smollm2-135m"
    assert any("one MIG slice" in note for note in small["notes"])


def test_a_pod(box):
    """A container was given some of a machine's boards, so their number proposes nothing; the firmware's name does."""
    got = box(gpus=4, name=A10G, memory_mib=A10G_MIB, container="kubernetes")
    assert got["price"] is None
    assert "4 x NVIDIA A10G in a container, which may not be all that the machine has" in got["why"]
    assert "aws/g5.12xlarge $5.672/h" in got["why"]
    node = box(gpus=4, name=A10G, memory_mib=A10G_MIB, container="kubernetes", firmware="Amazon EC2 g5.48xlarge")
    assert node["price"] == ["aws/g5.48xlarge (8 x A10G, us-east-1, on demand)", "16.288", "proposed"]


@pytest.mark.parametrize("boards", [0, 8])
def test_somebody_elses_server(box, boards):
    """By its URL: a ladder to 256, the model asked for, no price, whatever boards this machine has."""
    got = box("--url", "http://gpu-box:8000/v1", "--model", "qwen3-8b", gpus=boards, name=H100)
    assert (got["file"], got["model"], got["url"]) == ("quickstart-url", "qwen3-8b", "http://gpu-box:8000/v1")
    assert max(got["concurrency"]) == 256
    assert got["price"] is None
    assert "the machine behind the URL is not seen from here" in got["why"]


def test_a_machine_without_a_board(box):
    """The CPU's quickstart at its example price; with another model the price is gone, and that is said."""
    got = box(gpus=0)
    assert (got["file"], got["model"], got["notes"]) == ("quickstart", "embedded:smollm2-135m", [])
    assert got["price"] == ["this machine (example price)", "0.1", "example"]
    other = box("--model", "/models/Qwen3-8B", gpus=0)
    assert (other["model"], other["price"]) == ("/models/Qwen3-8B", None)
    assert other["notes"] == [
        "note: target smollm2: the example price is left out: model is another than in the quickstart that comes with the harness"
    ]


def test_boards_that_cuda_does_not_see(box):
    """An empty CUDA_VISIBLE_DEVICES is a machine without a board for the server, but not for the example's price."""
    got = box(gpus=1, name=H100, CUDA_VISIBLE_DEVICES="", seen=0)
    assert (got["file"], got["price"]) == ("quickstart", None)
    assert "the example price is left out: this machine has a GPU (NVIDIA H100 80GB HBM3)" in got["why"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "run 'quickstart'"),
        (["MODEL=m", "INSTANCE=aws/p5.48xlarge"], "run 'quickstart' --model 'm' --instance 'aws/p5.48xlarge'"),
        (["URL=http://h:8000/v1"], "run 'quickstart' --url 'http://h:8000/v1'"),
        (["URL=http://h:8000/v1", "SEED=7"], "run 'quickstart' --url 'http://h:8000/v1' --seed '7'"),
        (["CONFIG=my.yaml"], "run 'my.yaml'"),
    ],
    ids=["plain", "model", "url", "seed", "config"],
)
def test_make_bench_leaves_the_choice_to_the_harness(given, words):
    """`make bench` names no file but the user's own."""
    words_alone = ["make", "--no-print-directory", "-n", "bench", *given]  # a make above this one says where it is
    done = subprocess.run(words_alone, cwd=ROOT, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.strip().splitlines()[-1].split()).endswith(words)
