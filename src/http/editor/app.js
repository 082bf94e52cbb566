/**
 * @file The editor's composition root: makes the rooms, wires them, opens pictures.
 *
 * Invariants:
 * 1. Changes flow one way: hands and answers change the state, the state tells, view and panel follow.
 * 2. Work that was not exported is not lost without a question, neither by a new series nor by closing the page.
 */
import { Box } from './api.js';
import { View } from './canvas.js';
import { ask, askToken, element, toast } from './dialogs.js';
import { directions, fullWindow } from './dicom.js';
import { annotationJson, fileName, maskPng, overlayPng, save } from './export.js';
import { apply, choose, current, number, t } from './i18n.js';
import { Keys } from './keys.js';
import { Panel } from './panel.js';
import { PictureError, Pictures } from './picture.js';
import { failureDetail, failureTitle, Segmenter } from './segment.js';
import { droppedFiles, openSeries } from './series.js';
import { Editor } from './state.js';
import { Tools } from './tools.js';
import { Sam2Error } from '../client.js';

/** @typedef {import('./state.js').Slice} Slice */
/** @typedef {import('./state.js').Context} Context */
/** @typedef {import('./mask.js').Point} Point */

/** Long enough that leafing through a series does not ask the box to prepare every slice of it. */
const EMBED_AFTER_MS = 200;
const THEMES = /** @type {const} */ (['dark', 'light']);
const THEME_KEPT = 'sam2d.theme';

const editor = new Editor();
const box = new Box(askToken);
const pictures = new Pictures(box);
const view = new View(element('view', HTMLElement));
const segmenter = new Segmenter(editor, box);
const panel = new Panel(editor, box, segmenter);
const tools = new Tools(editor, view, {
  click: (point, label) => segmenter.click(point, label),
  box: (rect) => segmenter.boxed(rect),
  dragWindow,
  leaf: (steps) => editor.goTo(editor.index + steps),
  hover: (point) => void readOut(point),
  announce: ({ x, y }) => (element('announce', HTMLElement).textContent = t('crosshairAt', { x, y })),
});
const keys = new Keys([
  { keys: ['S'], shift: false, help: 'oneClick', run: () => element('one-click', HTMLButtonElement).click() },
  { keys: ['N'], help: 'nextFrom', run: () => element('next-from', HTMLButtonElement).click() },
  { keys: ['A'], help: 'toolPrompt', run: () => tools.choose('prompt') },
  { keys: ['B'], help: 'toolBrush', run: () => tools.choose('brush') },
  { keys: ['E'], help: 'toolEraser', run: () => tools.choose('eraser') },
  { keys: ['P'], help: 'toolPolygon', run: () => tools.choose('polygon') },
  { keys: ['R'], help: 'toolRectangle', run: () => tools.choose('rectangle') },
  { keys: ['[', ']'], help: 'helpSize' },
  { keys: ['['], help: 'helpSize', run: () => resizeBrush(-1) },
  { keys: [']'], help: 'helpSize', run: () => resizeBrush(1) },
  { keys: ['G'], help: 'fillHoles', run: () => tools.fillHoles() },
  { keys: ['L'], help: 'largest', run: () => tools.keepLargest() },
  { keys: ['Delete'], help: 'clear', run: () => tools.clear() },
  { keys: ['Z'], control: true, shift: false, help: 'undo', run: () => undo() },
  { keys: ['Y'], control: true, help: 'redo', run: () => redo() },
  { keys: ['Z'], control: true, shift: true, help: 'redo', run: () => redo() },
  { keys: ['H'], help: 'toolPan', run: () => tools.choose('pan') },
  { keys: ['W'], help: 'toolWindow', run: () => tools.choose('window') },
  { keys: ['F'], help: 'fit', run: () => view.fit() },
  { keys: ['+', '='], help: 'zoomIn', run: () => view.zoom(1.25) },
  { keys: ['-'], help: 'zoomOut', run: () => view.zoom(0.8) },
  { keys: ['M'], help: 'helpMask', run: () => element('mask-visible', HTMLInputElement).click() },
  { keys: ['PageUp'], help: 'previous', run: () => editor.goTo(editor.index - 1) },
  { keys: ['PageDown'], help: 'next', run: () => editor.goTo(editor.index + 1) },
  { keys: ['O'], help: 'openHint', run: () => element('files', HTMLInputElement).click() },
  { keys: ['S'], control: true, help: 'helpExport', run: () => element('export-mask', HTMLButtonElement).click() },
  { keys: ['Arrows'], help: 'helpArrows' },
  { keys: ['Enter'], help: 'helpEnter' },
  { keys: ['Enter'], shift: true, help: 'helpShiftEnter' },
  { keys: ['Escape'], help: 'helpEscape', run: () => tools.cancel() || segmenter.cancel() },
  { keys: ['?'], help: 'help', run: () => openHelp() },
]);

/** @type {AbortController} what the slice on the screen still waits for */
let showing = new AbortController();
/** @type {AbortController} */
let embedding = new AbortController();
/** Whether the slice's picture is still to come. */
let waiting = false;
/** How many times a person opened files that are still being read or asked about. */
let opening = 0;
let madeHere = false;
/** @type {'' | 'asking' | 'ready'} */
let prepared = '';
/** Of what the box was last asked to prepare. */
let preparedKey = '';

start();

function start() {
  document.documentElement.dataset.theme = localStorage.getItem(THEME_KEPT) ?? (matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark');
  apply(document);
  wireBar();
  wirePanel();
  wireOpening();
  view.onMoved = () => {
    corners();
    tools.hover();
  };
  editor.addEventListener('change', (event) => follow(/** @type {CustomEvent} */ (event).detail));
  segmenter.addEventListener('change', () => {
    smallBusy(segmenter.running ? t('busy') : '');
    panel.refresh();
  });
  box.addEventListener('change', boxChanged);
  addEventListener('beforeunload', (event) => editor.slices.some((slice) => slice.unsaved) && event.preventDefault());
  addEventListener('resize', () => panel.ticks());
  view.fade(editor.opacity, editor.maskVisible);
  tools.refresh();
  panel.refresh();
  box.watch();
}

/** @param {string} what */
function follow(what) {
  if (what === 'series' || what === 'slice' || what === 'context') {
    tools.cancel();
    void show();
  } else if (what === 'window') void show();
  else if (what === 'stroke') return;
  if (what === 'annotation') view.paintMask();
  view.marksRectangle = editor.context === 'L3';
  view.draw();
  tools.refresh();
  panel.refresh();
  corners();
  tools.hover();
}

/** Brings the slice on the screen, and has the box prepare it. */
async function show() {
  const { slice } = editor;
  showing.abort();
  const { signal } = (showing = new AbortController());
  element('drop', HTMLElement).hidden = slice !== null;
  if (!slice) return view.clear();
  if (view.slice !== slice) {
    panel.shown = false;
    element('cannot-show', HTMLElement).hidden = true;
  }
  waiting = true;
  stageBusy();
  const slow = setTimeout(() => smallBusy(t('loading')), 400);
  try {
    const picture = await pictures.show(slice, editor.window, editor.context, signal);
    if (signal.aborted) return;
    madeHere = picture.madeHere;
    panel.shown = true;
    view.show(slice, picture.bitmap);
    prepare(slice);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof PictureError)) throw error;
    view.clear();
    const message = element('cannot-show', HTMLElement);
    message.hidden = false;
    message.textContent = error.detail ? t('cannotShowBox', { detail: error.detail }) : slice.source.kind === 'dicom' && !box.ready ? t('cannotShowAway') : t('cannotShow');
  } finally {
    clearTimeout(slow);
    if (!signal.aborted) {
      waiting = false;
      stageBusy();
      smallBusy('');
      panel.refresh();
      corners();
      tools.hover();
    }
  }
}

/** Says to whoever listens, rather than looks, that what is on the stage is about to change. */
function stageBusy() {
  element('stage', HTMLElement).setAttribute('aria-busy', String(waiting || opening > 0));
}

/**
 * Asks for the slice's embedding, once: another window on the screen is no other slice to the box.
 * @param {Slice} slice
 */
function prepare(slice) {
  const window = editor.useWindow ? (editor.windowOf(slice) ?? undefined) : undefined;
  const key = JSON.stringify([editor.slices.indexOf(slice), editor.context, window]);
  if (key === preparedKey && prepared !== '') return;
  embedding.abort();
  const { signal } = (embedding = new AbortController());
  prepared = '';
  preparedKey = key;
  setTimeout(async () => {
    if (signal.aborted || !box.ready) return;
    prepared = 'asking';
    corners();
    try {
      await box.embed(slice, editor.context, window, signal);
      if (!signal.aborted) prepared = 'ready';
    } catch (error) {
      // It only saves time later. If something is wrong, the segmentation will say it.
      if (!(error instanceof Sam2Error)) throw error;
      if (!signal.aborted) prepared = '';
    }
    if (!signal.aborted) corners();
  }, EMBED_AFTER_MS);
}

function boxChanged() {
  panel.refresh();
  const { slice } = editor;
  // A box that comes back may have forgotten what it had prepared.
  if (!box.ready) prepared = '';
  if (!slice || !box.ready) return;
  // The box came back: what it could not show or prepare before, it may now.
  if (!panel.shown || madeHere) void show();
  else if (prepared === '') prepare(slice);
}

/** What stands in the corners of the stage. */
function corners() {
  const { slice, slices, index } = editor;
  const shown = slice !== null && panel.shown;
  const lines = { slice: '', window: '', zoom: '' };
  if (slice && shown) {
    const names = { dicom: 'DICOM', png: 'PNG', jpeg: 'JPEG' };
    const spacing = slice.spacingMm;
    lines.slice = [
      `${[names[slice.source.kind], slice.source.header?.modality].filter(Boolean).join(' ')}  ${slice.width} × ${slice.height}`,
      slices.length > 1 ? t('sliceOf', { n: index + 1, count: slices.length }) : '',
      prepared === 'asking' ? t('preparing') : prepared === 'ready' ? t('prepared') : '',
    ].filter(Boolean).join('\n');
    const window = editor.windowOf(slice);
    lines.window = [
      window ? `${t('width')} ${number(window.width, 0)}  ${t('center')} ${number(window.center, 0)}` : slice.takesWindow ? '' : t('windowNone'),
      madeHere ? t('shownHere') : '',
    ].filter(Boolean).join('\n');
    lines.zoom = `${number(view.scale * 100, 0)} %` + (spacing ? `\n${number(spacing.column, 2)} × ${number(spacing.row, 2)} mm` : '');
  }
  element('corner-slice', HTMLElement).textContent = lines.slice;
  element('corner-window', HTMLElement).textContent = lines.window;
  element('corner-zoom', HTMLElement).textContent = lines.zoom;
  const sides = shown && slice.source.header ? directions(slice.source.header.orientation) : null;
  for (const side of /** @type {const} */ (['left', 'right', 'up', 'down'])) element(`side-${side}`, HTMLElement).textContent = sides ? sides[side] : '';
}

/** Counts what was pointed at: values that come late belong to a place that is no longer asked about. */
let reading = 0;

/** @param {Point | null} point */
async function readOut(point) {
  const mine = ++reading;
  const corner = element('corner-value', HTMLElement);
  const { slice } = editor;
  // Until the new slice is shown, the old one's picture is pointed at: no value of either is right.
  if (!point || !slice || !panel.shown || view.slice !== slice || !view.inside(point)) {
    corner.textContent = '';
    return;
  }
  const [x, y] = [Math.floor(point.x), Math.floor(point.y)];
  const where = `${x}, ${y}`;
  corner.textContent = where;
  const pixels = slice.takesWindow ? await pictures.pixelsOf(slice) : null;
  if (mine !== reading) return;
  if (pixels && pixels.width === slice.width && pixels.height === slice.height) {
    const value = pixels.values[y * pixels.width + x] * pixels.slope + pixels.intercept;
    corner.textContent = `${where}   ${number(value, Number.isInteger(value) ? 0 : 1)}${slice.isCt ? ' HU' : ''}`;
    return;
  }
  // Where the values are not known, the shown grey is given only for pictures that are shown as they are.
  const colour = slice.takesWindow ? null : view.colourAt(point);
  corner.textContent = colour ? `${where}   ${colour.every((part) => part === colour[0]) ? colour[0] : colour.join(' / ')}` : where;
}

/** @type {import('./dicom.js').Window | null} */
let dragged = null;
let rendering = false;

/**
 * Width across, level up and down; rendered here while it moves, by the box when it rests.
 * @param {number} dx
 * @param {number} dy
 * @param {boolean} done
 */
async function dragWindow(dx, dy, done) {
  const { slice } = editor;
  if (!slice?.takesWindow || !panel.shown) return;
  const from = dragged ?? editor.windowOf(slice) ?? (await fullRange(slice));
  const speed = Math.max(1, from.width / 300);
  dragged = { center: Math.round(from.center + dy * speed), width: Math.max(1, Math.round(from.width + dx * speed)) };
  editor.window = dragged;
  if (done) {
    dragged = null;
    editor.changed('window');
    return;
  }
  panel.windowFields();
  corners();
  if (rendering) return;
  rendering = true;
  const made = await pictures.makeHere(slice, editor.window);
  rendering = false;
  if (made && dragged && editor.slice === slice) view.show(slice, made.bitmap);
  else if (!made && dragged) void show();
}

/** @param {Slice} slice */
async function fullRange(slice) {
  const pixels = await pictures.pixelsOf(slice);
  return pixels ? fullWindow(pixels) : { center: 128, width: 256 };
}

function wireBar() {
  for (const radio of document.querySelectorAll('input[name="context"]')) {
    radio.addEventListener('change', () => {
      editor.context = /** @type {Context} */ (/** @type {HTMLInputElement} */ (radio).value);
      element('target', HTMLElement).hidden = editor.context !== 'middle';
      editor.changed('context');
    });
  }
  const target = element('target', HTMLSelectElement);
  target.addEventListener('change', () => (editor.target = target.value === 'psoas' ? 'psoas' : 'muscle'));
  click('language', () => {
    choose(current() === 'en' ? 'zh' : 'en');
    panel.refresh();
    corners();
    tools.hover();
  });
  click('theme', () => {
    const root = document.documentElement.dataset;
    root.theme = THEMES[root.theme === 'dark' ? 1 : 0];
    localStorage.setItem(THEME_KEPT, root.theme);
    panel.ticks();
  });
  click('help', openHelp);
  click('help-close', () => element('help-sheet', HTMLDialogElement).close());
  click('token-forget', () => {
    box.forgetToken();
    element('help-sheet', HTMLDialogElement).close();
  });
  click('box-state', async () => {
    if (!box.needsToken || (await box.newToken())) await box.look();
  });
}

function wirePanel() {
  for (const button of document.querySelectorAll('[data-tool]')) button.addEventListener('click', () => tools.choose(button.getAttribute('data-tool') ?? 'prompt'));
  click('fill-holes', () => tools.fillHoles());
  click('largest', () => tools.keepLargest());
  click('clear', () => tools.clear());
  click('undo', undo);
  click('redo', redo);
  click('fit', () => view.fit());
  click('one-click', () => segmenter.oneClick());
  click('previous', () => editor.goTo(editor.index - 1));
  click('next', () => editor.goTo(editor.index + 1));
  click('next-from', () => segmenter.next());
  const slider = element('slice', HTMLInputElement);
  slider.addEventListener('input', () => editor.goTo(Number(slider.value) - 1));

  const [center, width] = [element('window-center', HTMLInputElement), element('window-width', HTMLInputElement)];
  for (const field of [center, width]) {
    field.addEventListener('change', () => {
      if (center.value !== '' && Number(width.value) >= 1) setWindow({ center: Number(center.value), width: Number(width.value) });
    });
  }
  const preset = element('window-preset', HTMLSelectElement);
  preset.addEventListener('change', () => {
    const [c, w] = preset.value.split(',').map(Number);
    setWindow(preset.value ? { center: c, width: w } : null);
  });
  const useWindow = element('use-window', HTMLInputElement);
  useWindow.addEventListener('change', () => {
    editor.useWindow = useWindow.checked;
    if (editor.slice && panel.shown) prepare(editor.slice);
  });

  const opacity = element('opacity', HTMLInputElement);
  const visible = element('mask-visible', HTMLInputElement);
  const size = element('brush-size', HTMLInputElement);
  const follow = () => {
    editor.opacity = Number(opacity.value) / 100;
    editor.maskVisible = visible.checked;
    editor.brushSize = Number(size.value);
    element('opacity-value', HTMLOutputElement).textContent = `${opacity.value} %`;
    element('brush-size-value', HTMLOutputElement).textContent = `${size.value} px`;
    view.fade(editor.opacity, editor.maskVisible);
    tools.refresh();
  };
  for (const field of [opacity, visible, size]) field.addEventListener('input', follow);
  follow();

  click('export-mask', () => void exporting('mask.png', (slice) => maskPng(slice)));
  click('export-overlay', () => void exporting('overlay.png', (slice) => (view.bitmap ? overlayPng(slice, view.bitmap, editor.opacity) : null)));
  click('export-json', () => void exporting('annotation.json', () => annotationJson(editor, element('export-source', HTMLInputElement).checked)));
  click('export-seg', () => void exporting('segmentation.dcm', (slice) => (slice.verdict ? box.dicomSegmentation(slice.verdict.request) : null)));
}

function wireOpening() {
  const files = element('files', HTMLInputElement);
  for (const id of ['open', 'open-too']) click(id, () => files.click());
  files.addEventListener('change', () => {
    void open([...(files.files ?? [])]);
    files.value = '';
  });
  const stage = element('stage', HTMLElement);
  addEventListener('dragover', (event) => {
    event.preventDefault();
    stage.classList.add('dropping');
  });
  addEventListener('dragleave', (event) => event.relatedTarget === null && stage.classList.remove('dropping'));
  addEventListener('drop', async (event) => {
    event.preventDefault();
    stage.classList.remove('dropping');
    if (event.dataTransfer) void open(await droppedFiles(event.dataTransfer));
  });
  addEventListener('paste', (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length) void open(pasted);
  });
}

/** @param {File[]} files */
async function open(files) {
  if (!files.length) return;
  opening += 1;
  stageBusy();
  const slow = setTimeout(() => smallBusy(t('loading')), 400);
  try {
    await openFiles(files);
  } finally {
    clearTimeout(slow);
    opening -= 1;
    stageBusy();
    if (!waiting) smallBusy('');
  }
}

/** @param {File[]} files */
async function openFiles(files) {
  const { slices, refused } = await openSeries(files);
  if (!slices.length) return toast('bad', t('openedNothing'));
  if (editor.slices.some((slice) => slice.unsaved)) {
    const answer = await ask({ title: t('discardTitle'), text: t('discardText'), answers: [{ value: 'discard', label: t('discard') }] });
    if (!answer) return;
  }
  if (refused) toast('warn', t('refused', { count: refused }));
  segmenter.cancel();
  segmenter.fail(null);
  pictures.forget();
  view.clear();
  view.fitted = true;
  editor.slices = slices;
  editor.index = 0;
  editor.window = null;
  prepared = '';
  editor.changed('series');
}

/**
 * @param {string} what
 * @param {(slice: Slice) => Blob | null | Promise<Blob | null>} make
 */
async function exporting(what, make) {
  const { slice } = editor;
  if (!slice) return;
  const name = fileName(editor, what);
  const revision = slice.revision;
  try {
    const blob = await make(slice);
    if (!blob) return;
    save(blob, name);
    slice.saved = revision;
    toast('good', t('exported', { name }));
  } catch (error) {
    if (!(error instanceof Sam2Error)) throw error;
    toast('bad', `${t('exportFailed')}: ${error.code === 'not_acceptable' ? t('segMissing') : failureTitle(error)} ${failureDetail(error)}`);
    panel.refresh();
  }
}

/** @param {import('./dicom.js').Window | null} window */
function setWindow(window) {
  editor.window = window;
  editor.changed('window');
}

function undo() {
  if (!tools.cancel() && editor.slice?.undo()) editor.changed('annotation');
}

function redo() {
  if (!tools.cancel() && editor.slice?.redo()) editor.changed('annotation');
}

/** @param {number} direction */
function resizeBrush(direction) {
  const size = element('brush-size', HTMLInputElement);
  size.value = String(Math.round(Number(size.value) * (direction > 0 ? 1.2 : 0.83)) + direction);
  size.dispatchEvent(new Event('input'));
}

function openHelp() {
  keys.list(element('help-keys', HTMLElement));
  element('token-forget', HTMLElement).hidden = !box.hasToken;
  element('help-sheet', HTMLDialogElement).showModal();
}

/** @param {string} text */
function smallBusy(text) {
  element('small-busy', HTMLElement).hidden = text === '';
  element('small-busy-text', HTMLElement).textContent = text;
}

/**
 * @param {string} id
 * @param {() => void} run
 */
function click(id, run) {
  element(id, HTMLElement).addEventListener('click', run);
}
