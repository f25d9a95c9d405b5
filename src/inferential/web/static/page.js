// What the parts of the page share: making elements, changing text in place, saying what changed.

export const byId = (id) => document.getElementById(id);

export function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

export function drawn(tag, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };

export const number = (value, digits = 0) => value === null || value === undefined ? "–" : value.toFixed(digits);

export function duration(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

// Returns a time of day, with the date where that is not today's.
export function clock(seconds) {
  const at = new Date(seconds * 1000);
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString() : at.toLocaleString();
}

// Writes a table of texts in place: its rows are kept.
export function fill(table, titles, rows) {
  if (!rows.length) {
    table.replaceChildren();
    return;
  }
  if (!table.tHead) {
    const head = table.createTHead().insertRow();
    for (const title of titles) {
      const cell = title ? make("th", title) : make("td");
      if (title) cell.scope = "col";
      head.append(cell);
    }
    table.createTBody();
  }
  const body = table.tBodies[0];
  while (body.rows.length < rows.length) {
    const row = body.insertRow();
    for (const _ of titles) row.insertCell();
  }
  while (body.rows.length > rows.length) body.deleteRow(-1);
  for (const [at, texts] of rows.entries()) {
    for (const [index, text] of texts.entries()) if (text !== null) setText(body.rows[at].cells[index], text);
  }
}

// What changed is said, not too often, and of each robot or model only what it has become. Models are few, and are named.

const changes = { robots: new Map(), models: new Map() };
let saying = 0;
export function announce(kind, name, state) {
  changes[kind].set(name, state);
  if (saying) return;
  saying = setTimeout(() => {
    saying = 0;
    const models = [...changes.models].map(([model, is]) => `model ${model} is ${is}`);
    let robots = [...changes.robots].map(([robot, is]) => `${robot} is ${is}`);
    if (robots.length > 3) robots = [`${robots.length} robots changed state`];
    byId("announcer").textContent = [...models, ...robots].join(", ");
    for (const some of Object.values(changes)) some.clear();
  }, 2000);
}

// Makes elements the children of their parent, in this order. As many as can stay where they are: what is moved is laid out anew.
export function arrange(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  const places = new Map([...parent.children].map((child, place) => [child, place]));
  const staying = increasing(elements.map((element) => places.get(element) ?? -1));
  let next = null;
  for (const [at, element] of [...elements.entries()].reverse()) {
    if (!staying.has(at)) parent.insertBefore(element, next);
    next = element;
  }
}

// Returns where the longest increasing subsequence of some numbers is, negative ones left out (Schensted 1961).
function increasing(numbers) {
  const ends = [];  // of the subsequences of each length, where the one with the smallest end has it
  const before = [];
  for (const [at, value] of numbers.entries()) {
    if (value < 0) continue;
    let [low, high] = [0, ends.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (numbers[ends[middle]] < value) low = middle + 1;
      else high = middle;
    }
    before[at] = ends[low - 1];
    ends[low] = at;
  }
  const found = new Set();
  for (let at = ends.at(-1); at !== undefined; at = before[at]) found.add(at);
  return found;
}
