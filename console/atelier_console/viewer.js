/** One picture or video, large: how it was made, and what can be done with it. */

import { call } from "./api.js";
import { $, announce, el, finalButton } from "./dom.js";

const pathOf = (thing) => (thing.item_id ? `/v1/items/${thing.item_id}` : `/v1/assets/${thing.asset_id}`);
const addressOf = (thing, kind) => thing.renditions.find((each) => each.kind === kind)?.url;
const promptOf = (thing) => thing.provenance?.prompt || thing.filename || "";

/** Return the picture of an asset or item: the rendition of a kind, a poster, or the file itself. */
export function picture(thing, kind) {
  const choose = (from) => addressOf(from, kind) ?? addressOf(from, "poster") ?? from.url;
  const image = el("img", { alt: promptOf(thing), loading: "lazy", decoding: "async", src: choose(thing) });
  // Addresses expire: ask once for a fresh one.
  image.addEventListener("error", async () => {
    const fresh = await call("GET", pathOf(thing)).catch(() => null);
    if (fresh) image.src = choose(fresh.asset ?? fresh.item);
  }, { once: true });
  return image;
}

/** Save an asset for good. Returns whether it is. */
export async function save(asset) {
  return attempt(async () => {
    const { results: [result] } = await call("POST", "/v1/save-to-library", { asset_ids: [asset.asset_id] });
    if (result.failure) throw new Error(result.failure.message);
    announce("Saved to the library.");
  });
}

/** Take an item out of the trash. */
async function restore(item) {
  const { results: [result] } = await call("POST", "/v1/change-items", { item_ids: [item.item_id], move: "restore" });
  if (result.failure) throw new Error(result.failure.message);
}

async function attempt(deed) {
  try {
    await deed();
    return true;
  } catch (problem) {
    announce(problem.message, true);
    return false;
  }
}

/** Show an asset or an item in the dialog. */
export function view(thing) {
  const dialog = $("#viewer");
  const close = () => dialog.close();
  const media = thing.format === "video"
    ? el("video", { src: thing.url, poster: addressOf(thing, "poster") ?? "", controls: true, loop: true, muted: true, autoplay: true })
    : picture(thing, "thumb_1024");
  const again = () => {
    close();
    document.dispatchEvent(new CustomEvent("make-again", { detail: thing.provenance }));
  };
  const remove = async (word) => {
    if (!(await attempt(() => call("DELETE", pathOf(thing))))) return;
    close();
    announce(word);
  };
  const putBack = async () => {
    if (!(await attempt(() => restore(thing)))) return;
    close();
    announce("Back in the library.");
  };
  const actions = el("div", { className: "actions" },
    !thing.item_id && !thing.saved_item_id
      ? el("button", { type: "button", click: async () => (await save(thing)) && close() }, "Save to library") : null,
    thing.provenance?.prompt ? el("button", { type: "button", className: "quiet", click: again }, "Make again") : null,
    el("a", { href: thing.url, target: "_blank", rel: "noreferrer" }, "Open the file"),
    thing.trashed_at ? el("button", { type: "button", className: "quiet", click: putBack }, "Put back")
      : thing.item_id
        ? el("button", { type: "button", className: "quiet", click: () => remove("Moved to the trash.") }, "Move to trash")
        : finalButton("Discard", "Discard it?", () => remove("Discarded.")),
    el("button", { type: "button", className: "quiet", click: close }, "Close"));
  // The place of announcements may have moved in here.
  document.body.append($("#announcer"));
  dialog.replaceChildren(media, el("div", { className: "facts" },
    el("h2", { textContent: promptOf(thing), dir: "auto" }), ...facts(thing), actions));
  dialog.showModal();
}

/** Return what rewrote a prompt in a few words. */
export const enhancer = (by) => by &&
  [by.engine, by.model, `${by.template ?? ""} ${by.template_version ?? ""}`.trim()].filter(Boolean).join(", ");

function facts({ provenance, media, expires_at: expires, item_id: item, trashed_at: trashed }) {
  const settings = provenance?.settings;
  const rows = {
    "Enhanced prompt": provenance?.enhanced_prompt, "Enhanced by": enhancer(provenance?.enhanced_by), Not: provenance?.negative_prompt, Model: settings?.model,
    Seed: settings && String(provenance.seed), Size: `${media.width}×${media.height}`,
    Length: media.duration_ms ? `${(media.duration_ms / 1000).toFixed(1)} s` : "", Steps: settings?.steps,
    "Frames a second": settings?.frame_rate,
    Guidance: settings?.guidance, Scheduler: settings?.scheduler,
    LoRAs: settings?.loras?.map(({ name, weight }) => `${name} × ${weight}`).join(", "),
    Engine: provenance?.engine, Kept: trashed ? "in the trash" : item ? "for good" : expires && `until ${new Date(expires).toLocaleString()}`,
  };
  const shown = Object.entries(rows).filter(([, value]) => value);
  return [el("dl", {}, ...shown.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { textContent: value, dir: "auto" })]))];
}
