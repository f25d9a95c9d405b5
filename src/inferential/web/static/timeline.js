import { byId } from "./page.js";

// The timeline: a lane for each replica, a box for each call, moving with the server's clock.

const WINDOW_S = 5;
export const batches = new Map();
let moved = { server: 0, here: 0 };
const canvas = byId("timeline");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export function takeBatches(status) {
  moved = { server: status.uptime_s, here: performance.now() / 1000 };
  if (!status.left) batches.clear();  // those there may be of a server that was here before
  for (const batch of status.batches) batches.set(batch.number, batch);
  const running = new Set(status.batches.filter((batch) => batch.ended_s === null).map((batch) => batch.number));
  for (const [at, batch] of batches) {
    const forgotten = batch.ended_s === null ? !running.has(at) : batch.ended_s < status.uptime_s - WINDOW_S - 1;
    if (forgotten) batches.delete(at);
  }
  lanes.clear();
  hung.clear();
  for (const model of status.models) {
    const [pool = model.model_id, ...others] = model.versions.map((version) => version.pool).filter(Boolean);
    if (model.state === "hung") hung.add(pool);
    for (const replica of model.replicas) lanes.set(`${pool}\n${replica.name}`, lanes.size);
    for (const other of others) lanes.set(`${other}\n`, lanes.size);
  }
}
const lanes = new Map();
const hung = new Set();

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
  const now = moved.server + performance.now() / 1000 - moved.here - 0.3;
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
  for (let row = 1; row <= lanes.size; row += 1) {
    pen.beginPath();
    pen.moveTo(0, row * lane + 0.5);
    pen.lineTo(width, row * lane + 0.5);
    pen.stroke();
  }
  for (const batch of batches.values()) {
    const row = lanes.get(`${batch.model_id}\n${batch.replica}`) ?? lanes.get(`${batch.model_id}\n`);
    if (row === undefined) continue;
    const left = place(batch.started_s);
    const right = Math.min(place(batch.ended_s ?? now), width);
    if (right < 0 || left > width) continue;
    const well = batch.ok && !(batch.ended_s === null && hung.has(batch.model_id));
    pen.fillStyle = colour(well ? "--bar" : "--bar-failed");
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
// Draws, and goes on by itself, unless no motion is wanted: then it draws with each status.
export function animate() {
  if (!drawing) frame();
}
function frame() {
  draw();
  drawing = document.hidden || calm.matches ? 0 : requestAnimationFrame(frame);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) animate(); });
