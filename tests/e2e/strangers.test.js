/**
 * @file Pages of strangers in a user's browser: names rebound to the box, posts across sites, frames.
 *
 * The browser is told that every name under `.example` is this machine, as a hostile name server would tell it. What a stranger's
 * page tries, a page of `http.allowed_origins` tries too, and there it works: it is the rule that holds the stranger off.
 */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { Daemon, hasBinary } from './daemon.js';
import { chromiumPath, hasChromium, skipped } from './page.js';
import { goldenPng } from './sample.js';

const skip = skipped(!hasBinary ? 'no daemon binary (SAM2D_BIN)' : !hasChromium ? 'no Chromium (SAM2D_CHROMIUM)' : '');
const options = { skip, timeout: 120000 };
const SEGMENT = '/api/segmentation/sam2';

/** @type {import('playwright-core').Browser} */
let browser;
/** @type {Daemon} */
let daemon;
/** A web server of somebody else, on this machine as well: @type {import('node:http').Server} */
let elsewhere;
let port = 0;

before(async () => {
  if (skip) return;
  elsewhere = createServer((_, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>elsewhere</title>'));
  await new Promise((resolve) => elsewhere.listen(0, '127.0.0.1', () => resolve(null)));
  port = /** @type {import('node:net').AddressInfo} */ (elsewhere.address()).port;
  daemon = await Daemon.start({ env: { SAM2D_HTTP__ALLOWED_ORIGINS: `["http://editor.example:${port}"]` } });
  const root = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  browser = await chromium.launch({ executablePath: chromiumPath, args: ['--host-resolver-rules=MAP *.example 127.0.0.1', ...root] });
});
after(async () => {
  await browser?.close();
  await daemon?.stop();
  elsewhere?.close();
});

/** Segmentations that were done so far. */
async function done() {
  const text = await (await fetch(`${daemon.url}/metrics`)).text();
  const lines = text.split('\n').filter((line) => line.startsWith(`sam2d_requests_total{route="${SEGMENT}",outcome="ok"}`));
  return Number(lines[0]?.split(' ')[1] ?? 0);
}

/**
 * Runs in a page: asks the box in every way a page can, and says what it could read.
 * @param {{box: string, picture: number[]}} given
 */
async function attempts({ box, picture }) {
  const form = () => {
    const fields = new FormData();
    fields.append('file', new Blob([new Uint8Array(picture)]), 'x.png');
    fields.append('image_type', 'auto');
    fields.append('click_points', '[{"x":84,"y":120,"label":1}]');
    return fields;
  };
  /** @param {Promise<Response>} asked */
  const read = (asked) => asked.then(async (r) => (r.type === 'opaque' ? 'nothing' : `${r.status} ${(await r.text()).includes('mask_data') ? 'mask' : ''}`.trim()), () => 'nothing');
  const segment = `${box}/api/segmentation/sam2`;
  const json = { 'content-type': 'application/json' };
  return {
    health: await read(fetch(`${segment}/health`)),
    'simple post': await read(fetch(segment, { method: 'POST', body: form() })),
    'post without CORS': await read(fetch(segment, { method: 'POST', body: form(), mode: 'no-cors' })),
    'JSON post': await read(fetch(segment, { method: 'POST', body: '{}', headers: json })),
    'post with a token': await read(fetch(segment, { method: 'POST', body: form(), headers: { authorization: 'Bearer x' } })),
    beacon: await (async () => (navigator.sendBeacon(segment, form()), new Promise((resolve) => setTimeout(resolve, 500, 'sent'))))(),
  };
}

const NOTHING = { health: 'nothing', 'simple post': 'nothing', 'post without CORS': 'nothing', 'JSON post': 'nothing', 'post with a token': 'nothing', beacon: 'sent' };

test('a page of another site can neither read from the box nor have it work', options, async () => {
  const page = await browser.newPage();
  const picture = [...goldenPng().buffer];
  await page.goto(`http://evil.example:${port}/`);
  const before = await done();
  assert.deepEqual(await page.evaluate(attempts, { box: daemon.url, picture }), NOTHING);
  assert.equal(await done(), before, 'nothing was segmented');

  // The same page under a name that the operator listed: everything above would have worked.
  await page.goto(`http://editor.example:${port}/`);
  const allowed = await page.evaluate(attempts, { box: daemon.url, picture });
  assert.deepEqual({ ...allowed, 'JSON post': '' }, { ...NOTHING, health: '200', 'simple post': '200 mask', 'JSON post': '', 'post with a token': '200 mask' });
  assert.match(allowed['JSON post'], /^400/);
  assert.ok((await done()) > before);
  await page.close();
});

/** Runs in a stranger's page: a frame whose form sends itself to the box. @param {{ action: string, policy: string, sandbox: boolean }} how */
function submit({ action, policy, sandbox }) {
  const frame = document.createElement('iframe');
  if (sandbox) frame.setAttribute('sandbox', 'allow-forms allow-scripts');
  frame.srcdoc = `<meta name="referrer" content="${policy || 'unsafe-url'}"><form method="post" enctype="multipart/form-data" action="${action}">
    <input name="image_type" value="auto"><input name="image_data" value="file:x"></form><script>document.forms[0].submit()</script>`;
  document.body.append(frame);
}

test('forms that a page of another site submits are refused, whatever it says of its origin', options, async () => {
  /** @type {[string, string, boolean][]} */
  const forms = [['plain', '', false], ['without referrer', 'no-referrer', false], ['from a sandbox', '', true]];
  for (const [name, policy, sandbox] of forms) {
    const page = await browser.newPage();
    await page.goto(`http://evil.example:${port}/`);
    const before = await done();
    // Chromium moves the frame into another process on the way, and Playwright misses the answer now and then.
    let response = null;
    for (let attempt = 0; !response && attempt < 3; attempt += 1) {
      const answered = page.waitForResponse((one) => one.url() === daemon.url + SEGMENT, { timeout: 10000 }).catch(() => null);
      await page.evaluate(submit, { action: daemon.url + SEGMENT, policy, sandbox });
      response = await answered;
    }
    assert.ok(response, `${name}: no answer was seen`);
    const origin = (await response.request().allHeaders()).origin;
    assert.equal(response.status(), 403, `${name}: ${origin}`);
    assert.equal(origin, sandbox || policy ? 'null' : `http://evil.example:${port}`, String(name));
    assert.equal(await done(), before);
    await page.close();
  }
});

test('a name that is rebound to the box is not answered under it', options, async () => {
  const page = await browser.newPage();
  // To the browser this page and the box are now one site: nothing but the name tells them apart.
  const box = `http://evil.example:${daemon.port}`;
  const answer = await page.goto(`${box}/`);
  assert.equal(answer?.status(), 421);
  const before = await done();
  const told = await page.evaluate(attempts, { box, picture: [...goldenPng().buffer] });
  assert.deepEqual(told, { health: '421', 'simple post': '421', 'post without CORS': '421', 'JSON post': '421', 'post with a token': '421', beacon: 'sent' });
  assert.equal(await done(), before);
  await page.goto(`http://localhost:${daemon.port}/`);
  assert.equal((await page.evaluate(attempts, { box: `http://localhost:${daemon.port}`, picture: [...goldenPng().buffer] }))['simple post'], '200 mask');
  await page.close();
});

test('the editor is not shown inside a page of another site', options, async () => {
  const page = await browser.newPage();
  /** @type {string[]} */
  const said = [];
  page.on('console', (message) => said.push(message.text()));
  await page.goto(`http://evil.example:${port}/`);
  await page.evaluate((url) => (document.body.innerHTML = `<iframe src="${url}/"></iframe>`), daemon.url);
  await page.waitForTimeout(1500);
  assert.ok(said.some((text) => /frame-ancestors/.test(text)), said.join('\n'));
  const [, frame] = page.frames();
  assert.equal(await frame.locator('#stage').count(), 0);
  await page.close();
});
