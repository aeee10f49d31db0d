/** Everything that goes over the wire: the key, calls, and streams that resume. */

const KEY = "atelier.key";
const FIRST_PAUSE = 500, LONGEST_PAUSE = 8000;

/** An answer that is an error: `status`, `reason`, `message`, `fields`. */
export class Problem extends Error {
  constructor(status, { message = "The server cannot be reached.", reason = "", fields = [] } = {}) {
    super(message);
    Object.assign(this, { status, reason, fields });
  }
  get passes() { return this.status === 0 || this.status === 429 || this.status >= 500; }
}

export const signedIn = () => sessionStorage.getItem(KEY) !== null;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

/** Take the single-use code out of the address bar, before anything else can see or keep it; "" without one. */
export function takeCode() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code") ?? "";
  if (code) history.replaceState(null, "", location.pathname + location.search);
  return code;
}

/** Exchange a sign-in code for the key of this tab. */
export async function signIn(code) {
  keepKey((await call("POST", "/v1/sessions", { code })).secret);
}

async function request(method, path, { body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (signedIn()) sent.authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  const isFile = body instanceof Blob;
  if (body !== undefined) sent["content-type"] = isFile ? body.type || "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers: sent, signal, cache: "no-store", credentials: "omit", body: isFile ? body : body && JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Problem(response.status, told.error ?? { message: `The server answered ${response.status}.` });
}

/** Call an operation and return its answer. Throws Problem. */
export async function call(method, path, body, headers) {
  return (await request(method, path, { body, headers })).json();
}

/** Bring in a file, and return its asset. */
export async function upload(file) {
  return (await call("POST", `/v1/uploads?filename=${encodeURIComponent(file.name)}`, file)).asset;
}

/** Submit a job; a request that got lost is sent once more under the same name, so that it is one job. */
export async function submit(body) {
  const name = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"));
  const headers = { "idempotency-key": name.join("") };
  try {
    return await call("POST", "/v1/generate-content", body, headers);
  } catch (problem) {
    if (problem.status !== 0) throw problem;
    return call("POST", "/v1/generate-content", body, headers);
  }
}

/**
 * Give the events of a stream as {name, data}, over broken connections, until it has ended or `signal` aborts it.
 * Throws Problem when the server refuses it for good. `told` hears whether the connection is there.
 */
export async function* follow(path, signal, told = () => {}) {
  let after = "", pause = FIRST_PAUSE;
  while (!signal.aborted) {
    try {
      const response = await request("GET", path, { signal, headers: after ? { "last-event-id": after } : {} });
      if (response.status === 204) return;
      told(true);
      for await (const event of events(response.body)) {
        pause = FIRST_PAUSE;
        after = event.id || after;
        if (event.name === "error") break;
        yield event;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && !error.passes) throw error;
    }
    told(false);
    await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random() / 2)));
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }
}

/** Split a stream of bytes into server-sent events (WHATWG HTML, section 9.2.6). */
async function* events(body) {
  let rest = "", event = { name: "message", id: "", text: [] };
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      const lines = (rest + read.value).split("\n");
      rest = lines.pop();
      for (const line of lines.map((each) => each.replace(/\r$/, ""))) {
        const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (line === "") {
          if (event.text.length) yield { ...event, data: JSON.parse(event.text.join("\n")) };
          event = { name: "message", id: "", text: [] };
        } else if (field === "event") event.name = value;
        else if (field === "id") event.id = value;
        else if (field === "data") event.text.push(value);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
