// The page as a whole: its colours as variables, the menu on a narrow screen, live regions, what a preset has moved.

const NARROW = 960; // pixels; below them the menu would take a third of the picture
const LIVE = '[class*="st-key-headline"], [data-testid="stProgress"], [class*="st-key-notices"]';
const MARKED_MS = 2600, PATIENCE_MS = 3000;
let shown = 0; // the last preset that was shown
let folded = false;

export default function pageLife(component) {
  const { moved, follow } = JSON.parse(new TextDecoder().decode(component.data));
  colour();
  fold();
  live();
  if (follow > shown) {
    shown = follow;
    mark(moved);
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

/** Bring the first control that a preset set into sight, and light up all of them for a moment. */
function mark(keys, since = Date.now()) {
  const found = keys.flatMap((key) => [...document.querySelectorAll(`.st-key-${CSS.escape(key)}`)]);
  if (!found.length) {
    if (Date.now() - since < PATIENCE_MS) setTimeout(() => mark(keys, since), 100);
    return;
  }
  const quiet = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const first = found.reduce((a, b) => (a.getBoundingClientRect().top < b.getBoundingClientRect().top ? a : b));
  const { top, bottom } = first.getBoundingClientRect();
  if (top < 60 || bottom > window.innerHeight - 200) {
    first.scrollIntoView({ block: "center", behavior: quiet ? "auto" : "smooth" });
  }
  const accent = getComputedStyle(document.querySelector("a, button")).color;
  for (const one of found) {
    one.animate([{ boxShadow: `0 0 0 3px ${accent}` }, { boxShadow: `0 0 0 3px ${accent}`, offset: 0.8 },
      { boxShadow: "0 0 0 3px transparent" }], { duration: MARKED_MS });
    one.dataset.marked = String(shown);
  }
}
