/** Makes elements. Text of users only ever becomes a text node or a property, never markup. */

export const $ = (selector, root = document) => root.querySelector(selector);

/** Return an element: functions are listeners, names with a dash are attributes, the rest are properties. */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const READING_TIME = 6000;
let clearing;

/** Tell something to everybody for a while, also to those who do not see the page. */
export function announce(text, problem = false) {
  const line = $("#announcer");
  // What stands outside an open dialog is behind it, and is not read out.
  const place = $("dialog[open]") ?? document.body;
  if (line.parentNode !== place) place.append(line);
  clearTimeout(clearing);
  clearing = setTimeout(() => line.replaceChildren(), READING_TIME);
  line.textContent = text;
  line.classList.toggle("problem", problem);
}

/** A button whose deed is final: it asks once more before it is done. */
export function finalButton(label, question, deed) {
  const button = el("button", {
    type: "button",
    className: "quiet",
    click: () => {
      if (button.textContent === question) return deed();
      button.textContent = question;
    },
    blur: () => { button.textContent = label; },
  }, label);
  return button;
}
