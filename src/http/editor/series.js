/**
 * @file From dropped, picked or pasted files to a series of slices.
 *
 * Files are told by content, as the box tells them. A DICOM of many frames becomes many slices; DICOM files are
 * put in the order of space (or of their numbers), others in the order of their names.
 *
 * What it does not do: decode, or send anything anywhere.
 */
import { depthMm, isDicom, readHeader } from './dicom.js';
import { pngHeader } from './png.js';
import { Slice } from './state.js';

/** @typedef {import('./state.js').Source} Source */

/**
 * @param {Blob[]} files
 * @returns {Promise<{slices: Slice[], refused: number}>}
 */
export async function openSeries(files) {
  /** @type {Source[]} */
  const sources = [];
  let refused = 0;
  for (const file of files) {
    const source = await sourceOf(file);
    if (source) sources.push(source);
    else refused += 1;
  }
  const slices = sources.sort(inOrder).flatMap((source) =>
    source.frames > 1 ? Array.from({ length: source.frames }, (_, frame) => new Slice({ ...source, frame })) : [new Slice(source)]
  );
  return { slices, refused };
}

/**
 * Files of a drop, folders opened.
 * @param {DataTransfer} transfer
 * @returns {Promise<File[]>}
 */
export async function droppedFiles(transfer) {
  // Entries must be taken before the first await: the drop's data is gone after it.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  const plain = [...transfer.files];
  if (!entries.some((entry) => entry?.isDirectory)) return plain;
  const lists = await Promise.all(entries.map((entry) => (entry ? filesUnder(entry) : [])));
  return lists.flat();
}

/**
 * @param {FileSystemEntry} entry
 * @returns {Promise<File[]>}
 */
async function filesUnder(entry) {
  if (entry.isFile) {
    return [await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject))];
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  const files = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return files;
    for (const inner of batch) files.push(...(await filesUnder(inner)));
  }
}

/**
 * @param {Blob} file
 * @returns {Promise<Source | null>} null for what is none of PNG, JPEG, DICOM
 */
async function sourceOf(file) {
  const head = new Uint8Array(await file.slice(0, 132).arrayBuffer());
  const base = { file, name: file instanceof File ? file.name : '', frame: undefined, frames: 1, header: null, deep: false };
  const png = pngHeader(head);
  if (png) return { ...base, kind: 'png', deep: png.colour === 0 && png.depth === 16 };
  if (head[0] === 0xff && head[1] === 0xd8 && head[2] === 0xff) return { ...base, kind: 'jpeg' };
  if (!isDicom(head)) return null;
  const header = await readHeader(file);
  return { ...base, kind: 'dicom', header, frames: header?.frames ?? 1 };
}

/**
 * @param {Source} a
 * @param {Source} b
 */
function inOrder(a, b) {
  if (a.header && b.header && a.header.seriesUid === b.header.seriesUid) {
    const [depthA, depthB] = [depthMm(a.header), depthMm(b.header)];
    if (depthA !== null && depthB !== null && depthA !== depthB) return depthA - depthB;
    if (a.header.instanceNumber !== b.header.instanceNumber) return a.header.instanceNumber - b.header.instanceNumber;
  }
  return a.name.localeCompare(b.name, undefined, { numeric: true });
}
