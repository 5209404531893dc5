// The page: what is shown is the state, the state is in the address, and every change goes through `go`.

const VIEWS = ["graph", "weights", "checks"];
const THEMES = ["dark", "light"];

function stateFrom(hash, data) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const [stem, refused] = data.refused ?? [];
  const first = data.passes.findIndex((pass) => (stem ? pass.graph === stem : pass.matches.length));
  return {
    pass: data.passNamed.get(given.get("pass")) ?? Math.max(0, first),
    node: given.get("node") ?? (given.has("pass") ? null : refused),
    side: given.get("side") === "before" ? 0 : 1,
    pattern: given.get("pattern"),
    view: VIEWS.includes(given.get("view")) ? given.get("view") : "graph",
  };
}

function hashOf(state, data) {
  const parts = {
    pass: data.passes[state.pass].name,
    node: state.node,
    side: state.node && state.side === 0 ? "before" : null,
    pattern: state.pattern,
    view: state.view === "graph" ? null : state.view,
  };
  return `#${new URLSearchParams(Object.entries(parts).filter(([, value]) => value))}`;
}

function start(data) {
  const at = (selector) => document.querySelector(selector);
  const page = { data, state: stateFrom(location.hash, data), everything: false, figure: "type", go, goTo };
  at("h1").append(element("span.product", {}, "autoconvert"), data.model, element("span.quiet", {}, told(data)));
  if (!data.passes.length) {
    // A model that could not be traced has checks alone.
    at("main").dataset.view = "checks";
    at(".search").hidden = true;
    return drawChecks(page, at(".view"));
  }
  const graph = graphView(page, at(".view"));
  const search = searchBox(page, at(".search"));
  let shown = {};

  function go(changes) {
    page.state = { ...page.state, ...changes };
    const hash = hashOf(page.state, data);
    if (hash !== location.hash) history.pushState(null, "", hash);
    draw();
  }

  /** Shows a pass, and of the chosen node what it was there, or became. */
  function goTo(pass) {
    const { node, side, pass: from } = page.state;
    const at = passOfSide(data, from, side);
    go({ pass, node: node && followed(data, node, at, pass), side: 1, pattern: null, view: "graph" });
  }

  function draw() {
    const { pass, view } = page.state;
    at("main").dataset.view = view;
    if (view === "graph") {
      if (shown.pass !== pass || shown.view !== view) graph.show();
      else graph.reveal();
      drawDetails(page, at("aside"));
    } else if (shown.view !== view) (view === "weights" ? drawWeights : drawChecks)(page, at(".view"));
    if (shown.pass !== pass) drawStrip(page, at(".strip"), at(".times"));
    if (shown.view !== view) drawViews();
    shown = { pass, view };
  }

  function drawViews() {
    const failed = data.checks.some((check) => !check.passed);
    at(".views").replaceChildren(
      ...VIEWS.map((view) =>
        element(
          `button${view === "checks" && failed ? ".failed" : ""}`,
          {
            type: "button",
            role: "tab",
            "aria-selected": String(view === page.state.view),
            "data-view": view,
            onclick: () => go({ view }),
          },
          view === "checks" && failed ? "checks: failed" : view,
        ),
      ),
    );
  }

  const keys = {
    ArrowLeft: () => page.state.pass > 0 && page.goTo(page.state.pass - 1),
    ArrowRight: () => page.state.pass < data.passes.length - 1 && page.goTo(page.state.pass + 1),
    ArrowDown: () => page.state.view === "graph" && graph.step(1),
    ArrowUp: () => page.state.view === "graph" && graph.step(-1),
    Escape: () => go({ node: null, pattern: null }),
    "/": () => search.focus(),
    t: () => at(".theme").click(),
  };
  document.addEventListener("keydown", (event) => {
    const scrolls = event.target.closest("aside, .bars, .checks") && /^Arrow(Up|Down)$/.test(event.key);
    if (
      event.target.matches("input[type=search], select") ||
      scrolls ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      !keys[event.key]
    )
      return;
    event.preventDefault();
    keys[event.key]();
  });
  addEventListener("popstate", () => {
    page.state = stateFrom(location.hash, data);
    draw();
  });

  draw();
}

/** Dark or light as the system has it, until the button says otherwise. */
function themed() {
  const button = document.querySelector(".theme"),
    system = matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");
  const show = () => {
    const other = THEMES.find((theme) => theme !== current());
    button.textContent = other;
    button.setAttribute("aria-label", `Switch to the ${other} theme`);
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = THEMES.find((theme) => theme !== current());
    show();
  });
  system.addEventListener("change", show);
  show();
}

themed();
readData(document.getElementById("data").textContent)
  .then(start)
  .catch((error) => {
    document
      .querySelector("main")
      .replaceChildren(
        element("p.empty", {}, `This page cannot be shown: ${error.message}. A browser of 2024 or later is needed.`),
      );
    throw error;
  });
