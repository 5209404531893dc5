"""Converters that talk on a processor: each makes a file of the same checkpoint, and runs it in its own process.

A peer is a file here that ends in one `Peer`; the tuple below is all that the benchmark knows of them.
"""

from peers import executorch_pte, litert_torch_export, llama_cpp, ours
from peers.peer import Peer

PEERS: tuple[Peer, ...] = (ours.PEER, litert_torch_export.PEER, llama_cpp.PEER, executorch_pte.PEER)
