// Lines of source files.

const AROUND = 5;

/** The lines around `file:line` with that one marked; only the place where the dump has no text of it. */
function sourceLines(data, source) {
  const cut = source.lastIndexOf(":");
  const file = source.slice(0, cut),
    wanted = Number(source.slice(cut + 1));
  const title = element("div.place", {}, source);
  for (const [first, text] of data.sources[file] ?? []) {
    const lines = text.split("\n");
    if (wanted < first || wanted >= first + lines.length) continue;
    const near = lines
      .map((line, index) => [first + index, line])
      .filter(([number]) => Math.abs(number - wanted) <= AROUND);
    const least = Math.min(...near.filter(([, line]) => line.trim()).map(([, line]) => line.match(/^ */)[0].length));
    return element(
      "div.code",
      {},
      title,
      element(
        "pre",
        { tabindex: "0" },
        near.map(([number, line]) =>
          element(
            `div.line${number === wanted ? ".wanted" : ""}`,
            {},
            element("span.number", {}, String(number)),
            line.slice(least) || " ",
          ),
        ),
      ),
    );
  }
  return element("div.code", {}, title);
}
