// What the page knows, and the history of what was drawn.

/** A value that tells its listeners when parts of it change. */
export class Store {
  constructor(value) {
    this.value = value;
    this.listeners = [];
  }

  /** Change some fields; listeners get the names of those that differ. */
  set(fields) {
    const changed = Object.keys(fields).filter((name) => this.value[name] !== fields[name]);
    if (!changed.length) return;
    this.value = { ...this.value, ...fields };
    for (const listener of this.listeners) listener(this.value, new Set(changed));
  }

  /** Call `listener(value, names)` after changes. */
  subscribe(listener) {
    this.listeners.push(listener);
  }
}

/** Earlier and later values, as undo and redo need them. */
export class History {
  constructor(first, most = 60) {
    this.values = [first];
    this.place = 0;
    this.most = most;
  }

  get current() {
    return this.values[this.place];
  }

  get canUndo() {
    return this.place > 0;
  }

  get canRedo() {
    return this.place < this.values.length - 1;
  }

  /** Go on from here; what was undone is forgotten. */
  push(value) {
    this.values = [...this.values.slice(0, this.place + 1), value].slice(-this.most);
    this.place = this.values.length - 1;
  }

  undo() {
    if (this.canUndo) this.place -= 1;
    return this.current;
  }

  redo() {
    if (this.canRedo) this.place += 1;
    return this.current;
  }
}

/** Nothing is pointed at. `mask` is a Uint8Array of the image's size, or null. */
export const NO_PROMPT = Object.freeze({ boxes: [], points: [], mask: null });

/** Whether there is a box, point or mask. */
export const hasReferences = (prompt) => Boolean(prompt.boxes.length || prompt.points.length || prompt.mask);
