/** Real tables: what runs, actors, objects, notebooks, what waits, and the timeline's twin for the keyboard. */

import { element, KeyedList, setText } from "./dom.js";
import { devicesOf, devicesTold, formatBytes, formatClock, formatDuration, formatNumber, formatResources, objectLabel, shortId } from "./format.js";
import { Bar, Glyph } from "./parts.js";

/**
 * @typedef {import("./types.js").ClusterState} ClusterState
 * @typedef {import("./model.js").JobHues} JobHues
 */

/**
 * A column: `cell` makes what shows a row's value.
 *
 * @template T
 * @typedef {{title: string, numeric?: boolean, grow?: boolean, cell: () => {node: Node, update(row: T): void}}} Column
 */

/**
 * A cell that is text.
 *
 * @template T
 * @param {(row: T) => string} read
 * @param {(row: T) => string} [hint] a title
 * @param {string} [name] a class
 */
function text(read, hint, name = "") {
  return () => {
    const node = element("span", name ? { class: name } : {});
    return {
      node,
      update: (/** @type {T} */ row) => {
        setText(node, read(row));
        if (hint) node.title = hint(row);
      },
    };
  };
}

/** @template T */
export class Table {
  /**
   * @param {string} caption for a screen reader
   * @param {Column<T>[]} columns
   * @param {(row: T) => string} keyOf
   * @param {string} empty what stands there when there is nothing
   * @param {number} [maximum] rows; how many are left out is said
   */
  constructor(caption, columns, keyOf, empty, maximum = 200) {
    const head = element("tr", {}, ...columns.map((column) =>
      element("th", { scope: "col", class: kind(column) }, column.title)));
    this.body = element("tbody");
    this.note = element("p", { class: "note" });
    this.empty = empty;
    this.maximum = maximum;
    this.table = element("table", {}, element("caption", {}, caption), element("thead", {}, head), this.body);
    this.node = element("div", { class: "table", tabindex: "0", role: "region", "aria-label": caption }, this.table, this.note);
    this.rows = new KeyedList(this.body, keyOf, () => {
      const cells = columns.map((column) => column.cell());
      const node = element("tr", {}, ...cells.map((cell, index) => element("td", { class: kind(columns[index]) }, cell.node)));
      return { node, update: (/** @type {T} */ row) => cells.forEach((cell) => cell.update(row)) };
    });
  }

  /** @param {T[]} rows */
  update(rows) {
    this.rows.update(rows.slice(0, this.maximum));
    this.table.hidden = rows.length === 0;
    const left = rows.length - this.maximum;
    setText(this.note, rows.length === 0 ? this.empty : left > 0 ? `${formatNumber(left)} more are not shown` : "");
  }
}

/** @param {{numeric?: boolean, grow?: boolean}} column */
function kind(column) {
  return `${column.numeric ? "numeric" : ""}${column.grow ? " grow" : ""}`.trim();
}

/**
 * A glyph and a text beside it.
 *
 * @template T
 * @param {JobHues} hues
 * @param {(row: T) => string} jobOf
 * @param {(row: T) => string} read
 * @param {(row: T) => string} [hint]
 * @param {(row: T) => string | undefined} [glyphOf]
 */
function marked(hues, jobOf, read, hint, glyphOf) {
  return () => {
    const glyph = new Glyph();
    const label = element("span");
    const node = element("span", { class: "marked" }, glyph.node, label);
    return {
      node,
      update: (/** @type {T} */ row) => {
        glyph.update(hues.hueOf(jobOf(row)), glyphOf?.(row));
        setText(label, read(row));
        if (hint) node.title = hint(row);
      },
    };
  };
}

/**
 * Where something is: the process, with the node where there are several.
 *
 * @param {Map<string, string>} nodes @param {string} node @param {string} process
 */
function place(nodes, node, process) {
  return nodes.size > 1 ? `${nodes.get(node) ?? shortId(node)} ${process}` : process;
}

/** @param {JobHues} hues */
export function runningTable(hues) {
  /** @typedef {import("./types.js").LeaseState & {what: string, where: string, now: number}} Row */
  /** @type {Table<Row>} */
  const table = new Table("Running now", [
    { title: "what", grow: true, cell: marked(hues, (row) => row.job, (row) => row.what, (row) => `${row.label}\n${formatResources(row.resources)}`, (row) => (row.blocked ? "‖" : undefined)) },
    { title: "process", cell: text((row) => row.where, (row) => `pid ${row.pid}`, "quiet") },
    { title: "GPU", cell: text(devicesOf, devicesTold, "mono") },
    { title: "CPU", numeric: true, cell: text((row) => `${Math.round(row.cpu_percent)}%`) },
    { title: "memory", numeric: true, cell: text((row) => formatBytes(row.memory_bytes)) },
    { title: "for", numeric: true, cell: text((row) => formatDuration(row.now - row.since)) },
  ], (row) => String(row.lease_id), "No worker is in use.");
  return {
    node: table.node,
    /** @param {ClusterState} state */
    update(state) {
      const nodes = new Map(state.nodes.map((node) => [node.node_id, node.name]));
      const actors = new Map(state.actors.map((actor) => [actor.actor_id, actor.name || actor.class_name]));
      const rows = state.leases.map((lease) => {
        const actor = lease.actor ? actors.get(lease.actor) ?? "actor" : "";
        const doing = lease.doing || (actor ? "" : `${lease.label} (idle)`);
        return { ...lease, what: actor ? (doing ? `${actor}.${doing}` : `${actor} (ready)`) : doing,
          where: place(nodes, lease.node_id, String(lease.pid)), now: state.now };
      });
      rows.sort((one, other) => Number(Boolean(other.doing)) - Number(Boolean(one.doing)) || one.since - other.since);
      table.update(rows);
    },
  };
}

/** @type {Record<string, string>} */
const ACTOR_SIGNS = { alive: "●", pending: "◌", restarting: "↻", dead: "✕" };

/** @param {JobHues} hues */
export function actorTable(hues) {
  /** @typedef {import("./types.js").ActorState & {where: string, now: number}} Row */
  /** @type {Table<Row>} */
  const table = new Table("Actors", [
    { title: "actor", grow: true, cell: marked(hues, (row) => row.job, (row) => row.name || row.class_name, (row) => `${row.class_name}\n${row.actor_id}`) },
    { title: "state", cell: text((row) => `${ACTOR_SIGNS[row.state] ?? "?"} ${row.state}`, (row) => row.cause) },
    { title: "class", cell: text((row) => row.class_name, undefined, "quiet") },
    { title: "process", cell: text((row) => row.where, undefined, "quiet") },
    { title: "GPU", cell: text(devicesOf, devicesTold, "mono") },
    { title: "life", numeric: true, cell: text((row) => (row.incarnation ? `${row.incarnation + 1}.` : "1."), () => "Which process of this actor it is") },
    { title: "calls", numeric: true, cell: text((row) => formatNumber(row.calls),
      (row) => (row.last_call ? `the last one ended ${formatDuration(row.now - row.last_call)} ago` : "none has ended yet")) },
    { title: "age", numeric: true, cell: text((row) => formatDuration(row.now - row.created)) },
  ], (row) => row.actor_id, "No actors. %%actor name makes one.");
  return {
    node: table.node,
    /** @param {ClusterState} state */
    update(state) {
      const nodes = new Map(state.nodes.map((node) => [node.node_id, node.name]));
      // A background cell is an actor, too; it is among what runs.
      const rows = state.actors.filter((actor) => actor.namespace !== "cells").map((actor) => ({ ...actor, now: state.now,
        where: actor.pid ? place(nodes, actor.node_id, String(actor.pid)) : "" }));
      rows.sort((one, other) => Number(one.state === "dead") - Number(other.state === "dead") || one.created - other.created);
      table.update(rows);
    },
  };
}

/** @param {JobHues} hues */
export function objectTable(hues) {
  /** @typedef {import("./types.js").ObjectState & {most: number, holder: string, key: string}} Row */
  /** @type {Table<Row>} */
  const table = new Table("Objects in the lagoon", [
    { title: "name", grow: true, cell: text((row) => row.name || objectLabel(row.object_id), (row) => row.object_id, "") },
    { title: "size", numeric: true, cell: text((row) => formatBytes(row.size_bytes)) },
    { title: "", cell: () => {
      const bar = new Bar("small");
      return { node: bar.node, update: (row) => bar.update(Math.sqrt(row.size_bytes / row.most)) };
    } },
    { title: "pins", numeric: true, cell: text((row) => String(row.pins), () => "Processes that have it mapped") },
    { title: "owner", cell: marked(hues, (row) => row.owner, (row) => row.holder, undefined, (row) => (row.name ? "" : undefined)) },
  ], (row) => row.key, "The lagoon is empty. %%cached and atoll.put fill it.");
  return {
    node: table.node,
    /** @param {ClusterState} state */
    update(state) {
      const jobs = new Map(state.jobs.map((job) => [job.job, job.name]));
      const most = state.objects.reduce((size, object) => Math.max(size, object.size_bytes), 1);
      const rows = state.objects.map((object) => ({ ...object, most, key: `${object.node_id}${object.object_id}`,
        holder: object.name ? "cluster" : jobs.get(object.owner) ?? "a worker" }));
      rows.sort((one, other) => Number(Boolean(other.name)) - Number(Boolean(one.name)) || other.size_bytes - one.size_bytes || one.key.localeCompare(other.key));
      table.update(rows);
    },
  };
}

/** @param {JobHues} hues */
export function jobTable(hues) {
  /** @typedef {import("./types.js").JobState & {now: number}} Row */
  /** @type {Table<Row>} */
  const table = new Table("Notebooks and scripts", [
    { title: "notebook", grow: true, cell: marked(hues, (row) => row.job, (row) => row.name, (row) => `${row.kind} · pid ${row.pid} · ${row.job}`) },
    { title: "holds", numeric: true, cell: text((row) => String(row.leases), () => "Leases") },
    { title: "waits", numeric: true, cell: text((row) => (row.waiting ? String(row.waiting) : "–")) },
    { title: "since", numeric: true, cell: text((row) => (row.connected ? formatDuration(row.now - row.since) : "gone")) },
  ], (row) => row.job, "No notebook is attached.");
  return {
    node: table.node,
    /** @param {ClusterState} state */
    update(state) {
      table.update(state.jobs.filter((job) => job.kind !== "server").map((job) => ({ ...job, now: state.now })));
    },
  };
}

/** @param {JobHues} hues */
export function waitingList(hues) {
  /** @typedef {import("./types.js").DemandState & {now: number, key: string}} Row */
  const list = element("ul", { class: "waits", "aria-label": "What waits, and why" });
  const rows = new KeyedList(list, (/** @type {Row} */ row) => row.key, () => {
    const glyph = new Glyph();
    const what = element("b");
    const wants = element("span", { class: "quiet" });
    const reason = element("p");
    return {
      node: element("li", {}, element("div", { class: "line" }, glyph.node, what, wants), reason),
      update: (/** @type {Row} */ row) => {
        glyph.update(hues.hueOf(row.job));
        setText(what, `${row.count > 1 ? `${formatNumber(row.count)} × ` : ""}${row.label || "task"}`);
        setText(wants, `${formatResources(row.resources)} · ${formatDuration(row.now - row.since)}`);
        setText(reason, row.reason);
      },
    };
  });
  return {
    node: list,
    /** @param {ClusterState} state */
    update(state) {
      rows.update(state.demands.map((demand) => ({ ...demand, now: state.now,
        key: `${demand.job}/${demand.label}/${demand.since}/${formatResources(demand.resources)}` })));
      list.hidden = state.demands.length === 0;
    },
  };
}

/** @type {Record<string, string>} */
const SPAN_SIGNS = { running: "▸", failed: "✕" };

/** The timeline as a table. @param {JobHues} hues */
export function spanTable(hues) {
  /** @typedef {import("./types.js").SpanState & {where: string, now: number, id: string}} Row */
  /** @type {Table<Row>} */
  const table = new Table("The last tasks, newest first", [
    { title: "task", grow: true, cell: marked(hues, (row) => row.job, (row) => row.name + (row.count > 1 ? ` ×${formatNumber(row.count)}` : "")) },
    { title: "state", cell: text((row) => `${SPAN_SIGNS[row.state] ?? "✓"} ${row.state}`) },
    { title: "process", cell: text((row) => row.where, undefined, "quiet") },
    { title: "began", numeric: true, cell: text((row) => formatClock(row.start)) },
    { title: "took", numeric: true, cell: text((row) => formatDuration(row.state === "running" ? row.now - row.start : row.duration_s)) },
  ], (row) => row.id, "Nothing has run yet.", 300);
  return {
    node: table.node,
    /** @param {ClusterState} state */
    update(state) {
      const nodes = new Map(state.nodes.map((node) => [node.node_id, node.name]));
      const pids = new Map(state.leases.map((lease) => [lease.worker_id, String(lease.pid)]));
      const rows = state.spans.map((span) => ({ ...span, now: state.now, id: `${span.worker_id}/${span.key}`,
        where: place(nodes, span.node_id, pids.get(span.worker_id) ?? shortId(span.worker_id)) }));
      rows.sort((one, other) => other.start - one.start);
      table.update(rows);
    },
  };
}
