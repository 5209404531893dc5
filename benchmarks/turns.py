"""One shape, all peers: each makes its file, then the files run in turns."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from bandwidth import StepSizes, bytes_of_step, bytes_per_second
from others import moment, share_of_others
from peers.peer import CACHE, Load, NotInstalled, Peer, PeerFailed, run
from speeds import PeerFile, Session, Taken

Places = Mapping[str, Path]


def machine() -> str:
    """What a reader must know of the machine: processor, cores, memory, system."""
    model = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    for line in listed.read_text().splitlines() if listed.exists() else ():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


def join(
    peer: Peer, session: Session, checkpoint: Path, folder: Path, places: Places, sizes: StepSizes
) -> list[tuple[Peer, Path]]:
    """A peer with its file under `folder`; nothing, and the session says why, where it is not installed or fails."""
    plan, place = session.plan, places.get(peer.name)
    try:
        version = peer.version(place)
        file = prepare_file(peer, checkpoint, folder / f"{peer.name}-{plan.limit}", place, plan.limit)
    except NotInstalled as error:
        session.absent[peer.name] = str(error)
        return []
    except PeerFailed as error:
        session.failed[peer.name] = str(error)
        return []
    steps = {
        history: bytes_of_step(sizes, history, plan.decode, peer.weight_bits, peer.cache_bits)
        for history in plan.histories
    }
    session.files.append(PeerFile(peer.name, version, peer.scheme, file.stat().st_size, steps))
    return [(peer, file)]


def prepare_file(peer: Peer, checkpoint: Path, folder: Path, place: Path | None, limit: int) -> Path:
    """The one file in `folder`, made unless an earlier run left it there; without what runs have kept beside it."""
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    if peer.changes or not folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        unfinished = folder.with_name(f"{folder.name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        peer.prepare(checkpoint, unfinished, place, limit)
        unfinished.rename(folder)
    files = list(folder.glob(peer.pattern))
    if len(files) != 1:
        raise PeerFailed(f"{len(files)} files {peer.pattern} in {folder} instead of one")
    return files[0]


def take_turns(
    session: Session, prepared: Sequence[tuple[Peer, Path]], places: Places, save: Callable[[], None]
) -> Iterator[str]:
    """Fills the session run by run, saving after each, and says before each what comes.

    A peer that fails is left out from then on.
    """
    plan = session.plan
    for number, history in plan.turns():
        if number == len(session.bandwidths):
            session.bandwidths.append(bytes_per_second(plan.threads))
        for peer, file in prepared:
            yield f"{session.shape}: {peer.name}, {history} in, round {number} of {plan.rounds}"
            if peer.name in session.failed:
                continue
            load = Load(history, plan.decode, plan.limit, plan.threads)
            before = moment()
            try:
                figures = run(peer, file, load, places.get(peer.name))
                others = share_of_others(before, moment())
                session.taken.append(Taken(peer.name, history, number, figures, others))
            except PeerFailed as error:
                session.failed[peer.name] = f"with {history} tokens in: {error}"
            save()
