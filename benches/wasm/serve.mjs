// Files for the pages: this folder, the package, the peers' packages, models and modules.

import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html" };
const here = fileURLToPath(new URL(".", import.meta.url));

/** Serves on a free port of the loopback interface. */
export async function serve({ models, modules }) {
  const folders = {
    models: resolve(models),
    modules: resolve(modules),
    "forge-wasm": join(here, "../../forge-wasm"),
    node_modules: join(here, "node_modules"),
  };
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname)).slice(1);
    const [first, ...rest] = path.split("/");
    const file = folders[first] ? join(folders[first], ...rest) : join(here, path);
    const found = statSync(file, { throwIfNoEntry: false });
    if (!found?.isFile()) return response.writeHead(404).end();
    response.writeHead(200, {
      "content-type": TYPES[extname(file)] ?? "application/octet-stream",
      "content-length": found.size,
      // Clocks of full resolution, and threads for who wants them.
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-embedder-policy": "require-corp",
    });
    createReadStream(file).pipe(response);
  });
  await new Promise((started) => server.listen(0, "127.0.0.1", started));
  return {
    base: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
