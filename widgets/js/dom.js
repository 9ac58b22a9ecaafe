/**
 * Making and updating elements. Text enters the page here and only as text: no function of this package takes HTML,
 * so whatever a name, a cell or an error contains, it is shown and never run.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/**
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {...Node} children
 */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set text only where it changes, so that a selection and a screen reader are left alone. @param {Node} node @param {string} text */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {Element} node @param {string} name @param {string} value */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** @param {HTMLElement | SVGElement} node @param {string} name a CSS property @param {string} value */
export function setStyle(node, name, value) {
  if (node.style.getPropertyValue(name) !== value) node.style.setProperty(name, value);
}

/**
 * A list of elements kept in step with a list of values: made once, updated in place, moved only when the order
 * changes.
 *
 * @template T
 */
export class KeyedList {
  /**
   * @param {Element} container
   * @param {(item: T) => string} keyOf
   * @param {(item: T) => {node: Element, update(item: T): void}} make
   */
  constructor(container, keyOf, make) {
    this.container = container;
    this.keyOf = keyOf;
    this.make = make;
    /** @type {Map<string, {node: Element, update(item: T): void}>} */
    this.entries = new Map();
  }

  /** @param {T[]} items */
  update(items) {
    const seen = new Set();
    /** @type {Element | null} */
    let previous = null;
    for (const item of items) {
      const key = this.keyOf(item);
      if (seen.has(key)) continue;
      seen.add(key);
      let entry = this.entries.get(key);
      if (!entry) {
        entry = this.make(item);
        this.entries.set(key, entry);
      }
      entry.update(item);
      const wanted = /** @type {Element | null} */ (previous ? previous.nextElementSibling : this.container.firstElementChild);
      if (wanted !== entry.node) this.container.insertBefore(entry.node, wanted);
      previous = entry.node;
    }
    for (const [key, entry] of this.entries) {
      if (seen.has(key)) continue;
      entry.node.remove();
      this.entries.delete(key);
    }
  }
}
