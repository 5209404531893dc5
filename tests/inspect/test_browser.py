"""The page in a browser: what a person clicks and types, without a network."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from autoconvert.driver.convert import convert
from autoconvert.inspect.dump import read_dump
from autoconvert.inspect.file import read_file
from autoconvert.inspect.page import page as page_text
from autoconvert.report.progress import StageTime
from tests.inspect.dumps import write_dump
from tests.models import tiny_llama

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

NORM = "model_layers_1_norm_rms_norm"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of 1 298 nodes."""
    folder = write_dump(tmp_path_factory.mktemp("dump"), layers=16)
    stages = [StageTime("trace", 6.8, ""), StageTime("rewrite", 7.4, ""), StageTime("link", 12.0, "3.6 MB")]
    path = folder / "index.html"
    path.write_text(page_text(read_dump(folder), stages), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """An open page; nothing may be said on the console or asked from a network until the test ends."""
    shown = browser.new_page(viewport={"width": 1400, "height": 900})
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: said.append(request.url) if not request.url.startswith(address) else None)
    shown.goto(address)
    expect(shown.locator(".row").first).to_be_visible()
    yield shown
    shown.close()
    assert said == []


def node(page: Page, name: str, side: int = 1) -> str:
    return f'.node[data-node="{name}"][data-side="{side}"]'


def test_1300_nodes_are_shown_within_two_seconds(browser: Browser, address: str) -> None:
    page = browser.new_page()
    begun = time.perf_counter()
    page.goto(address)
    expect(page.locator(".node").first).to_be_visible()
    assert time.perf_counter() - begun < 2
    page.close()


def test_the_first_pass_that_found_blocks_is_shown_first(page: Page) -> None:
    expect(page.locator(".step[aria-current]")).to_have_text("fuse1\u2009298 → 1\u200921816 blocks")
    expect(page.locator(".head h2")).to_have_text("fuse")
    expect(page.locator(".chip.removed")).to_have_text("− 96 removed")
    expect(page.locator(".chip.added")).to_have_text("+ 16 added")


def test_identical_layers_are_one_line_that_unfolds(page: Page) -> None:
    expect(page.locator(".row.fold")).to_have_count(1)
    expect(page.locator(".row.fold .name").first).to_have_text("layers 1–15 like layer 0")
    page.click(".row.fold")
    page.click('.row[data-path="model.layers.1"]')
    expect(page.locator(node(page, NORM))).to_be_visible()
    page.click(".row.fold")
    expect(page.locator(node(page, NORM))).to_have_count(0)


def test_a_block_shows_its_region_its_pattern_and_the_line_of_the_model(page: Page) -> None:
    page.click(node(page, "model_layers_0_norm_rms_norm"))
    details = page.locator("aside")
    expect(details).to_contain_text("In place of 6 nodes")
    expect(details.locator(".line.wanted").first).to_have_text("41    x = self.norm(x)")
    expect(page.locator(".node.linked[data-side='0']")).to_have_count(6)
    expect(details.locator("svg.neighbourhood .centre")).to_have_count(1)
    details.locator('[data-pattern="rms_norm"]').first.click()
    expect(details).to_contain_text("16 times in fuse")
    expect(details.locator(".line.wanted")).to_contain_text("def _rms(x, weight, eps):")
    details.locator('[data-to="model_layers_0_norm_mean"]').click()
    expect(page.locator(node(page, "model_layers_0_norm_mean", 0))).to_have_class("cell node removed linked chosen")
    expect(details).to_contain_text("Replaced by")


def test_an_operation_of_the_file_leads_to_its_line_and_its_node_and_back(page: Page) -> None:
    page.click('.step[data-pass="decode in the file"]')
    page.click(node(page, "model_layers_0_norm_rsqrt"))
    details = page.locator("aside")
    expect(details.locator(".line.wanted").first).to_have_text("41    x = self.norm(x)")
    details.locator('[data-to="model_layers_0_norm_rms_norm"]').first.click()
    expect(details).to_contain_text("Becomes")
    details.locator('[data-to="model_layers_0_norm_mul"]').first.click()
    expect(details.locator("h2")).to_have_text("mul")


def test_a_chosen_node_is_followed_through_the_passes(page: Page) -> None:
    page.click(node(page, "model_layers_0_norm_rms_norm"))
    heading = page.locator("aside h2")
    for name, operation in (
        ("prefill_16", "rms_norm"),
        ("decode in the file", "rsqrt"),
        ("decode", "rms_norm"),
        ("trace", "mul"),
        ("fuse", "rms_norm"),
    ):
        page.click(f'.step[data-pass="{name}"]')
        expect(page.locator(".head h2")).to_have_text(name)
        expect(heading).to_have_text(operation)
        assert "node=" in page.url
    details = page.locator("aside")
    details.locator('[data-to="model_layers_0_norm_mean"]').first.click()
    page.keyboard.press("ArrowLeft")
    expect(heading).to_have_text("mean")


def test_a_length_that_has_become_a_number_is_no_change(page: Page) -> None:
    page.click('.step[data-pass="prefill_16"]')
    expect(page.locator(".head h2")).to_have_text("prefill_16")
    assert not re.search(r"\d (changed|removed|added)", page.locator(".head").first.inner_text())
    page.click('.step[data-pass="fuse"]')
    expect(page.locator(".head").first).to_contain_text("removed")


def tried_at(page: Page, step: str, name: str) -> Locator:
    """What the page says of the patterns that were tried on a node."""
    page.goto(f"{page.url.partition('#')[0]}#pass={step}&node={name}")
    return page.locator("aside section", has_text="Patterns tried here")


def test_a_node_says_which_patterns_were_tried_on_it_and_how_far_they_got(page: Page) -> None:
    tried = tried_at(page, "fuse", "model_layers_0_mlp_relu_5")
    expect(tried.locator("li").first).to_contain_text("maxout4 of 4 operationshalves differ")
    expect(tried.locator("li").last).to_contain_text("squared_relu2 of 3 operations")
    expect(tried).to_contain_text("1 other pattern that ends in relu had nothing else in common: gated_feed_forward.")
    tried.locator('[data-to="model_layers_0_mlp_relu_3"]').click()
    expect(tried.locator("li")).to_contain_text("at model_layers_0_mlp_relu_5: the pattern expects mul")
    expect(tried).to_contain_text("3 patterns that end in relu had nothing else in common")


def test_what_a_node_becomes_says_what_was_tried_on_it(page: Page) -> None:
    expect(tried_at(page, "decode", "model_layers_0_mlp_relu_4").locator("li")).to_contain_text("squared_relu")
    expect(tried_at(page, "fuse", "model_embedding")).to_contain_text("1 pattern that ends in embedding")
    # A block has its pattern, and an input computes nothing.
    expect(tried_at(page, "fuse", "model_layers_0_norm_rms_norm")).to_have_count(0)
    expect(tried_at(page, "fuse", "tokens")).to_have_count(0)


def test_a_file_alone_has_a_step_for_each_signature(browser: Browser, tmp_path: Path) -> None:
    made = convert(tiny_llama(), tmp_path, context=32, prefill=(4,), formats=("tflite",), verify="off")
    address = tmp_path / "page.html"
    address.write_text(page_text(read_file(made.files["tflite"])), encoding="utf-8")
    page = browser.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address.as_uri())
    expect(page.locator(".step")).to_have_count(2)
    page.goto(f"{address.as_uri()}#pass=decode&node=model_layers_0_mlp_down_proj_FULLY_CONNECTED")
    page.reload()
    expect(page.locator(".head h2")).to_have_text("decode")
    expect(page.locator("aside")).to_contain_text("keep_num_dims=True")
    page.click('[data-view="weights"]')
    expect(page.locator(".key").first).to_contain_text("i8")
    page.click('[data-view="checks"]')
    expect(page.locator(".head")).to_contain_text("nothing was compared with the model")
    assert said == []
    page.close()


def test_the_address_keeps_what_is_shown(page: Page, address: str) -> None:
    page.goto(f"{address}#pass=fuse&node={NORM}")
    page.reload()
    expect(page.locator(node(page, NORM))).to_be_visible()
    expect(page.locator("aside h2")).to_have_text("rms_norm")
    page.click('[data-to="model_layers_1_norm_weight"]')
    assert "node=model_layers_1_norm_weight" in page.url
    page.go_back()
    expect(page.locator("aside h2")).to_have_text("rms_norm")


def test_search_finds_by_every_word_and_opens_what_hides_the_node(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("layers.9 modeling_plain relu_73")
    expect(page.locator(".result")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator(node(page, "model_layers_9_mlp_relu_73"))).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("nothing like this")
    expect(page.locator(".results")).to_have_text("no node has all of these words")
    page.keyboard.press("Escape")
    expect(page.locator(".results")).to_be_hidden()


def test_arrows_go_from_pass_to_pass_and_from_node_to_node(page: Page) -> None:
    for expected in ("cumsum-to-scan", "prefill_16", "decode", "decode in the file", "decode in the file"):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".head h2")).to_have_text(expected)
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    expect(page.locator(".head h2")).to_have_text("trace")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".node.chosen")).to_have_attribute("data-node", "tokens")


def test_only_rows_in_sight_are_elements(page: Page) -> None:
    page.click("text=unchanged too")
    page.click("text=open all")
    assert page.locator(".space").evaluate("space => space.offsetHeight") > 22 * 1298
    assert page.locator(".row").count() < 100
    page.locator(".rows").evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
    expect(page.locator(node(page, "model_layers_15_mlp_relu_73"))).to_be_visible()
    assert page.locator(".row").count() < 100


def test_times_are_below_the_passes(page: Page) -> None:
    expect(page.locator('[data-pass="trace"]')).to_contain_text("6.8 s")
    expect(page.locator(".times .stage").last).to_have_text("link 12.0 s")
    expect(page.locator(".times .total")).to_have_text("26.2 s in all")


def test_weights_are_bars_by_layer_and_dtype(page: Page) -> None:
    page.click('[data-view="weights"]')
    expect(page.locator(".bar")).to_have_count(16)
    expect(page.locator(".part")).to_have_count(32)
    expect(page.locator(".key").first).to_contain_text("int8 16.0 MB, 95.2 %")
    page.locator(".part").first.hover()
    expect(page.locator(".tip")).to_have_text("mlp · int8 · 1.0 MB")


def test_a_figure_may_stand_in_place_of_the_type_summed_over_modules(page: Page) -> None:
    page.select_option("select", "multiply-adds")
    expect(page.locator('.row[data-path="model.layers.0"] .measured').first).to_have_text("5.9 k")
    expect(page.locator('.row[data-path="model.layers"] .measured').first).to_have_text("94.7 k")
    expect(page.locator(".row.fold .measured").first).to_have_text("88.8 k")


def test_a_model_that_could_not_be_traced_has_its_refusal_alone(browser: Browser, tmp_path: Path) -> None:
    refusal = {"name": "trace", "passed": False, "detail": "The code branches on the values of tokens."}
    folder = write_dump(tmp_path, layers=1, passes=[], checks=[refusal], bytes=[], context=0, way="")
    (folder / "index.html").write_text(page_text(read_dump(folder)), encoding="utf-8")
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri())
    expect(page.locator(".check.failed")).to_contain_text("branches on the values of tokens")
    expect(page.locator(".head")).to_contain_text("1 of 1 failed")
    page.close()


def test_a_refused_dump_opens_at_the_node_that_was_refused(browser: Browser, tmp_path: Path) -> None:
    refused = {"file": "00-trace", "node": "model_layers_0_norm_mean"}
    folder = write_dump(tmp_path, layers=1, refused=refused)
    (folder / "index.html").write_text(page_text(read_dump(folder)), encoding="utf-8")
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri())
    expect(page.locator(".head h2")).to_have_text("trace")
    expect(page.locator("aside h2")).to_have_text("mean")
    expect(page.locator(".node.chosen")).to_have_attribute("data-node", "model_layers_0_norm_mean")
    page.close()


def test_a_pass_says_what_it_does_and_costs_say_what_they_assume(page: Page) -> None:
    expect(page.locator("aside")).to_contain_text("What fuse does.")
    page.keyboard.press("/")
    page.keyboard.type("layers.0 modeling_plain relu_73")
    page.keyboard.press("Enter")
    expect(page.locator("aside")).to_contain_text("80 for s = 1")


def test_checks_say_what_they_compared(page: Page) -> None:
    page.click('[data-view="checks"]')
    expect(page.locator(".check")).to_have_count(2)
    expect(page.locator(".check").first).to_contain_text("logits within 4.8e-06 σ")


def test_text_of_a_dump_is_never_markup(page: Page) -> None:
    expect(page.locator("h1")).to_contain_text("a <b>plain</b> decoder")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast_in_both_themes(page: Page, theme: str) -> None:
    if page.locator(".theme").inner_text() == theme:
        page.keyboard.press("t")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) > 3 * 128) == (theme == "light")
    assert page.evaluate(_CONTRASTS) == []


def test_every_node_of_both_graphs_stands_once_in_the_tree(page: Page) -> None:
    assert page.evaluate(_NODES_NOT_ONCE) == []


@pytest.mark.parametrize("width", [900, 1100, 1400])
@pytest.mark.parametrize("shown", ["pass=fuse", "pass=decode+in+the+file", "view=weights", "view=checks"])
def test_nothing_is_wider_than_the_window(page: Page, address: str, width: int, shown: str) -> None:
    page.set_viewport_size({"width": width, "height": 860})
    page.goto(f"{address}#{shown}")
    page.reload()
    expect(page.locator("h1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(_CUT_OFF) == []


# What stands in a head and ends behind it.
_CUT_OFF = """() => [...document.querySelectorAll(".head")].flatMap((head) =>
  [...head.querySelectorAll("*")].filter((each) =>
    each.getBoundingClientRect().right > head.getBoundingClientRect().right).map((each) => each.textContent))"""

# The passes in whose tree a node of the graph before or after is missing, or stands twice.
_NODES_NOT_ONCE = """async () => {
  const data = await readData(document.getElementById("data").textContent);
  const standing = (module, side) => module.items.flatMap((item) =>
    item.kind === "module" ? standing(item, side) : item.sides[side] ? [item.sides[side].name] : []);
  return data.passes.filter((pass) => {
    const compared = comparison(data, pass), tree = differenceTree(compared);
    const graphs = [compared.before ?? compared.after, compared.after];
    return graphs.some((graph, side) =>
      JSON.stringify(standing(tree, side).sort()) !== JSON.stringify([...graph.byName.keys()].sort()));
  }).map((pass) => pass.name);
}"""

# The pairs of roles that stand on each other and whose contrast is less than WCAG 2 asks of text, 4.5.
_CONTRASTS = """() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const light = (role) => {
    probe.style.color = `var(${role})`;
    const parts = getComputedStyle(probe).color.match(/\\d+/g).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const grounds = ["--ground", "--panel", "--faint"];
  const pairs = [...["--text", "--quiet", "--link", "--accent"].flatMap((role) => grounds.map((on) => [role, on])),
    ...["removed", "added", "changed"].flatMap((role) => ["text", role].map((on) => [`--${on}`, `--${role}-ground`])),
    ["--text", "--chosen"], ["--quiet", "--raised"]];
  return pairs.filter(([a, b]) => Math.max(light(a), light(b)) / Math.min(light(a), light(b)) < 4.5);
}"""
