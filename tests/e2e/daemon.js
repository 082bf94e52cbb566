/**
 * @file The real daemon, on a loopback port of its own, with folders of its own, gone when the test is.
 *
 * `SAM2D_BIN` names the binary; without it the release build of this checkout is taken.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const repository = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const binary = process.env.SAM2D_BIN ?? join(process.env.CARGO_TARGET_DIR ?? join(repository, 'target'), 'release/sam2d');
export const hasBinary = existsSync(binary);

const START_MS = 30000;

/** @typedef {{env?: Record<string, string>, args?: string[], port?: number, folder?: string}} DaemonOptions */

export class Daemon {
  /**
   * Starts one and waits until it answers.
   * @param {DaemonOptions} [options]
   */
  static async start(options = {}) {
    const daemon = new Daemon(options.port ?? (await freePort()), options.folder ?? mkdtempSync(join(tmpdir(), 'sam2d-e2e-')));
    await daemon.launch(options);
    return daemon;
  }

  /**
   * @param {number} port
   * @param {string} folder
   */
  constructor(port, folder) {
    this.port = port;
    this.folder = folder;
    this.url = `http://127.0.0.1:${port}`;
    this.log = '';
  }

  /** @param {DaemonOptions} options */
  async launch({ env = {}, args = [] }) {
    this.options = { env, args };
    this.log = '';
    const all = ['serve', '--listen', `127.0.0.1:${this.port}`, '--state-dir', join(this.folder, 'state'), '--cache-dir', join(this.folder, 'cache'), ...args];
    this.process = spawn(binary, all, { env: { ...ownEnvironment(), ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.process.stdout, this.process.stderr]) stream?.on('data', (chunk) => (this.log = (this.log + chunk).slice(-20000)));
    const ended = new Promise((resolve) => this.process?.once('exit', (code, signal) => resolve(signal ?? code)));
    this.ended = ended;
    const deadline = Date.now() + START_MS;
    for (;;) {
      const health = await this.health().catch(() => null);
      // It answers while it still loads its engine; what is tested is what it says once that is over.
      if (health && (health.available || !/being loaded/.test(health.reason))) return;
      const gone = await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 100, 'running'))]);
      if (gone !== 'running') throw new Error(`the daemon ended (${gone}):\n${this.log}`);
      if (Date.now() > deadline) throw new Error(`the daemon does not answer:\n${this.log}`);
    }
  }

  /**
   * The operator's `sam2d token …` on this daemon's folders.
   * @param {string[]} words
   */
  token(...words) {
    return execFileSync(binary, ['token', ...words, '--state-dir', join(this.folder, 'state')], { env: ownEnvironment(), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  }

  async health() {
    const response = await fetch(`${this.url}/api/segmentation/sam2/health`, { signal: AbortSignal.timeout(2000) });
    return response.json();
  }

  /** Ends the process as a power cut would. */
  async kill() {
    this.process?.kill('SIGKILL');
    await this.ended;
  }

  /** The same daemon again, on the same port and folders. */
  async again() {
    await this.launch(this.options ?? {});
  }

  /** Stops it from answering without closing anything, as a hang would. */
  pause() {
    this.process?.kill('SIGSTOP');
  }

  resume() {
    this.process?.kill('SIGCONT');
  }

  async stop() {
    this.resume();
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Without what tells the tests, or another daemon, what to do: a key the daemon does not know would stop it. */
function ownEnvironment() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SAM2D_')));
}

/** @returns {Promise<number>} */
export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (probe.address());
      probe.close(() => resolve(port));
    });
  });
}
