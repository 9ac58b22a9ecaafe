/**
 * Bundle js/ into static/ (what anywidget loads) and labextension/ (what JupyterLab loads). With --check, write nothing
 * and fail if one of them is not what js/ makes.
 */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const check = process.argv.includes("--check");

const shared = {
  absWorkingDir: here("."),
  bundle: true,
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  loader: { ".css": "text" },
  write: !check,
};
const results = await Promise.all([
  build({ ...shared, entryPoints: { dashboard: "js/main.js" }, format: "esm", outdir: "static" }),
  build({ ...shared, entryPoints: { cells: "js/cells/main.js" }, format: "iife", outdir: "labextension/static" }),
]);

for (const file of check ? results.flatMap((result) => result.outputFiles ?? []) : []) {
  const committed = await readFile(file.path, "utf8").catch(() => "");
  if (committed !== file.text) {
    console.error(`${file.path} is not what js/ makes: run \`npm run bundle\``);
    process.exitCode = 1;
  }
}
