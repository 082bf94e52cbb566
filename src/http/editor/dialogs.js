/**
 * @file What comes over the room: toasts, the busy overlay, questions, the token.
 *
 * Dialogs are the browser's own (`<dialog>`), which keep the focus and give Escape its meaning.
 */
import { t } from './i18n.js';

const TOAST_MS = 6000;
const BAD_TOAST_MS = 12000;

/** @typedef {'good' | 'warn' | 'bad'} Tone */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new (...args: any[]) => T} type
 * @returns {T}
 */
export function element(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} "${id}"`);
  return found;
}

/**
 * @param {Tone} tone
 * @param {string} text
 * @param {string} [topic] a newer toast of the same topic takes the place of the older
 */
export function toast(tone, text, topic = '') {
  const box = document.createElement('div');
  box.className = `toast ${tone}`;
  box.dataset.topic = topic;
  const words = document.createElement('p');
  words.textContent = text;
  const close = document.createElement('button');
  close.type = 'button';
  close.className = 'plain round';
  close.textContent = '×';
  close.setAttribute('aria-label', t('close'));
  close.addEventListener('click', () => box.remove());
  box.append(words, close);
  const room = element('toasts', HTMLElement);
  if (topic) for (const older of room.querySelectorAll(`[data-topic="${topic}"]`)) older.remove();
  room.append(box);
  // Three at most: older ones have been read or never will be.
  while (room.children.length > 3) room.firstElementChild?.remove();
  setTimeout(() => box.remove(), tone === 'bad' ? BAD_TOAST_MS : TOAST_MS);
}

/**
 * A question with a few answers; null when it is waved away.
 * @template {string} A
 * @param {{title: string, text: string, answers: Array<{value: A, label: string}>}} question the last answer is the safe one, and has the focus
 * @returns {Promise<A | null>}
 */
export function ask({ title, text, answers }) {
  const dialog = element('ask', HTMLDialogElement);
  element('ask-title', HTMLElement).textContent = title;
  element('ask-text', HTMLElement).textContent = text;
  const buttons = [{ value: '', label: t('cancel') }, ...answers].map(({ value, label }, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = i === answers.length ? 'primary' : 'plain';
    button.textContent = label;
    button.dataset.answer = value;
    button.addEventListener('click', () => dialog.close(value));
    return button;
  });
  element('ask-answers', HTMLElement).replaceChildren(...buttons);
  dialog.returnValue = '';
  dialog.showModal();
  buttons[answers.length].focus();
  return closing(dialog).then((value) => /** @type {A | null} */ (value || null));
}

/**
 * @param {string} why what was wrong with the one before; empty for the first
 * @returns {Promise<string | null>}
 */
export async function askToken(why) {
  const dialog = element('token-dialog', HTMLDialogElement);
  const input = element('token', HTMLInputElement);
  const form = element('token-form', HTMLFormElement);
  input.value = '';
  element('token-why', HTMLElement).textContent = why;
  dialog.returnValue = '';
  // The form's method is "dialog": submitting closes it, and nothing is sent anywhere.
  const submitted = () => (dialog.returnValue = 'use');
  const cancelled = () => dialog.close('');
  form.addEventListener('submit', submitted);
  element('token-cancel', HTMLElement).addEventListener('click', cancelled);
  dialog.showModal();
  await closing(dialog);
  form.removeEventListener('submit', submitted);
  element('token-cancel', HTMLElement).removeEventListener('click', cancelled);
  const token = dialog.returnValue === 'use' ? input.value.trim() : '';
  input.value = '';
  return token || null;
}

/** The overlay while a segmentation runs: elapsed time, what is waited for, cancel. */
export class Busy {
  constructor() {
    this.dialog = element('busy', HTMLDialogElement);
    this.cancel = () => {};
    this.started = 0;
    this.ticker = 0;
    element('busy-cancel', HTMLElement).addEventListener('click', () => this.cancel());
    this.dialog.addEventListener('cancel', (event) => {
      event.preventDefault();
      this.cancel();
    });
  }

  get open() {
    return this.dialog.open;
  }

  /**
   * @param {number} started
   * @param {() => void} cancel
   */
  show(started, cancel) {
    this.cancel = cancel;
    this.started = started;
    this.note('');
    if (!this.dialog.open) this.dialog.showModal();
    this.tick();
    clearInterval(this.ticker);
    this.ticker = window.setInterval(() => this.tick(), 100);
  }

  /** @param {string} text */
  note(text) {
    element('busy-note', HTMLElement).textContent = text;
  }

  tick() {
    const seconds = (performance.now() - this.started) / 1000;
    element('busy-progress', HTMLProgressElement).value = seconds;
    element('busy-elapsed', HTMLElement).textContent = t('busySeconds', { seconds: seconds.toFixed(1) });
  }

  hide() {
    clearInterval(this.ticker);
    if (this.dialog.open) this.dialog.close();
  }
}

/** @param {HTMLDialogElement} dialog @returns {Promise<string>} */
function closing(dialog) {
  return new Promise((resolve) => dialog.addEventListener('close', () => resolve(dialog.returnValue), { once: true }));
}
