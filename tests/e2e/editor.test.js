/**
 * @file The editor against the real daemon, in a real browser: what a radiographer does, and what goes wrong.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { decodeGrey } from '../../src/http/editor/png.js';
import { Daemon, hasBinary } from './daemon.js';
import { EditorPage, hasChromium, launch, skipped } from './page.js';
import { goldenCt, goldenPng, LEFT_ELLIPSE, RIGHT_ELLIPSE } from './sample.js';

const skip = skipped(!hasBinary ? 'no daemon binary (SAM2D_BIN)' : !hasChromium ? 'no Chromium (SAM2D_CHROMIUM)' : '');
/** Between the parts of the golden picture: nothing is there. */
const NOWHERE = { x: 20, y: 20 };

/** @type {import('playwright-core').Browser} */
let browser;
/** @type {Daemon} */
let daemon;

before(async () => {
  if (skip) return;
  daemon = await Daemon.start();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await daemon?.stop();
});

/**
 * A test with a page of its own, which must not have complained.
 * @param {string} name
 * @param {(editor: EditorPage) => Promise<void>} body
 * @param {import('playwright-core').BrowserContextOptions} [options]
 */
function person(name, body, options) {
  test(name, { skip, timeout: 120000 }, async () => {
    const editor = await EditorPage.open(browser, daemon.url, options);
    try {
      await editor.ready();
      await body(editor);
      assert.deepEqual(editor.complaints, []);
    } catch (error) {
      await editor.shot(`failed ${name.replace(/\W+/g, '-').slice(0, 60)}`);
      throw error;
    } finally {
      await editor.close();
    }
  });
}

person('a DICOM slice: one click, corrected by brush, exported: the PNG holds what the canvas holds', async (editor) => {
  const { page } = editor;
  await editor.context('middle');
  await editor.openFiles(await goldenCt());
  await page.click('#one-click');
  const words = await editor.answered();
  assert.match(words, /Confidence \d+ %/);
  assert.match(words, /\d+ ms/);
  assert.match(words, /Demonstration model/);
  // Whatever the model found, a person can add to it and take from it.
  const before = await editor.area();
  await editor.tool('brush');
  await editor.drag([NOWHERE, { x: 60, y: 30 }]);
  assert.ok((await editor.area()) > before + 100);
  await editor.tool('eraser');
  await editor.drag([{ x: 40, y: 10 }, { x: 40, y: 40 }]);
  assert.equal(await editor.isMasked({ x: 40, y: 25 }), false);
  await editor.shot('middle corrected');

  const held = await editor.mask();
  const { name, bytes } = await editor.download('#export-mask');
  assert.equal(name, 'sam2d-middle-slice-001-mask.png');
  const png = await decodeGrey(bytes);
  assert.ok(png && png.depth === 8, 'an 8-bit grey PNG');
  assert.deepEqual([png.width, png.height], [held.width, held.height]);
  const different = held.data.filter((pixel, i) => png.data[i] !== pixel * 255).length;
  assert.equal(different, 0);
  assert.match(bytes.toString('latin1'), /tEXtComment\0Not for diagnostic use\./);
});

person('the first minute: at every step the page says what comes next', async (editor) => {
  const { page } = editor;
  const text = async (/** @type {string} */ selector) => String(await page.textContent(selector));
  assert.match(await text('#drop'), /Drop a slice or a series here/);
  assert.equal(await text('#one-click-why'), 'Open a picture first.');
  assert.equal(await text('#result-empty'), 'No picture is open.');
  assert.match(await text('#tool-hint'), /click on the object/);
  for (const kind of ['mask', 'overlay', 'json', 'seg']) assert.ok(await page.isDisabled(`#export-${kind}`), kind);
  await editor.openFiles(await goldenCt());
  assert.match(await text('#result-empty'), /Click on the object in the picture, or press One-Click/);
  assert.equal(await text('#one-click-why'), '');
  // The file says how it lies; the context is a person's to choose, so it is said and not changed.
  assert.match(await text('#other-context'), /axial.*choose Middle/);
  await editor.shot('axial in L3');
  await editor.context('middle');
  assert.equal(await text('#other-context'), '');
  assert.ok(await page.isDisabled('#export-mask'), 'nothing to take away yet');
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  assert.equal(await text('#result-warnings'), '', 'that it is a demonstration is said once, under the button');
  assert.match(await text('#demonstration'), /Demonstration model/);
  for (const kind of ['mask', 'overlay', 'json', 'seg']) assert.ok(await page.isEnabled(`#export-${kind}`), kind);
  await editor.tool('polygon');
  assert.match(await text('#tool-hint'), /^Polygon: .*Enter closes/);
  // A hand on the mouse sees no frame round the picture; one on the keyboard does.
  const frame = () => page.evaluate(() => getComputedStyle(/** @type {HTMLElement} */ (document.getElementById('view'))).outlineStyle);
  await editor.click(NOWHERE);
  await page.keyboard.press('Escape');
  assert.equal(await frame(), 'none');
  await page.keyboard.press('ArrowLeft');
  assert.equal(await frame(), 'solid');
});

person('L3: clicks make a mask, its mark is a rectangle, and drawing one makes it anew', async (editor) => {
  const { page } = editor;
  await editor.openFiles(goldenPng());
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  assert.ok(await editor.isMasked(LEFT_ELLIPSE));
  await editor.shot('L3 mark');
  const first = JSON.parse(String((await editor.download('#export-json')).bytes));
  const { annotation, bounding_box: box } = first.slices[0];
  assert.deepEqual(annotation, { type: 'rectangle', ...box });
  assert.equal(first.image_type, 'L3');

  await editor.tool('rectangle');
  await editor.drag([{ x: 150, y: 100 }, { x: 199, y: 169 }]);
  const { data, width } = await editor.mask();
  const rows = new Set();
  data.forEach((pixel, i) => pixel && rows.add(Math.floor(i / width)));
  const again = JSON.parse(String((await editor.download('#export-json')).bytes)).slices[0];
  assert.deepEqual(again.annotation, { type: 'rectangle', ...again.bounding_box });
  assert.equal(data.reduce((sum, pixel) => sum + pixel, 0), again.bounding_box.width * again.bounding_box.height);
  assert.equal(await editor.isMasked(LEFT_ELLIPSE), false);
  assert.equal(again.origin, 'corrected');
  assert.match(String(await page.textContent('#result')), /corrected by hand/);
});

person('clicks, excluding clicks and a box refine at once; undo and redo go over all of it', async (editor) => {
  const { page } = editor;
  await editor.context('auto');
  await editor.openFiles(goldenPng());
  /** @type {number[]} */
  const areas = [0];
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  areas.push(await editor.area());
  assert.ok(areas[1] > 1000, `area ${areas[1]}`);
  await editor.click(RIGHT_ELLIPSE, { alt: true });
  await editor.answered();
  areas.push(await editor.area());
  await editor.drag([{ x: 150, y: 105 }, { x: 203, y: 167 }]);
  await editor.answered();
  areas.push(await editor.area());
  assert.match(String(await page.textContent('#result-facts')), /1 in, 1 out and a box/);
  await editor.shot('free prompts');
  await editor.tool('brush');
  await editor.drag([NOWHERE, { x: 50, y: 20 }]);
  areas.push(await editor.area());
  await page.click('#clear');
  areas.push(0);
  assert.equal(await editor.area(), 0);

  for (let i = areas.length - 2; i >= 0; i--) {
    await page.keyboard.press('Control+z');
    assert.equal(await editor.area(), areas[i], `undo to step ${i}`);
  }
  assert.equal(await page.isDisabled('#undo'), true);
  assert.equal(await page.isVisible('#result'), false, 'no click and no mask is left');
  for (let i = 1; i < areas.length; i++) {
    await page.keyboard.press(i % 2 ? 'Control+y' : 'Control+Shift+z');
    assert.equal(await editor.area(), areas[i], `redo to step ${i}`);
  }
  assert.equal(await page.isDisabled('#redo'), true);
});

person('what is asked is what was clicked: points, labels, box, the last mask', async (editor) => {
  await editor.context('auto');
  await editor.openFiles(goldenPng());
  await editor.prepared();
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  await editor.click(RIGHT_ELLIPSE, { alt: true });
  await editor.answered();
  await editor.drag([{ x: 150, y: 105 }, { x: 203, y: 167 }]);
  await editor.answered();
  const [first, second, third] = await editor.asked('/sam2');
  assert.equal(first.click_points, '[{"x":84,"y":120,"label":1}]');
  assert.equal(first.mask_input, undefined);
  assert.equal(second.click_points, '[{"x":84,"y":120,"label":1},{"x":176,"y":136,"label":0}]');
  assert.match(second.mask_input, /^\S+$/);
  const box = JSON.parse(third.box);
  for (const [key, value] of Object.entries({ x: 150, y: 105, width: 53, height: 62 })) assert.ok(Math.abs(box[key] - value) <= 1, `${key} ${box[key]}`);
  // The picture's bytes went once, with the embedding; its id stands for them since.
  assert.deepEqual((await editor.asked('/embed')).map(({ file }) => file), ['bytes called image']);
  for (const fields of [first, second, third]) assert.match(fields.image_data, /^image:/);
});

person('manual, AI, manual: replacing asks, keeping keeps, cancelling changes nothing', async (editor) => {
  const { page } = editor;
  await editor.context('auto');
  await editor.openFiles(goldenPng());
  await editor.tool('brush');
  await editor.drag([NOWHERE, { x: 60, y: 20 }]);
  const manual = await editor.area();

  await editor.tool('prompt');
  await editor.click(LEFT_ELLIPSE);
  await page.locator('#ask').getByRole('button', { name: 'Cancel' }).click();
  assert.equal(await editor.area(), manual);
  assert.deepEqual(await editor.asked('/sam2'), []);

  await editor.click(LEFT_ELLIPSE);
  await editor.shot('replace question');
  await page.click('[data-answer="keep"]');
  await editor.answered();
  assert.ok(await editor.isMasked(NOWHERE), 'the stroke is still there');
  assert.ok(await editor.isMasked(LEFT_ELLIPSE), 'and so is the ellipse');
  const merged = await editor.area();

  // What was erased stays erased when the model speaks again, and it does not ask again.
  await editor.tool('eraser');
  await editor.drag([LEFT_ELLIPSE, { x: 90, y: 120 }]);
  await editor.tool('prompt');
  await editor.click({ x: 70, y: 110 });
  await editor.answered();
  assert.equal(await editor.isMasked(LEFT_ELLIPSE), false);
  assert.ok(await editor.isMasked(NOWHERE));

  await page.keyboard.press('Control+z');
  await page.keyboard.press('Control+z');
  assert.equal(await editor.area(), merged);
  await page.keyboard.press('Control+z');
  assert.equal(await editor.area(), manual);

  await page.click('#one-click');
  await page.click('[data-answer="replace"]');
  await editor.answered();
  assert.equal(await editor.isMasked(NOWHERE), false, 'replaced');
  await page.keyboard.press('Control+z');
  assert.equal(await editor.area(), manual);
});

person('every manual tool works on an AI mask as on an empty one', async (editor) => {
  const { page } = editor;
  await editor.context('auto');
  await editor.openFiles(goldenPng());
  const work = async () => {
    // A square frame by rectangle and subtraction, a dot beside it, a triangle.
    await editor.tool('rectangle');
    await editor.drag([{ x: 10, y: 200 }, { x: 50, y: 240 }]);
    await page.keyboard.down('Alt');
    await editor.drag([{ x: 20, y: 210 }, { x: 40, y: 230 }]);
    await page.keyboard.up('Alt');
    assert.deepEqual([await editor.isMasked({ x: 15, y: 205 }), await editor.isMasked({ x: 30, y: 220 })], [true, false]);
    const framed = await editor.area();
    await page.click('#fill-holes');
    assert.ok(await editor.isMasked({ x: 30, y: 220 }));
    assert.ok((await editor.area()) > framed);
    await editor.tool('polygon');
    for (const corner of [{ x: 200, y: 200 }, { x: 240, y: 200 }, { x: 220, y: 240 }]) await editor.click(corner);
    await page.keyboard.press('Enter');
    assert.ok(await editor.isMasked({ x: 220, y: 210 }));
    await editor.tool('brush');
    await editor.click({ x: 230, y: 20 });
    assert.ok(await editor.isMasked({ x: 230, y: 20 }));
    await editor.tool('eraser');
    await editor.click({ x: 15, y: 205 });
    assert.equal(await editor.isMasked({ x: 15, y: 205 }), false);
    await page.click('#largest');
    assert.equal(await editor.isMasked({ x: 230, y: 20 }), false);
    await page.click('#clear');
    assert.equal(await editor.area(), 0);
  };
  await work();
  await editor.tool('prompt');
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  assert.ok((await editor.area()) > 1000);
  await work();
});

person('a double click closes a polygon, Backspace takes a corner back, Escape the whole', async (editor) => {
  const { page } = editor;
  await editor.openFiles(goldenPng());
  await editor.tool('polygon');
  await editor.click({ x: 100, y: 20 });
  await editor.click({ x: 140, y: 20 });
  await page.keyboard.press('Escape');
  for (const corner of [{ x: 20, y: 20 }, { x: 60, y: 20 }, { x: 200, y: 250 }]) await editor.click(corner);
  await page.keyboard.press('Backspace');
  await editor.click({ x: 60, y: 60 });
  const last = await editor.at({ x: 20, y: 60 });
  await page.mouse.dblclick(last.x, last.y);
  assert.ok(await editor.isMasked({ x: 40, y: 40 }));
  assert.equal(await editor.isMasked({ x: 120, y: 25 }), false);
  const area = await editor.area();
  assert.ok(Math.abs(area - 1600) < 60, `area ${area}`);
});

person('the second run of the same slice comes from the cache and says so', async (editor) => {
  const { page } = editor;
  await editor.openFiles(goldenPng());
  await editor.click({ x: 86, y: 121 });
  const first = await editor.answered();
  const area = await editor.area();
  await page.reload();
  await editor.ready();
  await editor.openFiles(goldenPng());
  await editor.click({ x: 86, y: 121 });
  const second = await editor.answered();
  assert.doesNotMatch(first, /cached/);
  assert.match(second, /cached/);
  assert.match(String(await page.textContent('#result-badges')), /cached/);
  assert.equal(await editor.area(), area);
});

person('two windows work at once and know nothing of each other', async (editor) => {
  const other = await EditorPage.open(browser, daemon.url);
  try {
    await Promise.all([editor.openFiles(goldenPng()), other.openFiles(await goldenCt())]);
    await other.context('middle');
    await Promise.all([editor.click(LEFT_ELLIPSE), other.click(RIGHT_ELLIPSE)]);
    await Promise.all([editor.answered(), other.answered()]);
    assert.deepEqual([await editor.isMasked(LEFT_ELLIPSE), await editor.isMasked(RIGHT_ELLIPSE)], [true, false]);
    assert.deepEqual([await other.isMasked(LEFT_ELLIPSE), await other.isMasked(RIGHT_ELLIPSE)], [false, true]);
    await editor.page.click('#clear');
    assert.ok(await other.isMasked(RIGHT_ELLIPSE));
    assert.deepEqual(other.complaints, []);
  } finally {
    await other.close();
  }
});

person('a series: leafing, its slider, and the next slice from this one', async (editor) => {
  const { page } = editor;
  await editor.context('middle');
  // Given out of order; space puts them right: the picture moves by two pixels a slice.
  const series = [];
  for (const instance of [3, 1, 2]) series.push(await goldenCt({ instance, shift: 2 * (3 - instance), name: `${instance}.dcm` }));
  await editor.openFiles(...series);
  assert.equal(await page.textContent('#slice-of'), 'Slice 1 of 3');
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  const first = await editor.mask();
  await page.click('#next-from');
  await editor.answered();
  assert.equal(await page.textContent('#slice-of'), 'Slice 2 of 3');
  const second = await editor.mask();
  const common = first.data.reduce((sum, pixel, i) => sum + (pixel & second.data[i]), 0);
  // Space, not the order of picking, says which is the next: there the picture has moved to the right.
  const middle = (/** @type {{data: Uint8Array}} */ { data }) => data.reduce((sum, pixel, i) => sum + pixel * (i % 256), 0) / data.reduce((sum, pixel) => sum + pixel, 0);
  assert.ok(middle(second) > middle(first) + 0.5, `${middle(first)} to ${middle(second)}`);
  assert.ok(common > 0.7 * first.data.reduce((sum, pixel) => sum + pixel, 0), 'the same ellipse');
  const from = (await editor.asked('/sam2')).at(-1);
  assert.match(String(from?.prompt_from), /^\S+$/);
  assert.equal(from?.click_points, undefined);
  await editor.shot('series');

  // A mask that was corrected by hand tells its place by a box and a click.
  await editor.tool('eraser');
  await editor.click({ x: 70, y: 100 });
  await page.keyboard.press('n');
  await editor.answered();
  const placed = (await editor.asked('/sam2')).at(-1);
  assert.ok(placed?.box && placed.click_points && !placed.prompt_from, JSON.stringify(placed));
  assert.equal(await page.isDisabled('#next-from'), true, 'the last slice has no next');

  await page.keyboard.press('PageUp');
  await page.keyboard.press('PageUp');
  await editor.shown();
  assert.deepEqual((await editor.mask()).data, first.data);
  // The wheel leafs by the way it is turned: a notch, and a touchpad's many small steps, are one slice.
  await page.hover('#view');
  for (const slice of [2, 3]) {
    await page.mouse.wheel(0, 100);
    await page.locator('#slice-of').filter({ hasText: `Slice ${slice} of 3` }).waitFor();
  }
  for (let i = 0; i < 4; i++) await page.mouse.wheel(0, -10);
  await page.locator('#slice-of').filter({ hasText: 'Slice 2 of 3' }).waitFor();
  await page.waitForTimeout(300);
  assert.equal(await page.textContent('#slice-of'), 'Slice 2 of 3', 'four small steps are one slice');
  await page.locator('#slice').fill('3');
  assert.equal(await page.textContent('#slice-of'), 'Slice 3 of 3');
});

person('a file of many frames is a series too', async (editor) => {
  const { page } = editor;
  const one = await goldenCt();
  // Two frames: the pixel element doubled, NumberOfFrames put before Rows.
  const { dicomElement } = await import('./sample.js');
  const rows = one.buffer.indexOf(dicomElement([0x00280010, 'US', 256]));
  const pixels = one.buffer.indexOf(Buffer.from([0xe0, 0x7f, 0x10, 0x00]));
  const values = one.buffer.subarray(pixels + 12);
  const buffer = Buffer.concat([one.buffer.subarray(0, rows), dicomElement([0x00280008, 'IS', '2']), one.buffer.subarray(rows, pixels), dicomElement([0x7fe00010, 'OW', Buffer.concat([values, values])])]);
  await editor.context('auto');
  await editor.openFiles({ ...one, buffer });
  assert.equal(await page.textContent('#slice-of'), 'Slice 1 of 2');
  await page.keyboard.press('PageDown');
  await editor.shown();
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  assert.ok(await editor.isMasked(LEFT_ELLIPSE));
});

person('the window is dragged, preset and typed; segmentation uses the context’s unless told', async (editor) => {
  const { page } = editor;
  await editor.context('middle');
  await editor.openFiles(await goldenCt());
  const corner = page.locator('#corner-window');
  await corner.filter({ hasText: 'Width 300 Level 50' }).waitFor();
  const grey = async () => page.evaluate(() => /** @type {HTMLCanvasElement} */ (document.getElementById('picture')).getContext('2d')?.getImageData(84, 120, 1, 1).data[0]);
  const before = await grey();
  await page.selectOption('#window-preset', '-600,1500');
  await corner.filter({ hasText: 'Width 1,500 Level -600' }).waitFor();
  await editor.shown();
  const lung = await grey();
  assert.notEqual(lung, before);
  await editor.drag([{ x: 128, y: 128 }, { x: 148, y: 108 }], { button: 'right' });
  await editor.shown();
  const [center, width] = [Number(await page.inputValue('#window-center')), Number(await page.inputValue('#window-width'))];
  assert.ok(width > 1500 && center < -600, `${center}, ${width}`);
  await page.fill('#window-center', '50');
  await page.fill('#window-width', '300');
  await page.keyboard.press('Tab');
  await editor.shown();
  assert.equal(await grey(), before);

  await page.fill('#window-center', '80');
  await page.keyboard.press('Tab');
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  await page.check('#use-window');
  await editor.click(RIGHT_ELLIPSE, { alt: true });
  await editor.answered();
  const [without] = await editor.asked('/sam2');
  assert.equal(without.window, undefined);
  // The window may have gone with the bytes that prepared the slice; then its id stands for both.
  const windows = [...(await editor.asked('/embed')), ...(await editor.asked('/sam2'))].map(({ window }) => window);
  assert.deepEqual([...new Set(windows.filter(Boolean))], ['{"center":80,"width":300}']);
});

person('the read-out gives HU where they are known and the area mm²', async (editor) => {
  const { page } = editor;
  await editor.context('middle');
  await editor.openFiles(await goldenCt());
  const golden = await decodeGrey(new Uint8Array(goldenPng().buffer));
  const grey = golden?.data[120 * 256 + 84] ?? 0;
  const at = await editor.at(LEFT_ELLIPSE);
  await page.mouse.move(at.x, at.y);
  await page.locator('#corner-value').filter({ hasText: `84, 120 ${Math.round((grey / 255) * 299 - 100)} HU` }).waitFor();
  await editor.tool('rectangle');
  await editor.drag([{ x: 10, y: 10 }, { x: 60, y: 60 }]);
  const area = await editor.area();
  const mm2 = Math.round(area * 0.8 * 0.8).toLocaleString('en');
  assert.match(String(await page.textContent('#result-facts')), new RegExp(`${mm2} mm²`));
  await editor.openFilesAnyway(goldenPng());
  await page.mouse.move(at.x, at.y);
  await page.locator('#corner-value').filter({ hasText: new RegExp(`84, 120 +${grey}$`) }).waitFor();
});

person('the read-out follows the picture under a resting pointer: another slice, zoom, another series', async (editor) => {
  const { page } = editor;
  const golden = await decodeGrey(new Uint8Array(goldenPng().buffer));
  const grey = (/** @type {number} */ x, /** @type {number} */ y) => golden?.data[y * 256 + x] ?? 0;
  const says = (/** @type {string} */ text) => page.locator('#corner-value').filter({ hasText: new RegExp(`^${text}$`) }).waitFor({ timeout: 10000 });
  await editor.context('middle');
  const series = [await goldenCt({ instance: 1, shift: 60 }), await goldenCt({ instance: 2 })];
  await editor.openFiles(...series);
  const at = await editor.place(LEFT_ELLIPSE);
  await page.mouse.move(at.x, at.y);
  const hu = (/** @type {number} */ x, /** @type {number} */ y) => Math.round((grey(x, y) / 255) * 299 - 100);
  await says(`84, 120 +${hu(84, 120)} HU`);
  await page.keyboard.press('PageDown');
  await says(`84, 120 +${hu(24, 120)} HU`);
  assert.notEqual(hu(24, 120), hu(84, 120));

  await page.keyboard.press('+');
  const under = await editor.under(at);
  assert.notDeepEqual(under, LEFT_ELLIPSE);
  await says(`${under.x}, ${under.y} +${hu(under.x - 60, under.y)} HU`);
  await page.keyboard.press('f');
  await says(`84, 120 +${hu(24, 120)} HU`);

  // A single picture needs no slider and so has more room: another pixel comes to lie there.
  await editor.openFiles(goldenPng());
  const now = await editor.under(at);
  await says(`${now.x}, ${now.y} +${grey(now.x, now.y)}`);
});

person('values that come late do not stand where they no longer belong', async (editor) => {
  const { page } = editor;
  await editor.context('middle');
  await editor.openFiles(await goldenCt());
  await page.evaluate(() => {
    const read = Blob.prototype.arrayBuffer;
    const held = new Promise((resolve) => Object.assign(window, { letThrough: resolve }));
    Blob.prototype.arrayBuffer = async function () {
      await held;
      return read.call(this);
    };
  });
  const value = page.locator('#corner-value');
  const at = await editor.at(LEFT_ELLIPSE);
  await page.mouse.move(at.x, at.y);
  await value.filter({ hasText: /^84, 120$/ }).waitFor();
  await page.mouse.move(5, 5);
  assert.equal(await value.textContent(), '');
  await page.evaluate('letThrough()');
  await page.waitForTimeout(300);
  assert.equal(await value.textContent(), '', 'the pointer is not there any more');
  await page.mouse.move(at.x, at.y);
  await value.filter({ hasText: / HU$/ }).waitFor();
});

person('while the next slice, or another series, is on its way, the page says so and gives no value of the old one', async (editor) => {
  const { page } = editor;
  await editor.context('middle');
  await editor.openFiles(await goldenCt({ instance: 1, shift: 60 }), await goldenCt({ instance: 2 }));
  const value = page.locator('#corner-value');
  const at = await editor.place(LEFT_ELLIPSE);
  await page.mouse.move(at.x, at.y);
  await value.filter({ hasText: / HU$/ }).waitFor();
  const old = await value.textContent();
  await page.evaluate(() => {
    const [make, read] = [window.createImageBitmap, Blob.prototype.arrayBuffer];
    const held = () => new Promise((resolve) => Object.assign(window, { letThrough: resolve }));
    let gate = held();
    Object.assign(window, { holdAgain: () => void (gate = held()) });
    window.createImageBitmap = /** @type {any} */ (async (/** @type {ImageBitmapSource} */ source) => (await gate, /** @type {any} */ (make).call(window, source)));
    Blob.prototype.arrayBuffer = async function () {
      await gate;
      return read.call(this);
    };
  });
  await page.keyboard.press('PageDown');
  await page.mouse.move(at.x + 1, at.y);
  await page.locator('#small-busy').filter({ hasText: 'Loading' }).waitFor();
  assert.equal(await value.textContent(), '');
  await page.evaluate('letThrough()');
  await value.filter({ hasText: / HU$/ }).waitFor();
  assert.notEqual(await value.textContent(), old);
  assert.equal(await page.getAttribute('#stage', 'aria-busy'), 'false');

  await page.evaluate('holdAgain()');
  await page.setInputFiles('#files', [goldenPng()]);
  assert.equal(await page.getAttribute('#stage', 'aria-busy'), 'true');
  await page.locator('#small-busy').filter({ hasText: 'Loading' }).waitFor();
  await page.evaluate('letThrough()');
  await editor.shown();
  assert.equal(await page.isVisible('#small-busy'), false);
});

person('zoom and pan keep the pixel under the pointer', async (editor) => {
  const { page } = editor;
  await editor.openFiles(goldenPng());
  const percent = async () => parseInt(String(await page.textContent('#corner-zoom')).replace(',', ''), 10);
  const [before, fit] = [await editor.at({ x: 100, y: 90 }), await percent()];
  const place = await editor.place({ x: 100, y: 90 });
  const zoomed = async (/** @type {number} */ notches) => {
    await page.mouse.move(place.x, place.y);
    // A busy browser handles a turn when it finds the time, and may tell two as one: they count as two.
    const wanted = Math.floor((await percent()) * Math.exp(0.18 * notches) * 0.99);
    for (let i = 0; i < notches; i++) await page.mouse.wheel(0, -100);
    await page.waitForFunction((least) => parseInt(String(document.getElementById('corner-zoom')?.textContent).replace(',', ''), 10) >= least, wanted);
  };
  await zoomed(5);
  assert.deepEqual(await editor.under(place), { x: 100, y: 90 });
  const after = await editor.at({ x: 100, y: 90 });
  await editor.drag([{ x: 100, y: 90 }, { x: 120, y: 100 }], { button: 'middle' });
  const moved = await editor.at({ x: 100, y: 90 });
  assert.ok(moved.x > after.x + 20);
  await page.keyboard.press('f');
  assert.deepEqual([await editor.at({ x: 100, y: 90 }), await percent()], [before, fit]);
  // A stroke lands on the pixels it is drawn over, whatever the zoom.
  await zoomed(8);
  await page.fill('#brush-size', '1');
  await editor.tool('brush');
  await editor.click({ x: 101, y: 91 });
  assert.equal(await editor.area(), 1);
  assert.ok(await editor.isMasked({ x: 101, y: 91 }));
});

person('the keyboard alone opens no door to the mouse: crosshair, click, stroke, polygon, export', async (editor) => {
  const { page } = editor;
  await editor.context('auto');
  await editor.openFiles(goldenPng());
  await page.focus('#view');
  await page.keyboard.press('ArrowRight');
  // From the middle (128, 128) to the left ellipse.
  for (let i = 0; i < 4; i++) await page.keyboard.press('Shift+ArrowLeft');
  for (let i = 0; i < 4; i++) await page.keyboard.press('ArrowLeft');
  for (let i = 0; i < 8; i++) await page.keyboard.press('ArrowUp');
  assert.equal(await page.textContent('#announce'), 'Crosshair at 84, 120');
  await page.keyboard.press('Enter');
  await editor.answered();
  assert.ok(await editor.isMasked(LEFT_ELLIPSE));
  await page.keyboard.press('Delete');
  await page.focus('#view');
  await page.keyboard.press('b');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('Enter');
  assert.ok(await editor.isMasked({ x: 128, y: 128 }));
  await page.keyboard.press('p');
  for (const [keys, times] of /** @type {const} */ ([['Enter', 1], ['Shift+ArrowRight', 3], ['Enter', 1], ['Shift+ArrowDown', 3], ['Enter', 2]])) {
    for (let i = 0; i < times; i++) await page.keyboard.press(keys);
  }
  assert.ok(await editor.isMasked({ x: 150, y: 135 }), 'the polygon is closed by Enter on its last corner');
  const [download] = await Promise.all([page.waitForEvent('download'), page.keyboard.press('Control+s')]);
  assert.equal(download.suggestedFilename(), 'sam2d-free-slice-001-mask.png');
});

person('the overlay and the annotation say what they are, and name nobody', async (editor) => {
  const { page } = editor;
  await editor.context('middle');
  await editor.openFiles(await goldenCt({ name: 'DOE^JANE.dcm' }));
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  const overlay = await editor.download('#export-overlay');
  assert.equal(overlay.name, 'sam2d-middle-slice-001-overlay.png');
  assert.match(overlay.bytes.toString('latin1'), /tEXtComment\0Not for diagnostic use\./);
  const json = await editor.download('#export-json');
  const said = JSON.parse(String(json.bytes));
  assert.equal(said.notice, 'Not for diagnostic use.');
  assert.equal(said.target, 'muscle');
  assert.equal(said.slices[0].annotation.type, 'polygon');
  assert.equal(said.slices[0].model.intended_use, 'demonstration');
  const { data } = await editor.mask();
  const runs = said.slices[0].mask_runs.lengths;
  assert.deepEqual(runs.flatMap((/** @type {number} */ length, /** @type {number} */ i) => Array(length).fill(i % 2)), [...data]);
  assert.doesNotMatch(String(json.bytes), /DOE|1\.2\.826/);
  await page.check('#export-source');
  assert.match(String((await editor.download('#export-json')).bytes), /DOE\^JANE\.dcm/);
  for (const request of editor.requests) assert.doesNotMatch(request.url() + JSON.stringify(request.headers()), /DOE/);
  for (const path of ['/sam2', '/embed', '/preview']) assert.doesNotMatch(JSON.stringify(await editor.asked(path)), /DOE/);
});

person('a DICOM Segmentation comes of the box, and holds what the canvas holds', async (editor) => {
  const { page } = editor;
  await editor.context('middle');
  await editor.openFiles(await goldenCt());
  await editor.prepared();
  assert.equal(await page.isDisabled('#export-seg'), true);
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  await editor.click(RIGHT_ELLIPSE);
  await editor.answered();
  const { name, bytes } = await editor.download('#export-seg');
  assert.equal(name, 'sam2d-middle-slice-001-segmentation.dcm');
  assert.equal(bytes.toString('latin1', 128, 132), 'DICM');
  assert.ok(bytes.includes('1.2.840.10008.5.1.4.1.1.66.4'), 'a Segmentation Storage object');
  assert.ok(bytes.includes('1.2.826.0.1.3680043.10.1.1'), 'it refers to the slice it was made of');
  assert.ok(/not for diagnostic use/i.test(bytes.toString('latin1')), 'and says what it is not for');
  const held = await editor.mask();
  assert.deepEqual(segmentBits(bytes, held.width * held.height), held.data);
  // Segmented by two clicks, asked for by the same two.
  const last = (await editor.asked('/sam2')).at(-1);
  assert.match(String(last?.file), /bytes/, 'a file of its own goes with it, because the object needs its header');
  assert.equal(JSON.parse(String(last?.click_points)).length, 2);

  await editor.tool('brush');
  await editor.click(NOWHERE);
  assert.equal(await page.isDisabled('#export-seg'), true);
  assert.match(String(await page.textContent('#export-seg-why')), /changed by hand/);
  await page.keyboard.press('Control+z');
  assert.equal(await page.isDisabled('#export-seg'), false);
});

/**
 * The one frame of a Segmentation: a bit a pixel, the first one lowest.
 * @param {Buffer} bytes
 * @param {number} count
 */
function segmentBits(bytes, count) {
  const at = bytes.lastIndexOf(Buffer.from([0xe0, 0x7f, 0x10, 0x00]));
  assert.match(bytes.toString('latin1', at + 4, at + 6), /^O[BW]$/);
  const length = bytes.readUInt32LE(at + 8);
  assert.ok(length * 8 >= count && length * 8 < count + 16, `one frame: ${length} bytes`);
  const packed = bytes.subarray(at + 12, at + 12 + length);
  return Uint8Array.from({ length: count }, (_, i) => (packed[i >> 3] >> (i & 7)) & 1);
}

person('the page loads from the box alone, keeps no cookie, and leaves nothing of a picture behind', async (editor) => {
  const { page } = editor;
  await editor.openFiles(goldenPng());
  await editor.click(LEFT_ELLIPSE);
  await editor.answered();
  for (const request of editor.requests) assert.equal(new URL(request.url()).origin, daemon.url);
  assert.deepEqual(await page.context().cookies(), []);
  assert.deepEqual(await page.evaluate(() => [Object.keys(localStorage), Object.keys(sessionStorage)]), [[], []]);
  const policy = await page.evaluate(async () => (await fetch('/')).headers.get('content-security-policy'));
  assert.match(String(policy), /^default-src 'none'/);
  const inline = await page.evaluate(() => {
    const script = document.createElement('script');
    try {
      script.textContent = 'window.ran = true';
      document.head.append(script);
    } catch {
      // Trusted types refuse it even before the policy for scripts would.
    }
    return 'ran' in window;
  });
  assert.equal(inline, false);
  editor.complaints.length = 0;
});

person('files come by drop and by paste as well', async (editor) => {
  const { page } = editor;
  const base64 = goldenPng().buffer.toString('base64');
  const hand = (/** @type {string} */ how) =>
    page.evaluate(
      ([kind, text]) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], 'golden.png', { type: 'image/png' }));
        if (kind === 'drop') window.dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true, bubbles: true }));
        else window.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));
      },
      [how, base64]
    );
  await hand('drop');
  await editor.shown();
  await editor.tool('brush');
  await editor.click(NOWHERE);
  // Work that was not exported is not dropped without a question.
  await hand('paste');
  await page.locator('#ask').getByRole('button', { name: 'Cancel' }).click();
  assert.ok(await editor.isMasked(NOWHERE));
  await hand('paste');
  await page.click('[data-answer="discard"]');
  await editor.shown();
  assert.equal(await editor.area(), 0);
});

person('what is no picture is said so, and what is one beside it is opened', async (editor) => {
  const { page } = editor;
  const text = { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('not a picture') };
  await page.setInputFiles('#files', [text]);
  await page.locator('.toast').filter({ hasText: 'No picture in there' }).waitFor();
  await editor.openFiles(text, goldenPng());
  await page.locator('.toast').filter({ hasText: '1 file(s) left out' }).waitFor();
});

person('a damaged picture is refused in the box’s words', async (editor) => {
  const { page } = editor;
  const whole = await goldenCt();
  // Cut inside its pixels: the header is fine, so the page tries.
  await page.setInputFiles('#files', [{ ...whole, buffer: whole.buffer.subarray(0, whole.buffer.length - 60000) }]);
  const message = page.locator('#cannot-show');
  await message.waitFor();
  assert.match(String(await message.textContent()), /^This picture cannot be shown\. The box says: .{20}/);
  assert.equal(await page.isDisabled('#one-click'), true);
  assert.match(String(await page.textContent('#one-click-why')), /cannot be shown/);
  await editor.shot('invalid image');
  await editor.openFiles(goldenPng());
  assert.equal(await message.isVisible(), false);
  assert.equal(await page.isDisabled('#one-click'), false);
});

person('Chinese is complete and stays chosen', async (editor) => {
  const { page } = editor;
  assert.equal(await page.textContent('#one-click'), 'AI一键分割');
  assert.equal(await page.getAttribute('html', 'lang'), 'zh-CN');
  await editor.context('middle');
  await editor.openFiles(await goldenCt());
  await editor.click(LEFT_ELLIPSE);
  assert.match(await editor.answered(), /分割完成 · 置信度 \d+% · \d+ 毫秒/);
  await editor.shot('Chinese');
  const english = await page.evaluate(() => {
    const own = /^(sam2d|sam2-nano|DICOM|PNG|JPEG|JSON|SEG|CT|AI|L3|HU|mm²?|English|Ctrl|Alt|px|[RLAPHF])$/;
    const rest = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
      if (node.parentElement?.closest('#result-warnings')) continue;
      for (const word of (node.textContent ?? '').match(/[A-Za-z][A-Za-z0-9²-]*/g) ?? []) if (!own.test(word)) rest.push(word);
    }
    return rest;
  });
  assert.deepEqual(english, []);
  await page.click('#language');
  assert.equal(await page.textContent('#one-click'), 'One-Click Segmentation');
  await page.reload();
  assert.equal(await page.textContent('#one-click'), 'One-Click Segmentation');
}, { locale: 'zh-CN' });
