// The live page: one stream of status, drawn in place. Nothing is loaded from elsewhere and nothing is sent.
import { showFleet } from "./fleet.js";
import { showModels, showTensors } from "./models.js";
import { byId, duration, make, number, setText } from "./page.js";
import { animate, takeBatches } from "./timeline.js";

// Theme: the system's, until the user chooses.

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

// The stream: its first event has every robot, the others some of them, and the ids of those that are listed no more.

const robots = new Map();
function takeRobots(status) {
  if (!status.left) robots.clear();
  for (const id of status.left ?? []) robots.delete(id);
  for (const client of status.clients) robots.set(client.client_id, client);
  return [...robots.values()];
}

function showFacts(status, clients) {
  const facts = {
    strategy: status.strategy,
    up: duration(status.uptime_s),
    waiting: String(status.waiting),
    "in flight": String(status.in_flight),
    robots: String(clients.filter((client) => client.state !== "gone").length),
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

function showConnection(state, text) {
  byId("connection").dataset.state = state;
  setText(byId("connection"), text);
}

const AGAIN_MS = 3000;
const HIDDEN_MS = 30000;
let stream = null;
let version = null;
function watch() {
  stream = new EventSource("api/stream");
  stream.onmessage = (event) => show(JSON.parse(event.data));
  stream.onerror = () => {
    showConnection("lost", "connection lost, trying again");
    // The browser gives up where something else answers, as a proxy does while the server is away.
    if (stream.readyState === EventSource.CLOSED) setTimeout(watch, AGAIN_MS);
  };
}

function show(status) {
  if (status.error) {
    showConnection("lost", `the server cannot show its status: ${status.error}`);
    return;
  }
  if (version !== null && version !== status.version) location.reload();  // what it sends may be different
  version = status.version;
  showConnection("live", status.draining ? "draining" : "live");
  const clients = takeRobots(status);
  showFacts(status, clients);
  showWarnings(status.warnings);
  takeBatches(status);
  showModels(status.models, status.workers, status.uptime_s);
  showTensors(status.models);
  showFleet(clients);
  animate();
}

// A page that is hidden for long leaves: a browser has six connections for all its pages of a server.
let leaving = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(leaving);
  if (document.hidden) {
    leaving = setTimeout(() => {
      stream.close();
      showConnection("connecting", "connecting");
    }, HIDDEN_MS);
  } else if (stream.readyState === EventSource.CLOSED && byId("connection").dataset.state === "connecting") watch();
});
watch();
