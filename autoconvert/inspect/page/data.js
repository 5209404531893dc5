// The dump as the page uses it: nodes as objects, graphs by name with the users of each node.

async function readData(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return indexed(await new Response(stream).json());
}

function indexed(data) {
  const nodes = data.nodes.map(([name, operation, module, inputs, attributes, types], number) => ({
    number,
    name,
    operation,
    inputs,
    attributes,
    types,
    path: module ? module.split("/") : [],
    isInput: operation === "input" || operation === "constant",
  }));
  const graphs = new Map();
  /** The graph of a stem: its nodes in order, and by name; null for no stem. */
  const graph = (stem) => {
    if (!stem) return null;
    if (!graphs.has(stem)) graphs.set(stem, graphOf(data.graphs[stem].map((number) => nodes[number])));
    return graphs.get(stem);
  };
  return { ...data, graph, passNamed: new Map(data.passes.map((pass, index) => [pass.name, index])) };
}

function graphOf(nodes) {
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const users = groups(nodes, (node) => new Set(node.inputs.map(([source]) => source)));
  const made = groups(nodes, originsOf);
  return {
    nodes,
    byName,
    users: (name) => (users.get(name) ?? []).map((user) => byName.get(user)),
    madeOf: (name) => made.get(name) ?? [],
  };
}

/** The names of nodes by each key that they have. */
function groups(nodes, keysOf) {
  const found = new Map();
  for (const node of nodes)
    for (const key of keysOf(node)) {
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(node.name);
    }
  return found;
}

/** The names of nodes in the graph before from which a node was made, where it has another name. */
const originsOf = (node) => node.attributes.origins?.split(" ") ?? [];

/** The passes that led to the graph of a pass, by their numbers, the trace first. */
function lineage(data, index) {
  const found = [];
  for (let at = index; at >= 0; at = data.passes.findIndex(({ file }) => file && file === data.passes[at].before))
    found.unshift(at);
  return found;
}

/** The pass whose graph stands on a side of the comparison at a pass: on the left the one before. */
const passOfSide = (data, pass, side) => (side === 0 ? (lineage(data, pass).at(-2) ?? pass) : pass);

/** What the node `name` of the graph after a pass was made from, or made into, at another pass; null for nothing. */
function followed(data, name, from, to) {
  const [old, now] = [lineage(data, from), lineage(data, to)];
  let common = 0;
  while (common < old.length && old[common] === now[common]) common += 1;
  for (const at of old.slice(common).reverse()) name = name && earlier(data, data.passes[at], name);
  for (const at of now.slice(common)) name = name && later(data, data.passes[at], name);
  return name;
}

function earlier(data, pass, name) {
  const before = data.graph(pass.before);
  if (!before || before.byName.has(name)) return before ? name : null;
  const match = pass.matches.find(({ node }) => node === name);
  return match?.replaced.at(-1) ?? originsOf(data.graph(pass.graph).byName.get(name))[0] ?? null;
}

function later(data, pass, name) {
  const after = data.graph(pass.graph);
  if (after.byName.has(name)) return name;
  const match = pass.matches.find(({ replaced }) => replaced.includes(name));
  return match?.node ?? after.madeOf(name)[0] ?? null;
}

/** What is compared at a pass: the graph before it, if that is another one, the graph after it, and its matches. */
function comparison(data, pass) {
  const after = data.graph(pass.graph);
  const before = pass.before === pass.graph ? null : data.graph(pass.before);
  return { before, after, matches: pass.matches };
}
