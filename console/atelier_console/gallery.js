/** `<atelier-gallery>`: the workspace or the library as thumbnails, newest first, kept up to date by events. */

import { call } from "./api.js";
import { announce, el } from "./dom.js";
import { picture, save, view } from "./viewer.js";

const PAGE = 60, LARGEST_PAGE = 200;
const KINDS = {
  assets: { path: "/v1/assets", id: "asset_id" },
  items: { path: "/v1/items", id: "item_id" },
};
const EMPTY = {
  assets: "Nothing here yet. What you make appears here and stays for some days.",
  nothing_saved: "Nothing saved yet. Save a picture of the workspace, and it is kept for good.",
  nothing_matches: "Nothing saved matches.",
  trash: "The trash is empty.",
};
/** What belongs together stays together: the newest job first, and its outputs by their index. */
const order = (one, other) =>
  (other.provenance?.submitted_at ?? other.created_at).localeCompare(one.provenance?.submitted_at ?? one.created_at)
  || one.asset_index - other.asset_index;

const idOf = (tile) => tile.dataset.name.split(" ")[0];

class AtelierGallery extends HTMLElement {
  #things = new Map();
  #next = "";
  #empty = "";
  #round = 0;

  connectedCallback() {
    this.kind = KINDS[this.dataset.kind];
    this.grid = el("div", { className: "grid" });
    this.note = el("p", { className: "empty", hidden: true });
    this.more = el("button", { type: "button", className: "quiet", hidden: true, click: () => this.#load(this.#next) }, "Show more");
    this.replaceChildren(this.grid, this.note, this.more);
  }

  /** List everything anew; only of one format, or the "trash", if one is given. */
  async reload(format = this.format ?? "") {
    this.format = format;
    await this.#load("");
  }

  /** List what has these words; all, if there are none. */
  async find(words) {
    this.words = words;
    await this.#load("");
  }

  /** Take over what an event tells about one thing. */
  put(thing) {
    this.#things.set(thing[this.kind.id], thing);
    this.#show();
  }

  /** Take away what an event tells is gone. */
  drop(thing) {
    if (this.#things.delete(thing[this.kind.id])) this.#show();
  }

  /** Return how many to ask for, so that a list which is read anew does not shrink under somebody who looks at it. */
  #shown() {
    return Math.min(LARGEST_PAGE, Math.max(PAGE, this.#things.size));
  }

  async #load(token) {
    const round = ++this.#round;
    const query = new URLSearchParams({ page_size: token ? PAGE : this.#shown() });
    if (token) query.set("page_token", token);
    if (this.format === "trash") query.set("trashed", "true");
    else if (this.format) query.set("format", this.format);
    if (this.words) query.set("query", this.words);
    try {
      const page = await call("GET", `${this.kind.path}?${query}`);
      if (round !== this.#round) return;
      if (!token) this.#things.clear();
      for (const thing of page[this.dataset.kind]) this.#things.set(thing[this.kind.id], thing);
      this.#next = page.next_page_token;
      this.#empty = page.empty_state || this.dataset.kind;
      if (this.format === "trash" && this.#empty === "nothing_saved") this.#empty = "trash";
      this.#show();
    } catch (problem) {
      announce(problem.message, true);
    }
  }

  #show() {
    const things = [...this.#things.values()];
    if (this.dataset.kind === "assets") things.sort(order);
    const shown = new Map([...this.grid.children].map((tile) => [tile.dataset.name, tile]));
    const wanted = things.map((thing) => {
      const name = `${thing[this.kind.id]} ${thing.version}`;
      return shown.get(name) ?? this.#tile(thing, name);
    });
    this.#arrange(wanted);
    this.note.textContent = EMPTY[this.#empty] ?? EMPTY.nothing_saved;
    this.note.hidden = wanted.length > 0;
    this.more.hidden = !this.#next;
  }

  /** Put the tiles in order without touching those that stand where they belong: one that is moved loses the focus. */
  #arrange(wanted) {
    const focused = this.grid.contains(document.activeElement) && idOf(document.activeElement.closest(".tile"));
    const stay = new Set(wanted);
    for (const tile of [...this.grid.children]) if (!stay.has(tile)) tile.remove();
    wanted.forEach((tile, at) => {
      if (this.grid.children[at] !== tile) this.grid.insertBefore(tile, this.grid.children[at] ?? null);
    });
    if (focused && !this.grid.contains(document.activeElement)) {
      wanted.find((tile) => idOf(tile) === focused)?.querySelector(".open").focus({ preventScroll: true });
    }
  }

  #tile(thing, name) {
    const open = el("button", { type: "button", className: "open", click: () => view(thing) }, picture(thing, "thumb_256"));
    if (thing.format === "video") open.append(el("span", { className: "badge", textContent: "video" }));
    const label = el("span", { dir: "auto", textContent: thing.provenance?.prompt || thing.filename || "" });
    const tile = el("figure", { className: "tile" }, open, el("figcaption", {}, label));
    tile.dataset.name = name;
    if (this.dataset.kind === "items") return tile;
    const button = el("button", { type: "button", className: "quiet", disabled: Boolean(thing.saved_item_id) });
    button.textContent = thing.saved_item_id ? "Saved" : "Save";
    button.addEventListener("click", async () => {
      open.focus({ preventScroll: true }); // A button that cannot be pressed any more cannot keep it.
      button.disabled = true;
      button.disabled = await save(thing);
    });
    tile.lastChild.append(button);
    return tile;
  }
}

customElements.define("atelier-gallery", AtelierGallery);
