"""`autoconvert inspect` as a person types it."""

import json
import sys
import webbrowser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autoconvert.cli.inspect import app
from tests.inspect.dumps import write_dump


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a browser was asked for."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    return addresses


def inspect(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="autoconvert inspect")


def test_the_page_is_written_beside_the_dump_and_opened(tmp_path: Path, opened: list[str]) -> None:
    folder = write_dump(tmp_path / "dump")
    result = inspect(folder)
    assert result.exit_code == 0, result.output
    assert opened == [(folder / "index.html").as_uri()]
    assert result.output.startswith(f"{folder}/index.html  ")


def test_it_is_only_written_where_that_is_asked_for(tmp_path: Path, opened: list[str]) -> None:
    assert inspect(write_dump(tmp_path), "--no-open").exit_code == 0
    assert (tmp_path / "index.html").is_file()
    assert opened == []


@pytest.mark.parametrize("report", ["{", "{}", '{"stages": [{"name": "trace"}]}', "[]"])
def test_what_is_no_report_is_said_to_be_none(tmp_path: Path, report: str) -> None:
    (tmp_path / "report.json").write_text(report)
    result = inspect(write_dump(tmp_path / "dump"), "--no-open", "--report", tmp_path / "report.json")
    assert result.exit_code == 2
    assert "is not a conversion's report" in result.output
    assert not (tmp_path / "dump" / "index.html").exists()


def test_a_report_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    result = inspect(write_dump(tmp_path), "--no-open", "--report", tmp_path / "report.json")
    assert (result.exit_code, "missing" in result.output) == (2, True)


def test_a_folder_without_a_dump_ends_with_2_and_says_how_to_get_one(tmp_path: Path) -> None:
    result = inspect(tmp_path, "--no-open")
    assert result.exit_code == 2
    assert "holds no dump" in result.output
    assert "--dump DIR" in result.output


def test_another_format_and_damaged_json_end_with_2(tmp_path: Path) -> None:
    assert inspect(write_dump(tmp_path, format=7), "--no-open").exit_code == 2
    (tmp_path / "dump.json").write_text("{")
    assert inspect(tmp_path, "--no-open").exit_code == 2


def test_without_model_explorer_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_explorer", None)
    result = inspect(write_dump(tmp_path), "--model-explorer")
    assert result.exit_code == 2
    assert "pip install ai-edge-model-explorer" in result.output


def test_model_explorer_is_given_the_graph_after_each_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    shown: list[dict[str, Any]] = []
    given: list[dict[str, str]] = []

    def visualize(model_paths: list[str], node_data: list[dict[str, str]]) -> None:
        given.extend(node_data)
        shown.extend(json.loads(Path(path).read_text("utf-8")) for path in model_paths)

    monkeypatch.setitem(sys.modules, "model_explorer", SimpleNamespace(visualize=visualize))
    (write_dump(tmp_path) / "overlay-bytes.json").write_text("{}")
    result = inspect(tmp_path, "--model-explorer")
    assert result.exit_code == 0, result.output
    assert given == [{"node_data_path": str(tmp_path / "overlay-bytes.json")}]
    (collection,) = shown
    # Without a label its page says that it does not know the format.
    assert collection["label"] == "a <b>plain</b> decoder"
    assert [graph["id"] for graph in collection["graphs"]] == [
        "00-trace",
        "01-fuse",
        "03-prefill_16",
        "04-decode",
        "05-decode-in-the-file",
    ]
    assert all(graph["nodes"] for graph in collection["graphs"])
    assert opened == []
