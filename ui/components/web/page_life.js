// The page as a whole: its colours as variables, the menu on a narrow screen, live regions, what a preset has moved.

const NARROW = 960; // pixels; below them the menu would take a third of the picture
const LIVE = '[class*="st-key-headline"], [data-testid="stProgress"], [class*="st-key-notices"]';
const MARKED_MS = 6000, WATCHED_MS = 8000, SCROLL_MS = 1000;
const HEADER = 40; // pixels; what sticks does so below it
let shown = 0; // the last preset that was shown
let folded = false;
let marks; // those of that preset

export default function pageLife(component) {
  const { moved, follow } = JSON.parse(new TextDecoder().decode(component.data));
  colour();
  fold();
  live();
  if (follow > shown) {
    shown = follow;
    marks?.fade();
    marks = new Marks(moved, getComputedStyle(component.parentElement).getPropertyValue("--st-primary-color"));
  }
}

/** What sticks above the pictures must hide them: the page's own colour, which no style sheet of ours knows. */
function colour() {
  const app = document.querySelector('[data-testid="stApp"]');
  if (!app) return;
  const root = document.documentElement.style;
  root.setProperty("--lab-surface", getComputedStyle(app).backgroundColor);
}

/** Once a visit, when the window is or becomes narrow: afterwards it is the visitor's. */
function fold() {
  if (!fold.watching) fold.watching = window.addEventListener("resize", fold) ?? true;
  if (folded || window.innerWidth >= NARROW) return;
  folded = true;
  const button = document.querySelector('[data-testid="stSidebarCollapseButton"] button');
  const open = document.querySelector('[data-testid="stSidebar"][data-collapsed="false"]');
  if (button && open) button.click();
}

/** Headlines and progress are read out when they change, and not when they first appear with the page. */
function live() {
  const speak = () => document.querySelectorAll(LIVE).forEach((place) => {
    if (!place.hasAttribute("aria-live")) place.setAttribute("aria-live", "polite");
  });
  speak();
  if (live.watching) return;
  live.watching = new MutationObserver(speak);
  live.watching.observe(document.body, { childList: true, subtree: true });
}

/** Bring the first control that a preset set into sight, and light up each when it is seen. A page that is still at work
 * moves them, or puts others in their place: so for a while it is looked after, until the visitor scrolls or clicks. */
class Marks {
  constructor(keys, accent) {
    this.places = keys.map((key) => `.st-key-${CSS.escape(key)}`).join();
    this.accent = accent;
    this.lit = new Set();
    this.seen = new IntersectionObserver((changes) => changes.forEach((one) => one.isIntersecting && this.light(one.target)));
    this.left = new AbortController();
    for (const kind of ["wheel", "touchstart", "pointerdown", "keydown"]) {
      window.addEventListener(kind, () => this.leave(), { signal: this.left.signal, capture: true, passive: true });
    }
    this.end = Date.now() + WATCHED_MS;
    this.look();
  }

  fade() {
    this.leave();
    this.seen.disconnect();
    for (const one of this.lit) for (const shining of one.getAnimations()) shining.cancel();
  }

  leave() {
    clearTimeout(this.next);
    this.left.abort();
  }

  look() {
    const found = this.places ? [...document.querySelectorAll(this.places)] : [];
    for (const one of found) one.closest("details:not([open])")?.querySelector("summary")?.click();
    for (const one of found.filter((one) => !this.lit.has(one))) this.take(one);
    const own = found.filter((one) => !one.closest('[data-testid="stSidebar"]')); // the sidebar is in sight, or folded
    const drawn = (own.length ? own : found).filter((one) => one.getClientRects().length);
    const top = (one) => one.getBoundingClientRect().top;
    if (drawn.length) this.bring(drawn.reduce((one, other) => (top(one) <= top(other) ? one : other)));
    if (Date.now() < this.end) this.next = setTimeout(() => this.look(), 200);
    else this.leave();
  }

  take(one) {
    this.lit.add(one);
    this.seen.observe(one);
    one.dataset.marked = String(shown);
  }

  light(one) {
    this.seen.unobserve(one);
    const lit = { outline: `3px solid ${this.accent}`, outlineOffset: "4px", borderRadius: "4px",
      backgroundColor: `color-mix(in srgb, ${this.accent} 22%, transparent)` };
    one.animate([lit, { ...lit, offset: 0.85 }, { outlineColor: "transparent", backgroundColor: "transparent" }], MARKED_MS);
  }

  bring(first) {
    if (Date.now() < (this.scrolled ?? 0) + SCROLL_MS) return;
    const { top, bottom } = first.getBoundingClientRect();
    if (top >= HEADER && bottom <= window.innerHeight - 200) return;
    this.scrolled = Date.now();
    const quiet = matchMedia("(prefers-reduced-motion: reduce)").matches;
    first.scrollIntoView({ block: "center", behavior: quiet ? "auto" : "smooth" });
  }
}
