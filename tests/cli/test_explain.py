"""`autoconvert explain`: what it prints, and how it ends."""

from pathlib import Path

import pytest

from autoconvert.cli import main


def test_a_covered_model_is_explained_the_same_twice(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["explain", "demo", "--context", "32"])
        assert ended.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].startswith("demo: covered")
    assert "model.layers.0–5.mlp" in texts[0]
    assert "Not fused" not in texts[0]


def test_there_is_nothing_to_scaffold_in_a_covered_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", "demo", "--context", "32", "--scaffold", str(tmp_path / "blocks.py")])
    assert ended.value.code == 2
    assert "no block to write a pattern for" in capsys.readouterr().err
    assert not (tmp_path / "blocks.py").exists()
