from autoconvert.report.folding import folded


def test_layers_are_folded_and_gaps_stay() -> None:
    assert folded(["a.0.b", "c", "a.1.b", "a.3.b"]) == ("a.0–1,3.b", "c")


def test_two_numbers_are_folded_where_all_combinations_are_there() -> None:
    paths = [f"layers.{layer}.experts.{expert}" for layer in range(2) for expert in range(3)]
    assert folded(paths) == ("layers.0–1.experts.0–2",)
    assert folded(paths[:-1]) == tuple(paths[:-1])
