/** The browser's own notification when a cell has ended whose line asks for it. Nobody is asked unprompted. */

import { element } from "../dom.js";

/** @returns {NotificationPermission | "none"} */
function permission() {
  return typeof Notification === "undefined" ? "none" : Notification.permission;
}

/**
 * Tell of an end, if nobody looks at the page and the user has allowed it.
 *
 * @param {string} tag one for each cell, so that several pages show one notification
 * @param {string} title
 * @param {string} body
 */
export function notify(tag, title, body) {
  if (permission() !== "granted" || document.visibilityState === "visible") return;
  const shown = new Notification(title, { tag, body });
  shown.addEventListener("click", () => {
    window.focus();
    shown.close();
  });
}

/** @returns {HTMLElement | null} what asks for the permission when it is pressed; null where nothing is to be asked */
export function permissionButton() {
  if (permission() !== "default") return null;
  const button = element("button", { class: "atoll-allow", type: "button" }, "allow notifications");
  button.title = "This cell is to tell when it is done; your browser asks you once whether it may.";
  button.addEventListener("click", () => {
    void Notification.requestPermission().then(() => {
      if (permission() !== "default") for (const each of document.querySelectorAll(".atoll-allow")) each.remove();
    });
  });
  return button;
}
