// The picture is an <img> of /stream.mjpg; everything else comes from /results, one event a frame.
"use strict";

const element = (id) => document.getElementById(id);
const picture = element("picture");
const figure = picture.parentElement;
const STALE_MS = 2000;
let events = null;
let lastEvent = 0;

function connect() {
  disconnect();
  events = new EventSource("/results");
  // After an interruption the picture has ended too, and does not come back by itself.
  events.onopen = () => { picture.src = `/stream.mjpg?${Date.now()}`; };
  events.onmessage = (message) => { lastEvent = Date.now(); show(JSON.parse(message.data)); };
  events.onerror = () => say("no connection", "bad");
}

function disconnect() {
  if (events) events.close();
  events = null;
  picture.removeAttribute("src"); // hangs up: nobody encodes pictures for a page that is not seen
}

function show(frame) {
  say("live", "live");
  element("waiting").hidden = true;
  document.title = frame.source;
  element("source").textContent = frame.source;
  element("fps").textContent = frame.fps === null ? "–" : frame.fps.toFixed(1);
  element("age").textContent = `${frame.age_ms.toFixed(0)} ms`;
  element("frame").textContent = frame.index;
  element("size").textContent = frame.size_wh.join(" × ");
  const results = frame.results ? Object.entries(frame.results) : [["", frame.result]];
  const found = results.map(([model, result]) => named(model, result));
  const raw = results.filter((_, i) => found[i] === null);
  element("raw").hidden = raw.length === 0;
  element("raw").textContent = raw.map(([, result]) => JSON.stringify(result).slice(0, 2000)).join("\n");
  element("found").hidden = raw.length === results.length;
  element("found").replaceChildren(...found.flatMap((rows) => (rows ?? []).slice(0, 20)).map(row));
}

// Label and score of each thing found, or null for a result that has none.
function named(model, result) {
  const title = (label) => (model ? `${model}: ${label}` : label);
  if (result.classes) return result.classes.map((entry) => [title(entry.label), entry.score]);
  if (result.labels && result.scores) return result.labels.map((label, i) => [title(label), result.scores[i]]);
  return null;
}

function row([label, score]) {
  const item = document.createElement("li");
  const bar = document.createElement("i");
  const name = document.createElement("span");
  const share = document.createElement("span");
  bar.style.width = `${100 * (score ?? 0)}%`;
  name.textContent = label;
  share.textContent = score === null ? "–" : `${(100 * score).toFixed(1)} %`;
  item.append(bar, name, share);
  return item;
}

function say(text, kind) {
  element("state").textContent = text;
  element("state").className = kind;
  figure.classList.toggle("stale", kind === "bad");
}

setInterval(() => {
  const silent = Date.now() - lastEvent;
  if (events && events.readyState === EventSource.OPEN && lastEvent && silent > STALE_MS) {
    say(`no picture for ${Math.round(silent / 1000)} s`, "bad");
  }
}, 500);
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
picture.addEventListener("error", () => {
  if (events) setTimeout(() => { if (events) picture.src = `/stream.mjpg?${Date.now()}`; }, 1000);
});
connect();
