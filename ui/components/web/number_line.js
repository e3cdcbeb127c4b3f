// A number that can be dragged along up to three grids: where it lands, and the sum that takes it there.

import { lane, layout, number, picture } from "./number_line_picture.js";
import { levelsOf, quantize } from "./quantize.js";
import { css, readTheme } from "./theme.js";

const widgets = new WeakMap(); // the component's element -> NumberLine

/** Called by Streamlit when the data or the theme has changed. */
export default function show(component, options) {
  const parent = component.parentElement;
  try {
    if (!widgets.has(parent)) widgets.set(parent, new NumberLine(parent));
    widgets.get(parent).show(component, options);
  } catch (error) {
    console.error(error);
    parent.textContent = `The number line could not be drawn: ${error.message}.`;
  }
  return () => setTimeout(() => parent.isConnected || widgets.get(parent)?.observer.disconnect());
}

class NumberLine {
  constructor(parent) {
    this.root = element("div", { className: "lab-line" });
    parent.append(this.root);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.root);
  }

  show(component, { palette }) {
    this.component = component;
    this.theme = readTheme(this.root, palette);
    if (this.bytes !== component.data) {
      const before = this.message;
      this.bytes = component.data;
      this.message = JSON.parse(new TextDecoder().decode(component.data));
      this.restart(before);
      if (JSON.stringify(before) !== JSON.stringify(this.message)) this.build();
    }
    this.draw();
  }

  /** Take the page's values where the page has changed them; keep the user's everywhere else. */
  restart(before) {
    const { message } = this;
    if (before?.axis_id !== message.axis_id) this.x = message.x;
    if (before?.lines_id !== message.lines_id) this.knobs = message.lines.map(start);
    this.clip ??= 1;
  }

  reset() {
    [this.x, this.clip, this.knobs] = [this.message.x, 1, this.message.lines.map(start)];
    this.build();
    this.draw();
    this.send();
  }

  // ---------------------------------------------------------------- build: once per message

  build() {
    this.step = niceStep((this.message.hi - this.message.lo) / 200);
    this.fine = niceStep((this.message.hi - this.message.lo) / 2000);
    this.stage = element("div", { className: "lab-line-stage" });
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.handle = this.buildHandle();
    this.stage.append(this.svg, this.handle);
    this.stage.addEventListener("pointerdown", (event) => this.grab(event));
    this.cards = this.message.lines.map((line, i) => this.buildCard(line, i));
    const cards = element("div", { className: "lab-line-cards" });
    cards.append(...this.cards.map((card) => card.root));
    this.root.replaceChildren(this.buildTop(), this.stage, cards);
    this.root.dataset.key = this.message.key;
  }

  buildTop() {
    const top = element("div", { className: "lab-line-top" });
    this.typed = element("input", { type: "number", step: "any" });
    this.typed.addEventListener("change", () => {
      if (Number.isFinite(this.typed.valueAsNumber)) this.put(this.typed.valueAsNumber);
      this.send();
    });
    this.kept = element("input", { type: "range", min: 5, max: 100, step: 1, value: this.clip * 100 });
    this.keptText = element("span");
    this.bind(this.kept, (percent) => { this.clip = percent / 100; });
    const reset = element("button", { type: "button", textContent: "Start again" });
    reset.addEventListener("click", () => this.reset());
    top.append(labelled("x", this.typed), labelled("Range kept", this.kept, this.keptText), reset);
    return top;
  }

  buildHandle() {
    const handle = element("div", { className: "lab-line-handle", tabIndex: 0 });
    handle.setAttribute("role", "slider");
    handle.setAttribute("aria-label", "The number x");
    handle.addEventListener("keydown", (event) => this.press(event));
    return handle;
  }

  buildCard(line, i) {
    const root = element("section", { className: "lab-line-card" });
    const [head, sums, knobs] = [element("header"), element("dl"), element("div", { className: "lab-line-knobs" })];
    const knob = this.knobs[i];
    const octaves = Math.log2(knob.scale / line.scale);
    const scale = element("input", { type: "range", min: -3, max: 3, step: 0.02, value: octaves });
    const scaleText = element("span");
    scale.setAttribute("aria-label", `Scale of ${line.label}, in doublings`);
    this.bind(scale, (doublings) => { knob.scale = line.scale * 2 ** doublings; });
    knobs.append(labelled(scaleText, scale));
    const zeroText = element("span");
    if (line.zero_point !== null) {
      const [min, max] = [line.codes[0], line.codes[line.codes.length - 1]];
      const zero = element("input", { type: "range", min, max, step: 1, value: knob.zero_point });
      zero.setAttribute("aria-label", `Zero point of ${line.label}`);
      this.bind(zero, (code) => { knob.zero_point = code; });
      knobs.append(labelled(zeroText, zero));
    }
    root.append(head, sums, knobs);
    return { root, head, sums, scaleText, zeroText };
  }

  // ---------------------------------------------------------------- input: everything live, the server on release

  bind(input, apply) {
    input.addEventListener("input", () => { apply(input.valueAsNumber); this.draw(); });
    input.addEventListener("change", () => this.send());
  }

  grab(event) {
    if (event.button) return;
    event.preventDefault();
    this.handle.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    const follow = (moved) => this.move(this.layout.value(moved.clientX - this.stage.getBoundingClientRect().left));
    const stop = () => {
      this.stage.removeEventListener("pointermove", follow);
      this.send();
    };
    follow(event);
    this.stage.addEventListener("pointermove", follow);
    this.stage.addEventListener("lostpointercapture", stop, { once: true });
  }

  press(event) {
    const small = event.shiftKey ? this.fine : this.step;
    const moves = {
      ArrowRight: small, ArrowUp: small, ArrowLeft: -small, ArrowDown: -small,
      PageUp: 10 * this.step, PageDown: -10 * this.step, Home: -Infinity, End: Infinity,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.move(this.x + moves[event.key]);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.send(), 250);
  }

  /** Drag and keys move x in steps that can be read aloud; typing may put it anywhere. */
  move(x) {
    const { lo, hi } = this.message;
    const steps = Math.round(Math.min(Math.max(x, lo), hi) / this.fine);
    this.put(Number((steps * this.fine).toPrecision(12)));
  }

  put(x) {
    this.x = Math.min(Math.max(x, this.message.lo), this.message.hi);
    this.draw();
  }

  send() {
    const { lines_id, axis_id } = this.message;
    const lines = this.knobs.map((knob) => ({ scale: knob.scale * this.clip, zero_point: knob.zero_point }));
    this.component.setStateValue("value", { x: this.x, clip: this.clip, lines, lines_id, axis_id });
  }

  // ---------------------------------------------------------------- draw: at every move

  draw() {
    const width = this.root.clientWidth;
    if (!this.message || !width) return;
    this.layout = layout(width, this.message);
    const read = this.message.lines.map((line, i) => this.read(line, this.knobs[i]));
    const lanes = read.map((reading, i) => lane(this.message.lines[i], reading, this.x, this.layout));
    this.svg.setAttribute("height", this.layout.height);
    this.svg.innerHTML = picture(this.message, lanes, this.x, this.layout, this.colours());
    this.drawTop(read);
    read.forEach((reading, i) => this.drawCard(this.message.lines[i], reading, this.cards[i]));
  }

  read(line, knob) {
    const scale = knob.scale * this.clip;
    const levels = levelsOf(line, scale, knob.zero_point);
    return { ...quantize(line, scale, knob.zero_point, this.x), scale, zero: knob.zero_point, levels };
  }

  colours() {
    return this.message.lines.map((line) => css(this.theme.colours[line.colour]));
  }

  drawTop(read) {
    const { lo, hi, lines } = this.message;
    this.handle.style.left = `${this.layout.place(this.x)}px`;
    const spoken = read.map((r, i) => `${lines[i].label}: ${number(r.xHat)}, error ${number(r.error)}`);
    const text = [`x = ${number(this.x)}`, ...spoken].join("; ");
    const now = { valuemin: lo, valuemax: hi, valuenow: this.x, valuetext: text };
    for (const [name, value] of Object.entries(now)) this.handle.setAttribute(`aria-${name}`, value);
    this.typed.value = String(Number(this.x.toPrecision(6)));
    this.keptText.textContent = `${Math.round(this.clip * 100)} %`;
  }

  drawCard(line, reading, card) {
    card.root.style.setProperty("--line", css(this.theme.colours[line.colour]));
    card.root.dataset.xHat = reading.xHat;
    card.root.dataset.q = reading.q;
    card.head.replaceChildren(line.label, element("small", { textContent: ` ${reading.levels.length} values` }));
    card.sums.innerHTML = sums(line, reading, this.x);
    card.scaleText.textContent = `s = ${number(reading.scale)}`;
    card.zeroText.textContent = `z = ${number(reading.zero ?? 0)}`;
  }
}

/** The three sums with this number in them, as the rows of a <dl>. */
function sums(line, { t, free, q, zero, scale, xHat, error, tie, clipped }, x) {
  const [lo, hi] = [line.codes[0], line.codes[line.codes.length - 1]].map((code) => number(code));
  const z = zero === null ? "" : ` + ${term(zero)}`;
  const quotient = `${number(x)} / ${number(scale)}`;
  const rule = line.integer
    ? `clamp(round(x / s)${zero === null ? "" : " + z"}, ${lo}, ${hi}) = round(${quotient})${z}`
    : `nearest code to x / s = nearest to ${quotient} = nearest to ${number(t)}`;
  const clamp = clipped && line.integer ? ` = clamp(${number(free)}, ${lo}, ${hi})` : "";
  const [back, shifted] = zero === null ? ["s * q", term(q)] : ["s * (q − z)", `(${number(q)} − ${term(zero)})`];
  const rows = [
    ["q", `${rule}${clamp} = <b>${number(q)}</b>`],
    ["x_hat", `${back} = ${number(scale)} * ${shifted} = <b>${number(xHat)}</b>`],
    ["error", `x_hat − x = <b>${number(error)}</b>${why(line, { t, free, clipped, tie, q })}`],
  ];
  return rows.map(([left, right]) => `<dt>${left} =</dt><dd>${right}</dd>`).join("");
}

function why(line, { t, free, clipped, tie, q }) {
  const edge = number(clipped > 0 ? line.codes[line.codes.length - 1] : line.codes[0]);
  const beyond = clipped > 0 ? "above the largest" : "below the smallest";
  if (clipped) return `. Clipped: ${number(line.integer ? free : t)} is ${beyond} code, ${edge}.`;
  if (tie) return `. A tie: x / s = ${number(t)} lies half-way, and half-way goes to the even code, here ${number(q)}.`;
  return "";
}

/** A number inside a sum: negative ones in brackets. */
function term(value) {
  return value < 0 ? `(${number(value)})` : number(value);
}

function start(line) {
  return { scale: line.scale, zero_point: line.zero_point };
}

/** 1, 2 or 5 times a power of ten, not above `about`. */
function niceStep(about) {
  const power = 10 ** Math.floor(Math.log10(about));
  return [5, 2, 1].find((m) => m * power <= about * (1 + 1e-9)) * power;
}

function labelled(text, ...inputs) {
  const label = element("label");
  label.append(text, ...inputs);
  return label;
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}

function escape(text) {
  return element("i", { textContent: text }).innerHTML;
}
