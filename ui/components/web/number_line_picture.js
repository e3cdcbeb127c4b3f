// The number line as SVG text: the data behind, one lane of levels per format, and the arrow from x to x_hat.

import { cell } from "./quantize.js";

const PAD = 16; // left and right
const HISTOGRAM = 104;
const LANE = 102;
const AXIS = 30;
const BASE = 64; // from a lane's top to its line
const DOT_GAP = 9; // pixels between levels from which they are dots instead of ticks
const LABEL_GAP = 21; // ... and from which every code is named

/** Geometry for a width in pixels: x -> place, pixel -> value, and the tops of the lanes. */
export function layout(width, { lo, hi, lines }) {
  const inner = width - 2 * PAD;
  return {
    width,
    height: HISTOGRAM + lines.length * LANE + AXIS,
    bottom: HISTOGRAM + lines.length * LANE,
    place: (x) => PAD + ((x - lo) / (hi - lo)) * inner,
    value: (pixel) => lo + ((pixel - PAD) / inner) * (hi - lo),
    top: (i) => HISTOGRAM + i * LANE,
  };
}

export function picture(message, lanes, x, at, colours) {
  const rows = lanes.map((content, i) =>
    `<g style="--line:${colours[i]}" transform="translate(0,${at.top(i)})">${content}</g>`);
  const mark = round(at.place(x));
  return `<defs><pattern id="lab-line-hatch" width="6" height="6" patternUnits="userSpaceOnUse"
      patternTransform="rotate(45)">
    <line x1="0" y1="0" x2="0" y2="6" stroke="currentColor" stroke-opacity="0.35"/></pattern></defs>
    ${histogram(message, at)}${axis(message, at)}
    <line class="x" x1="${mark}" x2="${mark}" y1="20" y2="${at.bottom}"/>${rows.join("")}`;
}

/** The data behind the grids; square root of the counts, so that the tails can be seen. */
function histogram({ counts, edges, label }, at) {
  const highest = Math.max(...counts, 1);
  const steps = counts.map((count, k) => {
    const y = HISTOGRAM - Math.sqrt(count / highest) * (HISTOGRAM - 26);
    return `L${round(at.place(edges[k]))},${round(y)}L${round(at.place(edges[k + 1]))},${round(y)}`;
  });
  const [from, to] = [edges[0], edges[edges.length - 1]].map((edge) => round(at.place(edge)));
  const words = `${escape(label)} (height: square root of the count)`;
  const text = label ? `<text class="soft" x="${PAD}" y="18">${words}</text>` : "";
  return `<path class="hist" d="M${from},${HISTOGRAM}${steps.join("")}L${to},${HISTOGRAM}Z"/>${text}`;
}

function axis({ lo, hi }, at) {
  const step = tickStep((hi - lo) / Math.max(4, Math.min(10, at.width / 120)));
  const ticks = [];
  for (let k = Math.ceil(lo / step); k * step <= hi * (1 + 1e-12); k += 1) {
    const x = round(at.place(k * step));
    const anchor = x < PAD + 12 ? "start" : x > at.width - PAD - 12 ? "end" : "middle";
    ticks.push(`<line class="rule" x1="${x}" x2="${x}" y1="${at.bottom}" y2="${at.bottom + 6}"/>
      <text class="soft" x="${x}" y="${at.bottom + 22}" text-anchor="${anchor}">${number(k * step)}</text>`);
  }
  return `<line class="rule" x1="${PAD}" x2="${at.width - PAD}" y1="${at.bottom}" y2="${at.bottom}"/>${ticks.join("")}`;
}

/** One format's lane: what is clipped, the levels, the cell that x lies in, and the arrow to its level. */
export function lane(line, reading, x, at) {
  const places = reading.levels.map(at.place);
  return `<text class="name" x="${PAD}" y="21">${escape(line.label)}</text>
    ${lost(places, at)}${caught(reading, at)}
    <line class="rule" x1="${PAD}" x2="${at.width - PAD}" y1="${BASE}" y2="${BASE}"/>
    ${levels(line, places, reading.index, at)}${arrow(reading, at.place(x), places[reading.index], at)}`;
}

/** Hatching beyond the outer levels: what lies there is clipped. */
function lost(places, { width }) {
  const [from, to] = [places[0], places[places.length - 1]].map((p) => round(Math.min(Math.max(p, 0), width)));
  const box = (x, w) => (w > 0.5 ? `<rect class="lost" x="${x}" y="${BASE - 11}" width="${w}" height="22"/>` : "");
  return box(0, from) + box(to, round(width - to));
}

function caught({ levels, index }, { place, width }) {
  const [from, to] = cell(levels, index).map((edge) => Math.min(Math.max(place(edge), 0), width));
  const wide = round(Math.max(to - from, 1));
  return `<rect class="cell" x="${round(from)}" y="${BASE - 16}" width="${wide}" height="32"/>`;
}

function levels(line, places, hit, at) {
  const seen = places.map((p, i) => [round(p), i]).filter(([p]) => p >= 0 && p <= at.width);
  const gap = Math.min(...places.slice(1).map((p, i) => p - places[i]));
  const ticks = () => seen.map(([p]) => `M${p},${BASE - 9}v18`).join("");
  if (gap < DOT_GAP) return `<path class="ticks" d="${ticks()}"/>`;
  const dots = seen.map(([p]) => `<circle cx="${p}" cy="${BASE}" r="3.5"/>`).join("");
  return `<g class="dots">${dots}</g>${codeNames(line, seen, hit)}`;
}

/** The codes under their levels, leaving out those that would run into the one before. */
function codeNames(line, seen, hit) {
  const kept = [];
  const shown = new Set();
  for (const [p, i] of [...seen].sort(([, a], [, b]) => Math.abs(a - hit) - Math.abs(b - hit))) {
    if (kept.some((other) => Math.abs(other - p) < LABEL_GAP)) continue;
    kept.push(p);
    shown.add(`<text class="soft" x="${p}" y="${BASE + 28}" text-anchor="middle">${number(line.codes[i])}</text>`);
  }
  return [...shown].join("");
}

function arrow({ xHat, clipped }, from, to, at) {
  const y = BASE - 20;
  const way = Math.sign(to - from);
  const bend = Math.abs(to - from) > 8
    ? `<path class="arrow" d="M${round(from)},${y}H${round(to - way * 6)}"/>
       <path class="head" d="M${round(to)},${y}l${-way * 9},-5v10z"/>`
    : "";
  const anchor = to < 90 ? "start" : to > at.width - 90 ? "end" : "middle";
  const words = `${number(xHat)}${clipped ? ", clipped" : ""}`;
  const text = `<text class="value" x="${round(to)}" y="${y - 9}" text-anchor="${anchor}">${words}</text>`;
  return `${bend}<circle class="hit" cx="${round(to)}" cy="${BASE}" r="7"/>${text}`;
}

/** Four significant digits, no trailing zeros, a real minus sign. */
export function number(value, minus = "\u2212") {
  const rounded = Number(value.toPrecision(4));
  const text = rounded !== 0 && Math.abs(rounded) < 1e-4 ? rounded.toExponential() : String(rounded);
  return text.replaceAll("-", minus);
}

function tickStep(about) {
  const power = 10 ** Math.floor(Math.log10(about));
  return [1, 2, 5, 10].find((m) => m * power >= about) * power;
}

function round(pixels) {
  return Math.round(pixels * 100) / 100;
}

function escape(text) {
  return text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}
