/** How numbers read. Pure functions; the Python twin is `widgets/static_view.py`. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** @param {number} size @returns {string} `512 B`, `1.5 GiB` */
export function formatBytes(size) {
  let unit = 0;
  while (size >= 1023.95 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  return `${trimZeros(size.toFixed(digits))} ${UNITS[unit]}`;
}

/** @param {number} size @returns {string} with no more digits than a total needs: `64 GiB`, `7.1 GiB` */
export function formatTotal(size) {
  const [number, unit] = formatBytes(size).split(" ");
  return `${trimZeros(Number(number).toFixed(Number(number) < 9.95 ? 1 : 0))} ${unit}`;
}

/** @param {number} many @param {string} what @returns {string} `1 object`, `3 objects` */
export function formatCount(many, what) {
  return `${formatNumber(many)} ${what}${many === 1 ? "" : "s"}`;
}

/** @param {string} text */
function trimZeros(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/**
 * A share with one unit for both: `21.3 / 64 GiB`.
 *
 * @param {number} used @param {number} total
 */
export function formatShare(used, total) {
  const [, unit] = formatBytes(total).split(" ");
  const [number, usedUnit] = formatBytes(used).split(" ");
  return usedUnit === unit ? `${number} / ${formatTotal(total)}` : `${formatBytes(used)} / ${formatTotal(total)}`;
}

/** @param {number} seconds @returns {string} `850 ms`, `12.4 s`, `3m 05s`, `2h 04m`, `5d 02h` */
export function formatDuration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "0 s";
  if (seconds < 0.0995) return `${trimZeros((seconds * 1000).toFixed(1))} ms`;
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 59.95) return `${trimZeros(seconds.toFixed(seconds < 9.95 ? 1 : 0))} s`;
  if (seconds < 3600) return twoUnits(seconds, 60, "m", 1, "s");
  if (seconds < 86400) return twoUnits(seconds, 3600, "h", 60, "m");
  return twoUnits(seconds, 86400, "d", 3600, "h");
}

/** @param {number} seconds @param {number} large @param {string} largeName @param {number} small @param {string} smallName */
function twoUnits(seconds, large, largeName, small, smallName) {
  const whole = Math.floor(seconds / large);
  const rest = Math.floor((seconds - whole * large) / small);
  return `${whole}${largeName} ${String(rest).padStart(2, "0")}${smallName}`;
}

/** @param {number} amount @returns {string} an amount of a resource, or a count: `1,234`, `2.5` */
export function formatNumber(amount) {
  if (Math.abs(amount) >= 100) return Math.round(amount).toLocaleString("en-US");
  return String(Math.round(amount * 100) / 100);
}

/** @param {Record<string, number>} resources @returns {string} `2 CPU · 1 GPU · 4 GiB` */
export function formatResources(resources) {
  return Object.keys(resources)
    .sort()
    .map((name) => (name === "memory" ? formatBytes(resources[name]) : `${formatNumber(resources[name])} ${name}`))
    .join(" · ");
}

/** @param {number} seconds since 1970 @returns {string} `14:03:27`, in the reader's time zone */
export function formatClock(seconds) {
  const at = new Date(seconds * 1000);
  return [at.getHours(), at.getMinutes(), at.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}

/** @param {string} id of an object @returns {string} who made it and its number there: `ef96·12` */
export function objectLabel(id) {
  return `${id.slice(0, 4)}·${parseInt(id.slice(16, 32), 16) || 0}`;
}

/** @param {string} id @returns {string} enough of a hex id to tell it from its neighbours */
export function shortId(id) {
  return id.slice(0, 8);
}

/**
 * The GPUs of a worker or an actor, and whether it has given them up for a while.
 *
 * @param {{devices: number[], away?: number[], wanted_back?: boolean}} item
 */
export function devicesOf(item) {
  if (!item.away?.length) return item.devices.join(", ");
  return `${item.away.join(", ")} ${item.wanted_back ? "wanted back" : "given up"}`;
}

/**
 * The same for a title: what that means.
 *
 * @param {{devices: number[], away?: number[], wanted_back?: boolean, kept?: string}} item
 */
export function devicesTold(item) {
  if (item.kept) return `It keeps its GPUs while it is idle: ${item.kept}`;
  if (!item.away?.length) return "";
  const which = `GPU ${item.away.join(", ")}`;
  return item.wanted_back ? `A call has come and waits until ${which} is free again` : `Idle, it has given ${which} up until the next call`;
}
