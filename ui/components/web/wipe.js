// Two maps of the same cells, one over the other: a slider wipes from the left one to the right one.

import { css, readTheme } from "./theme.js";

const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const wipes = new WeakMap(); // the component's element -> Wipe

export default function show(component, options) {
  const parent = component.parentElement;
  if (!wipes.has(parent)) wipes.set(parent, new Wipe(parent));
  wipes.get(parent).show(component, options);
}

class Wipe {
  constructor(parent) {
    this.root = element("div", { className: "lab-wipe" });
    this.root.setAttribute("role", "figure");
    this.stage = element("div", { className: "lab-wipe-stage" });
    [this.under, this.over] = [element("canvas"), element("canvas")];
    for (const canvas of [this.under, this.over]) canvas.setAttribute("aria-hidden", "true");
    this.edge = element("div", { className: "lab-wipe-edge" });
    this.slider = element("input", { type: "range", min: 0, max: 100, step: 1, value: 50 });
    this.slider.addEventListener("input", () => this.wipe());
    this.stage.append(this.under, this.over, this.edge);
    this.stage.addEventListener("pointerdown", (event) => this.grab(event));
    this.names = element("div", { className: "lab-wipe-names" });
    this.scale = element("div", { className: "lab-wipe-scale" });
    this.root.append(this.names, this.stage, this.slider, this.scale);
    parent.append(this.root);
  }

  show(component, { palette }) {
    this.theme = readTheme(this.root, palette);
    if (this.bytes !== component.data) {
      this.bytes = component.data;
      this.message = JSON.parse(new TextDecoder().decode(component.data));
      this.build();
    }
    this.edge.style.background = css(this.theme.colours.vermilion);
  }

  build() {
    const { maps, alt, key, height, ends, axes } = this.message;
    this.root.dataset.key = key;
    this.root.setAttribute("aria-label", alt);
    this.root.style.height = `calc(${height}px + var(--lab-tall, 0px))`; // names and scale may take two lines each: the maps give way
    this.right = Math.min(this.right ?? 1, maps.length - 1);
    this.names.replaceChildren(element("b", { textContent: `left: ${maps[0].name}` }));
    const choices = element("span", { className: "lab-wipe-choices" });
    maps.slice(1).forEach((map, i) => {
      const one = element("button", { type: "button", textContent: `right: ${map.name}` });
      one.addEventListener("click", () => { this.right = i + 1; this.paint(); });
      choices.append(one);
    });
    this.names.append(choices);
    this.buttons = [...choices.children];
    const bar = element("i");
    bar.style.background = `linear-gradient(90deg, ${VIRIDIS.map((stop) => css(stop)).join(", ")})`;
    this.scale.replaceChildren(ends[0], bar, `${ends[1]}; ${axes}`);
    this.paint();
  }

  paint() {
    const { maps } = this.message;
    draw(this.over, maps[0]);
    draw(this.under, maps[this.right]);
    this.buttons.forEach((one, i) => one.setAttribute("aria-pressed", String(i + 1 === this.right)));
    this.slider.setAttribute("aria-label", `Wipe from ${maps[0].name} to ${maps[this.right].name}`);
    this.wipe();
    this.root.dataset.drawn = String(Number(this.root.dataset.drawn ?? 0) + 1);
  }

  grab(event) {
    if (event.button) return;
    this.stage.setPointerCapture(event.pointerId);
    const follow = (moved) => {
      const box = this.stage.getBoundingClientRect();
      this.slider.value = String(Math.round((100 * (moved.clientX - box.left)) / box.width));
      this.wipe();
    };
    follow(event);
    this.stage.addEventListener("pointermove", follow);
    this.stage.addEventListener("lostpointercapture", () => this.stage.removeEventListener("pointermove", follow), { once: true });
  }

  wipe() {
    const share = this.slider.valueAsNumber;
    this.over.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    this.edge.style.left = `calc(${share}% - 1px)`;
  }
}

/** A pixel a cell; the browser makes them larger. */
function draw(canvas, { rows, cols, cells }) {
  const bytes = Uint8Array.from(atob(cells), (c) => c.charCodeAt(0));
  [canvas.width, canvas.height] = [cols, rows];
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(cols, rows);
  bytes.forEach((value, i) => {
    const place = (value / 255) * (VIRIDIS.length - 1);
    const from = Math.min(Math.floor(place), VIRIDIS.length - 2);
    for (let c = 0; c < 3; c += 1) {
      image.data[4 * i + c] = VIRIDIS[from][c] + (VIRIDIS[from + 1][c] - VIRIDIS[from][c]) * (place - from);
    }
    image.data[4 * i + 3] = 255;
  });
  pen.putImageData(image, 0, 0);
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
