// The glossary's words, found in the page's text and explained there. The page's own nodes are read, never changed.

import { css, readTheme } from "./theme.js";

const WAIT_MS = 600; // after the page has changed, before it is read again
const HOVER_MS = 250;
const AREAS = ["Main", "Sidebar", "PopoverBody", "Dialog"].map((name) => `[data-testid="st${name}"]`).join();
const NOT = "input, textarea, select, script, style, title, desc, canvas, pre, .lab-words, .lab-word-tip";
const PLAIN = "button, a, h1, h2, h3, label, svg, [role='progressbar']"; // there a line under a word would mean something else
let reader; // one for the whole app: pages come and go

export default function show(component, { palette }) {
  reader ??= new Reader();
  reader.take(JSON.parse(new TextDecoder().decode(component.data)));
  reader.dress(readTheme(component.parentElement, palette));
}

class Reader {
  constructor() {
    this.places = new Map(); // text node -> [[start, end, word], ...]
    this.box = element("aside", { className: "lab-words" });
    this.box.setAttribute("aria-label", "Glossary");
    this.button = element("button", { type: "button", textContent: "Words" });
    this.button.setAttribute("aria-expanded", "false");
    this.button.addEventListener("click", () => this.toggle());
    this.list = element("section", { hidden: true, tabIndex: 0 });
    this.list.setAttribute("aria-label", "Words on this page");
    this.box.append(this.list, this.button);
    this.tip = element("div", { className: "lab-word-tip", hidden: true });
    this.tip.setAttribute("role", "tooltip");
    document.body.append(this.box, this.tip);
    new MutationObserver((changes) => {
      if (!this.tip.hidden && !this.shown.isConnected) this.hide(); // its word has gone with the page's change
      if (changes.some((one) => !this.own(one.target))) this.later();
    })
      .observe(document.body, { childList: true, subtree: true, characterData: true });
    document.addEventListener("pointermove", (event) => this.hover(event), { passive: true });
    document.addEventListener("pointerdown", (event) => this.touch(event), { passive: true });
    document.addEventListener("keydown", () => this.hide(), { capture: true, passive: true });
    document.addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.list.hidden) return;
      event.stopPropagation();
      this.toggle();
      this.button.focus();
    });
  }

  /** forms: [a regular expression, the word it is a form of, or null where no word is meant], the first that fits. */
  take({ words, forms, alone }) {
    if (this.words) return;
    [this.words, this.alone, this.known] = [words, alone, new Map()];
    this.forms = forms.map(([form, word]) => [new RegExp(`^${form}$`, "i"), word]);
    this.pattern = new RegExp(`(?<![\\w-])(?:${forms.map(([form]) => form).join("|")})(?![\\w-])`, "gi");
    this.later();
  }

  word(text) {
    if (!this.known.has(text)) this.known.set(text, this.forms.find(([form]) => form.test(text))[1]);
    return this.known.get(text);
  }

  dress({ colours }) {
    for (const node of [this.box, this.tip]) {
      const set = (name, colour) => node.style.setProperty(name, css(colour));
      set("--lab-ink", colours.ink);
      set("--lab-card", colours.card);
      set("--lab-line", colours.grid);
      set("--lab-accent", colours.accent);
    }
  }

  own(node) {
    return this.box.contains(node) || this.tip.contains(node);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (window.requestIdleCallback ?? setTimeout)(() => this.read()), WAIT_MS);
  }

  /** Find the words; the first of a kind on the page is marked, all of them answer. */
  read() {
    this.places.clear();
    const [marks, found, names] = [[], new Set(), new Set()];
    for (const area of document.querySelectorAll(AREAS)) {
      const walker = document.createTreeWalker(area, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        if (node.data.length < 2 || this.alone.includes(node.data.trim()) || node.parentElement?.closest(NOT)) continue;
        const here = [];
        for (const match of node.data.matchAll(this.pattern)) {
          const word = this.word(match[0]);
          if (word === null) continue;
          if (!found.has(word) && !node.parentElement.closest(PLAIN)) {
            marks.push([node, match.index, match.index + match[0].length]);
            found.add(word);
          }
          here.push([match.index, match.index + match[0].length, word]);
          names.add(word);
        }
        if (here.length) this.places.set(node, here);
      }
    }
    if (window.Highlight) {
      const ranges = marks.map(([node, start, end]) => {
        const range = new Range();
        range.setStart(node, start);
        range.setEnd(node, end);
        return range;
      });
      CSS.highlights.set("lab-word", new Highlight(...ranges));
    }
    const sorted = [...names].sort((a, b) => a.localeCompare(b, "en"));
    this.button.textContent = `Words (${sorted.length})`;
    this.box.hidden = sorted.length === 0;
    this.box.dataset.words = sorted.join("|");
    const list = element("dl");
    for (const name of sorted) list.append(element("dt", { textContent: name }), element("dd", { textContent: this.words[name] }));
    this.list.replaceChildren(list);
  }

  toggle() {
    this.list.hidden = !this.list.hidden;
    this.button.setAttribute("aria-expanded", String(!this.list.hidden));
    if (!this.list.hidden) this.list.focus();
  }

  hover(event) {
    const place = `${event.screenX} ${event.screenY}`;
    if (place === this.pointer) return; // the page has moved under a pointer that rests
    this.pointer = place;
    clearTimeout(this.hovering);
    if (event.pointerType === "touch" || event.buttons) return;
    this.hovering = setTimeout(() => this.at(event), HOVER_MS);
  }

  touch(event) {
    this.pointer = `${event.screenX} ${event.screenY}`;
    if (event.pointerType === "touch") setTimeout(() => this.at(event), 50);
    else this.hide();
  }

  /** The word under the pointer, explained beside it. */
  at({ clientX, clientY }) {
    const caret = document.caretPositionFromPoint?.(clientX, clientY);
    const range = caret ? undefined : document.caretRangeFromPoint?.(clientX, clientY);
    const [node, offset] = caret ? [caret.offsetNode, caret.offset] : [range?.startContainer, range?.startOffset];
    const place = this.places.get(node)?.find(([start, end]) => offset >= start && offset <= end);
    const here = (box) => clientX >= box.left - 2 && clientX <= box.right + 2 && clientY >= box.top - 2 && clientY <= box.bottom + 2;
    const beside = place && boxOf(node, place);
    const [word, box, shown] = beside && here(beside) ? [place[2], beside, node] : this.drawn(here);
    if (!word) return this.hide();
    this.shown = shown;
    this.tip.replaceChildren(element("b", { textContent: word }), this.words[word]);
    this.tip.hidden = false;
    const { width, height } = this.tip.getBoundingClientRect();
    this.tip.style.left = `${Math.min(Math.max(8, box.left), innerWidth - width - 8)}px`;
    this.tip.style.top = `${box.bottom + height + 10 > innerHeight ? box.top - height - 6 : box.bottom + 6}px`;
  }

  /** The word of a picture's own text whose box is `here`: what takes a picture's pointer lies above its text. */
  drawn(here) {
    for (const [node, places] of this.places) {
      if (!node.parentElement?.closest("svg") || !here(node.parentElement.getBoundingClientRect())) continue;
      for (const place of places) {
        const box = boxOf(node, place);
        if (here(box)) return [place[2], box, node];
      }
    }
    return [];
  }

  hide() {
    clearTimeout(this.hovering);
    this.tip.hidden = true;
  }
}

/** Where the letters from `start` to `end` of a text node stand. */
function boxOf(node, [start, end]) {
  const range = new Range();
  range.setStart(node, start);
  range.setEnd(node, end);
  return range.getBoundingClientRect();
}

function element(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
