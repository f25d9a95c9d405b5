// One robot in full, asked for once a second while its row is open: its ages, its last answers, its errors.
import { drawn, duration, fill, make, number, setText } from "./page.js";

const EVERY_MS = 1000;
const LAST = 12;
const PARTS = [
  ["network", "network, both ways"], ["queue", "queue"], ["batch", "batch and company"],
  ["model", "model"], ["encode", "encode and decode"], ["unread", "unread on the robot"],
];
const WIDE = 720, TALL = 180, LEFT = 58, BELOW = 18;
let shown = null;
let timer = 0;

export function openRobot(cell, id, model) {
  shown = { id, model, parts: null, cell };
  cell.append(make("p", "asking …", "sentence"));
  ask();
}

export function closeRobot() {
  clearTimeout(timer);
  shown = null;
}

async function ask() {
  const asked = shown;
  if (!document.hidden) {
    // Where nothing answers, the page says above that the connection is lost.
    const answer = await fetch(`api/robots/${encodeURIComponent(asked.id)}`).catch(() => null);
    const robot = answer?.ok ? await answer.json().catch(() => null) : null;
    if (shown !== asked) return;
    if (robot) show(robot);
    else if (answer?.status === 404) setText(asked.cell.querySelector(".sentence"), `${asked.id} is not known any more`);
  }
  if (shown === asked) timer = setTimeout(ask, EVERY_MS);
}

function show(robot) {
  if (!shown) return;
  const model = robot.models.find((one) => one.model_id === shown.model) ?? robot.models[0];
  const parts = (shown.parts ??= build(shown.cell));
  const use = model && robot.client.models.find((one) => one.model_id === model.model_id);
  setText(parts.sentence, sentenceOf(robot, model));
  fill(parts.facts, ["", ""], factsOf(robot, model));
  // By the attribute: elements of SVG have no property for it.
  for (const element of [parts.chart, parts.legend, parts.quantiles, parts.answers]) {
    element.toggleAttribute("hidden", !model?.actions.length);
  }
  if (model?.actions.length) {
    drawAges(parts.chart, model.actions);
    fill(parts.quantiles, ["part of the age, ms", "p50", "p95", "p99", "late by it, %"], quantilesOf(use.lateness));
    showAnswers(parts.answers, model.actions.slice(-LAST).reverse());
  }
  fill(parts.errors, ["without an answer", "how often", "last", "why"], (model?.errors ?? []).map(errorOf));
}

function build(cell) {
  const parts = {
    sentence: cell.querySelector(".sentence"), facts: make("table", undefined, "facts"),
    chart: drawn("svg", { class: "ages", role: "img", viewBox: `0 0 ${WIDE} ${TALL}` }),
    legend: make("ul", undefined, "legend"), quantiles: make("table", undefined, "sizes"),
    answers: make("table", undefined, "answers"), errors: make("table", undefined, "errors"),
  };
  for (const [name, title] of PARTS) {
    const item = make("li", title);
    item.dataset.part = name;
    parts.legend.append(item);
  }
  parts.answers.append(make("caption", `last ${LAST} answers, newest first`));
  const columns = make("div", undefined, "columns");
  const ages = make("div"), rest = make("div");
  ages.append(parts.chart, parts.legend, parts.quantiles);
  rest.append(parts.facts, parts.answers);
  columns.append(ages, rest);
  cell.append(columns, parts.errors);
  return parts;
}

function sentenceOf(robot, model) {
  if (!model) return `${robot.client.client_id} is ${robot.client.state}, last seen ${number(robot.client.seen_s_ago)} s ago`;
  if (!(model.nothing_for_s > 1)) return model.text;
  const name = robot.client.client_id, before = model.text.startsWith(`${name}: `) ? model.text.slice(name.length + 2) : model.text;
  return `${name} gets no answer, for ${number(model.nothing_for_s)} s${model.actions.length ? `; before that ${before}` : ""}`;
}

function factsOf(robot, model) {
  return [
    ["kind", robot.client.client_type || "–"],
    ["connected", robot.connected_s === null ? "gone" : `for ${duration(robot.connected_s)}`],
    ["observations", String(robot.client.requests)],
    ...(model ? [["model", model.model_id]] : []),
    ...(model?.version ? [["version", model.version]] : []),
    ...(model?.session ? [["session", model.session]] : []),
  ];
}

function quantilesOf(lateness) {
  if (!lateness) return [];
  const row = (name, parts, share) => [name, number(parts.p50, 1), number(parts.p95, 1), number(parts.p99, 1), share];
  const causes = PARTS.map(([name, title]) => row(title, lateness.parts[name], number(100 * (lateness.causes[name] ?? 0))));
  return [...causes, row("age", lateness.age, `${lateness.late} of ${lateness.actions}`)];
}

function errorOf(error) {
  return [error.kind.replaceAll("_", " "), `${error.count} times`, `${duration(error.last_s_ago)} ago`, error.reason];
}

// Ages over time as a stacked band by part, with the budget over it.
function drawAges(svg, actions) {
  const span = Math.max(actions[0].ago_s, 1);
  const budgets = actions.filter((action) => action.budget_ms !== null).map((action) => action.budget_ms);
  const ages = actions.map((action) => action.parts.reduce((sum, part) => sum + part, 0));
  const oldest = Math.max(...ages);
  const most = Math.max(oldest, Math.min(Math.max(0, ...budgets), 3 * oldest), 1) * 1.08;
  const x = (action) => LEFT + (WIDE - LEFT) * (1 - action.ago_s / span);
  const y = (ms) => (TALL - BELOW) * (1 - ms / most);
  const found = [];
  for (const ms of scale(most)) {
    found.push(drawn("line", { class: "grid", x1: LEFT, x2: WIDE, y1: y(ms), y2: y(ms) }));
    found.push(drawn("text", { x: LEFT - 6, y: y(ms) + 4, "text-anchor": "end" }, `${ms} ms`));
  }
  const below = actions.map(() => 0);
  for (const [part, [name]] of PARTS.entries()) {
    const lower = actions.map((action, at) => `${x(action).toFixed(1)},${y(below[at]).toFixed(1)}`).reverse();
    const upper = actions.map((action, at) => `${x(action).toFixed(1)},${y((below[at] += action.parts[part])).toFixed(1)}`);
    found.push(drawn("polygon", { "data-part": name, points: [...upper, ...lower].join(" ") }));
  }
  if (budgets.length) {
    const points = actions.filter((action) => action.budget_ms !== null)
      .map((action) => `${x(action).toFixed(1)},${Math.max(y(action.budget_ms), 0).toFixed(1)}`);
    found.push(drawn("polyline", { class: "budget", points: points.join(" ") }));
  }
  found.push(drawn("text", { x: LEFT, y: TALL - 4 }, `${number(span)} s ago`));
  found.push(drawn("text", { x: WIDE, y: TALL - 4, "text-anchor": "end" }, "now; dashed: allowed"));
  svg.replaceChildren(...found);
  svg.setAttribute("aria-label", `Ages of the last ${actions.length} actions by part, up to ${number(oldest)} ms; the table tells the same in numbers`);
}

function scale(most) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find((one) => most / one <= 4) ?? most;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => at * step);
}

// Each answer as a bar of its parts, from the observation on, with a mark where it was due.
function showAnswers(table, actions) {
  const ages = actions.map((action) => action.parts.reduce((sum, part) => sum + part, 0));
  const most = Math.max(...ages, ...actions.map((action, at) => Math.min(action.budget_ms ?? 0, 1.5 * ages[at])), 1);
  const rows = actions.map((action, at) => [`${number(action.ago_s, 1)} s ago`, null, `${number(ages[at], 1)} ms`, action.cause ? `late, ${action.cause}` : ""]);
  fill(table, ["", "", "age", ""], rows);
  for (const [at, action] of actions.entries()) {
    const cells = table.tBodies[0].rows[at].cells;
    cells[3].className = "late";
    const bar = cells[1].firstChild ?? newBar(cells[1]);
    for (const [part] of PARTS.entries()) bar.children[part].style.width = `${100 * action.parts[part] / most}%`;
    const due = bar.lastChild;
    due.hidden = action.budget_ms === null || action.budget_ms > most;
    due.style.left = `${100 * (action.budget_ms ?? 0) / most}%`;
  }
}

function newBar(cell) {
  const bar = make("div", undefined, "waterfall");
  for (const [name] of PARTS) {
    const part = make("i");
    part.dataset.part = name;
    bar.append(part);
  }
  bar.append(make("b"));
  cell.className = "wide";
  cell.append(bar);
  return bar;
}
