/**
 * @file The picture of a slice: from the box's preview, or made here where the box cannot.
 *
 * DICOM and 16-bit pictures are shown as the engine would see them (the preview route). While a window is
 * dragged, and while the box is away or has no preview, pixels that the page can read are rendered here, and
 * `madeHere` says so. 8-bit pictures are the browser's to decode.
 *
 * What it does not do: decide when to show; keep more than a few pictures.
 */
import { Sam2HttpError } from '../client.js';
import { fullWindow, readPixels, render } from './dicom.js';
import { decodeGrey } from './png.js';

/** @typedef {import('./state.js').Slice} Slice */
/** @typedef {import('./dicom.js').Window} Window */
/** @typedef {import('./dicom.js').Pixels} Pixels */
/** @typedef {{bitmap: ImageBitmap, madeHere: boolean}} Picture */

/** Enough to leaf back and forth without asking again. */
const KEPT_PICTURES = 24;
const KEPT_PIXELS = 8;

/** A slice that cannot be shown; `detail` says why. */
export class PictureError extends Error {
  /** @param {string} detail */
  constructor(detail) {
    super(detail);
    this.detail = detail;
  }
}

export class Pictures {
  /** @param {import('./api.js').Box} box */
  constructor(box) {
    this.box = box;
    /** @type {Map<string, Picture>} oldest first */
    this.kept = new Map();
    /** @type {Map<Slice, Promise<Pixels | null>>} */
    this.pixels = new Map();
    /** @type {WeakMap<Slice, number>} */
    this.numbers = new WeakMap();
    this.count = 0;
  }

  /**
   * @param {Slice} slice
   * @param {Window | null} window null: the context's, or the file's
   * @param {import('./state.js').Context} context
   * @param {AbortSignal} signal
   * @returns {Promise<Picture>}
   * @throws {PictureError}
   */
  async show(slice, window, context, signal) {
    const key = this.key(slice, window, context);
    const kept = this.kept.get(key);
    // What the page made itself gives way to the box's picture as soon as the box can.
    if (kept && !(kept.madeHere && this.box.canPreview)) return kept;
    const picture = await this.make(slice, window, context, signal);
    slice.width = picture.bitmap.width;
    slice.height = picture.bitmap.height;
    this.keep(key, picture);
    return picture;
  }

  /**
   * @param {Slice} slice
   * @param {Window | null} window
   * @param {import('./state.js').Context} context
   * @param {AbortSignal} signal
   * @returns {Promise<Picture>}
   */
  async make(slice, window, context, signal) {
    if (!slice.takesWindow && slice.source.kind !== 'dicom') {
      try {
        return { bitmap: await createImageBitmap(slice.source.file), madeHere: false };
      } catch {
        throw new PictureError('');
      }
    }
    let refusal = '';
    if (this.box.canPreview) {
      try {
        const png = await this.box.preview(slice, window, context, signal);
        return { bitmap: await createImageBitmap(png), madeHere: false };
      } catch (error) {
        if (signal.aborted) throw error;
        // What the network did is no word of the box.
        refusal = error instanceof Sam2HttpError ? error.detail : '';
      }
    }
    const made = await this.makeHere(slice, window ?? this.defaultWindow(slice, context));
    if (made) return made;
    throw new PictureError(refusal);
  }

  /**
   * Renders without the box; null where the page cannot read the pixels.
   * @param {Slice} slice
   * @param {Window | null} window
   * @returns {Promise<Picture | null>}
   */
  async makeHere(slice, window) {
    const pixels = await this.pixelsOf(slice);
    if (!pixels) return null;
    const rgba = render(pixels, window ?? fullWindow(pixels));
    return { bitmap: await createImageBitmap(new ImageData(rgba, pixels.width, pixels.height)), madeHere: true };
  }

  /**
   * @param {Slice} slice
   * @param {import('./state.js').Context} context
   */
  defaultWindow(slice, context) {
    return slice.isCt && context !== 'auto' ? { center: 50, width: 300 } : (slice.source.header?.window ?? null);
  }

  /**
   * Values behind the picture, where the page can read them.
   * @param {Slice} slice
   * @returns {Promise<Pixels | null>}
   */
  pixelsOf(slice) {
    let pixels = this.pixels.get(slice);
    if (!pixels) {
      pixels = readValues(slice).catch(() => null);
      this.pixels.set(slice, pixels);
      if (this.pixels.size > KEPT_PIXELS) this.pixels.delete(/** @type {Slice} */ (this.pixels.keys().next().value));
    }
    return pixels;
  }

  forget() {
    this.kept.forEach(({ bitmap }) => bitmap.close());
    this.kept.clear();
    this.pixels.clear();
  }

  /**
   * @param {Slice} slice
   * @param {Window | null} window
   * @param {import('./state.js').Context} context
   */
  key(slice, window, context) {
    let number = this.numbers.get(slice);
    if (number === undefined) this.numbers.set(slice, (number = this.count++));
    if (!slice.takesWindow) return String(number);
    return JSON.stringify([number, window ?? (slice.isCt && context !== 'auto' ? 'context' : 'file')]);
  }

  /**
   * @param {string} key
   * @param {Picture} picture
   */
  keep(key, picture) {
    this.kept.delete(key);
    this.kept.set(key, picture);
    // Not closed: the one pushed out may still be on the screen. The garbage collector sees to it.
    if (this.kept.size > KEPT_PICTURES) this.kept.delete(/** @type {string} */ (this.kept.keys().next().value));
  }
}

/**
 * @param {Slice} slice
 * @returns {Promise<Pixels | null>}
 */
async function readValues({ source }) {
  if (source.header) return readPixels(source.file, source.header, source.frame ?? 0);
  if (!source.deep) return null;
  const grey = await decodeGrey(new Uint8Array(await source.file.arrayBuffer()));
  if (!grey) return null;
  return { width: grey.width, height: grey.height, values: Uint16Array.from(grey.data), slope: 1, intercept: 0, inverted: false };
}
