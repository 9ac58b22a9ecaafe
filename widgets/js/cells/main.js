/**
 * The entry that JupyterLab loads from `share/jupyter/labextensions/atoll`: a container of webpack's module federation,
 * which is how a page shares its libraries with extensions. It needs one of them, the base class of all widgets, and
 * gives one module, an extension that shows one kind of output.
 *
 * @typedef {{get(): Promise<() => any> | (() => any), loaded?: unknown}} Shared
 * @typedef {Record<string, Record<string, Shared>>} Scope
 */

import { rendererExtension } from "./renderer.js";

/** @type {Scope} */
let scope = {};

/** @param {string} name @returns {Promise<any>} the page's own copy of a library: the one in use, or else the newest */
async function shared(name) {
  const versions = Object.entries(scope[name] ?? {});
  if (versions.length === 0) throw new Error(`the page shares no ${name}`);
  const newer = (/** @type {string} */ a, /** @type {string} */ b) => a.localeCompare(b, undefined, { numeric: true });
  versions.sort(([a, first], [b, second]) => Number(!!second.loaded) - Number(!!first.loaded) || newer(b, a));
  return (await versions[0][1].get())();
}

const container = {
  /** @param {Scope} given */
  init(given) {
    scope = given;
  },

  /** @returns {Promise<() => {default: unknown}>} */
  async get() {
    const { Widget } = await shared("@lumino/widgets");
    const extension = rendererExtension(Widget);
    return () => ({ __esModule: true, default: extension });
  },
};

const page = /** @type {any} */ (window);
page._JUPYTERLAB = { ...page._JUPYTERLAB, atoll: container };
