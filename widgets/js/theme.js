/**
 * Light or dark, and the colours that a canvas needs as plain values.
 *
 * Surfaces and ink come from the page's own variables (JupyterLab's, VS Code's). The hues of jobs begin
 * with Paul Tol's "vibrant" scheme, which people with colour-blindness tell apart; a glyph goes with each, so that
 * colour is never the only sign. Teal is kept for what machines do, so that it never means a job.
 */

export const GLYPHS = ["●", "■", "▲", "◆", "★", "✚", "⬢"];

const HUES = {
  light: ["#0077bb", "#ee7733", "#d0337f", "#33a1d6", "#9a8600", "#7a5cd0", "#7d7f86"],
  dark: ["#3d9fe0", "#f08c4b", "#f0609f", "#7fd0f5", "#cdb93a", "#a58cf0", "#9a9ca5"],
};

/** The hue for jobs beyond those that have their own. */
export const LAST_HUE = GLYPHS.length - 1;

/**
 * @typedef {{dark: boolean, background: string, ink: string, muted: string, line: string, bad: string,
 *   hues: string[], font: string, mono: string, still: boolean}} Theme
 */

/** @param {string} color as `rgb(...)` @returns {number} from 0, black, to 1, white; 1 for none */
function lightness(color) {
  const parts = (color.match(/[\d.]+/g) ?? []).map(Number);
  if (parts.length < 3 || parts[3] === 0) return 1;
  const scale = color.startsWith("color(") ? 1 : 255;
  return (0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]) / scale;
}

/**
 * Read the theme of the page from an element that has our style sheet.
 *
 * @param {HTMLElement} root
 * @returns {Theme}
 */
export function readTheme(root) {
  const style = getComputedStyle(root);
  const dark = lightness(style.backgroundColor) < 0.5;
  return {
    dark,
    background: style.backgroundColor,
    ink: style.color,
    muted: dark ? "rgba(255,255,255,0.60)" : "rgba(0,0,0,0.60)",
    line: dark ? "rgba(255,255,255,0.09)" : "rgba(0,0,0,0.08)",
    bad: dark ? "#ff7b72" : "#c62828",
    hues: dark ? HUES.dark : HUES.light,
    font: style.fontFamily,
    mono: style.getPropertyValue("--atoll-mono").trim() || "monospace",
    still: matchMedia("(prefers-reduced-motion: reduce)").matches,
  };
}

/**
 * Call back when the page changes its theme.
 *
 * @param {AbortSignal} signal ends the watch
 * @param {() => void} changed
 */
export function watchTheme(signal, changed) {
  const observer = new MutationObserver(changed);
  const options = { attributes: true, attributeFilter: ["class", "style", "data-jp-theme-name", "data-jp-theme-light", "data-vscode-theme-kind"] };
  observer.observe(document.documentElement, options);
  observer.observe(document.body, options);
  const head = new MutationObserver(() => setTimeout(changed, 60));
  head.observe(document.head, { childList: true });
  for (const query of ["(prefers-color-scheme: dark)", "(prefers-reduced-motion: reduce)"]) {
    matchMedia(query).addEventListener("change", changed, { signal });
  }
  signal.addEventListener("abort", () => {
    observer.disconnect();
    head.disconnect();
  });
}

/** @param {string} hue `#rrggbb` @returns {string} what can be read on it */
export function inkOn(hue) {
  const value = parseInt(hue.slice(1), 16);
  const bright = (0.299 * (value >> 16) + 0.587 * ((value >> 8) & 255) + 0.114 * (value & 255)) / 255;
  return bright > 0.58 ? "rgba(0,0,0,0.86)" : "#ffffff";
}
