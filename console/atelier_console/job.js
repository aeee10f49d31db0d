/** `<atelier-job>`: one job while it runs; its pictures as they grow, its text as it is written, why it waits. */

import { call, follow } from "./api.js";
import { announce, el } from "./dom.js";
import { enhancer, picture, view } from "./viewer.js";

const FINAL = ["succeeded", "failed", "cancelled"];
const WORDS = {
  queued: "Waiting", running: "At work", publishing: "Publishing", succeeded: "Done", failed: "Failed",
  cancelled: "Cancelled",
};
// A browser opens six connections to a host; one is for the stream of everything, and pictures need some.
const MOST_STREAMS = 3;
let streams = 0;

export const hasEnded = (job) => FINAL.includes(job.state);

class AtelierJob extends HTMLElement {
  #stop = new AbortController();
  #job = null;
  #text = "";
  #frames = [];

  /** Show a job, and follow it when it has not ended. */
  begin(job) {
    this.state = el("span", { className: "state" });
    this.waits = el("p", { className: "waits", hidden: true });
    this.written = el("p", { className: "written", hidden: true, dir: "auto" });
    this.notes = el("ul", { className: "notes" });
    this.outputs = el("div", { className: "outputs" });
    this.cancel = el("button", { type: "button", className: "quiet", click: () => this.#cancel() }, "Cancel");
    this.away = el("button", { type: "button", className: "quiet", hidden: true, click: () => this.remove() }, "Dismiss");
    const heading = el("h2", { textContent: job.prompt, title: job.prompt, dir: "auto" });
    this.append(el("header", {}, heading, this.state, this.cancel, this.away));
    this.append(this.waits, this.written, this.outputs, this.notes);
    this.update(job);
    if (!hasEnded(job) && streams < MOST_STREAMS) this.#follow();
  }

  disconnectedCallback() { this.#stop.abort(); }

  get ended() { return hasEnded(this.#job); }

  /** Show the job as it is now; an older version changes nothing. */
  update(job) {
    if (this.#job && job.version < this.#job.version) return;
    const before = this.#job?.state;
    this.#job = job;
    const done = job.requested ? `, ${job.delivered} of ${job.requested} delivered` : "";
    this.state.textContent = WORDS[job.state] + (job.state === "succeeded" ? done : "");
    this.state.dataset.state = job.state;
    const waiting = job.stages.find((stage) => stage.waits_for)?.waits_for ?? "";
    this.waits.textContent = waiting;
    this.waits.hidden = !waiting || hasEnded(job);
    if (job.enhanced_prompt) this.#write(job.enhanced_prompt);
    if (job.enhanced_by) this.written.title = `Written by ${enhancer(job.enhanced_by)}`;
    this.#tell(job);
    for (const output of job.outputs) this.#frame(output.asset_index).failed(output.failure);
    this.cancel.hidden = hasEnded(job) || job.state === "publishing";
    this.away.hidden = !hasEnded(job);
    if (hasEnded(job) && before !== job.state) this.#end(job);
  }

  /** Show how far it is. */
  progress({ asset_index: index, step, steps, stage, phase }) {
    if (hasEnded(this.#job)) return;
    this.state.textContent = stage === "enhance" ? "Writing" : `${phase || "working"}, step ${step} of ${steps}`;
    if (stage !== "enhance") this.#frame(index).step(step, steps);
  }

  async #follow() {
    streams += 1;
    try {
      for await (const { name, data } of follow(`/v1/jobs/${this.#job.job_id}/events`, this.#stop.signal)) {
        if (name === "snapshot" || name === "state") this.update(data[name]);
        else if (name === "progress") this.progress(data.progress);
        else if (name === "preview") this.#frame(data.preview.asset_index).preview(data.preview);
        else if (name === "text_delta") {
          const { offset, text } = data.text_delta;
          this.#write([...this.#text].slice(0, offset).join("") + text);
        }
        if (hasEnded(this.#job)) break;
      }
    } catch (problem) {
      announce(problem.message, true);
    } finally {
      streams -= 1;
    }
  }

  #write(text) {
    this.#text = text;
    this.written.textContent = text;
    this.written.hidden = !text;
  }

  #tell(job) {
    const lines = job.warnings.map((warning) => el("li", { textContent: warning.message }));
    if (job.failure) lines.push(el("li", { className: "problem", textContent: job.failure.message }));
    this.notes.replaceChildren(...lines);
  }

  #frame(index) {
    if (!this.#frames[index]) {
      this.#frames[index] = new Frame(index, this.#job);
      this.outputs.append(this.#frames[index].figure);
    }
    return this.#frames[index];
  }

  async #cancel() {
    try {
      this.update((await call("POST", `/v1/jobs/${this.#job.job_id}/cancel`, {})).job);
    } catch (problem) {
      announce(problem.message, true);
    }
  }

  async #end(job) {
    announce(`${this.state.textContent}: ${job.prompt}`);
    if (job.enhancement_only && job.enhanced_prompt) {
      const use = () => this.dispatchEvent(new CustomEvent("use-prompt", { bubbles: true, detail: this.#text }));
      this.append(el("button", { type: "button", click: use }, "Use as prompt"));
    }
    if (!job.delivered) return;
    this.classList.add("stored");
    try {
      const { assets } = await call("GET", `/v1/assets?job_id=${job.job_id}`);
      for (const asset of assets) this.#frame(asset.asset_index).done(asset);
    } catch (problem) {
      announce(problem.message, true);
    }
  }
}

/** One output in the making. */
class Frame {
  constructor(index, job) {
    const name = `Output ${index + 1}`;
    const { width, height } = job.generation_settings;
    this.image = el("img", { alt: `${name} in the making`, hidden: true, width, height });
    this.bar = el("progress", { max: 1, value: 0, "aria-label": name });
    this.canvas = el("div", { className: "canvas" }, this.image);
    if (width) this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.figure = el("figure", {}, this.canvas, this.bar);
  }
  step(step, steps) { this.bar.value = steps ? step / steps : 0; }
  preview({ content_type: type, image }) {
    this.image.src = `data:${type};base64,${image}`;
    this.image.hidden = false;
  }
  failed(failure) {
    if (failure && this.bar.isConnected) this.bar.replaceWith(el("figcaption", { className: "problem" }, failure.message));
  }
  done(asset) {
    const open = el("button", { type: "button", className: "open", click: () => view(asset) }, picture(asset, "thumb_1024"));
    this.canvas.replaceChildren(open);
    this.bar.remove();
  }
}

customElements.define("atelier-job", AtelierJob);
