// Which rows of the tree are shown: modules open and close, identical numbered ones are one line.

/** Text that is equal for modules that compute the same, whatever they are called; `top` is the numbered one. */
function signature(module, left, right, top = module.path) {
  const inside = (node) => top.every((name, depth) => node.path[depth] === name);
  const of = (node, graph) => {
    if (!node) return "";
    const given = (node.attributes.arguments ?? "").replace(/%(\w+)/g, (whole, name) => {
      const other = graph.byName.get(name);
      if (!other) return whole;
      return inside(other) ? `${moduleText(other.path.slice(top.length))}.${other.operation}` : typeText(other);
    });
    const { source, block, detail = "" } = node.attributes;
    return [node.operation, typeText(node), given, source, block, detail.startsWith("weight") ? "" : detail].join("|");
  };
  return module.items
    .map((item) =>
      item.kind === "module"
        ? `${item.name}(${signature(item, left, right, top)})`
        : `${item.statuses}:${of(item.sides[0], left)}>${of(item.sides[1], right)}`,
    )
    .join("\n");
}

/** The items of a module; a run of numbered ones like an earlier one is { kind: "fold", like, modules }. */
function folded(module, left, right) {
  if (module.folded) return module.folded;
  const seen = new Map(),
    found = [];
  for (const item of module.items) {
    if (item.kind !== "module" || !/^\d+$/.test(item.name)) {
      found.push(item);
      continue;
    }
    const text = signature(item, left, right);
    const like = seen.get(text);
    const last = found.at(-1);
    if (!like) {
      seen.set(text, item);
      found.push(item);
    } else if (last?.kind === "fold" && last.like === like) last.modules.push(item);
    else found.push({ kind: "fold", like, modules: [item], path: [...module.path, `like ${item.name}`] });
  }
  return (module.folded = found);
}

// So many rows around a change stay in sight; what lies further away is one line from so many rows on.
const CONTEXT = 2,
  LEAST_GAP = 4;

const isCalm = (item) =>
  item.kind === "row"
    ? item.statuses.every((status) => status === "kept" || status === "rewired")
    : item.kind === "fold"
      ? !item.like.differs
      : !item.differs;

const nodesIn = (item, side = 1) =>
  item.kind === "row"
    ? +!!item.sides[side]
    : item.kind === "module"
      ? item.count[side]
      : (item.modules ?? item.items).reduce((sum, each) => sum + nodesIn(each, side), 0);

/** The items of a module, with long runs where nothing changed as { kind: "gap", items }. */
function withGaps(module, left, right) {
  if (module.gapped) return module.gapped;
  const items = folded(module, left, right),
    found = [];
  for (let start = 0; start < items.length;) {
    let stop = start;
    while (stop < items.length && isCalm(items[stop])) stop += 1;
    const first = start + (start > 0 ? CONTEXT : 0),
      last = stop - (stop < items.length ? CONTEXT : 0);
    if (last - first >= LEAST_GAP) {
      const hidden = items.slice(first, last);
      found.push(
        ...items.slice(start, first),
        { kind: "gap", items: hidden, path: [...module.path, `gap ${first}`] },
        ...items.slice(last, stop),
      );
    } else found.push(...items.slice(start, stop));
    if (stop < items.length) found.push(items[stop]);
    start = stop + 1;
  }
  return (module.gapped = found);
}

/** The rows that are shown. `open(item, byDefault)` decides what is; with `everything` unchanged nodes are too. */
function visibleRows(root, left, right, open, everything) {
  const compared = root.differs,
    rows = [];
  const visit = (items, depth) => {
    for (const item of items) {
      if (item.kind === "row") rows.push({ kind: "row", depth, item });
      else if (item.kind === "module") enter(item, depth, !compared || item.differs);
      else {
        const isOpen = open(item, false);
        rows.push({ kind: item.kind, depth, item, isOpen });
        if (!isOpen) continue;
        if (item.kind === "gap") visit(item.items, depth);
        else for (const each of item.modules) enter(each, depth, false);
      }
    }
  };
  const itemsOf = (module) => (compared && !everything && module.differs ? withGaps : folded)(module, left, right);
  const enter = (module, depth, byDefault) => {
    const isOpen = open(module, byDefault);
    rows.push({ kind: "module", depth, item: module, isOpen });
    if (isOpen) visit(itemsOf(module), depth + 1);
  };
  visit(itemsOf(root), 0);
  return rows;
}

/** What must be open for a node to be seen. */
function above(root, node, left, right) {
  const found = [];
  let module = root;
  const through = (item) => {
    for (const gap of module.gapped ?? []) if (gap.kind === "gap" && gap.items.includes(item)) found.push(gap);
  };
  for (const name of node.path) {
    const next = module.modules.get(name);
    const fold = folded(module, left, right).find((item) => item.kind === "fold" && item.modules.includes(next));
    through(fold ?? next);
    if (fold) found.push(fold);
    found.push(next);
    module = next;
  }
  through(module.items.find((item) => item.kind === "row" && item.sides.includes(node)));
  return found;
}
