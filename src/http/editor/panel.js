/**
 * @file The words and numbers around the stage, written anew from the state whenever it changes.
 *
 * It only reads: what stands on the page follows from the state, never from what was there before.
 */
import { element } from './dialogs.js';
import { plane } from './dicom.js';
import { areaOf } from './export.js';
import { number, t } from './i18n.js';
import { boundingBox, isEmpty } from './mask.js';
import { trace, signedArea } from './outline.js';
import { failureDetail, failureTitle, LOW_CONFIDENCE } from './segment.js';

/** @typedef {import('./state.js').Editor} Editor */
/** @typedef {import('./state.js').Slice} Slice */
/** @typedef {import('./api.js').Box} Box */
/** @typedef {import('./segment.js').Segmenter} Segmenter */

export class Panel {
  /**
   * @param {Editor} editor
   * @param {Box} box
   * @param {Segmenter} segmenter
   */
  constructor(editor, box, segmenter) {
    this.editor = editor;
    this.box = box;
    this.segmenter = segmenter;
    /** Whether the picture of the slice on the screen could be shown. */
    this.shown = false;
  }

  refresh() {
    this.boxState();
    this.oneClick();
    this.failure();
    this.result();
    this.buttons();
    this.series();
    this.windowFields();
  }

  boxState() {
    const { kind, reason, model, demonstration, warnings } = this.box.state;
    const token = this.box.needsToken && kind !== 'down';
    const state = element('box-state', HTMLElement);
    state.dataset.kind = token ? 'token' : kind;
    const names = { unknown: t('boxUnknown'), ready: t('boxReady'), manual: t('boxManual'), down: t('boxDown') };
    const more = kind === 'ready' ? model : kind === 'manual' ? reason : '';
    element('box-state-text', HTMLElement).textContent = token ? t('boxToken') : [names[kind], more].filter(Boolean).join(' · ');
    const banner = element('banner', HTMLElement);
    banner.hidden = kind !== 'manual' && kind !== 'down';
    banner.textContent = kind === 'down' ? t('bannerDown') : kind === 'manual' ? t('bannerManual', { reason: (reason || t('reasonHidden')).replace(/[.。]$/, '') }) : '';
    element('demonstration', HTMLElement).hidden = !demonstration;
    element('box-warnings', HTMLElement).replaceChildren(...withoutDemonstration(warnings).map((warning) => item('li', warning)));
  }

  oneClick() {
    const why = this.whyNot();
    element('one-click', HTMLButtonElement).disabled = why !== '' || this.segmenter.running !== null;
    element('one-click-why', HTMLElement).textContent = why;
    element('other-context', HTMLElement).textContent = this.otherContext();
  }

  /** That the slice lies otherwise in the patient than the chosen context takes for granted. */
  otherContext() {
    const lies = plane(this.editor.slice?.source.header?.orientation ?? []);
    if (this.editor.context === 'L3' && lies === 'axial') return t('looksAxial');
    return this.editor.context === 'middle' && lies === 'sagittal' ? t('looksSagittal') : '';
  }

  /** Why one click is not possible now; empty when it is. */
  whyNot() {
    const { kind, reason } = this.box.state;
    if (!this.editor.slice) return t('oneClickNoImage');
    if (kind === 'unknown') return t('oneClickAsking');
    if (kind === 'down') return t('oneClickDown');
    if (kind === 'manual') return t('oneClickNoEngine', { reason: sentence(reason || t('reasonHidden')) });
    return this.shown ? '' : t('oneClickNoPicture');
  }

  failure() {
    const failure = this.segmenter.failure;
    const card = element('failure', HTMLElement);
    card.hidden = !failure || failure.task.slice !== this.editor.slice;
    if (!failure) return;
    const { error } = failure;
    const requestId = 'requestId' in error && typeof error.requestId === 'string' ? error.requestId : '';
    element('failure-title', HTMLElement).textContent = failureTitle(error);
    element('failure-detail', HTMLElement).textContent = failureDetail(error);
    element('failure-id', HTMLElement).textContent = requestId ? t('requestId', { id: requestId }) : '';
    element('retry', HTMLButtonElement).disabled = this.segmenter.running !== null || !this.box.ready;
  }

  result() {
    const { slice } = this.editor;
    const something = slice !== null && (!isEmpty(slice.mask) || slice.verdict !== null);
    element('result', HTMLElement).hidden = !something;
    const empty = element('result-empty', HTMLElement);
    empty.hidden = something;
    empty.textContent = !slice ? t('resultNoPicture') : this.box.ready ? t('resultAsk') : t('resultDraw');
    if (!slice || !something) return;
    const { verdict, origin } = slice;
    const badges = [];
    if (origin !== 'empty') badges.push(badge({ ai: t('originAi'), manual: t('originManual'), corrected: t('originCorrected') }[origin], origin === 'ai' ? '' : 'manual'));
    if (verdict?.cached) badges.push(badge(t('cached'), 'cached', t('cachedHint')));
    if (verdict) badges.push(badge(t('timeMs', { ms: number(verdict.timeMs, 0) })));
    element('result-badges', HTMLElement).replaceChildren(...badges);
    element('confidence-row', HTMLElement).hidden = verdict === null;
    element('confidence-low', HTMLElement).hidden = verdict === null || verdict.confidence >= LOW_CONFIDENCE;
    element('confidence', HTMLMeterElement).value = verdict?.confidence ?? 0;
    element('confidence-text', HTMLElement).textContent = t('confidence', { percent: number((verdict?.confidence ?? 0) * 100, 0) });
    element('result-facts', HTMLElement).replaceChildren(...this.facts(slice));
    element('result-warnings', HTMLElement).replaceChildren(...withoutDemonstration(verdict?.warnings ?? []).map((warning) => item('li', warning)));
  }

  /** @param {Slice} slice */
  facts(slice) {
    const { px, mm2 } = areaOf(slice);
    /** @type {Array<[string, string]>} */
    const rows = [];
    const inPixels = t('areaPx', { px: number(px, 0) });
    rows.push([t('area'), mm2 === null ? `${inPixels} · ${t('noSpacing')}` : `${t('areaMm', { mm: number(mm2, 0) })} · ${inPixels}`]);
    const box = slice.mask && boundingBox(slice.mask);
    if (box && this.editor.context === 'L3') rows.push([t('rectangle'), `${box.x}, ${box.y} · ${box.width} × ${box.height}`]);
    else if (slice.mask && box) rows.push([t('parts'), number(trace(slice.mask).filter((ring) => signedArea(ring) > 0).length, 0)]);
    if (slice.clicks.length || slice.box) {
      const plus = slice.clicks.filter((click) => click.label === 1).length;
      const clicks = t('clicks', { plus, minus: slice.clicks.length - plus });
      rows.push([t('prompts'), !slice.clicks.length ? t('boxOnly') : slice.box ? t('andBox', { clicks }) : clicks]);
    }
    return rows.flatMap(([name, value]) => [item('dt', name), item('dd', value)]);
  }

  buttons() {
    const { slice } = this.editor;
    const { shown } = this;
    const noMask = !slice || isEmpty(slice.mask);
    disable('undo', !slice?.past.length);
    disable('redo', !slice?.future.length);
    disable('fill-holes', noMask);
    disable('largest', noMask);
    disable('clear', noMask && !slice?.clicks.length && !slice?.box);
    disable('fit', !shown);
    disable('export-mask', noMask || !shown);
    disable('export-overlay', noMask || !shown);
    disable('export-json', this.editor.slices.every((one) => isEmpty(one.mask)));
    const why = this.whyNoSegmentation();
    disable('export-seg', why !== '');
    element('export-seg-why', HTMLElement).textContent = slice && !noMask ? why : '';
    element('tool-hint', HTMLElement).textContent = this.toolHint();
    for (const tool of document.querySelectorAll('[data-tool]')) tool.setAttribute('aria-pressed', String(tool.getAttribute('data-tool') === this.editor.tool));
  }

  /** How the tool in hand is used. */
  toolHint() {
    switch (this.editor.tool) {
      case 'prompt':
        return this.editor.slice && !this.box.ready ? t('noEngineClick') : t('toolPromptHint');
      case 'brush':
        return t('toolBrushHint');
      case 'eraser':
        return t('toolEraserHint');
      case 'polygon':
        return t('toolPolygonHint');
      case 'rectangle':
        return t('toolRectangleHint');
      case 'window':
        return t('toolWindowHint');
      default:
        return t('toolPanHint');
    }
  }

  whyNoSegmentation() {
    const { slice } = this.editor;
    if (!slice || isEmpty(slice.mask)) return t('exportNoMask');
    if (slice.source.kind !== 'dicom') return t('segNotDicom');
    if (!this.box.canSegment) return t('segMissing');
    if (slice.origin !== 'ai') return t('segEdited');
    return this.box.ready ? '' : t('segNoEngine');
  }

  series() {
    const { slices, index, slice } = this.editor;
    element('series', HTMLElement).hidden = slices.length < 2;
    const slider = element('slice', HTMLInputElement);
    slider.max = String(Math.max(1, slices.length));
    slider.value = String(index + 1);
    const text = t('sliceOf', { n: index + 1, count: slices.length });
    slider.setAttribute('aria-valuetext', text);
    element('slice-of', HTMLOutputElement).textContent = text;
    disable('previous', index === 0);
    disable('next', index >= slices.length - 1);
    const why = index >= slices.length - 1 ? t('nextFromLast') : !slice || isEmpty(slice.mask) ? t('nextFromNone') : !this.box.ready ? t('noEngineClick') : '';
    disable('next-from', why !== '');
    element('next-from', HTMLElement).title = why || `${t('nextFromHint')} (N)`;
    this.ticks();
  }

  /** Under the slider: where in the series masks are. */
  ticks() {
    const { slices, index } = this.editor;
    const canvas = element('ticks', HTMLCanvasElement);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    const pen = canvas.getContext('2d');
    if (!pen || slices.length < 2) return;
    const style = getComputedStyle(document.documentElement);
    // The slider's thumb does not reach the ends: its middle travels half a thumb short on both sides.
    const margin = 8 * ratio;
    const step = (canvas.width - 2 * margin) / (slices.length - 1);
    const width = Math.max(2 * ratio, Math.min(8 * ratio, step * 0.6));
    slices.forEach((slice, i) => {
      const marked = !isEmpty(slice.mask);
      if (!marked && i !== index && step < 4 * ratio) return;
      pen.fillStyle = style.getPropertyValue(marked ? '--accent' : i === index ? '--text' : '--edge-strong');
      const height = marked || i === index ? canvas.height : canvas.height / 2;
      pen.fillRect(margin + i * step - width / 2, canvas.height - height, width, height);
    });
  }

  windowFields() {
    const { slice } = this.editor;
    element('window-card', HTMLElement).hidden = !slice?.takesWindow;
    if (!slice) return;
    const window = this.editor.windowOf(slice);
    const [center, width] = [element('window-center', HTMLInputElement), element('window-width', HTMLInputElement)];
    // Not while someone types in it.
    if (document.activeElement !== center) center.value = window ? String(Math.round(window.center)) : '';
    if (document.activeElement !== width) width.value = window ? String(Math.round(window.width)) : '';
    const preset = element('window-preset', HTMLSelectElement);
    const own = this.editor.window;
    const name = own ? `${own.center},${own.width}` : '';
    preset.value = [...preset.options].some((option) => option.value === name) ? name : 'own';
    element('use-window', HTMLInputElement).checked = this.editor.useWindow;
  }
}

/**
 * @param {string} id
 * @param {boolean} off
 */
function disable(id, off) {
  element(id, HTMLButtonElement).disabled = off;
}

/**
 * @param {string} text
 * @param {string} [kind]
 * @param {string} [title]
 */
function badge(text, kind = '', title = '') {
  const made = item('span', text);
  made.className = `badge ${kind}`.trim();
  if (title) made.title = title;
  return made;
}

/**
 * @param {string} name
 * @param {string} text
 */
function item(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

/** That it is a demonstration is said above, in the page's language. @param {string[]} warnings */
function withoutDemonstration(warnings) {
  return warnings.filter((warning) => !/demonstration/i.test(warning));
}

/** @param {string} reason as the box gives it, with or without a full stop */
function sentence(reason) {
  return reason && !/[.!?。]$/.test(reason) ? `${reason}.` : reason;
}
