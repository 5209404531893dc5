"""What a report counts."""

from autoconvert.ir.state import State, Write
from autoconvert.report.report import layers_of


def kept(*modules: str) -> list[State]:
    """A cache of keys, and one of values, for each module."""
    return [
        State(f"{kind}_{index}", kind, (1, 1, 8, 4), Write.APPEND, sequence_axis=2, module=module)
        for index, module in enumerate(modules)
        for kind in ("key", "value")
    ]


def test_a_layer_that_keeps_several_things_is_one() -> None:
    indexed = ("model.layers.0.self_attn", "model.layers.0.self_attn.indexer", "model.layers.11.self_attn")
    assert layers_of(kept(*indexed)) == 2
    assert layers_of(kept("layers.0.heads.0", "layers.0.heads.1", "layers.1.heads.0")) == 2


def test_what_has_no_number_is_a_layer_each_time_it_keeps() -> None:
    assert layers_of(kept("shared", "shared", "")) == 3
    assert layers_of([State("r", "recurrent", (1, 4), Write.REPLACE)]) == 0
