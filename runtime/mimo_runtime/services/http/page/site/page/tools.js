// Tools of the picture: mouse, pen, fingers and keys become boxes, points, masks, movements and windows.
import { areaOf, fillPolygon, stroke } from "./masks.js";

const DRAWN = ["brush", "outline", "erase"];

/**
 * Handles input on the canvas.
 * `actions`: commit(prompt), commitLearner(mask), step(slices), setWindow(window, isLast), stop().
 */
export class Tools {
  constructor(view, store, actions) {
    this.view = view;
    this.store = store;
    this.actions = actions;
    this.pointers = new Map();
    const { canvas } = view;
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    canvas.addEventListener("pointerup", (event) => this.onUp(event));
    canvas.addEventListener("pointercancel", () => this.giveUp());
    canvas.addEventListener("pointerleave", () => this.actions.hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("blur", () => this.store.set({ cursor: null }));
  }

  get state() {
    return this.store.value;
  }

  place(event) {
    const { left, top } = this.view.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  /** Within the image. */
  clamp([x, y]) {
    const { width, height } = this.state.frame;
    return [Math.min(width, Math.max(0, x)), Math.min(height, Math.max(0, y))];
  }

  // -- mouse, pen, fingers --------------------------------------------------------------------------------------------

  onDown(event) {
    if (!this.state.bitmap) return;
    this.view.canvas.focus({ preventScroll: true });
    this.store.set({ cursor: null });
    this.view.canvas.setPointerCapture(event.pointerId);
    const place = this.place(event);
    this.pointers.set(event.pointerId, place);
    if (this.pointers.size === 2) {
      this.giveUp(false);
      this.mode = "pinch";
      return;
    }
    const tool = event.button === 2 ? "window" : event.button === 1 ? "pan" : this.state.tool;
    this.mode = tool;
    this.start = place;
    this.startWindow = this.actions.window();
    if (tool === "box" || tool === "outline" || tool === "brush" || tool === "erase") this.begin(this.clamp(this.view.toImage(...place)));
  }

  onMove(event) {
    const place = this.place(event);
    if (this.state.bitmap) this.actions.hover(this.view.toImage(...place));
    if (!this.pointers.has(event.pointerId)) return;
    const before = this.pointers.get(event.pointerId);
    if (this.mode === "pinch") {
      this.pinch(event.pointerId, place);
    } else if (this.mode === "pan") {
      this.view.move(place[0] - before[0], place[1] - before[1]);
    } else if (this.mode === "window") {
      this.drag(place, false);
    } else {
      for (const part of event.getCoalescedEvents?.() ?? [event]) this.extend(this.clamp(this.view.toImage(...this.place(part))));
    }
    this.pointers.set(event.pointerId, place);
  }

  onUp(event) {
    if (!this.pointers.delete(event.pointerId) || !this.mode) return;
    const place = this.place(event);
    const mode = this.mode;
    if (this.pointers.size) return;
    this.mode = null;
    if (mode === "window") this.drag(place, true);
    if (mode === "plus" || mode === "minus") this.point(this.view.toImage(...place), mode === "plus" ? 1 : 0);
    if (this.state.sketch) this.finish();
  }

  /** Leave what is being drawn. */
  giveUp(clears = true) {
    if (clears) this.pointers.clear();
    this.mode = null;
    if (this.state.sketch) this.store.set({ sketch: null });
  }

  pinch(id, place) {
    const [other] = [...this.pointers].filter(([key]) => key !== id).map(([, value]) => value);
    const before = this.pointers.get(id);
    const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    this.view.move((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
    this.view.zoom(distance(place, other) / Math.max(1, distance(before, other)), (place[0] + other[0]) / 2, (place[1] + other[1]) / 2);
  }

  drag(place, isLast) {
    const [centre, width] = this.startWindow;
    const step = Math.max(width, 1) / 300;
    const [dx, dy] = [place[0] - this.start[0], place[1] - this.start[1]];
    if (dx || dy) this.actions.setWindow([centre + dy * step, Math.max(width * 0.01, width + dx * step)], isLast);
  }

  onWheel(event) {
    if (!this.state.bitmap) return;
    event.preventDefault();
    if (event.ctrlKey || this.state.series.frames.length === 1) {
      this.view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...this.place(event));
      return;
    }
    this.turned = (this.turned ?? 0) + event.deltaY * (event.deltaMode ? 30 : 1);
    const steps = Math.trunc(this.turned / 50);
    this.turned -= 50 * steps;
    if (steps) this.actions.step(steps);
  }

  // -- drawing --------------------------------------------------------------------------------------------------------

  begin(position) {
    const { tool, frame } = this.state;
    if (tool === "box") this.store.set({ sketch: { kind: "box", box: [...position, ...position] } });
    if (tool === "outline") this.store.set({ sketch: { kind: "outline", points: [position] } });
    if (tool === "brush" || tool === "erase") {
      const mask = this.copyOfMask();
      this.last = position;
      stroke(mask, frame.width, frame.height, position, position, this.state.brush, tool === "brush" ? 1 : 0);
      this.paintMask(mask);
      this.store.set({ sketch: { kind: "paint", mask } });
    }
  }

  extend(position) {
    const { sketch, frame, brush, tool } = this.state;
    if (!sketch) return;
    if (sketch.kind === "box") this.store.set({ sketch: { kind: "box", box: [...sketch.box.slice(0, 2), ...position] } });
    if (sketch.kind === "outline") this.store.set({ sketch: { kind: "outline", points: [...sketch.points, position] } });
    if (sketch.kind === "paint") {
      stroke(sketch.mask, frame.width, frame.height, this.last, position, brush, tool === "brush" ? 1 : 0);
      this.view.forget(sketch.mask);
      this.last = position;
      this.view.redraw();
    }
  }

  finish() {
    const { sketch, prompt, frame } = this.state;
    this.store.set({ sketch: null });
    if (sketch.kind === "box") {
      const [xa, ya, xb, yb] = sketch.box;
      const box = [Math.min(xa, xb), Math.min(ya, yb), Math.max(xa, xb), Math.max(ya, yb)];
      if (box[2] - box[0] >= 2 && box[3] - box[1] >= 2) this.actions.commit({ ...prompt, boxes: [...prompt.boxes, box] });
    }
    if (sketch.kind === "outline" && sketch.points.length > 2) {
      const mask = this.copyOfMask();
      fillPolygon(mask, frame.width, frame.height, sketch.points);
      this.commitMask(mask);
    }
    if (sketch.kind === "paint") this.commitMask(sketch.mask);
  }

  point([x, y], label) {
    const { prompt, frame } = this.state;
    const [column, row] = [Math.floor(x), Math.floor(y)]; // the service takes the centre of this pixel
    if (column < 0 || row < 0 || column >= frame.width || row >= frame.height) return;
    this.actions.commit({ ...prompt, points: [...prompt.points, [column, row, label]] });
  }

  /** In teaching, the learner's own mask is drawn; else the rough mask of the question. */
  copyOfMask() {
    const { teaching, learner, prompt, frame } = this.state;
    const mask = teaching ? learner : prompt.mask;
    return mask ? mask.slice() : new Uint8Array(frame.width * frame.height);
  }

  paintMask(mask) {
    if (this.state.teaching) this.store.set({ learner: mask });
    else this.store.set({ prompt: { ...this.state.prompt, mask } });
  }

  commitMask(mask) {
    const kept = areaOf(mask) ? mask : null;
    if (this.state.teaching) this.actions.commitLearner(kept);
    else this.actions.commit({ ...this.state.prompt, mask: kept });
  }

  // -- keys -----------------------------------------------------------------------------------------------------------

  onKey(event) {
    if (!this.state.bitmap || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) this.moveCross(moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.press();
    else if (event.key === "PageUp" || event.key === "PageDown") this.actions.step(event.key === "PageUp" ? -1 : 1);
    else return;
    event.preventDefault();
  }

  moveCross([dx, dy]) {
    const { cursor, frame, tool } = this.state;
    if (tool === "window") {
      const [centre, width] = this.actions.window();
      this.actions.setWindow([centre + (dy * width) / 50, Math.max(width * 0.02, width * (1 + dx / 50))], true);
      return;
    }
    if (tool === "pan") {
      this.view.move(-20 * Math.sign(dx), -20 * Math.sign(dy));
      return;
    }
    const [x, y] = cursor ?? [frame.width / 2, frame.height / 2];
    const position = cursor ? this.clamp([x + dx, y + dy]) : [x, y];
    this.store.set({ cursor: position });
    this.actions.hover(position);
    if (this.state.sketch?.kind === "box") this.extend(position);
  }

  press() {
    const { cursor, tool, sketch, frame } = this.state;
    if (!cursor) {
      this.store.set({ cursor: [frame.width / 2, frame.height / 2] });
      return;
    }
    if (tool === "plus" || tool === "minus") this.point(cursor, tool === "plus" ? 1 : 0);
    if (tool === "box") sketch ? this.finish() : this.begin(cursor);
    if (tool === "brush" || tool === "erase") {
      this.begin(cursor);
      this.finish();
    }
    if (tool === "outline") this.pressOutline(cursor, sketch);
  }

  /** A corner; pressed again at the same place or near the first, it closes. */
  pressOutline(cursor, sketch) {
    if (!sketch) {
      this.begin(cursor);
      return;
    }
    const near = (point) => Math.hypot(point[0] - cursor[0], point[1] - cursor[1]) < 1.5;
    if (sketch.points.length > 2 && (near(sketch.points[0]) || near(sketch.points.at(-1)))) this.finish();
    else this.extend(cursor);
  }
}

/** Whether a tool draws a mask. */
export const drawsMask = (tool) => DRAWN.includes(tool);
