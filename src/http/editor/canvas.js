/**
 * @file The stage: picture, mask and drawing aids, and where on the picture a pointer is.
 *
 * Three canvases lie on each other. `picture` and `mask` have the image's own pixels and are placed by a CSS
 * transform, so zooming and fading cost nothing and the mask canvas holds exactly what is exported. `overlay` has
 * the screen's pixels and carries lines: outlines, clicks, boxes, the brush's ring, the keyboard's crosshair.
 *
 * What it does not do: change an annotation, or know tools.
 */
import { trace } from './outline.js';
import { boundingBox } from './mask.js';

/** @typedef {import('./state.js').Slice} Slice */
/** @typedef {import('./mask.js').Point} Point */
/** @typedef {import('./mask.js').Rect} Rect */
/** @typedef {{rectangle?: Rect | null, rectangleKind?: 'box' | 'mark', polygon?: Point[], pointer?: Point | null, brush?: number, crosshair?: Point | null}} Aids what a tool wants drawn, in image coordinates */

export const MASK_RGB = [39, 196, 255];
const ENLARGED = 3;
const MAX_SCALE = 64;
/** Little-endian RGBA, as every machine with a browser has it. */
const MASK_WORD = (0xff000000 | (MASK_RGB[2] << 16) | (MASK_RGB[1] << 8) | MASK_RGB[0]) >>> 0;

export class View {
  /** @param {HTMLElement} root holds the three canvases */
  constructor(root) {
    this.root = root;
    this.picture = canvas('picture');
    this.mask = canvas('mask');
    this.overlay = canvas('overlay');
    this.pictureContext = context2d(this.picture, true);
    this.maskContext = context2d(this.mask, true);
    this.overlayContext = context2d(this.overlay, false);
    /** @type {Slice | null} */
    this.slice = null;
    /** @type {ImageBitmap | null} */
    this.bitmap = null;
    /** CSS pixels per image pixel across; down it is `scale * aspect`. */
    this.scale = 1;
    this.aspect = 1;
    this.offset = { x: 0, y: 0 };
    /** Whether the user has moved or zoomed; if not, the picture stays fitted. */
    this.fitted = true;
    this.marksRectangle = false;
    this.outlineVisible = true;
    /** @type {Aids} */
    this.aids = {};
    /** @type {Path2D | null} */
    this.outline = null;
    this.drawing = 0;
    /** Lines and marks grow with the page's letters, so that they show on large screens. */
    this.unit = 1;
    this.onMoved = () => {};
    new ResizeObserver(() => this.resize()).observe(root);
  }

  /**
   * @param {Slice} slice
   * @param {ImageBitmap} bitmap
   */
  show(slice, bitmap) {
    const sameSize = this.picture.width === bitmap.width && this.picture.height === bitmap.height && this.bitmap !== null;
    this.slice = slice;
    this.bitmap = bitmap;
    const spacing = slice.spacingMm;
    this.aspect = spacing ? spacing.row / spacing.column : 1;
    if (!sameSize) {
      for (const layer of [this.picture, this.mask]) {
        layer.width = bitmap.width;
        layer.height = bitmap.height;
      }
    }
    this.pictureContext.drawImage(bitmap, 0, 0);
    this.root.dataset.shown = 'true';
    this.paintMask();
    if (!sameSize || this.fitted) this.fit();
    else this.place();
  }

  /** Empties the stage. */
  clear() {
    this.slice = null;
    this.bitmap = null;
    delete this.root.dataset.shown;
    for (const layer of [this.picture, this.mask]) layer.width = layer.height = 0;
    this.outline = null;
    this.draw();
  }

  /**
   * Paints the mask layer anew, or the part that changed.
   * @param {Rect | null} [part]
   */
  paintMask(part = null) {
    const { slice } = this;
    if (!slice || !this.mask.width) return;
    const whole = { x: 0, y: 0, width: slice.width, height: slice.height };
    const area = part ? clip(part, whole) : whole;
    if (area.width > 0 && area.height > 0) {
      const image = new ImageData(area.width, area.height);
      const words = new Uint32Array(image.data.buffer);
      const data = slice.mask?.data;
      for (let y = 0; data && y < area.height; y++) {
        const row = (area.y + y) * slice.width + area.x;
        for (let x = 0; x < area.width; x++) if (data[row + x]) words[y * area.width + x] = MASK_WORD;
      }
      this.maskContext.putImageData(image, area.x, area.y);
    }
    this.outline = null;
    this.draw();
  }

  /** @param {number} opacity @param {boolean} visible */
  fade(opacity, visible) {
    this.mask.style.opacity = String(visible ? opacity : 0);
    this.outlineVisible = visible;
    this.draw();
  }

  fit() {
    if (!this.bitmap) return;
    const { clientWidth, clientHeight } = this.root;
    const [width, height] = [this.bitmap.width, this.bitmap.height * this.aspect];
    this.scale = Math.max(0.01, Math.min(clientWidth / width, clientHeight / height) * 0.96);
    this.offset = { x: (clientWidth - width * this.scale) / 2, y: (clientHeight - height * this.scale) / 2 };
    this.fitted = true;
    this.place();
  }

  /**
   * @param {number} factor
   * @param {Point} [at] what stays where it is, in the stage's pixels; its middle when absent
   */
  zoom(factor, at = { x: this.root.clientWidth / 2, y: this.root.clientHeight / 2 }) {
    const scale = Math.min(MAX_SCALE, Math.max(0.05, this.scale * factor));
    const grown = scale / this.scale;
    this.offset = { x: at.x - (at.x - this.offset.x) * grown, y: at.y - (at.y - this.offset.y) * grown };
    this.scale = scale;
    this.fitted = false;
    this.place();
  }

  /** @param {number} dx @param {number} dy */
  pan(dx, dy) {
    this.offset = { x: this.offset.x + dx, y: this.offset.y + dy };
    this.fitted = false;
    this.place();
  }

  /**
   * From the page to the picture, in edge coordinates.
   * @param {{clientX: number, clientY: number}} event
   * @returns {Point}
   */
  toImage(event) {
    const at = this.toStage(event);
    return { x: (at.x - this.offset.x) / this.scale, y: (at.y - this.offset.y) / (this.scale * this.aspect) };
  }

  /** @param {{clientX: number, clientY: number}} event @returns {Point} */
  toStage(event) {
    const frame = this.root.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top };
  }

  /** @param {Point} point @returns {Point} stage pixels */
  fromImage(point) {
    return { x: this.offset.x + point.x * this.scale, y: this.offset.y + point.y * this.scale * this.aspect };
  }

  /** @param {Point} point */
  inside(point) {
    return this.bitmap !== null && point.x >= 0 && point.y >= 0 && point.x < this.bitmap.width && point.y < this.bitmap.height;
  }

  /** The shown colour of a pixel. @param {Point} point @returns {number[] | null} */
  colourAt(point) {
    if (!this.inside(point)) return null;
    return [...this.pictureContext.getImageData(Math.floor(point.x), Math.floor(point.y), 1, 1).data.slice(0, 3)];
  }

  /** @param {Aids} aids merged into what is shown */
  aid(aids) {
    Object.assign(this.aids, aids);
    this.draw();
  }

  resize() {
    this.unit = Math.max(1, parseFloat(getComputedStyle(document.documentElement).fontSize) / 14);
    const ratio = window.devicePixelRatio || 1;
    this.overlay.width = Math.round(this.root.clientWidth * ratio);
    this.overlay.height = Math.round(this.root.clientHeight * ratio);
    this.overlay.style.width = `${this.root.clientWidth}px`;
    this.overlay.style.height = `${this.root.clientHeight}px`;
    if (this.fitted) this.fit();
    else this.draw();
  }

  place() {
    const transform = `translate(${this.offset.x}px, ${this.offset.y}px) scale(${this.scale}, ${this.scale * this.aspect})`;
    this.picture.style.transform = transform;
    this.mask.style.transform = transform;
    // Far enlarged, a pixel should look like a pixel; before that, smoothing shows more anatomy.
    this.picture.classList.toggle('enlarged', this.scale >= ENLARGED * 2);
    this.onMoved();
    this.draw();
  }

  /** Draws the overlay with the next frame. */
  draw() {
    if (!this.drawing) this.drawing = requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    this.drawing = 0;
    const ratio = window.devicePixelRatio || 1;
    const pen = this.overlayContext;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.root.clientWidth, this.root.clientHeight);
    if (!this.slice || !this.bitmap) return;
    if (this.outlineVisible) {
      this.drawOutline(pen);
      if (this.marksRectangle) this.drawMark(pen);
    }
    if (this.slice.box) this.drawRectangle(pen, this.slice.box, '#ffd24d', [6, 4]);
    for (const click of this.slice.clicks) this.drawClick(pen, click);
    this.drawAids(pen);
  }

  /** @param {CanvasRenderingContext2D} pen */
  drawOutline(pen) {
    if (!this.slice?.mask) return;
    this.outline ??= pathOf(trace(this.slice.mask));
    const path = new Path2D();
    path.addPath(this.outline, new DOMMatrix([this.scale, 0, 0, this.scale * this.aspect, this.offset.x, this.offset.y]));
    pen.lineJoin = 'round';
    this.stroke(pen, path, `rgb(${MASK_RGB.join(' ')})`, 1.5, []);
  }

  /** The L3 mark: the rectangle that the annotation will be. @param {CanvasRenderingContext2D} pen */
  drawMark(pen) {
    const box = this.slice?.mask && boundingBox(this.slice.mask);
    if (box) this.drawRectangle(pen, box, '#ffffff', []);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {Rect} box
   * @param {string} colour
   * @param {number[]} dash
   */
  drawRectangle(pen, box, colour, dash) {
    const a = this.fromImage(box);
    const b = this.fromImage({ x: box.x + box.width, y: box.y + box.height });
    const path = new Path2D();
    path.rect(a.x, a.y, b.x - a.x, b.y - a.y);
    this.stroke(pen, path, colour, 1.5, dash);
  }

  /** @param {CanvasRenderingContext2D} pen @param {{x: number, y: number, label: 0 | 1}} click */
  drawClick(pen, { x, y, label }) {
    // A click names a pixel; its mark sits on the pixel's middle. Sign and shape tell as much as the colour.
    const at = this.fromImage({ x: x + 0.5, y: y + 0.5 });
    const size = 7 * this.unit;
    pen.beginPath();
    pen.arc(at.x, at.y, size, 0, 2 * Math.PI);
    pen.fillStyle = label ? '#0c8f4a' : '#c62828';
    pen.fill();
    pen.lineWidth = 1.5 * this.unit;
    pen.strokeStyle = '#ffffff';
    pen.setLineDash([]);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(at.x - size / 2, at.y);
    pen.lineTo(at.x + size / 2, at.y);
    if (label) {
      pen.moveTo(at.x, at.y - size / 2);
      pen.lineTo(at.x, at.y + size / 2);
    }
    pen.stroke();
  }

  /** @param {CanvasRenderingContext2D} pen */
  drawAids(pen) {
    const { rectangle, rectangleKind, polygon, pointer, brush, crosshair } = this.aids;
    if (rectangle) this.drawRectangle(pen, rectangle, rectangleKind === 'box' ? '#ffd24d' : '#ffffff', [6, 4]);
    if (polygon?.length) {
      const path = new Path2D();
      [...polygon, ...(pointer ? [pointer] : [])].forEach((point, i) => {
        const at = this.fromImage(point);
        if (i) path.lineTo(at.x, at.y);
        else path.moveTo(at.x, at.y);
      });
      this.stroke(pen, path, '#ffffff', 1.5, []);
      for (const point of polygon) {
        const at = this.fromImage(point);
        pen.fillStyle = '#ffffff';
        pen.fillRect(at.x - 3, at.y - 3, 6, 6);
      }
    }
    if (brush && pointer) {
      const at = this.fromImage(pointer);
      const path = new Path2D();
      path.ellipse(at.x, at.y, Math.max(2, (brush / 2) * this.scale), Math.max(2, (brush / 2) * this.scale * this.aspect), 0, 0, 2 * Math.PI);
      this.stroke(pen, path, '#ffffff', 1.2, []);
    }
    if (crosshair) {
      const at = this.fromImage({ x: crosshair.x + 0.5, y: crosshair.y + 0.5 });
      const path = new Path2D();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        path.moveTo(at.x + 5 * dx, at.y + 5 * dy);
        path.lineTo(at.x + 18 * dx, at.y + 18 * dy);
      }
      this.stroke(pen, path, '#ffe08a', 2, []);
    }
  }

  /**
   * A line that shows on bone and on air: dark under light.
   * @param {CanvasRenderingContext2D} pen
   * @param {Path2D} path
   * @param {string} colour
   * @param {number} width
   * @param {number[]} dash
   */
  stroke(pen, path, colour, width, dash) {
    pen.setLineDash([]);
    pen.lineWidth = (width + 2) * this.unit;
    pen.strokeStyle = '#000000a0';
    pen.stroke(path);
    pen.setLineDash(dash.map((length) => length * this.unit));
    pen.lineWidth = width * this.unit;
    pen.strokeStyle = colour;
    pen.stroke(path);
  }
}

/** @param {Point[][]} rings */
export function pathOf(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    ring.forEach(({ x, y }, i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}

/**
 * @param {Rect} part
 * @param {Rect} whole
 * @returns {Rect}
 */
function clip(part, whole) {
  const [x, y] = [Math.max(0, Math.floor(part.x)), Math.max(0, Math.floor(part.y))];
  return { x, y, width: Math.min(whole.width, Math.ceil(part.x + part.width)) - x, height: Math.min(whole.height, Math.ceil(part.y + part.height)) - y };
}

/** @param {string} id */
function canvas(id) {
  const element = document.getElementById(id);
  if (!(element instanceof HTMLCanvasElement)) throw new Error(`the page has no canvas "${id}"`);
  return element;
}

/** @param {HTMLCanvasElement} element @param {boolean} read */
function context2d(element, read) {
  const context = element.getContext('2d', { willReadFrequently: read });
  if (!context) throw new Error('this browser has no canvas');
  return context;
}
