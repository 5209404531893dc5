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
  const users = new Map();
  for (const node of nodes)
    for (const [source] of node.inputs) {
      if (!users.has(source)) users.set(source, new Set());
      users.get(source).add(node.name);
    }
  return { nodes, byName, users: (name) => [...(users.get(name) ?? [])].map((user) => byName.get(user)) };
}

/** What is compared at a pass: the graph before it, if that is another one, the graph after it, and its matches. */
function comparison(data, pass) {
  const after = data.graph(pass.graph);
  const before = pass.before === pass.graph ? null : data.graph(pass.before);
  return { before, after, matches: pass.matches };
}
