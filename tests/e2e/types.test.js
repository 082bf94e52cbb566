/**
 * @file The page and the client are type-checked, and the client's checked-in types are the ones its source says.
 *
 * `UPDATE=1` writes clients/js/client.d.ts anew.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parse } from 'acorn';

const here = dirname(fileURLToPath(import.meta.url));
const tsc = join(here, 'node_modules/typescript/bin/tsc');
const client = join(here, '../../clients/js');

function check(/** @type {string[]} */ args) {
  try {
    execFileSync(process.execPath, [tsc, ...args], { cwd: here, encoding: 'utf8' });
  } catch (error) {
    assert.fail(/** @type {any} */ (error).stdout);
  }
}

test('the page and the client pass the type checker', () => check(['-p', 'tsconfig.json']));

test('the tests themselves pass it too', () => check(['-p', 'tsconfig.tests.json']));

test('client.d.ts is what the source of client.js says', () => {
  const out = mkdtempSync(join(tmpdir(), 'sam2d-types-'));
  try {
    check(['-p', 'tsconfig.client.json', '--outDir', out]);
    const made = '// Made from client.js by tests/e2e/types.test.js (UPDATE=1). Do not edit.\n' + readFileSync(join(out, 'client.d.ts'), 'utf8');
    const kept = join(client, 'client.d.ts');
    if (process.env.UPDATE) writeFileSync(kept, made);
    assert.equal(readFileSync(kept, 'utf8'), made);
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
});

test('client.js keeps to syntax that older bundlers read', () => {
  // webpack 4, which the editors of that age are built with, stops at ES2018.
  parse(readFileSync(join(client, 'client.js'), 'utf8'), { ecmaVersion: 2018, sourceType: 'module' });
});
