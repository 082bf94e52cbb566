/**
 * @file The editor when things go wrong: no engine, no box, no answer, no token, and each time the way back.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Daemon, hasBinary } from './daemon.js';
import { EditorPage, hasChromium, launch, skipped } from './page.js';
import { goldenCt, goldenPng, LEFT_ELLIPSE } from './sample.js';

const skip = skipped(!hasBinary ? 'no daemon binary (SAM2D_BIN)' : !hasChromium ? 'no Chromium (SAM2D_CHROMIUM)' : '');
const options = { skip, timeout: 120000 };

/** @type {import('playwright-core').Browser} */
let browser;
before(async () => {
  if (!skip) browser = await launch();
});
after(() => browser?.close());

/** What works without a box: opening a picture, drawing, taking the mask away. */
async function worksByHand(/** @type {EditorPage} */ editor) {
  const before = await editor.area();
  await editor.tool('brush');
  await editor.drag([{ x: 30, y: 30 }, { x: 70, y: 30 }]);
  assert.ok((await editor.area()) > before);
  const { bytes } = await editor.download('#export-mask');
  assert.ok(bytes.length > 60);
}

test('the box goes and comes back: a banner, manual work, and no click needed to go on', options, async () => {
  const daemon = await Daemon.start();
  const editor = await EditorPage.open(browser, daemon.url);
  try {
    await editor.ready();
    await editor.openFiles(await goldenCt());
    await daemon.kill();
    // It is noticed at the latest when something is asked.
    await editor.click(LEFT_ELLIPSE);
    await editor.page.waitForSelector('#box-state[data-kind="down"]', { timeout: 40000 });
    assert.equal(await editor.page.isVisible('#banner'), true);
    assert.match(String(await editor.page.textContent('#banner')), /cannot be reached/);
    assert.equal(await editor.page.isDisabled('#one-click'), true);
    assert.match(String(await editor.page.textContent('#one-click-why')), /cannot be reached/);
    await worksByHand(editor);
    await editor.shot('box away');
    const drawn = await editor.area();

    await daemon.again();
    await editor.page.waitForSelector('#box-state[data-kind="ready"]', { timeout: 15000 });
    assert.equal(await editor.page.isVisible('#banner'), false);
    assert.equal(await editor.area(), drawn, 'the work is still there');
    await editor.tool('prompt');
    await editor.click(LEFT_ELLIPSE);
    await editor.page.click('[data-answer="keep"]');
    await editor.answered();
    assert.ok((await editor.area()) > drawn);
    assert.deepEqual(editor.complaints, []);
  } finally {
    await editor.close();
    await daemon.stop();
  }
});

test('a DICOM opened while the box is away is shown by the page, and by the box when it is back', options, async () => {
  const daemon = await Daemon.start();
  const editor = await EditorPage.open(browser, daemon.url);
  try {
    await editor.ready();
    await daemon.kill();
    await editor.page.waitForSelector('#box-state[data-kind="down"]', { timeout: 40000 });
    await editor.openFiles(await goldenCt());
    await editor.page.locator('#corner-window').filter({ hasText: 'shown by this page' }).waitFor();
    await worksByHand(editor);
    await daemon.again();
    await editor.page.waitForSelector('#box-state[data-kind="ready"]', { timeout: 15000 });
    await editor.page.locator('#corner-window:not(:has-text("shown by this page"))').waitFor();
    assert.deepEqual(editor.complaints, []);
  } finally {
    await editor.close();
    await daemon.stop();
  }
});

test('a box without an engine says why, and the manual tools work', options, async () => {
  const daemon = await Daemon.start({ env: { SAM2D_ENGINE__PATH: '/nonexistent/engine' } });
  const editor = await EditorPage.open(browser, daemon.url);
  try {
    const { page } = editor;
    await page.waitForSelector('#box-state[data-kind="manual"]');
    const { reason } = await daemon.health();
    assert.equal(await page.isVisible('#banner'), true);
    assert.match(String(await page.textContent('#banner')), /^Manual tools only/);
    assert.ok(String(await page.textContent('#banner')).includes(reason.replace(/\.$/, '')), reason);
    await editor.openFiles(goldenPng());
    assert.equal(await page.isDisabled('#one-click'), true);
    assert.ok(String(await page.textContent('#one-click-why')).includes(reason.replace(/\.$/, '')));
    await worksByHand(editor);
    await editor.tool('prompt');
    await editor.click(LEFT_ELLIPSE);
    await page.locator('.toast').filter({ hasText: 'the manual tools work' }).waitFor();
    assert.deepEqual(await editor.asked('/sam2'), []);
    await editor.shot('manual only');
    assert.deepEqual(editor.complaints, []);
  } finally {
    await editor.close();
    await daemon.stop();
  }
});

test('no answer in 35 s: the overlay counts, the failure is told, retry goes on; cancel ends it sooner', options, async () => {
  const daemon = await Daemon.start();
  const editor = await EditorPage.open(browser, '');
  const { page } = editor;
  try {
    await page.clock.install();
    await page.goto(daemon.url);
    await editor.ready();
    await editor.context('auto');
    await editor.openFiles(goldenPng());
    await editor.prepared();
    daemon.pause();
    await page.click('#one-click');
    const overlay = page.locator('#busy[open]');
    assert.equal(await overlay.count(), 1, 'at once');
    assert.match(String(await overlay.textContent()), /Segmenting… up to 30 s/);
    await page.clock.runFor(4000);
    assert.match(String(await page.textContent('#busy-elapsed')), /^[4-9]\.\d s$/);
    await editor.shot('busy');
    await page.click('#busy-cancel');
    await overlay.waitFor({ state: 'hidden' });
    await editor.answered(/^Cancelled/);
    assert.equal(await page.isVisible('#failure'), false, 'a wish is no failure');
    assert.equal(await editor.area(), 0);

    await page.click('#one-click');
    await overlay.waitFor();
    await page.clock.runFor(36000);
    await overlay.waitFor({ state: 'hidden' });
    const failure = page.locator('#failure');
    await failure.waitFor();
    assert.match(String(await failure.textContent()), /did not answer in time/);
    assert.match(String(await failure.textContent()), /35 s/);
    await editor.shot('timeout');
    daemon.resume();
    await page.clock.runFor(4000);
    await editor.ready();
    await page.click('#retry');
    await editor.answered();
    assert.equal(await failure.isVisible(), false);
    assert.deepEqual(editor.complaints, []);
  } finally {
    await editor.close();
    await daemon.stop();
  }
});

test('the words of the box reach the person, with the request’s number', options, async () => {
  const daemon = await Daemon.start();
  const editor = await EditorPage.open(browser, daemon.url);
  const { page } = editor;
  try {
    await editor.ready();
    await editor.openFiles(goldenPng());
    const problem = { type: 'about:blank', title: 'Service Unavailable', status: 503, detail: 'The engine failed on this slice.', code: 'inference_failed', request_id: 'r-4711' };
    await page.route('**/api/segmentation/sam2', (route) => route.fulfill({ status: 503, contentType: 'application/problem+json', body: JSON.stringify(problem) }));
    await editor.click(LEFT_ELLIPSE);
    const failure = page.locator('#failure');
    await failure.waitFor();
    for (const words of ['The box cannot segment now', 'The engine failed on this slice.', 'r-4711']) assert.ok(String(await failure.textContent()).includes(words), words);
    assert.equal(await editor.area(), 0);
    assert.equal(await page.isDisabled('#undo'), true, 'a failure is no step');
    // A mask of another size is refused, never stretched.
    await page.unroute('**/api/segmentation/sam2');
    await page.route('**/api/segmentation/sam2', async (route) => {
      const answer = await (await route.fetch()).json();
      const small = 'iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAAAAADRSSBWAAAAC0lEQVR42mNg+A8AAQIBAGqyxcQAAAAASUVORK5CYII=';
      await route.fulfill({ status: 200, contentType: 'application/json', body: JSON.stringify({ ...answer, mask_data: small }) });
    });
    await page.click('#retry');
    await page.locator('#failure-detail').filter({ hasText: 'not used' }).waitFor();
    assert.equal(await editor.area(), 0);
    assert.deepEqual(editor.complaints, []);
  } finally {
    await editor.close();
    await daemon.stop();
  }
});

test('a box that wants a token is given one, in this tab only', options, async () => {
  const daemon = await Daemon.start();
  const right = daemon.token('create', 'editor');
  const metrics = daemon.token('create', 'monitoring', '--scope', 'metrics');
  // The daemon looks at its tokens once a second; from then on it tells strangers less.
  while ('model' in (await (await fetch(`${daemon.url}/api/segmentation/sam2/health`)).json())) await new Promise((resolve) => setTimeout(resolve, 50));
  const editor = await EditorPage.open(browser, daemon.url);
  const { page } = editor;
  try {
    await editor.ready();
    await editor.openFiles(goldenPng());
    const dialog = page.locator('#token-dialog[open]');
    await dialog.waitFor();
    await editor.shot('token');
    await page.click('#token-cancel');
    await page.waitForSelector('#box-state[data-kind="token"]');
    // Waved away, it is asked for again only when a person wants something.
    await page.waitForTimeout(600);
    await editor.context('auto');
    await page.waitForTimeout(600);
    assert.equal(await dialog.count(), 0);
    await editor.click(LEFT_ELLIPSE);
    const kept = () => page.evaluate(() => sessionStorage.getItem('sam2d.token'));
    for (const [token, said] of /** @type {const} */ ([['the-wrong-one', 'not valid here'], [metrics, 'the scope segment']])) {
      await dialog.waitFor();
      await page.fill('#token', token);
      await page.keyboard.press('Enter');
      // The box's words, and another try; what was refused is not kept, or it would be shown with every question.
      await page.locator('#token-why').filter({ hasText: said }).waitFor();
      assert.equal(await kept(), null);
    }
    await editor.shot('token refused');
    await page.fill('#token', right);
    await page.keyboard.press('Enter');
    await editor.answered();
    assert.ok(await editor.isMasked(LEFT_ELLIPSE));
    assert.deepEqual(await page.evaluate(() => [{ ...sessionStorage }, { ...localStorage }, document.cookie]), [{ 'sam2d.token': right }, {}, '']);
    for (const request of editor.requests) assert.ok(!request.url().includes(right) && !/wrong/.test(request.url()));
    assert.ok(!daemon.log.includes(right), 'nor in the log');
    // Whom the box knows, it tells more.
    await page.locator('#demonstration').waitFor();
    await page.locator('#box-state').filter({ hasText: 'sam2-nano' }).waitFor();

    // A reload keeps it, another tab has to ask.
    await page.reload();
    await editor.openFiles(goldenPng());
    await editor.prepared();
    const other = await page.context().newPage();
    await other.goto(daemon.url);
    assert.equal(await other.evaluate(() => sessionStorage.length), 0);
    await page.click('#help');
    await page.click('#token-forget');
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);

    // One that is taken away is let go of, and the work stays.
    await page.click('#one-click');
    await dialog.waitFor();
    await page.fill('#token', right);
    await page.keyboard.press('Enter');
    await editor.answered();
    const area = await editor.area();
    daemon.token('revoke', 'editor');
    await page.waitForTimeout(1500);
    await page.click('#box-state');
    await page.waitForSelector('#box-state[data-kind="token"]');
    assert.equal(await kept(), null);
    assert.equal(await editor.area(), area);
    assert.deepEqual(editor.complaints, []);
  } finally {
    await editor.close();
    await daemon.stop();
  }
});
