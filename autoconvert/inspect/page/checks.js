// The comparisons with the model, and what they found.

function drawChecks(page, place) {
  const { checks } = page.data;
  const failed = checks.filter((check) => !check.passed).length;
  const title = !checks.length
    ? "nothing was compared with the model"
    : failed
      ? `${failed} of ${checks.length} failed`
      : `all ${checks.length} passed`;
  place.replaceChildren(
    element("div.head", {}, element("h2", {}, "Checks"), element("span.quiet", {}, title)),
    element(
      "div.checks",
      { tabindex: "0" },
      checks.map((check) =>
        element(
          `div.check${check.passed ? "" : ".failed"}`,
          {},
          element("span.sign", {}, check.passed ? "passed" : "failed"),
          element("span.name", {}, check.name),
          element("span.detail", {}, check.detail),
        ),
      ),
    ),
  );
}
