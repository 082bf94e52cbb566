/**
 * @file The box as the page sees it: its state, watched; its token; its questions.
 *
 * Invariants:
 * 1. `state` always tells what the last contact with the box said; it heals by itself.
 * 2. The token lives in sessionStorage: it goes when the tab goes, and no cookie carries it.
 * 3. A route the box does not have (404, 405, 406, 501) is remembered as missing and said, never guessed at.
 */
import { checkSam2Health, configure, sam2DicomSegmentation, sam2Embed, sam2Mask, sam2Preview, sam2Segment, Sam2HttpError, Sam2NetworkError } from '../client.js';

/** @typedef {import('./state.js').Slice} Slice */
/** @typedef {import('./state.js').Context} Context */
/** @typedef {import('./dicom.js').Window} Window */
/** @typedef {import('../client.js').Sam2SegmentRequest} Sam2SegmentRequest */
/** @typedef {{kind: 'unknown' | 'ready' | 'manual' | 'down', reason: string, model: string, demonstration: boolean, warnings: string[]}} BoxState */

const TOKEN_KEY = 'sam2d.token';
const WATCH_READY_MS = 15000;
const WATCH_TROUBLED_MS = 3000;
const MISSING = [404, 405, 406, 501];

export class Box extends EventTarget {
  /** @param {(why: string) => Promise<string | null>} askToken */
  constructor(askToken) {
    super();
    this.askToken = askToken;
    /** @type {BoxState} */
    this.state = { kind: 'unknown', reason: '', model: '', demonstration: false, warnings: [] };
    this.canPreview = true;
    this.canSegment = true;
    /** @type {Promise<string | null> | null} one question at a time, however many requests met a 401 */
    this.asking = null;
    /** The box wants a token that this tab has not got. */
    this.needsToken = false;
    // Where this page is, the box is: a proxy may have put both below a path.
    const baseUrl = location.pathname.replace(/\/[^/]*$/, '');
    configure({ baseUrl, token: () => sessionStorage.getItem(TOKEN_KEY) });
  }

  get ready() {
    return this.state.kind === 'ready';
  }

  get hasToken() {
    return sessionStorage.getItem(TOKEN_KEY) !== null;
  }

  forgetToken() {
    sessionStorage.removeItem(TOKEN_KEY);
    this.tell();
  }

  /** Watches the box for as long as the page lives. */
  watch() {
    const again = async () => {
      await this.look();
      setTimeout(again, this.ready ? WATCH_READY_MS : WATCH_TROUBLED_MS);
    };
    void again();
    // A workstation that wakes, or a tab that comes back, should not show an hour-old state.
    document.addEventListener('visibilitychange', () => document.hidden || void this.look());
    window.addEventListener('online', () => void this.look());
  }

  async look() {
    const used = sessionStorage.getItem(TOKEN_KEY);
    const health = await checkSam2Health();
    // Strangers hear less: whoever shows a token and hears no more has one that is not right (any more).
    if (used && health.reachable && !health.warnings && sessionStorage.getItem(TOKEN_KEY) === used) {
      this.drop();
      this.needsToken = true;
      this.tell();
    }
    /** @type {BoxState['kind']} */
    const kind = !health.reachable ? 'down' : health.available ? 'ready' : 'manual';
    // A box that came back may be another version with other routes.
    if (this.state.kind === 'down' && kind !== 'down') this.canPreview = this.canSegment = true;
    this.set({
      kind,
      reason: health.reason ?? '',
      model: health.model?.name ?? '',
      demonstration: health.model?.intended_use === 'demonstration',
      warnings: health.warnings ?? [],
    });
  }

  /** @param {BoxState} state */
  set(state) {
    const same = JSON.stringify(state) === JSON.stringify(this.state);
    this.state = state;
    if (!same) this.tell();
  }

  tell() {
    this.dispatchEvent(new Event('change'));
  }

  /** @param {Sam2SegmentRequest} request */
  segment(request) {
    return this.asked(() => sam2Segment(request));
  }

  /** @param {import('../client.js').Sam2Answer} answer */
  mask(answer) {
    return this.asked(() => sam2Mask(answer));
  }

  /** @param {Sam2SegmentRequest} request */
  async dicomSegmentation(request) {
    try {
      return await this.asked(() => sam2DicomSegmentation(request));
    } catch (error) {
      if (error instanceof Sam2HttpError && error.status === 406) this.canSegment = false;
      throw error;
    }
  }

  /**
   * @param {Slice} slice
   * @param {Context} context
   * @param {Window | undefined} window
   * @param {AbortSignal} signal
   */
  embed(slice, context, window, signal) {
    return this.asked(() => sam2Embed({ image: slice.source.file, frame: slice.source.frame, imageType: context, window, signal }), true);
  }

  /**
   * @param {Slice} slice
   * @param {Window | null} window
   * @param {Context} context
   * @param {AbortSignal} signal
   */
  async preview(slice, window, context, signal) {
    try {
      return await this.asked(
        () => sam2Preview({ image: slice.source.file, frame: slice.source.frame, imageType: context, window: window ?? undefined, signal, retries: 0 }),
        true
      );
    } catch (error) {
      if (error instanceof Sam2HttpError && MISSING.includes(error.status)) this.canPreview = false;
      throw error;
    }
  }

  /**
   * Runs a question; asks the user for a token where the box wants one, until one is right or the user gives up.
   * @template T
   * @param {() => Promise<T>} question
   * @param {boolean} [background] nobody waits for it: a user who has waved the dialog away is not asked again
   * @returns {Promise<T>}
   */
  async asked(question, background = false) {
    for (;;) {
      const used = sessionStorage.getItem(TOKEN_KEY);
      try {
        return this.accepted(await question());
      } catch (error) {
        if (error instanceof Sam2NetworkError) void this.look();
        if (error instanceof Sam2HttpError && error.code === 'engine_unavailable') void this.look();
        // 403 with a token: it is one, but for something else.
        if (!(error instanceof Sam2HttpError) || !(error.status === 401 || (error.status === 403 && used))) throw error;
        // Another request may have got a new one, or dropped this one, meanwhile.
        if (sessionStorage.getItem(TOKEN_KEY) !== used) continue;
        if (used) this.drop();
        if (background && this.needsToken && !this.asking) throw error;
        if (!(await this.newToken(used ? error.detail : ''))) throw error;
      }
    }
  }

  /** Lets go of a token that the box refused: shown again and again it would count as guessing. */
  drop() {
    sessionStorage.removeItem(TOKEN_KEY);
  }

  /**
   * Only an answer shows that a token is the right one.
   * @template T
   * @param {T} answer
   * @returns {T}
   */
  accepted(answer) {
    if (this.needsToken) {
      this.needsToken = false;
      this.tell();
      void this.look();
    }
    return answer;
  }

  /**
   * @param {string} [why] what the box said of the one before
   * @returns {Promise<boolean>}
   */
  async newToken(why = '') {
    this.needsToken = true;
    this.tell();
    this.asking ??= this.askToken(why);
    const token = await this.asking;
    this.asking = null;
    if (!token) return false;
    sessionStorage.setItem(TOKEN_KEY, token);
    this.tell();
    return true;
  }
}
