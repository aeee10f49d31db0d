// OpenAI's JavaScript client: images, streamed ones, edits, videos, models and errors.

import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { call, main, FAULTY_URL, KEY, ONCE, TLS_URL, URL_ } from "../runner.mjs";

const client = (url = URL_, maxRetries = 0) => new OpenAI({ baseURL: `${url}/openai/v1`, apiKey: KEY, maxRetries });

function png(text) {
  const content = Buffer.from(text, "base64");
  assert.equal(content.subarray(1, 4).toString(), "PNG");
  return content;
}

async function picture() {
  const made = await client().images.generate({ prompt: "a heron", model: "sdxl", size: "256x256" });
  return png(made.data[0].b64_json);
}

call("images.generate", async () => {
  const answer = await client().images.generate({ prompt: "a heron", model: "sdxl", size: "256x256", n: 2, seed: 7 });
  assert.equal(answer.data.map((image) => png(image.b64_json)).length, 2);
  assert.equal(answer.usage, undefined);
});

call("images.generate as URL, by TLS", async () => {
  const request = { prompt: "a heron", model: "sdxl", size: "256x256", response_format: "url" };
  const answer = await client(TLS_URL).images.generate(request);
  assert.equal((await fetch(answer.data[0].url)).headers.get("content-type"), "image/png");
});

call("images.generate streamed", async () => {
  const request = { prompt: "a heron", model: "sdxl", size: "256x256", stream: true, partial_images: 2, steps: 30 };
  const types = [];
  for await (const event of await client().images.generate(request)) {
    types.push(event.type);
    assert.ok(event.b64_json);
  }
  assert.equal(types.at(-1), "image_generation.completed");
});

call("images.edit", async () => {
  const content = await picture();
  const image = [await toFile(content, "a.png", { type: "image/png" }), await toFile(content, "b.png")];
  const answer = await client().images.edit({ image, prompt: "a crane", model: "sdxl", size: "256x256" });
  png(answer.data[0].b64_json);
});

call("images.generate after a 500", async () => {
  const answer = await client(FAULTY_URL, 2).images.generate({ prompt: ONCE, model: "sdxl", size: "256x256" });
  png(answer.data[0].b64_json);
});

call("videos.create, retrieve, downloadContent, remix and delete", async () => {
  const first = await toFile(await picture(), "a.png", { type: "image/png" });
  const request = { prompt: "a heron", model: "wan", seconds: "1", size: "256x144", input_reference: first };
  const made = await client().videos.create(request);
  while (["queued", "in_progress"].includes((await client().videos.retrieve(made.id)).status)) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal((await client().videos.retrieve(made.id)).status, "completed");
  const content = Buffer.from(await (await client().videos.downloadContent(made.id)).arrayBuffer());
  assert.equal(content.subarray(4, 8).toString(), "ftyp");
  const remixed = await client().videos.remix(made.id, { prompt: "a crane" });
  assert.equal(remixed.remixed_from_video_id, made.id);
  assert.equal((await client().videos.retrieve(remixed.id)).object, "video");
  assert.equal((await client().videos.delete(remixed.id)).deleted, true);
});

call("videos.create after a 500", async () => {
  const video = await client(FAULTY_URL, 2).videos.create({ prompt: ONCE, model: "wan", seconds: "1", size: "256x144" });
  assert.equal(video.object, "video");
});

call("videos.list", async () => {
  const ids = [];
  for await (const video of client().videos.list({ limit: 1, order: "asc" })) {
    ids.push(video.id);
  }
  assert.ok(ids.length > 1);
});

const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: "Name a bird." }];

call("chat.completions.create", async () => {
  const answer = await client().chat.completions.create({ model: "chat", messages, max_completion_tokens: 500 });
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.ok(answer.choices[0].message.content);
  assert.ok(answer.usage.completion_tokens > 0);
});

call("chat.completions.create streamed, with usage", async () => {
  const stream = await client().chat.completions.create({
    model: "chat", messages, stream: true, stream_options: { include_usage: true },
  });
  let written = "", usage = null;
  for await (const chunk of stream) {
    written += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.ok(written);
  assert.ok(usage.completion_tokens > 0);
});

call("responses.create, and streamed", async () => {
  const answer = await client().responses.create({ model: "chat", input: "Name a bird." });
  assert.equal(answer.status, "completed");
  assert.ok(answer.output_text);
  let last = null;
  for await (const event of await client().responses.create({ model: "chat", input: "Name a bird.", stream: true })) last = event;
  assert.equal(last.type, "response.completed");
});

call("models.list and models.retrieve", async () => {
  const names = [];
  for await (const model of client().models.list()) {
    names.push(model.id);
  }
  assert.ok(names.includes("sdxl"));
  assert.equal((await client().models.retrieve("sdxl")).id, "sdxl");
});

call("errors", async () => {
  await assert.rejects(
    client().images.generate({ prompt: "a heron", model: "sdxl", style: "vivid" }),
    (error) => error.status === 400 && error.param === "style",
  );
});

await main();
