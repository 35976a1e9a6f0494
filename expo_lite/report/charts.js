// Draws the figures of the page with Chart.js; colours are those of the style, so that light and dark need no second set.
"use strict";

const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3], [12, 4], [1, 4]];
const PALETTE = ["s1", "s2", "s3", "s4", "s5", "s6"];
const UNLIKE = ["s1", "before", "s4", "ink"];
const COLOURS = PALETTE.length;
let drawn = [];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

function read(value, unit) {
  if (unit === "share") return Number((100 * value).toPrecision(3)) + "%";
  const text = Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  return unit ? text + " " + unit : text;
}

// The colour says which run, the dashes which metric, or that the colours begin anew; of a single run the colour says
// which metric.
// Beside colours that mean something stand only those that are unlike them.
function looks(chart, series, single) {
  const others = chart.series.filter((each) => !each.colour);
  const place = !single ? series.run : others.length < chart.series.length ? others.indexOf(series) : series.place;
  const palette = others.length < chart.series.length && single ? UNLIKE : PALETTE;
  const name = single && series.colour ? series.colour : palette[place % palette.length];
  const dash = single ? 0 : series.place + Math.floor(series.run / COLOURS);
  return { colour: colour(name), dash: DASHES[dash % DASHES.length] };
}

// Where a metric is absent for much longer than it usually is, its line is broken.
function longestGap(pairs) {
  const gaps = pairs.slice(1).map(([x], i) => x - pairs[i][0]).sort((a, b) => a - b);
  return gaps.length ? 4 * gaps[Math.floor(gaps.length / 2)] : true;
}

function lines(chart, single) {
  const datasets = [];
  chart.series.forEach((series, number) => {
    const look = looks(chart, series, single);
    const strong = series.means.length && !chart.stacked ? series.means : series.points;
    const points = (pairs) => pairs.map(([x, y]) => ({ x, y }));
    const shown = chart.stacked && series.means.length ? series.means : strong;
    datasets.push({
      label: series.label,
      data: points(shown),
      clip: 6,
      spanGaps: longestGap(shown),
      borderColor: look.colour,
      borderDash: look.dash,
      backgroundColor: chart.stacked ? look.colour + "55" : look.colour,
      fill: chart.stacked ? (number ? "-1" : "origin") : false,
      borderWidth: chart.stacked ? 1 : 2,
      pointRadius: shown.length <= 30 && !chart.stacked ? 2 : 0,
      pointHitRadius: 8,
    });
    const faint = (data, more) =>
      datasets.push({ label: series.label, faint: true, data, borderWidth: 1, pointRadius: 0, pointHitRadius: 0, ...more });
    if (series.means.length && !chart.stacked) faint(points(series.points), { borderColor: look.colour + "40" });
    if (series.band.length) {
      faint(series.band.map(([x, low]) => ({ x, y: low })), { borderWidth: 0 });
      faint(series.band.map(([x, , high]) => ({ x, y: high })), { borderWidth: 0, fill: "-1", backgroundColor: look.colour + "26" });
    }
  });
  return datasets;
}

function axes(unit, stacked, last) {
  const grid = { color: colour("line") };
  const ticks = { color: colour("muted"), maxTicksLimit: 6 };
  const text = (value) => (unit === "share" ? read(value, unit) : read(value, ""));
  const title = (text) => ({ display: Boolean(text), text, color: colour("muted"), padding: 2, font: { size: 11 } });
  return {
    x: {
      type: "linear",
      min: 0,
      max: last,
      grid: { display: false },
      border: { color: colour("line") },
      ticks: { ...ticks, precision: 0, maxRotation: 0, includeBounds: false },
      title: title("step"),
    },
    y: {
      grid,
      border: { display: false },
      stacked,
      beginAtZero: unit !== "nats" && unit !== "",
      max: stacked && unit === "share" ? 1 : undefined,
      ticks: { ...ticks, callback: text },
      title: title(unit === "share" ? "" : unit),
    },
  };
}

function curve(canvas, chart, single, last, chosen) {
  const datasets = lines(chart, single);
  return new Chart(canvas, {
    type: "line",
    data: { datasets },
    options: {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "nearest", axis: "x", intersect: false },
      scales: axes(chart.unit, chart.stacked, last),
      plugins: {
        legend: {
          display: chart.named || (!single && !chosen),
          position: "bottom",
          labels: {
            color: colour("ink"),
            boxWidth: 18,
            boxHeight: 0,
            padding: 8,
            filter: (item, data) => !data.datasets[item.datasetIndex].faint,
          },
          onClick: (event, item, legend) => toggle(legend.chart, item.datasetIndex),
        },
        tooltip: {
          filter: (item) => !item.dataset.faint,
          callbacks: {
            title: (items) => (items.length ? "step " + items[0].parsed.x : ""),
            label: (item) => item.dataset.label + ": " + read(item.parsed.y, chart.unit),
          },
        },
      },
    },
  });
}

// A line goes together with its faint steps and its band, which follow it.
function toggle(chart, index) {
  const hidden = chart.isDatasetVisible(index);
  const { datasets } = chart.data;
  let i = index;
  do chart.setDatasetVisibility(i++, !hidden);
  while (i < datasets.length && datasets[i].faint);
  chart.update();
}

// 95% intervals on the bars: Chart.js has none of its own.
const whiskers = {
  id: "whiskers",
  afterDatasetsDraw(chart) {
    const context = chart.ctx;
    context.save();
    chart.data.datasets.forEach((dataset, i) => {
      if (!dataset.ends || !chart.isDatasetVisible(i)) return;
      chart.getDatasetMeta(i).data.forEach((bar, j) => {
        if (!dataset.ends[j]) return;
        const [low, high] = dataset.ends[j].map((value) => chart.scales.y.getPixelForValue(value));
        const half = Math.min(bar.width / 4, 5);
        const thin = bar.width < 12; // a narrow bar stays in sight
        context.beginPath();
        context.moveTo(bar.x, low);
        context.lineTo(bar.x, high);
        for (const y of [low, high]) {
          context.moveTo(bar.x - half, y);
          context.lineTo(bar.x + half, y);
        }
        // dark on light on dark: seen on the bar and beside it
        for (const [name, width] of [["card", thin ? 0 : 4], ["ink", thin ? 1 : 1.5]].filter(([, width]) => width)) {
          context.strokeStyle = colour(name);
          context.lineWidth = width;
          context.stroke();
        }
      });
    });
    context.restore();
  },
};

function bars(canvas, passes, name, single) {
  const datasets = passes.series.map((series) => {
    const values = series.values[name];
    const own = colour("s" + ((series.run % COLOURS) + 1));
    const shared = series.before && (single || !series.label.includes(","));
    return {
      label: series.label,
      data: values.map((value) => value && value[0]),
      ends: values.map((value) => value && value.slice(1)),
      backgroundColor: shared ? colour("before") : series.before ? own + "66" : own,
      maxBarThickness: 34,
      minBarLength: 2,
    };
  });
  const scales = axes("", false, undefined);
  Object.assign(scales.x, { type: "category", min: undefined });
  scales.x.title.text = "level";
  Object.assign(scales.y, { min: 0, max: 100 });
  scales.y.ticks.callback = (value) => value + "%";
  return new Chart(canvas, {
    type: "bar",
    data: { labels: passes.levels, datasets },
    plugins: [whiskers],
    options: {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales,
      plugins: {
        legend: { position: "bottom", labels: { color: colour("ink"), boxWidth: 12, boxHeight: 12 } },
        tooltip: {
          callbacks: {
            title: (items) => (items.length ? name + ", level " + items[0].label : ""),
            label: (item) => {
              const [low, high] = item.dataset.ends[item.dataIndex];
              return `${item.dataset.label}: ${item.parsed.y.toFixed(1)}% (${low.toFixed(1)} to ${high.toFixed(1)})`;
            },
          },
        },
      },
    },
  });
}

// Where the page has a choice of runs, only the chosen ones are drawn, and the choice is the legend.
function draw(figures) {
  drawn.forEach((chart) => chart.destroy());
  drawn = [];
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  const single = figures.runs.length === 1;
  const boxes = document.querySelectorAll("#choice input");
  const chosen = boxes.length ? new Set([...boxes].filter((box) => box.checked).map((box) => Number(box.value))) : null;
  const only = (own) => ({ ...own, series: own.series.filter((series) => !chosen || series.before || chosen.has(series.run)) });
  const passes = document.getElementById("passes");
  if (passes) drawn.push(bars(passes, only(figures.passes), document.getElementById("figure").value, single));
  document.querySelectorAll("canvas[data-chart]").forEach((canvas) => {
    if (!canvas.closest("details").open) return;
    drawn.push(curve(canvas, only(figures.charts[Number(canvas.dataset.chart)]), single, figures.last, chosen));
  });
  document.querySelectorAll("[data-colour]").forEach((mark) => {
    const own = colour(mark.dataset.colour);
    const [on, off] = DASHES[(mark.dataset.dash || 0) % DASHES.length];
    mark.style.background = on ? `repeating-linear-gradient(90deg, ${own} 0 ${on}px, transparent ${on}px ${on + off}px)` : own;
  });
}
