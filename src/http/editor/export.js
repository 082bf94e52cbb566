/**
 * @file What a person takes away: mask, overlay, annotation, DICOM Segmentation.
 *
 * Invariants:
 * 1. The mask PNG holds what the mask canvas holds, pixel by pixel: 8-bit grey, 0 and 255, the picture's size.
 * 2. Every file says that it is not for diagnostic use.
 * 3. File names and contents name no patient; the source's names go into the JSON only when the user ticks it.
 * 4. A DICOM Segmentation comes from the box, of the box's own mask. A corrected mask is never passed off as one.
 */
import { element } from './dialogs.js';
import { MASK_RGB, pathOf } from './canvas.js';
import { area, boundingBox, emptyMask, isEmpty, toRuns } from './mask.js';
import { outerPolygons, trace } from './outline.js';
import { encodeGrey, withTexts } from './png.js';

/** @typedef {import('./state.js').Slice} Slice */
/** @typedef {import('./state.js').Editor} Editor */

/** Files are read by other programs and other people: English, whatever the page speaks. */
export const NOTICE = 'Not for diagnostic use.';
/** The contract's own: a polygon may leave the mask's edge by less than a pixel. */
const POLYGON_TOLERANCE_PX = 0.75;
const OVERLAY_MIN_PX = 900;

/** @param {Slice} slice @returns {Promise<Blob>} */
export function maskPng(slice) {
  const { width, height, data } = slice.mask ?? emptyMask(slice.width, slice.height);
  return encodeGrey(width, height, data.map((pixel) => pixel * 255), { Software: 'sam2d', Comment: NOTICE });
}

/**
 * The picture as shown, the mask over it, a line under it.
 * @param {Slice} slice
 * @param {ImageBitmap} bitmap
 * @param {number} opacity
 * @returns {Promise<Blob>}
 */
export async function overlayPng(slice, bitmap, opacity) {
  const aspect = slice.spacingMm ? slice.spacingMm.row / slice.spacingMm.column : 1;
  const scale = Math.max(1, Math.ceil(OVERLAY_MIN_PX / bitmap.width));
  const [width, height] = [bitmap.width * scale, Math.round(bitmap.height * scale * aspect)];
  const font = Math.max(14, Math.round(width / 48));
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height + font * 2;
  const pen = canvas.getContext('2d');
  if (!pen) throw new Error('this browser has no canvas');
  pen.fillStyle = '#000000';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(bitmap, 0, 0, width, height);
  if (slice.mask) {
    const outline = new Path2D();
    outline.addPath(pathOf(trace(slice.mask)), new DOMMatrix([scale, 0, 0, height / bitmap.height, 0, 0]));
    pen.fillStyle = `rgb(${MASK_RGB.join(' ')} / ${opacity})`;
    pen.fill(outline, 'evenodd');
    pen.strokeStyle = `rgb(${MASK_RGB.join(' ')})`;
    pen.lineWidth = Math.max(1, scale / 2);
    pen.stroke(outline);
  }
  pen.font = `${font}px sans-serif`;
  pen.textBaseline = 'middle';
  pen.fillStyle = '#ffc24d';
  pen.fillText(NOTICE, font / 2, height + font);
  pen.fillStyle = '#d5dce4';
  pen.textAlign = 'right';
  pen.fillText(caption(slice), width - font / 2, height + font);
  const png = await new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('the picture is too large to save'))), 'image/png'));
  return withTexts(png, { Software: 'sam2d', Comment: NOTICE });
}

/**
 * All annotated slices of the series.
 * @param {Editor} editor
 * @param {boolean} nameSource
 * @returns {Blob}
 */
export function annotationJson(editor, nameSource) {
  const slices = editor.slices.map((slice, i) => ({ slice, i })).filter(({ slice }) => !isEmpty(slice.mask));
  const document = {
    schema: 'sam2d-annotation/1',
    notice: NOTICE,
    created: new Date().toISOString(),
    image_type: editor.context,
    ...(editor.context === 'middle' ? { target: editor.target } : {}),
    slices: slices.map(({ slice, i }) => sliceJson(editor, slice, i, nameSource)),
  };
  return new Blob([JSON.stringify(document, null, 1)], { type: 'application/json' });
}

/**
 * Millimetres where the file tells its spacing.
 * @param {Slice} slice
 * @returns {{px: number, mm2: number | null}}
 */
export function areaOf(slice) {
  const px = slice.mask ? area(slice.mask) : 0;
  const spacing = slice.spacingMm;
  return { px, mm2: spacing ? px * spacing.row * spacing.column : null };
}

/**
 * Hands a file to the browser's downloads.
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  element('stage', HTMLElement).append(link);
  link.click();
  link.remove();
  // The download has its own reference by then; a minute is for slow disks.
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/**
 * @param {Editor} editor
 * @param {string} what
 */
export function fileName(editor, what) {
  const context = { L3: 'L3', middle: 'middle', auto: 'free' }[editor.context];
  return `sam2d-${context}-slice-${String(editor.index + 1).padStart(3, '0')}-${what}`;
}

/**
 * @param {Editor} editor
 * @param {Slice} slice
 * @param {number} index
 * @param {boolean} nameSource
 */
function sliceJson(editor, slice, index, nameSource) {
  const mask = slice.mask ?? emptyMask(slice.width, slice.height);
  const { px, mm2 } = areaOf(slice);
  const { verdict, source } = slice;
  return {
    slice: index + 1,
    image: { width: slice.width, height: slice.height, ...(source.frame === undefined ? {} : { frame: source.frame }), spacing_mm: slice.spacingMm },
    ...(nameSource ? { source: { file_name: source.name, series_instance_uid: source.header?.seriesUid ?? null, sop_instance_uid: source.header?.instanceUid ?? null } } : {}),
    origin: slice.origin,
    bounding_box: boundingBox(mask),
    annotation: annotationOf(editor, slice),
    mask_runs: { order: 'row by row, starting with a run of zeros', lengths: [...toRuns(mask)] },
    area_px: px,
    area_mm2: mm2,
    click_points: slice.clicks,
    box: slice.box,
    model: verdict && { name: verdict.model.name, intended_use: verdict.model.intendedUse },
    // Of the model's own mask, as it was before any correction.
    confidence_score: verdict && verdict.confidence,
    warnings: verdict ? verdict.warnings : [],
  };
}

/**
 * @param {Editor} editor
 * @param {Slice} slice
 */
function annotationOf(editor, slice) {
  if (!slice.mask) return null;
  if (!slice.edited && slice.verdict && slice.verdict.request.imageType === editor.context) return slice.verdict.annotation;
  if (editor.context === 'L3') return { type: 'rectangle', ...boundingBox(slice.mask) };
  return { type: 'polygon', polygons: outerPolygons(slice.mask, POLYGON_TOLERANCE_PX) };
}

/** @param {Slice} slice */
function caption(slice) {
  const { px, mm2 } = areaOf(slice);
  const origin = { empty: '', ai: 'AI', manual: 'drawn by hand', corrected: 'AI, corrected by hand' }[slice.origin];
  const model = slice.verdict && slice.origin !== 'manual' ? [slice.verdict.model.name] : [];
  return [...model, origin, mm2 === null ? `${px} px` : `${Math.round(mm2)} mm²`].filter(Boolean).join(' · ');
}
