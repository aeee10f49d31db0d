/** The form: what to make. The server checks it; what it refuses is told at the field. */

import { call, submit, upload } from "./api.js";
import { $, announce, el } from "./dom.js";
import { fitting, keptOf, wordsOf } from "./kept.js";

const form = $("#request");
let models = [];
let kept = {};
/** The asset that a chosen file became, so that it is brought in once, however often it is used. */
const brought = new WeakMap();

/** Return the request as the API takes it. */
function requestOf(data) {
  const body = { prompt: data.get("prompt"), model: data.get("model") };
  if (data.get("negative_prompt")) body.negative_prompt = data.get("negative_prompt");
  if (data.get("format") === "text") return { ...body, enhancement_only: true };
  for (const name of ["format", "quality", "aspect_ratio"]) if (data.get(name)) body[name] = data.get(name);
  for (const name of ["quantity", "seed"]) if (data.get(name)) body[name] = Number(data.get(name));
  if (data.get("enhance_prompt")) body.enhance_prompt = true;
  return { ...fitting(kept, body), ...body };
}

/** Add the picture that was chosen to start from: of a video the first frame, of an image what the form says. */
async function withPicture(body) {
  const [file] = form.elements.reference_images.files;
  if (!file || !body.format) return body;
  if (!brought.has(file)) brought.set(file, (await upload(file)).asset_id);
  const kind = body.format === "video" ? "first_frame" : $("#kind").value;
  return { ...body, reference_images: [...(body.reference_images ?? []), { asset_id: brought.get(file), kind }] };
}

/** Submit what the form says; a picture that was brought in for an earlier job and is gone is brought in once more. */
async function send() {
  const body = requestOf(new FormData(form));
  const isKnown = brought.has(form.elements.reference_images.files[0]);
  try {
    return await submit(await withPicture(body));
  } catch (problem) {
    const isGone = problem.status === 404 && problem.fields?.some(({ field }) => field.startsWith("reference_images"));
    if (!isKnown || !isGone) throw problem;
    brought.delete(form.elements.reference_images.files[0]);
    return submit(await withPicture(body));
  }
}

const rowOf = (name) => models.find((model) => model.name === name || model.aliases.includes(name));

function clearProblems() {
  for (const line of form.querySelectorAll(".problem")) line.remove();
  for (const control of form.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
}

function showProblems(problem) {
  const strays = problem.fields.filter(({ field, message }) => {
    const found = form.elements[field.split(/[.[]/)[0]];
    const control = found instanceof RadioNodeList ? found[0] : found;
    if (!control) return true;
    const id = `problem-${control.name}`;
    (control.closest("fieldset") ?? control.closest("label")).append(el("p", { className: "problem", id }, `${field} ${message}`));
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", id);
    return false;
  });
  const general = strays.length || !problem.fields.length;
  $("#problems").append(...(general ? [el("p", { className: "problem", textContent: problem.message })] : []));
  $("[aria-invalid]", form)?.focus();
}

function showFormat() {
  const kind = form.elements.format.value;
  for (const part of form.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(kind);
  const fits = (model) => kind === "text" || model.formats.includes(kind);
  // A name that is not in the list is the user's own business: a pattern may catch it.
  const chosen = rowOf(form.elements.model.value);
  if (chosen && !fits(chosen)) form.elements.model.value = models.find(fits)?.name ?? chosen.name;
  showHint();
}

function showHint() {
  const hint = rowOf(form.elements.model.value)?.hint ?? "";
  $("#hint").textContent = form.elements.format.value === "text" ? "" : hint;
}

/** Take along what the form has no field for, and say so; another model or format would make something else of it. */
function keep(rest) {
  kept = rest;
  const words = wordsOf(rest);
  const forget = el("button", { type: "button", className: "quiet", click: () => keep({}) }, "Leave out");
  $("#kept").replaceChildren(...(words ? [`As before: ${words}. `, forget] : []));
}

/** Read which models there are, and whether somebody is there to run them. */
export async function loadModels() {
  const found = (await call("GET", "/v1/models")).models.filter((model) => model.stage === "generate");
  models = found.filter((model) => !model.name.endsWith("*"));
  $("#models").replaceChildren(...models.map((model) => el("option", { value: model.name })));
  showFormat();
}

/** Fill the form as something was made. */
export function fill(made) {
  const { prompt, negative_prompt: negative = "", settings, seed, enhanced_prompt: enhanced, enhance_prompt: enhance } = made;
  const { elements } = form;
  elements.prompt.value = prompt;
  elements.negative_prompt.value = negative;
  if (settings) {
    elements.format.value = settings.format;
    elements.model.value = settings.model;
    elements.quality.value = settings.quality;
    elements.aspect_ratio.value = settings.aspect_ratio;
    elements.quantity.value = 1;
    elements.seed.value = seed;
    // What was made from a picture says so itself; one that was chosen for something else would be a second.
    elements.reference_images.value = "";
    elements.enhance_prompt.checked = Boolean(enhanced || enhance);
    keep(keptOf(made));
    showFormat();
  }
  elements.prompt.focus();
}

/** Let `accepted` know of each job that the form made. */
export function listen(accepted) {
  form.addEventListener("change", ({ target }) => {
    if (["model", "format"].includes(target.name)) keep({});
    showFormat();
  });
  form.elements.model.addEventListener("input", showHint);
  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearProblems();
    const button = $("button[type=submit]", form);
    button.disabled = true;
    try {
      const { job_id: id } = await send();
      announce("Accepted.");
      accepted((await call("GET", `/v1/jobs/${id}`)).job);
    } catch (problem) {
      showProblems({ fields: [], ...problem, message: problem.message });
      announce(problem.message, true);
    } finally {
      button.disabled = false;
    }
  });
}
