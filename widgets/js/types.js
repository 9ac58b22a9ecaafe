/**
 * The shapes of `atoll.protocol.state`, as they arrive in JSON. Ids are hex, times are seconds since 1970, sizes
 * are bytes.
 *
 * @typedef {{uuid: string, index: number, model: string, simulated: boolean, memory_total_bytes: number,
 *   memory_used_bytes: number, foreign_memory_bytes: number, use_percent: number, held: number,
 *   holders: string[], outsiders?: string[], trouble?: string, quarantined?: boolean}} DeviceState
 * @typedef {{node_id: string, name: string, pid: number, resources_total: Record<string, number>,
 *   resources_free: Record<string, number>, cpu_percent: number, memory_used_bytes: number,
 *   memory_total_bytes: number, store_used_bytes: number, store_capacity_bytes: number,
 *   devices: DeviceState[], drain?: DrainState | null}} NodeState
 * @typedef {{phase: string, since: number, deadline: number, waits_for: string[]}} DrainState
 * @typedef {{lease_id: number, node_id: string, worker_id: string, pid: number, job: string, label: string,
 *   resources: Record<string, number>, devices: number[], actor: string, doing: string, blocked: boolean,
 *   since: number, cpu_percent: number, memory_bytes: number, away?: number[], wanted_back?: boolean}} LeaseState
 * @typedef {{actor_id: string, name: string, namespace: string, class_name: string, state: string,
 *   incarnation: number, node_id: string, pid: number, job: string, resources: Record<string, number>,
 *   devices: number[], cause: string, created: number, calls: number, last_call: number, away?: number[],
 *   wanted_back?: boolean, kept?: string}} ActorState
 * @typedef {{job: string, name: string, kind: string, pid: number, namespace: string, connected: boolean,
 *   since: number, leases: number, waiting: number}} JobState
 * @typedef {{job: string, label: string, resources: Record<string, number>, count: number, since: number,
 *   reason: string}} DemandState
 * @typedef {{object_id: string, node_id: string, name: string, owner: string, size_bytes: number,
 *   pins: number}} ObjectState
 * @typedef {{name: string, state: string, size_bytes: number, created: number}} NameState
 * @typedef {{key: string, worker_id: string, node_id: string, job: string, name: string, start: number,
 *   duration_s: number, count: number, state: string}} SpanState
 * @typedef {{cluster_id: string, version: string, now: number, started: number, simulated_devices: boolean,
 *   nodes: NodeState[], leases: LeaseState[], actors: ActorState[], jobs: JobState[], demands: DemandState[],
 *   objects: ObjectState[], names: NameState[], spans: SpanState[]}} ClusterState
 *
 * What anywidget hands to `render`.
 *
 * @typedef {{get(name: string): any, send(content: unknown): void,
 *   on(event: string, callback: (...values: any[]) => void): void,
 *   off(event: string, callback: (...values: any[]) => void): void}} WidgetModel
 */

export {};
