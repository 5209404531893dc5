"""Counting from shapes: each kind of product, and growth that is not attention's."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from multiply_adds import Product, growth, products

from autoconvert.analysis.multiply_adds import MultiplyAdds
from autoconvert.lowering.cpu import CPU
from autoconvert.lowering.flatbuffer import read_model
from autoconvert.lowering.litert import lower
from tests.models import rewrite, signatures, tiny_llama

OPERATOR = schema.BuiltinOperator
CONVOLUTIONS = (OPERATOR.CONV_2D, OPERATOR.DEPTHWISE_CONV_2D)
CODES = (OPERATOR.FULLY_CONNECTED, OPERATOR.BATCH_MATMUL, *CONVOLUTIONS, OPERATOR.RESHAPE)

Shapes = dict[str, tuple[int, ...]]
Operators = list[tuple[int, list[str], str]]


def model(shapes: Shapes, operators: Operators, inputs: list[str], adj_x: bool = False) -> Any:
    """A model with one signature `decode` from tensors by name."""
    index = {name: i for i, name in enumerate(shapes)}
    options = {OPERATOR.BATCH_MATMUL: schema.BatchMatMulOptionsT(adjX=adj_x)}
    codes = [schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code) for code in CODES]
    return schema.ModelT(
        operatorCodes=codes,
        subgraphs=[
            schema.SubGraphT(
                tensors=[schema.TensorT(shape=np.array(shape, np.int32)) for shape in shapes.values()],
                operators=[
                    schema.OperatorT(
                        opcodeIndex=CODES.index(code),
                        inputs=[index[name] for name in read],
                        outputs=[index[made]],
                        builtinOptions=options.get(code),
                    )
                    for code, read, made in operators
                ],
            )
        ],
        signatureDefs=[
            schema.SignatureDefT(
                inputs=[schema.TensorMapT(name=name.encode(), tensorIndex=index[name]) for name in inputs],
                signatureKey=b"decode",
                subgraphIndex=0,
            )
        ],
    )


def count(code: int, left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...], adj_x: bool = False) -> int:
    made = model({"a": left, "b": right, "c": out}, [(code, ["a", "b"], "c")], [], adj_x)
    return sum(product.multiply_adds for product in products(made, "decode"))


def test_each_kind_of_product_is_counted() -> None:
    assert count(OPERATOR.FULLY_CONNECTED, (1, 3, 8), (5, 8), (1, 3, 5)) == 3 * 8 * 5
    assert count(OPERATOR.BATCH_MATMUL, (2, 3, 8), (2, 8, 5), (2, 3, 5)) == 2 * 3 * 8 * 5
    assert count(OPERATOR.BATCH_MATMUL, (2, 8, 3), (2, 8, 5), (2, 3, 5), adj_x=True) == 2 * 3 * 8 * 5
    assert count(OPERATOR.CONV_2D, (1, 1, 9, 8), (5, 1, 4, 8), (1, 1, 6, 5)) == 6 * 5 * 4 * 8
    assert count(OPERATOR.DEPTHWISE_CONV_2D, (1, 1, 9, 8), (1, 1, 4, 8), (1, 1, 6, 8)) == 6 * 8 * 4


def scores(context: int) -> tuple[Shapes, Operators]:
    """A query times a cache that is reshaped before, and a projection of it all."""
    shapes: Shapes = {
        "tokens": (1, 1),
        "kv_cache_k_0": (1, 2, context, 8),
        "rows": (2, context, 8),
        "query": (2, 1, 8),
        "scores": (2, 1, context),
        "weight": (5, 8),
        "projected": (2, context, 5),
    }
    operators: Operators = [
        (OPERATOR.RESHAPE, ["kv_cache_k_0"], "rows"),
        (OPERATOR.BATCH_MATMUL, ["query", "rows"], "scores"),
    ]
    return shapes, operators


def test_growth_of_scores_over_a_cache_is_attention_s() -> None:
    made = [model(*scores(context), ["tokens", "kv_cache_k_0"]) for context in (64, 128)]
    found = growth(products(made[0], "decode"), products(made[1], "decode"), 2)
    assert found.only_in_attention
    assert (found.smaller, found.larger) == (2 * 64 * 8, 2 * 128 * 8)


def test_a_projection_of_the_whole_history_is_found() -> None:
    made = []
    for context in (64, 128):
        shapes, operators = scores(context)
        made.append(
            model(shapes, [*operators, (OPERATOR.FULLY_CONNECTED, ["query", "weight"], "projected")], ["tokens"])
        )
    found = growth(products(made[0], "decode"), products(made[1], "decode"), 2)
    assert not found.only_in_attention
    assert any(text.startswith("FULLY_CONNECTED") for text in found.elsewhere)


def test_work_that_grows_faster_than_the_context_is_found() -> None:
    before, after = Product("BATCH_MATMUL", 100, True), Product("BATCH_MATMUL", 400, True)
    assert not growth([before], [after], 2).only_in_attention
    assert not growth([before], [after, after], 2).only_in_attention


def test_a_graph_is_said_to_multiply_as_often_as_its_flatbuffer_does() -> None:
    decode = signatures(rewrite(tiny_llama()), [4])["decode"]
    count = MultiplyAdds()
    total = sum(count(node, decode.graph) for node in decode.graph.graph.nodes)
    assert total == sum(
        product.multiply_adds for product in products(read_model(lower("decode", decode, CPU)), "decode")
    )
