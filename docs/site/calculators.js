// Draws the calculators of a page. docs/site/build.py bundles this file with Vega into one script.
//
// Each <figure class="calculator"> holds a chart in Vega-Lite as JSON. The page shows its title,
// its key and its answer as text, which wraps, can be read aloud and can be copied; the chart below
// is as wide as the page. It is drawn again when the theme or the width changes.

function colours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--pst-color-${name}`).trim() || "grey";
  const [text, line] = [colour("text-base"), colour("text-muted")];
  const font = getComputedStyle(document.body).fontFamily;
  return {
    background: "transparent",
    font,
    text: { color: text },
    axis: { labelColor: text, titleColor: text, domainColor: line, tickColor: line, gridColor: line },
    style: { "guide-label": { fill: text }, "guide-title": { fill: text } },
  };
}

const isDark = () => document.documentElement.dataset.theme === "dark";

// The items of all marks of a name, wherever they are in Vega's scenegraph.
function named(item, name, found = []) {
  if (item.name === name) found.push(...item.items);
  for (const each of item.items ?? []) named(each, name, found);
  return found;
}

// The specification for the page: its texts are read, and shown as text of the page.
function forPage(spec, width, values) {
  // A darker blue can hardly be seen on a dark page. Both are of the palette of the figures.
  const text = JSON.stringify(spec);
  const page = JSON.parse(isDark() ? text.replaceAll("#0072B2", "#56B4E9") : text);
  delete page.title;
  delete page.$schema; // the version that JupyterLab draws; this page brings a newer one
  const ours = colours();
  page.config = { ...page.config, ...ours, axis: { ...page.config.axis, ...ours.axis } };
  page.width = width;
  page.autosize = { type: "fit-x", contains: "padding" };
  for (const layer of page.layer) {
    if (layer.name === "answer" || layer.name === "checked") {
      Object.assign(layer.mark, { opacity: 0, aria: false, fontSize: 1, lineHeight: 1 });
      layer.encoding.y = { value: 0 };
    }
  }
  for (const param of page.params) {
    if (param.name in values) param.value = values[param.name];
  }
  return page;
}

class Calculator {
  constructor(figure) {
    this.figure = figure;
    this.spec = JSON.parse(figure.querySelector("script").textContent);
    this.part = (name) => figure.querySelector(`.calculator-${name}`);
    this.drawing = Promise.resolve();
    this.width = 0;
  }

  draw() {
    this.drawing = this.drawing.then(() => this.drawNow());
    return this.drawing;
  }

  async drawNow() {
    const values = this.values();
    this.result?.finalize();
    this.part("fields").replaceChildren();
    this.width = this.part("chart").clientWidth;
    this.result = await vegaEmbed(this.part("chart"), forPage(this.spec, this.width, values), {
      mode: "vega-lite",
      actions: false,
      renderer: "svg",
      bind: this.part("fields"),
      tooltip: { theme: isDark() ? "dark" : "light" },
    });
    const view = this.result.view;
    this.part("chart").removeAttribute("title");
    for (const name of Object.keys(this.values())) {
      view.addSignalListener(name, () => view.runAfter(() => this.say()));
    }
    this.figure.view = view; // for the tests
    this.say();
  }

  values() {
    if (!this.result) return {};
    const fields = (name) => typeof name === "string" && name.endsWith("_field");
    return this.result.view.getState({ signals: fields, data: () => false }).signals;
  }

  say() {
    const root = this.result.view.scenegraph().root;
    const lines = (name) => named(root, `${name}_marks`).flatMap((item) => item.text);
    const answer = lines("answer").flatMap((text) => String(text).split("\n"));
    const text = (line, kind) => {
      const paragraph = document.createElement("p");
      // a number and its unit stay on one line
      paragraph.textContent = line.replace(/(\d) (?=(%|µs|ms|s|MB|×)([ ,.;)]|$))/g, "$1\u00a0");
      paragraph.className = kind;
      return paragraph;
    };
    const checked = lines("checked").join(" ");
    const beyond = checked.startsWith("Outside") ? "calculator-beyond" : "calculator-within";
    this.part("answer").replaceChildren(
      ...answer.map((line) => text(line, "calculator-line")),
      text(checked, beyond),
    );
  }
}

const all = [...document.querySelectorAll("figure.calculator")].map((each) => new Calculator(each));
for (const each of all) {
  each.draw();
  let pending;
  new ResizeObserver(() => {
    clearTimeout(pending);
    pending = setTimeout(() => {
      if (Math.abs(each.part("chart").clientWidth - each.width) > 8) each.draw();
    }, 150);
  }).observe(each.figure);
}
new MutationObserver(() => all.forEach((each) => each.draw())).observe(document.documentElement, {
  attributeFilter: ["data-theme"],
});
