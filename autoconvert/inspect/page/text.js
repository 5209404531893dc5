// How names, numbers and sizes are written.

const plural = (count, word) => `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;
const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u2009");
const kindText = (kind) => kind.replaceAll("_", "-");

function bytesText(bytes) {
  for (const [unit, factor] of [
    ["GB", 1e9],
    ["MB", 1e6],
    ["kB", 1e3],
  ])
    if (bytes >= factor) return `${(bytes / factor).toFixed(1)} ${unit}`;
  return plural(bytes, "byte");
}

function secondsText(seconds) {
  return seconds < 0.05 ? "0.0 s" : seconds < 100 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

const typeText = (node) => node.types.join(", ");
const moduleText = (path) => path.join(".");

/** The name without the module's, which stands above it. */
function shortName(node) {
  const prefix = `${node.path.join("_").replace(/\W/g, "_")}_`;
  return node.path.length && node.name.startsWith(prefix) ? node.name.slice(prefix.length) : node.name;
}

/** The name as it is written inside a module: with as much of its own module's path as differs. */
function nameWithin(node, path) {
  const short = shortName(node);
  let common = 0;
  while (common < path.length && node.path[common] === path[common]) common += 1;
  return common === node.path.length ? short : [...node.path.slice(common), short].join(".");
}

/** The arguments with names as they are seen from the node's module. */
function argumentsText(node, graph) {
  return (node.attributes.arguments ?? "").replace(/%(\w+)/g, (whole, name) => {
    const other = graph.byName.get(name);
    return other ? nameWithin(other, node.path) : whole;
  });
}

/** How the model was traced, and for how long a conversation. */
const told = ({ context, way }) =>
  context
    ? `${plural(context, "position")}, ${way === "single step" ? "traced as a single step" : "traced as a whole text"}`
    : "";
