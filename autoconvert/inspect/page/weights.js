// What the weights take in the file: a bar a layer, its parts in their order, coloured by how they are stored.

const TONES = 6;

/** Rows of parts: a numbered layer is one row, other modules have their own. */
function weightRows(stored) {
  const rows = new Map();
  for (const { module, dtype, bytes } of stored) {
    const path = module.split("."),
      numbered = path.findIndex((name) => /^\d+$/.test(name));
    const own = numbered < 0 ? module : path.slice(0, numbered + 1).join(".");
    const part = numbered < 0 ? "" : path.slice(numbered + 1).join(".");
    if (!rows.has(own)) rows.set(own, { module: own, total: 0, parts: [] });
    rows.get(own).parts.push({ name: part || own, dtype, bytes });
    rows.get(own).total += bytes;
  }
  return [...rows.values()];
}

function drawWeights(page, place) {
  const stored = page.data.bytes;
  const rows = weightRows(stored),
    total = rows.reduce((sum, row) => sum + row.total, 0);
  const by = (key) =>
    [...stored.reduce((found, each) => found.set(key(each), (found.get(key(each)) ?? 0) + each.bytes), new Map())].sort(
      (a, b) => b[1] - a[1],
    );
  const dtypes = by((each) => each.dtype);
  const tone = new Map(dtypes.map(([dtype], index) => [dtype, `tone${index % TONES}`]));
  const largest = Math.max(...rows.map((row) => row.total), 1);
  if (!stored.length) {
    place.replaceChildren(
      element("div.head", {}, element("h2", {}, "Weights")),
      element(
        "p.empty",
        {},
        "Nothing was stored: the dump was written without linking the weights, or the model was refused.",
      ),
    );
    return;
  }
  const tip = element("div.tip", { hidden: true });
  const bars = rows.map((row) => {
    let x = 0;
    const parts = row.parts.map(({ name, dtype, bytes }) => {
      const text = `${name} · ${dtype} · ${bytesText(bytes)}`;
      const width = (1000 * bytes) / largest;
      const drawn = svg(
        "rect",
        {
          class: `part ${tone.get(dtype)}`,
          x,
          y: 0,
          width: Math.max(width - 1.2, 0.4),
          height: 16,
          "data-bytes": bytes,
          onmousemove: (event) => {
            tip.textContent = text;
            tip.hidden = false;
            tip.style.left = `${Math.min(event.clientX + 12, innerWidth - 360)}px`;
            tip.style.top = `${event.clientY + 14}px`;
          },
          onmouseleave: () => {
            tip.hidden = true;
          },
        },
        svg("title", {}, text),
      );
      x += width;
      return drawn;
    });
    return [
      element("span.module", { title: row.module }, row.module),
      svg(
        "svg",
        {
          class: "bar",
          viewBox: "0 0 1000 16",
          preserveAspectRatio: "none",
          role: "img",
          "aria-label": `${row.module}: ${bytesText(row.total)}`,
        },
        parts,
      ),
      element("span.size", {}, bytesText(row.total)),
    ];
  });
  const legend = dtypes.map(([dtype, bytes]) =>
    element(
      "span.key",
      {},
      element(`span.swatch.${tone.get(dtype)}`),
      `${dtype} `,
      element("span.quiet", {}, `${bytesText(bytes)}, ${share(bytes, total)}`),
    ),
  );
  place.replaceChildren(
    element(
      "div.head",
      {},
      element("h2", {}, "Weights"),
      element("span.quiet", {}, `${bytesText(total)} in the file, by layer`),
      element("span.stretch"),
      ...legend,
    ),
    element("div.bars", { tabindex: "0" }, element("div.grid", {}, bars.flat()), kindsOf(stored, total)),
    tip,
  );
}

const share = (part, whole) => (part / whole < 0.001 ? "< 0.1 %" : `${((100 * part) / whole).toFixed(1)} %`);

/** The same by the name of the part, over all layers. */
function kindsOf(stored, total) {
  const kinds = new Map();
  for (const { module, bytes } of stored) {
    const name = module.replace(/\.\d+(?=\.|$)/g, ".*");
    kinds.set(name, (kinds.get(name) ?? 0) + bytes);
  }
  const rows = [...kinds].sort((a, b) => b[1] - a[1]).slice(0, 24);
  return element(
    "table.kinds",
    {},
    element("caption", {}, "All layers together"),
    element(
      "tbody",
      {},
      rows.map(([name, bytes]) =>
        element(
          "tr",
          {},
          element("th", {}, element("code", {}, name)),
          element("td", {}, bytesText(bytes)),
          element("td.quiet", {}, share(bytes, total)),
        ),
      ),
    ),
  );
}
