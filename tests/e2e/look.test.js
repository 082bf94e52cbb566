/**
 * @file How the editor looks and reads: axe, small and large screens, light and dark, and pictures to look at.
 *
 * With `PICTURES=1` the user guide's pictures are written anew to docs/pictures.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Daemon, hasBinary } from './daemon.js';
import { EditorPage, hasChromium, launch, skipped } from './page.js';
import { goldenCt, goldenPng, LEFT_ELLIPSE } from './sample.js';

const skip = skipped(!hasBinary ? 'no daemon binary (SAM2D_BIN)' : !hasChromium ? 'no Chromium (SAM2D_CHROMIUM)' : '');
const options = { skip, timeout: 180000 };
const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const repository = join(dirname(fileURLToPath(import.meta.url)), '../..');
const samples = join(repository, 'samples');
const pictures = join(repository, 'docs/pictures');

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

/** axe's serious and critical findings, in words. */
async function findings(/** @type {EditorPage} */ editor) {
  const result = await editor.page.evaluate(() => /** @type {any} */ (window).axe.run(document, { resultTypes: ['violations'] }));
  return result.violations
    .filter((/** @type {any} */ one) => one.impact === 'serious' || one.impact === 'critical')
    .map((/** @type {any} */ one) => `${one.id}: ${one.nodes.map((/** @type {any} */ node) => `${node.target} ${node.failureSummary}`).join('; ')}`);
}

for (const colorScheme of /** @type {const} */ (['dark', 'light'])) {
  for (const locale of ['en-GB', 'zh-CN']) {
    test(`axe finds nothing serious: ${colorScheme}, ${locale}`, options, async () => {
      // The page's policy would refuse axe as it refuses everybody; the browser brings it in past the policy.
      const editor = await EditorPage.open(browser, daemon.url, { colorScheme, locale, bypassCSP: true });
      const { page } = editor;
      try {
        await editor.ready();
        await page.addScriptTag({ content: axeSource });
        assert.deepEqual(await findings(editor), [], 'empty');
        await editor.context('middle');
        await editor.openFiles(await goldenCt({ instance: 1 }), await goldenCt({ instance: 2 }));
        await editor.click(LEFT_ELLIPSE);
        const toast = page.locator('.toast').first();
        await toast.waitFor();
        assert.deepEqual(await findings(editor), [], 'with a mask');
        await page.click('#help');
        assert.deepEqual(await findings(editor), [], 'help');
        await page.click('#help-close');
        await editor.tool('brush');
        await editor.click({ x: 20, y: 20 });
        await page.click('#one-click');
        await page.locator('#ask[open]').waitFor();
        assert.deepEqual(await findings(editor), [], 'question');
        await page.keyboard.press('Escape');
        await page.route('**/sam2', (route) => route.fulfill({ status: 400, contentType: 'application/problem+json', body: '{"code":"invalid_request","detail":"box: it is empty"}' }));
        await page.keyboard.press('Control+z');
        await page.click('#one-click');
        await page.locator('#failure').waitFor();
        assert.deepEqual(await findings(editor), [], 'failure');
      } finally {
        await editor.close();
      }
    });
  }
}

for (const [width, height] of [[1280, 720], [1920, 1080], [3840, 2160]]) {
  test(`everything fits ${width}×${height}, in both languages`, options, async () => {
    for (const locale of ['en-GB', 'zh-CN']) {
      const editor = await EditorPage.open(browser, daemon.url, { viewport: { width, height }, locale });
      const { page } = editor;
      try {
        await editor.ready();
        await editor.context('middle');
        await editor.openFiles(await goldenCt({ instance: 1 }), await goldenCt({ instance: 2 }));
        await editor.click(LEFT_ELLIPSE);
        await editor.answered();
        const outside = await page.evaluate(() => {
          const bad = [];
          for (const control of document.querySelectorAll('button, select, input:not([type=file]), h1, .not-diagnostic')) {
            if (!(control instanceof HTMLElement) || control.closest('dialog') || !control.checkVisibility()) continue;
            const box = control.getBoundingClientRect();
            const panel = control.closest('.panel');
            // The panel may scroll down, but nothing may stick out sideways or be cut.
            const fits = box.left >= 0 && box.right <= innerWidth + 0.5 && box.top >= 0 && (panel || box.bottom <= innerHeight + 0.5);
            const whole = control.scrollWidth <= control.clientWidth + 2 || control instanceof HTMLInputElement;
            if (!fits || !whole) bad.push(`${control.id || control.className || control.tagName} ${Math.round(box.left)}..${Math.round(box.right)} ${Math.round(box.top)}..${Math.round(box.bottom)}`);
          }
          const rail = /** @type {HTMLElement} */ (document.querySelector('.rail'));
          if (rail.scrollHeight > rail.clientHeight) bad.push(`tools scroll: ${rail.scrollHeight} > ${rail.clientHeight}`);
          if (document.documentElement.scrollWidth > innerWidth) bad.push('the page scrolls sideways');
          return bad;
        });
        assert.deepEqual(outside, []);
        const stage = await page.locator('#view').boundingBox();
        assert.ok(stage && stage.width * stage.height > 0.55 * width * height, `the picture gets ${stage?.width} × ${stage?.height}`);
        await editor.shot(`${width} ${locale.slice(0, 2)}`);
      } finally {
        await editor.close();
      }
    }
  });
}

test('the theme follows the workstation and stays as chosen', options, async () => {
  const editor = await EditorPage.open(browser, daemon.url, { colorScheme: 'light' });
  const { page } = editor;
  try {
    const theme = () => page.getAttribute('html', 'data-theme');
    assert.equal(await theme(), 'light');
    const light = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await page.click('#theme');
    assert.equal(await theme(), 'dark');
    assert.notEqual(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), light);
    await page.reload();
    assert.equal(await theme(), 'dark');
    assert.deepEqual(editor.complaints, []);
  } finally {
    await editor.close();
  }
});

test('the user guide’s pictures, of drawn phantoms', options, async () => {
  const picture = async (/** @type {EditorPage} */ editor, /** @type {string} */ name) => {
    await editor.shot(`guide ${name}`);
    if (!process.env.PICTURES) return;
    mkdirSync(pictures, { recursive: true });
    // Three quarters of the size are enough to read, and the repository stays small.
    const shot = (await editor.page.screenshot()).toString('base64');
    const small = await browser.newPage({ viewport: { width: 960, height: 540 } });
    await small.setContent(`<body style="margin:0"><img width="960" src="data:image/png;base64,${shot}">`);
    await small.screenshot({ path: join(pictures, `${name}.png`) });
    await small.close();
  };
  const editor = await EditorPage.open(browser, daemon.url);
  const { page } = editor;
  try {
    await editor.ready();
    await picture(editor, 'empty');
    await editor.openFiles(join(samples, 'phantom-sagittal.png'));
    await editor.prepared();
    await editor.drag([{ x: 131, y: 153 }, { x: 170, y: 186 }]);
    await page.locator('.toast').waitFor();
    assert.ok(await editor.isMasked({ x: 150, y: 170 }), 'the vertebra');
    await picture(editor, 'l3-box');

    await editor.context('middle');
    await editor.openFiles(join(samples, 'phantom-axial.dcm'));
    await editor.prepared();
    await editor.click({ x: 95, y: 105 });
    await editor.answered();
    await editor.click({ x: 250, y: 125 });
    await page.locator('.toast').waitFor();
    assert.ok(await editor.isMasked({ x: 95, y: 105 }), 'the first click still counts');
    await picture(editor, 'middle-clicks');
    await editor.answered();
    await editor.tool('brush');
    await editor.drag([{ x: 60, y: 80 }, { x: 75, y: 70 }]);
    await picture(editor, 'brush');
    await page.click('#one-click');
    await page.locator('#ask[open]').waitFor();
    await picture(editor, 'replace');
    await page.keyboard.press('Escape');
    await page.click('#help');
    await picture(editor, 'help');
    assert.deepEqual(editor.complaints, []);
  } finally {
    await editor.close();
  }
});

test('an 8-bit picture has no window, and says so', options, async () => {
  const editor = await EditorPage.open(browser, daemon.url);
  try {
    await editor.openFiles(goldenPng());
    const text = await editor.page.textContent('#corner-window');
    assert.equal(text, '8 bit, no window');
    assert.equal(await editor.page.isVisible('#window-card'), false);
  } finally {
    await editor.close();
  }
});
