// Which patterns were tried on a node, and how far each got.

/** The answer for a node of the graph after the pass `at`, by what it was when blocks were fused. */
function triedOn(page, name, at) {
  const { data } = page,
    { tried } = data;
  const fusing = tried ? data.passes.findIndex(({ graph }) => graph === tried.graph) : -1;
  const then = fusing < 0 ? null : followed(data, name, at, fusing);
  const node = then && data.graph(tried.graph).byName.get(then);
  if (!node || node.isInput || node.attributes.pattern) return "";
  const here = tried.tries.filter((each) => each.node === then);
  const through = tried.tries.filter((each) => each.node !== then && (each.differs === then || each.covered.includes(then)));
  const names = new Set(here.map(({ pattern }) => pattern));
  const others = (tried.endings[node.operation] ?? []).filter((pattern) => !names.has(pattern));
  const there = (text, to) =>
    link(text, () => page.go({ pass: fusing, node: to, side: 1, pattern: null }), { "data-to": to });
  return section(
    "Patterns tried here",
    here.length || through.length
      ? element(
          "ul.tries",
          {},
          byShare(here).map((each) => tryItem(each, each.differs && there(each.differs, each.differs))),
          byShare(through).map((each) => tryItem(each, ["at ", there(each.node, each.node)])),
        )
      : "",
    element("p.quiet", {}, othersText(node.operation, others, here.length > 0)),
  );
}

const byShare = (tries) => [...tries].sort((a, b) => b.matched / b.of - a.matched / a.of);

function tryItem({ pattern, matched, of, reason }, where) {
  return element(
    "li",
    {},
    element("code", {}, pattern),
    element("span.type", {}, `${matched} of ${plural(of, "operation")}`),
    element("div.quiet", {}, where || "", where ? ": " : "", reason),
  );
}

function othersText(operation, others, some) {
  if (!others.length) return some ? "" : `No pattern ends in ${operation}.`;
  return `${plural(others.length, some ? "other pattern" : "pattern")} that ${
    others.length === 1 ? "ends" : "end"
  } in ${operation} had nothing else in common: ${others.join(", ")}.`;
}
