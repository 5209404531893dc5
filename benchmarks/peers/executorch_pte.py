"""ExecuTorch by optimum-executorch, in an environment of its own, since it wants other versions of what we use."""

from pathlib import Path

from peers.peer import Load, Peer, finished, interpreter, package_version

_SCRIPT = Path(__file__).with_name("run_executorch.py")


def version(place: Path | None) -> str:
    hint = "pip install optimum-executorch, and --at executorch=PYTHON"
    packages = ("optimum-executorch", "executorch")
    return ", ".join(f"{name} {package_version(name, place, hint)}" for name in packages)


def prepare(checkpoint: Path, folder: Path, place: Path | None, limit: int) -> None:
    """Its XNNPACK recipe with int8 weights a row, int8 lookups, and its own attention and cache."""
    command = [
        *(interpreter(place), "-m", "optimum.commands.optimum_cli", "export", "executorch"),
        *("--model", str(checkpoint), "--task", "text-generation", "--recipe", "xnnpack"),
        *("--use_custom_sdpa", "--use_custom_kv_cache", "--qlinear", "8da8w", "--qembedding", "8w"),
        *("--max_seq_len", str(limit), "--output_dir", str(folder)),
    ]
    finished(command)


def command(file: Path, load: Load, place: Path | None) -> list[str]:
    numbers = (load.history, load.decode, load.limit, load.threads)
    return [interpreter(place), str(_SCRIPT), str(file), *map(str, numbers)]


PEER = Peer(
    name="executorch",
    scheme="8da8w, XNNPACK",
    pattern="*.pte",
    weight_bits=8,
    cache_bits=32,
    version=version,
    prepare=prepare,
    command=command,
)
