/** A card for each node: its processors as a ring, its memory, each GPU, and what is placed there. */

import { element, KeyedList, setStyle, setText } from "./dom.js";
import { devicesTold, formatBytes, formatDuration, formatNumber, formatShare } from "./format.js";
import { processorHolders } from "./model.js";
import { Bar, Glyph, Ring } from "./parts.js";

/**
 * @typedef {import("./types.js").ClusterState} ClusterState
 * @typedef {import("./types.js").NodeState} NodeState
 * @typedef {import("./types.js").DeviceState} DeviceState
 * @typedef {import("./types.js").LeaseState} LeaseState
 * @typedef {import("./model.js").JobHues} JobHues
 */

/** A labelled bar with a value at its end. */
class Meter {
  /** @param {string} label */
  constructor(label) {
    this.bar = new Bar("", true);
    this.value = element("span", { class: "value" });
    this.node = element("div", { class: "meter" }, element("span", { class: "label" }, label), this.value, this.bar.node);
  }

  /** @param {number} used @param {number} total */
  update(used, total) {
    setText(this.value, formatShare(used, total));
    this.bar.update(used / Math.max(total, 1));
  }
}

class DeviceTile {
  /** @param {JobHues} hues */
  constructor(hues) {
    this.hues = hues;
    this.index = element("b");
    this.use = element("span", { class: "use" });
    this.model = element("span", { class: "model" });
    this.bar = new Bar("use-bar");
    this.memory = new Bar("memory-bar");
    this.value = element("span", { class: "value" });
    this.holder = element("span", { class: "holder" });
    this.glyph = new Glyph();
    this.node = element("li", { class: "device" },
      element("div", { class: "line" }, this.glyph.node, this.index, this.holder, this.use), this.bar.node, this.memory.node,
      element("div", { class: "line" }, this.model, this.value));
  }

  /** @param {DeviceState} device @param {LeaseState[]} leases of its node */
  update(device, leases) {
    setText(this.index, `GPU ${device.index}`);
    setText(this.model, device.simulated ? "simulated" : device.model);
    this.node.title = `${device.model}${device.simulated ? " (simulated)" : ""}\n${device.uuid}\n` +
      `held ${formatNumber(device.held * 100)}%${device.holders.length ? ` by ${device.holders.join(", ")}` : ""}` +
      (device.foreign_memory_bytes ? `\n${formatBytes(device.foreign_memory_bytes)} by processes that are not Atoll's` : "") +
      (device.outsiders ?? []).map((each) => `\n${each}`).join("") + (device.trouble ? `\n${device.trouble}` : "") + (device.quarantined ? `\n%gpus release=${device.index} gives it again` : "");
    setText(this.use, `${Math.round(device.use_percent)}%`);
    this.bar.update(device.use_percent / 100);
    this.memory.update(device.memory_used_bytes / Math.max(device.memory_total_bytes, 1));
    setText(this.value, formatShare(device.memory_used_bytes, device.memory_total_bytes));
    const lease = leases.find((each) => each.devices.includes(device.index));
    setText(this.holder, device.held ? (device.holders.join(", ") || "held") + (device.held < 1 ? ` · ${formatNumber(device.held)}` : "") : device.quarantined ? "quarantined" : device.trouble || (device.foreign_memory_bytes ? "used from outside" : "free"));
    this.holder.classList.toggle("quiet", !device.held);
    this.glyph.update(lease ? this.hues.hueOf(lease.job) : 6, lease ? undefined : "○");
    this.node.classList.toggle("simulated", device.simulated);
    this.node.classList.toggle("held", device.held > 0);
    this.node.classList.toggle("troubled", Boolean(device.trouble));
  }
}

/** What is placed on a node: one chip for each lease. */
class Chip {
  /** @param {JobHues} hues */
  constructor(hues) {
    this.hues = hues;
    this.glyph = new Glyph();
    this.name = element("span", { class: "name" });
    this.detail = element("span", { class: "quiet" });
    this.node = element("li", { class: "chip" }, this.glyph.node, this.name, this.detail);
  }

  /** @param {LeaseState} lease @param {Map<string, string>} actors their names @param {number} now */
  update(lease, actors, now) {
    const hue = this.hues.hueOf(lease.job);
    const actor = lease.actor ? actors.get(lease.actor) ?? "actor" : "";
    this.glyph.update(hue, lease.blocked ? "‖" : undefined);
    setText(this.name, actor ? (lease.doing ? `${actor}.${lease.doing}` : actor) : lease.doing || lease.label || `worker ${lease.pid}`);
    const devices = lease.devices.length ? `G${lease.devices.join(",")} ` : lease.away?.length ? `G${lease.away.join(",")} given up ` : "";
    setText(this.detail, devices + (lease.blocked || lease.wanted_back ? "waits" : lease.doing ? formatDuration(now - lease.since) : "idle"));
    this.node.title = `${lease.label} · pid ${lease.pid} · ${Math.round(lease.cpu_percent)}% of a core · ${formatBytes(lease.memory_bytes)}` +
      (lease.away?.length ? `\n${devicesTold(lease)}` : "");
    this.node.classList.toggle("busy", Boolean(lease.doing));
    this.node.classList.toggle("actor", Boolean(lease.actor));
    setStyle(this.node, "--hue", `var(--hue-${hue})`);
  }
}

class NodeCard {
  /** @param {JobHues} hues */
  constructor(hues) {
    this.hues = hues;
    this.name = element("b");
    this.detail = element("span", { class: "quiet" });
    this.ring = new Ring();
    this.memory = new Meter("Memory");
    this.store = new Meter("Object store");
    this.leased = element("span", { class: "value" });
    this.free = element("div", { class: "meter" }, element("span", { class: "label" }, "Free"), this.leased);
    const devices = element("ul", { class: "devices", "aria-label": "GPUs" });
    const chips = element("ul", { class: "chips", "aria-label": "Placed here" });
    /** @type {LeaseState[]} */
    this.leases = [];
    /** @type {Map<string, string>} */
    this.actors = new Map();
    this.now = 0;
    this.devices = new KeyedList(devices, (/** @type {DeviceState} */ device) => device.uuid, () => {
      const tile = new DeviceTile(hues);
      return { node: tile.node, update: (/** @type {DeviceState} */ device) => tile.update(device, this.leases) };
    });
    this.chips = new KeyedList(chips, (/** @type {LeaseState} */ lease) => String(lease.lease_id), () => {
      const chip = new Chip(hues);
      return { node: chip.node, update: (/** @type {LeaseState} */ lease) => chip.update(lease, this.actors, this.now) };
    });
    this.node = element("article", { class: "node" },
      element("div", { class: "line" }, this.name, this.detail),
      element("div", { class: "vitals" }, this.ring.node, element("div", { class: "meters" }, this.memory.node, this.store.node, this.free)),
      devices, chips);
  }

  /** @param {NodeState} node @param {ClusterState} state */
  update(node, state) {
    this.leases = state.leases.filter((lease) => lease.node_id === node.node_id);
    this.actors = new Map(state.actors.map((actor) => [actor.actor_id, actor.name || actor.class_name]));
    this.now = state.now;
    const cpus = node.resources_total.CPU ?? 0;
    setText(this.name, node.name);
    const drain = node.drain;
    const words = drain ? ` · drained: ${drain.phase}${drain.waits_for.length ? `, waits for ${drain.waits_for.length}` : ""}` : "";
    setText(this.detail, `${formatNumber(cpus)} CPU${node.devices.length ? ` · ${node.devices.length} GPU` : ""} · pid ${node.pid}${words}`);
    this.detail.title = drain ? drain.waits_for.join("\n") : "";
    this.ring.update(processorHolders(cpus, this.leases, this.hues), node.cpu_percent);
    this.memory.update(node.memory_used_bytes, node.memory_total_bytes);
    this.store.update(node.store_used_bytes, node.store_capacity_bytes);
    const gpus = node.resources_free.GPU;
    setText(this.leased, `${formatNumber(Math.max(0, node.resources_free.CPU ?? 0))} CPU` +
      (gpus === undefined && !node.devices.length ? "" : ` · ${formatNumber(gpus ?? 0)} GPU`) +
      (node.resources_free.memory ? ` · ${formatBytes(node.resources_free.memory)}` : ""));
    this.devices.update(node.devices);
    this.chips.update(this.leases);
  }
}

export class Nodes {
  /** @param {JobHues} hues */
  constructor(hues) {
    this.list = element("div", { class: "nodes" });
    /** @type {ClusterState | null} */
    this.state = null;
    this.cards = new KeyedList(this.list, (/** @type {NodeState} */ node) => node.node_id, () => {
      const card = new NodeCard(hues);
      return { node: card.node, update: (/** @type {NodeState} */ node) => this.state && card.update(node, this.state) };
    });
    this.node = this.list;
  }

  /** @param {ClusterState} state */
  update(state) {
    this.state = state;
    this.cards.update(state.nodes);
  }
}
