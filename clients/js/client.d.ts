// Made from client.js by tests/e2e/types.test.js (UPDATE=1). Do not edit.
/**
 * Sets what every later call starts from, e.g. `configure({ baseUrl: 'http://box:8642' })`. Each call may
 * still override it.
 * @param {Sam2Options} options
 */
export function configure(options: Sam2Options): void;
/**
 * One slice to one mask. Without `clickPoints`, `box`, `maskInput` or `promptFrom` it is one click: the box
 * finds the object itself.
 * @param {Sam2SegmentRequest} request
 * @returns {Promise<Sam2Answer>}
 */
export function sam2Segment(request: Sam2SegmentRequest): Promise<Sam2Answer>;
/**
 * Has the box prepare a slice (its embedding), so that the clicks that follow are quick.
 * @param {Sam2ImageRequest} request
 * @returns {Promise<Sam2Embedding>}
 */
export function sam2Embed(request: Sam2ImageRequest): Promise<Sam2Embedding>;
/**
 * The slice as the engine would see it under `window`: an 8-bit PNG. Bytes are sent each time, because
 * `image:ID` names one window only.
 * @param {Sam2ImageRequest} request
 * @returns {Promise<Blob>}
 */
export function sam2Preview(request: Sam2ImageRequest): Promise<Blob>;
/**
 * The same question as `sam2Segment`, answered as a DICOM Segmentation object. Only for a DICOM image; a box
 * that does not write them answers 406, which arrives as `Sam2HttpError`.
 * @param {Sam2SegmentRequest} request
 * @returns {Promise<Blob>}
 */
export function sam2DicomSegmentation(request: Sam2SegmentRequest): Promise<Blob>;
/**
 * The mask of an answer as a PNG, wherever it is: in the answer, or at the path it names (fetched with the
 * token, which an `<img src>` could not carry).
 * @param {Sam2Answer} answer
 * @param {Sam2Options & Sam2CallExtras} [options]
 * @returns {Promise<Blob>}
 */
export function sam2Mask(answer: Sam2Answer, options?: Sam2Options & Sam2CallExtras): Promise<Blob>;
/**
 * Whether the box would segment now. Never rejects for a box that does not answer: that is a state too.
 * @param {Sam2Options & {signal?: AbortSignal}} [options]
 * @returns {Promise<Sam2Health>}
 */
export function checkSam2Health(options?: Sam2Options & {
    signal?: AbortSignal;
}): Promise<Sam2Health>;
/** What every failure here is. `detail` is fit to be shown: the box's own words where it said any. */
export class Sam2Error extends Error {
    /** @param {string} detail */
    constructor(detail: string);
    detail: string;
    /** Stable word for the cause: the box's `code`, or `network`, `timeout`, `aborted`, `protocol`. */
    code: string;
    /** Whether the same call may succeed later without a change. */
    retryable: boolean;
}
/** The box answered, and said no. */
export class Sam2HttpError extends Sam2Error {
    /**
     * @param {number} status
     * @param {{title?: string, detail?: string, code?: string, request_id?: string}} problem
     * @param {number | null} retryAfterMs
     */
    constructor(status: number, problem: {
        title?: string;
        detail?: string;
        code?: string;
        request_id?: string;
    }, retryAfterMs: number | null);
    status: number;
    title: string;
    requestId: string;
    /** From Retry-After; null when there was none. */
    retryAfterMs: number | null;
}
/** No connection, or it broke. A browser says the same when the box does not allow this page's origin. */
export class Sam2NetworkError extends Sam2Error {
    /** @param {unknown} cause */
    constructor(cause: unknown);
    cause: unknown;
}
/** No answer within `timeoutMs`. */
export class Sam2TimeoutError extends Sam2Error {
    /** @param {number} timeoutMs */
    constructor(timeoutMs: number);
    timeoutMs: number;
}
/** The caller's `signal` said stop. `name` is what fetch uses, so one check fits both. */
export class Sam2AbortError extends Sam2Error {
    constructor();
}
/** The box, or something between, answered what the contract does not allow. */
export class Sam2ProtocolError extends Sam2Error {
}
export type Sam2ImageType = "L3" | "middle" | "auto";
/**
 * pixels of the image, x right, y down; 1 = in (default), 0 = out
 */
export type Sam2Point = {
    x: number;
    y: number;
    label?: 0 | 1;
};
export type Sam2Box = {
    x: number;
    y: number;
    width: number;
    height: number;
};
export type Sam2Window = {
    center: number;
    width: number;
};
export type Sam2Rectangle = {
    type: "rectangle";
    x: number;
    y: number;
    width: number;
    height: number;
};
export type Sam2Polygons = {
    type: "polygon";
    polygons: Array<Array<{
        x: number;
        y: number;
    }>>;
};
export type Sam2ImageInfo = {
    /**
     * opaque; `image:ID` refers to it
     */
    id: string;
    width: number;
    height: number;
    frame?: number | undefined;
    frames?: number | undefined;
    window?: Sam2Window | null | undefined;
    window_source?: string | undefined;
};
export type Sam2ModelInfo = {
    name: string;
    backend?: string | undefined;
    fingerprint?: string | undefined;
    /**
     * `demonstration` for the embedded model
     */
    intended_use?: string | undefined;
};
export type Sam2Answer = {
    /**
     * bare base64 PNG; or a path, when `maskFormat` was `url`
     */
    mask_data: string;
    mask_id: string;
    confidence_score: number;
    processing_time_ms: number;
    bounding_box: Sam2Box | null;
    cached: boolean;
    embedding_cached: boolean;
    image_type: string;
    patient_id?: string | undefined;
    slice_index?: string | undefined;
    annotation: Sam2Rectangle | Sam2Polygons | null;
    image: Sam2ImageInfo;
    model: Sam2ModelInfo;
    timings_ms: Record<string, number>;
    warnings: string[];
    request_id: string;
    notice: string;
};
export type Sam2Embedding = {
    image: Sam2ImageInfo;
    embedding_cached: boolean;
    processing_time_ms: number;
};
export type Sam2Health = {
    /**
     * false when nothing answered; the rest is then this file's own word
     */
    reachable: boolean;
    enabled: boolean;
    /**
     * true: a segmentation would be answered by the engine
     */
    available: boolean;
    mode: "sam2" | "manual-only";
    reason?: string | undefined;
    warnings?: string[] | undefined;
    model?: Sam2ModelInfo | null | undefined;
    /**
     * absent for those without a token where tokens are on
     */
    cache_stats?: Record<string, unknown> | undefined;
};
export type Sam2Progress = {
    phase: "sending" | "waiting" | "retrying" | "resending";
    /**
     * since the call
     */
    elapsedMs: number;
    /**
     * when it will be given up
     */
    timeoutMs: number;
    /**
     * 1 for the first
     */
    attempt: number;
    /**
     * with `retrying`
     */
    retryInMs?: number | undefined;
};
/**
 * bytes of a PNG, JPEG or DICOM; or `image:ID`, `file:NAME`, `data:…;base64,…`, bare base64
 */
export type Sam2Image = Blob | ArrayBuffer | ArrayBufferView | HTMLCanvasElement | string;
export type Sam2Options = {
    /**
     * where the box is: '' (this page's own origin), `http://box:8642`, `/api/ctai`
     */
    baseUrl?: string | undefined;
    /**
     * sent as `Authorization: Bearer`
     */
    token?: string | (() => string | null | Promise<string | null>) | null | undefined;
    /**
     * for the whole call; 35000
     */
    timeoutMs?: number | undefined;
    /**
     * after the first attempt; 3
     */
    retries?: number | undefined;
    /**
     * first wait after a lost connection, doubled each time; 500
     */
    backoffMs?: number | undefined;
    fetch?: typeof fetch | undefined;
};
export type Sam2CallExtras = {
    signal?: AbortSignal | undefined;
    /**
     * at each phase and twice a second while waiting
     */
    onProgress?: ((progress: Sam2Progress) => void) | undefined;
};
export type Sam2ImageFields = {
    image: Sam2Image;
    /**
     * `auto` when absent
     */
    imageType?: Sam2ImageType | undefined;
    /**
     * of a multi-frame DICOM, 0-based
     */
    frame?: number | undefined;
    /**
     * DICOM in modality units (HU), 16-bit grey PNG in stored units
     */
    window?: Sam2Window | undefined;
};
export type Sam2PromptFields = {
    /**
     * echoed
     */
    patientId?: string | undefined;
    /**
     * echoed
     */
    sliceIndex?: string | number | undefined;
    clickPoints?: Sam2Point[] | undefined;
    box?: Sam2Box | undefined;
    /**
     * for `middle`
     */
    target?: "psoas" | "muscle" | undefined;
    /**
     * an earlier answer, its `mask_id`, or a PNG mask
     */
    maskInput?: string | Blob | {
        mask_id: string;
    } | undefined;
    /**
     * a neighbouring slice's answer, or its `mask_id`
     */
    promptFrom?: string | {
        mask_id: string;
    } | undefined;
    maskFormat?: "url" | "base64" | undefined;
};
export type Sam2SegmentRequest = Sam2ImageFields & Sam2PromptFields & Sam2CallExtras & Sam2Options;
export type Sam2ImageRequest = Sam2ImageFields & Sam2CallExtras & Sam2Options;
