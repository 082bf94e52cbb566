/**
 * @file A person at the editor: opens pictures, clicks on their pixels, reads what the page says.
 *
 * Everything goes through the page as a person would; only the mask canvas is read directly, because no eye can
 * compare pixels. Every request and every console line is kept, so that a test can say what must not have happened.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
export const chromiumPath = process.env.SAM2D_CHROMIUM ?? '/usr/bin/chromium';
export const hasChromium = existsSync(chromiumPath);
/** How many times slower than this machine the page runs: what hides in a fast browser shows in a slow one. */
const slowdown = Number(process.env.E2E_SLOWDOWN ?? 1);
/** With `E2E_SOURCES=1` the page is the checkout's, not the one built into the daemon: to work on it without building. */
const sources = process.env.E2E_SOURCES ? join(here, '../../src/http/editor') : '';
/** Where pictures of the page go, to be looked at. */
export const shots = process.env.SAM2D_SHOTS ?? join(here, 'shots');

/**
 * The reason why tests are skipped, told to `./test` as well; false when there is none.
 * @param {string} reason
 */
export function skipped(reason) {
  if (reason && process.env.SAM2D_SKIPS) appendFileSync(process.env.SAM2D_SKIPS, `e2e: ${reason}\n`);
  return reason || false;
}

export function launch() {
  // Root, as in containers, has no use for the sandbox; everyone else keeps it.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({ executablePath: chromiumPath, args });
}

/** @typedef {{x: number, y: number}} Point */

export class EditorPage {
  /**
   * @param {import('playwright-core').Browser} browser
   * @param {string} url
   * @param {import('playwright-core').BrowserContextOptions} [options]
   */
  static async open(browser, url, options = {}) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 720 }, locale: 'en-GB', colorScheme: 'dark', acceptDownloads: true, ...options });
    await context.addInitScript(rememberForms);
    if (sources) await context.route(/\/(editor\/[^?]*)?$/, fromSources);
    const page = await context.newPage();
    const editor = new EditorPage(page);
    if (slowdown > 1) await (await context.newCDPSession(page)).send('Emulation.setCPUThrottlingRate', { rate: slowdown });
    if (url) await page.goto(`${url}/`);
    return editor;
  }

  /** @param {import('playwright-core').Page} page */
  constructor(page) {
    this.page = page;
    /** @type {string[]} */
    this.complaints = [];
    /** @type {import('playwright-core').Request[]} */
    this.requests = [];
    page.on('pageerror', (error) => this.complaints.push(String(error.stack)));
    page.on('console', (message) => message.type() === 'error' && !/Failed to load resource/.test(message.text()) && this.complaints.push(message.text()));
    page.on('request', (request) => this.requests.push(request));
  }

  close() {
    return this.page.context().close();
  }

  /** @param {import('playwright-core').FileChooser | any} files */
  async openFiles(...files) {
    await this.page.setInputFiles('#files', files);
    await this.shown();
  }

  /** Opens over unsaved work. @param {any[]} files */
  async openFilesAnyway(...files) {
    await this.page.setInputFiles('#files', files);
    await this.page.click('[data-answer="discard"]');
    await this.shown();
  }

  /** Until the slice on the screen is shown. */
  async shown() {
    await this.page.waitForSelector('#stage[aria-busy="false"] #view[data-shown]');
  }

  /** Until the box has prepared it. */
  async prepared() {
    await this.page.locator('#corner-slice').filter({ hasText: 'Slice prepared' }).waitFor();
  }

  async ready() {
    await this.page.waitForSelector('#box-state[data-kind="ready"]');
  }

  /** @param {'L3' | 'middle' | 'auto'} context */
  async context(context) {
    await this.page.check(`input[name="context"][value="${context}"]`);
    if (await this.page.locator('#view[data-shown]').count()) await this.shown();
  }

  /** @param {string} name */
  async tool(name) {
    await this.page.click(`[data-tool="${name}"]`);
  }

  /** Where a pixel's middle is on the screen. @param {Point} pixel @returns {Promise<Point>} */
  at({ x, y }) {
    return this.page.evaluate(
      ([px, py]) => {
        const frame = /** @type {HTMLElement} */ (document.getElementById('view')).getBoundingClientRect();
        const picture = /** @type {HTMLElement} */ (document.getElementById('picture'));
        const placed = new DOMMatrix(picture.style.transform);
        return { x: frame.left + placed.e + (px + 0.5) * placed.a, y: frame.top + placed.f + (py + 0.5) * placed.d };
      },
      [x, y]
    );
  }

  /** The same on a whole pixel of the screen: browsers drop the fraction of some events. @param {Point} pixel */
  async place(pixel) {
    const { x, y } = await this.at(pixel);
    return { x: Math.round(x), y: Math.round(y) };
  }

  /** Which pixel is at a place on the screen: `at` the other way round. @param {Point} place @returns {Promise<Point>} */
  under({ x, y }) {
    return this.page.evaluate(
      ([sx, sy]) => {
        const frame = /** @type {HTMLElement} */ (document.getElementById('view')).getBoundingClientRect();
        const placed = new DOMMatrix(/** @type {HTMLElement} */ (document.getElementById('picture')).style.transform);
        return { x: Math.floor((sx - frame.left - placed.e) / placed.a), y: Math.floor((sy - frame.top - placed.f) / placed.d) };
      },
      [x, y]
    );
  }

  /**
   * @param {Point} pixel
   * @param {{alt?: boolean}} [options]
   */
  async click(pixel, { alt = false } = {}) {
    const at = await this.at(pixel);
    if (alt) await this.page.keyboard.down('Alt');
    await this.page.mouse.click(at.x, at.y);
    if (alt) await this.page.keyboard.up('Alt');
  }

  /**
   * Drags over pixels, slowly enough to be a hand.
   * @param {Point[]} pixels
   * @param {{button?: 'left' | 'right' | 'middle'}} [options]
   */
  async drag(pixels, { button = 'left' } = {}) {
    const [first, ...rest] = await Promise.all(pixels.map((pixel) => this.at(pixel)));
    await this.page.mouse.move(first.x, first.y);
    await this.page.mouse.down({ button });
    for (const at of rest) await this.page.mouse.move(at.x, at.y, { steps: 6 });
    await this.page.mouse.up({ button });
  }

  /** Waits for what a segmentation ends with: its toast. @param {RegExp} [text] */
  async answered(text = /Segmented|Nothing found|分割完成|未找到/) {
    const toast = this.page.locator('.toast').filter({ hasText: text });
    await toast.waitFor();
    const words = (await toast.textContent()) ?? '';
    await toast.getByRole('button').click();
    return words;
  }

  /** What the mask canvas holds, one byte a pixel; while one slice gives way to the next it holds nothing. */
  async mask() {
    await this.page.waitForSelector('#mask:not([width="0"])', { state: 'attached' });
    const { width, height, base64 } = await this.page.evaluate(() => {
      const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById('mask'));
      const pixels = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d')).getImageData(0, 0, canvas.width, canvas.height).data;
      let text = '';
      for (let i = 3; i < pixels.length; i += 4) text += pixels[i] === 0 ? '0' : '1';
      return { width: canvas.width, height: canvas.height, base64: text };
    });
    return { width, height, data: Uint8Array.from(base64, (bit) => Number(bit)) };
  }

  async area() {
    return (await this.mask()).data.reduce((sum, pixel) => sum + pixel, 0);
  }

  /** @param {Point} pixel */
  async isMasked({ x, y }) {
    const { width, data } = await this.mask();
    return data[y * width + x] === 1;
  }

  /**
   * Presses an export button and gives the file.
   * @param {string} selector
   * @returns {Promise<{name: string, bytes: Buffer}>}
   */
  async download(selector) {
    const [download] = await Promise.all([this.page.waitForEvent('download'), this.page.click(selector)]);
    const stream = await download.createReadStream();
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return { name: download.suggestedFilename(), bytes: Buffer.concat(chunks) };
  }

  /**
   * The fields of every form sent to a path since the page was loaded.
   * @param {string} path e.g. `/sam2`
   * @returns {Promise<Array<Record<string, string>>>}
   */
  async asked(path) {
    /** @type {Array<{url: string, fields: Record<string, string>}>} */
    const forms = await this.page.evaluate('window.sentForms');
    return forms.filter(({ url }) => url.endsWith(path)).map(({ fields }) => fields);
  }

  /** @param {string} name */
  async shot(name) {
    mkdirSync(shots, { recursive: true });
    await this.page.screenshot({ path: join(shots, `${name}.png`) });
  }
}

/** @param {import('playwright-core').Route} route */
async function fromSources(route) {
  const response = await route.fetch();
  const name = basename(new URL(route.request().url()).pathname) || 'index.html';
  await route.fulfill(response.ok() ? { response, body: readFileSync(join(sources, name)) } : { response });
}

/** Runs in the page: a browser does not tell what a form it sends holds, so `fetch` is asked on the way. */
function rememberForms() {
  const page = /** @type {any} */ (window);
  page.sentForms = [];
  const send = page.fetch;
  page.fetch = (/** @type {string} */ url, /** @type {RequestInit | undefined} */ init) => {
    if (init?.body instanceof FormData) {
      const fields = Object.fromEntries([...init.body].map(([name, value]) => [name, typeof value === 'string' ? value : `bytes called ${value.name}`]));
      page.sentForms.push({ url, fields });
    }
    return send.call(page, url, init);
  };
}
