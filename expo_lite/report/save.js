// Takes figures out of the page: charts as SVG and PNG with their title, their values and the tables as CSV.
"use strict";

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function download(name, url) {
  element("a", { href: url, download: name.replace(/[^\w@.,=+ -]+/g, "_") }).click();
}

function csv(rows) {
  const cell = (value) => (/[",\n]/.test(value) ? '"' + String(value).replaceAll('"', '""') + '"' : value ?? "");
  return "data:text/csv;charset=utf-8," + encodeURIComponent(rows.map((row) => row.map(cell).join(",") + "\n").join(""));
}

function titleOf(canvas) {
  return canvas.id === "passes" ? document.getElementById("figure").value : canvas.closest("figure").querySelector("b").textContent;
}

// The chart with its title and its legend, which the page may have beside it, for as long as it is looked at.
function titled(canvas, ratio, use) {
  const chart = Chart.getChart(canvas);
  const { plugins, devicePixelRatio } = chart.options;
  const shown = plugins.legend.display;
  const set = (title, legend, pixels) => {
    plugins.title = title;
    plugins.legend.display = legend;
    chart.options.devicePixelRatio = pixels;
    chart.resize(chart.width, chart.height);
    chart.update("none");
  };
  chart.data.datasets.forEach((dataset) => (dataset.segment = {})); // or lines are drawn by Path2D, which cannot be read
  set({ display: true, text: titleOf(canvas), color: colour("ink") }, shown || chart.data.datasets.length > 1, ratio);
  const made = use(chart);
  set({ display: false }, shown, devicePixelRatio);
  return made;
}

function pngOf(chart) {
  const { width, height } = chart.canvas;
  const copy = Object.assign(document.createElement("canvas"), { width, height });
  const context = copy.getContext("2d");
  context.fillStyle = colour("card");
  context.fillRect(0, 0, width, height);
  context.drawImage(chart.canvas, 0, 0);
  return copy.toDataURL();
}

// Chart.js draws on a canvas only: its calls are written down as SVG while it draws once more.
function svgOf(chart) {
  const context = chart.ctx;
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const root = svg("svg", { viewBox: `0 0 ${chart.width} ${chart.height}`, width: chart.width, height: chart.height });
  root.append(svg("rect", { width: "100%", height: "100%", fill: colour("card") }));
  let path = "";
  let clip = null;
  const clips = [];
  const around = () => {
    const { a, b, c, d, e, f } = new DOMMatrix().scale(1 / chart.currentDevicePixelRatio).multiply(context.getTransform());
    return { transform: `matrix(${a} ${b} ${c} ${d} ${e} ${f})` };
  };
  const put = (shape) => root.append(clip ? svg("g", { "clip-path": `url(#${clip})` }, shape) : shape);
  const paint = (kind, style) => {
    const [red, green, blue, opacity] = style.match(/[\d.]+/g) || [];
    return style.startsWith("rgba") ? { [kind]: `rgb(${red},${green},${blue})`, [kind + "-opacity"]: opacity } : { [kind]: style };
  };
  const fill = () => put(svg("path", { d: path, ...paint("fill", context.fillStyle), ...around() }));
  const stroke = () => {
    const dash = { "stroke-width": context.lineWidth, "stroke-dasharray": context.getLineDash().join(" ") || "none" };
    put(svg("path", { d: path, fill: "none", ...paint("stroke", context.strokeStyle), ...dash, ...around() }));
  };
  const box = (x, y, width, height) => `M${x} ${y}h${width}v${height}h${-width}Z`;
  const calls = {
    save: () => clips.push(clip),
    restore: () => (clip = clips.pop() ?? null),
    beginPath: () => (path = ""),
    closePath: () => (path += "Z"),
    moveTo: (x, y) => (path += `M${x} ${y}`),
    lineTo: (x, y) => (path += `${path ? "L" : "M"}${x} ${y}`),
    bezierCurveTo: (...at) => (path += "C" + at.join(" ")),
    arc: (x, y, r) => (path += `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`), // points only: whole
    rect: (...at) => (path += box(...at)),
    fillRect: (...at) => put(svg("path", { d: box(...at), ...paint("fill", context.fillStyle), ...around() })),
    fill,
    stroke,
    clip: () => {
      const own = svg("clipPath", { id: "c" + root.childNodes.length, ...(clip ? { "clip-path": `url(#${clip})` } : {}) });
      own.append(svg("path", { d: path, ...around() }));
      root.append(own);
      clip = own.id;
    },
    fillText: (text, x, y) => {
      const anchor = { center: "middle", right: "end", end: "end" }[context.textAlign] || "start";
      const dy = { middle: "0.35em", top: "0.8em", bottom: "-0.2em" }[context.textBaseline] || "0";
      const at = { x, y, dy, "text-anchor": anchor, style: "font: " + context.font, ...paint("fill", context.fillStyle), ...around() };
      put(svg("text", at, text));
    },
  };
  for (const [name, note] of Object.entries(calls)) {
    context[name] = (...given) => {
      note(...given);
      return CanvasRenderingContext2D.prototype[name].apply(context, given);
    };
  }
  chart.draw();
  Object.keys(calls).forEach((name) => delete context[name]);
  return "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(root));
}

function valuesOf(chart) {
  const { datasets, labels } = chart.data;
  const own = datasets.filter((dataset) => !dataset.faint);
  if (chart.config.type === "line") {
    return [["series", "step", "value"], ...own.flatMap((dataset) => dataset.data.map(({ x, y }) => [dataset.label, x, y]))];
  }
  const row = (dataset, i) => [dataset.label, labels[i], dataset.data[i], ...(dataset.ends[i] || [])];
  return [["series", "level", "percent", "low", "high"], ...own.flatMap((dataset) => labels.map((_, i) => row(dataset, i)))];
}

function offerToSave() {
  const offer = (place, name, forms) => {
    const buttons = Object.entries(forms).map(([form, make]) => {
      const button = element("button", { type: "button", class: "link", "aria-label": `Save ${name()} as ${form}` }, form);
      button.addEventListener("click", () => download(`${document.querySelector("h1").textContent} - ${name()}.${form.toLowerCase()}`, make()));
      return button;
    });
    place.after(element("div", { class: "take" }, ...buttons));
  };
  document.querySelectorAll("canvas").forEach((canvas) =>
    offer(canvas.parentElement, () => titleOf(canvas), {
      SVG: () => titled(canvas, 1, svgOf),
      PNG: () => titled(canvas, 3, pngOf),
      CSV: () => csv(valuesOf(Chart.getChart(canvas))),
    })
  );
  document.querySelectorAll(".scroll").forEach((place) => {
    const above = [...place.closest("section").querySelectorAll("h2, h3, summary")];
    const heading = above.findLast((one) => one.compareDocumentPosition(place) & Node.DOCUMENT_POSITION_FOLLOWING).textContent;
    const rows = () => [...place.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => cell.textContent.trim().replace(/\s+/g, " ")));
    offer(place, () => heading, { CSV: () => csv(rows()) });
  });
}
