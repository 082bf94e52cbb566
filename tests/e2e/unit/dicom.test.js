/** @file The page's own reading of DICOM, on files built here element by element. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deflateRawSync } from 'node:zlib';
import { BIG_ENDIAN, dicomElement as element, dicomFile, dicomWith, EXPLICIT, IMPLICIT } from '../sample.js';
import { depthMm, directions, fullWindow, plane, readHeader, readPixels, render } from '../../../src/http/editor/dicom.js';

const DEFLATED = '1.2.840.10008.1.2.1.99';
const JPEG = '1.2.840.10008.1.2.4.50';

/** @typedef {import('../sample.js').Element} Element */

/** A 3×2 CT slice, 12 bits signed, HU = 2 × stored − 1000. */
const CT = /** @type {Element[]} */ ([
  [0x00080018, 'UI', '1.2.3'],
  [0x00080060, 'CS', 'CT'],
  [0x00100010, 'PN', 'DOE^JANE'],
  [0x0020000e, 'UI', '1.2'],
  [0x00200013, 'IS', '7'],
  [0x00200032, 'DS', '0\\0\\-12.5'],
  [0x00200037, 'DS', '1\\0\\0\\0\\1\\0'],
  [0x00280002, 'US', 1],
  [0x00280004, 'CS', 'MONOCHROME2'],
  [0x00280010, 'US', 2],
  [0x00280011, 'US', 3],
  [0x00280030, 'DS', '0.8\\0.75'],
  [0x00280100, 'US', 16],
  [0x00280101, 'US', 12],
  [0x00280102, 'US', 11],
  [0x00280103, 'US', 1],
  [0x00281050, 'DS', '40\\400'],
  [0x00281051, 'DS', '400\\1800'],
  [0x00281052, 'DS', '-1000'],
  [0x00281053, 'DS', '2'],
]);
const STORED = [0, 1, -1, 2047, -2048, 500];
/** With rubbish above the twelve bits, as old overlays left it. */
const WORDS = STORED.map((value) => (value & 0x0fff) | 0xa000);

function dicom(/** @type {Element[]} */ elements, syntax = EXPLICIT) {
  const pixels = Buffer.alloc(WORDS.length * 2);
  WORDS.forEach((word, i) => (syntax === BIG_ENDIAN ? pixels.writeUInt16BE(word, 2 * i) : pixels.writeUInt16LE(word, 2 * i)));
  const all = /** @type {Element[]} */ ([...elements, [0x7fe00010, 'OW', pixels]]);
  if (syntax !== DEFLATED) return new Blob([dicomFile(all, syntax)]);
  const data = Buffer.concat(all.sort((a, b) => a[0] - b[0]).map((one) => element(one)));
  return new Blob([dicomWith(deflateRawSync(data), DEFLATED)]);
}

const without = (/** @type {number[]} */ ...tags) => CT.filter(([tag]) => !tags.includes(tag));

test('a plain file gives order, spacing, window and values', async () => {
  for (const syntax of [EXPLICIT, IMPLICIT, BIG_ENDIAN]) {
    const file = dicom(CT, syntax);
    const header = await readHeader(file);
    assert.ok(header, syntax);
    assert.deepEqual([header.modality, header.width, header.height, header.frames, header.instanceNumber], ['CT', 3, 2, 1, 7]);
    assert.deepEqual(header.window, { center: 40, width: 400 });
    assert.deepEqual(header.spacingMm, { row: 0.8, column: 0.75 });
    assert.equal(depthMm(header), -12.5);
    const pixels = await readPixels(file, header, 0);
    assert.deepEqual([...(pixels?.values ?? [])], STORED, syntax);
    assert.deepEqual([pixels?.slope, pixels?.intercept], [2, -1000]);
  }
});

test('no name is read', async () => {
  assert.doesNotMatch(JSON.stringify(await readHeader(dicom(CT))), /DOE/);
});

test('a deflated header is read, its pixels are left to the box', async () => {
  const header = await readHeader(dicom(CT, DEFLATED));
  assert.deepEqual(header?.spacingMm, { row: 0.8, column: 0.75 });
  assert.equal(header?.native, null);
});

test('what is not understood to the last step shows no values', async () => {
  const item = Buffer.from([0xfe, 0xff, 0x00, 0xe0, 0, 0, 0, 0]);
  const cases = /** @type {Array<[string, Element[], string?]>} */ ([
    ['compressed', CT, JPEG],
    ['modality table', [...CT, [0x00283000, 'SQ', item]]],
    ['values per frame', [...CT, [0x52009230, 'SQ', item]]],
    ['colour', [...without(0x00280002, 0x00280004), [0x00280002, 'US', 3], [0x00280004, 'CS', 'RGB']]],
    ['palette', [...without(0x00280004), [0x00280004, 'CS', 'PALETTE COLOR']]],
    ['32 bits', [...without(0x00280100), [0x00280100, 'US', 32]]],
    ['slope 0', [...without(0x00281053), [0x00281053, 'DS', '0']]],
  ]);
  for (const [name, elements, syntax] of cases) {
    const file = dicom(elements, syntax);
    const header = await readHeader(file);
    assert.equal(header?.native, null, name);
    assert.equal(header && (await readPixels(file, header, 0)), null, name);
  }
});

test('a file cut off in its pixels shows none', async () => {
  const file = dicom(CT);
  const cut = file.slice(0, file.size - 2);
  const header = await readHeader(cut);
  assert.equal(header && (await readPixels(cut, header, 0)), null);
});

test('nested sequences are passed over, and the spacing of an enhanced object is found in one', async () => {
  const sequence = (/** @type {number} */ tag, /** @type {Buffer} */ inner) => {
    const item = Buffer.alloc(8);
    item.writeUInt16LE(0xfffe, 0);
    item.writeUInt16LE(0xe000, 2);
    item.writeUInt32LE(inner.length, 4);
    return element([tag, 'SQ', Buffer.concat([item, inner])]);
  };
  const measures = sequence(0x00289110, element([0x00280030, 'DS', '0.5\\0.4']));
  const [, , body] = /** @type {Element} */ ([0x52009229, 'SQ', measures]);
  const shared = /** @type {Element} */ ([0x52009229, 'SQ', sequence(0, /** @type {Buffer} */ (body)).subarray(12)]);
  const header = await readHeader(dicom([...without(0x00280030), shared]));
  assert.deepEqual(header?.spacingMm, { row: 0.5, column: 0.4 });
  // Undefined lengths, and a decoy inside a sequence that is nobody's business.
  const open = Buffer.concat([Buffer.from([0xfe, 0xff, 0x00, 0xe0, 255, 255, 255, 255]), element([0x00280030, 'DS', '9\\9']), Buffer.from([0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0])]);
  const plain = dicom(CT);
  const bytes = Buffer.from(await plain.arrayBuffer());
  const at = bytes.indexOf(element([0x0020000e, 'UI', '1.2']));
  const decoy = Buffer.concat([Buffer.from([0x08, 0x00, 0x40, 0x11, 0x53, 0x51, 0, 0, 255, 255, 255, 255]), open]);
  const again = await readHeader(new Blob([bytes.subarray(0, at), decoy, bytes.subarray(at)]));
  assert.deepEqual(again?.spacingMm, { row: 0.8, column: 0.75 });
});

test('what is no DICOM, or breaks off in its header, is nothing', async () => {
  assert.equal(await readHeader(new Blob(['no'])), null);
  assert.equal(await readHeader(dicom(CT).slice(0, 300)), null);
});

test('the window is the standard’s linear function, inverted for MONOCHROME1', () => {
  const pixels = { width: 5, height: 1, values: Int16Array.from([-200, -100, 50, 199, 300]), slope: 1, intercept: 0, inverted: false };
  const grey = (/** @type {boolean} */ inverted) => [...render({ ...pixels, inverted }, { center: 50, width: 300 })].filter((_, i) => i % 4 === 0);
  assert.deepEqual(grey(false), [0, 0, 128, 255, 255]);
  assert.deepEqual(grey(true), [255, 255, 127, 0, 0]);
  assert.deepEqual(fullWindow(pixels), { center: 50, width: 500 });
});

test('the letters at the edges are the patient’s directions', () => {
  assert.deepEqual(directions([1, 0, 0, 0, 1, 0]), { right: 'L', left: 'R', down: 'P', up: 'A' });
  assert.deepEqual(directions([0, 1, 0, 0, 0, -1]), { right: 'P', left: 'A', down: 'F', up: 'H' });
  assert.equal(directions([]), null);
});

test('a slice lies as its normal does, whichever way its rows run', () => {
  assert.equal(plane([1, 0, 0, 0, 1, 0]), 'axial');
  assert.equal(plane([0.9, 0.3, 0.1, -0.3, 0.9, 0.2]), 'axial');
  assert.equal(plane([0, 1, 0, 0, 0, -1]), 'sagittal');
  assert.equal(plane([1, 0, 0, 0, 0, -1]), 'coronal');
  assert.equal(plane([]), null);
  assert.equal(plane([1, 0, 0, 1, 0, 0]), null, 'rows along columns lie nowhere');
});
