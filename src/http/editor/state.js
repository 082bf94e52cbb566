/**
 * @file What the page knows: the series, each slice's annotation, its history.
 *
 * Invariants:
 * 1. An annotation changes only through `commit`, `undo` and `redo`, so every step can be taken back: clicks,
 *    answers, strokes, clears alike. A stroke in progress draws on `mask` and commits when it ends.
 * 2. History belongs to a slice. Undo never changes a slice that is not on the screen.
 * 3. `ai` is the model's last answer as it came; `mask` is what stands. Where they differ a person decided, and
 *    only a person's word (replace, or keep) lets an answer take that away.
 *
 * What it does not do: ask the box, draw, know the page's elements.
 */
import { emptyMask, fromRuns, isEmpty, sameMask, toRuns } from './mask.js';

/** @typedef {import('./mask.js').Mask} Mask */
/** @typedef {import('./mask.js').Rect} Rect */
/** @typedef {import('./dicom.js').Window} Window */
/** @typedef {import('./dicom.js').DicomHeader} DicomHeader */
/** @typedef {import('../client.js').Sam2Answer} Sam2Answer */
/** @typedef {{x: number, y: number, label: 0 | 1}} Click */
/** @typedef {'L3' | 'middle' | 'auto'} Context */
/** @typedef {'psoas' | 'muscle'} Target */
/**
 * @typedef {object} Verdict what an answer said of itself, kept while its mask is the base of what stands
 * @property {string} maskId
 * @property {number} confidence
 * @property {number} timeMs
 * @property {boolean} cached
 * @property {string[]} warnings
 * @property {{name: string, intendedUse: string}} model
 * @property {Window | null} window the box used
 * @property {Sam2Answer['annotation']} annotation
 * @property {import('../client.js').Sam2SegmentRequest} request what was asked; asking it again as DICOM gives the same mask
 */
/**
 * @typedef {object} Step one state of a slice's annotation, cheap to keep
 * @property {Uint32Array | null} mask
 * @property {Uint32Array | null} ai
 * @property {Click[]} clicks
 * @property {Rect | null} box
 * @property {Verdict | null} verdict
 * @property {boolean} keepManual answers go under the corrections instead of over them
 */
/** @typedef {{kind: 'dicom' | 'png' | 'jpeg', file: Blob, name: string, frame: number | undefined, frames: number, header: DicomHeader | null, deep: boolean}} Source `deep`: a 16-bit grey PNG */

/** More steps than anyone takes back; a step is some kilobytes. */
const MAX_STEPS = 300;

/** One picture of the series and everything drawn on it. */
export class Slice {
  /** @param {Source} source */
  constructor(source) {
    this.source = source;
    this.width = source.header?.width ?? 0;
    this.height = source.header?.height ?? 0;
    /** @type {Mask | null} what stands; null before the first stroke or answer */
    this.mask = null;
    /** @type {Mask | null} */
    this.ai = null;
    /** @type {Click[]} */
    this.clicks = [];
    /** @type {Rect | null} */
    this.box = null;
    /** @type {Verdict | null} */
    this.verdict = null;
    this.keepManual = false;
    /** Whether a person changed what the model said, or drew where it said nothing. */
    this.edited = false;
    /** Counts changes; an answer that finds it higher than when it was asked for came late. */
    this.revision = 0;
    this.saved = 0;
    /** @type {Step[]} */
    this.past = [];
    /** @type {Step[]} */
    this.future = [];
    this.present = this.snapshot();
  }

  get takesWindow() {
    return this.source.deep || (this.source.header?.takesWindow ?? this.source.kind === 'dicom');
  }

  get isCt() {
    return this.source.header?.modality === 'CT';
  }

  /** Millimetres, or null. @returns {{row: number, column: number} | null} */
  get spacingMm() {
    return this.source.header?.spacingMm ?? null;
  }

  get unsaved() {
    return this.edited && this.revision !== this.saved;
  }

  /** The mask to draw on; made when first needed, because a series may hold hundreds of slices. */
  drawable() {
    this.mask ??= emptyMask(this.width, this.height);
    return this.mask;
  }

  /** Makes what stands now a step that undo comes back to. */
  commit() {
    this.edited = !sameMask(this.mask, this.ai);
    this.past.push(this.present);
    if (this.past.length > MAX_STEPS) this.past.shift();
    this.future = [];
    this.present = this.snapshot();
    this.revision += 1;
  }

  undo() {
    return this.move(this.past, this.future);
  }

  redo() {
    return this.move(this.future, this.past);
  }

  /**
   * @param {Step[]} from
   * @param {Step[]} to
   */
  move(from, to) {
    const step = from.pop();
    if (!step) return false;
    to.push(this.present);
    this.present = step;
    this.restore(step);
    this.revision += 1;
    return true;
  }

  /** @returns {Step} */
  snapshot() {
    return {
      mask: this.mask && toRuns(this.mask),
      ai: this.ai && toRuns(this.ai),
      clicks: [...this.clicks],
      box: this.box,
      verdict: this.verdict,
      keepManual: this.keepManual,
    };
  }

  /** @param {Step} step */
  restore(step) {
    const open = (/** @type {Uint32Array | null} */ runs) => runs && fromRuns(runs, this.width, this.height);
    this.mask = open(step.mask);
    this.ai = open(step.ai);
    this.clicks = [...step.clicks];
    this.box = step.box;
    this.verdict = step.verdict;
    this.keepManual = step.keepManual;
    this.edited = !sameMask(this.mask, this.ai);
  }

  /** @returns {'empty' | 'ai' | 'manual' | 'corrected'} */
  get origin() {
    if (isEmpty(this.mask) && isEmpty(this.ai)) return 'empty';
    if (!this.edited) return 'ai';
    return isEmpty(this.ai) ? 'manual' : 'corrected';
  }
}

/** The page's one piece of shared state. Whoever changes it calls `changed`. */
export class Editor extends EventTarget {
  constructor() {
    super();
    /** @type {Slice[]} */
    this.slices = [];
    this.index = 0;
    /** @type {Context} */
    this.context = 'L3';
    /** @type {Target} */
    this.target = 'muscle';
    /** @type {Window | null} the user's; null: the context's or the file's */
    this.window = null;
    this.useWindow = false;
    this.opacity = 0.4;
    this.maskVisible = true;
    this.brushSize = 12;
    /** @type {string} */
    this.tool = 'prompt';
  }

  get slice() {
    return this.slices[this.index] ?? null;
  }

  /**
   * The window on the screen, as far as the page can tell without the box.
   * @param {Slice} slice
   * @returns {Window | null}
   */
  windowOf(slice) {
    if (!slice.takesWindow) return null;
    return this.window ?? this.contextWindow(slice) ?? slice.source.header?.window ?? null;
  }

  /**
   * What the contract gives CT in the two contexts: −100..200 HU.
   * @param {Slice} slice
   * @returns {Window | null}
   */
  contextWindow(slice) {
    return slice.isCt && this.context !== 'auto' ? { center: 50, width: 300 } : null;
  }

  /** @param {number} index */
  goTo(index) {
    const next = Math.min(Math.max(index, 0), this.slices.length - 1);
    if (next === this.index || next < 0) return;
    this.index = next;
    this.changed('slice');
  }

  /**
   * @param {'series' | 'slice' | 'annotation' | 'stroke' | 'window' | 'view' | 'tool' | 'context'} what
   */
  changed(what) {
    this.dispatchEvent(new CustomEvent('change', { detail: what }));
  }
}
