// What happens to one number: the engine's rule, step by step in float32, so that the server finds the same bits.

const f32 = Math.fround;

/** Round to the nearest integer, a tie to the even one. */
export function roundHalfEven(t) {
  return (Math.abs(t % 1) === 0.5 ? 2 * Math.round(t / 2) : Math.round(t)) + 0; // + 0 turns -0 into 0
}

/**
 * Quantize x on a line { integer, codes, even } with a scale and a zero point (null means 0).
 *   integer   q = clamp(round(x / s) + z, qmin, qmax)        float   q = the code nearest to x / s, clamped
 *   both      x_hat = s * (q - z)
 * Returns: { t: x / s, free: q before the clamp, q, index of q, xHat, error, tie, clipped: -1, 0 or 1 }.
 */
export function quantize(line, scale, zeroPoint, x) {
  const { codes } = line;
  const [lo, hi] = [codes[0], codes[codes.length - 1]];
  const z = zeroPoint ?? 0;
  const t = f32(f32(x) / f32(scale));
  const found = line.integer ? { code: roundHalfEven(t) + z, tie: Math.abs(t % 1) === 0.5 } : nearest(line, t);
  const q = Math.min(Math.max(found.code, lo), hi);
  const xHat = f32(f32(scale) * f32(q - z));
  const outside = line.integer ? found.code : t;
  const clipped = outside > hi ? 1 : outside < lo ? -1 : 0;
  const tie = found.tie && !clipped;
  return { t, free: found.code, q, index: lowerBound(codes, q), xHat, error: xHat - x, tie, clipped };
}

function nearest({ codes, even }, t) {
  const above = lowerBound(codes, t);
  if (above === 0) return { code: codes[0], tie: false };
  if (above === codes.length) return { code: codes[codes.length - 1], tie: false };
  const [down, up] = [t - codes[above - 1], codes[above] - t];
  const tie = down === up;
  return { code: codes[down < up || (tie && even[above - 1]) ? above - 1 : above], tie };
}

/** The real value of every code, ascending. */
export function levelsOf(line, scale, zeroPoint) {
  return line.codes.map((code) => f32(f32(scale) * f32(code - (zeroPoint ?? 0))));
}

/** The x that land on level i: [from, to], open-ended at the outer levels because they catch what is clipped. */
export function cell(levels, i) {
  const from = i > 0 ? (levels[i - 1] + levels[i]) / 2 : -Infinity;
  const to = i < levels.length - 1 ? (levels[i] + levels[i + 1]) / 2 : Infinity;
  return [from, to];
}

/** The first index whose value is not below t. */
function lowerBound(sorted, t) {
  let [lo, hi] = [0, sorted.length];
  while (lo < hi) {
    const mid = (lo + hi) >> 1;
    if (sorted[mid] >= t) hi = mid;
    else lo = mid + 1;
  }
  return lo;
}
