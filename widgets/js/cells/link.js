/**
 * The connection to the Jupyter server's extension that follows cells for this page: one for all of them, open while
 * anything is wanted. What is wanted is said again when it had to be opened anew.
 *
 * @typedef {{watch: string, cluster: string, output: boolean}} Wish
 */

import { serverApi } from "../transport.js";

const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30000;

export class Link {
  /** @param {(told: any) => void} take takes what is told of a cell @param {() => void} opened everything begins anew */
  constructor(take, opened) {
    this.take = take;
    this.opened = opened;
    /** By `cluster cell`. @type {Map<string, Wish>} */
    this.wishes = new Map();
    /** @type {WebSocket | null} */
    this.socket = null;
    this.retryMs = FIRST_RETRY_MS;
  }

  /** Whether there is a server that could follow cells. */
  get isThere() {
    return serverApi() !== null;
  }

  /** @param {Wish} wish */
  want(wish) {
    const key = `${wish.cluster} ${wish.watch}`;
    if (this.wishes.get(key)?.output === wish.output) return;
    this.wishes.set(key, wish);
    if (this.socket) this.#say(wish);
    else this.#dial();
  }

  /** @param {string} key */
  leave(key) {
    const wish = this.wishes.get(key);
    if (!wish) return;
    this.wishes.delete(key);
    this.#say({ leave: wish.watch, cluster: wish.cluster });
    if (this.wishes.size === 0) this.socket?.close();
  }

  /** @param {Record<string, unknown>} message */
  #say(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  #dial() {
    const api = serverApi();
    if (!api || this.socket || this.wishes.size === 0) return;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${api.baseUrl}${api.path}/cells/watch`);
    this.socket = socket;
    socket.addEventListener("open", () => {
      this.retryMs = FIRST_RETRY_MS;
      this.opened();
      for (const wish of this.wishes.values()) this.#say(wish);
    });
    socket.addEventListener("message", (event) => {
      for (const told of JSON.parse(String(event.data))) {
        if (this.wishes.has(`${told.cluster} ${told.cell}`)) this.take(told);
      }
    });
    socket.addEventListener("close", () => {
      this.socket = null;
      window.setTimeout(() => this.#dial(), this.retryMs);
      this.retryMs = Math.min(LONGEST_RETRY_MS, this.retryMs * 2);
    });
  }
}
