"""litert-torch's `export_hf`: its int8 recipe, its default prefill length, and a cache of the limit."""

from pathlib import Path

from peers.litert_lm_command import engine_version, litert_lm_command
from peers.peer import Peer, finished, interpreter, package_version, with_benchmarks

_SCRIPT = Path(__file__).with_name("export_with_litert_torch.py")


def export_command(python: str) -> list[str]:
    """Its command line by an interpreter; -P so that no module of ours stands for one of another package."""
    return [python, "-P", str(_SCRIPT), "export_hf"]


def version(place: Path | None) -> str:
    return f"{package_version('litert-torch', place, 'pip install litert-torch')}, {engine_version()}"


def prepare(checkpoint: Path, folder: Path, place: Path | None, limit: int) -> None:
    """By its lightweight conversion, the one that needs less memory."""
    command = [
        *export_command(interpreter(place)),
        f"--model={checkpoint}",
        f"--output_dir={folder}",
        f"--cache_length={limit}",
        "--quantization_recipe=dynamic_wi8_afp32",
        "--experimental_lightweight_conversion=True",
    ]
    finished(command)


PEER = Peer(
    name="litert-torch",
    scheme="dynamic_wi8_afp32",
    pattern="*.litertlm",
    weight_bits=8,
    cache_bits=32,
    version=version,
    prepare=prepare,
    command=litert_lm_command,
    environment=with_benchmarks(),
)
