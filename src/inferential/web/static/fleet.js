// The fleet: a row for each robot and model, kept as long as the status lists the robot. A row opens into its robot.
// Of many rows the first are in the table, in the order that is chosen: each one costs time, seen or not.
import { announce, arrange, byId, make, number, setText } from "./page.js";
import { closeRobot, openRobot } from "./robot.js";

// Name, heading, value of a row, digits of a number, what it is sorted by if not by that value.
const COLUMNS = [
  ["robot", "Robot", (row) => row.client.client_id],
  ["state", "State", (row) => row.state + (row.state === "late" && row.use.late_cause ? `, ${row.use.late_cause}` : ""), undefined,
    (row) => STATES.indexOf(row.state)],
  ["model", "Model", (row) => row.use?.model_id ?? "–"],
  ["rate", "Control rate, Hz", (row) => row.use?.control_rate_hz ?? null, 0],
  ["cadence", "Cadence, ms", (row) => row.use?.cadence_ms ?? null, 1],
  ["age", "Action age, ms", (row) => row.use?.age_ms ?? null, 1],
  ["unread", "Unread, ms", (row) => row.use?.unread_ms ?? null, 1],
  ["hits", "Deadlines met, %", (row) => met(row.use), 1],
  ["answered", "Answers", (row) => row.use?.answered ?? null, 0],
  ["superseded", "Superseded", (row) => row.use?.superseded ?? null, 0],
  ["refused", "Refused", (row) => row.use?.refused ?? null, 0],
  ["seen", "Seen, s\u00a0ago", (row) => row.client.seen_s_ago, 1],
];
const STATES = ["active", "late", "unanswered", "overdue", "gone"]; // from good to bad

// A robot that asks is as its own figures are: it is green only where its answers come, and in time.
function stateOf(row) {
  if (row.client.state !== "active" || !row.use || row.use.condition === "good") return row.client.state;
  return row.use.condition;
}

function met(use) {
  const due = use ? use.answered + use.missed : 0;
  return due ? 100 * use.in_time / due : null;
}

const ROWS = 200;
let sorting = { column: 0, descending: false };
let shows = ROWS;
const rows = new Map();
const { compare: inOrder } = new Intl.Collator(undefined, { numeric: true });
const said = new Map(); // the state of each robot, the worst where it asks several models
let open = null;

for (const [index, [, title]] of COLUMNS.entries()) {
  const head = make("th");
  head.scope = "col";
  head.setAttribute("role", "columnheader");
  const button = make("button", title);
  button.type = "button";
  button.addEventListener("click", () => {
    const falling = index > 2 || COLUMNS[index][0] === "state";  // the worst, and the most, first
    sorting = { column: index, descending: sorting.column === index ? !sorting.descending : falling };
    showSorting();
    order();
  });
  head.append(button);
  byId("columns").append(head);
}
function showSorting() {
  for (const [index, head] of [...byId("columns").children].entries()) {
    if (index === sorting.column) head.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}
showSorting();
byId("filter").addEventListener("input", order);
byId("all").addEventListener("click", () => {
  shows = Infinity;
  order();
  byId("robots").rows[ROWS]?.querySelector("button")?.focus();  // the first that was not there
});

export function showFleet(clients) {
  const seen = new Set();
  let added = false;
  for (const client of clients) {
    for (const use of client.models.length ? client.models : [null]) {
      const key = `${client.client_id}\n${use?.model_id ?? ""}`;
      seen.add(key);
      let row = rows.get(key);
      if (!row) {
        rows.set(key, (row = { client, element: null, details: null }));
        added = true;
      }
      row.client = client;
      row.use = use;
      row.state = stateOf(row);
    }
  }
  for (const [key, row] of rows) {
    if (!seen.has(key)) {
      if (row === open) {
        const same = [...rows].find(([other, one]) => seen.has(other) && one.client.client_id === row.client.client_id);
        toggle(same ? same[1] : row);
      }
      row.element?.remove();
      rows.delete(key);
    }
  }
  if (added) rank();
  announceChanges();
  const counts = new Map(STATES.map((state) => [state, 0]));
  for (const row of rows.values()) counts.set(row.state, counts.get(row.state) + 1);
  const shown = [...counts].filter(([state, count]) => count || !["late", "unanswered"].includes(state));
  setText(byId("counts"), shown.map(([state, count]) => `${count} ${state}`).join(", "));
  byId("empty").hidden = clients.length > 0;
  order();
}

// Robots are compared and not rows: one that is gone has a row of its own, without a model.
function announceChanges() {
  const states = new Map();
  for (const row of rows.values()) {
    const [id, state] = [row.client.client_id, row.state];
    if (!states.has(id) || STATES.indexOf(state) > STATES.indexOf(states.get(id))) states.set(id, state);
  }
  for (const [id, before] of said) {
    const state = states.get(id) ?? "gone"; // the server lists those that left only for a while
    if (state !== before) announce("robots", id, state);
    if (!states.has(id)) said.delete(id);
  }
  for (const [id, state] of states) said.set(id, state);
}

// Each row gets its place by name, which comparing the names for each order would take long to find.
function rank() {
  const name = ({ client, use }) => [client.client_id, use?.model_id ?? ""];
  const named = [...rows.values()].map((row) => [row, ...name(row)]);
  named.sort((a, b) => inOrder(a[1], b[1]) || inOrder(a[2], b[2]));
  for (const [place, [row]] of named.entries()) row.place = place;
}

// Rows are drawn as grids (style.css), and some browsers take them for rows of a table no more: their roles are named.
function build(row) {
  Object.assign(row, { element: make("tr"), cells: COLUMNS.map(() => make("td")), button: make("button"), texts: [] });
  row.element.setAttribute("role", "row");
  for (const cell of row.cells) cell.setAttribute("role", "cell");
  row.button.type = "button";
  row.button.className = "opens";
  row.button.setAttribute("aria-expanded", "false");
  row.button.addEventListener("click", () => toggle(row));
  row.cells[0].append(row.button);
  row.cells[1].className = "state";
  row.element.append(...row.cells);
}

function showRow(row) {
  if (!row.element) build(row);
  if (row.element.dataset.state !== row.state) row.element.dataset.state = row.state;
  for (const [index, [name, , get, digits]] of COLUMNS.entries()) {
    const value = get(row);
    const text = digits === undefined ? value : number(value, digits);
    if (row.texts[index] === text) continue;
    row.texts[index] = text;  // to ask the element takes longer
    (index ? row.cells[index] : row.button).textContent = text;
    if (name === "hits") row.cells[index].classList.toggle("low", value !== null && value < 90);
  }
}

// Opens or closes a row; one is open at a time, so that only one robot is asked for.
function toggle(row) {
  const was = open;
  if (was) {
    closeRobot();
    was.details.remove();
    was.details = null;
    was.button.setAttribute("aria-expanded", "false");
    was.button.removeAttribute("aria-controls");
    open = null;
  }
  if (was === row) return;
  open = row;
  if (!row.element) build(row);
  row.details = make("tr");
  row.details.className = "details";
  row.details.setAttribute("role", "row");
  const cell = row.details.insertCell();
  cell.setAttribute("role", "cell");
  cell.colSpan = COLUMNS.length;
  const inside = make("div", undefined, "robot");
  inside.id = "robot";
  cell.append(inside);
  row.button.setAttribute("aria-expanded", "true");
  row.button.setAttribute("aria-controls", "robot");
  row.element.after(row.details);
  openRobot(inside, row.client.client_id, row.use?.model_id);
}

function isWanted(row, wanted) {
  if (!wanted) return true;
  return `${row.client.client_id} ${row.client.client_type} ${row.state} ${row.use?.model_id ?? ""}`.toLowerCase().includes(wanted);
}

function order() {
  const [, , value, , key = value] = COLUMNS[sorting.column];
  const sign = sorting.descending ? -1 : 1;
  const wanted = byId("filter").value.trim().toLowerCase();
  const found = [...rows.values()].filter((row) => isWanted(row, wanted));
  if (sorting.column) {
    for (const row of found) row.key = key(row);
    found.sort(({ key: x, place: a }, { key: y, place: b }) => {
      if (x === y) return a - b;
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? inOrder(x, y) : x - y) || a - b;
    });
  } else {
    found.sort((a, b) => sign * (a.place - b.place));
  }
  const shown = found.slice(0, shows);
  if (open && found.indexOf(open) >= shows) shown.push(open);
  byId("rest").hidden = found.length <= shows;
  setText(byId("shown"), `The first ${shows} of ${found.length} are shown.`);
  const body = byId("robots");
  const focused = document.activeElement;
  for (const row of shown) {
    showRow(row);
    row.element.hidden = false;
  }
  if (open) {
    open.element.hidden = open.details.hidden = !shown.includes(open);
    if (open.element.hidden) shown.push(open);  // it comes back as it was
  }
  arrange(body, shown.flatMap((row) => (row.details ? [row.element, row.details] : [row.element])));
  // What is moved loses the focus.
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}
