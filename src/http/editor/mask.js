/**
 * @file Masks and what can be drawn on them: plain data, no page.
 *
 * A mask is one byte a pixel, 0 or 1, row by row. Coordinates are edge coordinates: pixel (i, j) covers
 * [i, i+1) × [j, j+1), and a shape takes the pixels whose centres it covers.
 *
 * What it does not do: history (state.js), outlines (outline.js), colours (canvas.js).
 */

/** @typedef {{width: number, height: number, data: Uint8Array}} Mask */
/** @typedef {{x: number, y: number}} Point */
/** @typedef {{x: number, y: number, width: number, height: number}} Rect */

/**
 * @param {number} width
 * @param {number} height
 * @returns {Mask}
 */
export function emptyMask(width, height) {
  return { width, height, data: new Uint8Array(width * height) };
}

/** @param {Mask} mask */
export function area(mask) {
  let count = 0;
  for (const pixel of mask.data) count += pixel;
  return count;
}

/**
 * @param {Mask} mask
 * @returns {Rect | null} null for an empty mask
 */
export function boundingBox({ width, height, data }) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    const row = data.subarray(y * width, (y + 1) * width);
    const first = row.indexOf(1);
    if (first < 0) continue;
    left = Math.min(left, first);
    right = Math.max(right, row.lastIndexOf(1));
    top = Math.min(top, y);
    bottom = y;
  }
  return bottom < 0 ? null : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}

/**
 * A stroke with a round brush from `from` to `to`.
 * @param {Mask} mask
 * @param {Point} from
 * @param {Point} to
 * @param {number} diameter
 * @param {0 | 1} value
 */
export function brush(mask, from, to, diameter, value) {
  const { width, height, data } = mask;
  const radius = diameter / 2;
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length2 = dx * dx + dy * dy;
  const x0 = clamp(Math.floor(Math.min(from.x, to.x) - radius), 0, width);
  const x1 = clamp(Math.ceil(Math.max(from.x, to.x) + radius), 0, width);
  const y0 = clamp(Math.floor(Math.min(from.y, to.y) - radius), 0, height);
  const y1 = clamp(Math.ceil(Math.max(from.y, to.y) + radius), 0, height);
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      const [px, py] = [x + 0.5 - from.x, y + 0.5 - from.y];
      const along = length2 ? clamp((px * dx + py * dy) / length2, 0, 1) : 0;
      const [ex, ey] = [px - along * dx, py - along * dy];
      if (ex * ex + ey * ey <= radius * radius) data[y * width + x] = value;
    }
  }
  // A brush of one pixel between four centres would miss them all: the pixel under the pointer always counts.
  for (const point of [from, to]) {
    const [x, y] = [Math.floor(point.x), Math.floor(point.y)];
    if (x >= 0 && y >= 0 && x < width && y < height) data[y * width + x] = value;
  }
}

/**
 * @param {Mask} mask
 * @param {Point[]} ring
 * @param {0 | 1} value
 */
export function fillPolygon(mask, ring, value) {
  const { width, height, data } = mask;
  if (ring.length < 3) return;
  const ys = ring.map((point) => point.y);
  const top = clamp(Math.floor(Math.min(...ys)), 0, height);
  const bottom = clamp(Math.ceil(Math.max(...ys)), 0, height);
  for (let y = top; y < bottom; y++) {
    const centre = y + 0.5;
    /** @type {number[]} */
    const crossings = [];
    ring.forEach((a, i) => {
      const b = ring[(i + 1) % ring.length];
      if (a.y <= centre !== b.y <= centre) crossings.push(a.x + ((centre - a.y) / (b.y - a.y)) * (b.x - a.x));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      // A centre x + 0.5 lies in [a, b) exactly when x runs from ceil(a - 0.5) to ceil(b - 0.5).
      const start = clamp(Math.ceil(crossings[i] - 0.5), 0, width);
      const end = clamp(Math.ceil(crossings[i + 1] - 0.5), 0, width);
      if (end > start) data.fill(value, y * width + start, y * width + end);
    }
  }
}

/**
 * @param {Mask} mask
 * @param {Point} a a corner
 * @param {Point} b the corner across
 * @param {0 | 1} value
 */
export function fillRectangle(mask, a, b, value) {
  const ring = [a, { x: b.x, y: a.y }, b, { x: a.x, y: b.y }];
  fillPolygon(mask, ring, value);
}

/**
 * Fills what the mask encloses.
 * @param {Mask} mask
 */
export function fillHoles(mask) {
  const { width, height, data } = mask;
  const outside = new Uint8Array(data.length);
  /** @type {number[]} */
  const border = [];
  for (let x = 0; x < width; x++) border.push(x, (height - 1) * width + x);
  for (let y = 0; y < height; y++) border.push(y * width, y * width + width - 1);
  flood(mask, border, 0, outside, 1, false);
  for (let i = 0; i < data.length; i++) if (!outside[i]) data[i] = 1;
}

/**
 * Keeps the largest connected part; pixels that touch at a corner belong together.
 * @param {Mask} mask
 */
export function keepLargest(mask) {
  const { data } = mask;
  const labels = new Int32Array(data.length);
  let [best, bestSize, label] = [0, 0, 0];
  for (let i = 0; i < data.length; i++) {
    if (!data[i] || labels[i]) continue;
    label += 1;
    const size = flood(mask, [i], 1, labels, label, true);
    if (size > bestSize) [best, bestSize] = [label, size];
  }
  for (let i = 0; i < data.length; i++) data[i] = labels[i] === best && best ? 1 : 0;
}

/**
 * A new answer of the model under the corrections a person made to the last one: what was added stays, what
 * was taken away stays away.
 * @param {Mask} edited what the person left
 * @param {Mask | null} before what the model had said then; null for nothing
 * @param {Mask} after what it says now
 * @returns {Mask}
 */
export function withCorrections(edited, before, after) {
  const merged = emptyMask(after.width, after.height);
  for (let i = 0; i < merged.data.length; i++) {
    const was = before ? before.data[i] : 0;
    merged.data[i] = edited.data[i] === was ? after.data[i] : edited.data[i];
  }
  return merged;
}

/**
 * @param {Mask | null} a
 * @param {Mask | null} b
 */
export function sameMask(a, b) {
  if (!a || !b) return isEmpty(a) && isEmpty(b);
  return a.data.length === b.data.length && a.data.every((pixel, i) => pixel === b.data[i]);
}

/** @param {Mask | null} mask */
export function isEmpty(mask) {
  return !mask || !mask.data.includes(1);
}

/**
 * A pixel deep inside the mask: where a person would click. Null for an empty mask.
 * @param {Mask} mask
 * @returns {Point | null}
 */
export function innerPoint({ width, height, data }) {
  // City-block distance to the background in two passes; the image's edge counts as background.
  const depth = new Int32Array(data.length);
  const at = (/** @type {number} */ x, /** @type {number} */ y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : depth[y * width + x]);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[y * width + x]) depth[y * width + x] = 1 + Math.min(at(x - 1, y), at(x, y - 1));
    }
  }
  let [best, where] = [0, -1];
  for (let y = height - 1; y >= 0; y--) {
    for (let x = width - 1; x >= 0; x--) {
      const i = y * width + x;
      depth[i] = Math.min(depth[i], 1 + Math.min(at(x + 1, y), at(x, y + 1)));
      if (depth[i] > best) [best, where] = [depth[i], i];
    }
  }
  return where < 0 ? null : { x: where % width, y: Math.floor(where / width) };
}

/**
 * Lengths of runs, row by row, the first of zeros (it may be 0 long).
 * @param {Mask} mask
 * @returns {Uint32Array}
 */
export function toRuns({ data }) {
  /** @type {number[]} */
  const runs = [];
  let value = 0;
  for (let i = 0; i < data.length; value ^= 1) {
    const next = data.indexOf(value ^ 1, i);
    const end = next < 0 ? data.length : next;
    runs.push(end - i);
    i = end;
  }
  return Uint32Array.from(runs);
}

/**
 * @param {Uint32Array} runs
 * @param {number} width
 * @param {number} height
 * @returns {Mask}
 */
export function fromRuns(runs, width, height) {
  const mask = emptyMask(width, height);
  let at = 0;
  runs.forEach((length, i) => {
    if (i % 2) mask.data.fill(1, at, at + length);
    at += length;
  });
  return mask;
}

/**
 * Marks every pixel of value `from` that hangs together with a seed.
 * @param {Mask} mask
 * @param {number[]} seeds
 * @param {0 | 1} from
 * @param {Uint8Array | Int32Array} labels
 * @param {number} label
 * @param {boolean} diagonal
 * @returns {number} how many
 */
function flood({ width, height, data }, seeds, from, labels, label, diagonal) {
  /** @type {number[]} */
  const stack = [];
  let count = 0;
  const visit = (/** @type {number} */ i) => {
    if (data[i] !== from || labels[i]) return;
    labels[i] = label;
    count += 1;
    stack.push(i);
  };
  seeds.forEach(visit);
  while (stack.length) {
    const i = /** @type {number} */ (stack.pop());
    const x = i % width;
    const [left, right, up, down] = [x > 0, x < width - 1, i >= width, i < width * (height - 1)];
    if (left) visit(i - 1);
    if (right) visit(i + 1);
    if (up) visit(i - width);
    if (down) visit(i + width);
    if (!diagonal) continue;
    if (left && up) visit(i - width - 1);
    if (right && up) visit(i - width + 1);
    if (left && down) visit(i + width - 1);
    if (right && down) visit(i + width + 1);
  }
  return count;
}

/**
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
