// What is known about the chosen node, the chosen pattern, or the pass.

function drawDetails(page, place) {
  const { data, state } = page;
  const pass = data.passes[state.pass],
    compared = comparison(data, pass);
  const graphs = [compared.before ?? compared.after, compared.after];
  const node = state.node ? graphs[state.side].byName.get(state.node) : null;
  const context = { page, pass, compared, graphs, index: matchIndex(compared.matches) };
  place.replaceChildren(
    ...(node
      ? nodeDetails(node, context)
      : state.pattern
        ? patternDetails(state.pattern, context)
        : passDetails(context)),
  );
  place.scrollTop = 0;
}

/** Links to nodes, the first ones and how many more there are. */
function nodeLinks(names, side, { page, graphs }, most = 40) {
  const links = names.slice(0, most).map((name) => {
    const node = graphs[side].byName.get(name);
    return element(
      "li",
      {},
      node
        ? [
            link(nodeTitle(node), () => page.go({ node: name, side, pattern: null }), { "data-to": name }),
            element("span.type", {}, typeText(node)),
          ]
        : name,
    );
  });
  const more = names.length - most;
  return element("ul.nodes", {}, links, more > 0 ? element("li.quiet", {}, `and ${grouped(more)} more`) : "");
}

const nodeTitle = (node) => [moduleText(node.path.slice(-2)), shortName(node)].filter(Boolean).join(".");

function nodeDetails(node, context) {
  const { page, pass, compared, graphs, index } = context,
    { data, state } = page,
    { side } = state,
    graph = graphs[side];
  const known = node.attributes,
    other = compared.before && graphs[1 - side].byName.get(node.name);
  const match = index[side].get(node.name);
  const status = !compared.before
    ? ""
    : other
      ? statusOf(...(side ? [other, node] : [node, other]))
      : side
        ? "added"
        : "removed";
  const inputs = [...new Set(node.inputs.map(([name]) => name))],
    users = graph.users(node.name).map((user) => user.name);
  const madeFrom = side && compared.before ? originsOf(node) : [],
    madeOf = side ? [] : compared.after.madeOf(node.name);
  return [
    element(
      "div.kind",
      {},
      compared.before ? (side ? "node after " : "node before ") : "node after ",
      pass.name,
      status && status !== "kept" ? element(`span.chip.${status}`, {}, status) : "",
    ),
    element("h2.code", {}, node.operation),
    table([
      ["name", element("code", {}, node.name)],
      ["module", node.path.length ? element("code", {}, moduleText(node.path)) : "none"],
      ["gives", element("code", {}, typeText(node) || "nothing")],
      ["arguments", known.arguments && element("code", {}, argumentsText(node, graph))],
      ["result", known.result && element("code", {}, known.result)],
      ["is", known.detail && element("code", {}, known.detail)],
      [
        "block",
        known.block && [
          kindText(known.block),
          ", by ",
          link(known.pattern, () => page.go({ pattern: known.pattern, node: null }), { "data-pattern": known.pattern }),
        ],
      ],
      ["multiply-adds", known["multiply-adds"] && grouped(known["multiply-adds"]) + assumed(node, graph)],
      ["computed by", known["computed by"]],
      ["weights read", known.bytes && bytesText(Number(known.bytes))],
      ["error", known.error && `${known.error} of the largest number`],
    ]),
    match && side === 0 ? section("Replaced by", patternLine(match, page), nodeLinks([match.node], 1, context)) : "",
    match && side === 1
      ? section(
          `In place of ${plural(match.replaced.length, "node")}`,
          patternLine(match, page),
          nodeLinks(match.replaced, 0, context),
        )
      : "",
    other && status !== "kept"
      ? section("What changed", changesOf(...(side ? [other, node] : [node, other]), graphs))
      : "",
    madeFrom.length ? section("Comes from", nodeLinks(madeFrom, 0, context)) : "",
    madeOf.length ? section("Becomes", nodeLinks(madeOf, 1, context)) : "",
    triedOn(page, node.name, passOfSide(data, state.pass, side)),
    known.written ? section("In the pattern’s code", sourceLines(page.data, known.written)) : "",
    known.source ? section("In the model’s code", sourceLines(page.data, known.source)) : "",
    section(
      "Around it",
      neighbourhood(node, graph, (each) => page.go({ node: each.name, side, pattern: null })),
    ),
    inputs.length ? section("Reads", nodeLinks(inputs, side, context)) : "",
    users.length ? section("Read by", nodeLinks(users, side, context)) : "",
  ];
}

/** Costs are counted for one position, where a size is a symbol. */
function assumed(node, graph) {
  const types = [node, ...node.inputs.map(([name]) => graph.byName.get(name)).filter(Boolean)].map(typeText);
  return types.some((type) => /\[.*\bs\d*\b/.test(type)) ? " for s = 1" : "";
}

function patternLine(match, page) {
  return element(
    "p",
    {},
    "pattern ",
    link(match.pattern, () => page.go({ pattern: match.pattern, node: null }), { "data-pattern": match.pattern }),
  );
}

function changesOf(left, right, graphs) {
  const of = (node, graph) => ({
    operation: node.operation,
    gives: typeText(node),
    module: moduleText(node.path),
    arguments: argumentsText(node, graph),
    detail: node.attributes.detail,
  });
  const before = of(left, graphs[0]),
    after = of(right, graphs[1]);
  const rows = Object.keys(before)
    .filter((key) => before[key] !== after[key])
    .map((key) =>
      element(
        "tr",
        {},
        element("th", {}, key),
        element("td.removed", {}, before[key] || "none"),
        element("td.added", {}, after[key] || "none"),
      ),
    );
  return element("table.changes", {}, element("tbody", {}, rows));
}

/** The matches of a pattern, in the pass that found them. */
function patternDetails(pattern, context) {
  const { page } = context,
    { data } = page;
  const found = data.passes.findIndex((pass) => pass.matches.some((match) => match.pattern === pattern));
  if (found < 0)
    return [element("h2", {}, pattern), element("p.quiet", {}, "No pass of this dump says where it matched.")];
  const pass = data.passes[found],
    matches = pass.matches.filter((match) => match.pattern === pattern);
  const [before, after] = [data.graph(pass.before), data.graph(pass.graph)];
  const there = (name, side) => page.go({ pass: found, node: name, side, pattern: null });
  const list = (names, graph, side) =>
    element(
      "ul.nodes",
      {},
      names.map((name) => {
        const node = graph.byName.get(name);
        return element(
          "li",
          {},
          link(node ? nodeTitle(node) : name, () => there(name, side), { "data-to": name }),
          element("span.type", {}, node ? typeText(node) : ""),
        );
      }),
    );
  const [first] = matches,
    node = after.byName.get(first.node);
  const parameters = node && argumentsText(node, after);
  return [
    element("div.kind", {}, "pattern for ", kindText(first.block)),
    element("h2.code", {}, pattern),
    table([
      ["matched", `${plural(matches.length, "time")} in ${pass.name}`],
      ["becomes", node && element("code", {}, node.operation)],
      ["parameters", parameters && element("code", {}, parameters)],
    ]),
    section("Written in", sourceLines(data, first.source)),
    section(
      `Region before (${plural(first.replaced.length, "node")}, the first match)`,
      list(first.replaced, before, 0),
    ),
    section("Where", list(matches.map((match) => match.node).filter(Boolean), after, 1)),
  ];
}

function passDetails({ page, pass, compared }) {
  const { data, state } = page;
  const patterns = counted(pass.matches.map((match) => match.pattern));
  const previous = compared.before
    ? (data.passes.find((other) => other.graph === pass.before)?.operations ?? {})
    : null;
  return [
    element("div.kind", {}, pass.signature ? `signature ${pass.signature}` : state.pass ? `pass ${state.pass}` : "start"),
    element("h2.code", {}, pass.name),
    pass.summary ? element("p.quiet", {}, pass.summary) : "",
    state.pass === 0 ? element("p", {}, [data.model, told(data)].filter(Boolean).join(": "), ".") : "",
    state.pass && !pass.file ? element("p.quiet", {}, "This pass found nothing to do.") : "",
    Object.keys(pass.blocks).length
      ? section("Blocks", counts(Object.entries(pass.blocks).map(([kind, n]) => [kindText(kind), n])))
      : "",
    patterns.size
      ? section(
          "Patterns",
          element(
            "ul.counts",
            {},
            [...patterns].map(([name, count]) =>
              element(
                "li",
                {},
                element("span.number", {}, grouped(count)),
                link(name, () => page.go({ pattern: name, node: null }), { "data-pattern": name }),
              ),
            ),
          ),
        )
      : "",
    section("Operations", operationsTable(previous, pass.operations)),
  ];
}

function counted(names) {
  const found = new Map();
  for (const name of names) found.set(name, (found.get(name) ?? 0) + 1);
  return found;
}

function counts(pairs) {
  return element(
    "ul.counts",
    {},
    pairs.map(([name, count]) => element("li", {}, element("span.number", {}, grouped(count)), name)),
  );
}

/** How often each operation stands in the graph, those that the pass changed first. */
function operationsTable(previous, operations) {
  const names = [...new Set([...Object.keys(previous ?? {}), ...Object.keys(operations)])];
  const of = (name) => [previous?.[name] ?? 0, operations[name] ?? 0];
  const change = (name) => (previous ? Math.abs(of(name)[1] - of(name)[0]) : of(name)[1]);
  names.sort((a, b) => change(b) - change(a) || of(b)[1] - of(a)[1] || (a < b ? -1 : 1));
  return element(
    "table.operations",
    {},
    element(
      "tbody",
      {},
      names.map((name) => {
        const [before, after] = of(name);
        const tone = !previous || before === after ? "quiet" : after > before ? "added" : "removed";
        return element(
          "tr",
          {},
          element("th", {}, element("code", {}, name)),
          previous ? element("td", {}, grouped(before)) : "",
          previous ? element("td.quiet", {}, "→") : "",
          element("td", {}, grouped(after)),
          previous
            ? element(
                `td.${tone}`,
                {},
                before === after ? "" : `${after > before ? "+" : "−"}${grouped(Math.abs(after - before))}`,
              )
            : "",
        );
      }),
    ),
  );
}
