/**
 * @file The client against a server that fails on purpose: what a hospital network does to a request.
 *
 * The server is a real one on a loopback port, so that connections really break. What a working box answers
 * is tested against the daemon itself, in tests/e2e.
 */
import assert from 'node:assert/strict';
import { File } from 'node:buffer';
import { createServer } from 'node:http';
import { after, afterEach, before, test } from 'node:test';
import {
  checkSam2Health,
  configure,
  sam2DicomSegmentation,
  sam2Embed,
  sam2Mask,
  sam2Preview,
  sam2Segment,
  Sam2AbortError,
  Sam2Error,
  Sam2HttpError,
  Sam2NetworkError,
  Sam2ProtocolError,
  Sam2TimeoutError,
} from '../client.js';

const ANSWER = {
  mask_data: 'iVBORw0KGgo=',
  mask_id: 'm1',
  confidence_score: 0.93,
  processing_time_ms: 41.7,
  cached: false,
  annotation: null,
  image: { id: 'abc', width: 8, height: 8 },
  warnings: [],
};

/** @type {Array<{method: string, url: string, headers: import('node:http').IncomingHttpHeaders, body: string}>} */
let seen = [];
/** What the server does with the n-th request (the last entry repeats). @type {Function[]} */
let script = [];
const server = createServer((request, response) => {
  /** @type {Buffer[]} */
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    seen.push({ method: request.method ?? '', url: request.url ?? '', headers: request.headers, body: Buffer.concat(chunks).toString('latin1') });
    script[Math.min(seen.length, script.length) - 1](request, response);
  });
});

before(async () => {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  configure({ baseUrl: `http://127.0.0.1:${port}`, backoffMs: 20 });
});
after(() => {
  server.closeAllConnections();
  server.close();
});
afterEach(() => {
  seen = [];
});

const image = () => new Blob([new Uint8Array([0x89, 0x50])]);
const answers = (/** @type {object} */ body) => (/** @type {any} */ _request, /** @type {any} */ response) => {
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(body));
};
const refuses = (/** @type {number} */ status, /** @type {object} */ problem, headers = {}) => (/** @type {any} */ _request, /** @type {any} */ response) => {
  response.writeHead(status, { 'content-type': 'application/problem+json', ...headers });
  response.end(JSON.stringify(problem));
};
const breaks = (/** @type {any} */ request) => request.socket.destroy();
const hangs = () => {};

/** The value of a multipart field, or undefined. */
function field(/** @type {{body: string}} */ request, /** @type {string} */ name) {
  return request.body.match(new RegExp(`name="${name}"(?:; filename="[^"]*")?\\r\\n(?:Content-Type:[^\\r]*\\r\\n)?\\r\\n([\\s\\S]*?)\\r\\n--`))?.[1];
}

test('every field of the contract travels under its own name', async () => {
  script = [answers(ANSWER)];
  const answer = await sam2Segment({
    image: image(),
    imageType: 'middle',
    patientId: 'P 1',
    sliceIndex: 12,
    frame: 3,
    clickPoints: [{ x: 1, y: 2 }, { x: 3, y: 4, label: 0 }],
    box: { x: 1, y: 2, width: 3, height: 4 },
    window: { center: 50, width: 300 },
    target: 'psoas',
    maskInput: { mask_id: 'earlier' },
    promptFrom: 'neighbour',
    maskFormat: 'base64',
  });
  assert.equal(answer.mask_id, 'm1');
  const [request] = seen;
  assert.equal(request.url, '/api/segmentation/sam2');
  assert.match(request.body, /name="file"; filename="image"/);
  const expected = {
    image_type: 'middle',
    patient_id: 'P 1',
    slice_index: '12',
    frame: '3',
    click_points: '[{"x":1,"y":2,"label":1},{"x":3,"y":4,"label":0}]',
    box: '{"x":1,"y":2,"width":3,"height":4}',
    window: '{"center":50,"width":300}',
    target: 'psoas',
    mask_input: 'earlier',
    prompt_from: 'neighbour',
    mask_format: 'base64',
  };
  for (const [name, value] of Object.entries(expected)) assert.equal(field(request, name), value, name);
});

test('the name of the picked file stays on the workstation', async () => {
  script = [answers(ANSWER)];
  const file = /** @type {any} */ (new File([new Uint8Array([1])], 'DOE^JANE.dcm'));
  await sam2Segment({ image: file });
  assert.doesNotMatch(seen[0].body, /DOE/);
});

test('a mask to refine travels as base64', async () => {
  script = [answers(ANSWER)];
  await sam2Segment({ image: image(), maskInput: new Blob([new Uint8Array([0, 255, 7])]) });
  assert.equal(field(seen[0], 'mask_input'), 'AP8H');
});

test('a known picture travels as its id afterwards, and once more as bytes when the box forgot it', async () => {
  script = [answers(ANSWER), answers(ANSWER), refuses(404, { code: 'unknown_image', detail: 'gone' }), answers({ ...ANSWER, image: { ...ANSWER.image, id: 'def' } }), answers(ANSWER)];
  const picture = image();
  /** @type {string[]} */
  const phases = [];
  await sam2Embed({ image: picture });
  await sam2Segment({ image: picture });
  assert.equal(field(seen[1], 'image_data'), 'image:abc');
  assert.doesNotMatch(seen[1].body, /name="file"/);
  await sam2Segment({ image: picture, onProgress: (progress) => phases.push(progress.phase) });
  assert.equal(seen.length, 4);
  assert.equal(field(seen[2], 'image_data'), 'image:abc');
  assert.match(seen[3].body, /name="file"/);
  assert.ok(phases.includes('resending'));
  await sam2Segment({ image: picture });
  assert.equal(field(seen[4], 'image_data'), 'image:def');
});

test('an id stands for one frame, one window and one context only', async () => {
  script = [answers(ANSWER)];
  const picture = image();
  await sam2Segment({ image: picture });
  await sam2Segment({ image: picture, frame: 1 });
  await sam2Segment({ image: picture, window: { center: 1, width: 2 } });
  await sam2Segment({ image: picture, imageType: 'L3' });
  for (const request of seen.slice(1)) assert.match(request.body, /name="file"/);
});

test('an image unknown even as bytes is an error, not a loop', async () => {
  script = [answers(ANSWER), refuses(404, { code: 'unknown_image', detail: 'gone' })];
  const picture = image();
  await sam2Segment({ image: picture });
  await assert.rejects(sam2Segment({ image: picture }), (/** @type {any} */ error) => error instanceof Sam2HttpError && error.code === 'unknown_image');
  assert.equal(seen.length, 3);
});

test('503 with Retry-After is tried again after the time it names', async () => {
  script = [refuses(503, { code: 'overloaded', detail: 'busy' }, { 'retry-after': '0.3' }), answers(ANSWER)];
  const started = Date.now();
  /** @type {number[]} */
  const waits = [];
  const answer = await sam2Segment({ image: image(), onProgress: (progress) => progress.retryInMs !== undefined && waits.push(progress.retryInMs) });
  assert.equal(answer.mask_id, 'm1');
  assert.equal(seen.length, 2);
  assert.ok(Date.now() - started >= 290);
  assert.deepEqual(waits, [300]);
});

test('a Retry-After beyond the deadline is told at once', async () => {
  script = [refuses(503, { code: 'overloaded', detail: 'busy' }, { 'retry-after': '60' })];
  const started = Date.now();
  await assert.rejects(sam2Segment({ image: image() }), (/** @type {any} */ error) => error.code === 'overloaded' && error.retryAfterMs === 60000);
  assert.equal(seen.length, 1);
  assert.ok(Date.now() - started < 1000);
});

test('only 503 with Retry-After is tried again among refusals', async () => {
  const cases = [
    { status: 400, headers: {} },
    { status: 400, headers: { 'retry-after': '0' } },
    { status: 429, headers: { 'retry-after': '0' } },
    { status: 500, headers: {} },
    { status: 503, headers: {} },
    { status: 504, headers: { 'retry-after': '0' } },
  ];
  for (const { status, headers } of cases) {
    seen = [];
    script = [refuses(status, { code: 'c', detail: 'd' }, headers)];
    await assert.rejects(sam2Segment({ image: image() }), Sam2HttpError);
    assert.equal(seen.length, 1, `${status} ${JSON.stringify(headers)}`);
  }
});

test('retries end', async () => {
  script = [refuses(503, { code: 'overloaded', detail: 'busy' }, { 'retry-after': '0' })];
  await assert.rejects(sam2Segment({ image: image(), retries: 2 }), Sam2HttpError);
  assert.equal(seen.length, 3);
});

test('a broken connection is tried again', async () => {
  script = [breaks, breaks, answers(ANSWER)];
  assert.equal((await sam2Segment({ image: image() })).mask_id, 'm1');
  assert.equal(seen.length, 3);
});

test('a connection that breaks inside the answer is tried again', async () => {
  const half = (/** @type {any} */ _request, /** @type {any} */ response) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': 500 });
    response.write('{"mask_data": "iVB');
    setTimeout(() => response.destroy(), 20);
  };
  script = [half, answers(ANSWER)];
  assert.equal((await sam2Segment({ image: image() })).mask_id, 'm1');
  assert.equal(seen.length, 2);
});

test('a box that is gone is a network error with words fit to show', async () => {
  await assert.rejects(
    sam2Segment({ image: image(), baseUrl: 'http://127.0.0.1:1', retries: 1 }),
    (/** @type {any} */ error) => error instanceof Sam2NetworkError && error.retryable && /cannot be reached/.test(error.detail)
  );
});

test('no answer within the deadline is a timeout, and 35 s is the default', async () => {
  script = [hangs];
  const started = Date.now();
  await assert.rejects(sam2Segment({ image: image(), timeoutMs: 300 }), (/** @type {any} */ error) => error instanceof Sam2TimeoutError && /0\.3 s/.test(error.detail));
  assert.ok(Date.now() - started < 1500);
  /** @type {number[]} */
  const limits = [];
  const stop = new AbortController();
  await assert.rejects(sam2Segment({ image: image(), signal: stop.signal, onProgress: (progress) => (limits.push(progress.timeoutMs), stop.abort()) }));
  assert.equal(limits[0], 35000);
});

test('the deadline covers the waits between attempts', async () => {
  script = [breaks];
  const started = Date.now();
  await assert.rejects(sam2Segment({ image: image(), timeoutMs: 400, backoffMs: 150, retries: 50 }), Sam2Error);
  assert.ok(Date.now() - started < 900);
});

test('a token function that never ends does not outlive the deadline', async () => {
  await assert.rejects(sam2Segment({ image: image(), timeoutMs: 100, token: () => new Promise(() => {}) }), Sam2TimeoutError);
});

test('abort ends the call at once, while waiting for an answer and while waiting to retry', async () => {
  for (const behaviour of [hangs, refuses(503, { code: 'overloaded' }, { 'retry-after': '20' })]) {
    script = [behaviour];
    const stop = new AbortController();
    const started = Date.now();
    setTimeout(() => stop.abort(), 100);
    await assert.rejects(sam2Segment({ image: image(), signal: stop.signal }), (/** @type {any} */ error) => error instanceof Sam2AbortError && error.name === 'AbortError');
    assert.ok(Date.now() - started < 1000);
  }
  const before = new AbortController();
  before.abort();
  seen = [];
  await assert.rejects(sam2Segment({ image: image(), signal: before.signal }), Sam2AbortError);
  assert.equal(seen.length, 0);
});

test('the words of the box reach the caller', async () => {
  script = [refuses(400, { title: 'Bad Request', status: 400, detail: 'frame: the file has 12 frames', code: 'frame_required', request_id: 'r-1' })];
  await assert.rejects(
    sam2Segment({ image: image() }),
    (/** @type {any} */ error) => error.status === 400 && error.code === 'frame_required' && error.requestId === 'r-1' && error.detail === 'frame: the file has 12 frames' && error.message === error.detail
  );
});

test('an error page from a proxy becomes its status', async () => {
  script = [
    (/** @type {any} */ _request, /** @type {any} */ response) => {
      response.writeHead(502, 'Bad Gateway', { 'content-type': 'text/html' });
      response.end('<h1>Bad Gateway</h1>');
    },
  ];
  await assert.rejects(sam2Segment({ image: image() }), (/** @type {any} */ error) => error.code === 'http_502' && error.detail === 'HTTP 502 Bad Gateway');
});

test('a success without a mask is an error', async () => {
  for (const body of [{}, { ...ANSWER, mask_data: undefined }, { ...ANSWER, confidence_score: undefined }]) {
    script = [answers(body)];
    await assert.rejects(sam2Segment({ image: image() }), Sam2ProtocolError);
  }
  script = [(/** @type {any} */ _request, /** @type {any} */ response) => response.end('<html>login</html>')];
  await assert.rejects(sam2Segment({ image: image() }), Sam2ProtocolError);
  assert.equal(seen.length, 4);
});

test('the token travels as a bearer, also with the mask behind a path', async () => {
  const url = { ...ANSWER, mask_data: '/api/ctai/api/segmentation/masks/m1.png' };
  script = [answers(url), (/** @type {any} */ _request, /** @type {any} */ response) => response.end('PNG')];
  const answer = await sam2Segment({ image: image(), token: async () => 'secret', maskFormat: 'url' });
  const mask = await sam2Mask(answer, { token: 'secret' });
  assert.equal(await mask.text(), 'PNG');
  assert.equal(seen[1].url, '/api/ctai/api/segmentation/masks/m1.png');
  for (const request of seen) assert.equal(request.headers.authorization, 'Bearer secret');
});

test('a mask inside the answer needs no second request', async () => {
  const mask = await sam2Mask(/** @type {any} */ (ANSWER));
  assert.deepEqual([...new Uint8Array(await mask.arrayBuffer())], [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  assert.equal(seen.length, 0);
});

test('preview sends the bytes each time and gives a picture', async () => {
  script = [(/** @type {any} */ _request, /** @type {any} */ response) => response.writeHead(200, { 'content-type': 'image/png' }).end('PNG')];
  const picture = image();
  for (const center of [40, 50]) {
    const preview = await sam2Preview({ image: picture, window: { center, width: 400 } });
    assert.equal(preview.type, 'image/png');
  }
  assert.equal(seen[0].url, '/api/segmentation/preview');
  for (const request of seen) assert.match(request.body, /name="file"/);
  assert.equal(field(seen[1], 'window'), '{"center":50,"width":400}');
});

test('a DICOM Segmentation is asked for by type and not taken for anything else', async () => {
  script = [(/** @type {any} */ _request, /** @type {any} */ response) => response.writeHead(200, { 'content-type': 'application/dicom' }).end('DICM')];
  assert.equal(await (await sam2DicomSegmentation({ image: image() })).text(), 'DICM');
  assert.match(String(seen[0].headers.accept), /^application\/dicom/);
  script = [answers(ANSWER)];
  await assert.rejects(sam2DicomSegmentation({ image: image() }), Sam2ProtocolError);
  script = [refuses(406, { code: 'not_acceptable', detail: 'not a DICOM' })];
  await assert.rejects(sam2DicomSegmentation({ image: image() }), (/** @type {any} */ error) => error.status === 406);
});

test('pictures come as bytes, views, data URLs, base64 and references', async () => {
  script = [answers(ANSWER)];
  const bytes = new TextEncoder().encode('PNGBYTES');
  for (const picture of [bytes, bytes.buffer, `data:image/png;base64,${btoa('PNGBYTES')}`, btoa('PNGBYTES')]) {
    seen = [];
    await sam2Segment({ image: picture });
    assert.match(seen[0].body, /name="file"; filename="image"[\s\S]*PNGBYTES/);
  }
  for (const reference of ['image:abc', 'file:one.dcm']) {
    seen = [];
    await sam2Segment({ image: reference });
    assert.equal(field(seen[0], 'image_data'), reference);
  }
  await assert.rejects(sam2Segment({ image: 'http://elsewhere/one.png' }), TypeError);
  await assert.rejects(sam2Segment(/** @type {any} */ ({ image: 7 })), TypeError);
});

test('health is a state, also when nothing answers', async () => {
  script = [answers({ enabled: true, available: false, mode: 'manual-only', reason: 'no engine' })];
  assert.deepEqual(await checkSam2Health(), { enabled: true, available: false, mode: 'manual-only', reason: 'no engine', reachable: true });
  assert.equal(seen[0].url, '/api/segmentation/sam2/health');
  const gone = await checkSam2Health({ baseUrl: 'http://127.0.0.1:1' });
  assert.equal(gone.reachable, false);
  assert.equal(gone.available, false);
  assert.equal(gone.mode, 'manual-only');
});
