// The models: a card each, with its state, its latencies and its processes.
import { announce, byId, clock, fill, make, number, setText } from "./page.js";

const FACTS = ["waiting", "running", "replicas", "answers"];
const MOST_SIZES = 8;  // of batches, so that the fleet stays in view
const DOWN = ["failing", "hung", "stopped"];
const cards = new Map();

export function showModels(models, workers, now) {
  for (const model of models) {
    let card = cards.get(model.model_id);
    if (!card) {
      cards.set(model.model_id, (card = newCard(model.model_id)));
      byId("models").append(card.element);
    }
    showCard(card, model, workers.filter((worker) => modelOf(worker.model_id) === model.model_id), now);
  }
  const known = new Set(models.map((model) => model.model_id));
  for (const [id, card] of cards) {
    if (!known.has(id)) {
      card.element.remove();
      cards.delete(id);
    }
  }
}

// The model whose version, or whose replica, a pool is.
const modelOf = (pool) => pool.split(/[@#%]/, 1)[0];

function newCard(id) {
  const card = {
    element: make("article", undefined, "card"), state: make("p", undefined, "condition"), facts: {},
    versions: make("table", undefined, "sizes versions"),
    sizes: make("table", undefined, "sizes"), processes: make("table", undefined, "sizes"),
    tensors: make("p", undefined, "tensors"), error: make("p", undefined, "error"), cpu: new Map(),
  };
  const list = make("dl");
  for (const name of FACTS) {
    const group = make("div");
    card.facts[name] = make("dd");
    group.append(make("dt", name), card.facts[name]);
    list.append(group);
  }
  card.element.append(make("h3", id), card.state, list, card.versions, card.sizes, card.processes, card.tensors, card.error);
  return card;
}

function showCard(card, model, workers, now) {
  const down = DOWN.includes(model.state);
  if (card.said && card.said !== model.state) announce("models", model.model_id, model.state);
  card.said = model.state;
  card.element.dataset.state = down ? "down" : model.state === "ready" ? "ready" : "starting";
  const since = model.since && model.state !== "ready" ? ` since ${clock(model.since)}` : "";
  setText(card.state, `${model.state}${since}${model.why && model.state !== "ready" ? `: ${model.why}` : ""}`);
  setText(card.facts.waiting, String(model.waiting));
  setText(card.facts.running, String(model.in_flight));
  setText(card.facts.replicas, model.max_inflight ? String(model.replicas.length) : "none up");
  setText(card.facts.answers, String(model.answers));
  showVersions(card, model.versions);
  showSizes(card.sizes, model.latency);
  showProcesses(card, workers, now);
  const failing = model.error_rate > 0.005 && model.last_error;
  const error = failing && !model.why.includes(model.last_error) ? `: ${model.last_error}` : "";  // said above
  const failures = failing ? `${(100 * model.error_rate).toFixed(0)} % fail${error}` : "";
  const problem = model.problem && !model.why.includes(model.problem) ? model.problem : "";
  setText(card.error, [problem, failures].filter(Boolean).join("; "));
}

// Versions are shown where there is more than one, or one with a name.
const VERSIONS = ["version", "for", "state", "robots", "requests", "failed", "late", "median, ms", "apart"];
function showVersions(card, versions) {
  const table = card.versions;
  const shown = versions.length > 1 || versions[0]?.version ? versions : [];
  card.element.classList.toggle("wide", shown.length > 0);
  fill(table, VERSIONS, shown.map((one) => [
    one.version || one.pool,
    one.share === null ? one.role : `${one.role} ${number(100 * one.share, 0)} %`,
    one.state,
    number(one.robots),
    number(one.requests),
    number(one.errors),
    number(one.deadline_misses),
    number(one.latency_ms, 1),
    one.difference_mean.map((mean) => mean.toPrecision(2)).join(", "),
  ]));
  for (const [index, one] of shown.entries()) table.tBodies[0].rows[index].title = one.why;
}

// What models take and give, asked for whenever one has become another.
let shownStates = "";
export async function showTensors(models) {
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
  const onGpu = workers.some((worker) => worker.gpu_memory_mb !== null);
  const titles = ["process", "memory, MB", "CPU, %", ...(onGpu ? ["GPU, MB"] : [])];
  if (card.processes.tHead && card.processes.tHead.rows[0].cells.length !== titles.length) card.processes.replaceChildren();
  const rows = workers.map((worker) => {
    let seen = card.cpu.get(worker.pid);
    if (!seen) card.cpu.set(worker.pid, (seen = { at: now, cpu_s: worker.cpu_s, percent: null }));
    if (now - seen.at >= CPU_OVER_S) {
      seen.percent = 100 * (worker.cpu_s - seen.cpu_s) / (now - seen.at);
      seen.at = now;
      seen.cpu_s = worker.cpu_s;
    }
    const own = [String(worker.pid), number(worker.memory_mb, 0), number(seen.percent, 0)];
    return onGpu ? [...own, number(worker.gpu_memory_mb, 0)] : own;
  });
  fill(card.processes, titles, rows);
  const alive = new Set(workers.map((worker) => worker.pid));
  for (const pid of card.cpu.keys()) if (!alive.has(pid)) card.cpu.delete(pid);
}

function showSizes(table, all) {
  const step = (all.length - 1) / (MOST_SIZES - 1);
  const latency = all.length > MOST_SIZES ? Array.from({ length: MOST_SIZES }, (_, at) => all[Math.round(at * step)]) : all;
  const rows = latency.map((size) => [String(size.batch_size), number(size.median_ms, 1), number(size.high_ms, 1), null]);
  fill(table, ["rows", "median, ms", "high, ms", ""], rows);
  const most = Math.max(...latency.map((size) => size.high_ms));
  for (const [index, size] of latency.entries()) {
    const cell = table.tBodies[0].rows[index].cells[3];
    if (!cell.firstChild) {
      cell.className = "meter";
      cell.append(make("i"));
    }
    cell.firstChild.style.width = `${100 * size.median_ms / most}%`;
  }
}
