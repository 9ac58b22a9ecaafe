/**
 * What the dashboard shows, computed from a cluster's state. Pure: state in, plain values out.
 *
 * @typedef {import("./types.js").ClusterState} ClusterState
 * @typedef {import("./types.js").SpanState} SpanState
 * @typedef {import("./types.js").LeaseState} LeaseState
 */

import { LAST_HUE } from "./theme.js";
import { shortId } from "./format.js";

/** How far back the timeline can look; the scheduler keeps no more. */
export const HISTORY_S = 300;

/** Gives each job a hue and keeps it, whoever comes and goes. */
export class JobHues {
  constructor() {
    /** @type {Map<string, number>} */
    this.hues = new Map();
  }

  /** @param {ClusterState} state */
  update(state) {
    const jobs = state.jobs.filter((job) => job.kind !== "server").sort((one, other) => one.since - other.since);
    for (const job of jobs) this.hueOf(job.job);
  }

  /** @param {string} job @returns {number} an index into `GLYPHS` and the theme's hues */
  hueOf(job) {
    if (!job) return LAST_HUE;
    let hue = this.hues.get(job);
    if (hue === undefined) {
      hue = Math.min(this.hues.size, LAST_HUE);
      this.hues.set(job, hue);
    }
    return hue;
  }
}

/**
 * @typedef {{cpuTotal: number, cpuHeld: number, cpuPercent: number, gpuTotal: number, gpuHeld: number,
 *   gpuPercent: number, memoryUsed: number, memoryTotal: number, storeUsed: number, storeTotal: number,
 *   running: number, idle: number, waiting: number, longestWait: number}} Totals
 */

/** @param {ClusterState} state @returns {Totals} */
export function totals(state) {
  const sum = { cpuTotal: 0, cpuHeld: 0, cpuPercent: 0, gpuTotal: 0, gpuHeld: 0, gpuPercent: 0, memoryUsed: 0,
    memoryTotal: 0, storeUsed: 0, storeTotal: 0, running: 0, idle: 0, waiting: 0, longestWait: 0 };
  for (const node of state.nodes) {
    const cpus = node.resources_total.CPU ?? 0;
    sum.cpuTotal += cpus;
    sum.cpuHeld += cpus - (node.resources_free.CPU ?? 0);
    sum.cpuPercent += (node.cpu_percent * Math.max(cpus, 1)) / Math.max(totalCpus(state), 1);
    sum.memoryUsed += node.memory_used_bytes;
    sum.memoryTotal += node.memory_total_bytes;
    sum.storeUsed += node.store_used_bytes;
    sum.storeTotal += node.store_capacity_bytes;
    for (const device of node.devices) {
      sum.gpuTotal += 1;
      sum.gpuHeld += device.held;
      sum.gpuPercent += device.use_percent;
    }
  }
  sum.gpuPercent /= Math.max(sum.gpuTotal, 1);
  sum.running = state.leases.filter((lease) => lease.doing).length;
  sum.idle = state.leases.length - sum.running;
  for (const demand of state.demands) {
    sum.waiting += demand.count;
    sum.longestWait = Math.max(sum.longestWait, state.now - demand.since);
  }
  return sum;
}

/** @param {ClusterState} state */
function totalCpus(state) {
  return state.nodes.reduce((sum, node) => sum + Math.max(node.resources_total.CPU ?? 0, 1), 0);
}

/**
 * Tasks that ended in the last seconds, by the second. A merged span counts by its part in the window.
 *
 * @param {SpanState[]} spans @param {number} now @param {number} [windowS]
 */
export function taskRate(spans, now, windowS = 10) {
  let count = 0;
  for (const span of spans) {
    if (span.state === "running") continue;
    const end = span.start + span.duration_s;
    if (end <= now - windowS) continue;
    const part = span.count > 1 && span.duration_s > 0 ? (end - Math.max(span.start, now - windowS)) / span.duration_s : 1;
    count += span.count * Math.min(1, Math.max(0, part));
  }
  return count / windowS;
}

/**
 * A worker's row in the timeline.
 *
 * @typedef {{workerId: string, node: string, label: string, detail: string, hue: number, devices: number[],
 *   lease: LeaseState | null, spans: SpanState[]}} Lane
 */

/**
 * Lanes in a stable order: by node, actors first, then by when the worker was first seen.
 *
 * @param {ClusterState} state
 * @param {JobHues} hues
 * @param {(workerId: string) => number} firstSeen when a worker came up first, for the order
 * @returns {Lane[]}
 */
export function lanes(state, hues, firstSeen) {
  /** @type {Map<string, Lane>} */
  const byWorker = new Map();
  const names = new Map(state.nodes.map((node) => [node.node_id, node.name]));
  const actors = new Map(state.actors.map((actor) => [actor.actor_id, actor]));
  for (const lease of state.leases) {
    const actor = lease.actor ? actors.get(lease.actor) : undefined;
    byWorker.set(lease.worker_id, {
      workerId: lease.worker_id,
      node: names.get(lease.node_id) ?? shortId(lease.node_id),
      label: actor ? actor.name || actor.class_name : `worker ${lease.pid}`,
      detail: actor ? actor.class_name : lease.label,
      hue: hues.hueOf(lease.job),
      devices: lease.devices,
      lease,
      spans: [],
    });
  }
  for (const span of state.spans) {
    let lane = byWorker.get(span.worker_id);
    if (!lane) {
      lane = { workerId: span.worker_id, node: names.get(span.node_id) ?? shortId(span.node_id),
        label: "idle worker", detail: "", hue: hues.hueOf(span.job), devices: [], lease: null, spans: [] };
      byWorker.set(span.worker_id, lane);
    }
    lane.spans.push(span);
  }
  const rank = (/** @type {Lane} */ lane) => (lane.lease?.actor ? 0 : lane.lease ? 1 : 2);
  return [...byWorker.values()].sort((one, other) =>
    one.node.localeCompare(other.node) || rank(one) - rank(other) || firstSeen(one.workerId) - firstSeen(other.workerId));
}

/**
 * How many spans of each hue are open at each step of a range: the skyline over the timeline.
 *
 * @param {SpanState[]} spans @param {JobHues} hues @param {number} from @param {number} to @param {number} steps
 * @param {number} [now] where spans end that still run
 * @returns {Float32Array[]} one array for each hue
 */
export function skyline(spans, hues, from, to, steps, now = to) {
  const perStep = (to - from) / steps;
  const result = Array.from({ length: LAST_HUE + 1 }, () => new Float32Array(steps));
  for (const span of spans) {
    const start = (span.start - from) / perStep;
    const end = ((span.state === "running" ? now : span.start + span.duration_s) - from) / perStep;
    if (end <= 0 || start >= steps) continue;
    const counts = result[hues.hueOf(span.job)];
    const first = Math.max(0, Math.floor(start));
    const last = Math.min(steps - 1, Math.floor(end));
    for (let step = first; step <= last; step += 1) {
      counts[step] += Math.min(step + 1, end) - Math.max(step, start);
    }
  }
  return result;
}

/**
 * Which job holds each processor of a node, for the ring: hue numbers, -1 for free ones.
 *
 * @param {number} cpus @param {LeaseState[]} leases of the node @param {JobHues} hues @param {number} maximum segments
 */
export function processorHolders(cpus, leases, hues, maximum = 48) {
  const segments = Math.max(1, Math.min(maximum, Math.round(cpus)));
  const result = /** @type {number[]} */ (new Array(segments).fill(-1));
  let taken = 0;
  for (const lease of leases) {
    const first = Math.round((taken * segments) / Math.max(cpus, 1));
    taken += lease.blocked ? 0 : (lease.resources.CPU ?? 0);
    const last = Math.min(segments, Math.round((taken * segments) / Math.max(cpus, 1)));
    for (let segment = first; segment < last; segment += 1) result[segment] = hues.hueOf(lease.job);
  }
  return result;
}

/** The last values of a few series, for sparklines. */
export class History {
  /** @param {number} length */
  constructor(length = 120) {
    this.length = length;
    /** @type {Map<string, number[]>} */
    this.series = new Map();
  }

  /** @param {string} name @param {number} value @returns {number[]} */
  push(name, value) {
    const values = this.series.get(name) ?? [];
    values.push(value);
    if (values.length > this.length) values.shift();
    this.series.set(name, values);
    return values;
  }
}
