// Search in the graph of the pass: every word must be in the name, operation, module, pattern or source of a node.

const MOST_RESULTS = 200;

function searchBox(page, box) {
  const input = box.querySelector("input"),
    results = box.querySelector(".results");
  let found = [],
    at = 0;

  function search() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { before, after } = comparison(page.data, page.data.passes[page.state.pass]);
    const hits = (graph, side) =>
      graph.nodes.filter((node) => words.every((word) => searched(node).includes(word))).map((node) => [node, side]);
    const now = words.length ? hits(after, 1) : [];
    const names = new Set(now.map(([node]) => node.name));
    found = [...now, ...(words.length && before ? hits(before, 0).filter(([node]) => !names.has(node.name)) : [])];
    at = 0;
    draw();
  }

  function draw() {
    results.hidden = !input.value.trim();
    results.replaceChildren(
      element(
        "div.total",
        {},
        found.length
          ? `${plural(found.length, "node")}${found.length > MOST_RESULTS ? `, the first ${MOST_RESULTS}` : ""}`
          : "no node has all of these words",
      ),
      ...found.slice(0, MOST_RESULTS).map(([node, side], index) =>
        element(
          "div.result",
          {
            role: "option",
            "aria-selected": String(index === at),
            "data-found": node.name,
            onmousedown: (event) => {
              event.preventDefault();
              choose(index);
            },
          },
          element("b", {}, node.operation),
          element("span.module", {}, node.path.length ? `${moduleText(node.path)}.${shortName(node)}` : node.name),
          side === 0 ? element("span.removed", {}, "before") : "",
          element("span.type", {}, typeText(node)),
        ),
      ),
    );
    results.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }

  function choose(index) {
    if (!found[index]) return;
    const [node, side] = found[index];
    results.hidden = true;
    input.blur();
    page.go({ node: node.name, side, pattern: null, view: "graph" });
  }

  input.addEventListener("input", search);
  input.addEventListener("focus", search);
  input.addEventListener("blur", () => {
    results.hidden = true;
  });
  input.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (moves) at = Math.max(0, Math.min(Math.min(found.length, MOST_RESULTS) - 1, at + moves));
    if (moves) draw();
    if (moves) event.preventDefault();
    if (event.key === "Enter") choose(at);
    if (event.key === "Escape") {
      input.value = "";
      input.blur();
    }
  });
  return {
    focus: () => {
      input.focus();
      input.select();
    },
  };
}

const searched = (node) =>
  (node.searched ??= [
    node.name,
    node.operation,
    moduleText(node.path),
    node.attributes.pattern,
    node.attributes.block,
    node.attributes.source,
    node.attributes.written,
  ]
    .filter(Boolean)
    .join(" ")
    .toLowerCase());
