// Colours and fonts of the page as it looks now: Streamlit's theme variables, and our palette on top of them.

const TOKEN = /var\(--([a-z]+)(?:\/([\d.]+))?\)/g;

/** The theme around an element: { dark, font, size, colours } with every name of palette.py resolved to rgb(). */
export function readTheme(element, palette) {
  const style = getComputedStyle(element);
  const variable = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const ink = toRgb(variable("text-color") || "#222");
  const surface = toRgb(variable("background-color") || "#fff");
  const dark = luminance(surface) < 0.4;
  const colours = {
    ink,
    surface,
    muted: mix(ink, surface, 0.3),
    grid: mix(ink, surface, 0.87),
    card: toRgb(variable("secondary-background-color") || "#eee"),
    accent: toRgb(variable("primary-color") || "#07c"),
  };
  for (const [name, pair] of Object.entries(palette)) colours[name] = toRgb(pair[dark ? 1 : 0]);
  return { dark, colours, font: variable("font") || "sans-serif", size: parseFloat(variable("base-font-size")) || 16 };
}

/** A copy of a figure (or a string) with every var(--name) painted. Packed arrays are shared, not copied. */
export function paint(node, colours) {
  if (typeof node === "string") return node.includes("var(--") ? paintText(node, colours) : node;
  if (Array.isArray(node)) return numeric(node) ? node : node.map((item) => paint(item, colours));
  if (node === null || typeof node !== "object") return node;
  if (node.bdata !== undefined) return { ...node };
  return Object.fromEntries(Object.entries(node).map(([name, value]) => [name, paint(value, colours)]));
}

export function css([r, g, b], opacity = 1) {
  return opacity === 1 ? `rgb(${r},${g},${b})` : `rgba(${r},${g},${b},${opacity})`;
}

/** A plain list of numbers needs no paint; a colour scale's stop, [0.5, "var(--blue)"], does. */
function numeric(list) {
  return list.length > 2 && typeof list[0] === "number" && typeof list[1] === "number";
}

function paintText(text, colours) {
  return text.replace(TOKEN, (whole, name, opacity) =>
    colours[name] ? css(colours[name], opacity === undefined ? 1 : Number(opacity)) : whole);
}

/** Any CSS colour as [r, g, b]: the canvas knows them all. */
function toRgb(colour) {
  const context = (toRgb.context ??= document.createElement("canvas").getContext("2d", { willReadFrequently: true }));
  context.fillStyle = "#888";
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

function mix(from, to, share) {
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * share));
}

function luminance([r, g, b]) {
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}
