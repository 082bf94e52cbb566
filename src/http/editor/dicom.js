/**
 * @file What the page reads of a DICOM file by itself: order, spacing, windows, and plain pixels.
 *
 * The box decodes; the page shows what the box sees (the preview route). The page reads the header for what no
 * answer carries (sort order, spacing, orientation), and uncompressed pixels for the HU read-out, for dragging
 * the window without a round trip, and for manual work while the box is away.
 *
 * Invariants:
 * 1. Pixels are read only where every step to the modality's value is understood; else `native` is false and
 *    no value is ever shown. A wrong HU is worse than none.
 * 2. Identity (name, id, birth date) is not read at all.
 */
import { through } from './png.js';

/** @typedef {{center: number, width: number}} Window */
/**
 * @typedef {object} DicomHeader
 * @property {string} modality
 * @property {number} width
 * @property {number} height
 * @property {number} frames
 * @property {Window | null} window the file's first
 * @property {{row: number, column: number} | null} spacingMm between rows (down), between columns (across)
 * @property {string} seriesUid
 * @property {string} instanceUid
 * @property {number} instanceNumber
 * @property {number[]} position of the first pixel, mm, patient coordinates; empty when absent
 * @property {number[]} orientation six cosines; empty when absent
 * @property {boolean} takesWindow grey, so that a window means something
 * @property {Native | null} native
 */
/**
 * @typedef {object} Native how to read the pixels without a decoder
 * @property {number} offset of the first frame in the file
 * @property {8 | 16} bits allocated
 * @property {number} shift of the stored value in its word
 * @property {number} stored bits
 * @property {boolean} signed
 * @property {boolean} littleEndian
 * @property {boolean} inverted MONOCHROME1
 * @property {number} slope
 * @property {number} intercept
 */
/** @typedef {{width: number, height: number, values: Int16Array | Uint16Array, slope: number, intercept: number, inverted: boolean}} Pixels stored values and the way to the modality's */

const HEAD_BYTES = 256 * 1024;
const IMPLICIT = '1.2.840.10008.1.2';
const EXPLICIT = '1.2.840.10008.1.2.1';
const DEFLATED = '1.2.840.10008.1.2.1.99';
const BIG_ENDIAN = '1.2.840.10008.1.2.2';
const LONG_FORM = new Set(['OB', 'OD', 'OF', 'OL', 'OV', 'OW', 'SQ', 'SV', 'UC', 'UN', 'UR', 'UT', 'UV']);
const UNDEFINED_LENGTH = 0xffffffff;
const PIXEL_DATA = 0x7fe00010;
const SHARED_GROUPS = 0x52009229;
const FRAME_GROUPS = 0x52009230;
const PIXEL_SPACING = 0x00280030;

/** @param {Uint8Array} bytes at least the first 132 */
export function isDicom(bytes) {
  return bytes.length >= 132 && String.fromCharCode(...bytes.subarray(128, 132)) === 'DICM';
}

/**
 * @param {Blob} file
 * @returns {Promise<DicomHeader | null>} null when the page cannot read it; the box may
 */
export async function readHeader(file) {
  for (const length of [Math.min(HEAD_BYTES, file.size), file.size]) {
    try {
      const bytes = new Uint8Array(await file.slice(0, length).arrayBuffer());
      return await headerOf(bytes);
    } catch (error) {
      // Most headers end in the first piece; private blocks can make one longer.
      if (!(error instanceof RangeError)) throw error;
    }
  }
  return null;
}

/**
 * @param {Blob} file
 * @param {DicomHeader} header
 * @param {number} frame
 * @returns {Promise<Pixels | null>}
 */
export async function readPixels(file, header, frame) {
  const { native, width, height } = header;
  if (!native) return null;
  const count = width * height;
  const frameBytes = count * (native.bits / 8);
  const start = native.offset + frame * frameBytes;
  const bytes = await file.slice(start, start + frameBytes).arrayBuffer();
  if (bytes.byteLength < frameBytes) return null;
  const view = new DataView(bytes);
  const values = native.signed ? new Int16Array(count) : new Uint16Array(count);
  const mask = 2 ** native.stored - 1;
  const sign = native.signed ? 2 ** (native.stored - 1) : 0;
  for (let i = 0; i < count; i++) {
    const word = native.bits === 8 ? view.getUint8(i) : view.getUint16(2 * i, native.littleEndian);
    // Bits above the stored ones may carry old-style overlays.
    const value = (word >> native.shift) & mask;
    values[i] = (value ^ sign) - sign;
  }
  return { width, height, values, slope: native.slope, intercept: native.intercept, inverted: native.inverted };
}

/**
 * Lowest and highest value, in modality units.
 * @param {Pixels} pixels
 * @returns {Window}
 */
export function fullWindow({ values, slope, intercept }) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const ends = [low * slope + intercept, high * slope + intercept];
  return { center: (ends[0] + ends[1]) / 2, width: Math.max(1, Math.abs(ends[1] - ends[0])) };
}

/**
 * The picture under a window, as PS3.3 C.11.2.1.2.1 (the linear function) says.
 * @param {Pixels} pixels
 * @param {Window} window
 * @returns {Uint8ClampedArray<ArrayBuffer>} RGBA
 */
export function render({ values, slope, intercept, inverted }, { center, width }) {
  const signed = values instanceof Int16Array;
  const first = signed ? -32768 : 0;
  const table = new Uint8Array(65536);
  const span = Math.max(width - 1, 1e-6);
  for (let i = 0; i < 65536; i++) {
    const value = (i + first) * slope + intercept;
    const grey = Math.min(1, Math.max(0, (value - (center - 0.5)) / span + 0.5)) * 255;
    table[i] = Math.round(inverted ? 255 - grey : grey);
  }
  const out = new Uint8ClampedArray(values.length * 4);
  const words = new Uint32Array(out.buffer);
  for (let i = 0; i < values.length; i++) words[i] = 0xff000000 | (table[values[i] - first] * 0x010101);
  return out;
}

/**
 * Letters for where right and down lead in the patient, e.g. `{right: 'L', down: 'P'}`.
 * @param {number[]} orientation
 * @returns {{right: string, left: string, down: string, up: string} | null}
 */
export function directions(orientation) {
  if (orientation.length !== 6) return null;
  const letter = (/** @type {number[]} */ vector) => {
    const axis = [0, 1, 2].reduce((best, i) => (Math.abs(vector[i]) > Math.abs(vector[best]) ? i : best), 0);
    return ['RL', 'AP', 'FH'][axis][vector[axis] > 0 ? 1 : 0];
  };
  const across = orientation.slice(0, 3);
  const along = orientation.slice(3);
  const back = (/** @type {number[]} */ vector) => vector.map((part) => -part);
  return { right: letter(across), left: letter(back(across)), down: letter(along), up: letter(back(along)) };
}

/**
 * How the slice lies in the patient: by what its normal is nearest to.
 * @param {number[]} orientation
 * @returns {'axial' | 'sagittal' | 'coronal' | null}
 */
export function plane(orientation) {
  if (orientation.length !== 6) return null;
  const sizes = normal(orientation).map(Math.abs);
  const most = Math.max(...sizes);
  return most > 0 ? (/** @type {const} */ (['sagittal', 'coronal', 'axial'])[sizes.indexOf(most)]) : null;
}

/** @param {number[]} orientation six cosines */
function normal([a, b, c, d, e, f]) {
  return [b * f - c * e, c * d - a * f, a * e - b * d];
}

/**
 * How far along its own normal a slice lies; sorts a series in space.
 * @param {DicomHeader} header
 * @returns {number | null}
 */
export function depthMm({ position, orientation }) {
  if (position.length !== 3 || orientation.length !== 6) return null;
  return normal(orientation).reduce((sum, part, i) => sum + part * position[i], 0);
}

/**
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @returns {Promise<DicomHeader | null>}
 * @throws {RangeError} when the bytes end before the pixels begin
 */
async function headerOf(bytes) {
  if (!isDicom(bytes)) return null;
  const meta = new Reader(bytes, 132, true, true);
  meta.readWhile((tag) => tag < 0x00030000);
  const syntax = meta.text(0x00020010);
  let data = bytes;
  let start = meta.at;
  if (syntax === DEFLATED) {
    try {
      data = await through(new DecompressionStream('deflate-raw'), [bytes.subarray(start)]);
      start = 0;
    } catch {
      throw new RangeError('deflated data cut off');
    }
  }
  const reader = new Reader(data, start, syntax !== IMPLICIT, syntax !== BIG_ENDIAN);
  reader.readWhile((tag) => tag < PIXEL_DATA);
  const plain = [IMPLICIT, EXPLICIT, BIG_ENDIAN].includes(syntax) && reader.next() === PIXEL_DATA;
  return interpret(reader, plain ? reader.valueOffset() : null);
}

/**
 * @param {Reader} reader
 * @param {number | null} offset of plain pixel data
 * @returns {DicomHeader}
 */
function interpret(reader, offset) {
  const spacing = reader.numbers(PIXEL_SPACING);
  const centers = reader.numbers(0x00281050);
  const widths = reader.numbers(0x00281051);
  const photometric = reader.text(0x00280004);
  const allocated = reader.short(0x00280100);
  const stored = reader.short(0x00280101) || allocated;
  const grey = photometric.startsWith('MONOCHROME') && (reader.short(0x00280002) || 1) === 1;
  // A modality table, or rescaling kept per frame, is more than `native` can say: leave the values to the box.
  const understood = grey && !reader.has(0x00283000) && !reader.has(SHARED_GROUPS) && !reader.has(FRAME_GROUPS);
  const [slope, intercept] = [reader.numbers(0x00281053)[0] ?? 1, reader.numbers(0x00281052)[0] ?? 0];
  const native = offset !== null && understood && (allocated === 8 || allocated === 16) && stored <= allocated && slope !== 0;
  return {
    modality: reader.text(0x00080060),
    width: reader.short(0x00280011),
    height: reader.short(0x00280010),
    frames: reader.numbers(0x00280008)[0] || 1,
    // A VOI table beats nothing here: the page cannot show it, so it claims no window either.
    window: centers.length && widths.length && widths[0] > 0 ? { center: centers[0], width: widths[0] } : null,
    spacingMm: spacing.length === 2 && spacing[0] > 0 && spacing[1] > 0 ? { row: spacing[0], column: spacing[1] } : null,
    seriesUid: reader.text(0x0020000e),
    instanceUid: reader.text(0x00080018),
    instanceNumber: reader.numbers(0x00200013)[0] ?? 0,
    position: reader.numbers(0x00200032),
    orientation: reader.numbers(0x00200037),
    takesWindow: grey,
    native: native
      ? {
          offset,
          bits: allocated,
          shift: Math.max(0, (reader.short(0x00280102) || stored - 1) + 1 - stored),
          stored,
          signed: reader.short(0x00280103) === 1,
          littleEndian: reader.littleEndian,
          inverted: photometric === 'MONOCHROME1',
          slope,
          intercept,
        }
      : null,
  };
}

/** Walks data elements and keeps where their values are. */
class Reader {
  /**
   * @param {Uint8Array} bytes
   * @param {number} at
   * @param {boolean} explicit
   * @param {boolean} littleEndian
   */
  constructor(bytes, at, explicit, littleEndian) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = at;
    this.explicit = explicit;
    this.littleEndian = littleEndian;
    /** @type {Map<number, {at: number, length: number}>} */
    this.values = new Map();
  }

  /** Reads elements as long as `more` likes the tag that comes next. @param {(tag: number) => boolean} more */
  readWhile(more) {
    while (this.at < this.view.byteLength && more(this.next())) {
      const { tag, length, at } = this.element(this.at, this.explicit);
      this.values.set(tag, { at, length });
      this.at = length === UNDEFINED_LENGTH ? this.skipItems(at, this.explicit, tag === SHARED_GROUPS) : at + length;
      if (tag === SHARED_GROUPS && length !== UNDEFINED_LENGTH) this.skipItems(at, this.explicit, true, at + length);
    }
    if (this.at >= this.view.byteLength) throw new RangeError('no pixels in these bytes');
  }

  next() {
    return this.tag(this.at);
  }

  valueOffset() {
    return this.element(this.at, this.explicit).at;
  }

  /** @param {number} tag */
  has(tag) {
    return this.values.has(tag);
  }

  /** @param {number} tag */
  text(tag) {
    const value = this.values.get(tag);
    if (!value || value.length === UNDEFINED_LENGTH) return '';
    let text = '';
    for (let i = 0; i < value.length; i++) text += String.fromCharCode(this.view.getUint8(value.at + i));
    return text.replace(/[\0 ]+$/, '').trimStart();
  }

  /** @param {number} tag */
  numbers(tag) {
    const parts = this.text(tag).split('\\').map((part) => (part.trim() === '' ? NaN : Number(part)));
    return parts.every(Number.isFinite) ? parts : [];
  }

  /** @param {number} tag */
  short(tag) {
    const value = this.values.get(tag);
    return value && value.length >= 2 && value.length !== UNDEFINED_LENGTH ? this.view.getUint16(value.at, this.littleEndian) : 0;
  }

  /** @param {number} at */
  tag(at) {
    return this.view.getUint16(at, this.littleEndian) * 0x10000 + this.view.getUint16(at + 2, this.littleEndian);
  }

  /**
   * @param {number} at
   * @param {boolean} explicit
   * @returns {{tag: number, vr: string, length: number, at: number}}
   */
  element(at, explicit) {
    const tag = this.tag(at);
    if (!explicit || Math.floor(tag / 0x10000) === 0xfffe) {
      return { tag, vr: '', length: this.view.getUint32(at + 4, this.littleEndian), at: at + 8 };
    }
    const vr = String.fromCharCode(this.view.getUint8(at + 4), this.view.getUint8(at + 5));
    if (LONG_FORM.has(vr)) return { tag, vr, length: this.view.getUint32(at + 8, this.littleEndian), at: at + 12 };
    return { tag, vr, length: this.view.getUint16(at + 6, this.littleEndian), at: at + 8 };
  }

  /**
   * Passes over the items of a sequence; in the shared groups of an enhanced object it picks the spacing up.
   * @param {number} at
   * @param {boolean} explicit
   * @param {boolean} pick
   * @param {number} [end] where a sequence of known length ends
   * @returns {number} behind the sequence
   */
  skipItems(at, explicit, pick, end = Infinity) {
    while (at < end) {
      const item = this.element(at, explicit);
      if (item.tag === 0xfffee0dd) return item.at;
      if (item.tag !== 0xfffee000) throw new RangeError('not an item');
      at = item.at;
      const itemEnd = item.length === UNDEFINED_LENGTH ? Infinity : at + item.length;
      while (at < itemEnd) {
        const inner = this.element(at, explicit);
        if (inner.tag === 0xfffee00d) {
          at = inner.at;
          break;
        }
        if (pick && inner.tag === PIXEL_SPACING && !this.values.has(PIXEL_SPACING)) this.values.set(inner.tag, { at: inner.at, length: inner.length });
        const nested = inner.length === UNDEFINED_LENGTH || (pick && inner.vr === 'SQ');
        const innerEnd = inner.length === UNDEFINED_LENGTH ? undefined : inner.at + inner.length;
        // PS3.5 6.2.2: what hides in an UN of undefined length is implicit.
        at = nested ? this.skipItems(inner.at, explicit && inner.vr !== 'UN', pick, innerEnd) : inner.at + inner.length;
      }
    }
    return end;
  }
}
