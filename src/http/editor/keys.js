/**
 * @file Shortcuts: one table that acts and that the help sheet is made of.
 *
 * Single letters act only while no field has the focus and no dialog is open.
 */
import { t } from './i18n.js';

/** @typedef {import('./i18n.js').Key} Key */
/** @typedef {{keys: string[], control?: boolean, shift?: boolean, help: Key, run?: () => unknown}} Shortcut `keys` as KeyboardEvent.key says; one without `run` is told only */

export class Keys {
  /** @param {Shortcut[]} shortcuts */
  constructor(shortcuts) {
    this.shortcuts = shortcuts;
    document.addEventListener('keydown', (event) => this.pressed(event));
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    if (event.defaultPrevented || document.querySelector('dialog[open]') || typing(event)) return;
    const control = event.ctrlKey || event.metaKey;
    if (event.altKey) return;
    const found = this.shortcuts.find(
      (shortcut) => shortcut.run && (shortcut.control ?? false) === control && (shortcut.shift === undefined || shortcut.shift === event.shiftKey) && shortcut.keys.some((key) => key.toLowerCase() === event.key.toLowerCase())
    );
    if (!found?.run) return;
    event.preventDefault();
    found.run();
  }

  /** @param {HTMLElement} list a `dl` */
  list(list) {
    // Two ways to the same thing are two entries; the first one is told.
    const told = this.shortcuts.filter(({ help }, i) => this.shortcuts.findIndex((other) => other.help === help) === i);
    const rows = told.map((shortcut) => {
      const keys = document.createElement('dt');
      shortcut.keys.forEach((key, i) => keys.append(...(i ? [' '] : []), cap((shortcut.control ? 'Ctrl ' : '') + (shortcut.shift ? 'Shift ' : '') + nameOf(key))));
      const text = document.createElement('dd');
      text.textContent = t(shortcut.help);
      const row = document.createElement('div');
      row.append(keys, text);
      return row;
    });
    list.replaceChildren(...rows);
  }
}

/** @param {string} text */
function cap(text) {
  const key = document.createElement('kbd');
  key.textContent = text;
  return key;
}

/** @param {string} key */
function nameOf(key) {
  const names = /** @type {Record<string, string>} */ ({ Arrows: '← ↑ ↓ →', Escape: 'Esc', Delete: 'Del', PageUp: 'Page ↑', PageDown: 'Page ↓' });
  return names[key] ?? (key.length === 1 ? key.toUpperCase() : key);
}

/** @param {KeyboardEvent} event */
function typing(event) {
  const target = event.target;
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement) return !['checkbox', 'radio', 'range', 'file'].includes(target.type) || (target.type === 'range' && event.key.startsWith('Page'));
  return target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement;
}
