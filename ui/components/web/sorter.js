// Cards in an order made by hand: drag a card, or press the arrows under it, or the arrow keys while it has the focus.

import { css, readTheme } from "./theme.js";

const sorters = new WeakMap(); // the component's element -> Sorter

export default function show(component, options) {
  const parent = component.parentElement;
  if (!sorters.has(parent)) sorters.set(parent, new Sorter(parent));
  sorters.get(parent).show(component, options);
}

class Sorter {
  constructor(parent) {
    this.root = element("div", { className: "lab-sorter" });
    this.list = element("ol");
    this.said = element("output");
    this.said.setAttribute("aria-live", "polite");
    this.root.append(this.list, this.said);
    parent.append(this.root);
  }

  show(component, { palette }) {
    this.component = component;
    this.theme = readTheme(this.root, palette);
    if (this.bytes !== component.data) {
      const before = this.message?.start_id;
      this.bytes = component.data;
      this.message = JSON.parse(new TextDecoder().decode(component.data));
      if (before !== this.message.start_id) this.order = [...this.message.order];
      this.build();
    }
    this.paint();
  }

  build() {
    const { cards, label, key } = this.message;
    this.root.dataset.key = key;
    this.list.setAttribute("aria-label", label);
    this.cards = cards.map((card, i) => {
      const root = element("li", { tabIndex: 0 });
      const canvas = element("canvas");
      canvas.setAttribute("aria-hidden", "true");
      const back = button("◀", () => this.move(i, -1));
      const on = button("▶", () => this.move(i, 1));
      back.setAttribute("aria-label", `${card.name} earlier`);
      on.setAttribute("aria-label", `${card.name} later`);
      const keys = element("div");
      keys.append(back, on);
      root.append(element("b", { textContent: card.name }), canvas, keys);
      root.addEventListener("keydown", (event) => this.press(event, i));
      root.addEventListener("pointerdown", (event) => this.grab(event, i));
      return { root, canvas, curve: card.curve };
    });
    this.place();
  }

  place() {
    this.list.replaceChildren(...this.order.map((i) => this.cards[i].root));
    this.root.dataset.order = this.order.map((i) => i + 1).join(",");
  }

  press(event, i) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target !== this.cards[i].root) return;
    event.preventDefault();
    event.stopPropagation();
    this.move(i, by);
    this.cards[i].root.focus();
  }

  move(i, by) {
    const at = this.order.indexOf(i);
    const to = Math.min(Math.max(at + by, 0), this.order.length - 1);
    this.order.splice(to, 0, ...this.order.splice(at, 1));
    this.place();
    this.said.textContent = `${this.message.cards[i].name} is number ${to + 1} of ${this.order.length}`;
    this.send();
  }

  grab(event, i) {
    if (event.button || event.target.tagName === "BUTTON") return;
    const card = this.cards[i].root;
    card.setPointerCapture(event.pointerId);
    card.classList.add("held");
    const follow = (moved) => {
      const to = this.order.findIndex((other) => {
        const box = this.cards[other].root.getBoundingClientRect();
        return moved.clientX < box.right && moved.clientX >= box.left;
      });
      const at = this.order.indexOf(i);
      if (to < 0 || to === at) return;
      const box = this.cards[this.order[to]].root.getBoundingClientRect();
      const past = to > at ? moved.clientX > box.left + box.width / 2 : moved.clientX < box.left + box.width / 2;
      if (!past) return;
      this.order.splice(to, 0, ...this.order.splice(at, 1));
      this.settle(i);
    };
    const stop = () => {
      card.classList.remove("held");
      card.removeEventListener("pointermove", follow);
      this.send();
    };
    card.addEventListener("pointermove", follow);
    card.addEventListener("lostpointercapture", stop, { once: true });
  }

  /** Put the other cards around the one that is held: it must stay in the document, or it would lose the pointer. */
  settle(held) {
    const at = this.order.indexOf(held);
    const card = this.cards[held].root;
    for (const i of this.order.slice(0, at)) this.list.insertBefore(this.cards[i].root, card);
    for (const i of this.order.slice(at + 1)) this.list.append(this.cards[i].root);
    this.root.dataset.order = this.order.map((i) => i + 1).join(",");
  }

  send() {
    const text = this.order.map((i) => i + 1).join(",");
    this.component.setStateValue("value", { text, start_id: this.message.start_id });
  }

  paint() {
    const all = Math.max(...this.cards.flatMap((card) => card.curve)) || 1;
    for (const { canvas, curve } of this.cards) {
      const [width, high] = [canvas.clientWidth || 60, 64];
      [canvas.width, canvas.height] = [width * 2, high * 2];
      const pen = canvas.getContext("2d");
      pen.scale(2, 2);
      pen.fillStyle = css(this.theme.colours.blue);
      const bar = width / curve.length;
      curve.forEach((value, k) => {
        const tall = (value / all) * (high - 2);
        pen.fillRect(k * bar, high - tall - 1, Math.max(1, bar - 1), tall + 1);
      });
    }
  }
}

function button(textContent, act) {
  const made = element("button", { type: "button", textContent });
  made.addEventListener("click", act);
  return made;
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
