/**
 * The output of a notebook's cell, as far as a line in it needs to reach: JupyterLab's `OutputArea` and its model.
 *
 * @typedef {{isDisposed: boolean} | null | undefined} Future
 * @typedef {Record<string, any>} Output as in a notebook's file
 * @typedef {{isDisposed: boolean, length: number, get(index: number): unknown, set(index: number, output: Output): void,
 *   add(output: Output): number, toJSON(): Output[], fromJSON(outputs: Output[]): void}} AreaModel
 * @typedef {{model: AreaModel, future: Future, isDisposed: boolean}} Area
 */

/** @param {any} widget @returns {Area | null} the area in which a renderer is, once it is in one */
export function areaOf(widget) {
  for (let each = widget.parent; each; each = each.parent) {
    if (typeof each.model?.fromJSON === "function" && "future" in each) return each;
  }
  return null;
}

/**
 * Whether the kernel's messages for this cell come to this page: the page has executed the cell itself, and the kernel
 * is the same since. After a reload or a restart they do not.
 *
 * @param {Area | null} area
 */
export function isFed(area) {
  return !!area?.future && !area.future.isDisposed;
}

/** @param {AreaModel} model @param {unknown} output @returns {number} its place; -1 if it is not there */
export function placeOf(model, output) {
  for (let index = 0; index < model.length; index += 1) if (model.get(index) === output) return index;
  return -1;
}

/** What a cell has shown, below its line: the record's steps, from the first, put in the place of what was saved. */
export class Tail {
  /** @param {AreaModel} model @param {number} line where the cell's line is */
  constructor(model, line) {
    this.model = model;
    this.line = line;
    this.begun = false;
    this.clearsNext = false;
    /** @type {Map<string, number>} */
    this.displays = new Map();
  }

  /** @param {any[]} steps see `PageSink` in `kernel_ext/server/cells.py` */
  take(steps) {
    if (this.model.isDisposed) return;
    if (!this.begun) this.#clear();
    this.begun = true;
    for (const step of steps) this.#take(step);
  }

  /** @param {any} step */
  #take(step) {
    if (typeof step.clear === "boolean") {
      if (step.clear) this.#clear();
      else this.clearsNext = true;
      return;
    }
    if (typeof step.update === "string") {
      const place = this.displays.get(step.update);
      const output = { output_type: "display_data", data: step.data, metadata: step.metadata };
      if (place !== undefined) this.model.set(place, output);
      return;
    }
    if (this.clearsNext) this.#clear();
    const { id, ...output } = step;
    const length = this.model.add(output);
    if (id) this.displays.set(id, length - 1);
  }

  #clear() {
    this.clearsNext = false;
    this.displays.clear();
    // As a whole: the model joins texts with what it has added last, not with what stands last after a removal.
    this.model.fromJSON(this.model.toJSON().slice(0, this.line + 1));
  }
}
