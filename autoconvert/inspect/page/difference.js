// The difference of two graphs as one tree of modules, whose rows hold a node of the left, of the right, or of both.

// Keys of attributes that are known about a node and do not decide what it computes.
const ABOUT = new Set([
  ...["pattern", "block", "error", "multiply-adds", "bytes", "source", "written", "computed by"],
  ...["shape", "dtype", "result", "origins"],
]);
// A size that is computed from a symbol: `s`, `2*s`, `s + 1`.
const SYMBOLIC = /^[\s\d+*-]*\bs\d*\b[\s\d+*-]*$/;
const STATUSES = ["removed", "added", "changed", "rewired"];

/** `kept`, `rewired` (the same on other inputs) or `changed`. */
function statusOf(left, right) {
  if (left.number === right.number) return "kept";
  const differs = (of) => !isSame(JSON.stringify(of(left)), JSON.stringify(of(right)));
  if (differs((n) => [n.operation, n.types, n.path])) return "changed";
  if (differs((n) => [n.inputs, n.attributes.arguments])) {
    const blank = (n) => (n.attributes.arguments ?? "").replace(/%\w+/g, "%");
    return differs(blank) ? "changed" : "rewired";
  }
  const rest = (n) => Object.entries(n.attributes).filter(([key]) => !ABOUT.has(key));
  return differs(rest) ? "changed" : "kept";
}

/** Whether two texts say the same, where a size of the right may be a number for the symbol of the left. */
function isSame(left, right) {
  if (left === right) return true;
  const [a, b] = [left, right].map((text) => text.split(/[[\](),]/));
  return (
    a.length === b.length &&
    a.every((part, index) => part === b[index] || (SYMBOLIC.test(part) && /^\s*\d+\s*$/.test(b[index])))
  );
}

/** The tree of modules for a comparison; without a graph before, all nodes are kept. */
function differenceTree({ before, after, matches }) {
  const root = moduleTree(before ?? after, after);
  const origins = after.nodes.map((node) => [node.name, originsOf(node)]).filter(([, names]) => names.length);
  finish(root, before ?? after, after, new Map([...origins, ...matches.map((match) => [match.node, match.replaced])]));
  return root;
}

function moduleTree(left, right) {
  const make = (name, parent) => ({
    name,
    parent,
    kind: "module",
    path: parent ? [...parent.path, name] : [],
    modules: new Map(),
    sides: [[], []],
  });
  const root = make("", null);
  const at = (path) =>
    path.reduce((module, name) => {
      if (!module.modules.has(name)) module.modules.set(name, make(name, module));
      return module.modules.get(name);
    }, root);
  [left, right].forEach((graph, side) => {
    const seen = new Set();
    // Inputs stand first in a graph and would order the modules as parameters are.
    for (const inputs of [false, true])
      for (const node of graph.nodes) {
        if (node.isInput !== inputs) continue;
        const module = at(node.path);
        for (let m = module; m.parent && !seen.has(m); m = m.parent) {
          seen.add(m);
          m.parent.sides[side].push(m);
        }
        module.sides[side].push(node);
      }
  });
  return root;
}

/** Orders the items of a module and counts what differs below it. */
function finish(module, left, right, replaced) {
  const [a, b] = module.sides.map(inputsFirst);
  const key = (item) => (item.kind === "module" ? `/${item.name}` : item.name);
  const inRight = new Map(b.map((item, index) => [key(item), index]));
  const anchors = increasing(a.filter((item) => inRight.has(key(item))).map((item) => [item, inRight.get(key(item))]));
  const items = [];
  const placed = new Set();
  let i = 0,
    j = 0;
  const gap = (stopLeft, stopRight) => {
    const only = (list, start, stop, others) =>
      list.slice(start, stop).filter((item) => !placed.has(key(item)) && !others(item));
    const lefts = only(a, i, stopLeft, (item) => inRight.has(key(item)));
    const rights = only(b, j, stopRight, () => false);
    const nodes = [lefts, rights].map((list) => list.filter((item) => item.kind !== "module"));
    const both = nodes[1].filter((node) => left.byName.get(node.name)?.path.join() === node.path.join());
    const added = nodes[1].filter((node) => !both.includes(node));
    for (const node of both) items.push(row(left.byName.get(node.name), node));
    items.push(...besideEachOther(nodes[0], added, replaced));
    for (const list of [lefts, rights]) items.push(...list.filter((item) => item.kind === "module"));
    for (const item of [...lefts, ...rights]) placed.add(key(item));
  };
  for (const [item, index] of anchors) {
    const position = a.indexOf(item, i);
    gap(position, index);
    if (!placed.has(key(item))) items.push(item.kind === "module" ? item : row(item, b[index]));
    placed.add(key(item));
    i = position + 1;
    j = index + 1;
  }
  gap(a.length, b.length);
  module.items = items;
  module.count = [0, 0];
  module.changes = Object.fromEntries(STATUSES.map((status) => [status, 0]));
  for (const item of items) {
    if (item.kind === "module") finish(item, left, right, replaced);
    for (const side of [0, 1]) module.count[side] += item.kind === "module" ? item.count[side] : +!!item.sides[side];
    for (const status of STATUSES)
      module.changes[status] +=
        item.kind === "module" ? item.changes[status] : item.statuses.filter((s) => s === status).length;
  }
  module.differs = module.changes.removed + module.changes.added + module.changes.changed > 0;
}

/** Rows of what was removed and what was added: a block stands beside the first node that it replaces. */
function besideEachOther(removed, added, replaced) {
  const rows = [];
  let at = 0;
  for (const node of added) {
    const region = new Set(replaced.get(node.name));
    const start = removed.findIndex((each) => region.has(each.name));
    while (at < start) rows.push(row(removed[at++], null));
    // Of several nodes that were made of one, the first stands beside it.
    rows.push(row((start < 0 || start === at ? removed[at++] : null) ?? null, node));
  }
  return [...rows, ...removed.slice(at).map((each) => row(each, null))];
}

const inputsFirst = (items) => [...items.filter((i) => i.isInput), ...items.filter((i) => !i.isInput)];

/** A row of the tree: nodes of one name in one line, or a removed one beside an added one. */
function row(left, right) {
  const same = left && right && left.name === right.name;
  const both = same ? statusOf(left, right) : null;
  const statuses = same ? [both] : [left && "removed", right && "added"].filter(Boolean);
  return {
    kind: "row",
    sides: [left, right],
    same: Boolean(same),
    statuses,
    marks: same ? [both, both] : ["removed", "added"],
  };
}

/** The longest part of `pairs` whose second numbers increase. */
function increasing(pairs) {
  const tails = [],
    previous = new Map();
  for (const pair of pairs) {
    let low = 0,
      high = tails.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (tails[middle][1] < pair[1]) low = middle + 1;
      else high = middle;
    }
    previous.set(pair, tails[low - 1]);
    tails[low] = pair;
  }
  const found = [];
  for (let pair = tails.at(-1); pair; pair = previous.get(pair)) found.unshift(pair);
  return found;
}
