/** What JupyterLab shows for a living line: a widget of its own kind, made with the page's own base class. */

import { Book } from "./book.js";
import styles from "./cells.css";
import { LineView, readRow } from "./line.js";
import { permissionButton } from "./notify.js";

export const MIME = "application/vnd.atoll.cell+json";

/** @param {any} value @returns {import("./book.js").Told | null} what a notebook says of a cell, if it says it rightly */
function readTold(value) {
  const line = readRow(value?.line);
  const isNamed = typeof value?.cluster === "string" && /^t[0-9]{1,12}$/.test(String(value?.cell));
  if (!line || !isNamed) return null;
  return { cluster: value.cluster, cell: value.cell, output: !!value.output, notify: !!value.notify, line };
}

/** @param {any} Widget Lumino's, of this page @returns {Record<string, unknown>} an extension for kinds of output */
export function rendererExtension(Widget) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(styles);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  const book = new Book();

  class CellLine extends Widget {
    constructor() {
      super();
      this.addClass("jp-RenderedHTMLCommon");
      this.addClass("atoll-cell");
      this.view = new LineView();
      this.node.append(this.view.node);
    }

    /** @param {{data: Record<string, unknown>}} model */
    async renderModel(model) {
      const told = readTold(model.data[MIME]);
      if (!told) {
        this.view.node.textContent = String(model.data["text/plain"] ?? "");
        return;
      }
      this.view.draw(told.line);
      if (told.notify && !this.node.querySelector(".atoll-allow")) {
        const button = permissionButton();
        if (button) this.view.node.after(button);
      }
      book.shown(this, model, told);
    }

    /** @param {import("./line.js").Row} row */
    draw(row) {
      this.view.draw(row);
    }

    /** Nobody can tell any more how it goes on. @param {string} why */
    leave(why) {
      this.node.dataset.left = "";
      this.node.title = `as it was when the notebook was saved: ${why}`;
    }

    dispose() {
      book.gone(this);
      super.dispose();
    }
  }

  return {
    id: "atoll:cell",
    rendererFactory: { safe: true, mimeTypes: [MIME], createRenderer: () => new CellLine() },
    rank: 0,
    dataType: "json",
  };
}
