// The npm package as its users see it: loading, streaming, calls, cancellation, errors.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { test } from "node:test";
import { Forge, builds } from "../forge.js";
import { build, collect, file, load } from "./support.mjs";

const answers = JSON.parse(readFileSync(new URL("../../tests/golden/answers.json", import.meta.url), "utf8"));
const settings = { maxTokens: 40 };
const sampling = { ...settings, temperature: 0.8, topK: 40, topP: 0.95, minP: 0.02 };

test("there are answers", () => assert.ok(answers.length >= 5));

for (const { name, prompt, system, seed, answer } of answers) {
  test(`${name}: the host's answer to ${JSON.stringify(prompt)}`, async () => {
    const forge = await load(file(name));
    const options = { ...(seed === null ? settings : { ...sampling, seed }), system: system ?? undefined };
    assert.equal((await collect(forge.generate(prompt, options))).join(""), answer);
  });
}

test("a sampled answer depends on its seed and on nothing else", async () => {
  const forge = await load(file("sampled"));
  const say = async (seed) => (await collect(forge.generate("hello", { ...sampling, seed }))).join("");
  assert.equal(await say(1), await say(1));
  assert.equal(await say(3n), await say(3));
  assert.notEqual(await say(1), await say(2));
});

test("generate streams", async () => {
  const forge = await load(file("f32"));
  const pieces = await collect(forge.generate("hello", settings));
  assert.ok(pieces.length > 3, `${pieces.length} pieces`);
});

test("each token is the likeliest, step by step", async () => {
  const forge = await load(file("full"));
  const prompt = "turn the lights on";
  const pieces = await collect(forge.pieces(prompt, { maxTokens: 20, plain: true }));
  const session = forge.session();
  const bos = 1;
  let logits;
  for (const id of [bos, ...session.encode(prompt)]) logits = session.step(id);
  assert.ok(pieces.length > 0);
  for (const { token } of pieces) {
    assert.equal(token, logits.indexOf(Math.max(...logits)));
    logits = session.step(token);
  }
  assert.equal(session.position, session.encode(prompt).length + 1 + pieces.length);
});

test("a call is held to the tools the file lists", async () => {
  const forge = await load(file("tools"));
  const room = "salon";
  // The model says level 20, of which the file's range allows the first digit.
  for (const constrained of [undefined, "auto", "call"]) {
    const call = await forge.call("anything", { constrained });
    assert.deepEqual(call, { tool: "set_light", args: { room, level: "2" } });
  }
  const free = await forge.call("anything", { constrained: "off" });
  assert.deepEqual(free, { tool: "set_light", args: { room, level: "20" } });
  const pieces = await collect(forge.pieces("anything", { constrained: "call", maxTokens: 9 }));
  assert.equal(pieces.length, 9, "the shortest call is nine tokens");
  assert.throws(() => forge.start("anything", { constrained: "call", maxTokens: 8 }), /9 tokens/);
  assert.throws(() => forge.start("anything", { constrained: "always" }), TypeError);
  const bare = await load(file("call"));
  assert.throws(() => bare.start("anything", { constrained: "call" }), /lists no tools/);
});

test("thoughts are bounded, and hidden where that is asked for", async () => {
  const forge = await load(file("thinking"));
  const say = async (options) => (await collect(forge.generate("anything", options))).join("");
  assert.equal(await say({}), "<think>12+3</think>45");
  assert.equal(await say({ thoughts: "hidden" }), "45");
  const cases = [[0, "", "5"], [1, "<think>1</think>", "45"], [4, "<think>12+3</think>", "45"], [Infinity, "<think>12+3</think>", "45"]];
  for (const [think, thought, answer] of cases) {
    assert.equal(await say({ think }), thought + answer);
    assert.equal(await say({ think, thoughts: "shown" }), thought + answer);
    assert.equal(await say({ think, thoughts: "hidden" }), answer);
  }
  assert.equal(await say({ think: 4, thoughts: "hidden", maxTokens: 3 }), "");
  assert.equal(await say({ think: 4, thoughts: "hidden", maxTokens: 8 }), "4");
  const pieces = await collect(forge.pieces("anything", { think: 2, thoughts: "hidden" }));
  assert.deepEqual(pieces.map((p) => p.kind), ["text", "text", "text"]);
  assert.throws(() => forge.start("anything", { think: -1 }), TypeError);
  assert.throws(() => forge.start("anything", { thoughts: "loud" }), TypeError);
});

test("call parses a tool call", async () => {
  const forge = await load(file("call"));
  assert.deepEqual(await forge.call("dim the salon lights to 20"), {
    tool: "set_light",
    args: { room: "salon", level: "20" },
  });
  const kinds = (await collect(forge.pieces("anything"))).map((p) => p.kind);
  assert.deepEqual(kinds, ["tool", "slot", ...Array(6).fill("text"), "slot", "text", "text"]);
  assert.deepEqual((await collect(forge.generate("anything"))).length, 1);
});

test("call gives null when the answer is no call, or is cut off before it has begun", async () => {
  assert.equal(await (await load(file("f32"))).call("hello", settings), null);
  assert.equal(await (await load(file("call"))).call("hello", { maxTokens: 0 }), null);
});

test("maxTokens bounds the answer", async () => {
  const forge = await load(file("full"));
  for (const maxTokens of [0, 1, 7]) {
    const generation = forge.start("hello", { maxTokens });
    while (generation.next() !== undefined);
    assert.equal(generation.count, maxTokens);
    assert.equal(generation.tokens.length, maxTokens);
    generation.free();
  }
});

test("generations run side by side", async () => {
  const forge = await load(file("full"));
  const alone = async (prompt) => (await collect(forge.generate(prompt, settings))).join("");
  const [a, b] = [await alone("hello"), await alone("good morning")];
  assert.deepEqual(await Promise.all([alone("hello"), alone("good morning")]), [a, b]);
});

test("an abort signal stops a long generation", async () => {
  const forge = await load(file("full"));
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 30);
  let pieces = 0;
  const started = performance.now();
  await assert.rejects(
    async () => {
      // An answer may end by itself: ask again until the signal comes.
      for (let seed = 1; ; seed += 1) {
        const options = { maxTokens: 10_000_000, temperature: 2, seed, signal: controller.signal };
        for await (const _ of forge.pieces("hello", options)) pieces += 1;
      }
    },
    { name: "AbortError" },
  );
  assert.ok(pieces > 0);
  assert.ok(performance.now() - started < 10_000);
});

test("a signal that has been aborted stops at once, with its reason", async () => {
  const forge = await load(file("full"));
  const signal = AbortSignal.abort(new Error("changed my mind"));
  await assert.rejects(() => collect(forge.generate("hello", { signal })), /changed my mind/);
});

test("leaving the loop frees the generation", async () => {
  const forge = await load(file("full"));
  for await (const _ of forge.generate("hello")) break;
  assert.equal((await collect(forge.generate("hello", { maxTokens: 3 }))).length > 0, true);
});

test("info tells sizes, tools and the card", async () => {
  const bytes = file("call");
  const info = (await load(bytes)).info();
  assert.equal(info.bytes, bytes.length);
  assert.deepEqual(info.tools, ["set_light"]);
  assert.deepEqual(info.slots, ["room", "level"]);
  assert.equal(info.vocab, 268);
  assert.equal(info.card.name, "script");
  assert.equal((await load(file("f32"))).info().card, null);
});

test("the kernels are those of the build", async () => {
  const kernels = { plain: ["portable"], simd128: ["simd128"], relaxed: ["relaxed-simd", "relaxed-simd-dot"] };
  const { kernels: used, prepared } = (await load(file("ternary2b"))).info();
  assert.ok(kernels[build].includes(used), `${build} uses ${used}`);
  assert.equal(prepared > 0, build !== "plain");
  assert.ok(builds().includes(build));
  assert.equal(builds().at(-1), "plain");
});

test("a compact model needs less memory and says the same", async () => {
  const [whole, compact] = [await load(file("full")), await load(file("full"), { compact: true })];
  assert.equal(compact.info().prepared, 0);
  const say = async (forge) => (await collect(forge.generate("hello", settings))).join("");
  assert.equal(await say(compact), await say(whole));
});

test("a prompt read in one go or token by token gives the same", async () => {
  const forge = await load(file("full"));
  const ids = Uint16Array.from({ length: 45 }, (_, i) => (i * 37 + 5) % forge.info().vocab);
  const [one, all] = [forge.session(), forge.session()];
  for (const id of ids) one.feed(id);
  all.prefill(ids);
  assert.equal(all.position, ids.length);
  assert.deepEqual(all.step(7), one.step(7));
  assert.notDeepEqual(all.step(8), one.step(9));
  assert.throws(() => all.prefill(Uint16Array.of(1, 60000)), /token 60000/);
});

test("a damaged file is refused with an Error that says so", async () => {
  const whole = file("full");
  const damaged = (change) => {
    const bytes = whole.slice();
    change(bytes);
    return load(bytes);
  };
  await assert.rejects(damaged((b) => (b[0] ^= 1)), { name: "Error", message: /not a \.forge file/ });
  await assert.rejects(damaged((b) => (b[b.length - 1] ^= 1)), { name: "Error", message: /checksum|damaged/ });
  await assert.rejects(damaged((b) => (b[70] ^= 1)), { name: "Error", message: /damaged|manifest/ });
  await assert.rejects(load(whole.slice(0, whole.length - 1)), { name: "Error", message: /ends inside|truncated/i });
  await assert.rejects(load(new Uint8Array()), { name: "Error" });
  await load(whole);
});

test("a token outside the vocabulary is refused", async () => {
  const session = (await load(file("f32"))).session();
  assert.throws(() => session.step(60000), /token 60000/);
});

test("use after free is an Error", async () => {
  const forge = await load(file("f32"));
  const left = forge.start("hello", { maxTokens: 2 });
  forge.free();
  forge.free();
  assert.throws(() => forge.info(), /freed/);
  await assert.rejects(() => collect(forge.generate("hello")), /freed/);
  // What runs goes on: it has its share of the model.
  assert.notEqual(left.next(), undefined);
  left.free();
});

test("models load from bytes, buffers, blobs, URLs and responses", async () => {
  const bytes = file("f32");
  const url = new URL("../../tests/golden/f32.forge", import.meta.url);
  for (const source of [bytes, bytes.buffer, new DataView(bytes.buffer), new Blob([bytes]), url, url.href, new Response(bytes)]) {
    assert.ok((await load(source)) instanceof Forge);
  }
  await assert.rejects(load(42), TypeError);
});

test("a download reports progress, and a missing file is an Error", async () => {
  const bytes = file("f32");
  const server = createServer((request, response) => {
    if (request.url !== "/model.forge") return response.writeHead(404).end();
    response.writeHead(200, { "content-length": bytes.length }).end(bytes);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${server.address().port}`;
  try {
    const seen = [];
    await load(`${base}/model.forge`, { onProgress: (progress) => seen.push(progress) });
    assert.deepEqual(seen.at(-1), { loaded: bytes.length, total: bytes.length });
    await assert.rejects(load(`${base}/nothing`), /404/);
  } finally {
    server.closeAllConnections?.();
    server.close();
  }
});
