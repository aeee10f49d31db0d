// Replicate's JavaScript client: predictions, streams, files, models and webhooks.

import assert from "node:assert/strict";
import Replicate, { parseProgressFromLogs } from "replicate";
import { call, cutOnce, jobsOf, main, FAULTY_URL, KEY, ONCE, TLS_URL, URL_ } from "../runner.mjs";

const client = (url = URL_, auth = KEY) => new Replicate({ baseUrl: `${url}/replicate/v1`, auth });
const input = { prompt: "a heron", width: 128, height: 128, num_inference_steps: 2 };
const long = { ...input, width: 1024, height: 1024, num_inference_steps: 200, num_outputs: 8 };
const model = "stability-ai/sdxl";

async function picture() {
  const [url] = await client().run(model, { input });
  return Buffer.from(await (await fetch(url)).arrayBuffer());
}

call("run, by TLS", async () => {
  const urls = await client(TLS_URL).run(model, { input: { ...input, num_outputs: 2 } });
  assert.equal(urls.length, 2);
});

call("run, by polling, with progress", async () => {
  const seen = [];
  const options = { input: { ...input, num_inference_steps: 80 }, wait: { mode: "poll", interval: 50 } };
  const urls = await client().run(model, options, (prediction) => seen.push(prediction));
  assert.equal(urls.length, 1);
  assert.deepEqual(parseProgressFromLogs(seen.at(-1)), { percentage: 1, current: 80, total: 80 });
});

call("run of a version", async () => {
  const { latest_version: version } = await client().models.get("stability-ai", "sdxl");
  const urls = await client().run(`${model}:${version.id}`, { input });
  assert.equal(urls.length, 1);
});

call("a run that is aborted is cancelled", async () => {
  const stop = new AbortController();
  const predictions = [];
  const options = { input: long, wait: { mode: "poll", interval: 50 }, signal: stop.signal };
  await client()
    .run(model, options, (prediction) => {
      predictions.push(prediction);
      if (prediction.status === "processing") stop.abort();
    })
    .catch(() => {});
  const { id } = predictions[0];
  assert.equal((await client().predictions.cancel(id)).status, "canceled");
});

call("predictions.create with a wait that is over", async () => {
  const prediction = await client().predictions.create({ model, input: long, wait: 1 });
  assert.equal(prediction.status, "starting");
  assert.equal((await client().predictions.cancel(prediction.id)).status, "canceled");
  assert.equal((await client().predictions.get(prediction.id)).status, "canceled");
});

call("predictions.list and paginate", async () => {
  for await (const page of client().paginate(client().predictions.list)) {
    assert.ok(page.length > 0);
  }
});

call("stream", async () => {
  const events = [];
  for await (const event of client().stream(model, { input })) events.push(event);
  assert.deepEqual(
    events.map(({ event }) => event).filter((event) => event !== "logs"),
    ["output", "done"],
  );
  assert.ok(events.every(({ id }) => id));
});

call("files, and a Buffer as input", async () => {
  const content = await picture();
  const replicate = client();
  const file = await replicate.files.create(content);
  assert.equal(file.content_type, "image/png");
  assert.equal((await replicate.files.get(file.id)).id, file.id);
  assert.ok((await replicate.files.list()).results.some(({ id }) => id === file.id));
  assert.ok(await replicate.files.delete(file.id));
  const urls = await replicate.run(model, { input: { ...input, image: content } });
  assert.equal(urls.length, 1);
});

call("models.get, list and versions", async () => {
  const replicate = client();
  const found = await replicate.models.get("stability-ai", "sdxl");
  const versions = await replicate.models.versions.list("stability-ai", "sdxl");
  assert.equal(versions.results[0].id, found.latest_version.id);
  const version = await replicate.models.versions.get("stability-ai", "sdxl", found.latest_version.id);
  assert.ok(version.openapi_schema.components.schemas.Input);
  assert.ok((await replicate.models.list()).results.length > 0);
});

call("webhooks.default.secret.get", async () => {
  assert.match((await client().webhooks.default.secret.get()).key, /^whsec_/);
});

call("predictions.create after a 500, which it does not repeat", async () => {
  const replicate = client(FAULTY_URL);
  await assert.rejects(replicate.predictions.create({ model, input: { ...input, prompt: ONCE } }), /500/);
});

call("predictions.create when the connection breaks, which it repeats", async () => {
  const prompt = "cut once, replicate";
  await cutOnce((url) => client(url).predictions.create({ model, input: { ...input, prompt } }));
  assert.equal(await jobsOf(prompt), 1);
});

call("errors", async () => {
  const replicate = client();
  await assert.rejects(replicate.run(model, { input: { ...input, nope: 1 } }), /422.*input\.nope/);
  await assert.rejects(replicate.run("a/nothing", { input }), /404/);
  await assert.rejects(client(URL_, "atl_wrong").predictions.list(), /401/);
});

await main();
