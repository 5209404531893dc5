"""llama.cpp, by the prebuilt library in node-llama-cpp: `npm install node-llama-cpp`, nothing is compiled."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from peers.peer import BENCHMARKS, Load, NotInstalled, Peer, finished, with_benchmarks

_INSTALL = "npm install --no-save --prefix benchmarks node-llama-cpp"
_SCRIPT = Path(__file__).with_name("run_llama_cpp.mjs")


def version(place: Path | None) -> str:
    """Of node-llama-cpp and the llama.cpp in it, in the folder `place` where npm installed it."""
    if shutil.which("node") is None:
        raise NotInstalled(f"install Node.js 20 or later, then {_INSTALL}")
    package = _package(place)
    if not (package / "package.json").is_file():
        raise NotInstalled(_INSTALL)
    if find_spec("gguf") is None:
        raise NotInstalled("pip install gguf")
    return f"{json.loads((package / 'package.json').read_text())['version']} (node-llama-cpp)"


def prepare(checkpoint: Path, folder: Path, _place: Path | None, _limit: int) -> None:
    file = folder / "model-q8_0.gguf"
    finished([sys.executable, "-m", "peers.gguf_file", str(checkpoint), str(file)], with_benchmarks())


def command(file: Path, load: Load, place: Path | None) -> list[str]:
    numbers = (load.history, load.decode, load.limit, load.threads)
    return ["node", str(_SCRIPT), str(_package(place)), str(file), *map(str, numbers)]


def _package(place: Path | None) -> Path:
    return (place or BENCHMARKS).resolve() / "node_modules" / "node-llama-cpp"


PEER = Peer(
    name="llama.cpp",
    scheme="Q8_0",
    pattern="*.gguf",
    # 32 weights of a byte and a scale of two bytes.
    weight_bits=8.5,
    cache_bits=16,
    version=version,
    prepare=prepare,
    command=command,
)
