/**
 * @file The JavaScript client of sam2d, the hospital's own one-click segmentation box.
 *
 * One file, no dependency: `import { sam2Segment } from 'http://box:8642/client.js'`, or from this
 * folder by its package.json. Its words are the contract's (docs/API.md); answers arrive as the box
 * sent them, with the box's own field names.
 *
 * Invariants:
 * 1. A promise ends: with an answer, or with a `Sam2Error` no later than `timeoutMs` (35 s: the box's
 *    30 s and 5 s for the way) after the call, retries and waits included.
 * 2. Only two failures are tried again: 503 that carries Retry-After, and a lost connection. Every
 *    request here is a pure question, so asking twice does no harm.
 * 3. Bytes of a `Blob` travel once: the box's `image.id` stands for them afterwards; when the box no
 *    longer knows it (`unknown_image`), the bytes are sent again, once.
 * 4. Nothing that could name a patient is added: an upload is always called "image".
 *
 * What it does not do: draw, decode pictures, keep tokens, log. Syntax is held to ES2018 so that the
 * bundlers of older editors (webpack 4) take the file as it is; a test parses it so.
 */

/** @typedef {'L3' | 'middle' | 'auto'} Sam2ImageType */
/** @typedef {{x: number, y: number, label?: 0 | 1}} Sam2Point pixels of the image, x right, y down; 1 = in (default), 0 = out */
/** @typedef {{x: number, y: number, width: number, height: number}} Sam2Box */
/** @typedef {{center: number, width: number}} Sam2Window */
/** @typedef {{type: 'rectangle', x: number, y: number, width: number, height: number}} Sam2Rectangle */
/** @typedef {{type: 'polygon', polygons: Array<Array<{x: number, y: number}>>}} Sam2Polygons */
/**
 * @typedef {object} Sam2ImageInfo
 * @property {string} id opaque; `image:ID` refers to it
 * @property {number} width
 * @property {number} height
 * @property {number} [frame]
 * @property {number} [frames]
 * @property {Sam2Window | null} [window]
 * @property {string} [window_source]
 */
/**
 * @typedef {object} Sam2ModelInfo
 * @property {string} name
 * @property {string} [backend]
 * @property {string} [fingerprint]
 * @property {string} [intended_use] `demonstration` for the embedded model
 */
/**
 * @typedef {object} Sam2Answer
 * @property {string} mask_data bare base64 PNG; or a path, when `maskFormat` was `url`
 * @property {string} mask_id
 * @property {number} confidence_score
 * @property {number} processing_time_ms
 * @property {Sam2Box | null} bounding_box
 * @property {boolean} cached
 * @property {boolean} embedding_cached
 * @property {string} image_type
 * @property {string} [patient_id]
 * @property {string} [slice_index]
 * @property {Sam2Rectangle | Sam2Polygons | null} annotation
 * @property {Sam2ImageInfo} image
 * @property {Sam2ModelInfo} model
 * @property {Record<string, number>} timings_ms
 * @property {string[]} warnings
 * @property {string} request_id
 * @property {string} notice
 */
/** @typedef {{image: Sam2ImageInfo, embedding_cached: boolean, processing_time_ms: number}} Sam2Embedding */
/**
 * @typedef {object} Sam2Health
 * @property {boolean} reachable false when nothing answered; the rest is then this file's own word
 * @property {boolean} enabled
 * @property {boolean} available true: a segmentation would be answered by the engine
 * @property {'sam2' | 'manual-only'} mode
 * @property {string} [reason]
 * @property {string[]} [warnings]
 * @property {Sam2ModelInfo | null} [model]
 * @property {Record<string, unknown>} [cache_stats] absent for those without a token where tokens are on
 */
/**
 * @typedef {object} Sam2Progress
 * @property {'sending' | 'waiting' | 'retrying' | 'resending'} phase
 * @property {number} elapsedMs since the call
 * @property {number} timeoutMs when it will be given up
 * @property {number} attempt 1 for the first
 * @property {number} [retryInMs] with `retrying`
 */
/** @typedef {Blob | ArrayBuffer | ArrayBufferView | HTMLCanvasElement | string} Sam2Image bytes of a PNG, JPEG or DICOM; or `image:ID`, `file:NAME`, `data:…;base64,…`, bare base64 */
/**
 * @typedef {object} Sam2Options
 * @property {string} [baseUrl] where the box is: '' (this page's own origin), `http://box:8642`, `/api/ctai`
 * @property {string | null | (() => string | null | Promise<string | null>)} [token] sent as `Authorization: Bearer`
 * @property {number} [timeoutMs] for the whole call; 35000
 * @property {number} [retries] after the first attempt; 3
 * @property {number} [backoffMs] first wait after a lost connection, doubled each time; 500
 * @property {typeof fetch} [fetch]
 */
/**
 * @typedef {object} Sam2CallExtras
 * @property {AbortSignal} [signal]
 * @property {(progress: Sam2Progress) => void} [onProgress] at each phase and twice a second while waiting
 */
/**
 * @typedef {object} Sam2ImageFields
 * @property {Sam2Image} image
 * @property {Sam2ImageType} [imageType] `auto` when absent
 * @property {number} [frame] of a multi-frame DICOM, 0-based
 * @property {Sam2Window} [window] DICOM in modality units (HU), 16-bit grey PNG in stored units
 */
/**
 * @typedef {object} Sam2PromptFields
 * @property {string} [patientId] echoed
 * @property {string | number} [sliceIndex] echoed
 * @property {Sam2Point[]} [clickPoints]
 * @property {Sam2Box} [box]
 * @property {'psoas' | 'muscle'} [target] for `middle`
 * @property {string | Blob | {mask_id: string}} [maskInput] an earlier answer, its `mask_id`, or a PNG mask
 * @property {string | {mask_id: string}} [promptFrom] a neighbouring slice's answer, or its `mask_id`
 * @property {'base64' | 'url'} [maskFormat]
 */
/** @typedef {Sam2ImageFields & Sam2PromptFields & Sam2CallExtras & Sam2Options} Sam2SegmentRequest */
/** @typedef {Sam2ImageFields & Sam2CallExtras & Sam2Options} Sam2ImageRequest */

const SEGMENT = '/api/segmentation/sam2';
const EMBED = '/api/segmentation/sam2/embed';
const HEALTH = '/api/segmentation/sam2/health';
const PREVIEW = '/api/segmentation/preview';

const HEALTH_TIMEOUT_MS = 5000;
const PROGRESS_EVERY_MS = 500;

/** @type {Sam2Options} */
const defaults = { baseUrl: '', token: null, timeoutMs: 35000, retries: 3, backoffMs: 500 };

/**
 * Sets what every later call starts from, e.g. `configure({ baseUrl: 'http://box:8642' })`. Each call may
 * still override it.
 * @param {Sam2Options} options
 */
export function configure(options) {
  Object.assign(defaults, options);
}

/**
 * One slice to one mask. Without `clickPoints`, `box`, `maskInput` or `promptFrom` it is one click: the box
 * finds the object itself.
 * @param {Sam2SegmentRequest} request
 * @returns {Promise<Sam2Answer>}
 */
export async function sam2Segment(request) {
  const call = new Call(request);
  const answer = await call.run(() => postImage(call, SEGMENT, request, promptFields(request), 'application/json', readJson));
  // A body without a mask is a failure said loudly: an editor must never draw something made up.
  if (typeof answer.mask_data !== 'string' || typeof answer.mask_id !== 'string' || typeof answer.confidence_score !== 'number') {
    throw new Sam2ProtocolError('The answer carries no mask.');
  }
  rememberImage(request, answer.image);
  return answer;
}

/**
 * Has the box prepare a slice (its embedding), so that the clicks that follow are quick.
 * @param {Sam2ImageRequest} request
 * @returns {Promise<Sam2Embedding>}
 */
export async function sam2Embed(request) {
  const call = new Call(request);
  const answer = await call.run(() => postImage(call, EMBED, request, {}, 'application/json', readJson));
  rememberImage(request, answer.image);
  return answer;
}

/**
 * The slice as the engine would see it under `window`: an 8-bit PNG. Bytes are sent each time, because
 * `image:ID` names one window only.
 * @param {Sam2ImageRequest} request
 * @returns {Promise<Blob>}
 */
export async function sam2Preview(request) {
  const call = new Call(request);
  return call.run(() => postBytes(call, PREVIEW, request, {}, 'image/png', (response) => response.blob()));
}

/**
 * The same question as `sam2Segment`, answered as a DICOM Segmentation object. Only for a DICOM image; a box
 * that does not write them answers 406, which arrives as `Sam2HttpError`.
 * @param {Sam2SegmentRequest} request
 * @returns {Promise<Blob>}
 */
export async function sam2DicomSegmentation(request) {
  const call = new Call(request);
  return call.run(() =>
    postBytes(call, SEGMENT, request, promptFields(request), 'application/dicom', (response) => {
      const type = response.headers.get('content-type') || '';
      if (type.indexOf('application/dicom') !== 0) {
        throw new Sam2ProtocolError('Asked for application/dicom, got ' + (type || 'no content type') + '.');
      }
      return response.blob();
    })
  );
}

/**
 * The mask of an answer as a PNG, wherever it is: in the answer, or at the path it names (fetched with the
 * token, which an `<img src>` could not carry).
 * @param {Sam2Answer} answer
 * @param {Sam2Options & Sam2CallExtras} [options]
 * @returns {Promise<Blob>}
 */
export async function sam2Mask(answer, options) {
  if (answer.mask_data.charAt(0) !== '/') {
    return new Blob([bytesOfBase64(answer.mask_data)], { type: 'image/png' });
  }
  const call = new Call(options || {});
  return call.run(() => call.fetch(originOf(call.baseUrl) + answer.mask_data, { method: 'GET' }, 'image/png', (response) => response.blob()));
}

/**
 * Whether the box would segment now. Never rejects for a box that does not answer: that is a state too.
 * @param {Sam2Options & {signal?: AbortSignal}} [options]
 * @returns {Promise<Sam2Health>}
 */
export async function checkSam2Health(options) {
  const call = new Call(Object.assign({ timeoutMs: HEALTH_TIMEOUT_MS, retries: 0 }, options));
  try {
    const health = await call.run(() => call.fetch(call.baseUrl + HEALTH, { method: 'GET', cache: 'no-store' }, 'application/json', readJson));
    return Object.assign({}, health, { reachable: true });
  } catch (error) {
    if (!(error instanceof Sam2Error) || error instanceof Sam2AbortError) throw error;
    return { reachable: false, enabled: false, available: false, mode: 'manual-only', reason: error.detail };
  }
}

/** What every failure here is. `detail` is fit to be shown: the box's own words where it said any. */
export class Sam2Error extends Error {
  /** @param {string} detail */
  constructor(detail) {
    super(detail);
    this.name = 'Sam2Error';
    this.detail = detail;
    /** Stable word for the cause: the box's `code`, or `network`, `timeout`, `aborted`, `protocol`. */
    this.code = 'unknown';
    /** Whether the same call may succeed later without a change. */
    this.retryable = false;
  }
}

/** The box answered, and said no. */
export class Sam2HttpError extends Sam2Error {
  /**
   * @param {number} status
   * @param {{title?: string, detail?: string, code?: string, request_id?: string}} problem
   * @param {number | null} retryAfterMs
   */
  constructor(status, problem, retryAfterMs) {
    super(problem.detail || problem.title || 'HTTP ' + status);
    this.name = 'Sam2HttpError';
    this.status = status;
    this.code = problem.code || 'http_' + status;
    this.title = problem.title || '';
    this.requestId = problem.request_id || '';
    /** From Retry-After; null when there was none. */
    this.retryAfterMs = retryAfterMs;
    this.retryable = status === 503 || status === 504 || status === 429;
  }
}

/** No connection, or it broke. A browser says the same when the box does not allow this page's origin. */
export class Sam2NetworkError extends Sam2Error {
  /** @param {unknown} cause */
  constructor(cause) {
    super('The segmentation box cannot be reached.');
    this.name = 'Sam2NetworkError';
    this.code = 'network';
    this.cause = cause;
    this.retryable = true;
  }
}

/** No answer within `timeoutMs`. */
export class Sam2TimeoutError extends Sam2Error {
  /** @param {number} timeoutMs */
  constructor(timeoutMs) {
    super('No answer within ' + Math.round(timeoutMs / 100) / 10 + ' s.');
    this.name = 'Sam2TimeoutError';
    this.code = 'timeout';
    this.timeoutMs = timeoutMs;
    this.retryable = true;
  }
}

/** The caller's `signal` said stop. `name` is what fetch uses, so one check fits both. */
export class Sam2AbortError extends Sam2Error {
  constructor() {
    super('Cancelled.');
    this.name = 'AbortError';
    this.code = 'aborted';
  }
}

/** The box, or something between, answered what the contract does not allow. */
export class Sam2ProtocolError extends Sam2Error {
  /** @param {string} detail */
  constructor(detail) {
    super(detail);
    this.name = 'Sam2ProtocolError';
    this.code = 'protocol';
  }
}

/** One call: its deadline, its attempts, its abort. */
class Call {
  /** @param {Sam2Options & Sam2CallExtras} request */
  constructor(request) {
    /** @type {<K extends keyof Sam2Options>(key: K) => Sam2Options[K]} */
    const option = (key) => (request[key] === undefined ? defaults[key] : request[key]);
    this.baseUrl = String(option('baseUrl') || '').replace(/\/+$/, '');
    this.token = option('token');
    this.timeoutMs = Number(option('timeoutMs'));
    this.retries = Number(option('retries'));
    this.backoffMs = Number(option('backoffMs'));
    this.fetchImpl = option('fetch') || globalFetch;
    this.signal = request.signal;
    this.onProgress = request.onProgress;
    this.started = Date.now();
    this.attempt = 0;
    this.controller = new AbortController();
    this.timedOut = false;
    /** @type {Array<() => void>} */
    this.wakers = [];
  }

  /**
   * Runs `work` between the deadline and the caller's signal.
   * @template T
   * @param {() => Promise<T>} work
   * @returns {Promise<T>}
   */
  async run(work) {
    if (this.signal && this.signal.aborted) throw new Sam2AbortError();
    const stop = () => this.stop();
    if (this.signal) this.signal.addEventListener('abort', stop);
    const deadline = setTimeout(() => {
      this.timedOut = true;
      this.stop();
    }, this.timeoutMs);
    const ticker = this.onProgress ? setInterval(() => this.report('waiting'), PROGRESS_EVERY_MS) : undefined;
    // The race keeps the first invariant even where something below never settles, such as a token function.
    const stopped = new Promise((resolve, reject) => this.wakers.push(() => reject(this.ended())));
    try {
      return await Promise.race([work(), /** @type {Promise<never>} */ (stopped)]);
    } catch (error) {
      if (this.controller.signal.aborted) throw this.ended();
      throw error;
    } finally {
      clearTimeout(deadline);
      if (ticker !== undefined) clearInterval(ticker);
      if (this.signal) this.signal.removeEventListener('abort', stop);
    }
  }

  stop() {
    this.controller.abort();
    this.wakers.splice(0).forEach((wake) => wake());
  }

  ended() {
    return this.timedOut ? new Sam2TimeoutError(this.timeoutMs) : new Sam2AbortError();
  }

  /**
   * @param {Sam2Progress['phase']} phase
   * @param {number} [retryInMs]
   */
  report(phase, retryInMs) {
    if (!this.onProgress) return;
    /** @type {Sam2Progress} */
    const progress = { phase: phase, elapsedMs: Date.now() - this.started, timeoutMs: this.timeoutMs, attempt: this.attempt };
    if (retryInMs !== undefined) progress.retryInMs = retryInMs;
    this.onProgress(progress);
  }

  /**
   * One request with its retries. `read` takes the body while deadline and abort still hold.
   * @template T
   * @param {string} url
   * @param {RequestInit} init
   * @param {string} accept
   * @param {(response: Response) => Promise<T>} read
   * @returns {Promise<T>}
   */
  async fetch(url, init, accept, read) {
    for (let tries = 0; ; tries++) {
      this.attempt += 1;
      this.report('sending');
      /** @type {Sam2Error} */
      let failure;
      /** @type {number | null} */
      let waitMs = null;
      try {
        const response = await this.once(url, init, accept);
        if (response.ok) return await read(response);
        const refusal = await httpError(response);
        failure = refusal;
        if (refusal.status === 503 && refusal.retryAfterMs !== null) {
          waitMs = Math.max(refusal.retryAfterMs, this.backoff(tries));
        }
      } catch (error) {
        if (this.controller.signal.aborted) throw this.ended();
        if (error instanceof Sam2Error) throw error;
        failure = new Sam2NetworkError(error);
        waitMs = this.backoff(tries);
      }
      const leftMs = this.started + this.timeoutMs - Date.now();
      // A wait that the deadline would cut short helps nobody: the caller hears the reason now.
      if (waitMs === null || tries >= this.retries || waitMs >= leftMs) throw failure;
      this.report('retrying', waitMs);
      await this.sleep(waitMs);
    }
  }

  /**
   * @param {string} url
   * @param {RequestInit} init
   * @param {string} accept
   * @returns {Promise<Response>}
   */
  async once(url, init, accept) {
    /** @type {Record<string, string>} */
    const headers = { Accept: accept === 'application/json' ? accept : accept + ', application/problem+json;q=0.9' };
    const token = typeof this.token === 'function' ? await this.token() : this.token;
    if (token) headers.Authorization = 'Bearer ' + token;
    if (this.controller.signal.aborted) throw this.ended();
    return this.fetchImpl(
      url,
      // Credentials off: the box knows tokens, not cookies, and an intranet's single sign-on is not its business.
      Object.assign({}, init, { headers: headers, signal: this.controller.signal, credentials: 'omit', redirect: 'error' })
    );
  }

  /** @param {number} tries */
  backoff(tries) {
    // A spread of ±20 % keeps the workstations of a department from coming back in step after an outage.
    return this.backoffMs * Math.pow(2, tries) * (0.8 + 0.4 * Math.random());
  }

  /** @param {number} ms */
  async sleep(ms) {
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wakers.push(() => {
        clearTimeout(timer);
        resolve(undefined);
      });
    });
    if (this.controller.signal.aborted) throw this.ended();
  }
}

/**
 * Image ids by the Blob they came from. A Blob cannot change, so its id stays true; it goes when the Blob does.
 * @type {WeakMap<Blob, Map<string, string>>}
 */
const knownImages = new WeakMap();

/** @param {Sam2ImageFields & Sam2Options} request */
function imageKey(request) {
  // An id names a frame under one resolved window, which depends on the context; and each box has its own.
  return JSON.stringify([request.baseUrl === undefined ? defaults.baseUrl : request.baseUrl, request.imageType || 'auto', request.frame === undefined ? 0 : request.frame, request.window || null]);
}

/**
 * @param {Sam2ImageFields & Sam2Options} request
 * @param {Sam2ImageInfo} image
 */
function rememberImage(request, image) {
  if (!isBlob(request.image) || !image || typeof image.id !== 'string') return;
  let ids = knownImages.get(request.image);
  if (!ids) knownImages.set(request.image, (ids = new Map()));
  ids.set(imageKey(request), image.id);
}

/**
 * @template T
 * @param {Call} call
 * @param {string} path
 * @param {Sam2ImageRequest} request
 * @param {Record<string, string | Blob>} fields
 * @param {string} accept
 * @param {(response: Response) => Promise<T>} read
 * @returns {Promise<T>}
 */
async function postImage(call, path, request, fields, accept, read) {
  const ids = isBlob(request.image) ? knownImages.get(request.image) : undefined;
  const id = ids && ids.get(imageKey(request));
  const prompts = await resolved(fields);
  if (id) {
    try {
      return await call.fetch(call.baseUrl + path, { method: 'POST', body: form(Object.assign({ image_data: 'image:' + id, image_type: request.imageType || 'auto' }, prompts)) }, accept, read);
    } catch (error) {
      if (!(error instanceof Sam2HttpError) || error.code !== 'unknown_image') throw error;
      if (ids) ids.delete(imageKey(request));
      call.report('resending');
    }
  }
  return postBytes(call, path, request, prompts, accept, read);
}

/**
 * @template T
 * @param {Call} call
 * @param {string} path
 * @param {Sam2ImageRequest} request
 * @param {Record<string, string | Blob>} fields
 * @param {string} accept
 * @param {(response: Response) => Promise<T>} read
 * @returns {Promise<T>}
 */
async function postBytes(call, path, request, fields, accept, read) {
  const image = await imageOf(request.image);
  const body = form(Object.assign({ image_type: request.imageType || 'auto' }, imageFields(request), await resolved(fields)));
  if (typeof image === 'string') body.append('image_data', image);
  // Always the same name: the original one is often the patient's.
  else body.append('file', image, 'image');
  return call.fetch(call.baseUrl + path, { method: 'POST', body: body }, accept, read);
}

/**
 * @param {Sam2ImageFields} request
 * @returns {Record<string, string>}
 */
function imageFields(request) {
  /** @type {Record<string, string>} */
  const fields = {};
  if (request.frame !== undefined && request.frame !== null) fields.frame = String(request.frame);
  if (request.window) fields.window = JSON.stringify({ center: request.window.center, width: request.window.width });
  return fields;
}

/**
 * @param {Sam2PromptFields} request
 * @returns {Record<string, string | Blob>}
 */
function promptFields(request) {
  /** @type {Record<string, string | Blob>} */
  const fields = {};
  if (request.patientId) fields.patient_id = String(request.patientId);
  if (request.sliceIndex !== undefined && request.sliceIndex !== null && request.sliceIndex !== '') fields.slice_index = String(request.sliceIndex);
  if (request.clickPoints && request.clickPoints.length) {
    fields.click_points = JSON.stringify(request.clickPoints.map((point) => ({ x: point.x, y: point.y, label: point.label === 0 ? 0 : 1 })));
  }
  if (request.box) {
    const box = request.box;
    fields.box = JSON.stringify({ x: box.x, y: box.y, width: box.width, height: box.height });
  }
  if (request.target) fields.target = request.target;
  if (request.maskInput) fields.mask_input = isBlob(request.maskInput) ? request.maskInput : maskIdOf(request.maskInput);
  if (request.promptFrom) fields.prompt_from = maskIdOf(request.promptFrom);
  if (request.maskFormat) fields.mask_format = request.maskFormat;
  return fields;
}

/** @param {string | {mask_id: string}} mask */
function maskIdOf(mask) {
  return typeof mask === 'string' ? mask : mask.mask_id;
}

/**
 * Pictures among the fields (a mask to refine) travel as base64 text.
 * @param {Record<string, string | Blob>} fields
 * @returns {Promise<Record<string, string>>}
 */
async function resolved(fields) {
  /** @type {Record<string, string>} */
  const texts = {};
  for (const name of Object.keys(fields)) {
    const value = fields[name];
    texts[name] = isBlob(value) ? base64OfBytes(new Uint8Array(await value.arrayBuffer())) : value;
  }
  return texts;
}

/** @param {Record<string, string>} fields */
function form(fields) {
  const body = new FormData();
  Object.keys(fields).forEach((name) => body.append(name, fields[name]));
  return body;
}

/**
 * @param {Sam2Image} image
 * @returns {Promise<Blob | string>} bytes, or a reference that the box resolves
 */
async function imageOf(image) {
  if (isBlob(image)) return image;
  if (image instanceof ArrayBuffer) return new Blob([image]);
  if (ArrayBuffer.isView(image)) return new Blob([/** @type {ArrayBufferView<ArrayBuffer>} */ (image)]);
  if (typeof image === 'string') {
    if (/^(image|file):/.test(image)) return image;
    if (/^https?:/.test(image)) throw new TypeError('The box takes no URLs: fetch the picture and pass its Blob.');
    return new Blob([bytesOfBase64(image.replace(/^data:[^,]*,/, ''))]);
  }
  if (image && typeof image.toBlob === 'function') {
    return new Promise((resolve, reject) => {
      image.toBlob((blob) => (blob ? resolve(blob) : reject(new TypeError('The canvas is empty.'))), 'image/png');
    });
  }
  throw new TypeError('image must be a Blob, bytes, a canvas, or a string: image:ID, file:NAME, data: URL, base64.');
}

/**
 * @param {Response} response
 * @returns {Promise<any>}
 */
async function readJson(response) {
  let body;
  try {
    body = JSON.parse(await response.text());
  } catch (error) {
    // A connection lost in the middle of the body is the network's fault and is tried again; bad JSON is not.
    if (!(error instanceof SyntaxError)) throw error;
  }
  if (!body || typeof body !== 'object') throw new Sam2ProtocolError('The answer is not JSON.');
  return body;
}

/**
 * @param {Response} response
 * @returns {Promise<Sam2HttpError>}
 */
async function httpError(response) {
  /** @type {any} */
  let problem = null;
  try {
    problem = JSON.parse(await response.text());
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  if (!problem || typeof problem !== 'object') {
    // A proxy's error page: its HTML helps nobody, its status does.
    problem = { detail: ('HTTP ' + response.status + ' ' + response.statusText).trim() };
  }
  return new Sam2HttpError(response.status, problem, retryAfterMs(response.headers.get('retry-after')));
}

/** @param {string | null} value seconds or an HTTP date */
function retryAfterMs(value) {
  if (value === null || value.trim() === '') return null;
  const seconds = Number(value);
  if (isFinite(seconds)) return Math.max(0, seconds * 1000);
  const at = Date.parse(value);
  return isNaN(at) ? null : Math.max(0, at - Date.now());
}

/** @param {string} baseUrl */
function originOf(baseUrl) {
  // Mask paths already carry the prefix the request came by.
  const match = /^https?:\/\/[^/]+/.exec(baseUrl);
  return match ? match[0] : '';
}

/**
 * @param {unknown} value
 * @returns {value is Blob}
 */
function isBlob(value) {
  return typeof Blob !== 'undefined' && value instanceof Blob;
}

/** @param {string} text */
function bytesOfBase64(text) {
  const binary = atob(text.replace(/\s+/g, ''));
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** @param {Uint8Array} bytes */
function base64OfBytes(bytes) {
  let binary = '';
  // In pieces: one call with a whole picture's bytes as arguments overflows the stack.
  for (let i = 0; i < bytes.length; i += 0x8000) {
    binary += String.fromCharCode.apply(null, /** @type {any} */ (bytes.subarray(i, i + 0x8000)));
  }
  return btoa(binary);
}

/** @type {typeof fetch} */
function globalFetch(input, init) {
  return fetch(input, init);
}
