/**
 * A cell's line, drawn from its parts, as `kernel_ext/lines.py` writes it in HTML: the two take turns in one place. What
 * has not changed is left alone, so that a selection and a title that is being read stay.
 *
 * @typedef {{text: string, title?: string, strong?: boolean, faint?: boolean, share?: number, blocks?: string}} Part
 * @typedef {{state: string, head: Part[], parts: Part[]}} Row
 */

import { element, setStyle, setText } from "../dom.js";

/** The glyph of each state; its colour is in `cells.css`. @type {Record<string, string>} */
const GLYPHS = { sent: "◌", waiting: "○", running: "●", done: "✓", failed: "✗", cancelled: "⊘" };

export class LineView {
  constructor() {
    this.node = element("div", { class: "atoll-line" });
    this.shape = "";
    /** @type {((row: Row) => void)[]} */
    this.updates = [];
  }

  /** @param {Row} row */
  draw(row) {
    const shape = JSON.stringify([row.state, row.head.map(shapeOf), row.parts.map(shapeOf)]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.#build(row);
    }
    for (const update of this.updates) update(row);
  }

  /** @param {Row} row */
  #build(row) {
    this.updates = [];
    const state = row.state in GLYPHS ? row.state : "sent";
    /** @type {(Node | string)[]} */
    const children = [element("span", { class: `atoll-sign atoll-${state}` }, GLYPHS[state])];
    row.head.forEach((part, index) => {
      if (index > 0) children.push(" ");
      children.push(this.#part(part, (now) => now.head[index]));
    });
    if (row.head.length > 0) children.push("\u2002");
    row.parts.forEach((part, index) => {
      if (index > 0) children.push(element("span", { class: "atoll-gap" }, " · "));
      children.push(this.#part(part, (now) => now.parts[index]));
    });
    this.node.replaceChildren(...children);
  }

  /** @param {Part} part @param {(row: Row) => Part} find @returns {Node} */
  #part(part, find) {
    const text = document.createTextNode("");
    const node = element(part.strong ? "b" : "span", part.faint ? { class: "atoll-faint" } : {});
    if (part.share !== undefined) {
      const filled = element("span");
      node.append(element("span", { class: "atoll-bar", "aria-hidden": "true" }, filled), " ");
      this.updates.push((row) => setStyle(filled, "width", `${(100 * Number(find(row).share)).toFixed(1)}%`));
    }
    node.append(text);
    if (part.blocks !== undefined) {
      const blocks = element("span", { class: "atoll-blocks", "aria-hidden": "true" });
      node.append(" ", blocks);
      this.updates.push((row) => setText(blocks, String(find(row).blocks)));
    }
    this.updates.push((row) => {
      const now = find(row);
      setText(text, now.text);
      const title = now.title && now.title !== now.text ? now.title : "";
      if (node.title !== title) node.title = title;
    });
    return node;
  }
}

/** @param {Part} part */
function shapeOf(part) {
  return [!!part.strong, !!part.faint, part.share !== undefined, part.blocks !== undefined];
}

/** @param {unknown} value @returns {Row | null} a row if it is one: what stands in a notebook may be anything */
export function readRow(value) {
  const row = /** @type {any} */ (value);
  if (typeof row !== "object" || row === null || typeof row.state !== "string") return null;
  const isPart = (/** @type {any} */ part) => typeof part === "object" && part !== null && typeof part.text === "string";
  const isList = (/** @type {any} */ list) => Array.isArray(list) && list.length <= 20 && list.every(isPart);
  return isList(row.head) && isList(row.parts) ? row : null;
}
