/** @file The editor's drawing, outlines and PNG, without a browser. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deflateSync } from 'node:zlib';
import { area, boundingBox, brush, emptyMask, fillHoles, fillPolygon, fillRectangle, fromRuns, innerPoint, keepLargest, sameMask, toRuns, withCorrections } from '../../../src/http/editor/mask.js';
import { distanceToSegment, outerPolygons, signedArea, trace } from '../../../src/http/editor/outline.js';
import { decodeGrey, encodeGrey, pngHeader } from '../../../src/http/editor/png.js';

/** A mask from rows of '.' and '#'. */
function drawn(/** @type {string[]} */ ...rows) {
  const mask = emptyMask(rows[0].length, rows.length);
  rows.forEach((row, y) => [...row].forEach((letter, x) => (mask.data[y * mask.width + x] = letter === '#' ? 1 : 0)));
  return mask;
}

function rows(/** @type {{width: number, height: number, data: Uint8Array}} */ mask) {
  return Array.from({ length: mask.height }, (_, y) => [...mask.data.subarray(y * mask.width, (y + 1) * mask.width)].map((pixel) => (pixel ? '#' : '.')).join(''));
}

/** Blobs with holes, islands and diagonals; the same for the same seed. */
function blobs(/** @type {number} */ seed, width = 60, height = 45) {
  let state = seed;
  const random = () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
  const mask = emptyMask(width, height);
  for (let i = 0; i < 9; i++) {
    const at = { x: random() * width, y: random() * height };
    brush(mask, at, { x: at.x + random() * 20 - 10, y: at.y + random() * 20 - 10 }, 2 + random() * 12, i % 3 === 2 ? 0 : 1);
  }
  return mask;
}

test('a brush takes the pixels whose centres it covers', () => {
  const mask = emptyMask(7, 5);
  brush(mask, { x: 2.5, y: 2.5 }, { x: 4.5, y: 2.5 }, 3, 1);
  assert.deepEqual(rows(mask), ['.......', '.#####.', '.#####.', '.#####.', '.......']);
  brush(mask, { x: 2.5, y: 2.5 }, { x: 2.5, y: 2.5 }, 1, 0);
  assert.equal(rows(mask)[2], '.#.###.');
});

test('the smallest brush marks the pixel under it, also between four centres', () => {
  const mask = emptyMask(4, 4);
  brush(mask, { x: 2, y: 2 }, { x: 2, y: 2 }, 1, 1);
  assert.equal(area(mask), 1);
  brush(mask, { x: -5, y: 9 }, { x: -5, y: 9 }, 1, 1);
  assert.equal(area(mask), 1);
});

test('a polygon in edge coordinates fills what it covers, whatever its direction', () => {
  const square = [{ x: 1, y: 1 }, { x: 4, y: 1 }, { x: 4, y: 3 }, { x: 1, y: 3 }];
  for (const ring of [square, [...square].reverse()]) {
    const mask = emptyMask(5, 4);
    fillPolygon(mask, ring, 1);
    assert.deepEqual(rows(mask), ['.....', '.###.', '.###.', '.....']);
  }
});

test('a shape that leaves the picture is cut at its edge', () => {
  const mask = emptyMask(4, 3);
  fillRectangle(mask, { x: -3, y: -3 }, { x: 2, y: 9 }, 1);
  assert.deepEqual(rows(mask), ['##..', '##..', '##..']);
  fillRectangle(mask, { x: 1, y: 0 }, { x: 9, y: 1 }, 0);
  assert.deepEqual(rows(mask), ['#...', '##..', '##..']);
});

test('holes are filled, bays are not', () => {
  const mask = drawn('.......', '.####..', '.#..#..', '.####..', '.#.....', '.###...');
  fillHoles(mask);
  assert.deepEqual(rows(mask), ['.......', '.####..', '.####..', '.####..', '.#.....', '.###...']);
});

test('the largest part stays; parts that touch at a corner are one', () => {
  const mask = drawn('##.....', '##.....', '..##...', '.....#.', '.......', '###....');
  keepLargest(mask);
  assert.deepEqual(rows(mask), ['##.....', '##.....', '..##...', '.......', '.......', '.......']);
  const empty = emptyMask(3, 3);
  keepLargest(empty);
  assert.equal(area(empty), 0);
});

test('a new answer goes under the corrections: added stays, erased stays away', () => {
  const before = drawn('###..');
  const edited = drawn('.##.#');
  const after = drawn('#.##.');
  assert.deepEqual(rows(withCorrections(edited, before, after)), ['..###']);
  assert.deepEqual(rows(withCorrections(drawn('..#..'), null, drawn('#....'))), ['#.#..']);
});

test('runs give the mask back', () => {
  for (const mask of [emptyMask(5, 3), drawn('###', '###'), drawn('#..', '..#'), blobs(3)]) {
    assert.ok(sameMask(mask, fromRuns(toRuns(mask), mask.width, mask.height)));
  }
});

test('the bounding box is the mask’s, and null without one', () => {
  assert.deepEqual(boundingBox(drawn('....', '..#.', '.#..')), { x: 1, y: 1, width: 2, height: 2 });
  assert.equal(boundingBox(emptyMask(3, 3)), null);
});

test('the inner point lies in the mask, as deep as can be', () => {
  const mask = drawn('.......', '.#####.', '.#####.', '.#####.', '.......', '#......');
  assert.deepEqual(innerPoint(mask)?.y, 2);
  for (let seed = 1; seed < 20; seed++) {
    const one = blobs(seed);
    const point = innerPoint(one);
    if (point) assert.equal(one.data[point.y * one.width + point.x], 1);
    else assert.equal(area(one), 0);
  }
});

test('filling the traced rings gives the mask back exactly', () => {
  for (let seed = 1; seed < 40; seed++) {
    const mask = blobs(seed);
    const again = emptyMask(mask.width, mask.height);
    const rings = trace(mask);
    for (const ring of rings.filter((one) => signedArea(one) > 0)) fillPolygon(again, ring, 1);
    for (const ring of rings.filter((one) => signedArea(one) < 0)) fillPolygon(again, ring, 0);
    for (const island of rings.filter((one) => signedArea(one) > 0)) {
      // An island in a hole was emptied with the hole; outer rings of islands are smaller than their holes.
      const inner = emptyMask(mask.width, mask.height);
      fillPolygon(inner, island, 1);
      for (let i = 0; i < inner.data.length; i++) if (inner.data[i] && mask.data[i]) again.data[i] = 1;
    }
    assert.deepEqual(rows(again), rows(mask), `seed ${seed}`);
    assert.equal(rings.reduce((sum, ring) => sum + signedArea(ring), 0), area(mask));
  }
});

test('a simplified outline leaves the mask’s edge by less than a pixel', () => {
  let saved = 0;
  for (let seed = 1; seed < 40; seed++) {
    const mask = blobs(seed);
    fillHoles(mask);
    const exact = trace(mask).filter((ring) => signedArea(ring) > 0);
    const simple = outerPolygons(mask, 0.75);
    saved += exact.flat().length - simple.flat().length;
    const again = emptyMask(mask.width, mask.height);
    for (const ring of simple) fillPolygon(again, ring, 1);
    for (let i = 0; i < mask.data.length; i++) {
      if (again.data[i] === mask.data[i]) continue;
      const centre = { x: (i % mask.width) + 0.5, y: Math.floor(i / mask.width) + 0.5 };
      const off = Math.min(...exact.flatMap((ring) => ring.map((a, k) => distanceToSegment(centre, a, ring[(k + 1) % ring.length]))));
      assert.ok(off <= 1, `seed ${seed}: a pixel ${off} px off`);
    }
  }
  assert.ok(saved > 500, `only ${saved} corners fewer`);
});

test('a grey PNG comes back as it went, with its notice', async () => {
  const data = Uint8Array.from({ length: 35 }, (_, i) => (i * 37) % 256);
  const png = new Uint8Array(await (await encodeGrey(7, 5, data, { Comment: 'Not for diagnostic use.' })).arrayBuffer());
  assert.deepEqual(pngHeader(png), { width: 7, height: 5, depth: 8, colour: 0, interlaced: false });
  const back = await decodeGrey(png);
  assert.deepEqual([...(back?.data ?? [])], [...data]);
  assert.match(Buffer.from(png).toString('latin1'), /tEXtComment\0Not for diagnostic use\./);
});

test('every row filter and 16 bits are read', async () => {
  // Two 16-bit pixels a row, each row in another filter; the values are told by the filters' definitions.
  const raw = [
    [0, 1, 2, 3, 4],
    [1, 1, 2, 2, 2],
    [2, 1, 1, 1, 1],
    [3, 1, 1, 1, 1],
    [4, 1, 1, 1, 1],
  ];
  const expected = [
    [1, 2, 3, 4],
    [1, 2, 3, 4],
    [2, 3, 4, 5],
    [2, 2, 4, 4],
    [3, 3, 5, 5],
  ];
  const png = file(2, 5, 16, Buffer.from(raw.flat()));
  const back = await decodeGrey(png);
  assert.equal(back?.depth, 16);
  assert.deepEqual([...(back?.data ?? [])], expected.flatMap(([a, b, c, d]) => [a * 256 + b, c * 256 + d]));
});

test('other PNGs are left to the browser, damaged ones are refused', async () => {
  const whole = file(2, 1, 8, Buffer.from([0, 7, 8]));
  assert.deepEqual([...((await decodeGrey(whole))?.data ?? [])], [7, 8]);
  const colour = Uint8Array.from(whole);
  colour[25] = 2;
  assert.equal(await decodeGrey(colour), null);
  assert.equal(await decodeGrey(new Uint8Array(50)), null);
  await assert.rejects(decodeGrey(whole.subarray(0, whole.length - 14)));
  await assert.rejects(decodeGrey(file(2, 2, 8, Buffer.from([0, 7, 8]))));
});

/** A PNG without checksums (the page's reader leaves those to the network). */
function file(/** @type {number} */ width, /** @type {number} */ height, /** @type {number} */ depth, /** @type {Buffer} */ raw) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header[8] = depth;
  const chunk = (/** @type {string} */ type, /** @type {Buffer} */ body) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(body.length);
    return Buffer.concat([length, Buffer.from(type), body, Buffer.alloc(4)]);
  };
  return new Uint8Array(Buffer.concat([Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]), chunk('IHDR', header), chunk('IDAT', deflateSync(raw)), chunk('IEND', Buffer.alloc(0))]));
}
