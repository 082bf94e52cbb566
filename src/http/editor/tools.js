/**
 * @file Hands on the picture: pointer and keyboard become clicks, strokes, shapes, moves and windows.
 *
 * Every tool works the same on an AI mask, on a hand-drawn one and on none. The left button acts with the tool,
 * the right one always drags the window, the middle one (or Space) always moves. With the keyboard, arrows move a
 * crosshair and Enter acts there, so nothing needs a mouse.
 *
 * What it does not do: ask the box; it tells `actions`.
 */
import { brush, emptyMask, fillHoles, fillPolygon, fillRectangle, keepLargest, sameMask } from './mask.js';

/** @typedef {import('./mask.js').Point} Point */
/** @typedef {import('./mask.js').Rect} Rect */
/** @typedef {import('./mask.js').Mask} Mask */
/** @typedef {{move?: (event: PointerEvent) => void, up?: (event: PointerEvent) => void, cancel?: () => void}} Gesture */
/**
 * @typedef {object} Actions what a hand asks for beyond drawing
 * @property {(point: Point, label: 0 | 1) => void} click
 * @property {(box: Rect) => void} box
 * @property {(dWidth: number, dCenter: number, done: boolean) => void} dragWindow in stage pixels
 * @property {(steps: number) => void} leaf
 * @property {(point: Point | null) => void} hover
 * @property {(point: Point) => void} announce
 */

/** A hand is not still: below this a drag is a click. */
const DRAG_PX = 5;
const CLOSE_PX = 9;
/** What most wheels tell for one notch. */
const NOTCH_PX = 100;
/** Some tell lines, three to a notch. */
const LINE_PX = NOTCH_PX / 3;
/** Less than any wheel's notch, more than a finger's tremble. */
const LEAF_PX = 40;
const ZOOM_A_NOTCH = 0.18;

export class Tools {
  /**
   * @param {import('./state.js').Editor} editor
   * @param {import('./canvas.js').View} view
   * @param {Actions} actions
   */
  constructor(editor, view, actions) {
    this.editor = editor;
    this.view = view;
    this.actions = actions;
    /** @type {Gesture | null} */
    this.gesture = null;
    /** @type {Point[]} */
    this.polygon = [];
    /** @type {Point | null} the keyboard's place, a pixel */
    this.crosshair = null;
    /** @type {Point | null} a first corner set by keyboard */
    this.corner = null;
    this.spaceHeld = false;
    /** @type {{clientX: number, clientY: number} | null} the pointer's place on the page, while it is over the stage */
    this.pointer = null;
    /** Whether the crosshair moved last, and not the pointer. */
    this.byKeyboard = false;
    /** How far the wheel was turned since the last slice. */
    this.turned = 0;
    const { root } = view;
    root.addEventListener('pointerdown', (event) => this.down(event));
    root.addEventListener('pointermove', (event) => this.moved(event));
    root.addEventListener('pointerup', (event) => this.released(event));
    root.addEventListener('pointercancel', () => this.cancel());
    root.addEventListener('pointerleave', () => this.left());
    root.addEventListener('dblclick', (event) => this.doubled(event));
    root.addEventListener('contextmenu', (event) => event.preventDefault());
    root.addEventListener('wheel', (event) => this.wheeled(event), { passive: false });
    root.addEventListener('keydown', (event) => this.key(event));
    root.addEventListener('keyup', (event) => this.keyUp(event));
    root.addEventListener('blur', () => this.blurred());
  }

  /** @param {string} tool */
  choose(tool) {
    this.cancel();
    this.editor.tool = tool;
    this.editor.changed('tool');
    this.refresh();
  }

  /** Shows the cursor that fits the tool. */
  refresh() {
    const { tool } = this.editor;
    const brushes = tool === 'brush' || tool === 'eraser';
    this.view.root.dataset.cursor = this.spaceHeld || tool === 'pan' ? 'grab' : tool === 'window' ? 'window' : brushes ? 'none' : 'cross';
    this.view.aid({ brush: brushes && !this.spaceHeld ? this.editor.brushSize : 0 });
  }

  /** Drops what is half done. Returns whether there was anything. */
  cancel() {
    const busy = this.gesture !== null || this.polygon.length > 0 || this.corner !== null;
    this.gesture?.cancel?.();
    this.gesture = null;
    this.polygon = [];
    this.corner = null;
    this.view.aid({ polygon: [], rectangle: null });
    this.refresh();
    return busy;
  }

  /**
   * Changes the mask as one step; nothing is kept of a change that changed nothing.
   * @param {(mask: Mask) => void} change
   */
  edit(change) {
    const { slice } = this.editor;
    if (!slice || !this.view.bitmap) return;
    const mask = slice.drawable();
    const before = { ...mask, data: mask.data.slice() };
    change(mask);
    if (sameMask(before, mask)) return;
    slice.commit();
    this.view.paintMask();
    this.editor.changed('annotation');
  }

  fillHoles() {
    this.edit(fillHoles);
  }

  keepLargest() {
    this.edit(keepLargest);
  }

  /** Mask, clicks and box of the slice. */
  clear() {
    const { slice } = this.editor;
    if (!slice || (!slice.mask && !slice.clicks.length && !slice.box)) return;
    this.cancel();
    slice.mask = emptyMask(slice.width, slice.height);
    slice.ai = null;
    slice.clicks = [];
    slice.box = null;
    slice.verdict = null;
    slice.keepManual = false;
    slice.commit();
    this.view.paintMask();
    this.editor.changed('annotation');
  }

  /** @param {PointerEvent} event */
  down(event) {
    if (this.gesture || !this.view.bitmap) return;
    this.view.root.dataset.byPointer = 'true';
    this.view.root.focus({ preventScroll: true });
    this.hideCrosshair();
    this.gesture = this.gestureFor(event);
    if (!this.gesture) return;
    this.view.root.setPointerCapture(event.pointerId);
    event.preventDefault();
  }

  /**
   * @param {PointerEvent} event
   * @returns {Gesture | null}
   */
  gestureFor(event) {
    const { tool } = this.editor;
    if (event.button === 1 || (event.button === 0 && (this.spaceHeld || tool === 'pan'))) return this.panning(event);
    if (event.button === 2 || tool === 'window') return this.windowing(event);
    if (event.button !== 0) return null;
    switch (tool) {
      case 'prompt':
        return this.prompting(event);
      case 'brush':
      case 'eraser':
        return this.stroking(event);
      case 'rectangle':
        return this.marking(event);
      default:
        return this.cornering(event);
    }
  }

  /** @param {PointerEvent} event @returns {Gesture} */
  panning(event) {
    let last = event;
    this.view.root.dataset.cursor = 'grabbing';
    return {
      move: (next) => {
        this.view.pan(next.clientX - last.clientX, next.clientY - last.clientY);
        last = next;
      },
      up: () => this.refresh(),
      cancel: () => this.refresh(),
    };
  }

  /** @param {PointerEvent} event @returns {Gesture} */
  windowing(event) {
    let last = event;
    const pass = (/** @type {PointerEvent} */ next, /** @type {boolean} */ done) => {
      this.actions.dragWindow(next.clientX - last.clientX, next.clientY - last.clientY, done);
      last = next;
    };
    return { move: (next) => pass(next, false), up: (next) => pass(next, true), cancel: () => this.actions.dragWindow(0, 0, true) };
  }

  /** @param {PointerEvent} event @returns {Gesture} */
  prompting(event) {
    const start = this.view.toImage(event);
    /** @type {Rect | null} */
    let box = null;
    return {
      move: (next) => {
        const far = Math.hypot(next.clientX - event.clientX, next.clientY - event.clientY) >= DRAG_PX;
        if (far || box) this.view.aid({ rectangle: (box = this.pixelRect(start, this.view.toImage(next))), rectangleKind: 'box' });
      },
      up: (last) => {
        this.view.aid({ rectangle: null });
        if (box) {
          if (box.width > 1 && box.height > 1) this.actions.box(box);
        } else if (this.view.inside(start)) {
          this.actions.click(pixel(start), last.altKey ? 0 : 1);
        }
      },
      cancel: () => this.view.aid({ rectangle: null }),
    };
  }

  /** @param {PointerEvent} event @returns {Gesture | null} */
  stroking(event) {
    const { slice } = this.editor;
    if (!slice) return null;
    const value = this.editor.tool === 'eraser' || event.altKey ? 0 : 1;
    const mask = slice.drawable();
    const before = { ...mask, data: mask.data.slice() };
    let last = this.view.toImage(event);
    const draw = (/** @type {Point} */ to) => {
      const size = this.editor.brushSize;
      brush(mask, last, to, size, value);
      const [x, y] = [Math.min(last.x, to.x) - size / 2 - 1, Math.min(last.y, to.y) - size / 2 - 1];
      this.view.paintMask({ x, y, width: Math.abs(last.x - to.x) + size + 2, height: Math.abs(last.y - to.y) + size + 2 });
      last = to;
      this.editor.changed('stroke');
    };
    draw(last);
    return {
      move: (next) => {
        // Between two frames the hand has been in more places than one event tells.
        const places = next.getCoalescedEvents?.() ?? [];
        for (const place of places.length ? places : [next]) draw(this.view.toImage(place));
      },
      up: () => {
        if (sameMask(before, mask)) return;
        slice.commit();
        this.editor.changed('annotation');
      },
      cancel: () => {
        mask.data.set(before.data);
        this.view.paintMask();
      },
    };
  }

  /** @param {PointerEvent} event @returns {Gesture} */
  marking(event) {
    const start = this.view.toImage(event);
    return {
      move: (next) => this.view.aid({ rectangle: this.pixelRect(start, this.view.toImage(next)), rectangleKind: 'mark' }),
      up: (last) => {
        this.view.aid({ rectangle: null });
        this.rectangle(this.pixelRect(start, this.view.toImage(last)), last);
      },
      cancel: () => this.view.aid({ rectangle: null }),
    };
  }

  /** @param {PointerEvent} event @returns {Gesture} */
  cornering(event) {
    return {
      up: (last) => {
        const point = this.view.toImage(event);
        const [first] = this.polygon;
        const near = first && this.polygon.length > 2 && distance(this.view.fromImage(first), this.view.toStage(event)) < CLOSE_PX;
        if (near) this.closePolygon(last.altKey);
        else this.addCorner(point);
      },
    };
  }

  /** @param {Point} point */
  addCorner(point) {
    this.polygon.push(point);
    this.view.aid({ polygon: this.polygon });
  }

  /** @param {boolean} away */
  closePolygon(away) {
    const ring = this.polygon;
    this.polygon = [];
    this.view.aid({ polygon: [] });
    if (ring.length > 2) this.edit((mask) => fillPolygon(mask, ring, away ? 0 : 1));
  }

  /**
   * @param {Rect} rect
   * @param {{altKey: boolean, shiftKey: boolean}} event
   */
  rectangle(rect, { altKey, shiftKey }) {
    if (rect.width < 1 || rect.height < 1) return;
    // L3 is one vertebra and one rectangle: drawing it again means drawing it anew.
    const anew = this.editor.context === 'L3' && !altKey && !shiftKey;
    this.edit((mask) => {
      if (anew) mask.data.fill(0);
      fillRectangle(mask, rect, { x: rect.x + rect.width, y: rect.y + rect.height }, altKey ? 0 : 1);
    });
  }

  /** @param {PointerEvent} event */
  moved(event) {
    this.pointer = { clientX: event.clientX, clientY: event.clientY };
    this.byKeyboard = false;
    this.hover();
    this.gesture?.move?.(event);
  }

  /** Tells what is pointed at now; it changes as well when the picture moves, or another one comes, under a resting hand. */
  hover() {
    const point = this.pointer && this.view.toImage(this.pointer);
    this.view.aid({ pointer: point });
    const { crosshair } = this;
    const at = this.byKeyboard && crosshair ? { x: crosshair.x + 0.5, y: crosshair.y + 0.5 } : point;
    this.actions.hover(at && this.view.inside(at) ? at : null);
  }

  /** @param {PointerEvent} event */
  released(event) {
    const { gesture } = this;
    this.gesture = null;
    gesture?.up?.(event);
  }

  left() {
    if (this.gesture) return;
    this.pointer = null;
    this.hover();
  }

  /** @param {MouseEvent} event */
  doubled(event) {
    if (this.editor.tool === 'polygon' && this.polygon.length) this.closePolygon(event.altKey);
  }

  /** @param {WheelEvent} event */
  wheeled(event) {
    event.preventDefault();
    if (!this.view.bitmap) return;
    // A busy browser tells two notches as one event, a touchpad tells one as twenty: what counts is the way turned.
    const turned = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : LINE_PX);
    if (this.editor.slices.length < 2 || event.ctrlKey || event.metaKey) {
      this.view.zoom(Math.exp((-turned / NOTCH_PX) * ZOOM_A_NOTCH), this.view.toStage(event));
      return;
    }
    this.turned = Math.sign(turned) === Math.sign(this.turned) ? this.turned + turned : turned;
    if (Math.abs(this.turned) < LEAF_PX) return;
    this.actions.leaf(Math.sign(this.turned) * Math.max(1, Math.round(Math.abs(this.turned) / NOTCH_PX)));
    this.turned = 0;
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step && !event.ctrlKey && !event.metaKey) this.step(step[0], step[1], event.shiftKey ? 10 : 1);
    else if (event.key === 'Enter') this.act(event);
    else if (event.key === 'Backspace' && this.polygon.length) this.view.aid({ polygon: (this.polygon = this.polygon.slice(0, -1)) });
    else if (event.key === ' ') {
      this.spaceHeld = true;
      this.refresh();
    } else return;
    event.preventDefault();
  }

  /** @param {KeyboardEvent} event */
  keyUp(event) {
    if (event.key !== ' ') return;
    this.spaceHeld = false;
    this.refresh();
  }

  blurred() {
    this.spaceHeld = false;
    delete this.view.root.dataset.byPointer;
    this.hideCrosshair();
    this.refresh();
  }

  /**
   * @param {number} dx
   * @param {number} dy
   * @param {number} by
   */
  step(dx, dy, by) {
    const { bitmap } = this.view;
    if (!bitmap) return;
    const from = this.crosshair ?? { x: Math.floor(bitmap.width / 2), y: Math.floor(bitmap.height / 2) };
    const moved = this.crosshair ? { x: from.x + dx * by, y: from.y + dy * by } : from;
    this.crosshair = { x: Math.min(Math.max(moved.x, 0), bitmap.width - 1), y: Math.min(Math.max(moved.y, 0), bitmap.height - 1) };
    this.view.aid({ crosshair: this.crosshair, ...(this.corner ? { rectangle: this.cornerRect() } : {}) });
    this.byKeyboard = true;
    delete this.view.root.dataset.byPointer;
    this.hover();
    this.actions.announce(this.crosshair);
  }

  /** @param {KeyboardEvent} event */
  act(event) {
    const at = this.crosshair;
    const { tool } = this.editor;
    if (tool === 'polygon' && this.polygon.length > 2 && (event.ctrlKey || !at || this.lastCornerAt(at))) return this.closePolygon(event.altKey);
    if (!at) return;
    const middle = { x: at.x + 0.5, y: at.y + 0.5 };
    if (tool === 'polygon') return this.addCorner(middle);
    if (tool === 'brush' || tool === 'eraser') {
      const value = tool === 'eraser' || event.altKey ? 0 : 1;
      return this.edit((mask) => brush(mask, middle, middle, this.editor.brushSize, value));
    }
    if (tool === 'prompt' && !event.shiftKey) return this.actions.click(at, event.altKey ? 0 : 1);
    if (tool !== 'prompt' && tool !== 'rectangle') return;
    if (!this.corner) {
      this.corner = at;
      this.view.aid({ rectangle: this.cornerRect(), rectangleKind: tool === 'prompt' ? 'box' : 'mark' });
      return;
    }
    const rect = this.cornerRect();
    this.corner = null;
    this.view.aid({ rectangle: null });
    if (tool === 'prompt') this.actions.box(rect);
    else this.rectangle(rect, { altKey: event.altKey, shiftKey: false });
  }

  /** Both corners' pixels are within. @returns {Rect} */
  cornerRect() {
    const [a, b] = [this.corner ?? { x: 0, y: 0 }, this.crosshair ?? this.corner ?? { x: 0, y: 0 }];
    return { x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), width: Math.abs(a.x - b.x) + 1, height: Math.abs(a.y - b.y) + 1 };
  }

  /** @param {Point} at */
  lastCornerAt(at) {
    const last = this.polygon[this.polygon.length - 1];
    return last !== undefined && last.x === at.x + 0.5 && last.y === at.y + 0.5;
  }

  hideCrosshair() {
    this.crosshair = null;
    this.byKeyboard = false;
    this.view.aid({ crosshair: null });
  }

  /**
   * The pixels a drag from `a` to `b` means: whole ones, within the picture.
   * @param {Point} a
   * @param {Point} b
   * @returns {Rect}
   */
  pixelRect(a, b) {
    const [width, height] = [this.view.bitmap?.width ?? 0, this.view.bitmap?.height ?? 0];
    const within = (/** @type {number} */ value, /** @type {number} */ most) => Math.min(Math.max(Math.round(value), 0), most);
    const [x0, x1] = [within(Math.min(a.x, b.x), width), within(Math.max(a.x, b.x), width)];
    const [y0, y1] = [within(Math.min(a.y, b.y), height), within(Math.max(a.y, b.y), height)];
    return { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
  }
}

/** @param {Point} point @returns {Point} */
function pixel({ x, y }) {
  return { x: Math.floor(x), y: Math.floor(y) };
}

/** @param {Point} a @param {Point} b */
function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}
