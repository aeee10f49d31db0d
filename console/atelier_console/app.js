/** The page: signs in, follows everything of this owner in one stream, and puts each event where it belongs. */

import { call, follow, forgetKey, keepKey, signedIn, signIn, takeCode } from "./api.js";
import { $, announce } from "./dom.js";
import { fill, listen, loadModels } from "./form.js";
import "./gallery.js";
import { hasEnded } from "./job.js";

const workspace = $("#workspace"), library = $("#library"), jobs = $("#jobs");
const RETRY = 2000;
/** How long somebody who types may think before the library is searched, in milliseconds. */
const PAUSE = 200;
let stop = new AbortController();

function card(job) {
  return jobs.querySelector(`atelier-job[data-id="${CSS.escape(job.job_id)}"]`);
}

function show(job) {
  const known = card(job);
  if (known) return known.update(job);
  // What earlier jobs made is in the workspace.
  for (const stored of jobs.querySelectorAll(".stored")) stored.remove();
  const made = document.createElement("atelier-job");
  made.dataset.id = job.job_id;
  jobs.prepend(made);
  made.begin(job);
}

/** Ask for the jobs that are shown as under way and are not: they ended, or were deleted, while we heard nothing. */
async function settle(open) {
  const known = new Set(open.map((job) => job.job_id));
  for (const shown of jobs.querySelectorAll("atelier-job")) {
    if (shown.ended || known.has(shown.dataset.id)) continue;
    try {
      shown.update((await call("GET", `/v1/jobs/${shown.dataset.id}`)).job);
    } catch (problem) {
      if (problem.status === 404) shown.remove();
      else announce(problem.message, true);
    }
  }
}

const PLACES = {
  "jobs.snapshot": (data) => { data.jobs.toReversed().forEach(show); settle(data.jobs); },
  "jobs.state": (job) => (hasEnded(job) ? card(job)?.update(job) : show(job)),
  "jobs.progress": (progress) => card(progress)?.progress(progress),
  "assets.snapshot": () => workspace.reload(),
  "assets.published": (asset) => workspace.put(asset),
  "assets.changed": (asset) => workspace.put(asset),
  "assets.removed": (asset) => workspace.drop(asset),
  "items.snapshot": () => library.reload(),
  "items.saved": () => library.reload(),
  "items.changed": () => library.reload(),
  "items.deleted": () => library.reload(),
};

async function followEverything() {
  const line = $("#connection");
  const told = (there) => { line.textContent = there ? "" : "The connection is gone; trying again…"; };
  for await (const { name, data } of follow("/v1/events", stop.signal, told)) {
    if (name === "unavailable") line.textContent = `No news of ${data.source} at the moment.`;
    else if (name === "resync") line.textContent = "";
    else PLACES[name]?.(data[name.split(".")[1]]);
  }
}

async function open() {
  document.body.dataset.signedIn = "yes";
  stop = new AbortController();
  try {
    const who = await call("GET", "/v1/identity");
    $("#who").textContent = who.owner_id;
    await loadModels();
    $("#request").elements.prompt.focus();
    await followEverything();
  } catch (problem) {
    if (problem.status === 401) return close(problem.message);
    announce(problem.message, true);
    if (problem.passes) setTimeout(open, RETRY);
  }
}

function close(why = "") {
  stop.abort();
  forgetKey();
  delete document.body.dataset.signedIn;
  $("#why").textContent = why;
  $("#key").focus();
}

$("#sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey($("#key").value.trim());
  event.target.reset();
  open();
});
$("#sign-out").addEventListener("click", () => { forgetKey(); location.reload(); });
let typing = 0;
$("#find").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => library.find(event.target.value.trim()), PAUSE);
});
$("#kinds").addEventListener("change", (event) => library.reload(event.target.value));
document.addEventListener("make-again", (event) => fill(event.detail));
jobs.addEventListener("use-prompt", (event) => fill({ prompt: event.detail }));
listen((job) => {
  show(job);
  // Somebody who looks at what was made weeks ago sees what they asked for all the same.
  card(job)?.scrollIntoView({ block: "nearest" });
});

const code = takeCode();
if (code) {
  forgetKey();
  await signIn(code).catch(() => close("This address has been used or is too old. Start again for a new one, or give a key."));
}
if (signedIn()) open();
