// One Plotly figure per element, changed in place: `Plotly.react` keeps the camera, the zoom and the DOM node.

import { css, paint, readTheme } from "./theme.js";

const charts = new WeakMap(); // the component's element -> Chart
const groups = new Map(); // link -> { camera, charts }, for 3-D charts that turn together
let plotlyLoaded; // one <script> per browser tab

/** Called by Streamlit when the data or the theme has changed. */
export default function draw(component, options) {
  const parent = component.parentElement;
  if (!charts.has(parent)) charts.set(parent, new Chart(parent));
  const chart = charts.get(parent);
  chart.show(component, options);
  // Streamlit also calls this for a draw that a newer one has overtaken: leave only when the element has really gone.
  return () => setTimeout(() => parent.isConnected || (chart.leave(), charts.delete(parent)));
}

class Chart {
  constructor(parent) {
    this.host = document.createElement("div");
    this.host.className = "lab-chart";
    this.host.setAttribute("role", "figure");
    this.host.dataset.drawn = "0";
    this.plot = Object.assign(document.createElement("div"), { className: "lab-chart-plot" });
    this.note = Object.assign(document.createElement("p"), { className: "lab-chart-note", textContent: "Drawing …" });
    this.host.append(this.plot, this.note);
    parent.append(this.host);
    // The wheel belongs to the page; with Ctrl (or a pinch, which browsers report as Ctrl) it belongs to the chart.
    this.host.addEventListener("wheel", (event) => event.ctrlKey || event.stopPropagation(), { capture: true });
    this.observer = new ResizeObserver(() => this.schedule());
    this.observer.observe(this.host);
  }

  show(component, options) {
    this.component = component;
    this.options = options;
    loadPlotly(options.plotly).catch(() => {}); // a head start; the draw itself reports a failure
    if (!sameBytes(this.bytes, component.data)) {
      this.bytes = component.data;
      this.message = JSON.parse(new TextDecoder().decode(component.data));
      this.label(this.message);
    }
    this.theme = readTheme(this.host, options.palette);
    this.schedule(Promise.resolve());
  }

  label({ key, alt, height, grow, click, link, hand }) {
    this.host.dataset.key = key;
    this.host.setAttribute("aria-label", alt);
    const more = grow ? ` + ${grow} * var(--lab-tall, 0px)` : "";
    this.host.style.height = `calc(${height + (hand ? 44 : 0)}px${more})`;
    this.plot.style.height = `calc(${height}px${more})`;
    this.host.toggleAttribute("data-click", click);
    this.join(link);
    this.step = undefined;
    this.hold(hand);
  }

  /** A slider below the picture: dragged, it shows another step's numbers; let go, it tells the page which. */
  hold(hand) {
    this.hand?.remove();
    this.hand = undefined;
    if (!hand) return;
    this.hand = Object.assign(document.createElement("label"), { className: "lab-chart-hand" });
    const [words, said] = [document.createElement("span"), document.createElement("output")];
    const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: hand.steps.length - 1, step: 1, value: hand.at });
    words.textContent = hand.label;
    said.textContent = hand.steps[hand.at];
    slider.addEventListener("input", () => {
      this.step = slider.valueAsNumber;
      said.textContent = hand.steps[this.step];
      slider.setAttribute("aria-valuetext", hand.steps[this.step]);
      this.schedule();
    });
    slider.addEventListener("change", () => this.component.setTriggerValue("hand", hand.steps[slider.valueAsNumber]));
    this.hand.append(words, slider, said);
    this.host.append(this.hand);
  }

  /** Draw when `ready`, and once: what arrives while a draw is under way is drawn after it, only the newest. */
  schedule(ready = nextFrame()) {
    this.wanted = true;
    this.running ??= this.work(ready).finally(() => { this.running = undefined; });
  }

  async work(ready) {
    await ready;
    while (this.wanted) {
      this.wanted = false;
      try {
        await this.react();
      } catch (error) {
        this.fail(error);
      }
      await nextFrame();
    }
  }

  async react() {
    const { bytes, theme, step } = this;
    const [width, height] = [this.host.clientWidth, this.plot.clientHeight];
    if (!bytes || !width) return; // in a closed tab or expander: drawn when it opens
    const { drawn } = this;
    const same = bytes === drawn?.bytes && step === drawn.step && width === drawn.width && height === drawn.height;
    if (same && sameTheme(theme, drawn.theme)) return;
    const plotly = await loadPlotly(this.options.plotly);
    const { data, layout } = this.figure(width, height);
    await plotly.react(this.plot, data, layout, this.config(plotly, data));
    await nextFrame();
    this.drawn = { bytes, width, height, theme, step };
    this.note.textContent = "";
    this.listen(plotly);
    this.host.dataset.drawn = String(Number(this.host.dataset.drawn) + 1);
  }

  figure(width, height) {
    const { figure, hand } = this.message;
    const moved = hand?.frames[this.step] ?? [];
    const traces = figure.data.map((trace, index) => ({ ...trace, ...moved[index] }));
    const title = hand?.titles[this.step];
    const named = title ? { ...figure.layout, title: { ...figure.layout?.title, text: title } } : figure.layout ?? {};
    const { data, layout } = paint({ data: traces, layout: named }, this.theme.colours);
    const camera = groups.get(this.link)?.camera;
    if (camera) layout.scene = { ...layout.scene, camera };
    const kept = { uirevision: layout.uirevision ?? "kept", autosize: false, width, height };
    const base = template(this.theme, Object.keys(this.options.palette));
    base.layout.margin.t = layout.title?.text ? 68 : 32; // room for the title above the legend's row
    return { data, layout: { ...layout, ...kept, template: base } };
  }

  /**
   * Two buttons, shown on hover or focus: download, and back to the first zoom or camera.
   * Always the same object: to Plotly.react another config, or just another closure in it, means a new picture.
   */
  config(plotly, data) {
    const reset = data.some((trace) => THREE_D.has(trace.type)) ? "resetCameraDefault3d" : "resetScale2d";
    const { camera } = plotly.Icons;
    this.download ??= { name: "download", title: "Download as PNG", icon: camera, click: () => this.save(plotly) };
    return { displaylogo: false, responsive: false, modeBarButtons: [[this.download, reset]] };
  }

  /** As it looks now, on the page's colour: a transparent picture of pale text would vanish in a white document. */
  save(plotly) {
    const { data, layout } = this.plot;
    const page = { ...layout, paper_bgcolor: css(this.theme.colours.surface) };
    const { width, height } = layout;
    const options = { format: "png", filename: this.message.key, scale: 2, width, height };
    plotly.downloadImage({ data, layout: page }, options).catch((error) => this.fail(error));
  }

  listen(plotly) {
    // One tab stop per chart: the download button. The one that resets zoom or camera only helps a pointer.
    this.plot.querySelectorAll(".modebar-btn[data-attr]").forEach((button) => {
      button.tabIndex = -1;
    });
    this.keys();
    if (this.listening) return;
    this.listening = true;
    this.plot.on("plotly_click", (event) => this.click(event));
    const turned = (change) => change["scene.camera"] && this.turn(plotly, change["scene.camera"]);
    this.plot.on("plotly_relayouting", turned);
    this.plot.on("plotly_relayout", turned);
  }

  click(event) {
    if (!this.message.click || !event.points?.length) return;
    this.component.setTriggerValue("click", describe(event.points[0]));
  }

  /** A map that can be clicked has one button in it, that stands on a cell: arrows move it, Enter clicks the cell. */
  keys() {
    const index = this.plot.data.findIndex((trace) => trace.type === "heatmap");
    if (!this.message.click || index < 0) return this.cell?.remove();
    const place = this.plot.calcdata[index][0];
    this.map = { index, z: place.z, xs: place.x, ys: place.y };
    if (!this.cell) {
      this.cell = Object.assign(document.createElement("button"), { type: "button", className: "lab-chart-cell" });
      this.at = [0, 0];
      this.cell.addEventListener("keydown", (event) => this.walk(event));
      this.cell.addEventListener("click", () => this.click({ points: [this.point()] }));
    }
    this.host.append(this.cell);
    this.stand();
  }

  walk(event) {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    const { z } = this.map;
    const row = Math.min(Math.max(this.at[0] + down, 0), z.length - 1);
    this.at = [row, Math.min(Math.max(this.at[1] + right, 0), z[0].length - 1)];
    this.stand();
  }

  point() {
    const [row, col] = this.at;
    const trace = this.plot.data[this.map.index];
    const cell = (table) => (Array.isArray(table?.[row]) ? table[row][col] : undefined);
    return { x: trace.x?.[col], y: trace.y?.[row], z: this.map.z[row][col], data: trace, text: cell(trace.text),
      customdata: cell(trace.customdata), curveNumber: this.map.index, pointIndex: [row, col] };
  }

  /** Put the button over its cell, and say which one that is. */
  stand() {
    const [row, col] = this.at;
    const { xaxis, yaxis, _size } = this.plot._fullLayout;
    const { xs, ys } = this.map;
    const [x0, x1] = [xs[col], xs[col + 1]].map((x) => _size.l + xaxis.c2p(x));
    const [y0, y1] = [ys[row], ys[row + 1]].map((y) => _size.t + yaxis.c2p(y));
    Object.assign(this.cell.style, { left: `${Math.min(x0, x1)}px`, top: `${Math.min(y0, y1)}px`,
      width: `${Math.abs(x1 - x0)}px`, height: `${Math.abs(y1 - y0)}px` });
    const { customdata, text, z } = this.point();
    const value = Number.isFinite(z) ? text || Number(z).toPrecision(3) : "nothing here";
    this.cell.setAttribute("aria-label", `${customdata || `row ${row}, column ${col}`}: ${value}; arrow keys move, Enter opens`);
  }

  join(link) {
    if (link === this.link) return;
    groups.get(this.link)?.charts.delete(this);
    this.link = link;
    if (!link) return;
    if (!groups.has(link)) groups.set(link, { camera: undefined, charts: new Set() });
    groups.get(link).charts.add(this);
  }

  /** The user turns this chart: let the others of its group follow, at most once per frame. */
  turn(plotly, camera) {
    const group = groups.get(this.link);
    if (!group || this.following || JSON.stringify(camera) === JSON.stringify(group.camera)) return;
    group.camera = structuredClone(camera);
    for (const other of group.charts) if (other !== this) other.follow(plotly, group);
  }

  async follow(plotly, group) {
    if (this.following || !this.listening || !this.host.clientWidth) return;
    this.following = true;
    try {
      await nextFrame();
      await plotly.relayout(this.plot, { "scene.camera": structuredClone(group.camera) });
    } catch (error) {
      this.fail(error);
    } finally {
      this.following = false;
    }
  }

  fail(error) {
    console.error(error);
    this.note.textContent = `This picture could not be drawn: ${error.message}.`;
  }

  leave() {
    this.observer.disconnect();
    this.join(null);
    if (this.listening) window.Plotly?.purge(this.plot);
    this.host.remove();
  }
}

export function loadPlotly(url) {
  plotlyLoaded ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: url, async: true });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      plotlyLoaded = undefined;
      reject(new Error("the drawing library did not arrive; is the server running? Then reload the page"));
    };
    document.head.append(script);
  });
  return plotlyLoaded;
}

function nextFrame() {
  return new Promise((resolve) => {
    // A hidden browser tab has no frames; do not wait for one for ever.
    const late = setTimeout(resolve, 250);
    requestAnimationFrame(() => { clearTimeout(late); resolve(); });
  });
}

/** Streamlit sends every chart again at each rerun: one that says the same is not drawn anew. */
function sameBytes(one, other) {
  return one?.length === other.length && one.every((byte, place) => byte === other[place]);
}

function sameTheme(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

const THREE_D = new Set(["surface", "scatter3d", "mesh3d", "cone", "streamtube", "volume", "isosurface"]);

/** A clicked point as plain JSON. */
function describe(point) {
  const { x, y, z, customdata, text, curveNumber, pointNumber, pointIndex } = point;
  const where = { curve: curveNumber, point: pointIndex ?? pointNumber, name: point.data?.name };
  const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
  return JSON.parse(JSON.stringify({ x, y, z, customdata, text, ...where }, plain));
}

/** What a figure gets where it says nothing itself. */
function template({ colours, font, size }, series) {
  const clear = "rgba(0,0,0,0)";
  const [ink, muted, grid, card] = [colours.ink, colours.muted, colours.grid, colours.card].map((rgb) => css(rgb));
  const small = Math.round(size * 0.8125);
  const axis = {
    gridcolor: grid, zerolinecolor: css(colours.muted, 0.6), zerolinewidth: 1, linecolor: grid, tickcolor: grid,
    tickfont: { color: muted }, title: { font: { color: ink }, standoff: 8 }, automargin: true,
  };
  const axis3d = { ...axis, title: axis.title, showbackground: false, automargin: undefined };
  const colorbar = { outlinewidth: 0, thickness: 12, ticklen: 4, tickcolor: grid, tickfont: { color: muted } };
  const camera = { eye: { x: 1.5, y: 1.5, z: 0.9 }, center: { x: 0, y: 0, z: -0.12 } };
  const withBar = (type) => [{ type, colorbar }];
  return {
    data: {
      heatmap: withBar("heatmap"), surface: withBar("surface"),
      bar: [{ type: "bar", marker: { line: { width: 0 }, colorbar } }],
      scatter: [{ type: "scatter", marker: { colorbar } }],
      scatter3d: [{ type: "scatter3d", marker: { colorbar } }],
    },
    layout: {
      paper_bgcolor: clear, plot_bgcolor: clear, font: { family: font, color: ink, size: small },
      colorway: series.map((name) => css(colours[name])),
      colorscale: { sequential: "Viridis" },
      xaxis: axis, yaxis: axis, scene: { xaxis: axis3d, yaxis: axis3d, zaxis: axis3d, bgcolor: clear, camera },
      coloraxis: { colorbar }, margin: { l: 56, r: 16, b: 48 }, bargap: 0,
      title: { font: { size: Math.round(size * 1.0625) }, x: 0, xref: "paper", xanchor: "left",
        y: 0.985, yref: "container", yanchor: "top", automargin: true },
      legend: { bgcolor: clear, orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
      hoverlabel: { bgcolor: card, bordercolor: grid, font: { family: font, color: ink, size: small } },
      annotationdefaults: { font: { color: ink }, arrowcolor: muted },
      shapedefaults: { line: { color: muted } },
      modebar: { bgcolor: clear, color: css(colours.muted, 0.7), activecolor: css(colours.accent) },
    },
  };
}
