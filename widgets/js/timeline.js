/**
 * The placement timeline: a lane for each worker, a block for each task, the present at the right edge.
 *
 * Drawn by hand on one canvas. What is handed in is turned into columns of typed arrays once for each state; a frame
 * then finds the visible part by binary search and merges what is narrower than a pixel, so that its cost grows with
 * the pixels and not with the tasks. Frames are drawn while somebody can see them, at most ten a second.
 *
 * @typedef {import("./model.js").Lane} Lane
 * @typedef {import("./types.js").SpanState} SpanState
 * @typedef {import("./theme.js").Theme} Theme
 * @typedef {{lane: Lane, span: SpanState}} Hit
 */

import { element } from "./dom.js";
import { formatClock, formatDuration, formatNumber } from "./format.js";
import { HISTORY_S, skyline } from "./model.js";
import { GLYPHS, inkOn } from "./theme.js";

const LANE = 22;
const TALLEST_LANE = 30;
const AXIS = 20;
const SKYLINE = 34;
const LABELS = 160;
const FRAME_MS = 100;

/** The most lanes that are drawn; the rest is announced on screen. */
export const MAXIMUM_LANES = 256;

/** A lane's spans as columns, sorted by their start. */
class LaneColumns {
  /** @param {Lane} lane @param {import("./model.js").JobHues} hues */
  constructor(lane, hues) {
    this.lane = lane;
    const spans = lane.spans.slice().sort((one, other) => one.start - other.start);
    this.spans = spans;
    this.starts = Float64Array.from(spans, (span) => span.start);
    this.ends = Float64Array.from(spans, (span) => span.start + span.duration_s);
    this.hues = Uint8Array.from(spans, (span) => hues.hueOf(span.job));
    this.longest = spans.reduce((most, span) => Math.max(most, span.duration_s), 0);
  }

  /** @param {number} time @returns {number} the first span that starts at or after a time */
  firstFrom(time) {
    let low = 0;
    let high = this.starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.starts[middle] < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export class Timeline {
  /**
   * @param {import("./model.js").JobHues} hues
   * @param {AbortSignal} signal ends all listeners and frames
   */
  constructor(hues, signal) {
    this.hues = hues;
    this.canvas = element("canvas", { class: "timeline-canvas", tabindex: "0", role: "img" });
    this.tip = element("div", { class: "tip", hidden: "" });
    this.scroller = element("div", { class: "timeline-scroller" }, this.canvas);
    this.node = element("div", { class: "timeline" }, this.scroller, this.tip);
    /** The height of a lane; few lanes are taller. */
    this.lane = LANE;
    this.block = LANE - 6;
    this.windowS = 120;
    /** Seconds between the right edge and the present. */
    this.back = 0;
    this.paused = false;
    /** @type {LaneColumns[]} */
    this.columns = [];
    /** @type {SpanState[]} */
    this.spans = [];
    this.hiddenLanes = 0;
    /** @type {Theme | null} */
    this.theme = null;
    this.clock = () => 0;
    this.edge = 0;
    /** @type {{x: number, y: number} | null} */
    this.pointer = null;
    this.visible = true;
    this.frame = 0;
    this.timer = 0;
    this.#listen(signal);
  }

  /** @param {AbortSignal} signal */
  #listen(signal) {
    const canvas = this.canvas;
    const observer = new IntersectionObserver((entries) => {
      this.visible = entries[entries.length - 1].isIntersecting;
      this.requestDraw();
    });
    observer.observe(canvas);
    const sizes = new ResizeObserver(() => this.requestDraw());
    sizes.observe(this.scroller);
    this.timer = window.setInterval(() => {
      if (!this.theme?.still && !this.paused && this.back === 0) this.requestDraw();
    }, FRAME_MS);
    signal.addEventListener("abort", () => {
      observer.disconnect();
      sizes.disconnect();
      clearInterval(this.timer);
      cancelAnimationFrame(this.frame);
    });
    /** @type {{x: number, back: number} | null} */
    let drag = null;
    canvas.addEventListener("pointermove", (event) => {
      this.pointer = { x: event.offsetX, y: event.offsetY };
      if (drag) this.#look(drag.back + ((event.offsetX - drag.x) / this.#plotWidth()) * this.windowS);
      this.requestDraw();
    }, { signal });
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.requestDraw();
    }, { signal });
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.offsetX, back: this.back };
      canvas.setPointerCapture(event.pointerId);
    }, { signal });
    canvas.addEventListener("pointerup", () => {
      drag = null;
    }, { signal });
    canvas.addEventListener("dblclick", () => this.#look(0), { signal });
    canvas.addEventListener("keydown", (event) => this.#key(event), { signal });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const step = this.windowS / 8;
    if (event.key === "ArrowLeft") this.#look(this.back + step);
    else if (event.key === "ArrowRight") this.#look(this.back - step);
    else if (event.key === "End") this.#look(0);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {number} back */
  #look(back) {
    this.back = Math.max(0, Math.min(HISTORY_S - this.windowS / 4, back));
    this.requestDraw();
  }

  /** @param {number} windowS */
  setWindow(windowS) {
    this.windowS = windowS;
    this.#look(this.back);
  }

  /**
   * @param {Lane[]} lanes
   * @param {SpanState[]} spans
   * @param {() => number} clock the cluster's time now, in seconds since 1970
   */
  update(lanes, spans, clock) {
    this.clock = clock;
    if (this.paused) return;
    this.edge = clock();
    this.hiddenLanes = Math.max(0, lanes.length - MAXIMUM_LANES);
    this.columns = lanes.slice(0, MAXIMUM_LANES).map((lane) => new LaneColumns(lane, this.hues));
    this.spans = spans;
    const running = spans.filter((span) => span.state === "running").length;
    this.canvas.setAttribute("aria-label", `Timeline of ${lanes.length} workers, ${spans.length} spans, ` +
      `${running} running. The Table button shows the same as a table.`);
    this.requestDraw();
  }

  /** @param {Theme} theme */
  setTheme(theme) {
    this.theme = theme;
    this.requestDraw();
  }

  requestDraw() {
    if (this.frame || !this.visible || document.hidden) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  #plotWidth() {
    return Math.max(40, this.scroller.clientWidth - LABELS);
  }

  draw() {
    const theme = this.theme;
    const width = this.scroller.clientWidth;
    if (!theme || width < 80) return;
    const room = this.scroller.clientHeight - AXIS - SKYLINE - 8;
    this.lane = Math.max(LANE, Math.min(TALLEST_LANE, Math.floor(room / Math.max(1, this.columns.length))));
    this.block = this.lane - 6;
    const wanted = AXIS + SKYLINE + this.columns.length * this.lane + (this.hiddenLanes ? this.lane : 0) + 4;
    const height = Math.max(wanted, this.scroller.clientHeight - 2);
    const scale = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const now = this.paused ? this.edge : this.clock();
    const to = now - this.back;
    const view = { context, theme, width, height, from: to - this.windowS, to, now,
      x: (/** @type {number} */ time) => LABELS + ((time - to + this.windowS) / this.windowS) * (width - LABELS) };
    this.#drawAxis(view);
    this.#drawSkyline(view);
    this.#drawLanes(view);
    this.#drawEmpty(view);
    this.#drawPresent(view);
    this.#showTip(view);
  }

  /** @param {View} view */
  #drawAxis({ context, theme, from, to, now, x, width, height }) {
    const step = [1, 2, 5, 10, 15, 30, 60, 120].find((each) => (this.windowS / each) * 76 < width - LABELS) ?? 300;
    context.font = `11px ${theme.font}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let tick = Math.ceil((from - now) / step) * step; now + tick <= to; tick += step) {
      const at = Math.round(x(now + tick)) + 0.5;
      context.strokeStyle = theme.line;
      context.beginPath();
      context.moveTo(at, AXIS);
      context.lineTo(at, height);
      context.stroke();
      if (at < LABELS + 16 || at > width - 22) continue;
      context.fillStyle = theme.muted;
      context.fillText(tick === 0 ? "now" : `−${formatDuration(-tick)}`, at, AXIS / 2);
    }
    context.fillStyle = theme.muted;
    context.textAlign = "left";
    context.fillText(this.back > 0.5 ? formatClock(to) : "worker", 10, AXIS / 2);
  }

  /** @param {View} view */
  #drawSkyline({ context, theme, from, to, width, now }) {
    const steps = Math.max(1, Math.floor((width - LABELS) / 3));
    const series = skyline(this.spans, this.hues, from, to, steps, now);
    let most = 0;
    const sums = new Float32Array(steps);
    for (const counts of series) for (let step = 0; step < steps; step += 1) sums[step] += counts[step];
    for (const sum of sums) most = Math.max(most, sum);
    const room = SKYLINE - 8;
    const high = Math.max(most, 1);
    const base = new Float32Array(steps);
    const stepWidth = (width - LABELS) / steps;
    series.forEach((counts, hue) => {
      context.fillStyle = theme.hues[hue];
      for (let step = 0; step < steps; step += 1) {
        if (counts[step] <= 0) continue;
        const tall = (counts[step] / high) * room;
        context.fillRect(LABELS + step * stepWidth, AXIS + room + 2 - base[step] - tall, stepWidth - 0.6, tall);
        base[step] += tall;
      }
    });
    context.strokeStyle = theme.line;
    context.beginPath();
    context.moveTo(0, AXIS + room + 4.5);
    context.lineTo(width, AXIS + room + 4.5);
    context.stroke();
    context.font = `11px ${theme.font}`;
    context.textAlign = "left";
    context.fillStyle = theme.muted;
    context.fillText(`at once, most ${formatNumber(Math.round(most))}`, 10, AXIS + room / 2 + 2);
  }

  /** @param {View} view */
  #drawLanes(view) {
    const { context, theme, width } = view;
    let node = "";
    const several = new Set(this.columns.map((columns) => columns.lane.node)).size > 1;
    this.columns.forEach((columns, index) => {
      const top = AXIS + SKYLINE + index * this.lane;
      const hovered = this.pointer !== null && this.pointer.y >= top && this.pointer.y < top + this.lane;
      if (hovered || index % 2 === 1) {
        context.fillStyle = theme.line;
        context.globalAlpha = hovered ? 1 : 0.32;
        context.fillRect(0, top, width, this.lane);
        context.globalAlpha = 1;
      }
      this.#drawLabel(view, columns.lane, top);
      this.#drawHold(view, columns.lane, top);
      this.#drawSpans(view, columns, top);
      if (several && columns.lane.node !== node && index > 0) {
        context.strokeStyle = theme.muted;
        context.beginPath();
        context.moveTo(0, top + 0.5);
        context.lineTo(width, top + 0.5);
        context.stroke();
      }
      node = columns.lane.node;
    });
    if (this.hiddenLanes) {
      context.fillStyle = theme.muted;
      context.textAlign = "left";
      context.fillText(`${this.hiddenLanes} more workers are not drawn; the table has them`, 10,
        AXIS + SKYLINE + this.columns.length * this.lane + this.lane / 2);
    }
  }

  /** @param {View} view @param {Lane} lane @param {number} top */
  #drawLabel({ context, theme }, lane, top) {
    const middle = top + this.lane / 2 + 0.5;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillStyle = lane.lease ? theme.hues[lane.hue] : theme.muted;
    context.font = `10px ${theme.font}`;
    context.fillText(lane.lease ? GLYPHS[lane.hue] : "○", 10, middle);
    const badge = lane.devices.length ? `G${lane.devices.join(",")}` : "";
    context.font = `${lane.lease?.actor ? "600 " : ""}12px ${theme.font}`;
    context.fillStyle = lane.lease ? theme.ink : theme.muted;
    context.fillText(fit(context, lane.label, LABELS - 34 - (badge ? 26 : 0)), 24, middle);
    if (badge) {
      context.font = `10px ${theme.mono}`;
      context.fillStyle = theme.muted;
      context.textAlign = "right";
      context.fillText(fit(context, badge, 40), LABELS - 8, middle);
    }
  }

  /** A thin line while a lease holds the worker, busy or not. @param {View} view @param {Lane} lane @param {number} top */
  #drawHold({ context, theme, from, to, now, x }, lane, top) {
    if (!lane.lease || lane.lease.since > to) return;
    const left = Math.max(LABELS, x(Math.max(lane.lease.since, from)));
    context.fillStyle = theme.hues[lane.hue];
    context.globalAlpha = 0.4;
    context.fillRect(left, top + this.lane / 2 - 0.5, Math.max(0, x(Math.min(to, now)) - left), 1.5);
    context.globalAlpha = 1;
  }

  /** @param {View} view @param {LaneColumns} columns @param {number} top */
  #drawSpans(view, columns, top) {
    const { context, theme, from, to, now, x, width } = view;
    const y = top + (this.lane - this.block) / 2;
    let drawnTo = -1;
    for (let index = columns.firstFrom(from - columns.longest); index < columns.starts.length; index += 1) {
      if (columns.starts[index] > to) break;
      const span = columns.spans[index];
      const running = span.state === "running";
      const end = running ? Math.max(now, columns.ends[index]) : columns.ends[index];
      if (end < from) continue;
      const left = Math.max(LABELS, x(columns.starts[index]));
      const right = Math.min(width, x(end));
      if (right - left < 1 && right <= drawnTo + 0.5) continue;
      const wide = Math.max(1.5, right - left - 0.75);
      drawnTo = left + wide;
      this.#drawBlock(view, span, theme.hues[columns.hues[index]], left, y, wide);
    }
    context.globalAlpha = 1;
  }

  /** @param {View} view @param {SpanState} span @param {string} hue @param {number} left @param {number} y @param {number} wide */
  #drawBlock({ context, theme }, span, hue, left, y, wide) {
    const failed = span.state === "failed";
    const running = span.state === "running";
    context.globalAlpha = running ? 1 : failed ? 0.28 : 0.82;
    context.fillStyle = hue;
    context.beginPath();
    context.roundRect(left, y, wide, this.block, wide > 6 ? 3 : 0.5);
    context.fill();
    context.globalAlpha = 1;
    if (span.count > 1 && wide > 8) {
      context.fillStyle = theme.background;
      context.globalAlpha = 0.22;
      const apart = Math.max(3, wide / span.count);
      for (let at = left + apart; at < left + wide - 1; at += apart) context.fillRect(at, y, 1, this.block);
      context.globalAlpha = 1;
    }
    if (failed) {
      context.strokeStyle = theme.bad;
      context.lineWidth = 1.25;
      context.stroke();
      context.lineWidth = 1;
    }
    if (running && wide > 3) {
      context.fillStyle = theme.ink;
      context.fillRect(left + wide - 2, y, 2, this.block);
    }
    if (failed && wide >= 8 && wide < 26) {
      context.font = `10px ${theme.font}`;
      context.textAlign = "center";
      context.fillStyle = theme.bad;
      context.fillText("✕", left + wide / 2, y + this.block / 2 + 0.5);
    }
    if (wide < 26) return;
    const text = `${failed ? "✕ " : ""}${span.name}${span.count > 1 ? ` ×${formatNumber(span.count)}` : ""}`;
    context.font = `11px ${theme.font}`;
    context.textAlign = "left";
    context.fillStyle = failed ? theme.bad : inkOn(hue);
    context.fillText(fit(context, text, wide - 9), left + 5, y + this.block / 2 + 0.5);
  }

  /** @param {View} view */
  #drawEmpty({ context, theme, width, height }) {
    if (this.columns.length) return;
    context.fillStyle = theme.muted;
    context.textAlign = "center";
    context.font = `13px ${theme.font}`;
    context.fillText("Nothing has run yet. A %%remote cell shows up here.", LABELS / 2 + width / 2, AXIS + SKYLINE + (height - AXIS - SKYLINE) / 2);
  }

  /** @param {View} view */
  #drawPresent({ context, theme, now, to, x, height }) {
    if (now > to + 0.01) return;
    const at = x(now) - 1;
    context.strokeStyle = theme.muted;
    context.setLineDash([2, 3]);
    context.beginPath();
    context.moveTo(at, AXIS);
    context.lineTo(at, height);
    context.stroke();
    context.setLineDash([]);
  }

  /** @param {number} x @param {number} y @param {View} view @returns {Hit | null} */
  #hit(x, y, view) {
    const columns = this.columns[Math.floor((y - AXIS - SKYLINE) / this.lane)];
    if (!columns || x < LABELS) return null;
    const perPixel = this.windowS / (view.width - LABELS);
    const time = view.from + (x - LABELS) * perPixel;
    for (let index = columns.firstFrom(time + 2 * perPixel) - 1; index >= 0; index -= 1) {
      if (columns.starts[index] < time - columns.longest - 2 * perPixel) break;
      const span = columns.spans[index];
      const end = span.state === "running" ? view.now : columns.ends[index];
      if (end >= time - 2 * perPixel) return { lane: columns.lane, span };
    }
    return null;
  }

  /** @param {View} view */
  #showTip(view) {
    const pointer = this.pointer;
    const hit = pointer && pointer.y > AXIS + SKYLINE ? this.#hit(pointer.x, pointer.y, view) : null;
    this.tip.hidden = !hit;
    if (!hit || !pointer) return;
    const { span, lane } = hit;
    const duration = span.state === "running" ? view.now - span.start : span.duration_s;
    this.tip.replaceChildren(
      element("b", {}, span.name + (span.count > 1 ? ` ×${formatNumber(span.count)}` : "")),
      element("span", {}, `${span.state} · ${formatDuration(duration)}` +
        (span.count > 1 ? ` · ${formatDuration(span.duration_s / span.count)} each` : "")),
      element("span", {}, `${formatClock(span.start)} · ${lane.label}${lane.devices.length ? ` · GPU ${lane.devices.join(", ")}` : ""} · ${lane.node}`),
    );
    const y = pointer.y - this.scroller.scrollTop;
    const left = Math.min(pointer.x + 14, view.width - this.tip.offsetWidth - 6);
    const below = y + this.tip.offsetHeight + 18 < this.scroller.clientHeight;
    this.tip.style.left = `${Math.max(4, left)}px`;
    this.tip.style.top = `${below ? y + 14 : Math.max(2, y - this.tip.offsetHeight - 8)}px`;
  }
}

/**
 * @typedef {{context: CanvasRenderingContext2D, theme: Theme, width: number, height: number, from: number, to: number,
 *   now: number, x: (time: number) => number}} View
 */

/** @param {CanvasRenderingContext2D} context @param {string} text @param {number} room @returns {string} as much of a text as fits */
function fit(context, text, room) {
  if (text.length > 200) text = text.slice(0, 200);
  if (context.measureText(text).width <= room) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${text.slice(0, middle)}…`).width <= room) low = middle;
    else high = middle - 1;
  }
  return low > 1 ? `${text.slice(0, low)}…` : "";
}
