/** Reads /openapi.json and shows it: operations by service, then the schemas that they speak of. */

import { $, el } from "./dom.js";

let api;

const nameOf = (reference) => reference.split("/").at(-1);

/** Text with `code` in it, as nodes. */
const inline = (text) => text.split("`").map((part, index) => (index % 2 ? el("code", { textContent: part }) : part));

/** Paragraphs and lists. */
function prose(text = "") {
  return text.split(/\n\n+/).filter(Boolean).map((block) => {
    const points = block.split(/^- /m).slice(1);
    return points.length
      ? el("ul", {}, ...points.map((point) => el("li", {}, ...inline(point.trim()))))
      : el("p", {}, ...inline(block));
  });
}

/** The type of a schema in a few words, as nodes; other schemas are links. */
function typeOf(schema) {
  if (schema.$ref) return [el("a", { href: `#${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
  if (schema.allOf) return typeOf(schema.allOf[0]);
  if (schema.anyOf) return schema.anyOf.flatMap((each, place) => [...(place ? [" or "] : []), ...typeOf(each)]);
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items)];
  if (schema.format === "date-time") return ["time"];
  if (schema.contentEncoding) return [`text (${schema.contentEncoding})`];
  return [[schema.type].flat().join(" or ")];
}

function limitsOf(schema) {
  const { minimum: low, maximum: high } = schema;
  const told = [];
  if (low !== undefined || high !== undefined) told.push(`${low ?? "…"} to ${high ?? "…"}`);
  if (schema.maxLength) told.push(`at most ${schema.maxLength} characters`);
  if (schema.maxItems) told.push(`at most ${schema.maxItems} elements`);
  if (schema.enum) told.push(`one of ${schema.enum.map((value) => (value && typeof value === "string" ? value : JSON.stringify(value))).join(", ")}`);
  if (schema.default !== undefined) told.push(`default ${schema.default}`);
  return told.join("; ");
}

function row(name, schema, needed, place = "") {
  return el("tr", {},
    el("th", { scope: "row" }, el("code", {}, name), el("small", { className: needed ? "needed" : "" }, needed ? "required" : place)),
    el("td", {}, ...typeOf(schema), el("small", {}, limitsOf(schema))),
    el("td", {}, ...prose(schema.description)));
}

function fields(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => row(name, field, schema.required?.includes(name)));
  return rows.length ? el("table", {}, el("tbody", {}, ...rows)) : "";
}

function bodyOf({ requestBody: body }) {
  if (!body) return [];
  const [[type, { schema }]] = Object.entries(body.content);
  const parts = [el("h4", {}, `Body (${type})`), ...prose(body.description)];
  return schema.$ref ? [...parts, fields(api.components.schemas[nameOf(schema.$ref)])] : parts;
}

function answer(status, told) {
  const found = told.$ref ? api.components.responses[nameOf(told.$ref)] : told;
  const [content] = Object.values(found.content ?? {});
  const events = content?.schema.oneOf?.map((event) => el("tr", {},
    el("th", { scope: "row" }, el("code", {}, event.title)),
    el("td", {}, ...typeOf(event.properties.data)), el("td", {}, ...prose(event.description)))) ?? [];
  const type = content?.schema.$ref ? typeOf(content.schema) : [Object.keys(found.content ?? {}).join(" or ")];
  const lines = [el("tr", {}, el("th", { scope: "row" }, el("code", {}, status)), el("td", {}, ...type), el("td", {}, ...prose(found.description)))];
  return [...lines, ...events];
}

function operationPart([path, method, operation]) {
  const parameters = (operation.parameters ?? []).map((each) =>
    row(each.name, { ...each.schema, description: each.description }, each.required, each.in));
  const open = operation.security?.length === 0 ? el("p", { className: "help" }, "Open: no key is needed.") : "";
  return el("section", { id: operation.operationId },
    el("h3", {}, operation.summary),
    el("p", { className: "route" }, el("span", { className: "method" }, method.toUpperCase()), el("code", {}, path)),
    open, ...prose(operation.description),
    ...(parameters.length ? [el("h4", {}, "Parameters"), el("table", {}, el("tbody", {}, ...parameters))] : []),
    ...bodyOf(operation),
    el("h4", {}, "Answers"),
    el("table", {}, el("tbody", {}, ...Object.entries(operation.responses).flatMap(([status, told]) => answer(status, told)))),
    el("h4", {}, "Example"), el("pre", { tabIndex: 0 }, operation["x-codeSamples"][0].source));
}

function schemaPart([name, schema]) {
  return el("section", { id: name }, el("h3", {}, name), ...prose(schema.description), fields(schema));
}

function entry(id, label) {
  return el("li", {}, el("a", { href: `#${id}` }, label));
}

async function show() {
  api = await (await fetch("/openapi.json")).json();
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => [path, method, operation]));
  const groups = api.tags.map((tag) => ({ ...tag, found: operations.filter(([, , operation]) => operation.tags.includes(tag.name)) }));
  const schemas = Object.entries(api.components.schemas);
  $("#contents").replaceChildren(
    ...groups.flatMap((group) => [el("h2", {}, group.name), el("ul", {}, ...group.found.map(([, , each]) => entry(each.operationId, each.operationId)))]),
    el("h2", {}, "Schemas"), el("ul", {}, ...schemas.map(([name]) => entry(name, name))));
  $("#operations").replaceChildren(
    el("h2", {}, `${api.info.title} ${api.info.version}`), ...prose(api.info.description),
    ...groups.flatMap((group) => [el("h2", {}, group.name), ...prose(group.description), ...group.found.map(operationPart)]),
    el("h2", {}, "Schemas"), ...schemas.map(schemaPart));
  // The place that the address names was not there yet when the page was opened.
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

$("#find").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const item of document.querySelectorAll("#contents li")) item.hidden = !item.textContent.toLowerCase().includes(wanted);
});

show().catch(() => $("#operations").replaceChildren(el("p", { className: "problem" }, "The description of the API cannot be read: reload the page.")));
