// GPTQ step by step: a slider over the columns of a tile; every step is drawn here, from one message.

import { lossPicture, magnitude, mapPicture, signed } from "./column_player_picture.js";
import { css, readTheme } from "./theme.js";

const STEP_MS = 220;
const players = new WeakMap(); // the component's element -> Player

/** Called by Streamlit when the data or the theme has changed. */
export default function show(component, options) {
  const parent = component.parentElement;
  try {
    if (!players.has(parent)) players.set(parent, new Player(parent));
    players.get(parent).show(component, options);
  } catch (error) {
    console.error(error);
    parent.textContent = `The steps could not be drawn: ${error.message}.`;
  }
  return () => setTimeout(() => parent.isConnected || players.get(parent)?.leave());
}

class Player {
  constructor(parent) {
    this.root = element("div", { className: "lab-player" });
    this.root.setAttribute("role", "figure");
    this.root.dataset.drawn = "0";
    parent.append(this.root);
    this.observer = new ResizeObserver(() => this.schedule());
    this.observer.observe(this.root);
    this.build();
  }

  show(component, { palette }) {
    this.component = component;
    this.theme = readTheme(this.root, palette);
    if (this.bytes !== component.data) {
      this.bytes = component.data;
      this.message = JSON.parse(new TextDecoder().decode(component.data));
      this.take(this.message);
    }
    this.schedule();
  }

  /** New data: stay at the step where the hand has put it. */
  take(message) {
    const steps = message.columns.length;
    this.slider.max = steps;
    if (!this.moved || this.step > steps) this.step = message.start;
    this.root.dataset.key = message.key;
    this.root.classList.toggle("compact", Boolean(message.compact));
    this.root.setAttribute("aria-label", message.alt);
    const { original, quantized, rtn, err, factor } = message;
    this.gptqError = original.map((row, r) => row.map((w, k) => Math.abs(w - quantized[r][k])));
    this.rtnError = original.map((row, r) => row.map((w, k) => Math.abs(w - rtn[r][k])));
    this.errorLimit = Math.max(largest(this.gptqError), largest(this.rtnError)) || 1;
    const shares = factor.map((row, j) => Math.max(0, ...row.slice(j + 1).map(Math.abs)));
    this.pushLimit = Math.max(...err.map((row) => Math.max(...row.map((e, j) => Math.abs(e) * shares[j])))) || 1;
  }

  // ---------------------------------------------------------------- build: once

  build() {
    const top = element("div", { className: "lab-player-top" });
    this.playButton = button("Play", () => this.toggle());
    this.playButton.className = "play";
    this.slider = element("input", { type: "range", min: 0, step: 1 });
    this.slider.setAttribute("aria-label", "Columns quantized so far");
    this.slider.addEventListener("input", () => { this.pause(); this.go(this.slider.valueAsNumber); });
    this.slider.addEventListener("change", () => this.send());
    this.where = element("output");
    const back = button("−1", () => { this.pause(); this.go(this.step - 1); this.send(); });
    const on = button("+1", () => { this.pause(); this.go(this.step + 1); this.send(); });
    back.setAttribute("aria-label", "One column back");
    on.setAttribute("aria-label", "One column on");
    top.append(this.playButton, back, on, this.slider, this.where);

    const numbers = element("dl", { className: "lab-player-numbers" });
    this.numbers = ["GPTQ's loss so far", "RTN's loss so far", "This rounding adds", "Its push takes back"].map((name) => {
      const [box, value] = [element("div"), element("dd")];
      box.append(element("dt", { textContent: name }), value);
      numbers.append(box);
      return { box, value };
    });

    const maps = element("div", { className: "lab-player-maps" });
    this.push = this.figure(maps, "This step", "the rounded column, framed, and what its error does to those on its right");
    this.loss = this.figure(maps, "Loss so far", "100% is RTN's in the end; ");
    this.names = ["GPTQ, solid", "RTN, dashed"].map((name) => element("b", { textContent: name }));
    this.loss.note.append(this.names[0], " ", this.names[1]);
    this.gptq = this.figure(maps, "|w − ŵ| so far, GPTQ", "a cell is one weight, a row one output");
    this.rtn = this.figure(maps, "|w − ŵ| so far, RTN", "the same colours");
    this.read = element("p", { className: "lab-player-read" });
    this.root.append(top, numbers, maps, this.read);
  }

  figure(parent, title, note) {
    const [figure, caption, canvas] = [element("figure"), element("figcaption"), element("canvas")];
    const key = element("div", { className: "lab-player-key" });
    const small = element("small", { textContent: note });
    caption.append(title, " ", small);
    canvas.setAttribute("aria-hidden", "true");
    canvas.addEventListener("pointermove", (event) => this.point(event, canvas));
    canvas.addEventListener("pointerleave", () => { this.read.textContent = ""; });
    figure.append(caption, canvas, key);
    parent.append(figure);
    return { canvas, key, note: small };
  }

  // ---------------------------------------------------------------- move

  go(step) {
    this.moved = true;
    this.step = Math.min(Math.max(step, 0), this.message.columns.length);
    this.schedule();
  }

  toggle() {
    if (this.timer) return this.stop();
    if (this.step >= this.message.columns.length) this.go(0);
    this.playButton.textContent = "Pause";
    this.timer = setInterval(() => {
      if (this.step >= this.message.columns.length || !this.root.isConnected) return this.stop();
      this.go(this.step + 1);
    }, STEP_MS);
  }

  /** The page writes the step into its link; a course's scene keeps its own. */
  send() {
    if (!this.message.compact) this.component.setStateValue("value", { step: this.step });
  }

  stop() {
    this.pause();
    this.send();
  }

  pause() {
    clearInterval(this.timer);
    this.timer = undefined;
    this.playButton.textContent = "Play";
  }

  leave() {
    this.pause();
    this.observer.disconnect();
  }

  /** The weight under the pointer, in words. */
  point(event, canvas) {
    const { rows, columns, original, adjusted, quantized, rtn } = this.message;
    const place = canvas === this.loss.canvas ? undefined : canvas.cellAt?.(event.offsetX, event.offsetY);
    if (!place) return void (this.read.textContent = "");
    const [r, k] = place;
    const done = k < this.step;
    const rest = done
      ? `moved to ${number(adjusted[r][k])}, rounded to ${number(quantized[r][k])}; RTN rounds to ${number(rtn[r][k])}`
      : `this step moves it by ${number(this.step ? this.pushOf(r, k) : 0)}`;
    this.read.textContent = `Output ${rows[r]}, input ${columns[k]}: weight ${number(original[r][k])}, ${rest}`;
  }

  pushOf(r, k) {
    const { err, factor } = this.message;
    return -err[r][this.step - 1] * factor[this.step - 1][k];
  }

  // ---------------------------------------------------------------- draw: at every step, once a frame

  schedule() {
    this.frame ??= requestAnimationFrame(() => { this.frame = undefined; this.draw(); });
  }

  draw() {
    const { message, step, theme } = this;
    if (!message || !this.root.clientWidth) return;
    const { columns, adjusted, quantized, loss, rtn_loss, rounded_loss } = message;
    this.slider.value = String(step);
    const now = step === 0 ? "nothing quantized yet" : `column ${columns[step - 1]}`;
    this.where.textContent = `step ${step} of ${columns.length}: ${now}`;
    this.slider.setAttribute("aria-valuetext", `${this.where.textContent}, loss ${percent(loss[step])}`);
    const added = step ? rounded_loss[step - 1] - loss[step - 1] : 0;
    const back = step ? rounded_loss[step - 1] - loss[step] : 0;
    const values = [percent(loss[step]), percent(rtn_loss[step]), percent(added), percent(back)];
    const lines = ["blue", "vermilion"].map((name) => css(theme.colours[name]));
    this.numbers.forEach(({ box, value }, i) => {
      value.textContent = values[i];
      if (lines[i]) box.style.setProperty("--line", lines[i]);
      if (lines[i]) this.names[i].style.color = lines[i];
    });

    const blend = signed(theme.colours, this.pushLimit);
    const cell = (r, k) => {
      if (step === 0 || k < step - 1) return null;
      return blend(k === step - 1 ? adjusted[r][k] - quantized[r][k] : this.pushOf(r, k));
    };
    const shade = magnitude(this.errorLimit);
    const seen = (errors) => (r, k) => (k < step ? shade(errors[r][k]) : null);
    const frame = { rows: message.rows, columns, step, theme };
    mapPicture(this.push.canvas, cell, { ...frame, framed: step - 1 });
    for (const [figure, errors] of message.compact ? [] : [[this.gptq, this.gptqError], [this.rtn, this.rtnError]]) {
      mapPicture(figure.canvas, seen(errors), frame);
    }
    lossPicture(this.loss.canvas, message, frame);
    this.legend(this.push.key, blend.gradient, -this.pushLimit, this.pushLimit, "in units of the weight; colours by the square root");
    for (const { key } of [this.gptq, this.rtn]) this.legend(key, shade.gradient, 0, this.errorLimit, "in units of the weight; colours by the square root");
    Object.assign(this.root.dataset, { step, loss: loss[step], rtn: rtn_loss[step] });
    this.root.dataset.drawn = String(Number(this.root.dataset.drawn) + 1);
  }

  legend(key, gradient, lo, hi, unit) {
    const bar = element("i");
    bar.style.background = gradient;
    key.replaceChildren(number(lo), bar, `${number(hi)} ${unit}`);
  }
}

function largest(rows) {
  return Math.max(...rows.map((row) => Math.max(...row)));
}

function percent(share) {
  const value = 100 * share;
  return `${Math.abs(value) >= 99.95 ? value.toFixed(0) : Math.abs(value) >= 9.995 ? value.toFixed(1) : value.toFixed(2)}%`;
}

function number(value) {
  return String(Number(value.toPrecision(3)));
}

function button(textContent, act) {
  const made = element("button", { type: "button", textContent });
  made.addEventListener("click", act);
  return made;
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
