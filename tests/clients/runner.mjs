// What the calls of a JavaScript client are written with: as runner.py, which says what each constant is.
//
//   import { call, main, URL_, KEY } from "../runner.mjs";
//   call("images.generate", async () => { ... });
//   await main();

import net from "node:net";

export const URL_ = process.env.ATELIER_URL;
export const FAULTY_URL = process.env.ATELIER_FAULTY_URL;
export const TLS_URL = process.env.ATELIER_TLS_URL;
export const KEY = process.env.ATELIER_KEY;
export const ONCE = "a heron that is asked for once";

// Gives `run` an address of the gateway whose first POST breaks off, on both sides, as soon as its body has gone out.
export async function cutOnce(run) {
  const there = new URL(URL_);
  let cut = false;
  const server = net.createServer((here) => {
    const onward = net.connect(Number(there.port), there.hostname);
    let text = "";
    for (const socket of [here, onward]) socket.on("error", () => {});
    onward.pipe(here);
    here.on("close", () => onward.destroy());
    here.on("data", (piece) => {
      text += piece.toString("latin1");
      const [head, body = ""] = text.split("\r\n\r\n");
      const length = Number(/content-length: *(\d+)/i.exec(head)?.[1]);
      const cuts = !cut && head.startsWith("POST") && body.length === length;
      cut ||= cuts;
      onward.write(piece, () => cuts && [here, onward].forEach((socket) => socket.destroy()));
    });
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  try {
    await run(`http://127.0.0.1:${server.address().port}`);
  } finally {
    server.close();
  }
  if (!cut) throw new Error("nothing was cut");
}

// Returns how many jobs there are of a prompt.
export async function jobsOf(prompt) {
  const answer = await fetch(`${URL_}/v1/jobs?page_size=200`, { headers: { "x-api-key": KEY } });
  return (await answer.json()).jobs.filter((job) => job.prompt === prompt).length;
}

const calls = [];

export function call(name, run) {
  calls.push([name, run]);
}

export async function main() {
  for (const [name, run] of calls) {
    let error = null;
    try {
      await run();
    } catch (problem) {
      error = problem instanceof Error ? `${problem.stack}\n${JSON.stringify(problem)}` : String(problem);
    }
    process.stdout.write(JSON.stringify({ call: name, error }) + "\n");
  }
}
