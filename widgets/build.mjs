/**
 * Bundle js/ into static/. With --check, write nothing and fail if static/ is not what js/ makes.
 */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const check = process.argv.includes("--check");

const result = await build({
  absWorkingDir: here("."),
  entryPoints: { dashboard: "js/main.js" },
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  loader: { ".css": "text" },
  outdir: "static",
  write: !check,
});

for (const file of check ? result.outputFiles : []) {
  const committed = await readFile(file.path, "utf8").catch(() => "");
  if (committed !== file.text) {
    console.error(`${file.path} is not what js/ makes: run \`npm run bundle\``);
    process.exitCode = 1;
  }
}
