// The player's pictures on canvas: maps of a tile's cells, and two curves.

import { css } from "./theme.js";

const LEFT = 34; // room for the rows' numbers
const BOTTOM = 34; // and for the columns' numbers
const CELL = 12; // pixels a row is high
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

// Colours go by the square root: one loud column must not leave the others the colour of nothing.

/** A colour for a value in -limit..limit: blue, the page, vermilion. */
export function signed({ blue, surface, vermilion }, limit) {
  const colour = (value) => {
    const share = Math.sqrt(Math.min(Math.abs(value) / limit, 1));
    return css(mix(surface, value < 0 ? blue : vermilion, share));
  };
  colour.gradient = `linear-gradient(90deg, ${css(blue)}, ${css(surface)}, ${css(vermilion)})`;
  return colour;
}

/** A colour for a value in 0..limit. */
export function magnitude(limit) {
  const colour = (value) => {
    const place = Math.sqrt(Math.min(value / limit, 1)) * (VIRIDIS.length - 1);
    const from = Math.min(Math.floor(place), VIRIDIS.length - 2);
    return css(mix(VIRIDIS[from], VIRIDIS[from + 1], place - from));
  };
  colour.gradient = `linear-gradient(90deg, ${VIRIDIS.map((stop) => css(stop)).join(", ")})`;
  return colour;
}

/** Cells of a tile; `colour(r, k)` is null where there is nothing yet. `framed`: the column of this step. */
export function mapPicture(canvas, colour, { rows, columns, step, theme, framed }) {
  const { pen, width } = prepare(canvas, rows.length * CELL + BOTTOM, theme);
  const cell = (width - LEFT) / columns.length;
  pen.fillStyle = css(theme.colours.grid, 0.55);
  pen.fillRect(LEFT, 0, width - LEFT, rows.length * CELL);
  for (let r = 0; r < rows.length; r += 1) {
    for (let k = 0; k < columns.length; k += 1) {
      const fill = colour(r, k);
      if (fill === null) continue;
      pen.fillStyle = fill;
      pen.fillRect(LEFT + k * cell, r * CELL, cell + 0.5, CELL + 0.5);
    }
  }
  pen.strokeStyle = css(theme.colours.ink);
  pen.lineWidth = 2;
  if (framed >= 0) pen.strokeRect(LEFT + framed * cell, 1, cell, rows.length * CELL - 2);
  else if (framed === undefined) line(pen, LEFT + step * cell, 0, LEFT + step * cell, rows.length * CELL);
  pen.fillStyle = css(theme.colours.muted);
  pen.textAlign = "right";
  for (let r = 0; r < rows.length; r += 5) pen.fillText(rows[r], LEFT - 5, r * CELL + CELL - 2);
  columnNumbers(pen, columns, cell, rows.length * CELL);
  canvas.cellAt = (x, y) => {
    const [r, k] = [Math.floor(y / CELL), Math.floor((x - LEFT) / cell)];
    return r >= 0 && r < rows.length && k >= 0 && k < columns.length ? [r, k] : undefined;
  };
}

/** The losses after every step, GPTQ solid, RTN dashed; beyond this step they are pale. */
export function lossPicture(canvas, { loss, rtn_loss, rounded_loss }, { rows, columns, step, theme }) {
  const high = rows.length * CELL;
  const { pen, width } = prepare(canvas, high + BOTTOM, theme);
  const top = 1.06 * Math.max(...loss, ...rtn_loss, ...rounded_loss.slice(step - 1, step));
  const x = (k) => LEFT + (k / columns.length) * (width - LEFT - 4);
  const y = (value) => high - (value / (top || 1)) * (high - 6);
  pen.strokeStyle = css(theme.colours.grid);
  pen.fillStyle = css(theme.colours.muted);
  pen.textAlign = "right";
  pen.lineWidth = 1;
  const tick = [0.1, 0.25, 0.5, 1, 2, 5, 10].find((one) => top / one < 6) ?? 20;
  for (let value = 0; value <= top; value += tick) {
    line(pen, LEFT, y(value), width, y(value));
    pen.fillText(`${Math.round(100 * value)}%`, LEFT - 4, Math.max(y(value) + 4, 10));
  }
  const series = [[rtn_loss, "vermilion", [7, 5]], [loss, "blue", []]];
  pen.lineWidth = 2.5;
  for (const [values, name, dash] of series) {
    pen.setLineDash(dash);
    pen.strokeStyle = css(theme.colours[name], 0.28);
    curve(pen, values, x, y, 0, values.length);
    pen.strokeStyle = css(theme.colours[name]);
    curve(pen, values, x, y, 0, step + 1);
  }
  pen.setLineDash([]);
  if (step > 0) {
    pen.strokeStyle = css(theme.colours.ink);
    pen.lineWidth = 1.5;
    line(pen, x(step), y(rounded_loss[step - 1]), x(step), y(loss[step]));
  }
  for (const [values, name] of series) {
    pen.fillStyle = css(theme.colours[name]);
    pen.beginPath();
    pen.arc(x(step), y(values[step]), 5, 0, 7);
    pen.fill();
  }
  pen.fillStyle = css(theme.colours.muted);
  columnNumbers(pen, columns, (width - LEFT - 4) / columns.length, high);
}

function columnNumbers(pen, columns, cell, below) {
  pen.textAlign = "center";
  const every = Math.ceil(36 / cell);
  for (let k = 0; k < columns.length; k += every) pen.fillText(columns[k], LEFT + (k + 0.5) * cell, below + 13);
  pen.textAlign = "left";
  pen.fillText("input columns, in the order in which they are visited", LEFT, below + 29);
}

function curve(pen, values, x, y, from, to) {
  pen.beginPath();
  for (let k = from; k < to; k += 1) pen.lineTo(x(k), y(values[k]));
  pen.stroke();
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function prepare(canvas, height, theme) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = fontOf(theme);
  return { pen, width };
}

function fontOf(theme) {
  return `12px ${theme.font}`;
}

function mix(from, to, share) {
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * share));
}
