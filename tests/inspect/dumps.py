"""Dumps as a conversion writes them, of a decoder of any number of layers, without one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

SOURCE = "transformers/models/plain/modeling_plain.py"
NORM = ("mul", "mean", "add", "rsqrt", "mul_1", "mul_2")

TRIED = {
    "graph": "01-fuse",
    "endings": {"relu": ["squared_relu", "maxout", "gated_feed_forward"], "embedding": ["table"]},
    "tries": [
        {
            "pattern": "squared_relu",
            "node": "model_layers_0_mlp_relu_5",
            "matched": 2,
            "of": 3,
            "reason": "the pattern expects mul",
            "differs": "model_layers_0_mlp_relu_3",
            "covered": ["model_layers_0_mlp_relu_5", "model_layers_0_mlp_relu_4"],
        },
        {
            "pattern": "maxout",
            "node": "model_layers_0_mlp_relu_5",
            "matched": 4,
            "of": 4,
            "reason": "halves differ",
            "differs": "",
            "covered": [],
        },
    ],
}


def write_dump(folder: Path, layers: int = 3, **changes: Any) -> Path:
    """A trace, a pass that fuses norms, one that changes nothing, two signatures, a file; 81 nodes a layer."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {
        "00-trace": _decoder(layers, fused=False),
        "01-fuse": _decoder(layers, fused=True),
        "03-prefill_16": _decoder(layers, fused=True, length="16"),
        "04-decode": _decoder(layers, fused=True, length="1"),
        "05-decode-in-the-file": _written(),
    }
    for stem, nodes in graphs.items():
        text = json.dumps({"graphs": [{"id": stem, "nodes": nodes}]})
        (folder / f"{stem}.json").write_text(text, encoding="utf-8")
    matches = [
        {
            "pattern": "rms_norm",
            "block": "norm",
            "source": "patterns/norms.py:2",
            "node": f"model_layers_{layer}_norm_rms_norm",
            "replaced": [f"model_layers_{layer}_norm_{part}" for part in NORM],
        }
        for layer in range(layers)
    ]
    found = {"norm": layers}
    manifest = {
        "format": 3,
        "model": "a <b>plain</b> decoder",
        "context": 64,
        "way": "whole text",
        "passes": [
            _pass(0, "trace", "00-trace", None, graphs["00-trace"], {}, []),
            _pass(1, "fuse", "01-fuse", "00-trace", graphs["01-fuse"], found, matches),
            _pass(2, "cumsum-to-scan", None, "01-fuse", graphs["01-fuse"], found, []),
            _pass(3, "prefill_16", "03-prefill_16", "01-fuse", graphs["03-prefill_16"], found, [], "prefill_16"),
            _pass(4, "decode", "04-decode", "01-fuse", graphs["04-decode"], found, [], "decode"),
            _pass(
                5,
                "decode in the file",
                "05-decode-in-the-file",
                "04-decode",
                graphs["05-decode-in-the-file"],
                {},
                [],
                "decode",
            ),
        ],
        "refused": None,
        "checks": [
            {"name": "graph", "passed": True, "detail": "logits within 4.8e-06 σ"},
            {"name": "file", "passed": True, "detail": "logits within 4.4e-06 σ"},
        ],
        "bytes": [
            {"module": f"model.layers.{layer}.mlp", "dtype": dtype, "bytes": size}
            for layer in range(layers)
            for dtype, size in (("int8", 1_000_000), ("float32", 50_000))
        ],
        "sources": {
            SOURCE: [[40, "def forward(self, x):\n    x = self.norm(x)\n    return self.mlp(x)"]],
            "patterns/norms.py": [[1, "\ndef _rms(x, weight, eps):\n    return x * torch.rsqrt(…) * weight"]],
        },
    } | changes
    (folder / "tried.json").write_text(json.dumps(TRIED), encoding="utf-8")
    (folder / "dump.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _pass(
    index: int,
    name: str,
    file: str | None,
    before: str | None,
    nodes: list[dict[str, Any]],
    blocks: dict[str, int],
    matches: list[Any],
    signature: str = "",
) -> dict[str, Any]:
    operations = dict(Counter(node["label"] for node in nodes if node["label"] != "input"))
    return {
        "index": index,
        "name": name,
        "summary": f"What {name} does.",
        "signature": signature,
        "file": file,
        "before": before,
        "nodes": len(nodes),
        "operations": operations,
        "blocks": blocks,
        "matches": matches,
    }


def _decoder(layers: int, fused: bool, length: str = "s") -> list[dict[str, Any]]:
    nodes = [_node("tokens", "input", "", [], f"i64[1, {length}]")]
    last = "model_embedding"
    nodes.append(_node(last, "embedding", "model", ["tokens"], f"f32[1, {length}, 8]", line=40))
    for layer in range(layers):
        module = f"model.layers.{layer}"
        prefix = module.replace(".", "_")
        weight = f"{prefix}_norm_weight"
        nodes.append(_node(weight, "input", f"{module}.norm", [], "f32[8]", detail=f"weight {module}.norm.weight"))
        for part in ("rms_norm",) if fused else NORM:
            name = f"{prefix}_norm_{part}"
            known = {"pattern": "rms_norm", "block": "norm"} if fused else {}
            operation = "rms_norm" if fused else part.split("_")[0]
            reads = [last, weight] if part in ("rms_norm", "mul_2") else [last]
            nodes.append(_node(name, operation, f"{module}.norm", reads, f"f32[1, {length}, 8]", line=41, **known))
            last = name
        costs = {"multiply-adds": "80"}
        for number in range(74):
            name = f"{prefix}_mlp_relu_{number}" if number else f"{prefix}_mlp_relu"
            nodes.append(_node(name, "relu", f"{module}.mlp", [last], f"f32[1, {length}, 8]", line=42, **costs))
            last = name
    return nodes


def _written() -> list[dict[str, Any]]:
    """What a file has of the first norm: two operations."""
    module, kind = "model.layers.0.norm", "f32[1, 1, 8]"
    known: dict[str, Any] = {"line": 41, "origins": "model_layers_0_norm_rms_norm"}
    return [
        _node("tokens", "input", "", [], "i32[1, 1]"),
        _node("model_layers_0_norm_rsqrt", "rsqrt", module, ["tokens"], kind, **known),
        _node("model_layers_0_norm_mul", "mul", module, ["model_layers_0_norm_rsqrt"], kind, **known),
    ]


def _node(
    name: str, operation: str, module: str, reads: list[str], kind: str, line: int = 0, **known: Any
) -> dict[str, Any]:
    attributes = {"arguments": ", ".join(f"%{each}" for each in reads)} | known
    if line:
        attributes["source"] = f"{SOURCE}:{line}"
    return {
        "id": name,
        "label": operation,
        "namespace": module.replace(".", "/"),
        "incomingEdges": [
            {"sourceNodeId": each, "sourceNodeOutputId": "0", "targetNodeInputId": str(index)}
            for index, each in enumerate(reads)
        ],
        "attrs": [{"key": key, "value": value} for key, value in attributes.items() if value],
        "outputsMetadata": [{"id": "0", "attrs": [{"key": "tensor_shape", "value": kind}]}],
    }
