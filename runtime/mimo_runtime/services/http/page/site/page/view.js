// The picture with its layers: masks, contours, prompts, the cross of the keyboard, the scale bar.
import { outlineOf, tinted } from "./masks.js";

/** Colours of findings that people with colour blindness tell apart (Okabe and Ito). */
export const COLOURS = [[86, 180, 233], [230, 159, 0], [0, 200, 140], [240, 228, 66], [224, 140, 190], [255, 120, 60], [120, 150, 255]];
export const LEARNER = [255, 255, 255];
const PROMPT = [0, 229, 229];
const css = ([r, g, b], alpha = 1) => `rgb(${r} ${g} ${b} / ${alpha})`;

/** Draws the store's image on a canvas; converts positions. */
export class View {
  constructor(canvas, store) {
    this.canvas = canvas;
    this.store = store;
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.isFitted = true;
    this.cache = new WeakMap();
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    store.subscribe(() => this.redraw());
  }

  /** Height of a pixel divided by its width. */
  get aspect() {
    const [down, across] = this.store.value.frame?.spacing_mm ?? [1, 1];
    return down / across;
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * ratio));
    if (this.isFitted) this.fit();
    this.redraw();
  }

  /** Show the whole picture. */
  fit() {
    const { frame } = this.store.value;
    if (!frame) return;
    const { clientWidth, clientHeight } = this.canvas;
    this.scale = Math.min(clientWidth / frame.width, clientHeight / (frame.height * this.aspect)) * 0.96;
    this.left = (clientWidth - frame.width * this.scale) / 2;
    this.top = (clientHeight - frame.height * this.scale * this.aspect) / 2;
    this.isFitted = true;
    this.redraw();
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(60, Math.max(0.05, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.isFitted = false;
    this.redraw();
  }

  move(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.isFitted = false;
    this.redraw();
  }

  /** Pixels of the image, continuous, at a place on the canvas. */
  toImage(x, y) {
    return [(x - this.left) / this.scale, (y - this.top) / (this.scale * this.aspect)];
  }

  toCanvas([x, y]) {
    return [this.left + x * this.scale, this.top + y * this.scale * this.aspect];
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      const ratio = this.canvas.width / Math.max(1, this.canvas.clientWidth);
      const context = this.canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
      if (this.store.value.bitmap) this.paint(context);
    });
  }

  paint(context) {
    const { bitmap, frame, filter } = this.store.value;
    context.imageSmoothingEnabled = this.scale < 3;
    context.imageSmoothingQuality = "high";
    context.filter = filter || "none";
    this.place(context, bitmap, frame);
    context.filter = "none";
    this.paintFindings(context);
    this.paintPrompt(context);
    this.paintCross(context);
    this.paintScaleBar(context);
  }

  place(context, picture, { width, height }) {
    context.drawImage(picture, this.left, this.top, width * this.scale, height * this.scale * this.aspect);
  }

  /** The outline and the tinted picture of a mask; made once for every mask. */
  drawn(mask, colour, alpha) {
    if (!this.cache.has(mask)) {
      const { width, height } = this.store.value.frame;
      this.cache.set(mask, { path: outlineOf(mask, width, height), tint: tinted(mask, width, height, colour, alpha) });
    }
    return this.cache.get(mask);
  }

  /** Forget what was made of a mask that has changed. */
  forget(mask) {
    this.cache.delete(mask);
  }

  strokePath(context, path, colour, thickness, dash = []) {
    const placed = new Path2D();
    placed.addPath(path, new DOMMatrix([this.scale, 0, 0, this.scale * this.aspect, this.left, this.top]));
    context.setLineDash([]);
    context.lineWidth = thickness + 1.5;
    context.strokeStyle = "rgb(0 0 0 / 0.55)";
    if (!dash.length) context.stroke(placed);
    context.setLineDash(dash);
    context.lineWidth = thickness;
    context.strokeStyle = colour;
    context.stroke(placed);
    context.setLineDash([]);
  }

  paintFindings(context) {
    const { findings, lit, contours, frame, teaching, revealed, learner } = this.store.value;
    const isShown = !teaching || revealed;
    for (const [index, finding] of (isShown ? findings : []).entries()) {
      if (!finding.pixels) continue;
      const isDim = lit !== null && lit !== index;
      const { path, tint } = this.drawn(finding.pixels, finding.colour, 70);
      context.globalAlpha = isDim ? 0.25 : lit === index ? 1 : 0.75;
      this.place(context, tint, frame);
      if (lit === index) this.place(context, tint, frame);
      this.strokePath(context, path, css(finding.colour), lit === index ? 3 : 1.75);
      if (contours && !isDim) {
        for (const [band, dash] of [[finding.innerPixels, [2, 3]], [finding.outerPixels, [7, 4]]]) {
          if (band) this.strokePath(context, this.drawn(band, finding.colour, 0).path, css(finding.colour, 0.9), 1.25, dash);
        }
      }
      context.globalAlpha = 1;
    }
    if (teaching && learner) {
      const { path, tint } = this.drawn(learner, LEARNER, revealed ? 0 : 60);
      if (!revealed) this.place(context, tint, frame);
      this.strokePath(context, path, css(LEARNER), 2);
    }
  }

  paintPrompt(context) {
    const { prompt, sketch, frame } = this.store.value;
    const colour = css(PROMPT);
    if (prompt.mask) {
      const { path, tint } = this.drawn(prompt.mask, PROMPT, 60);
      this.place(context, tint, frame);
      this.strokePath(context, path, colour, 1.25, [3, 3]);
    }
    const boxes = sketch?.kind === "box" ? [...prompt.boxes, sketch.box] : prompt.boxes;
    for (const [x0, y0, x1, y1] of boxes) {
      const path = new Path2D();
      path.rect(x0, y0, x1 - x0, y1 - y0);
      this.strokePath(context, path, colour, 1.75, [6, 3]);
    }
    for (const [x, y, label] of prompt.points) this.paintPoint(context, this.toCanvas([x + 0.5, y + 0.5]), label);
    if (sketch?.kind === "outline" && sketch.points.length) {
      const path = new Path2D();
      sketch.points.forEach((point, i) => (i ? path.lineTo(...point) : path.moveTo(...point)));
      this.strokePath(context, path, css(this.store.value.teaching ? LEARNER : PROMPT), 1.75);
    }
  }

  paintPoint(context, [x, y], label) {
    context.beginPath();
    context.arc(x, y, 8, 0, 2 * Math.PI);
    context.fillStyle = label ? "#00784f" : "#b3261e";
    context.fill();
    context.strokeStyle = "white";
    context.lineWidth = 2;
    context.moveTo(x - 4, y);
    context.lineTo(x + 4, y);
    if (label) {
      context.moveTo(x, y - 4);
      context.lineTo(x, y + 4);
    }
    context.stroke();
  }

  paintCross(context) {
    const { cursor, tool, brush } = this.store.value;
    if (!cursor) return;
    const [x, y] = this.toCanvas(cursor);
    for (const [colour, thickness] of [["black", 3], ["white", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx, y + 4 * dy);
        context.lineTo(x + 16 * dx, y + 16 * dy);
      }
      context.stroke();
      if (tool === "brush" || tool === "erase") {
        context.beginPath();
        context.ellipse(x, y, brush * this.scale, brush * this.scale * this.aspect, 0, 0, 2 * Math.PI);
        context.stroke();
      }
    }
  }

  paintScaleBar(context) {
    const spacing = this.store.value.frame.spacing_mm;
    if (!spacing) return;
    const perMm = this.scale / spacing[1];
    const length = [1, 2, 5, 10, 20, 50, 100, 200].find((mm) => mm * perMm > 60) ?? 500;
    const [x, y] = [14, this.canvas.clientHeight - 14];
    for (const [colour, thickness] of [["black", 4], ["white", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.beginPath();
      context.moveTo(x, y - 4);
      context.lineTo(x, y);
      context.lineTo(x + length * perMm, y);
      context.lineTo(x + length * perMm, y - 4);
      context.stroke();
    }
    context.font = "12px system-ui, sans-serif";
    context.lineWidth = 3;
    context.strokeStyle = "black";
    context.strokeText(`${length} mm`, x + 4, y - 7);
    context.fillStyle = "white";
    context.fillText(`${length} mm`, x + 4, y - 7);
  }

  /** The picture with masks and outlines at the size of the image, without prompts. */
  async toPng() {
    const { frame } = this.store.value;
    const factor = Math.max(1, Math.ceil(512 / Math.max(frame.width, frame.height)));
    const copy = document.createElement("canvas");
    copy.width = Math.round(frame.width * factor);
    copy.height = Math.round(frame.height * factor * this.aspect);
    const kept = [this.scale, this.left, this.top];
    [this.scale, this.left, this.top] = [factor, 0, 0];
    const context = copy.getContext("2d");
    context.filter = this.store.value.filter || "none";
    this.place(context, this.store.value.bitmap, frame);
    context.filter = "none";
    this.paintFindings(context);
    [this.scale, this.left, this.top] = kept;
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }
}
