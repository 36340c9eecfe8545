import type { Generation, Session } from "./pkg/forge_wasm.js";

export type { Generation, Session };

/** What a model is loaded from. */
export type Source = Uint8Array | ArrayBuffer | ArrayBufferView | Blob | Response | URL | string;

/** The package's modules: with relaxed SIMD, with SIMD128, with neither. */
export type Build = "relaxed" | "simd128" | "plain";

/** The modules this engine can run, the best first. */
export function builds(): Build[];

export interface LoadOptions {
  /** The WebAssembly module, where the one beside this file cannot be fetched: its bytes, URL, Response or module. */
  wasm?: BufferSource | URL | string | Response | WebAssembly.Module;
  /**
   * Which of the package's modules runs, when `wasm` gives none; unless told, the best that the engine knows. All give
   * the same bits. The first model loaded decides for all.
   */
  build?: Build;
  /**
   * Weights are read as they lie in the file, without a second copy that suits the processor: half the memory, a
   * fraction of the speed.
   */
  compact?: boolean;
  /** Cancels the download. */
  signal?: AbortSignal;
  /** Called while a model is downloaded, with bytes. */
  onProgress?: (progress: { loaded: number; total?: number }) => void;
}

export interface GenerateOptions {
  /** Most tokens to generate; 256 unless told. */
  maxTokens?: number;
  /** 0, the default, always takes the likeliest token. */
  temperature?: number;
  /** Samples among the k likeliest tokens only; 0 for all. */
  topK?: number;
  /** Samples among the likeliest tokens that hold this much probability together; 1 for all. */
  topP?: number;
  /** Leaves out tokens with less than this share of the likeliest token's probability; 0 for none. */
  minP?: number;
  /** Makes recent tokens less likely; 1 for no change. */
  repetitionPenalty?: number;
  /** Same seed, model and options: same text, here and on every other target. */
  seed?: number | bigint;
  /** Text before the prompt, such as a persona. */
  system?: string;
  /** Continue the prompt as running text instead of answering it. */
  plain?: boolean;
  /**
   * What the answer is held to: `auto`, the default, to a call of a tool the file lists or to text; `call` to a call; `off`
   * to nothing. A call that is held is complete within `maxTokens`.
   */
  constrained?: "auto" | "call" | "off";
  /**
   * Most tokens of a thought before the answer; 0 answers at once. Unless told, the model thinks as long as it likes. A
   * thought counts towards `maxTokens`.
   */
  think?: number;
  /** Whether the thought and its marks are part of the text: `shown`, the default, or `hidden`. */
  thoughts?: "shown" | "hidden";
  /** Stops the generation; the iterator then throws the signal's reason. */
  signal?: AbortSignal;
}

/** A stretch of output. */
export interface Piece {
  /** `text`, the name of a `tool`, the name of one of its arguments (`slot`), or a mark such as `<think>`. */
  kind: "text" | "tool" | "slot" | "control";
  /** The token's id. */
  token: number;
  /** Empty while the bytes of a character are incomplete; the name, unless the kind is `text`. */
  text: string;
}

export interface ToolCall {
  tool: string;
  /** An argument given more than once is an array of its values. */
  args: Record<string, string | string[]>;
}

/** Sizes and contents of a model. */
export interface Info {
  /** Length of the file. */
  bytes: number;
  /** The kernels in use: `portable`, `simd128`, `relaxed-simd` or, where the processor has a dot product, `relaxed-simd-dot`. */
  kernels: string;
  /** Bytes of the second copy of the weights, 0 without. */
  prepared: number;
  /** Bytes of memory one generation needs. */
  workspace: number;
  parameters: number;
  vocab: number;
  dim: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  ffn: number;
  window: number;
  recursion: number;
  halting: boolean;
  /** Width of the long-range memory, 0 for none. */
  memory: number;
  /** Blocks that have one. */
  memoryLayers: number;
  /** Names of the tools the model can call. */
  tools: string[];
  /** Names of the tools' arguments. */
  slots: string[];
  /** Provenance and evaluation as the trainer recorded them. */
  card: unknown;
}

/**
 * Loads a model and checks it, checksums included.
 *
 * ```js
 * const forge = await load("model.forge");
 * for await (const text of forge.generate("good morning")) console.log(text);
 * ```
 *
 * @throws Error when it cannot be fetched or is not an undamaged `.forge` file.
 */
export function load(source: Source | PromiseLike<Source>, options?: LoadOptions): Promise<Forge>;

/** A loaded model. Generations may run side by side; each has memory of its own. */
export class Forge {
  private constructor();
  /** Sizes, tools and card. */
  info(): Info;
  /**
   * Streams the answer to a prompt as text. A tool call comes in one piece, as the JSON that `forge-train run` prints;
   * marks such as `<think>` come by name.
   */
  generate(prompt: string, options?: GenerateOptions): AsyncGenerator<string, void, void>;
  /** As {@link generate}, with the kind and id of each token. */
  pieces(prompt: string, options?: GenerateOptions): AsyncGenerator<Piece, void, void>;
  /** The tool call that answers a prompt, or null when the model answers with something else. */
  call(prompt: string, options?: GenerateOptions): Promise<ToolCall | null>;
  /** A generation to be stepped by hand; free it when done. */
  start(prompt: string, options?: GenerateOptions): Generation;
  /** Token ids in, logits out; free it when done. */
  session(): Session;
  /** Releases the model. Generations that run go on. */
  free(): void;
  /** Same as {@link free}. */
  [Symbol.dispose](): void;
}
