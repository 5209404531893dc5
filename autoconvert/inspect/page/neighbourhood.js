// A node with what it reads and what reads it, two steps around, as a drawing.

const BOX = { width: 104, height: 22, gap: 8, column: 28, most: 5 };

function neighbourhood(node, graph, choose) {
  const inputs = (n) => [...new Set(n.inputs.map(([name]) => name))].map((name) => graph.byName.get(name)).filter(Boolean);
  const users = (n) => graph.users(n.name);
  const ranks = new Map([[node, 0]]), edges = [], hidden = new Map();
  const spread = (of, direction) => {
    let ring = [node];
    for (let distance = 1; distance <= 2; distance += 1) {
      const next = [];
      for (const from of ring)
        for (const to of of(from)) {
          if (!ranks.has(to)) {
            const rank = distance * direction;
            if (next.length >= BOX.most) { hidden.set(rank, (hidden.get(rank) ?? 0) + 1); continue; }
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
  const rows = [-2, -1, 0, 1, 2].map((rank) => [...ranks].filter(([, r]) => r === rank).map(([n]) => n));
  const used = rows.map((row, i) => [row, i - 2]).filter(([row]) => row.length);
  const size = (row, rank) => row.length + (hidden.has(rank) ? 1 : 0);
  const width = Math.max(...used.map(([row, rank]) => size(row, rank))) * (BOX.width + BOX.gap);
  const at = new Map();
  const boxes = used.flatMap(([row, rank], level) => {
    const left = (width - size(row, rank) * (BOX.width + BOX.gap) + BOX.gap) / 2;
    const y = level * (BOX.height + BOX.column) + 1;
    const drawn = row.map((each, column) => {
      const x = left + column * (BOX.width + BOX.gap);
      at.set(each, [x, y]);
      const name = shortName(each);
      return svg("g", {
        class: `box${each === node ? " centre" : ""}${each.isInput ? " input" : ""}${each.attributes.block ? " block" : ""}`,
        transform: `translate(${x} ${y})`, tabindex: "0", role: "button",
        onclick: () => choose(each), onkeydown: (event) => event.key === "Enter" && choose(each),
      }, svg("title", {}, `${each.name}: ${typeText(each)}`), svg("rect", { width: BOX.width, height: BOX.height, rx: 4 }),
      svg("text", { x: BOX.width / 2, y: 15 }, name.length > 16 ? `${name.slice(0, 15)}…` : name));
    });
    if (hidden.has(rank)) drawn.push(svg("text", { class: "hidden", x: left + row.length * (BOX.width + BOX.gap) + 6, y: y + 15 }, `+${hidden.get(rank)}`));
    return drawn;
  });
  const lines = edges.filter(([from, to]) => at.has(from) && at.has(to) && ranks.get(from) < ranks.get(to)).map(([from, to]) => {
    const [x1, y1] = at.get(from), [x2, y2] = at.get(to);
    const a = [x1 + BOX.width / 2, y1 + BOX.height], b = [x2 + BOX.width / 2, y2];
    return svg("path", { d: `M${a} C${a[0]} ${a[1] + 14} ${b[0]} ${b[1] - 14} ${b}` });
  });
  const height = used.length * (BOX.height + BOX.column) - BOX.column + 2;
  return svg("svg", { class: "neighbourhood", viewBox: `0 0 ${width} ${height}`, style: `max-width:${width}px`, role: "img", "aria-label": `What ${node.name} reads and what reads it` }, lines, boxes);
}
