// What the calls of a JavaScript client are written with: as runner.py, which says what each constant is.
//
//   import { call, main, URL_, KEY } from "../runner.mjs";
//   call("images.generate", async () => { ... });
//   await main();

export const URL_ = process.env.ATELIER_URL;
export const FAULTY_URL = process.env.ATELIER_FAULTY_URL;
export const TLS_URL = process.env.ATELIER_TLS_URL;
export const KEY = process.env.ATELIER_KEY;
export const ONCE = "a heron that is asked for once";

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
