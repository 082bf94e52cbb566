/**
 * @file Pictures the tests open: DICOM written here, element by element, from the package's golden picture.
 *
 * Two ellipses and a bar stand for organs: what the embedded engine makes of them is known (its self-test), and
 * no patient is in them.
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { decodeGrey } from '../../src/http/editor/png.js';

const repository = join(dirname(fileURLToPath(import.meta.url)), '../..');

export const EXPLICIT = '1.2.840.10008.1.2.1';
export const IMPLICIT = '1.2.840.10008.1.2';
export const BIG_ENDIAN = '1.2.840.10008.1.2.2';

/** @typedef {[number, string, string | number | Buffer]} Element tag, VR, value */

/** Where the golden picture's parts are, well inside. */
export const LEFT_ELLIPSE = { x: 84, y: 120 };
export const RIGHT_ELLIPSE = { x: 176, y: 136 };

/** @returns {Promise<{width: number, height: number, data: Uint8Array | Uint16Array}>} */
export async function goldenPicture() {
  const golden = await decodeGrey(new Uint8Array(readFileSync(join(repository, 'engines/sam2-nano/golden.png'))));
  if (!golden) throw new Error('golden.png is not an 8-bit grey PNG');
  return golden;
}

export function goldenPng() {
  return { name: 'golden.png', mimeType: 'image/png', buffer: readFileSync(join(repository, 'engines/sam2-nano/golden.png')) };
}

/**
 * A CT slice whose window −100..200 HU shows the golden picture as it is.
 * @param {{instance?: number, shift?: number, name?: string, photometric?: string}} [options] `shift` moves the picture right, for neighbours
 */
export async function goldenCt({ instance = 1, shift = 0, name = 'sample.dcm' } = {}) {
  const { width, height, data } = await goldenPicture();
  const pixels = Buffer.alloc(width * height * 2);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const grey = data[y * width + Math.min(width - 1, Math.max(0, x - shift))];
      pixels.writeUInt16LE(Math.round((grey / 255) * 299 - 100) + 1024, 2 * (y * width + x));
    }
  }
  const elements = /** @type {Element[]} */ ([
    [0x00080016, 'UI', '1.2.840.10008.5.1.4.1.1.2'],
    [0x00080018, 'UI', `1.2.826.0.1.3680043.10.1.${instance}`],
    [0x00080060, 'CS', 'CT'],
    [0x00100010, 'PN', 'PHANTOM'],
    [0x00100020, 'LO', 'PHANTOM'],
    [0x0020000d, 'UI', '1.2.826.0.1.3680043.10.2'],
    [0x0020000e, 'UI', '1.2.826.0.1.3680043.10.3'],
    [0x00200013, 'IS', String(instance)],
    [0x00200032, 'DS', `0\\0\\${-3 * instance}`],
    [0x00200037, 'DS', '1\\0\\0\\0\\1\\0'],
    [0x00200052, 'UI', '1.2.826.0.1.3680043.10.4'],
    [0x00280002, 'US', 1],
    [0x00280004, 'CS', 'MONOCHROME2'],
    [0x00280010, 'US', height],
    [0x00280011, 'US', width],
    [0x00280030, 'DS', '0.8\\0.8'],
    [0x00280100, 'US', 16],
    [0x00280101, 'US', 16],
    [0x00280102, 'US', 15],
    [0x00280103, 'US', 0],
    [0x00281050, 'DS', '40'],
    [0x00281051, 'DS', '400'],
    [0x00281052, 'DS', '-1024'],
    [0x00281053, 'DS', '1'],
    [0x7fe00010, 'OW', pixels],
  ]);
  return { name, mimeType: 'application/dicom', buffer: dicomFile(elements, EXPLICIT, '1.2.840.10008.5.1.4.1.1.2') };
}

/**
 * @param {Element[]} elements sorted here
 * @param {string} syntax
 * @param {string} [sopClass] for the meta group; without it the group holds the transfer syntax alone
 */
export function dicomFile(elements, syntax, sopClass) {
  const data = Buffer.concat([...elements].sort((a, b) => a[0] - b[0]).map((one) => dicomElement(one, syntax !== IMPLICIT, syntax !== BIG_ENDIAN)));
  return dicomWith(data, syntax, sopClass);
}

/**
 * @param {Buffer} data
 * @param {string} syntax
 * @param {string} [sopClass]
 */
export function dicomWith(data, syntax, sopClass) {
  const rest = Buffer.concat([
    ...(sopClass ? [dicomElement([0x00020001, 'OB', Buffer.from([0, 1])]), dicomElement([0x00020002, 'UI', sopClass]), dicomElement([0x00020003, 'UI', '1.2.826.0.1.3680043.10.9'])] : []),
    dicomElement([0x00020010, 'UI', syntax]),
    ...(sopClass ? [dicomElement([0x00020012, 'UI', '1.2.826.0.1.3680043.10.5'])] : []),
  ]);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(rest.length);
  return Buffer.concat([Buffer.alloc(128), Buffer.from('DICM'), dicomElement([0x00020000, 'UL', length]), rest, data]);
}

/**
 * @param {Element} element
 * @param {boolean} [explicit]
 * @param {boolean} [little]
 */
export function dicomElement([tag, vr, value], explicit = true, little = true) {
  const u16 = (/** @type {number} */ n) => (little ? [n & 255, n >> 8] : [n >> 8, n & 255]);
  const u32 = (/** @type {number} */ n) => (little ? [...u16(n & 0xffff), ...u16(n >>> 16)] : [...u16(n >>> 16), ...u16(n & 0xffff)]);
  let body = typeof value === 'number' ? Buffer.from(u16(value)) : Buffer.isBuffer(value) ? value : Buffer.from(value);
  if (body.length % 2) body = Buffer.concat([body, Buffer.from(vr === 'UI' ? '\0' : ' ')]);
  const head = [...u16(tag >>> 16), ...u16(tag & 0xffff)];
  if (!explicit) return Buffer.concat([Buffer.from([...head, ...u32(body.length)]), body]);
  const long = ['OW', 'OB', 'SQ', 'UN'].includes(vr);
  return Buffer.concat([Buffer.from([...head, ...Buffer.from(vr), ...(long ? [0, 0, ...u32(body.length)] : u16(body.length))]), body]);
}
