/**
 * @file The Vue 2 examples in a browser, on a page of another origin, with the box's own /client.js.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Daemon, freePort, hasBinary } from './daemon.js';
import { hasChromium, launch, skipped } from './page.js';
import { goldenPng, LEFT_ELLIPSE, RIGHT_ELLIPSE } from './sample.js';

const skip = skipped(!hasBinary ? 'no daemon binary (SAM2D_BIN)' : !hasChromium ? 'no Chromium (SAM2D_CHROMIUM)' : '');
const options = { skip, timeout: 60000 };
const examples = join(dirname(fileURLToPath(import.meta.url)), '../../clients/js/examples/vue2');
const require = createRequire(import.meta.url);

/** @type {import('playwright-core').Browser} */
let browser;
/** @type {Daemon} */
let daemon;
/** @type {import('node:http').Server} */
let site;
let origin = '';

before(async () => {
  if (skip) return;
  const port = await freePort();
  origin = `http://127.0.0.1:${port}`;
  daemon = await Daemon.start({ env: { SAM2D_HTTP__ALLOWED_ORIGINS: JSON.stringify([origin]) } });
  browser = await launch();
  site = createServer((request, response) => {
    const [type, body] = file(request.url ?? '');
    response.writeHead(body ? 200 : 404, { 'content-type': type }).end(body);
  });
  await new Promise((resolve) => site.listen(port, '127.0.0.1', () => resolve(undefined)));
});
after(async () => {
  await browser?.close();
  site?.closeAllConnections();
  site?.close();
  await daemon?.stop();
});

/** A hospital's own site, as small as can be. @param {string} path @returns {[string, string]} */
function file(path) {
  const script = 'text/javascript';
  if (path === '/vue.js') return [script, readFileSync(require.resolve('vue/dist/vue.esm.browser.js'), 'utf8')];
  const example = /^\/(\w+)\.vue$/.exec(path);
  if (example) return [script, compiled(readFileSync(join(examples, `${example[1]}.vue`), 'utf8'))];
  const imports = JSON.stringify({ imports: { 'sam2d-client': `${daemon.url}/client.js` } });
  return path === '/' ? ['text/html', `<!doctype html><script type="importmap">${imports}</script><link rel="icon" href="data:,"><div id="app"></div>`] : ['text/plain', ''];
}

/** What a bundler makes of a single-file component. @param {string} source */
function compiled(source) {
  const { parse } = require('vue/compiler-sfc');
  const { template, script } = parse({ source });
  if (!template || !script) throw new Error('an example without template or script');
  return `${script.content.replace('export default {', 'const component = {')}\ncomponent.template = ${JSON.stringify(template.content)};\nexport default component;`;
}

/**
 * @param {'L3MaskEditor' | 'MiddleMaskEditor'} name
 * @param {string} [baseUrl] where the client looks for the box
 */
async function mounted(name, baseUrl = daemon.url) {
  const page = await browser.newPage();
  /** @type {string[]} */
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.goto(origin);
  await page.evaluate(
    async ([component, box, png]) => {
      const load = (/** @type {string} */ path) => import(path);
      const [{ default: Vue }, { default: Editor }, { configure }] = await Promise.all([load('/vue.js'), load(`/${component}.vue`), load('sam2d-client')]);
      configure({ baseUrl: box, retries: 0 });
      const image = new File([Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0))], 'slice.png');
      /** @type {any} */ (window).app = new Vue({
        el: '#app',
        data: { image, value: undefined },
        render(/** @type {Function} */ h) {
          const self = /** @type {any} */ (this);
          return h(Editor, { props: { file: self.image, patientId: 'P1', value: self.value }, on: { input: (/** @type {any} */ value) => (self.value = value) } });
        },
      });
    },
    [name, baseUrl, goldenPng().buffer.toString('base64')]
  );
  return { page, complaints, value: () => page.evaluate(() => /** @type {any} */ (window).app.value) };
}

/** @param {import('playwright-core').Page} page @param {{x: number, y: number}} pixel @param {Array<'Alt'>} [modifiers] */
async function click(page, { x, y }, modifiers = []) {
  const box = await page.locator('svg').boundingBox();
  assert.ok(box);
  await page.mouse.move(0, 0);
  for (const key of modifiers) await page.keyboard.down(key);
  await page.mouse.click(box.x + ((x + 0.5) / 256) * box.width, box.y + ((y + 0.5) / 256) * box.height);
  for (const key of modifiers) await page.keyboard.up(key);
}

/** @param {Array<{x: number, y: number}>} ring @param {{x: number, y: number}} point */
function within(ring, point) {
  let inside = false;
  ring.forEach((a, i) => {
    const b = ring[(i + 1) % ring.length];
    if (a.y > point.y !== b.y > point.y && point.x < a.x + ((point.y - a.y) / (b.y - a.y)) * (b.x - a.x)) inside = !inside;
  });
  return inside;
}

test('L3MaskEditor: a click on the object gives its rectangle, a second one asks before it replaces', options, async () => {
  const { page, complaints, value } = await mounted('L3MaskEditor');
  try {
    await page.locator('.one-click:enabled').waitFor();
    await click(page, LEFT_ELLIPSE);
    await page.locator('p').filter({ hasText: /Confidence \d+ %/ }).waitFor();
    const first = await value();
    assert.ok(first.x > 40 && first.x + first.width < 130 && first.y > 60 && first.y + first.height < 180, JSON.stringify(first));
    assert.equal(await page.getAttribute('rect', 'width'), String(first.width));

    page.once('dialog', (dialog) => void dialog.dismiss());
    await click(page, RIGHT_ELLIPSE);
    assert.deepEqual(await value(), first);
    page.once('dialog', (dialog) => void dialog.accept());
    await click(page, RIGHT_ELLIPSE);
    await page.waitForFunction((x) => /** @type {any} */ (window).app.value.x !== x, first.x);
    assert.ok((await value()).x > 130);
    assert.deepEqual(complaints, []);
  } finally {
    await page.close();
  }
});

test('MiddleMaskEditor: clicks add and take away, and give polygons', options, async () => {
  const { page, complaints, value } = await mounted('MiddleMaskEditor');
  try {
    await page.locator('.one-click:enabled').waitFor();
    await click(page, LEFT_ELLIPSE);
    await page.locator('polygon').first().waitFor();
    assert.ok(within((await value())[0], LEFT_ELLIPSE));
    const before = JSON.stringify(await value());
    await click(page, { x: 62, y: 110 }, ['Alt']);
    await page.waitForFunction((was) => JSON.stringify(/** @type {any} */ (window).app.value) !== was, before);
    assert.deepEqual(complaints, []);
  } finally {
    await page.close();
  }
});

test('a box that is away is said, and Retry goes on when it is back', options, async () => {
  const { page, value } = await mounted('MiddleMaskEditor');
  try {
    await page.locator('.one-click:enabled').waitFor();
    await daemon.kill();
    await click(page, LEFT_ELLIPSE);
    await page.locator('[role="alert"]').filter({ hasText: 'cannot be reached' }).waitFor();
    await daemon.again();
    await page.click('.retry');
    await page.locator('polygon').first().waitFor();
    assert.ok(within((await value())[0], LEFT_ELLIPSE));
    assert.equal(await page.locator('[role="alert"]').count(), 0);
  } finally {
    await page.close();
  }
});
