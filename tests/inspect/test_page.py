"""The page as text: one file with everything in it."""

import base64
import gzip
import json
import re
from pathlib import Path

from autoconvert.inspect.dump import read_dump
from autoconvert.inspect.page import SCRIPTS, page, page_data
from autoconvert.report.progress import StageTime
from tests.inspect.dumps import write_dump


def test_the_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    text = page(read_dump(write_dump(tmp_path)))
    assert not re.search(r"(src|href)=|@import|url\(|fetch\(|XMLHttpRequest", text)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert "default-src 'none'" in text


def test_the_name_of_the_model_is_text_in_it(tmp_path: Path) -> None:
    text = page(read_dump(write_dump(tmp_path)))
    assert "<title>a &lt;b&gt;plain&lt;/b&gt; decoder" in text


def test_the_data_in_the_page_are_what_the_dump_says(tmp_path: Path) -> None:
    dump = read_dump(write_dump(tmp_path))
    packed = re.search(r'id="data">([^<]*)<', page(dump))
    assert packed
    assert json.loads(gzip.decompress(base64.b64decode(packed[1]))) == json.loads(json.dumps(page_data(dump)))


def test_two_pages_of_one_dump_are_equal(tmp_path: Path) -> None:
    folder = write_dump(tmp_path)
    assert page(read_dump(folder)) == page(read_dump(folder))


def test_a_node_that_a_pass_leaves_alone_is_stored_once(tmp_path: Path) -> None:
    data = page_data(read_dump(write_dump(tmp_path, layers=2)))
    names = [node[0] for node in data["nodes"]]
    left = [data["graphs"][stem][0] for stem in ("00-trace", "01-fuse")]
    assert [names[number] for number in left] == ["tokens", "tokens"]
    assert left[0] == left[1] != data["graphs"]["04-decode"][0]


def test_signatures_are_compared_with_the_last_pass_and_not_with_each_other(tmp_path: Path) -> None:
    passes = {each["name"]: each for each in page_data(read_dump(write_dump(tmp_path)))["passes"]}
    assert {name: each["before"] for name, each in passes.items()} == {
        "trace": None,
        "fuse": "00-trace",
        "cumsum-to-scan": "01-fuse",
        "prefill_16": "01-fuse",
        "decode": "01-fuse",
        "decode in the file": "04-decode",
    }
    assert passes["cumsum-to-scan"]["graph"] == "01-fuse"


def test_times_are_only_in_the_page_where_they_were_given(tmp_path: Path) -> None:
    dump = read_dump(write_dump(tmp_path))
    assert page_data(dump)["stages"] == []
    stages = (StageTime("trace", 6.8, "164 nodes"),)
    assert page_data(dump, stages)["stages"] == [{"name": "trace", "seconds": 6.8, "note": "164 nodes"}]


def test_every_script_of_the_folder_is_in_the_page(tmp_path: Path) -> None:
    folder = Path(page.__code__.co_filename).parent / "page"
    assert {path.name for path in folder.glob("*.js")} == set(SCRIPTS)
