// forge-wasm beside its peers and the machine's limits: one thread in headless Chromium, one run, interleaved.
//
//   node bench.mjs [--models DIR] [--shapes 25M,2M] [--only forge-relaxed,…] [--rounds 7] [--json]
//
// DIR holds models of the shapes, by name: SHAPE.forge, SHAPE-Q4_0.gguf and SHAPE-TQ2_0-emb8.gguf for wllama,
// SHAPE.bin for llama2.c, SHAPE.onnx for onnxruntime-web. A peer whose model or module is missing is left out, and
// said to be. docs/results.md says how they are made.

import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { serve } from "./serve.mjs";

const { values: options } = parseArgs({
  options: {
    models: { type: "string", default: "models" },
    modules: { type: "string", default: "modules" },
    shapes: { type: "string", default: "25M,2M" },
    only: { type: "string", default: "" },
    rounds: { type: "string", default: "7" },
    tokens: { type: "string", default: "128" },
    json: { type: "boolean", default: false },
  },
});

/** Name, script in contestants/, its settings, and the files without which it cannot take part. */
const CONTESTANTS = [
  ...["relaxed", "simd128", "plain"].map((build) => ({
    name: `forge-${build}`,
    script: "forge.js",
    settings: { build },
    needs: (shape) => [`${options.models}/${shape}.forge`],
  })),
  ...["relaxed", "strict"].map((kind) => ({
    name: `floor-${kind}`,
    script: "floor.js",
    settings: { kind },
    needs: () => [`${options.modules}/wlimits-${kind}.wasm`],
  })),
  {
    name: "llama2.c-fp32",
    script: "llama2c.js",
    settings: {},
    needs: (shape) => [`${options.models}/${shape}.bin`, `${options.modules}/llama2c.wasm`],
  },
  ...["Q4_0", "TQ2_0-emb8"].map((type) => ({
    name: `wllama-${type}`,
    script: "wllama.js",
    settings: { type },
    needs: (shape) => [`${options.models}/${shape}-${type}.gguf`],
  })),
  {
    name: "ort-fp32",
    script: "ort.js",
    settings: {},
    needs: (shape) => [`${options.models}/${shape}.onnx`],
  },
];

const CHROMIUM = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // All contestants are open at once; only one works at a time.
  "--disable-renderer-backgrounding",
  "--disable-backgrounding-occluded-windows",
  "--disable-background-timer-throttling",
];

/** Opens a contestant in a page of its own; null, with a word on stderr, when it cannot take part. */
async function open(browser, base, contestant, shape) {
  const missing = contestant.needs(shape).filter((path) => !existsSync(path));
  if (missing.length > 0) {
    console.error(`${contestant.name} ${shape}: left out, no ${missing.join(", ")}`);
    return null;
  }
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(`${contestant.name}: ${error.message}`));
  try {
    await page.goto(`${base}/page.html`);
    const settings = { ...contestant.settings, shape, tokens: Number(options.tokens) };
    const about = await page.evaluate(
      async ([script, settings]) => {
        const module = await import(`./contestants/${script}`);
        globalThis.contestant = await module.start(settings);
        // Twice: engines compile hot functions again, optimised.
        for (let i = 0; i < 2; i += 1) await globalThis.contestant.decode();
        await globalThis.contestant.prefill?.();
        return globalThis.contestant.about ?? "";
      },
      [contestant.script, settings],
    );
    return { name: contestant.name, about, page, decode: [], prefill: [] };
  } catch (error) {
    console.error(`${contestant.name} ${shape}: left out, ${String(error.message).split("\n")[0]}`);
    await page.close();
    return null;
  }
}

/** Milliseconds of one run of a task in a page; undefined when the contestant has none. */
const time = (entry, task) =>
  entry.page.evaluate(async (task) => {
    const run = globalThis.contestant[task];
    if (!run) return undefined;
    const begun = performance.now();
    await run();
    return performance.now() - begun;
  }, task);

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

async function compare(browser, base, shape) {
  const only = options.only.split(",").filter(Boolean);
  const entries = [];
  for (const contestant of CONTESTANTS) {
    if (only.length > 0 && !only.some((name) => contestant.name.startsWith(name))) continue;
    const entry = await open(browser, base, contestant, shape);
    if (entry) entries.push(entry);
  }
  for (let round = 0; round < Number(options.rounds); round += 1) {
    for (const entry of entries) {
      for (const task of ["decode", "prefill"]) {
        const ms = await time(entry, task);
        if (ms !== undefined) entry[task].push((1000 * Number(options.tokens)) / ms);
      }
    }
  }
  await Promise.all(entries.map((entry) => entry.page.close()));
  const summary = (rates) =>
    rates.length === 0 ? null : { median: median(rates), min: Math.min(...rates), max: Math.max(...rates) };
  return entries.map(({ name, about, decode, prefill }) => ({
    shape,
    name,
    about,
    decode: summary(decode),
    prefill: summary(prefill),
  }));
}

function print(results) {
  const figure = (s) => (s ? `${s.median.toFixed(0)} [${s.min.toFixed(0)}–${s.max.toFixed(0)}]` : "–");
  console.log("shape  contestant         decode, tokens/s          prefill, tokens/s");
  for (const r of results) {
    const row = [r.shape.padEnd(6), r.name.padEnd(18), figure(r.decode).padEnd(25), figure(r.prefill).padEnd(25), r.about];
    console.log(row.join(" ").trimEnd());
  }
}

const server = await serve({ models: options.models, modules: options.modules });
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: CHROMIUM });
try {
  const results = [];
  for (const shape of options.shapes.split(",")) results.push(...(await compare(browser, server.base, shape)));
  if (options.json) console.log(JSON.stringify({ browser: browser.version(), tokens: Number(options.tokens), results }, null, 1));
  else print(results);
} finally {
  await browser.close();
  server.close();
}
