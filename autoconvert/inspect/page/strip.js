// The strip: a step a pass, and below it the time of the whole conversion where a report gave it.

function drawStrip(page, strip, times) {
  const { data, state } = page;
  const steps = data.passes.map((pass, index) => {
    const unchanged = index > 0 && !pass.file;
    const stage = data.stages.find(({ name }) => name === pass.name);
    const before = data.graph(pass.before)?.nodes.length;
    const more = [
      pass.matches.length ? plural(pass.matches.length, "block") : "",
      stage ? secondsText(stage.seconds) : "",
    ].filter(Boolean);
    return element(
      "li",
      {},
      element(
        `button.step${unchanged ? ".unchanged" : ""}${pass.signature ? ".signature" : ""}`,
        {
          type: "button",
          "data-pass": pass.name,
          "aria-current": index === state.pass ? "step" : null,
          onclick: () => page.goTo(index),
          title: unchanged ? `${pass.name}: changed nothing` : null,
        },
        element("span.name", {}, pass.name),
        unchanged
          ? null
          : element("span.counts", {}, (before ? `${grouped(before)} → ` : "") + grouped(pass.nodes)),
        unchanged
          ? null
          : element("span.more", {}, more.join(" · ") || (before ? change(pass.nodes - before) : "nodes")),
      ),
    );
  });
  strip.replaceChildren(...steps);
  strip.querySelector("[aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
  if (!times.childElementCount && data.stages.length) drawTimes(data.stages, times);
}

const change = (count) => (count ? `${count < 0 ? "−" : "+"}${plural(Math.abs(count), "node")}` : "as many nodes");

function drawTimes(stages, place) {
  const total = stages.reduce((sum, stage) => sum + stage.seconds, 0);
  place.append(
    ...stages.map(({ name, seconds, note }) =>
      element(
        "span.stage",
        {
          style: `flex-grow:${Math.max(seconds, total / 50)}`,
          title: [`${name}: ${secondsText(seconds)}`, note].filter(Boolean).join(", "),
        },
        `${name} `,
        element("b", {}, secondsText(seconds)),
      ),
    ),
    element("span.total", {}, `${secondsText(total)} in all`),
  );
}
