// A node with what it reads and what reads it, two steps around, as a drawing.

const BOX = { width: 118, height: 22, gap: 8, between: 30, columns: 3, most: 6 };

function neighbourhood(node, graph, choose) {
  const width = BOX.columns * (BOX.width + BOX.gap) - BOX.gap + 2;
  const inputs = (n) =>
    [...new Set(n.inputs.map(([name]) => name))].map((name) => graph.byName.get(name)).filter(Boolean);
  const users = (n) => graph.users(n.name);
  const ranks = new Map([[node, 0]]),
    edges = [],
    hidden = new Map();
  const spread = (of, direction) => {
    let ring = [node];
    for (let distance = 1; distance <= 2; distance += 1) {
      const next = [];
      for (const from of ring)
        for (const to of of(from)) {
          if (!ranks.has(to)) {
            const rank = distance * direction;
            if (next.length >= BOX.most) {
              hidden.set(rank, (hidden.get(rank) ?? 0) + 1);
              continue;
            }
            ranks.set(to, rank);
            next.push(to);
          }
          edges.push(direction < 0 ? [to, from] : [from, to]);
        }
      ring = next;
    }
  };
  spread(inputs, -1);
  spread(users, 1);
  const at = new Map();
  let y = 1;
  const boxes = [-2, -1, 0, 1, 2].flatMap((rank) => {
    const ring = [...ranks].filter(([, r]) => r === rank).map(([each]) => each);
    const drawn = [];
    for (let first = 0; first < ring.length; first += BOX.columns) {
      const line = ring.slice(first, first + BOX.columns);
      const left = (width - line.length * (BOX.width + BOX.gap) + BOX.gap) / 2;
      drawn.push(
        ...line.map((each, column) => {
          at.set(each, [left + column * (BOX.width + BOX.gap), y]);
          return box(each, at.get(each), each === node, choose);
        }),
      );
      y += BOX.height + BOX.gap;
    }
    if (hidden.has(rank)) {
      drawn.push(svg("text", { class: "hidden", x: width / 2, y: y + 6 }, `and ${hidden.get(rank)} more`));
      y += 14;
    }
    if (ring.length) y += BOX.between - BOX.gap;
    return drawn;
  });
  const lines = edges
    .filter(([from, to]) => at.has(from) && at.has(to) && ranks.get(from) < ranks.get(to))
    .map(([from, to]) => {
      const [x1, y1] = at.get(from),
        [x2, y2] = at.get(to);
      const a = [x1 + BOX.width / 2, y1 + BOX.height],
        b = [x2 + BOX.width / 2, y2];
      return svg("path", { d: `M${a} C${a[0]} ${a[1] + 14} ${b[0]} ${b[1] - 14} ${b}` });
    });
  const height = y - BOX.between + 1;
  return svg(
    "svg",
    {
      class: "neighbourhood",
      viewBox: `0 0 ${width} ${height}`,
      style: `max-width:${width}px`,
      role: "group",
      "aria-label": `What ${node.name} reads and what reads it`,
    },
    lines,
    boxes,
  );
}

function box(node, [x, y], isCentre, choose) {
  const name = shortName(node);
  return svg(
    "g",
    {
      class: `box${isCentre ? " centre" : ""}${node.isInput ? " input" : ""}${node.attributes.block ? " block" : ""}`,
      transform: `translate(${x} ${y})`,
      tabindex: "0",
      role: "button",
      onclick: () => choose(node),
      onkeydown: (event) => event.key === "Enter" && choose(node),
    },
    svg("title", {}, `${node.name}: ${typeText(node)}`),
    svg("rect", { width: BOX.width, height: BOX.height, rx: 4 }),
    svg("text", { x: BOX.width / 2, y: 15 }, name.length > 18 ? `${name.slice(0, 17)}…` : name),
  );
}
