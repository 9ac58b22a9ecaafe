/** Small pictures that several panels share: bars, sparklines, rings, glyphs. Each is made once and then updated. */

import { element, setAttribute, setStyle, setText, svg } from "./dom.js";
import { GLYPHS } from "./theme.js";

/** A bar with a strong part and, behind it, a pale one. */
export class Bar {
  /** @param {string} [name] a class @param {boolean} [warns] whether being nearly full is to be noticed */
  constructor(name = "", warns = false) {
    this.warns = warns;
    this.behind = element("i", { class: "behind" });
    this.front = element("i", { class: "front" });
    this.node = element("span", { class: `bar ${name}`, "aria-hidden": "true" }, this.behind, this.front);
  }

  /** @param {number} share @param {number} [behind] both from 0 to 1 */
  update(share, behind = 0) {
    setStyle(this.front, "width", `${percent(share)}%`);
    setStyle(this.behind, "width", `${percent(behind)}%`);
    this.node.classList.toggle("high", this.warns && share > 0.9);
  }
}

/** @param {number} share @returns {number} a percentage with one decimal, from 0 to 100 */
function percent(share) {
  return Math.round(Math.max(0, Math.min(1, share || 0)) * 1000) / 10;
}

/** The last values of a series as a filled line that stretches to its box. */
export class Sparkline {
  constructor() {
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.node = svg("svg", { class: "spark", viewBox: "0 0 119 100", preserveAspectRatio: "none", "aria-hidden": "true" }, this.area, this.line);
  }

  /** @param {number[]} values @param {number} [most] the top of the scale; the largest value if left out */
  update(values, most) {
    const top = Math.max(most ?? Math.max(...values), 1e-9);
    const first = 120 - values.length;
    const points = values.map((value, index) => `${first + index} ${(97 - (Math.min(value, top) / top) * 92).toFixed(1)}`);
    const path = `M${points.join("L")}`;
    setAttribute(this.line, "d", path);
    setAttribute(this.area, "d", `${path}L119 100L${first} 100Z`);
  }
}

/** A ring with a segment for each processor, coloured by who holds it. */
export class Ring {
  constructor() {
    this.segments = svg("g");
    this.number = element("b");
    this.node = element("div", { class: "ring" },
      svg("svg", { viewBox: "0 0 84 84", "aria-hidden": "true" }, this.segments),
      element("span", {}, this.number, element("small", {}, "CPU")));
    this.drawn = "";
  }

  /** @param {number[]} holders hues, -1 for free @param {number} cpuPercent */
  update(holders, cpuPercent) {
    setText(this.number, `${Math.round(cpuPercent)}%`);
    const wanted = holders.join();
    if (wanted === this.drawn) return;
    this.drawn = wanted;
    const turn = (2 * Math.PI) / holders.length;
    const gap = holders.length > 1 ? Math.min(0.07, turn * 0.22) : 0;
    this.segments.replaceChildren(...holders.map((hue, index) => {
      const start = index * turn + gap / 2 - Math.PI / 2;
      const end = Math.min((index + 1) * turn - gap / 2, index * turn + 2 * Math.PI - 0.001) - Math.PI / 2;
      return svg("path", { d: arc(42, 37, start, end), class: hue < 0 ? "free" : `stroke-${hue}` });
    }));
  }
}

/** @param {number} center @param {number} radius @param {number} start @param {number} end angles @returns {string} an SVG path */
function arc(center, radius, start, end) {
  const at = (/** @type {number} */ angle) => `${(center + radius * Math.cos(angle)).toFixed(2)} ${(center + radius * Math.sin(angle)).toFixed(2)}`;
  return `M${at(start)}A${radius} ${radius} 0 ${end - start > Math.PI ? 1 : 0} 1 ${at(end)}`;
}

/** A job's glyph in its hue. */
export class Glyph {
  constructor() {
    this.node = element("span", { class: "glyph", "aria-hidden": "true" });
  }

  /** @param {number} hue @param {string} [glyph] instead of the job's own */
  update(hue, glyph) {
    setText(this.node, glyph ?? GLYPHS[hue]);
    setStyle(this.node, "color", `var(--hue-${hue})`);
  }
}

/** The mark of Atoll: islands on a ring, the lagoon inside. */
export function mark() {
  const node = svg("svg", { class: "mark", viewBox: "0 0 24 24", "aria-hidden": "true" },
    svg("circle", { cx: "12", cy: "12", r: "5.2", class: "lagoon" }));
  for (const [start, end] of [[-1.9, -0.35], [0.0, 1.25], [1.62, 2.5], [2.85, 3.95]]) {
    node.append(svg("path", { d: arc(12, 9, start, end), class: "island" }));
  }
  return node;
}
