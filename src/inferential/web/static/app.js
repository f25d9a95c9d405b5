// The live page: one stream of status, drawn in place. Nothing is loaded from elsewhere and nothing is sent.
"use strict";

const byId = (id) => document.getElementById(id);
const make = (tag, text) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  return element;
};
const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const number = (value, digits = 0) => value === null || value === undefined ? "–" : value.toFixed(digits);

// Theme: the system's, until the user chooses.

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

// The fleet: a row for each robot and model, kept as long as the status lists the robot.

const COLUMNS = [
  ["robot", "Robot", (row) => row.client.client_id],
  ["state", "State", (row) => row.client.state],
  ["model", "Model", (row) => row.use?.model_id ?? "–"],
  ["rate", "Control rate, Hz", (row) => row.use?.control_rate_hz ?? null, 0],
  ["cadence", "Cadence, ms", (row) => row.use?.cadence_ms ?? null, 1],
  ["age", "Action age, ms", (row) => row.use?.age_ms ?? null, 1],
  ["unread", "Unread, ms", (row) => row.use?.unread_ms ?? null, 1],
  ["hits", "Deadlines met, %", (row) => row.use?.answered ? 100 * row.use.in_time / row.use.answered : null, 1],
  ["answered", "Answers", (row) => row.use?.answered ?? null, 0],
  ["superseded", "Superseded", (row) => row.use?.superseded ?? null, 0],
  ["refused", "Refused", (row) => row.use?.refused ?? null, 0],
  ["seen", "Seen, s ago", (row) => row.client.seen_s_ago, 1],
];
let sorting = { column: 0, descending: false };
const rows = new Map();

for (const [index, [, title]] of COLUMNS.entries()) {
  const head = make("th");
  head.scope = "col";
  const button = make("button", title);
  button.type = "button";
  button.addEventListener("click", () => {
    sorting = { column: index, descending: sorting.column === index ? !sorting.descending : index > 2 };
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

function showFleet(clients) {
  const seen = new Set();
  for (const client of clients) {
    for (const use of client.models.length ? client.models : [null]) {
      const key = `${client.client_id}\n${use?.model_id ?? ""}`;
      seen.add(key);
      let row = rows.get(key);
      if (!row) {
        row = { element: make("tr"), cells: COLUMNS.map(() => make("td")), last: null };
        row.element.append(...row.cells);
        row.cells[1].className = "state";
        rows.set(key, row);
      }
      row.client = client;
      row.use = use;
      showRow(row);
    }
  }
  for (const [key, row] of rows) {
    if (!seen.has(key)) {
      row.element.remove();
      rows.delete(key);
    }
  }
  const count = (state) => clients.filter((client) => client.state === state).length;
  setText(byId("counts"), `${count("active")} active, ${count("overdue")} overdue, ${count("gone")} gone`);
  byId("empty").hidden = clients.length > 0;
  order();
}

function showRow(row) {
  if (row.element.dataset.state !== row.client.state) {
    if (row.element.dataset.state) announce(`${row.client.client_id} is ${row.client.state}`);
    row.element.dataset.state = row.client.state;
  }
  for (const [index, [name, , get, digits]] of COLUMNS.entries()) {
    const value = get(row);
    setText(row.cells[index], digits === undefined ? value : number(value, digits));
    if (name === "hits") row.cells[index].classList.toggle("low", value !== null && value < 90);
  }
}

function order() {
  const get = COLUMNS[sorting.column][2];
  const sign = sorting.descending ? -1 : 1;
  const wanted = byId("filter").value.trim().toLowerCase();
  const compare = (a, b) => {
    const [x, y] = [get(a), get(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return sign * order || a.client.client_id.localeCompare(b.client.client_id, undefined, { numeric: true });
  };
  const body = byId("robots");
  let at = body.firstElementChild;
  for (const row of [...rows.values()].sort(compare)) {
    const text = `${row.client.client_id} ${row.client.client_type} ${row.client.state} ${row.use?.model_id ?? ""}`;
    row.element.hidden = wanted !== "" && !text.toLowerCase().includes(wanted);
    if (row.element === at) at = at.nextElementSibling;
    else body.insertBefore(row.element, at);
  }
}

// What changed is said, not too often.

const changes = [];
let saying = 0;
function announce(text) {
  changes.push(text);
  if (saying) return;
  saying = setTimeout(() => {
    saying = 0;
    byId("announcer").textContent = changes.length > 3 ? `${changes.length} robots changed state` : changes.join(", ");
    changes.length = 0;
  }, 2000);
}

// Models

const cards = new Map();
function showModels(models, workers, now) {
  for (const model of models) {
    let card = cards.get(model.model_id);
    if (!card) {
      const element = make("article");
      element.className = "card";
      const facts = {};
      const list = make("dl");
      for (const name of ["state", "waiting", "in flight", "replicas", "answers"]) {
        const group = make("div");
        facts[name] = make("dd");
        group.append(make("dt", name), facts[name]);
        list.append(group);
      }
      const sizes = make("table");
      sizes.className = "sizes";
      const error = make("p");
      error.className = "error";
      const processes = make("table");
      processes.className = "sizes";
      const tensors = make("p");
      tensors.className = "tensors";
      element.append(make("h3", model.model_id), list, sizes, processes, tensors, error);
      byId("models").append(element);
      card = { element, facts, sizes, processes, tensors, error, cpu: new Map() };
      cards.set(model.model_id, card);
    }
    setText(card.facts.state, model.state);
    card.facts.state.title = [model.since ? `since ${new Date(model.since * 1000).toLocaleString()}` : "", model.why].filter(Boolean).join(": ");
    setText(card.facts.waiting, String(model.waiting));
    setText(card.facts["in flight"], String(model.in_flight));
    setText(card.facts.replicas, model.max_inflight ? String(model.replicas.length) : "none up");
    setText(card.facts.answers, String(model.calls));
    showSizes(card.sizes, model.latency);
    showProcesses(card, workers.filter((worker) => worker.model_id === model.model_id), now);
    const failing = model.error_rate > 0.005 && model.last_error;
    const failures = failing ? `${(100 * model.error_rate).toFixed(0)} % fail: ${model.last_error}` : "";
    const state = model.state === "ready" || model.problem ? "" : `${model.state}: ${model.why}`;
    setText(card.error, [state, model.problem, failures].filter(Boolean).join("; "));
  }
  const known = new Set(models.map((model) => model.model_id));
  for (const [id, card] of cards) {
    if (!known.has(id)) {
      card.element.remove();
      cards.delete(id);
    }
  }
}

// What models take and give, asked for whenever one has become another.
let shownStates = "";
async function showTensors(models) {
  const states = models.map((model) => `${model.model_id} ${model.state} ${model.since}`).join("\n");
  if (states === shownStates) return;
  shownStates = states;
  const response = await fetch("api/models").catch(() => null);
  const said = response?.ok ? await response.json() : {};
  for (const [id, card] of cards) {
    const { inputs, outputs } = said[id] ?? { inputs: [], outputs: [] };
    const lines = [["takes", inputs], ["gives", outputs]].filter(([, tensors]) => tensors.length);
    setText(card.tensors, lines.map(([verb, tensors]) => `${verb} ${tensors.map(tensorText).join(", ")}`).join("\n"));
  }
}

const tensorText = ({ name, dtype, shape }) =>
  `${name}: ${dtype || "any dtype"} ${shape ? `[${shape.map((size) => (size < 0 ? "*" : size)).join(", ")}]` : "of any shape"}`;

// CPU time is given as a sum: its growth over a second or more is the share of a core.
const CPU_OVER_S = 1;
function showProcesses(card, workers, now) {
  const table = card.processes;
  if (!workers.length) {
    table.replaceChildren();
    return;
  }
  if (!table.tHead) {
    const head = table.createTHead().insertRow();
    for (const title of ["process", "memory, MB", "CPU, %"]) {
      const cell = make("th", title);
      cell.scope = "col";
      head.append(cell);
    }
    table.createTBody();
  }
  const body = table.tBodies[0];
  while (body.rows.length < workers.length) {
    const row = body.insertRow();
    for (let index = 0; index < 3; index += 1) row.insertCell();
  }
  while (body.rows.length > workers.length) body.deleteRow(-1);
  for (const [index, worker] of workers.entries()) {
    let seen = card.cpu.get(worker.pid);
    if (!seen) card.cpu.set(worker.pid, (seen = { at: now, cpu_s: worker.cpu_s, percent: null }));
    if (now - seen.at >= CPU_OVER_S) {
      seen.percent = 100 * (worker.cpu_s - seen.cpu_s) / (now - seen.at);
      seen.at = now;
      seen.cpu_s = worker.cpu_s;
    }
    const cells = body.rows[index].cells;
    setText(cells[0], String(worker.pid));
    setText(cells[1], number(worker.memory_mb, 0));
    setText(cells[2], number(seen.percent, 0));
  }
  const alive = new Set(workers.map((worker) => worker.pid));
  for (const pid of card.cpu.keys()) if (!alive.has(pid)) card.cpu.delete(pid);
}

function showSizes(table, latency) {
  if (!latency.length) {
    table.replaceChildren();
    return;
  }
  if (!table.tHead) {
    const head = table.createTHead().insertRow();
    for (const title of ["rows", "median, ms", "high, ms", ""]) {
      const cell = make("th", title);
      if (title) cell.scope = "col";
      head.append(cell);
    }
    table.createTBody();
  }
  const body = table.tBodies[0];
  while (body.rows.length < latency.length) {
    const row = body.insertRow();
    for (let index = 0; index < 4; index += 1) row.insertCell();
    row.cells[3].className = "meter";
    row.cells[3].append(make("i"));
  }
  while (body.rows.length > latency.length) body.deleteRow(-1);
  const most = Math.max(...latency.map((size) => size.high_ms));
  for (const [index, size] of latency.entries()) {
    const cells = body.rows[index].cells;
    setText(cells[0], String(size.batch_size));
    setText(cells[1], number(size.median_ms, 1));
    setText(cells[2], number(size.high_ms, 1));
    cells[3].firstChild.style.width = `${100 * size.median_ms / most}%`;
  }
}

// The timeline: a lane for each replica, a box for each call, moving with the server's clock.

const WINDOW_S = 5;
const batches = new Map();
let clock = { server: 0, here: 0 };
const canvas = byId("timeline");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function takeBatches(status) {
  clock = { server: status.uptime_s, here: performance.now() / 1000 };
  for (const batch of status.batches) batches.set(batch.number, batch);
  const running = new Set(status.batches.filter((batch) => batch.ended_s === null).map((batch) => batch.number));
  for (const [at, batch] of batches) {
    const forgotten = batch.ended_s === null ? !running.has(at) : batch.ended_s < status.uptime_s - WINDOW_S - 1;
    if (forgotten) batches.delete(at);
  }
  lanes.clear();
  for (const model of status.models) {
    for (const replica of model.replicas) lanes.set(`${model.model_id}\n${replica.name}`, lanes.size);
  }
}
const lanes = new Map();

function draw() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name);
  const scale = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const lane = 28;
  const height = Math.max(lanes.size, 1) * lane + 22;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  // A quarter of a second late, so that what is drawn at the right edge is known already.
  const now = clock.server + performance.now() / 1000 - clock.here - 0.3;
  const place = (at) => width - (now - at) / WINDOW_S * width;
  pen.fillStyle = colour("--dim");
  pen.strokeStyle = colour("--line");
  for (let second = Math.ceil(now - WINDOW_S); second <= now; second += 1) {
    const x = Math.round(place(second)) + 0.5;
    pen.beginPath();
    pen.moveTo(x, 0);
    pen.lineTo(x, height - 18);
    pen.stroke();
    pen.fillText(`${second} s`, x + 4, height - 9);
  }
  for (const batch of batches.values()) {
    const row = lanes.get(`${batch.model_id}\n${batch.replica}`);
    if (row === undefined) continue;
    const left = place(batch.started_s);
    const right = Math.min(place(batch.ended_s ?? now), width);
    if (right < 0 || left > width) continue;
    pen.fillStyle = colour(batch.ok ? "--bar" : "--bar-failed");
    const tall = Math.min(4 + batch.rows * 1.2, 14);
    pen.fillRect(left, row * lane + lane - tall, Math.max(right - left - 0.5, 1), tall);
  }
  pen.fillStyle = colour("--ink");
  for (const [key, row] of lanes) {
    const [model, replica] = key.split("\n");
    pen.fillText(replica ? `${model} · ${replica.slice(-8)}` : model, 6, row * lane + 8);
  }
}

let drawing = 0;
function animate() {
  draw();
  drawing = document.hidden || calm.matches ? 0 : requestAnimationFrame(animate);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden && !drawing) animate(); });

// The stream

function showFacts(status) {
  const facts = {
    strategy: status.strategy,
    up: duration(status.uptime_s),
    waiting: String(status.waiting),
    "in flight": String(status.in_flight),
    robots: String(status.clients.filter((client) => client.state !== "gone").length),
    version: status.version,
  };
  for (const node of status.nodes) {
    for (const gpu of node.gpus) {
      const memory = gpu.memory_used_mb === null ? "" : ` ${number(gpu.memory_used_mb / 1000, 1)} GB`;
      facts[`${node.address} GPU ${gpu.index}`.trim()] = `${number(gpu.utilisation_percent, 0)} %${memory}`;
    }
  }
  const list = byId("facts");
  for (const [name, value] of Object.entries(facts)) {
    let group = list.querySelector(`[data-name="${name}"]`);
    if (!group) {
      group = make("div");
      group.dataset.name = name;
      group.append(make("dt", name), make("dd"));
      list.append(group);
    }
    setText(group.lastChild, value);
  }
}

function showWarnings(warnings) {
  byId("warnings").hidden = !warnings.length;
  setText(byId("warnings"), warnings.join("\n"));
}

function duration(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function showConnection(state, text) {
  byId("connection").dataset.state = state;
  setText(byId("connection"), text);
}

const stream = new EventSource("api/stream");
stream.onmessage = (event) => {
  const status = JSON.parse(event.data);
  showConnection("live", status.draining ? "draining" : "live");
  showFacts(status);
  showWarnings(status.warnings);
  takeBatches(status);
  showModels(status.models, status.workers, status.uptime_s);
  showTensors(status.models);
  showFleet(status.clients);
  if (!drawing) animate();
};
stream.onerror = () => showConnection("lost", "connection lost, trying again");
