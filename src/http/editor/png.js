/**
 * @file PNG, the little of it that must be exact: grey pictures in and out, notices in their text chunks.
 *
 * Why not the canvas: browsers that guard against fingerprinting change the pixels a page reads back from a
 * canvas, a canvas writes colour with alpha where the mask must be 8-bit grey, and it halves 16-bit pictures.
 */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** @typedef {{width: number, height: number, depth: number, colour: number, interlaced: boolean}} PngHeader */
/** @typedef {{width: number, height: number, depth: 8 | 16, data: Uint8Array | Uint16Array}} GreyPicture */

/**
 * @param {Uint8Array} bytes at least the first 33
 * @returns {PngHeader | null} null when it is not a PNG
 */
export function pngHeader(bytes) {
  if (bytes.length < 33 || SIGNATURE.some((byte, i) => bytes[i] !== byte)) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return { width: view.getUint32(16), height: view.getUint32(20), depth: bytes[24], colour: bytes[25], interlaced: bytes[28] !== 0 };
}

/**
 * Reads an 8- or 16-bit grey PNG without interlace.
 * @param {Uint8Array} bytes
 * @returns {Promise<GreyPicture | null>} null for any other kind
 * @throws {Error} when it is cut off or damaged
 */
export async function decodeGrey(bytes) {
  const header = pngHeader(bytes);
  if (!header || header.colour !== 0 || header.interlaced || (header.depth !== 8 && header.depth !== 16)) return null;
  const { width, height } = header;
  const data = chunks(bytes).filter(({ type }) => type === 'IDAT').map(({ body }) => body);
  const raw = await through(new DecompressionStream('deflate'), data);
  const pixelBytes = header.depth / 8;
  const stride = width * pixelBytes;
  if (raw.length !== height * (stride + 1)) throw new Error('PNG: the picture is cut off.');
  const plain = unfilter(raw, height, stride, pixelBytes);
  if (header.depth === 8) return { width, height, depth: 8, data: plain };
  const view = new DataView(plain.buffer);
  return { width, height, depth: 16, data: Uint16Array.from({ length: width * height }, (_, i) => view.getUint16(2 * i)) };
}

/**
 * Writes an 8-bit grey PNG.
 * @param {number} width
 * @param {number} height
 * @param {Uint8Array} data one byte a pixel
 * @param {Record<string, string>} texts Latin-1 keywords and values
 * @returns {Promise<Blob>}
 */
export async function encodeGrey(width, height, data, texts) {
  const rows = new Uint8Array(height * (width + 1));
  for (let y = 0; y < height; y++) rows.set(data.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8;
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk('IHDR', header),
    ...textChunks(texts),
    chunk('IDAT', await through(new CompressionStream('deflate'), [rows])),
    chunk('IEND', new Uint8Array(0)),
  ];
  return new Blob(parts, { type: 'image/png' });
}

/**
 * The same picture with text chunks after its header.
 * @param {Blob} png
 * @param {Record<string, string>} texts
 * @returns {Promise<Blob>}
 */
export async function withTexts(png, texts) {
  const headerEnd = SIGNATURE.length + 25;
  return new Blob([png.slice(0, headerEnd), ...textChunks(texts), png.slice(headerEnd)], { type: 'image/png' });
}

/** @param {Record<string, string>} texts */
function textChunks(texts) {
  return Object.entries(texts).map(([keyword, value]) => chunk('tEXt', Uint8Array.from(`${keyword}\0${value}`, (letter) => Math.min(letter.charCodeAt(0), 255))));
}

/**
 * @param {string} type
 * @param {Uint8Array<ArrayBuffer>} body
 */
function chunk(type, body) {
  const bytes = new Uint8Array(body.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = type.charCodeAt(i);
  bytes.set(body, 8);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(4, 8 + body.length)) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + body.length, ~crc >>> 0);
  return bytes;
}

/** @param {Uint8Array} bytes */
function chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = [];
  for (let at = SIGNATURE.length; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) throw new Error('PNG: the file is cut off.');
    found.push({ type, body: bytes.subarray(at + 8, at + 8 + length) });
    at += 12 + length;
  }
  return found;
}

/**
 * @param {Uint8Array} raw
 * @param {number} height
 * @param {number} stride
 * @param {number} step bytes a pixel
 */
function unfilter(raw, height, stride, step) {
  const out = new Uint8Array(height * stride);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    const line = raw.subarray(y * (stride + 1) + 1, (y + 1) * (stride + 1));
    const at = y * stride;
    for (let x = 0; x < stride; x++) {
      const left = x >= step ? out[at + x - step] : 0;
      const up = y ? out[at + x - stride] : 0;
      const corner = y && x >= step ? out[at + x - stride - step] : 0;
      out[at + x] = line[x] + prediction(filter, left, up, corner);
    }
  }
  return out;
}

/**
 * @param {number} filter
 * @param {number} left
 * @param {number} up
 * @param {number} corner
 */
function prediction(filter, left, up, corner) {
  switch (filter) {
    case 0:
      return 0;
    case 1:
      return left;
    case 2:
      return up;
    case 3:
      return (left + up) >> 1;
    case 4: {
      const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
      return a <= b && a <= c ? left : b <= c ? up : corner;
    }
    default:
      throw new Error(`PNG: row filter ${filter} does not exist.`);
  }
}

/**
 * @param {CompressionStream | DecompressionStream} stream
 * @param {Uint8Array[]} parts
 */
export async function through(stream, parts) {
  const source = new Blob(/** @type {BlobPart[]} */ (parts)).stream();
  return new Uint8Array(await new Response(source.pipeThrough(/** @type {any} */ (stream))).arrayBuffer());
}
