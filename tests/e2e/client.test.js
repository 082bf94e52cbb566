/**
 * @file The client in Node against the daemon itself: what a working box answers. What a broken network does is in
 * clients/js/test.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { checkSam2Health, configure, sam2DicomSegmentation, sam2Embed, sam2Mask, sam2Preview, sam2Segment, Sam2HttpError } from '../../clients/js/client.js';
import { decodeGrey, encodeGrey } from '../../src/http/editor/png.js';
import { Daemon, hasBinary } from './daemon.js';
import { skipped } from './page.js';
import { goldenCt, goldenPng, LEFT_ELLIPSE, RIGHT_ELLIPSE } from './sample.js';

const skip = skipped(hasBinary ? '' : 'no daemon binary (SAM2D_BIN)');
const options = { skip, timeout: 60000 };

/** @type {Daemon} */
let daemon;
before(async () => {
  if (skip) return;
  daemon = await Daemon.start();
  configure({ baseUrl: daemon.url, backoffMs: 50 });
});
after(() => daemon?.stop());

const png = () => new Blob([goldenPng().buffer]);
const left = [{ ...LEFT_ELLIPSE, label: /** @type {const} */ (1) }];

/** @param {Blob} blob */
async function pixels(blob) {
  const picture = await decodeGrey(new Uint8Array(await blob.arrayBuffer()));
  assert.ok(picture);
  return picture;
}

test('health says that the box segments', options, async () => {
  const health = await checkSam2Health();
  assert.deepEqual([health.reachable, health.available, health.mode], [true, true, 'sam2']);
  assert.equal(health.model?.intended_use, 'demonstration');
});

test('a click gives a mask of the picture’s size, its box, and the second time from the cache', options, async () => {
  const image = png();
  const first = await sam2Segment({ image, imageType: 'L3', clickPoints: left, patientId: 'P1', sliceIndex: 12 });
  assert.deepEqual([first.patient_id, first.slice_index, first.image_type], ['P1', '12', 'L3']);
  assert.ok(first.confidence_score > 0 && first.confidence_score <= 1);
  const mask = await pixels(await sam2Mask(first));
  assert.deepEqual([mask.width, mask.height], [256, 256]);
  assert.equal(mask.data[LEFT_ELLIPSE.y * 256 + LEFT_ELLIPSE.x], 255);
  assert.deepEqual(first.annotation, { type: 'rectangle', ...first.bounding_box });
  const second = await sam2Segment({ image, imageType: 'L3', clickPoints: left });
  assert.deepEqual([first.cached, second.cached], [false, true]);
  assert.equal(second.mask_data, first.mask_data);
});

test('the mask comes by its path as well', options, async () => {
  const answer = await sam2Segment({ image: png(), clickPoints: left, maskFormat: 'url' });
  assert.match(answer.mask_data, /^\/.*\.png$/);
  const plain = await sam2Segment({ image: png(), clickPoints: left });
  assert.deepEqual((await pixels(await sam2Mask(answer))).data, (await pixels(await sam2Mask(plain))).data);
});

test('a prepared slice is quick: its embedding is there', options, async () => {
  const file = await goldenCt({ shift: 5 });
  const image = new Blob([file.buffer]);
  const prepared = await sam2Embed({ image, imageType: 'middle' });
  assert.deepEqual([prepared.embedding_cached, prepared.image.width], [false, 256]);
  const answer = await sam2Segment({ image, imageType: 'middle', target: 'psoas', clickPoints: left });
  assert.equal(answer.embedding_cached, true);
  assert.equal(answer.image.id, prepared.image.id);
  assert.deepEqual(answer.image.window, { center: 50, width: 300 });
});

test('the preview of the context’s window is the picture it was made from', options, async () => {
  const image = new Blob([(await goldenCt()).buffer]);
  const shown = await pixels(await sam2Preview({ image, imageType: 'middle' }));
  const golden = await pixels(png());
  const off = shown.data.filter((value, i) => Math.abs(value - golden.data[i]) > 1).length;
  assert.equal(off, 0);
  const darker = await pixels(await sam2Preview({ image, window: { center: 1000, width: 300 } }));
  assert.ok(darker.data.every((value, i) => value <= shown.data[i]));
});

test('an earlier mask refines and a neighbour’s mask seeds', options, async () => {
  const image = png();
  const first = await sam2Segment({ image, clickPoints: left });
  const refined = await sam2Segment({ image, clickPoints: [...left, { ...RIGHT_ELLIPSE, label: 0 }], maskInput: first });
  assert.notEqual(refined.mask_id, first.mask_id);
  const drawn = await encodeGrey(256, 256, Uint8Array.from({ length: 65536 }, (_, i) => (i % 256 > 60 && i % 256 < 110 && i > 22000 && i < 40000 ? 255 : 0)), {});
  const fromDrawing = await sam2Segment({ image, maskInput: drawn });
  assert.ok(fromDrawing.bounding_box);
  const neighbour = await sam2Segment({ image: new Blob([(await goldenCt({ shift: 2 })).buffer]), promptFrom: first });
  const mask = await pixels(await sam2Mask(neighbour));
  assert.equal(mask.data[LEFT_ELLIPSE.y * 256 + LEFT_ELLIPSE.x], 255);
});

test('the box’s refusals arrive as its own words', options, async () => {
  const { mask_id: known } = await sam2Segment({ image: png(), clickPoints: left });
  const unknown = [...known].map((digit) => (digit === 'a' ? 'b' : 'a')).join('');
  const cases = [
    { request: { image: png(), clickPoints: [{ x: 9999, y: 1 }] }, code: 'prompt_out_of_bounds' },
    { request: { image: new Blob(['no picture']) }, code: 'unsupported_format' },
    { request: { image: 'image:0123456789abcdef' }, code: 'unknown_image' },
    { request: { image: png(), clickPoints: left, maskInput: unknown }, code: 'unknown_mask' },
  ];
  for (const { request, code } of cases) {
    await assert.rejects(sam2Segment(request), (/** @type {any} */ error) => {
      assert.ok(error instanceof Sam2HttpError, String(error));
      assert.equal(error.code, code);
      assert.ok(error.detail.length > 5 && error.requestId.length > 3);
      return true;
    });
  }
});

test('a picture that the box forgot is sent once more', options, async () => {
  const image = png();
  await sam2Segment({ image, clickPoints: left });
  await daemon.stop();
  daemon = await Daemon.start({ port: daemon.port });
  /** @type {string[]} */
  const phases = [];
  const answer = await sam2Segment({ image, clickPoints: left, onProgress: ({ phase }) => phases.push(phase) });
  assert.ok(answer.bounding_box);
  assert.ok(phases.includes('resending'), phases.join());
});

test('a DICOM Segmentation comes for a DICOM, and for nothing else', options, async () => {
  const image = new Blob([(await goldenCt()).buffer]);
  // The box knows the picture by now; the object needs the file all the same.
  await sam2Embed({ image, imageType: 'middle' });
  const object = await sam2DicomSegmentation({ image, imageType: 'middle', clickPoints: left });
  const bytes = Buffer.from(await object.arrayBuffer());
  assert.equal(bytes.toString('latin1', 128, 132), 'DICM');
  assert.ok(bytes.includes('1.2.840.10008.5.1.4.1.1.66.4'), 'a Segmentation Storage object');
  await assert.rejects(sam2DicomSegmentation({ image: png(), clickPoints: left }), (/** @type {any} */ error) => error.status === 406);
});
