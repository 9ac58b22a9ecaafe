/**
 * The dashboard: the panels, put together and fed.
 *
 *     transport ── state ──▶ Dashboard ──▶ header, tiles, nodes, timeline, tables
 *
 * One AbortController owns every listener, timer and observer; leaving the page ends it.
 */

import { element } from "./dom.js";
import { formatClock, formatDuration } from "./format.js";
import { History, JobHues, lanes } from "./model.js";
import { Nodes } from "./nodes.js";
import { Header, Tiles } from "./overview.js";
import { Glyph } from "./parts.js";
import { KeyedList, setText } from "./dom.js";
import { actorTable, jobTable, objectTable, runningTable, spanTable, waitingList } from "./tables.js";
import { GLYPHS, readTheme, watchTheme } from "./theme.js";
import { Timeline } from "./timeline.js";

/**
 * @typedef {import("./types.js").ClusterState} ClusterState
 * @typedef {import("./types.js").JobState} JobState
 */

const STALE_AFTER_S = 8;

export class Dashboard {
  /** @param {AbortSignal} signal */
  constructor(signal) {
    this.signal = signal;
    this.hues = new JobHues();
    this.history = new History();
    this.header = new Header();
    this.tiles = new Tiles(this.history);
    this.nodes = new Nodes(this.hues);
    this.timeline = new Timeline(this.hues, signal);
    this.spans = spanTable(this.hues);
    this.running = runningTable(this.hues);
    this.actors = actorTable(this.hues);
    this.objects = objectTable(this.hues);
    this.jobs = jobTable(this.hues);
    this.waits = waitingList(this.hues);
    /** @type {ClusterState | null} */
    this.state = null;
    /** @type {Map<string, number>} */
    this.workerOrder = new Map();
    /** Cluster time minus our monotonic clock, in seconds. */
    this.offset = 0;
    this.lastNews = 0;
    this.source = /** @type {"connecting" | "server" | "kernel" | "saved"} */ ("connecting");
    this.troubleText = "";
    this.windowChosen = false;
    this.node = this.#build();
  }

  #build() {
    const runningPanel = tabs("work", [["Running", this.running.node], ["Actors", this.actors.node]], this.signal);
    this.runningTabs = runningPanel;
    const root = element("section", { class: "atoll", "aria-label": "Atoll dashboard" },
      this.header.node, this.tiles.node,
      element("div", { class: "main" },
        panel("Nodes", "nodes-panel", [], this.nodes.node),
        this.#timelinePanel()),
      element("div", { class: "below" },
        element("div", { class: "panel" }, runningPanel.node),
        panel("Lagoon", "", [element("span", { class: "quiet" }, "objects in shared memory")], this.objects.node),
        panel("Notebooks", "", [], element("div", { class: "stack" }, this.waits.node, this.jobs.node))));
    return root;
  }

  #timelinePanel() {
    const legend = element("ul", { class: "legend", "aria-label": "Notebooks by colour" });
    this.legend = new KeyedList(legend, (/** @type {JobState} */ job) => job.job, () => {
      const glyph = new Glyph();
      const name = element("span");
      return {
        node: element("li", {}, glyph.node, name),
        update: (/** @type {JobState} */ job) => {
          glyph.update(this.hues.hueOf(job.job));
          setText(name, job.name);
        },
      };
    });
    const windows = element("div", { class: "buttons", role: "group", "aria-label": "How much time is shown" });
    for (const [text, seconds] of /** @type {[string, number][]} */ ([["30 s", 30], ["2 min", 120], ["5 min", 300]])) {
      const button = element("button", { type: "button", "aria-pressed": String(seconds === this.timeline.windowS) }, text);
      button.addEventListener("click", () => {
        this.windowChosen = true;
        this.#setWindow(seconds);
      }, { signal: this.signal });
      button.value = String(seconds);
      windows.append(button);
    }
    this.windows = windows;
    const pause = toggle("Pause", "Hold the picture still", this.signal, (pressed) => {
      this.timeline.paused = pressed;
      if (this.state) this.#showTimeline(this.state);
    });
    this.spans.node.hidden = true;
    const table = toggle("Table", "The same as a table", this.signal, (pressed) => {
      this.spans.node.hidden = !pressed;
      this.timeline.node.hidden = pressed;
      if (this.state) this.spans.update(this.state);
      this.timeline.requestDraw();
    });
    return panel("Timeline", "timeline-panel", [legend, element("span", { class: "space" }), windows, pause, table],
      this.timeline.node, this.spans.node);
  }

  /** @param {number} seconds */
  #setWindow(seconds) {
    if (this.timeline.windowS === seconds) return;
    this.timeline.setWindow(seconds);
    for (const button of this.windows?.querySelectorAll("button") ?? []) {
      button.setAttribute("aria-pressed", String(button.value === String(seconds)));
    }
  }

  /** Begin to follow the theme and the clock; call when the node is in the page. */
  start() {
    this.#theme();
    watchTheme(this.signal, () => {
      this.#theme();
      setTimeout(() => this.#theme(), 400);
    });
    const timer = setInterval(() => this.#liveness(), 1000);
    this.signal.addEventListener("abort", () => clearInterval(timer));
    this.#liveness();
  }

  #theme() {
    const theme = readTheme(this.node);
    this.node.dataset.theme = theme.dark ? "dark" : "light";
    theme.hues.forEach((hue, index) => this.node.style.setProperty(`--hue-${index}`, hue));
    this.timeline.setTheme(theme);
  }

  /** @param {ClusterState} state @param {"server" | "kernel" | "saved"} source */
  show(state, source) {
    this.state = state;
    this.source = source;
    this.troubleText = "";
    this.offset = state.now - performance.now() / 1000;
    this.lastNews = performance.now();
    this.hues.update(state);
    this.header.update(state);
    this.tiles.update(state);
    this.nodes.update(state);
    this.running.update(state);
    this.actors.update(state);
    this.objects.update(state);
    this.jobs.update(state);
    this.waits.update(state);
    if (!this.windowChosen) {
      const first = state.spans.reduce((earliest, span) => Math.min(earliest, span.start), state.now);
      this.#setWindow(state.now - first > 45 ? 120 : 30);
    }
    this.legend?.update(state.jobs.filter((job) => job.kind !== "server").slice(0, GLYPHS.length));
    this.runningTabs?.setCounts([state.leases.length, state.actors.filter((actor) => actor.namespace !== "cells").length]);
    if (!this.spans.node.hidden) this.spans.update(state);
    this.#showTimeline(state);
    this.#liveness();
  }

  /** @param {ClusterState} state */
  #showTimeline(state) {
    const order = (/** @type {string} */ worker) => {
      let place = this.workerOrder.get(worker);
      if (place === undefined) {
        place = this.workerOrder.size;
        this.workerOrder.set(worker, place);
      }
      return place;
    };
    const saved = this.source === "saved";
    this.timeline.update(lanes(state, this.hues, order), state.spans, () => (saved ? state.now : performance.now() / 1000 + this.offset));
  }

  /** The cluster is there and nothing has changed. @param {number} now */
  unchanged(now) {
    this.offset = now - performance.now() / 1000;
    this.lastNews = performance.now();
    this.troubleText = "";
    this.#liveness();
  }

  /** @param {string} text what is wrong with the cluster or the way to it */
  trouble(text) {
    this.troubleText = text;
    this.#liveness();
  }

  #liveness() {
    const silent = (performance.now() - this.lastNews) / 1000;
    if (this.state && this.source === "saved") this.header.setTime(this.state, this.state.now);
    // A cluster in which nothing happens sends only a sign of life, seldom; its clock runs on until that is missed.
    else if (this.state && silent <= STALE_AFTER_S) this.header.setTime(this.state, performance.now() / 1000 + this.offset);
    if (this.troubleText) this.header.setLiveness("trouble", this.troubleText);
    else if (this.source === "saved" && this.state) this.header.setLiveness("saved", `as of ${formatClock(this.state.now)}`);
    else if (this.state && silent > STALE_AFTER_S) this.header.setLiveness("stale", `for ${formatDuration(silent)}`);
    else this.header.setLiveness(this.source, "");
    this.node.classList.toggle("still", silent > STALE_AFTER_S || this.source === "saved");
  }
}

/** @param {string} title @param {string} name a class @param {Node[]} tools @param {...Node} content */
function panel(title, name, tools, ...content) {
  return element("div", { class: `panel ${name}` }, element("div", { class: "head" }, element("h3", {}, title), ...tools), ...content);
}

/** @param {string} text @param {string} hint @param {AbortSignal} signal @param {(pressed: boolean) => void} changed */
function toggle(text, hint, signal, changed) {
  const button = element("button", { type: "button", title: hint, "aria-pressed": "false" }, text);
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(pressed));
    changed(pressed);
  }, { signal });
  return button;
}

/** @param {string} name @param {[string, HTMLElement][]} pages @param {AbortSignal} signal */
function tabs(name, pages, signal) {
  const counts = pages.map(() => element("span", { class: "count" }));
  const buttons = pages.map(([title], index) =>
    element("button", { type: "button", role: "tab", id: `${name}-tab-${index}`, "aria-controls": `${name}-page-${index}` }, title, counts[index]));
  const select = (/** @type {number} */ chosen) => {
    pages.forEach(([, page], index) => {
      page.hidden = index !== chosen;
      buttons[index].setAttribute("aria-selected", String(index === chosen));
      buttons[index].tabIndex = index === chosen ? 0 : -1;
    });
  };
  pages.forEach(([, page], index) => {
    page.id = `${name}-page-${index}`;
    buttons[index].addEventListener("click", () => select(index), { signal });
    buttons[index].addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (index + step + pages.length) % pages.length;
      select(next);
      buttons[next].focus();
      event.preventDefault();
      event.stopPropagation();
    }, { signal });
  });
  select(0);
  return {
    node: element("div", { class: "tabbed" }, element("div", { class: "head", role: "tablist" }, ...buttons), ...pages.map(([, page]) => page)),
    /** @param {number[]} numbers */
    setCounts(numbers) {
      numbers.forEach((number, index) => setText(counts[index], String(number)));
    },
  };
}
