// fal's JavaScript client, by the proxy: every call goes to one address and says which one it means.

import assert from "node:assert/strict";
import { createFalClient } from "@fal-ai/client";
import { call, cutOnce, jobsOf, main, FAULTY_URL, KEY, ONCE, TLS_URL, URL_ } from "../runner.mjs";

const client = (url = URL_, credentials = KEY) =>
  createFalClient({ credentials, proxyUrl: { url: `${url}/fal/proxy`, when: "always" } });
const input = { prompt: "a heron", image_size: { width: 128, height: 128 }, num_inference_steps: 2 };
const long = { ...input, image_size: { width: 1024, height: 1024 }, num_inference_steps: 200, num_images: 8 };

async function picture() {
  const made = await client().run("fal-ai/sdxl", { input });
  return new Blob([await (await fetch(made.data.images[0].url)).arrayBuffer()], { type: "image/png" });
}

call("run, by TLS", async () => {
  const made = await client(TLS_URL).run("fal-ai/sdxl", { input: { ...input, seed: 0 }, startTimeout: 60 });
  assert.deepEqual([made.data.seed, made.data.images[0].width], [0, 128]);
  assert.ok(made.requestId);
});

call("subscribe, by polling", async () => {
  const updates = [];
  const made = await client().subscribe("fal-ai/sdxl", {
    input: { ...input, num_images: 2 },
    logs: true,
    pollInterval: 50,
    priority: "low",
    hint: "warm",
    onQueueUpdate: (update) => updates.push(update),
  });
  assert.equal(made.data.images.length, 2);
  assert.equal(updates.at(-1).status, "COMPLETED");
  assert.equal(updates.at(-1).logs.at(-1).message, "Delivered 2 of 2.");
});

call("subscribe, by stream", async () => {
  const updates = [];
  const made = await client().subscribe("fal-ai/sdxl", {
    input,
    mode: "streaming",
    logs: true,
    onQueueUpdate: (update) => updates.push(update),
  });
  assert.equal(made.data.images.length, 1);
  assert.equal(updates.at(-1).status, "COMPLETED");
});

call("queue.submit, status, result and cancel", async () => {
  const fal = client();
  const { request_id: requestId, status_url: statusUrl } = await fal.queue.submit("fal-ai/sdxl", { input: long });
  assert.ok(statusUrl.endsWith(`/fal/queue/fal-ai/sdxl/requests/${requestId}/status`));
  assert.ok(["IN_QUEUE", "IN_PROGRESS"].includes((await fal.queue.status("fal-ai/sdxl", { requestId })).status));
  await fal.queue.cancel("fal-ai/sdxl", { requestId });
  assert.equal((await fal.queue.status("fal-ai/sdxl", { requestId, logs: true })).error_type, "client_cancelled");
  await assert.rejects(fal.queue.result("fal-ai/sdxl", { requestId }), { status: 499 });
});

call("stream", async () => {
  const stream = await client().stream("fal-ai/sdxl", { input: { ...input, num_inference_steps: 40 } });
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  assert.ok(pieces.at(-1).images[0].url.startsWith("http"));
  assert.equal((await stream.done()).images.length, 1);
});

call("storage.upload, and a Blob as input", async () => {
  const fal = client();
  const content = await picture();
  const url = await fal.storage.upload(content);
  const named = await fal.run("fal-ai/sdxl/image-to-image", { input: { ...input, image_url: url } });
  assert.equal(named.data.images.length, 1);
  const sent = await fal.subscribe("fal-ai/sdxl/image-to-image", { input: { ...input, image_url: content } });
  assert.equal(sent.data.images.length, 1);
});

// A video with room at its end, as large as is asked for: the type of the box is `free`, which players pass over.
async function video(bytes) {
  const made = await client().run("fal-ai/wan/text-to-video", {
    input: { prompt: "a heron", duration: "1", image_size: { width: 128, height: 128 }, num_inference_steps: 1 },
  });
  const content = await (await fetch(made.data.video.url)).arrayBuffer();
  const box = new DataView(new ArrayBuffer(8));
  const left = bytes - content.byteLength;
  box.setUint32(0, left);
  box.setUint32(4, 0x66726565);
  return new Blob([content, box, new Uint8Array(left - 8)], { type: "video/mp4" });
}

async function sizeOf(url) {
  const answer = await fetch(`${URL_}/v1/assets/${url.split("/").at(-1)}`, { headers: { "x-api-key": KEY } });
  return (await answer.json()).asset.media.size_bytes;
}

call("storage.upload of 40 MiB", async () => {
  const content = await video(40 << 20);
  assert.equal(await sizeOf(await client().storage.upload(content)), content.size);
});

call("storage.upload in parts, of 91 MiB", async () => {
  const content = await video((91 << 20) + 7);
  const url = await client().storage.upload(content);
  assert.equal(await sizeOf(url), content.size);
});

call("storage.upload of more than is allowed", async () => {
  const content = await video(121 << 20);
  await assert.rejects(client().storage.upload(content), /retries exhausted/);
});

call("queue.submit after a 500, once more with the same key", async () => {
  const fal = client(FAULTY_URL);
  const options = { input: { ...input, prompt: ONCE }, headers: { "Idempotency-Key": "heron-1" } };
  await assert.rejects(fal.queue.submit("fal-ai/sdxl", options), { status: 500 });
  const { request_id: requestId } = await fal.queue.submit("fal-ai/sdxl", options);
  await fal.queue.subscribeToStatus("fal-ai/sdxl", { requestId, pollInterval: 50 });
});

call("queue.submit and run when the connection breaks, which it repeats", async () => {
  for (const [prompt, way] of [
    ["cut once, fal submit", (fal, options) => fal.queue.submit("fal-ai/sdxl", options)],
    ["cut once, fal run", (fal, options) => fal.run("fal-ai/sdxl", options)],
  ]) {
    await cutOnce((url) => way(client(url), { input: { ...input, prompt } }));
    assert.equal(await jobsOf(prompt), 1);
  }
});

call("errors", async () => {
  const fal = client();
  await assert.rejects(fal.run("fal-ai/sdxl", { input: { ...input, num_images: 9 } }), (error) => {
    assert.deepEqual([error.name, error.status], ["ValidationError", 422]);
    assert.equal(error.getFieldErrors("num_images").length, 1);
    return true;
  });
  await assert.rejects(fal.queue.submit("fal-ai/nothing", { input }), { status: 404 });
  await assert.rejects(client(URL_, "atl_wrong").run("fal-ai/sdxl", { input }), { status: 401 });
});

await main();
