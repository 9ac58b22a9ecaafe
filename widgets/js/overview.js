/** The head line and the row of figures under it. */

import { element, setText } from "./dom.js";
import { formatBytes, formatCount, formatDuration, formatNumber, formatShare, shortId } from "./format.js";
import { taskRate, totals } from "./model.js";
import { Bar, mark, Sparkline } from "./parts.js";

/**
 * @typedef {import("./types.js").ClusterState} ClusterState
 * @typedef {"connecting" | "server" | "kernel" | "saved" | "stale" | "trouble"} Liveness
 */

const LIVENESS = {
  connecting: ["○", "connecting"],
  server: ["●", "live"],
  kernel: ["●", "live · by the kernel"],
  saved: ["◌", "saved"],
  stale: ["◐", "no news"],
  trouble: ["▲", "trouble"],
};

export class Header {
  constructor() {
    this.cluster = element("span", { class: "mono quiet" });
    this.uptime = element("span", { class: "quiet" });
    this.simulated = element("span", { class: "badge simulated", hidden: "",
      title: "These GPUs exist for tests and demonstrations only" }, "simulated GPUs");
    this.sign = element("span", { class: "sign", "aria-hidden": "true" });
    this.live = element("span");
    this.pill = element("span", { class: "pill", role: "status" }, this.sign, this.live);
    this.node = element("header", {}, mark(), element("h2", {}, "Atoll"), this.cluster, this.uptime,
      element("span", { class: "space" }), this.simulated, this.pill);
  }

  /** @param {ClusterState} state */
  update(state) {
    setText(this.cluster, shortId(state.cluster_id));
    this.simulated.hidden = !state.simulated_devices;
  }

  /** @param {ClusterState} state @param {number} now of the cluster, which goes on while nothing else changes */
  setTime(state, now) {
    setText(this.uptime, `v${state.version} · up ${formatDuration(now - state.started)}`);
  }

  /** @param {Liveness} liveness @param {string} detail */
  setLiveness(liveness, detail) {
    const [sign, text] = LIVENESS[liveness];
    setText(this.sign, sign);
    setText(this.live, detail ? `${text} · ${detail}` : text);
    this.pill.dataset.liveness = liveness;
  }
}

/** One figure: what, how much, a line about it, and its last minute behind it. */
class Tile {
  /** @param {string} label @param {{bar?: boolean, spark?: boolean}} [options] */
  constructor(label, { bar = false, spark = false } = {}) {
    this.value = element("b");
    this.total = element("span", { class: "of" });
    this.detail = element("small");
    this.node = element("div", { class: "tile" }, element("span", { class: "label" }, label),
      element("span", { class: "figure" }, this.value, this.total), this.detail);
    this.bar = bar ? new Bar("", true) : null;
    this.spark = spark ? new Sparkline() : null;
    if (this.bar) this.node.append(this.bar.node);
    if (this.spark) this.node.append(this.spark.node);
  }

  /** @param {string} value @param {string} total @param {string} detail */
  set(value, total, detail) {
    setText(this.value, value);
    setText(this.total, total);
    setText(this.detail, detail);
  }
}

export class Tiles {
  /** @param {import("./model.js").History} history */
  constructor(history) {
    this.history = history;
    this.cpu = new Tile("CPU in use", { spark: true });
    this.gpu = new Tile("GPU held", { spark: true });
    this.memory = new Tile("Memory", { bar: true });
    this.store = new Tile("Object store", { bar: true });
    this.rate = new Tile("Tasks a second", { spark: true });
    this.running = new Tile("Running", { spark: true });
    this.waiting = new Tile("Waiting");
    this.all = [this.cpu, this.gpu, this.memory, this.store, this.rate, this.running, this.waiting];
    this.node = element("div", { class: "tiles" }, ...this.all.map((tile) => tile.node));
  }

  /** @param {ClusterState} state */
  update(state) {
    const sum = totals(state);
    const rate = taskRate(state.spans, state.now);
    const live = state.actors.filter((actor) => actor.state === "alive").length;
    const named = state.objects.filter((object) => object.name).length;
    this.cpu.set(`${Math.round(sum.cpuPercent)}%`, "", `${formatNumber(sum.cpuHeld)} of ${formatNumber(sum.cpuTotal)} leased`);
    this.cpu.spark?.update(this.history.push("cpu", sum.cpuPercent), 100);
    this.gpu.set(formatNumber(sum.gpuHeld), ` / ${sum.gpuTotal}`, sum.gpuTotal ? `${Math.round(sum.gpuPercent)}% in use on average` : "no GPU here");
    this.gpu.spark?.update(this.history.push("gpu", sum.gpuPercent), 100);
    this.#share(this.memory, sum.memoryUsed, sum.memoryTotal, `${formatBytes(sum.memoryTotal - sum.memoryUsed)} free`);
    this.#share(this.store, sum.storeUsed, sum.storeTotal, `${formatCount(state.objects.length, "object")}, ${named} named`);
    this.rate.set(formatNumber(rate), "", "over 10 s");
    this.rate.spark?.update(this.history.push("rate", rate));
    this.running.set(formatNumber(sum.running), "", `${formatCount(live, "actor")}, ${formatCount(sum.idle, "idle worker")}`);
    this.running.spark?.update(this.history.push("running", sum.running));
    this.waiting.set(formatNumber(sum.waiting), "", sum.waiting ? `longest ${formatDuration(sum.longestWait)}` : "nothing waits");
    this.waiting.node.classList.toggle("warn", sum.waiting > 0);
  }

  /** @param {Tile} tile @param {number} used @param {number} total @param {string} detail */
  #share(tile, used, total, detail) {
    const [value, ...rest] = formatShare(used, total).split(" / ");
    tile.set(value, ` / ${rest.join("")}`, detail);
    tile.bar?.update(used / Math.max(total, 1));
  }
}
