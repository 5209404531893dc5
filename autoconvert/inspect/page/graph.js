// The graph before and after a pass as one list of rows, of which only those in sight are elements.

const ROW_HEIGHT = 22;
const MARKS = { removed: "−", added: "+", changed: "~", rewired: "·", kept: "" };

function graphView(page, place) {
  const head = element("div.head"),
    list = element("div.rows", { tabindex: "0", role: "tree", "aria-label": "Modules and nodes" });
  const space = element("div.space"),
    shown = new Map();
  list.append(space);
  let compared,
    tree,
    rows,
    index,
    hovered = null;
  const trees = new Map(),
    toggled = new Map();
  const sidesOf = () => [compared.before ?? compared.after, compared.after];
  const passKey = (item) => `${page.state.pass}/${item.path.join("/")}`;
  const open = (item, byDefault) => toggled.get(passKey(item)) ?? byDefault;

  function show() {
    const { pass } = page.state;
    compared = comparison(page.data, page.data.passes[pass]);
    if (!trees.has(pass)) trees.set(pass, differenceTree(compared));
    tree = trees.get(pass);
    index = matchIndex(compared.matches);
    list.classList.toggle("single", !compared.before);
    place.replaceChildren(head, list);
    drawHead();
    layout();
    list.scrollTop = 0;
    reveal();
  }

  function drawHead() {
    const pass = page.data.passes[page.state.pass];
    const counts = STATUSES.filter((status) => tree.changes[status]).map((status) =>
      element(`span.chip.${status}`, {}, `${MARKS[status]} ${grouped(tree.changes[status])} ${status}`),
    );
    const all = element("input", {
      type: "checkbox",
      onchange: () => {
        page.everything = all.checked;
        layout();
      },
    });
    all.checked = page.everything;
    const nothing = page.state.pass > 0 && !pass.file;
    head.replaceChildren(
      element("h2", {}, pass.name),
      element(
        "span.quiet",
        {},
        nothing
          ? `changed nothing, ${plural(pass.nodes, "node")}`
          : compared.before
            ? `${plural(compared.before.nodes.length, "node")} → ${grouped(compared.after.nodes.length)}`
            : plural(compared.after.nodes.length, "node"),
      ),
      ...counts,
      element("span.stretch"),
      figures(),
      compared.before ? element("label.toggle", {}, all, "unchanged too") : "",
      link("open all", () => toggleAll(true)),
      link("close all", () => toggleAll(false)),
    );
  }

  function figures() {
    const known = Object.keys(FIGURES).filter(
      (name) => !FIGURES[name] || figureOf(tree, 0, name) || figureOf(tree, 1, name),
    );
    if (!known.includes(page.figure)) page.figure = "type";
    const select = element(
      "select",
      {
        "aria-label": "At the end of a row",
        onchange: () => {
          page.figure = select.value;
          layout();
        },
      },
      known.map((name) => element("option", { selected: name === page.figure }, name)),
    );
    return known.length > 1 ? select : "";
  }

  function toggleAll(state) {
    const visit = (module) => {
      for (const item of [...folded(module, ...sidesOf()), ...(module.gapped ?? [])])
        if (item.kind !== "row") toggled.set(passKey(item), state);
      for (const below of module.modules.values()) {
        toggled.set(passKey(below), state);
        visit(below);
      }
    };
    visit(tree);
    layout();
  }

  function layout() {
    rows = visibleRows(tree, ...sidesOf(), open, page.everything);
    space.style.height = `${rows.length * ROW_HEIGHT}px`;
    shown.clear();
    space.replaceChildren();
    draw();
  }

  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 12);
    const last = Math.min(rows.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + 12);
    for (const [number, drawn] of shown)
      if (number < first || number >= last) {
        drawn.remove();
        shown.delete(number);
      }
    for (let number = first; number < last; number += 1)
      if (!shown.has(number)) {
        const drawn = drawRow(rows[number]);
        drawn.style.top = `${number * ROW_HEIGHT}px`;
        shown.set(number, drawn);
        space.append(drawn);
      }
    mark();
  }

  const indent = (depth) => `padding-left:${8 + depth * 14}px`;

  function drawRow({ kind, depth, item, isOpen }) {
    if (kind === "row") {
      const cells = item.sides.map((node, side) => nodeCell(node, side, item, depth));
      return element(
        "div.row",
        { role: "treeitem", "aria-level": depth + 1 },
        ...(compared.before ? cells : cells.slice(1)),
      );
    }
    const toggle = () => {
      toggled.set(passKey(item), !isOpen);
      layout();
    };
    const name = kind === "module" ? item.name : kind === "fold" ? foldText(item) : "unchanged";
    const counts = [0, 1].map((side) => nodesIn(item, side));
    const changes = kind === "module" ? item.changes : kind === "fold" ? item.like.changes : {};
    const cell = (side) =>
      counts[side]
        ? element(
            "span.cell",
            { style: indent(depth) },
            element("span.arrow", {}, isOpen ? "▾" : "▸"),
            element("span.name", {}, name),
            element("span.count", {}, grouped(counts[side])),
            end(item, side),
          )
        : element("span.cell");
    const badges = element(
      "span.badges",
      {},
      STATUSES.filter((s) => changes[s] && s !== "rewired").map((status) =>
        element(`span.${status}`, {}, `${MARKS[status]}${grouped(changes[status])}`),
      ),
    );
    return element(
      `div.row.${kind}`,
      {
        role: "treeitem",
        "aria-level": depth + 1,
        "aria-expanded": String(Boolean(isOpen)),
        onclick: toggle,
        "data-path": item.path.join("."),
        title:
          kind === "module"
            ? moduleText(item.path)
            : kind === "gap"
              ? null
              : `the same operations, shapes and changes as in ${moduleText(item.like.path)}`,
      },
      ...(compared.before ? [cell(0), cell(1)] : [cell(1)]),
      isOpen || page.figure !== "type" ? "" : badges,
    );
  }

  function nodeCell(node, side, item, depth) {
    if (!node) return element("span.cell.none");
    const status = item.marks[side];
    const short = shortName(node),
      rest = short.startsWith(node.operation) ? short.slice(node.operation.length) : null;
    const name =
      rest === null
        ? [element("b", {}, short), element("span.suffix", {}, ` ${node.operation}`)]
        : [element("b", {}, node.operation), element("span.suffix", {}, rest)];
    return element(
      `span.cell.node.${status}${node.attributes.block ? ".block" : ""}${node.isInput ? ".input" : ""}`,
      {
        style: indent(depth),
        "data-node": node.name,
        "data-side": side,
        title: item.same && status === "rewired" ? "the same, on other inputs" : null,
        onclick: () => page.go({ node: node.name, side, pattern: null }),
        onmouseenter: () => {
          hovered = [node.name, side];
          mark();
        },
        onmouseleave: () => {
          hovered = null;
          mark();
        },
      },
      element("span.mark", { "aria-label": status }, MARKS[status]),
      element("span.op", {}, ...name),
      element("span.arguments", {}, argumentsText(node, sidesOf()[side])),
      end(item, side) ?? element("span.type", {}, typeText(node)),
    );
  }

  /** A figure where one was chosen instead of the type. */
  const end = (item, side) =>
    page.figure === "type"
      ? null
      : measured(item, side, page.figure, Math.max(figureOf(tree, 0, page.figure), figureOf(tree, 1, page.figure)));

  /** Colours what belongs to the node under the pointer or the chosen one. */
  function mark() {
    const chosen = page.state.node ? [page.state.node, page.state.side] : null;
    const linked = linkedTo(hovered ?? chosen, index);
    const paths = new Set(
      linked.flatMap((names, side) =>
        [...names].flatMap((name) => {
          const path = sidesOf()[side].byName.get(name)?.path ?? [];
          return path.map((_, depth) => path.slice(0, depth + 1).join("."));
        }),
      ),
    );
    for (const drawn of shown.values())
      if (drawn.dataset.path !== undefined) drawn.classList.toggle("holds", paths.has(drawn.dataset.path));
      else
        for (const cell of drawn.querySelectorAll(".node")) {
          const { node, side } = cell.dataset;
          cell.classList.toggle("linked", linked[side].has(node));
          cell.classList.toggle("chosen", Boolean(chosen) && node === chosen[0] && Number(side) === chosen[1]);
        }
  }

  /** Opens what hides the chosen node and scrolls to it. */
  function reveal() {
    const { node: name, side } = page.state;
    const node = name && sidesOf()[side].byName.get(name);
    if (!node) return mark();
    const find = () => rows.findIndex((r) => r.kind === "row" && r.item.sides[side] === node);
    if (find() < 0) {
      for (const item of above(tree, node, ...sidesOf())) toggled.set(passKey(item), true);
      layout();
    }
    const top = find() * ROW_HEIGHT;
    if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 2 * ROW_HEIGHT)
      list.scrollTop = Math.max(0, top - list.clientHeight / 3);
    draw();
  }

  /** Chooses the next node that is in the list, or the one before. */
  function step(by) {
    const { node, side } = page.state;
    let at = rows.findIndex((r) => r.kind === "row" && r.item.sides[side]?.name === node);
    if (at < 0) at = by > 0 ? -1 : rows.length;
    for (at += by; at >= 0 && at < rows.length; at += by) {
      if (rows[at].kind !== "row") continue;
      const there = rows[at].item.sides[side] ? side : 1 - side;
      return page.go({ node: rows[at].item.sides[there].name, side: there, pattern: null });
    }
  }

  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (list.isConnected) draw();
    });
  };
  list.addEventListener("scroll", later, { passive: true });
  new ResizeObserver(later).observe(list);
  return { show, reveal, step };
}

function foldText({ like, modules }) {
  const [first, last] = [modules[0].name, modules.at(-1).name];
  const parent = like.parent.name;
  const one = parent.replace(/s$/, "");
  const all = modules.length > 1 ? `${parent} ${first}–${last}` : `${one} ${first}`;
  return `${all} like ${one} ${like.name}`;
}

/** The matches by the names on each side: replaced ones on the left, the new node on the right. */
function matchIndex(matches) {
  const sides = [new Map(), new Map()];
  for (const match of matches) {
    for (const name of match.replaced) sides[0].set(name, match);
    if (match.node) sides[1].set(match.node, match);
  }
  return sides;
}

/** What belongs together with a node: a region and what replaces it, or the node on both sides. */
function linkedTo(chosen, index) {
  if (!chosen) return [new Set(), new Set()];
  const match = index[chosen[1]].get(chosen[0]);
  return match ? [new Set(match.replaced), new Set([match.node])] : [new Set([chosen[0]]), new Set([chosen[0]])];
}
