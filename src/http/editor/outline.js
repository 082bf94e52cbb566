/**
 * @file Outlines of a mask, in edge coordinates.
 *
 * A traced ring runs exactly along pixel edges, so that filling it gives the mask back; a simplified one
 * leaves it by less than its tolerance. Outer rings run clockwise on the screen, holes the other way.
 */

/** @typedef {import('./mask.js').Mask} Mask */
/** @typedef {import('./mask.js').Point} Point */

/** Right, down, left, up: the ring keeps the mask at its right hand. */
const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]];

/**
 * @param {Mask} mask
 * @returns {Point[][]} outer rings and holes; corners only
 */
export function trace({ width, height, data }) {
  const inside = (/** @type {number} */ x, /** @type {number} */ y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] === 1;
  // Every ring, a hole's too, has an edge that runs right with the mask below it: start there, mark them all.
  const walked = new Uint8Array(data.length);
  /** @type {Point[][]} */
  const rings = [];
  for (let i = data.indexOf(1); i >= 0; i = data.indexOf(1, i + 1)) {
    const [x0, y0] = [i % width, Math.floor(i / width)];
    if (walked[i] || inside(x0, y0 - 1)) continue;
    /** @type {Point[]} */
    const ring = [];
    let [x, y, direction] = [x0, y0, 0];
    do {
      if (direction === 0) walked[y * width + x] = 1;
      x += STEPS[direction][0];
      y += STEPS[direction][1];
      const turned = turn(inside, x, y, direction);
      if (turned !== direction) ring.push({ x, y });
      direction = turned;
    } while (x !== x0 || y !== y0 || direction !== 0);
    rings.push(ring);
  }
  return rings;
}

/**
 * Outer rings, largest first, simplified; what the JSON annotation holds.
 * @param {Mask} mask
 * @param {number} tolerance in pixels
 * @returns {Point[][]}
 */
export function outerPolygons(mask, tolerance) {
  return trace(mask)
    .map((ring) => ({ ring, area: signedArea(ring) }))
    .filter(({ area }) => area > 0)
    .sort((a, b) => b.area - a.area)
    .map(({ ring }) => simplify(ring, tolerance));
}

/**
 * Positive for a ring that runs clockwise on the screen.
 * @param {Point[]} ring
 */
export function signedArea(ring) {
  let twice = 0;
  ring.forEach((a, i) => {
    const b = ring[(i + 1) % ring.length];
    twice += a.x * b.y - b.x * a.y;
  });
  return twice / 2;
}

/**
 * Douglas and Peucker's way: drops the corners that lie within `tolerance` of the line without them.
 * @param {Point[]} ring
 * @param {number} tolerance
 * @returns {Point[]}
 */
export function simplify(ring, tolerance) {
  if (ring.length <= 4) return ring;
  // A ring has no ends: take a corner and the one farthest from it.
  let [far, farthest] = [0, -1];
  ring.forEach((point, i) => {
    const distance = Math.hypot(point.x - ring[0].x, point.y - ring[0].y);
    if (distance > farthest) [far, farthest] = [i, distance];
  });
  const there = simplifyLine(ring.slice(0, far + 1), tolerance);
  const back = simplifyLine([...ring.slice(far), ring[0]], tolerance);
  const simple = [...there.slice(0, -1), ...back.slice(0, -1)];
  return simple.length < 3 ? ring : simple;
}

/**
 * @param {Point[]} line
 * @param {number} tolerance
 * @returns {Point[]}
 */
function simplifyLine(line, tolerance) {
  const keep = new Uint8Array(line.length);
  keep[0] = keep[line.length - 1] = 1;
  const open = [[0, line.length - 1]];
  for (let span = open.pop(); span; span = open.pop()) {
    const [start, end] = span;
    let [split, worst] = [-1, tolerance];
    for (let i = start + 1; i < end; i++) {
      const distance = distanceToSegment(line[i], line[start], line[end]);
      if (distance > worst) [split, worst] = [i, distance];
    }
    if (split < 0) continue;
    keep[split] = 1;
    open.push([start, split], [split, end]);
  }
  return line.filter((_, i) => keep[i]);
}

/**
 * @param {Point} point
 * @param {Point} a
 * @param {Point} b
 */
export function distanceToSegment(point, a, b) {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const length2 = dx * dx + dy * dy;
  const along = length2 ? Math.min(1, Math.max(0, ((point.x - a.x) * dx + (point.y - a.y) * dy) / length2)) : 0;
  return Math.hypot(point.x - a.x - along * dx, point.y - a.y - along * dy);
}

/**
 * @param {(x: number, y: number) => boolean} inside
 * @param {number} x
 * @param {number} y
 * @param {number} direction
 */
function turn(inside, x, y, direction) {
  // The two pixels ahead of the corner (x, y): at the right hand, and at the left.
  const [right, left] = [
    [[0, 0], [0, -1]],
    [[-1, 0], [0, 0]],
    [[-1, -1], [-1, 0]],
    [[0, -1], [-1, -1]],
  ][direction].map(([dx, dy]) => inside(x + dx, y + dy));
  if (!right) return (direction + 1) % 4;
  return left ? (direction + 3) % 4 : direction;
}
