/**
 * The lines on this page, and which of them the server has to feed.
 *
 * A line that was executed on this page is updated by the kernel, and left alone. One that came from a notebook's file,
 * or whose kernel was restarted, is followed through the server: its line moves on, its output is put in place of what
 * was saved, and at its end it becomes what stays in the notebook.
 *
 * @typedef {import("./area.js").Area} Area
 * @typedef {import("./line.js").Row} Row
 * @typedef {{cluster: string, cell: string, output: boolean, notify: boolean, line: Row}} Told
 * @typedef {{draw(row: Row): void, leave(why: string): void}} View a renderer
 */

import { areaOf, isFed, placeOf, Tail } from "./area.js";
import { Link } from "./link.js";
import { notify } from "./notify.js";

const LOOK_EVERY_MS = 1000;
const SETTLED_MS = 1200;
/** Who else updates a line, another page by way of a shared document, is given so long before we do. */
const OTHERS_MS = 15000;

class Line {
  /** @param {View} view @param {object} model @param {Told} told */
  constructor(view, model, told) {
    this.view = view;
    this.model = model;
    this.told = told;
    this.waitUntil = performance.now() + SETTLED_MS;
  }
}

class Cell {
  constructor() {
    /** @type {Row | null} */
    this.row = null;
    /** The server cannot follow it, and is not asked again. */
    this.isUnknown = false;
    /** It is to be told of, wherever its line is by then. */
    this.isAwaited = false;
    /** @type {Tail | null} */
    this.tail = null;
  }
}

export class Book {
  constructor() {
    /** @type {Map<View, Line>} */
    this.lines = new Map();
    /** Those that the server follows for us, by their keys. @type {Map<string, Cell>} */
    this.cells = new Map();
    this.link = new Link((told) => this.#take(told), () => this.#startAnew());
    this.timer = 0;
  }

  /** A renderer shows a line, for the first time or again. @param {View} view @param {object} model @param {Told} told */
  shown(view, model, told) {
    const before = this.lines.get(view);
    if (before) {
      before.told = told;
      before.waitUntil = performance.now() + OTHERS_MS;
      return;
    }
    this.lines.set(view, new Line(view, model, told));
    const row = this.cells.get(keyOf(told))?.row;
    if (row) view.draw(row);
    if (!this.timer) this.timer = window.setInterval(() => this.#look(), LOOK_EVERY_MS);
  }

  /** A renderer is gone. @param {View} view */
  gone(view) {
    this.lines.delete(view);
  }

  /** Say to the server which cells are wanted. */
  #look() {
    /** @type {Map<string, import("./link.js").Wish>} */
    const wishes = new Map();
    for (const line of this.link.isThere ? this.lines.values() : []) {
      const { cluster, cell: watch, output, notify: isAwaited } = line.told;
      const key = keyOf(line.told);
      const cell = this.cells.get(key);
      const follow = isUnfed(line) && (cell !== undefined || performance.now() >= line.waitUntil);
      if (cell?.isUnknown || !(follow || isAwaited)) continue;
      const home = follow && output && areaOf(line.view) !== null;
      wishes.set(key, { watch, cluster, output: home || !!wishes.get(key)?.output });
      if (!cell) this.cells.set(key, new Cell());
      if (isAwaited) /** @type {Cell} */ (this.cells.get(key)).isAwaited = true;
    }
    for (const wish of wishes.values()) this.link.want(wish);
    const shown = new Set([...this.lines.values()].map((line) => keyOf(line.told)));
    for (const [key, cell] of this.cells) {
      if (cell.isUnknown ? !shown.has(key) : !wishes.has(key) && !cell.isAwaited) this.#forget(key);
    }
    if (this.lines.size === 0 && this.cells.size === 0) {
      clearInterval(this.timer);
      this.timer = 0;
    }
  }

  /** The connection is a new one: what cells have shown comes from the beginning. */
  #startAnew() {
    for (const cell of this.cells.values()) cell.tail = null;
  }

  /** @param {string} key */
  #forget(key) {
    this.cells.delete(key);
    this.link.leave(key);
  }

  /** @param {string} key @returns {Line[]} */
  #unfed(key) {
    return [...this.lines.values()].filter((line) => keyOf(line.told) === key && isUnfed(line));
  }

  /** Take what the server tells of a cell. @param {any} told */
  #take(told) {
    const key = keyOf(told);
    const cell = this.cells.get(key);
    if (!cell) return;
    if (told.line) {
      cell.row = told.line;
      for (const line of this.#unfed(key)) line.view.draw(told.line);
    } else if (told.output) {
      cell.tail ??= this.#tail(key);
      cell.tail?.take(told.output);
    } else if (told.ended) {
      this.#end(key, cell, told.ended);
    } else if (told.unknown) {
      cell.isUnknown = true;
      cell.isAwaited = false;
      this.link.leave(key);
      for (const line of this.#unfed(key)) line.view.leave(String(told.unknown));
    }
  }

  /** @param {string} key @returns {Tail | null} where the output of a cell is shown */
  #tail(key) {
    for (const line of this.#unfed(key)) {
      const model = areaOf(line.view)?.model;
      const place = model && line.told.output ? placeOf(model, line.model) : -1;
      if (model && place >= 0) return new Tail(model, place);
    }
    return null;
  }

  /** @param {string} key @param {Cell} cell @param {Record<string, string>} bundle its last line */
  #end(key, cell, bundle) {
    for (const line of this.#unfed(key)) {
      const model = areaOf(line.view)?.model;
      const place = model ? placeOf(model, line.model) : -1;
      if (model && place >= 0) model.set(place, { output_type: "display_data", data: bundle, metadata: {} });
    }
    if (cell.isAwaited) {
      const [title, ...rest] = String(bundle["text/plain"]).split("  ");
      notify(`atoll ${key}`, title, rest.join("  "));
    }
    this.#forget(key);
  }
}

/** @param {{cluster: string, cell: string}} told */
function keyOf(told) {
  return `${told.cluster} ${told.cell}`;
}

/** @param {Line} line */
function isUnfed(line) {
  return !isFed(areaOf(line.view));
}
