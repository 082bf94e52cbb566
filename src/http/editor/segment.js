/**
 * @file Asking the box for a mask, from the click to the mask on the slice, and all that can go wrong between.
 *
 * Invariants:
 * 1. Manual work is replaced only by a person's word. An answer that comes after new strokes goes under them.
 * 2. An answer belongs to the slice it was asked for, also when another one is on the screen by then.
 * 3. A mask that is damaged, or of another size than the picture, is refused, never stretched.
 * 4. A failed or cancelled question leaves the slice as it was.
 */
import { Sam2AbortError, Sam2Error, Sam2HttpError, Sam2TimeoutError } from '../client.js';
import { ask, Busy, element, toast } from './dialogs.js';
import { number, t } from './i18n.js';
import { boundingBox, innerPoint, isEmpty, withCorrections } from './mask.js';
import { decodeGrey, encodeGrey } from './png.js';

/** @typedef {import('./state.js').Slice} Slice */
/** @typedef {import('./state.js').Click} Click */
/** @typedef {import('./mask.js').Mask} Mask */
/** @typedef {import('./mask.js').Rect} Rect */
/** @typedef {import('../client.js').Sam2Answer} Sam2Answer */
/** @typedef {import('../client.js').Sam2SegmentRequest} Sam2SegmentRequest */
/**
 * @typedef {object} Task
 * @property {Slice} slice
 * @property {'one-click' | 'prompt' | 'next'} kind
 * @property {Click[]} clicks
 * @property {Rect | null} box
 * @property {string} [maskInput]
 * @property {Slice} [from] the neighbour whose place seeds the prompt
 */

export const LOW_CONFIDENCE = 0.5;
/** A warm click answers faster than an overlay can be read; only a slow one gets it. */
const OVERLAY_AFTER_MS = 1500;

export class Segmenter extends EventTarget {
  /**
   * @param {import('./state.js').Editor} editor
   * @param {import('./api.js').Box} box
   */
  constructor(editor, box) {
    super();
    this.editor = editor;
    this.box = box;
    this.busy = new Busy();
    /** @type {AbortController | null} */
    this.running = null;
    /** @type {{task: Task, error: Sam2Error} | null} */
    this.failure = null;
    element('retry', HTMLElement).addEventListener('click', () => this.retry());
  }

  oneClick() {
    const { slice } = this.editor;
    if (slice) void this.run({ slice, kind: 'one-click', clicks: [], box: null });
  }

  /**
   * @param {{x: number, y: number}} point
   * @param {0 | 1} label
   */
  click({ x, y }, label) {
    const { slice } = this.editor;
    if (!slice) return;
    const clicks = [...slice.clicks, { x, y, label }];
    // The box wants something to be in: an excluding click alone needs the last answer to stand on.
    const maskInput = slice.verdict && !isEmpty(slice.ai) ? slice.verdict.maskId : undefined;
    if (label === 0 && !maskInput && !slice.box && !clicks.some((click) => click.label === 1)) return;
    void this.run({ slice, kind: 'prompt', clicks, box: slice.box, maskInput });
  }

  /** @param {Rect} rect */
  boxed(rect) {
    const { slice } = this.editor;
    if (slice) void this.run({ slice, kind: 'prompt', clicks: slice.clicks, box: rect });
  }

  /** Leafs to the next slice and segments there from this one's place. */
  next() {
    const { slice, index, slices } = this.editor;
    const to = slices[index + 1];
    if (!slice || !to || isEmpty(slice.mask)) return;
    this.editor.goTo(index + 1);
    void this.run({ slice: to, kind: 'next', clicks: [], box: null, from: slice });
  }

  retry() {
    if (this.failure) void this.run(this.failure.task);
  }

  /** Whether there was anything to cancel. */
  cancel() {
    if (!this.running) return false;
    this.running.abort();
    return true;
  }

  /** @param {Task} task */
  async run(task) {
    const { slice } = task;
    if (!this.box.ready) return toast('warn', t('noEngineClick'));
    let { keepManual } = slice;
    if (slice.edited && !keepManual) {
      const answer = await ask({
        title: t('replaceTitle'),
        text: t('replaceText'),
        answers: [{ value: 'replace', label: t('replace') }, { value: 'keep', label: t('keepMine') }],
      });
      if (!answer) return;
      keepManual = answer === 'keep';
    }
    // A newer click knows more than the one still on its way.
    this.running?.abort();
    const controller = (this.running = new AbortController());
    const asked = slice.revision;
    this.show(slice, task.clicks, task.box);
    this.fail(null);
    const started = performance.now();
    const overlay = () => this.running === controller && this.busy.show(started, () => controller.abort());
    const late = setTimeout(overlay, OVERLAY_AFTER_MS);
    if (task.kind !== 'prompt') overlay();
    this.dispatchEvent(new Event('change'));
    try {
      const { answer, mask, request } = await this.question(task, controller.signal);
      if (this.running !== controller) return;
      this.take(task, answer, mask, request, keepManual || (slice.edited && slice.revision !== asked));
      this.tell(answer);
    } catch (error) {
      if (this.running !== controller && this.running !== null) return;
      this.show(slice, slice.present.clicks, slice.present.box);
      if (error instanceof Sam2AbortError) toast('warn', t('cancelled'), 'answer');
      else if (error instanceof Sam2Error) this.fail({ task, error });
      else throw error;
    } finally {
      clearTimeout(late);
      if (this.running === controller) {
        this.running = null;
        this.busy.hide();
        this.dispatchEvent(new Event('change'));
      }
    }
  }

  /**
   * @param {Task} task
   * @param {AbortSignal} signal
   * @returns {Promise<{answer: Sam2Answer, mask: Mask, request: Sam2SegmentRequest}>}
   */
  async question(task, signal) {
    const { slice } = task;
    const request = this.requestFor(task);
    const extras = { signal, onProgress: (/** @type {any} */ progress) => this.progress(progress) };
    let answer;
    try {
      answer = await this.box.segment({ ...request, ...extras });
    } catch (error) {
      // Masks expire. What the page still holds says the same, in other words.
      if (!(error instanceof Sam2HttpError) || error.code !== 'unknown_mask') throw error;
      await this.inOtherWords(task, request);
      answer = await this.box.segment({ ...request, ...extras });
    }
    const png = new Uint8Array(await (await this.box.mask(answer)).arrayBuffer());
    const grey = await decodeGrey(png).catch(() => null);
    if (!grey || grey.width !== slice.width || grey.height !== slice.height) throw new Sam2Error(t('failedSize'));
    return { answer, request, mask: { width: grey.width, height: grey.height, data: Uint8Array.from(grey.data, (value) => (value > 127 ? 1 : 0)) } };
  }

  /** @param {Task} task @returns {Sam2SegmentRequest} */
  requestFor({ slice, clicks, box, maskInput, from }) {
    const { editor } = this;
    /** @type {Sam2SegmentRequest} */
    const request = { image: slice.source.file, imageType: editor.context, clickPoints: clicks };
    if (slice.source.frame !== undefined) request.frame = slice.source.frame;
    if (box) request.box = box;
    if (editor.context === 'middle') request.target = editor.target;
    const window = editor.useWindow ? editor.windowOf(slice) : null;
    if (window) request.window = window;
    if (maskInput) request.maskInput = maskInput;
    if (from) this.seed(request, from);
    return request;
  }

  /**
   * @param {Sam2SegmentRequest} request
   * @param {Slice} from
   */
  seed(request, from) {
    if (from.verdict && !from.edited) request.promptFrom = from.verdict.maskId;
    else this.seedByPlace(request, from);
  }

  /**
   * A mask that the box does not know (drawn or corrected by hand) tells its place by a box and a click inside.
   * @param {Sam2SegmentRequest} request
   * @param {Slice} from
   */
  seedByPlace(request, { mask }) {
    const place = mask && boundingBox(mask);
    const inner = mask && innerPoint(mask);
    if (place) request.box = place;
    if (inner) request.clickPoints = [{ ...inner, label: 1 }];
  }

  /**
   * @param {Task} task
   * @param {Sam2SegmentRequest} request
   */
  async inOtherWords({ slice, from }, request) {
    if (request.promptFrom && from) {
      delete request.promptFrom;
      this.seedByPlace(request, from);
    } else if (request.maskInput && slice.ai) {
      request.maskInput = await encodeGrey(slice.width, slice.height, slice.ai.data.map((pixel) => pixel * 255), {});
    }
  }

  /**
   * Puts an answer on its slice, as one step.
   * @param {Task} task
   * @param {Sam2Answer} answer
   * @param {Mask} mask
   * @param {Sam2SegmentRequest} request
   * @param {boolean} keepManual
   */
  take({ slice, clicks, box }, answer, mask, request, keepManual) {
    const standing = keepManual ? withCorrections(slice.drawable(), slice.ai, mask) : { ...mask, data: mask.data.slice() };
    slice.ai = mask;
    slice.mask = standing;
    slice.clicks = clicks;
    slice.box = box;
    slice.keepManual = keepManual;
    slice.verdict = {
      maskId: answer.mask_id,
      confidence: answer.confidence_score,
      timeMs: answer.processing_time_ms,
      cached: answer.cached,
      warnings: answer.warnings ?? [],
      model: { name: answer.model?.name ?? '', intendedUse: answer.model?.intended_use ?? '' },
      window: answer.image?.window ?? null,
      annotation: answer.annotation,
      request,
    };
    slice.commit();
    this.editor.changed('annotation');
  }

  /** @param {Sam2Answer} answer */
  tell(answer) {
    const empty = answer.bounding_box === null;
    const low = answer.confidence_score < LOW_CONFIDENCE;
    const facts = [t('confidence', { percent: number(answer.confidence_score * 100, 0) }), t('timeMs', { ms: number(answer.processing_time_ms, 0) })];
    if (answer.cached) facts.push(t('cached'));
    const lines = [`${t(empty ? 'nothingFound' : 'done')} · ${facts.join(' · ')}`];
    if (low && !empty) lines.push(t('confidenceLow'));
    if (answer.model?.intended_use === 'demonstration') lines.push(t('demonstration'));
    toast(empty || low ? 'warn' : 'good', lines.join('\n'), 'answer');
  }

  /** @param {{task: Task, error: Sam2Error} | null} failure */
  fail(failure) {
    this.failure = failure;
    if (failure) toast('bad', [failureTitle(failure.error), failureDetail(failure.error)].filter(Boolean).join('\n'), 'answer');
    this.dispatchEvent(new Event('change'));
  }

  /**
   * Prompts that are on their way are shown, but are no step yet.
   * @param {Slice} slice
   * @param {Click[]} clicks
   * @param {Rect | null} box
   */
  show(slice, clicks, box) {
    slice.clicks = [...clicks];
    slice.box = box;
    this.editor.changed('view');
  }

  /** @param {import('../client.js').Sam2Progress} progress */
  progress({ phase, retryInMs }) {
    if (phase === 'retrying') this.busy.note(t('busyRetry', { seconds: number((retryInMs ?? 0) / 1000, 1) }));
    else if (phase === 'sending') this.busy.note('');
  }
}

/** @param {Sam2Error} error */
export function failureTitle(error) {
  switch (error.code) {
    case 'timeout':
      return t('failedTimeout');
    case 'network':
      return t('failedReach');
    case 'overloaded':
    case 'rate_limited':
      return t('failedBusy');
    case 'engine_unavailable':
    case 'inference_failed':
    case 'decoder_unavailable':
      return t('failedEngine');
    case 'unreadable_image':
    case 'unsupported_format':
    case 'unsupported_transfer_syntax':
      return t('failedImage');
    default:
      return t('failed');
  }
}

/**
 * The box's own words; the client's own are English and are said here in the page's language.
 * @param {Sam2Error} error
 */
export function failureDetail(error) {
  if (error.code === 'network') return '';
  if (error instanceof Sam2TimeoutError) return t('failedTimeoutDetail', { seconds: number(error.timeoutMs / 1000, 0) });
  return error.detail;
}
