"""The runtime without a model: an engine that reads texts and renders chats, on a model of a few additions."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.flatbuffer import write_model
from autoconvert.packaging.chat_template import ChatTemplate, Turn
from autoconvert.packaging.dialogues import Dialogue
from autoconvert.packaging.litertlm import system_errors, write_bundle
from autoconvert.packaging.metadata import build_executor_metadata, build_llm_metadata
from autoconvert.packaging.tokenizer import TokenizerSpec, Trial
from autoconvert.packaging.tokenizer_section import TokenizerSection
from autoconvert.runtime.conversations import read_texts, render_dialogues
from autoconvert.runtime.engine import Asked, open_remote_engine

# Rendering needs none, and the engine needs one.
_NO_TOKENIZER = TokenizerSection(
    "huggingface", b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}', ""
)
_CONTEXT, _PREFILL, _WIDTH, _VOCABULARY = 32, 8, 4, 4


def render_in_stub(chat: ChatTemplate, dialogues: Sequence[Dialogue]) -> list[list[Turn]]:
    """What the runtime renders of `dialogues` with `chat` as a bundle's template."""
    with open_stub(TokenizerSpec(_NO_TOKENIZER, None, (), None, chat)) as engine:
        turns: list[list[Turn]] = engine.ask(render_dialogues, dialogues)
        return turns


def read_in_stub(section: TokenizerSection, texts: Sequence[str]) -> list[list[int]]:
    """The tokens that the runtime reads in `texts` with `section` as a bundle's tokenizer, without a start token."""
    with open_stub(TokenizerSpec(section, None, (), None, None)) as engine:
        ids: list[list[int]] = engine.ask(read_texts, texts)
        return ids


@contextmanager
def open_stub(spec: TokenizerSpec) -> Iterator[Asked]:
    """An engine with the tokenizer, tokens and template of `spec` whose answers mean nothing.

    Raises RuntimeFailed if the runtime cannot load them, MachineError without a temporary folder.
    """
    with system_errors(Path("a temporary folder")), tempfile.TemporaryDirectory(prefix="autoconvert-") as folder:
        bundle = Path(folder, "stub.litertlm")
        write_stub(spec, bundle)
        with open_remote_engine(bundle) as engine:
            yield engine


def write_stub(spec: TokenizerSpec, bundle: Path) -> None:
    """Writes a bundle that has all that `spec` says, and a model of a few additions."""
    content = _model()
    states = (CPU.key_cache(0, 1, _CONTEXT, _WIDTH), CPU.value_cache(0, 1, _CONTEXT, _WIDTH))
    with tempfile.TemporaryDirectory(prefix="autoconvert-") as folder:
        tflite = Path(folder, "stub.tflite")
        tflite.write_bytes(content)
        write_bundle(
            tflite,
            hashlib.sha256(content).hexdigest(),
            spec.section,
            build_llm_metadata(spec, _CONTEXT),
            build_executor_metadata(states, _CONTEXT, CPU),
            bundle,
            CPU.section,
        )


def _model() -> bytes:
    """A `.tflite` with the runtime's ports: prefill returns its caches, decode constant logits too."""
    model = schema.ModelT(version=3, buffers=[schema.BufferT()], subgraphs=[], signatureDefs=[])
    add = int(schema.BuiltinOperator.ADD)
    model.operatorCodes = [schema.OperatorCodeT(builtinCode=add, deprecatedBuiltinCode=add, version=1)]
    model.buffers += [_buffer(np.zeros(1, np.float32)), _buffer(np.zeros(_VOCABULARY, np.float32))]
    for name, length in ((f"prefill_{_PREFILL}", _PREFILL), ("decode", 1)):
        _add_signature(model, name, length)
    return write_model(model)


def _buffer(values: np.ndarray) -> schema.BufferT:
    return schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8))


def _add_signature(model: schema.ModelT, name: str, length: int) -> None:
    graph = schema.SubGraphT(name=name, tensors=[], operators=[])
    integers, floats = schema.TensorType.INT32, schema.TensorType.FLOAT32

    def tensor(shape: Sequence[int], kind: int = floats, buffer: int = 0) -> int:
        graph.tensors.append(schema.TensorT(name=f"t{len(graph.tensors)}", shape=list(shape), type=kind, buffer=buffer))
        return len(graph.tensors) - 1

    def plus_zero(value: int, shape: Sequence[int]) -> int:
        total = tensor(shape)
        graph.operators.append(
            schema.OperatorT(
                opcodeIndex=0,
                inputs=[value, zero],
                outputs=[total],
                builtinOptionsType=schema.BuiltinOptions.AddOptions,
                builtinOptions=schema.AddOptionsT(),
            )
        )
        return total

    caches = {"kv_cache_k_0": (1, 1, _CONTEXT, _WIDTH), "kv_cache_v_0": (1, 1, _WIDTH, _CONTEXT)}
    inputs = {
        "tokens": tensor((1, length), integers),
        "input_pos": tensor((length,), integers),
        "mask": tensor((1, 1, length, _CONTEXT)),
        **{port: tensor(shape) for port, shape in caches.items()},
    }
    zero = tensor((1,), buffer=1)
    outputs = {port: plus_zero(inputs[port], shape) for port, shape in caches.items()}
    if name == "decode":
        shape = (1, 1, _VOCABULARY)
        outputs["logits"] = plus_zero(tensor(shape, buffer=2), shape)
    graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
    model.signatureDefs.append(
        schema.SignatureDefT(
            signatureKey=name, subgraphIndex=len(model.subgraphs), inputs=_ports(inputs), outputs=_ports(outputs)
        )
    )
    model.subgraphs.append(graph)


def _ports(tensors: Mapping[str, int]) -> list[schema.TensorMapT]:
    return [schema.TensorMapT(name=name, tensorIndex=index) for name, index in tensors.items()]


STUB = Trial(read_in_stub, render_in_stub)
