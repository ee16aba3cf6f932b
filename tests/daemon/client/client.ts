// SPDX-License-Identifier: GPL-2.0-or-later
// A client whose types are generated from the OpenAPI document: what the document says is checked by
// the compiler, what the daemon does by running it.  node client.js SOCKET KERNEL
import http from "node:http";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const [socketPath = "", kernel = ""] = process.argv.slice(2);

/** fetch() over a unix socket. */
function unixFetch(request: Request): Promise<Response> {
  return new Promise((resolve, reject) => {
    void request.text().then((body) => {
      const url = new URL(request.url);
      const options = {
        socketPath, method: request.method, path: url.pathname + url.search,
        headers: { ...Object.fromEntries(request.headers), "content-length": Buffer.byteLength(body) },
      };
      const out = http.request(options, (answer) => {
        const parts: Buffer[] = [];
        answer.on("data", (part: Buffer) => parts.push(part));
        answer.on("end", () => {
          const status = answer.statusCode ?? 500;
          const headers = Object.entries(answer.headers).map(([k, v]): [string, string] => [k, String(v)]);
          resolve(new Response(status === 204 ? null : Buffer.concat(parts), { status, headers }));
        });
      });
      out.on("error", reject);
      out.end(body);
    });
  });
}

const client = createClient<paths>({ baseUrl: "http://bedplate", fetch: unixFetch });
type Job = components["schemas"]["job"];
type Vm = components["schemas"]["vm"];

function check(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

async function done(job: Job | undefined): Promise<Job> {
  check(job?.id, "no job came");
  for (;;) {
    const { data } = await client.GET("/v1/jobs/{id}", { params: { path: { id: job.id } } });
    check(data, "the job is gone");
    if (data.state !== "running") {
      check(data.state === "done", `the job is ${data.state}: ${JSON.stringify(data.error)}`);
      return data;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const made = await client.POST("/v1/vms", {
  body: { name: "typed", memory: "32M", cpus: 1, engine: "soft", kernel, nets: [], labels: { made: "by a client" } },
  params: { header: { "Idempotency-Key": "typed-1" } },
});
await done(made.data as Job);
// What the document does not have, the compiler refuses.
// @ts-expect-error: an engine that is none
const wrong: Partial<Vm> = { engine: "fast" };
check(wrong, "");

const path = { id: "typed" };
await done((await client.POST("/v1/vms/{id}/start", { params: { path } })).data);
const { data: vm } = await client.GET("/v1/vms/{id}", { params: { path } });
check(vm?.state === "running" && vm.now?.cpus === 1 && vm.memory === 32 << 20, JSON.stringify(vm));

const patched = await client.PATCH("/v1/vms/{id}", { params: { path }, body: { cpus: 2, description: "changed" } });
check(patched.data?.pending?.includes("cpus"), JSON.stringify(patched.data));
const { data: page } = await client.GET("/v1/vms", { params: { query: { state: "running", limit: 10 } } });
check(page?.items.length === 1 && page.items[0]?.name === "typed", JSON.stringify(page));

const refused = await client.GET("/v1/vms/{id}", { params: { path: { id: "nobody" } } });
check(refused.error?.error?.code === "not-found", JSON.stringify(refused.error));

await done((await client.POST("/v1/vms/{id}/kill", { params: { path } })).data);
await done((await client.DELETE("/v1/vms/{id}", { params: { path } })).data);
console.log("good");
