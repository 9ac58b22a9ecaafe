/** The entry that anywidget loads: one dashboard for each view, inside a shadow root, so that styles stay apart. */

import { Dashboard } from "./dashboard.js";
import { element } from "./dom.js";
import styles from "./dashboard.css";
import { Transport } from "./transport.js";

/** @param {{model: import("./types.js").WidgetModel, el: HTMLElement}} context */
function render({ model, el }) {
  const ending = new AbortController();
  const host = element("div", { class: "atoll-dashboard" });
  const shadow = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(styles);
  shadow.adoptedStyleSheets = [sheet];
  const dashboard = new Dashboard(ending.signal);
  shadow.append(dashboard.node);
  host.style.width = "100%";
  el.append(host);

  const saved = String(model.get("_state") ?? "");
  const transport = new Transport(model, {
    state: (state) => dashboard.show(state, transport.source === "server" ? "server" : "kernel"),
    unchanged: (now) => dashboard.unchanged(now),
    trouble: (text) => dashboard.trouble(text),
  }, ending.signal);
  requestAnimationFrame(() => {
    if (ending.signal.aborted) return;
    dashboard.start();
    if (saved) dashboard.show(JSON.parse(saved), "saved");
    transport.start();
  });
  return () => ending.abort();
}

export default { render };
