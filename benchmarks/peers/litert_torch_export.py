"""litert-torch's `export_hf`: its int8 recipe, its default prefill length, and a cache of the limit."""

from pathlib import Path

from peers.litert_lm_command import engine_version, litert_lm_command
from peers.peer import Peer, finished, interpreter, package_version, with_benchmarks

_SCRIPT = Path(__file__).with_name("export_with_litert_torch.py")


def export_command(
    python: str,
    checkpoint: Path,
    folder: Path,
    context: int,
    *,
    is_lightweight: bool = True,
    prefill: int | None = None,
) -> list[str]:
    """Its command line by an interpreter: its int8 recipe, and its lightweight conversion, which needs less memory."""
    return [
        # -P so that no module of ours stands for one of another package.
        *(python, "-P", str(_SCRIPT), "export_hf"),
        f"--model={checkpoint}",
        f"--output_dir={folder}",
        f"--cache_length={context}",
        "--quantization_recipe=dynamic_wi8_afp32",
        f"--experimental_lightweight_conversion={is_lightweight}",
        *(() if prefill is None else (f"--prefill_lengths={prefill}",)),
    ]


def version(place: Path | None) -> str:
    return f"{package_version('litert-torch', place, 'pip install litert-torch')}, {engine_version()}"


def prepare(checkpoint: Path, folder: Path, place: Path | None, limit: int) -> None:
    finished(export_command(interpreter(place), checkpoint, folder, limit))


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
