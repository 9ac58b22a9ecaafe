/**
 * Where the state comes from: a ladder of two.
 *
 * 1. The WebSocket of the Jupyter server's extension, where the page says that there is one. It works while the
 *    kernel is busy, and after it has died.
 * 2. The widget's own comm with the kernel: VS Code, Colab, a server without the extension, a kernel whose cluster is
 *    not the server's.
 *
 * While the first serves, the kernel is told that it need not. Neither ever reaches beyond the page's own origin.
 *
 * @typedef {import("./types.js").ClusterState} ClusterState
 * @typedef {import("./types.js").WidgetModel} WidgetModel
 * @typedef {"connecting" | "server" | "kernel" | "saved"} Source
 * @typedef {{source: Source, text: string}} Status
 * @typedef {{state(state: ClusterState): void, unchanged(now: number): void, trouble(text: string): void}} Sink
 */

const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30000;
const HEARTBEAT_MS = 7000;

/** @returns {{baseUrl: string, path: string} | null} where the extension's API is, if this page's server has it */
export function serverApi() {
  const data = document.getElementById("jupyter-config-data");
  if (!data || location.protocol === "vscode-webview:") return null;
  try {
    const config = JSON.parse(data.textContent ?? "{}");
    if (typeof config.atollApi !== "string" || typeof config.baseUrl !== "string") return null;
    const base = new URL(config.baseUrl, location.href);
    if (base.origin !== location.origin) return null;
    return { baseUrl: base.pathname, path: config.atollApi };
  } catch {
    return null;
  }
}

export class Transport {
  /** @param {WidgetModel} model @param {Sink} sink @param {AbortSignal} signal */
  constructor(model, sink, signal) {
    this.model = model;
    this.sink = sink;
    this.signal = signal;
    /** @type {Source} */
    this.source = "connecting";
    this.retryMs = FIRST_RETRY_MS;
    this.lastMs = 0;
    /** @type {WebSocket | null} */
    this.socket = null;
    this.view = Math.random().toString(36).slice(2);
    this.clusterId = String(model.get("_cluster_id") ?? "");
  }

  start() {
    const heard = (/** @type {any} */ message, /** @type {DataView[]} */ buffers) => this.#fromKernel(message, buffers);
    this.model.on("msg:custom", heard);
    const beat = window.setInterval(() => {
      // Served by the server, we leave the kernel alone: each message makes it look idle for a moment.
      if (this.source !== "server") this.#tell();
    }, HEARTBEAT_MS);
    this.signal.addEventListener("abort", () => {
      this.model.off("msg:custom", heard);
      clearInterval(beat);
      this.socket?.close();
      this.#send({ watch: "nobody" });
    });
    if (serverApi()) this.#dial();
    this.#tell();
  }

  /** Tell the kernel who serves us, so that it stops when it need not and resumes when it must. */
  #tell() {
    this.#send({ watch: this.source === "server" ? "server" : "kernel" });
  }

  /** @param {Record<string, string>} content */
  #send(content) {
    try {
      this.model.send({ view: this.view, ...content });
    } catch {
      // The kernel or its comm is gone. Whoever still serves us goes on serving.
    }
  }

  #dial() {
    const api = serverApi();
    if (!api || this.signal.aborted) return;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${api.baseUrl}${api.path}/state/watch`);
    this.socket = socket;
    socket.addEventListener("message", (event) => this.#fromServer(socket, String(event.data)), { signal: this.signal });
    socket.addEventListener("close", () => this.#lost(), { signal: this.signal });
  }

  #lost() {
    this.socket = null;
    if (this.source === "server") {
      this.source = "connecting";
      this.#tell();
    }
    window.setTimeout(() => this.#dial(), this.retryMs);
    this.retryMs = Math.min(LONGEST_RETRY_MS, this.retryMs * 2);
  }

  /** @param {WebSocket} socket @param {string} text */
  #fromServer(socket, text) {
    const message = JSON.parse(text);
    const ours = !this.clusterId || !message.cluster_id || message.cluster_id === this.clusterId;
    if (!ours) {
      // The kernel works on another cluster than this server's: the kernel tells of it.
      this.retryMs = LONGEST_RETRY_MS;
      socket.close();
      return;
    }
    this.retryMs = FIRST_RETRY_MS;
    if (message.kind === "trouble") {
      if (this.source !== "kernel") this.sink.trouble(String(message.text));
      return;
    }
    if (this.source !== "server") {
      this.source = "server";
      this.#tell();
    }
    this.#deliver(message);
  }

  /** @param {any} message @param {DataView[]} buffers */
  #fromKernel(message, buffers) {
    if (this.source === "server") return;
    if (message.kind === "trouble") {
      this.sink.trouble(String(message.text));
      return;
    }
    this.source = "kernel";
    this.#deliver(JSON.parse(new TextDecoder().decode(buffers[0])));
  }

  /** @param {any} message */
  #deliver(message) {
    this.lastMs = performance.now();
    if (message.kind === "unchanged") this.sink.unchanged(Number(message.now));
    else this.sink.state(message);
  }
}
