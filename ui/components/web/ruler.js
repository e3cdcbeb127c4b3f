// A number set on an axis by mouse, touch or keys: a native slider, with the axis and what lies behind it drawn to scale.

import { css, readTheme } from "./theme.js";

const THUMB = 30; // pixels; the slider's ends stand half a thumb inside
const ROW = 19; // pixels from one line of the axis's name to the next
const rulers = new WeakMap(); // the component's element -> Ruler

export default function show(component, options) {
  const parent = component.parentElement;
  if (!rulers.has(parent)) rulers.set(parent, new Ruler(parent));
  rulers.get(parent).show(component, options);
  return () => setTimeout(() => parent.isConnected || rulers.get(parent)?.observer.disconnect());
}

class Ruler {
  constructor(parent) {
    this.root = element("div", { className: "lab-ruler" });
    this.said = element("output");
    this.stage = element("div", { className: "lab-ruler-stage" });
    this.canvas = element("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.slider = element("input", { type: "range" });
    this.slider.addEventListener("input", () => { this.touched = true; this.draw(); });
    this.slider.addEventListener("change", () => this.send());
    this.slider.addEventListener("pointerup", () => { this.touched = true; this.draw(); this.send(); });
    this.slider.addEventListener("keydown", (event) => { // Enter takes the number under the hand as it is
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.touched = true;
      this.draw();
      this.send();
    });
    this.stage.append(this.canvas, this.slider);
    this.root.append(this.said, this.stage);
    parent.append(this.root);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.root);
  }

  show(component, { palette }) {
    this.component = component;
    this.theme = readTheme(this.root, palette);
    if (this.bytes !== component.data) {
      const before = this.message?.start_id;
      this.bytes = component.data;
      this.message = JSON.parse(new TextDecoder().decode(component.data));
      if (before !== this.message.start_id) this.take();
    }
    this.draw();
  }

  take() {
    const { lo, hi, step, value, label, key } = this.message;
    Object.assign(this.slider, { min: lo, max: hi, step });
    this.touched = value !== null;
    this.slider.value = String(this.touched ? value : lo + Math.round((hi - lo) / 2 / step) * step);
    this.slider.setAttribute("aria-label", label);
    this.root.dataset.key = key;
  }

  get words() {
    const { unit, step } = this.message;
    const digits = (String(step).split(".")[1] ?? "").length;
    const gap = unit === "%" || !unit ? "" : " ";
    return `${this.slider.valueAsNumber.toFixed(digits)}${gap}${unit}`;
  }

  send() {
    const text = String(Number(this.slider.valueAsNumber.toPrecision(10)));
    this.component.setStateValue("value", { text, start_id: this.message.start_id });
  }

  draw() {
    const width = this.root.clientWidth;
    if (!this.message || !width) return;
    this.said.textContent = this.touched ? this.words : this.message.hint;
    this.slider.setAttribute("aria-valuetext", this.words);
    this.slider.classList.toggle("untouched", !this.touched);
    const { counts, edges } = this.message;
    const { lo, hi, ticks, name } = this.message;
    const rows = rowsOf(name, width, this.theme);
    const high = (counts.length ? 178 : 64) + ROW * (rows.length - 1);
    const { pen } = prepare(this.canvas, width, high, this.theme);
    const x = (value) => THUMB / 2 + ((value - lo) / (hi - lo)) * (width - THUMB);
    const base = counts.length ? 126 : 12;
    if (counts.length) {
      const most = Math.log1p(Math.max(...counts)) || 1;
      pen.fillStyle = css(this.theme.colours.slate, 0.55);
      counts.forEach((count, i) => {
        const tall = (Math.log1p(count) / most) * (base - 6);
        pen.fillRect(x(edges[i]), base - tall, Math.max(1, x(edges[i + 1]) - x(edges[i]) - 0.5), tall);
      });
    }
    pen.strokeStyle = css(this.theme.colours.muted);
    pen.fillStyle = css(this.theme.colours.ink);
    pen.textAlign = "center";
    line(pen, x(lo), base, x(hi), base);
    let free = -Infinity;
    for (const [at, text] of ticks) {
      line(pen, x(at), base, x(at), base + 7);
      const half = pen.measureText(text).width / 2;
      if (x(at) - half < free + 4) continue;
      pen.fillText(text, Math.min(Math.max(x(at), half), width - half), base + 23);
      free = x(at) + half;
    }
    pen.fillStyle = css(this.theme.colours.muted);
    rows.forEach((row, i) => pen.fillText(row, width / 2, base + 42 + ROW * i));
    if (this.touched) {
      pen.strokeStyle = css(this.theme.colours.vermilion);
      pen.lineWidth = 3;
      const at = x(this.slider.valueAsNumber);
      line(pen, at, counts.length ? 0 : base - 10, at, base);
    }
    this.root.dataset.value = this.touched ? String(this.slider.valueAsNumber) : "";
    this.root.dataset.drawn = String(Number(this.root.dataset.drawn ?? 0) + 1);
  }
}

/** The axis's name in as many lines as its width needs. */
function rowsOf(name, width, theme) {
  const pen = prepare(document.createElement("canvas"), 1, 1, theme).pen;
  const rows = [""];
  for (const word of name.split(" ")) {
    const longer = `${rows.at(-1)} ${word}`.trim();
    if (pen.measureText(longer).width <= width || !rows.at(-1)) rows[rows.length - 1] = longer;
    else rows.push(word);
  }
  return rows;
}

function prepare(canvas, width, high, theme) {
  const ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(high * ratio)];
  canvas.style.height = `${high}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = `15px ${theme.font}`;
  return { pen };
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
