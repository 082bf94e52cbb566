/**
 * @file The page's words, in English and Chinese.
 *
 * Elements carry `data-text`, `data-title` and `data-label` with a key of the table; `apply` fills them in. Words
 * that the box says (`detail`, warnings) stay as the box says them. The choice is kept in localStorage: it names
 * nobody.
 */
import { words } from './words.js';

/** @typedef {'en' | 'zh'} Language */
/** @typedef {keyof typeof words} Key */

const KEPT = 'sam2d.language';

/** @type {Language} */
let language = initial();

/** @returns {Language} */
export function current() {
  return language;
}

/** @param {Language} next */
export function choose(next) {
  language = next;
  localStorage.setItem(KEPT, next);
  apply(document);
}

/**
 * @param {Key} key
 * @param {Record<string, string | number>} [values] for `{name}` in the text
 */
export function t(key, values = {}) {
  const text = words[key][language === 'zh' ? 1 : 0];
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** @param {Document | Element} root */
export function apply(root) {
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  for (const element of root.querySelectorAll('[data-text]')) element.textContent = t(key(element, 'data-text'));
  for (const element of root.querySelectorAll('[data-title]')) {
    const keys = element.getAttribute('aria-keyshortcuts');
    element.setAttribute('title', t(key(element, 'data-title')) + (keys ? ` (${keys.split(' ')[0]})` : ''));
  }
  for (const element of root.querySelectorAll('[data-label]')) element.setAttribute('aria-label', t(key(element, 'data-label')));
}

/**
 * @param {number} value
 * @param {number} digits
 */
export function number(value, digits) {
  return value.toLocaleString(language === 'zh' ? 'zh-CN' : 'en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/**
 * @param {Element} element
 * @param {string} attribute
 * @returns {Key}
 */
function key(element, attribute) {
  return /** @type {Key} */ (element.getAttribute(attribute));
}

/** @returns {Language} */
function initial() {
  const kept = localStorage.getItem(KEPT);
  if (kept === 'en' || kept === 'zh') return kept;
  return navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}
