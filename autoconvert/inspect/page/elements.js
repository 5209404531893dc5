// Elements and the text in them; whatever comes from a dump is text and never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element `tag.class.class` with properties (`on…` are listeners, others attributes) and children. */
function element(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag || "div");
  if (classes.length) made.className = classes.join(" ");
  return filled(made, properties, children);
}

function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(made, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** A button that looks like text. */
function link(text, onclick, properties = {}) {
  return element("button.link", { type: "button", onclick, ...properties }, text);
}

function table(rows) {
  return element(
    "dl.facts",
    {},
    rows.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}
