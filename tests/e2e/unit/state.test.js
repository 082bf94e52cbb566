/** @file A slice's annotation and its history; the page's words. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { area, fillRectangle } from '../../../src/http/editor/mask.js';
import { Editor, Slice } from '../../../src/http/editor/state.js';
import { words } from '../../../src/http/editor/words.js';

const source = /** @type {import('../../../src/http/editor/state.js').Source} */ ({ kind: 'png', file: new Blob(), name: '', frame: undefined, frames: 1, header: null, deep: false });

function slice() {
  const made = new Slice(source);
  made.width = 8;
  made.height = 6;
  return made;
}

const draw = (/** @type {Slice} */ one, /** @type {number} */ to) => {
  fillRectangle(one.drawable(), { x: 0, y: 0 }, { x: to, y: 1 }, 1);
  one.commit();
};

test('undo and redo go over strokes, clicks and answers alike', () => {
  const one = slice();
  draw(one, 3);
  one.clicks = [{ x: 1, y: 1, label: 1 }];
  one.ai = { width: 8, height: 6, data: new Uint8Array(48).fill(1) };
  one.mask = { ...one.ai, data: one.ai.data.slice() };
  one.commit();
  assert.deepEqual([area(one.drawable()), one.clicks.length, one.origin], [48, 1, 'ai']);
  one.undo();
  assert.deepEqual([area(one.drawable()), one.clicks.length, one.origin], [3, 0, 'manual']);
  one.undo();
  assert.deepEqual([one.mask, one.origin, one.undo()], [null, 'empty', false]);
  one.redo();
  one.redo();
  assert.deepEqual([area(one.drawable()), one.clicks.length, one.redo()], [48, 1, false]);
  one.undo();
  draw(one, 5);
  assert.equal(one.redo(), false);
});

test('what a person changed is known as such, and what was taken back is not', () => {
  const one = slice();
  one.ai = { width: 8, height: 6, data: new Uint8Array(48) };
  one.ai.data[0] = 1;
  one.mask = { ...one.ai, data: one.ai.data.slice() };
  one.commit();
  assert.equal(one.edited, false);
  draw(one, 4);
  assert.deepEqual([one.edited, one.origin], [true, 'corrected']);
  one.undo();
  assert.deepEqual([one.edited, one.origin], [false, 'ai']);
});

test('the context gives CT its window, the user’s comes first', () => {
  const editor = new Editor();
  const header = /** @type {any} */ ({ modality: 'CT', width: 4, height: 4, window: { center: 40, width: 400 }, takesWindow: true });
  const ct = new Slice({ ...source, kind: 'dicom', header });
  assert.deepEqual(editor.windowOf(ct), { center: 50, width: 300 });
  editor.context = 'auto';
  assert.deepEqual(editor.windowOf(ct), { center: 40, width: 400 });
  editor.window = { center: 1, width: 2 };
  assert.deepEqual(editor.windowOf(ct), { center: 1, width: 2 });
  assert.equal(editor.windowOf(new Slice(source)), null);
});

test('every word on the page is in both languages, and every word is used', () => {
  const folder = new URL('../../../src/http/editor/', import.meta.url);
  const page = readdirSync(folder)
    .filter((name) => /\.(html|js)$/.test(name) && name !== 'words.js')
    .map((name) => readFileSync(new URL(name, folder), 'utf8'))
    .join('\n');
  for (const [, key] of page.matchAll(/data-(?:text|title|label)="([^"]+)"/g)) assert.ok(key in words, `${key} is missing`);
  for (const [key, texts] of Object.entries(words)) {
    assert.ok(new RegExp(`["']${key}["']`).test(page), `${key} is never used`);
    assert.equal(texts.length, 2);
    const holes = (/** @type {string} */ text) => (text.match(/\{\w+\}/g) ?? []).sort().join();
    assert.equal(holes(texts[0]), holes(texts[1]), `${key}: other values in the two languages`);
  }
});
