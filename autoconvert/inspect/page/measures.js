// What stands at the end of a row: the type, or a figure with a bar, summed over modules.

const FIGURES = {
  type: null,
  "multiply-adds": { text: (n) => figureText(n), total: (a, b) => a + b },
  "weights read": { key: "bytes", text: (n) => bytesText(n), total: (a, b) => a + b },
  error: { text: (n) => n.toExponential(1), total: Math.max },
};
const BAR = 48;

function figureText(number) {
  for (const [unit, factor] of [
    ["T", 1e12],
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ])
    if (number >= factor) return `${(number / factor).toFixed(1)} ${unit}`;
  return String(number);
}

/** The figure of a node or of an item of the tree on one side. */
function figureOf(item, side, name) {
  const { key = name, total } = FIGURES[name];
  const of = (node) => Number(node?.attributes[key] ?? 0);
  if (item.kind === "row") return of(item.sides[side]);
  return ((item.figures ??= {})[`${name} ${side}`] ??= (item.items ?? item.modules).reduce(
    (sum, each) => total(sum, figureOf(each, side, name)),
    0,
  ));
}

/** The end of a row's cell; `largest` is as long as a bar gets. */
function measured(item, side, name, largest) {
  const figure = figureOf(item, side, name);
  if (!figure) return "";
  const width = Math.max(1, (BAR * figure) / largest);
  return element(
    "span.measured",
    {},
    element("i", { style: `width:${width}px` }),
    element("b", {}, FIGURES[name].text(figure)),
  );
}
