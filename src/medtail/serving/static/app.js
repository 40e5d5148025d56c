"use strict";
// The page's one script. File names stay here; the server gets bytes. Nothing comes from another server.

const $ = (id) => document.getElementById(id);
const items = [];
let model = null;
let current = null;
let isBusy = false;
let lastNumber = 0;

// --- asking the server -----------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(kind, message) { super(message); this.kind = kind; }
}

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

function readToken() {
  const given = /^#token=(.+)$/.exec(location.hash);
  if (given) {
    sessionStorage.setItem("token", decodeURIComponent(given[1]));
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

async function ask(path, { file = null, parameters = {} } = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value !== null && value !== "") query.set(name, value);
  const address = query.size ? `${path}?${query}` : path;
  const token = readToken();
  const headers = { "X-Medtail": "page" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (file) headers["Content-Type"] = "application/octet-stream";
  for (let attempt = 0; ; attempt += 1) {
    let reply;
    try {
      reply = await fetch(address, { method: file ? "POST" : "GET", headers, body: file, credentials: "omit" });
    } catch {
      throw new Refused("network", "The server does not answer. Is it still running?");
    }
    if ((reply.status === 503 || reply.status === 429) && attempt < 30) {
      await pause(Number(reply.headers.get("Retry-After") || 1) * (0.7 + 0.6 * Math.random()));
      continue;
    }
    const value = await reply.json().catch(() => null);
    if (reply.ok && value) return value;
    const told = value && value.error ? value.error : { kind: "internal", message: `The server answered ${reply.status}.` };
    if (told.kind === "token") askForToken(Boolean(token));
    throw new Refused(told.kind, told.message);
  }
}

function askForToken(isWrong) {
  sessionStorage.removeItem("token");
  $("token-form").hidden = false;
  $("token-wrong").hidden = !isWrong;
  $("token").focus();
}

// --- making elements -------------------------------------------------------------------------------------------------

function make(tag, { text = null, className = "", ...rest } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== null) element.textContent = text;
  if (className) element.className = className;
  for (const [name, value] of Object.entries(rest)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value > 99.9 && value < 100) return "> 99.9 %";
  return `${value.toFixed(value < 10 || (value > 99 && value < 100) ? 1 : 0)} %`;
}

// Text in which `words` are code.
const marked = (text) => text.split("`").map((part, place) => (place % 2 ? make("code", { text: part }) : part));

function bar(share, threshold = null) {
  const filled = make("i");
  filled.style.width = `${100 * share}%`;
  const element = make("div", { className: "bar", "aria-hidden": "true" }, filled);
  if (threshold !== null) {
    const tick = make("s");
    tick.style.left = `calc(${100 * threshold}% - 1px)`;
    element.append(tick);
  }
  return element;
}

const shortName = (finding) =>
  finding.group !== null && finding.name.startsWith(`${finding.group}=`)
    ? finding.name.slice(finding.group.length + 1)
    : finding.name;

// --- files -----------------------------------------------------------------------------------------------------------

function addFiles(files) {
  for (const file of files) {
    lastNumber += 1;
    const item = { number: lastNumber, file, name: file.name || `image ${lastNumber}`, state: "waits", message: "", frame: 0, roi: null, heat: new Map(), shown: null };
    if (model && file.size > model.limits.max_bytes) {
      item.state = "failed";
      item.message = `Larger than ${model.limits.max_mb} MB, the limit of this server.`;
    }
    items.push(item);
  }
  if (!current && items.length) select(items[items.length - files.length]);
  listItems();
  work();
}

async function work() {
  if (isBusy || !model) return;
  isBusy = true;
  for (;;) {
    const item = items.find((candidate) => candidate.state === "waits");
    if (!item) break;
    item.state = "reading";
    listItems();
    if (item === current) show();
    try {
      if (!item.preview) await preview(item);
      if (model.needs_roi && !item.roi) {
        item.state = "region";
        item.message = "Needs a box around the lesion.";
      } else {
        await predict(item);
        item.state = "done";
        item.message = "";
      }
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      item.state = error.kind === "token" ? "waits" : error.kind === "roi" ? "region" : "failed";
      item.message = error.message;
      if (error.kind === "token") break;
    } finally {
      listItems();
      if (item === current) show();
    }
  }
  isBusy = false;
}

async function preview(item) {
  item.preview = await ask("/api/preview", { file: item.file, parameters: { frame: item.frame || "" } });
}

const whatToRead = (item) => ({ frame: item.frame || "", roi: item.roi ? item.roi.join(",") : "" });

async function predict(item) {
  const nodule = model.tirads_systems && Object.keys(model.tirads_systems).length ? { size_mm: $("size").value, system: $("system").value } : {};
  item.heat.clear();
  item.shown = null;
  item.similar = null;
  item.result = await ask("/api/predict", { file: item.file, parameters: { ...whatToRead(item), ...nodule } });
  if (model.similar_cases) item.similar = (await ask("/api/similar", { file: item.file, parameters: whatToRead(item) })).cases;
}

const WORDS = { waits: "waits", reading: "reading …", region: "needs a box", failed: "not read", done: "read" };

function listItems() {
  $("batch").hidden = items.length === 0;
  const list = $("items");
  while (list.children.length > items.length) list.lastChild.remove();
  items.forEach((item, index) => {
    let row = list.children[index];
    if (!row) {
      row = make("li", {}, make("button", { type: "button" }, make("span", { className: "name" }), make("span", { className: "state" })));
      list.append(row);
    }
    const button = row.firstChild;
    button.onclick = () => { select(items[index]); $("result").focus(); };
    button.setAttribute("aria-current", String(item === current));
    button.firstChild.textContent = item.name;
    button.lastChild.textContent = item.state === "done" ? highest(item) : WORDS[item.state];
    row.className = item.state;
  });
  const over = items.filter((item) => ["done", "failed", "region"].includes(item.state)).length;
  $("progress").max = Math.max(1, items.length);
  $("progress").value = over;
  const failed = items.filter((item) => item.state === "failed").length;
  $("progress-text").textContent = `${over} of ${items.length} files${failed ? `, ${failed} not read` : ""}`;
  $("save-all").hidden = items.filter((item) => item.state === "done").length < 2;
}

function highest(item) {
  if (item.result.tirads && item.result.tirads.level) return item.result.tirads.level;
  const first = item.result.findings[0];
  return `${shortName(first)} ${percent(first.probability)}`;
}

function select(item) {
  current = item;
  listItems();
  show();
}

// --- the result ------------------------------------------------------------------------------------------------------

function show() {
  const item = current;
  $("result").hidden = !item;
  if (!item) return;
  $("title").textContent = item.name;
  $("status").textContent = item.message || (item.state === "done" ? "" : WORDS[item.state]);
  $("status").className = item.state === "failed" ? "error" : "muted";
  const hasPicture = Boolean(item.preview);
  showPicture();
  const isMany = hasPicture && item.preview.frames > 1;
  $("frames").hidden = !isMany;
  if (isMany) {
    $("frame-number").max = item.preview.frames;
    $("frame-number").value = item.frame + 1;
    $("frame-count").textContent = `of ${item.preview.frames}`;
  }
  const takesRegion = model.takes_roi && hasPicture;
  $("region-form").hidden = !takesRegion;
  $("frame").classList.toggle("drawing", takesRegion);
  if (takesRegion) showNumbers();
  showRegion();
  $("answer").hidden = item.state !== "done";
  if (item.state === "done") showAnswer(item);
}

function showPicture() {
  const item = current;
  const picture = $("picture");
  if (!item.preview) {
    picture.removeAttribute("src");
    picture.alt = "";
    $("caption").textContent = "";
    return;
  }
  const heat = item.shown === null ? null : item.heat.get(heatKey(item.shown));
  picture.src = `data:image/png;base64,${heat ? heat.png : item.preview.png}`;
  picture.alt = heat ? `The image with the heat map of ${heat.class_name}` : "The image as it was read";
  const { width, height } = item.preview;
  $("frame").style.setProperty("--ratio", width / height);
  const told = heat
    ? `Heat map of ${heat.class_name} (${methodName(heat.method)}${heat.branch === "joint" ? "" : `, ${heat.branch} branch`}). ${heat.caution}`
    : `${width} × ${height} pixels`;
  $("caption").replaceChildren(...marked(told));
}

function showAnswer(item) {
  const { result } = item;
  showTirads(result.tirads);
  const list = $("findings");
  list.replaceChildren(...result.findings.map((finding) => findingRow(item, finding)));
  const anyThreshold = result.findings.some((finding) => finding.threshold !== null);
  $("key").textContent = `${result.findings[0].calibrated ? "Calibrated probabilities" : "Scores, not calibrated"}, highest first.${anyThreshold ? " The tick is the threshold." : ""}${result.findings.some((finding) => finding.group) ? " Of an exclusive group the likeliest class is called." : ""}`;
  $("heat-options").hidden = model.heat_methods.length === 0;
  showSimilar(item.similar);
  const about = {
    Model: result.model_name,
    "Weights (SHA-256)": result.model_digest,
    medtail: result.medtail_version,
    "Image (SHA-256)": result.image.sha256,
    ...(result.image.frame || item.preview.frames > 1 ? { Frame: String(result.image.frame + 1) } : {}),
    ...(result.image.roi ? { "Region (left, top, width, height)": result.image.roi.join(", ") } : {}),
    Read: item.time || (item.time = new Date().toLocaleString()),
  };
  $("about").replaceChildren(...Object.entries(about).flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  $("cautions").replaceChildren(...result.cautions.map((text) => make("li", {}, ...marked(text))));
}

function findingRow(item, finding) {
  const name = make("div", { className: "name" }, make("b", { text: shortName(finding) }));
  if (finding.group !== null) name.append(" ", make("span", { className: "of", text: finding.group }));
  if (finding.present) name.append(" ", make("span", { className: "tag called", text: finding.group === null ? "present" : "likeliest" }));
  const rarity = { tail: "rare", medium: "uncommon" }[finding.tail_group];
  if (rarity) name.append(" ", make("span", { className: `tag ${finding.tail_group}`, text: rarity }));
  const value = make("div", { className: "value", text: percent(finding.probability) });
  if (finding.threshold !== null) value.append(make("span", { className: "muted small", text: `  from ${percent(finding.threshold)}` }));
  const row = make("li", { className: finding.tail_group === "tail" ? "tail-row" : "" }, name, value);
  if (model.heat_methods.length) {
    const isOn = item.shown === finding.name;
    const button = make("button", { type: "button", className: "heat", text: "Heat map", "aria-pressed": String(isOn), "aria-label": `Heat map of ${finding.name}` });
    button.dataset.name = finding.name;
    button.onclick = () => toggleHeat(item, finding.name, button);
    row.append(button);
  } else row.append(make("span"));
  row.append(bar(finding.probability, finding.threshold), make("div", { className: "trust", text: finding.trust }));
  return row;
}

const methodName = (method) => ({ grad_cam: "Grad-CAM", layer_cam: "Layer-CAM", hires_cam: "HiRes-CAM", attention: "attention", rollout: "attention roll-out", occlusion: "occlusion" })[method] || method;
const heatKey = (name) => `${$("method").value}|${$("branch").value}|${name}`;

async function toggleHeat(item, name, button) {
  if (item.shown === name) { item.shown = null; markHeat(item); return; }
  const key = heatKey(name);
  item.wanted = key;
  if (!item.heat.has(key)) {
    if (button) button.disabled = true;
    $("frame").classList.add("waits");
    try {
      item.heat.set(key, await ask("/api/heat", { file: item.file, parameters: { ...whatToRead(item), class_name: name, method: $("method").value, branch: $("branch").value } }));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      $("status").textContent = error.message;
      return;
    } finally {
      if (button) button.disabled = false;
      $("frame").classList.remove("waits");
    }
  }
  if (item.wanted !== key || item !== current) return; // another one was asked for meanwhile
  item.shown = name;
  markHeat(item);
}

function markHeat(item) {
  for (const button of document.querySelectorAll("#findings .heat")) button.setAttribute("aria-pressed", String(button.dataset.name === item.shown));
  showPicture();
}

function showTirads(found) {
  const place = $("tirads");
  place.hidden = !found;
  if (!found) return;
  const shares = make("div", { className: "shares" });
  for (const [level, share] of Object.entries(found.level_probabilities)) shares.append(make("span", { text: level || "no category" }), bar(share), make("span", { text: percent(share) }));
  place.replaceChildren(make("h3", { text: found.system }), make("p", { className: "big", text: found.level ? `${found.level}${found.points === null ? "" : `, ${found.points} points`}` : "No category" }), make("p", { text: found.sentence }), shares);
  const words = { FNA: "Fine-needle aspiration", FOLLOW: "Scan again", NONE: "Nothing advised" };
  if (found.advice) {
    const advised = make("div", { className: "shares" });
    for (const [name, share] of Object.entries(found.advice_probabilities)) advised.append(make("span", { text: words[name] || name }), bar(share), make("span", { text: percent(share) }));
    place.append(make("p", {}, make("b", { text: `Advice at ${found.size_mm} mm: ${words[found.advice].toLowerCase()}` })), advised);
  } else place.append(make("p", { className: "muted", text: "Enter the largest dimension for the guideline's advice." }));
}

function showSimilar(cases) {
  const place = $("similar");
  place.hidden = !cases;
  if (!cases) return;
  const list = make("ul", {}, ...cases.map((found) => make("li", {}, make("img", { src: `data:image/png;base64,${found.png}`, alt: `Training case ${found.image_id}` }), make("div", { className: "small", text: found.present.join(", ") || "none of the classes" }), make("div", { className: "small muted", text: `likeness ${found.similarity.toFixed(2)}` }))));
  place.replaceChildren(make("h3", { text: "Similar training cases" }), list, make("p", { className: "small muted", text: "Nearest by the model's own features. They look alike to the model; that is no evidence of the same finding." }));
}

// --- region of interest ----------------------------------------------------------------------------------------------

const regionInputs = () => ["roi-x", "roi-y", "roi-w", "roi-h"].map($);

function showNumbers() {
  const { width, height } = current.preview;
  const [x, y, w, h] = regionInputs();
  x.max = width - 1; y.max = height - 1; w.max = width; h.max = height;
  if (current.roi) regionInputs().forEach((input, place) => { input.value = current.roi[place]; });
  else if (document.activeElement?.form !== $("region-form")) regionInputs().forEach((input) => { input.value = ""; });
}

function showRegion() {
  const box = $("region");
  const numbers = regionInputs().map((input) => input.valueAsNumber);
  const isKnown = current && current.preview && model.takes_roi && numbers.every(Number.isFinite);
  box.hidden = !isKnown;
  if (!isKnown) return;
  const { width, height } = current.preview; // in shares, which hold in print and at any size
  box.style.left = `${(100 * numbers[0]) / width}%`;
  box.style.top = `${(100 * numbers[1]) / height}%`;
  box.style.width = `${(100 * numbers[2]) / width}%`;
  box.style.height = `${(100 * numbers[3]) / height}%`;
}

function startDrawing() {
  const place = $("frame");
  let start = null;
  const point = (event) => {
    const frame = $("picture").getBoundingClientRect();
    const { width, height } = current.preview;
    const clip = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
    return [clip(((event.clientX - frame.left) * width) / frame.width, width), clip(((event.clientY - frame.top) * height) / frame.height, height)];
  };
  place.addEventListener("pointerdown", (event) => {
    if (!place.classList.contains("drawing")) return;
    event.preventDefault();
    place.setPointerCapture(event.pointerId);
    start = point(event);
  });
  place.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [x, y] = point(event);
    const values = [Math.min(start[0], x), Math.min(start[1], y), Math.abs(x - start[0]), Math.abs(y - start[1])];
    regionInputs().forEach((input, index) => { input.value = values[index]; });
    showRegion();
  });
  place.addEventListener("pointerup", () => { start = null; });
  place.addEventListener("pointercancel", () => { start = null; });
}

function readRegion() {
  current.roi = regionInputs().map((input) => input.valueAsNumber);
  readAgain();
}

function readAgain() {
  current.state = "waits";
  current.message = "";
  listItems();
  show();
  work();
}

// --- saving ----------------------------------------------------------------------------------------------------------

function save(value, name) {
  const link = make("a", { href: URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// --- start -----------------------------------------------------------------------------------------------------------

function listen() {
  const drop = $("drop");
  $("choose").onclick = () => $("files").click();
  $("files").onchange = () => { addFiles([...$("files").files]); $("files").value = ""; };
  for (const name of ["dragenter", "dragover"]) document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    addFiles([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) addFiles([...event.clipboardData.files]); });
  $("token-form").onsubmit = (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", $("token").value.trim());
    $("token").value = "";
    $("token-form").hidden = true;
    start();
  };
  $("clear").onclick = () => { items.splice(0, items.length, ...items.filter((item) => item.state === "reading")); current = null; listItems(); show(); $("choose").focus(); };
  $("again").onclick = () => { for (const item of items) if (item.state === "done") item.state = "waits"; listItems(); if (current) show(); work(); };
  $("frames").onsubmit = (event) => { event.preventDefault(); current.frame = $("frame-number").valueAsNumber - 1; current.preview = null; readAgain(); };
  $("region-form").onsubmit = (event) => { event.preventDefault(); readRegion(); };
  $("region-form").oninput = showRegion;
  $("roi-all").onclick = () => { [0, 0, current.preview.width, current.preview.height].forEach((value, index) => { regionInputs()[index].value = value; }); showRegion(); readRegion(); };
  for (const id of ["method", "branch"]) $(id).onchange = () => { const name = current.shown; current.shown = null; if (name) toggleHeat(current, name, null); };
  $("print").onclick = () => window.print();
  $("save").onclick = () => save(current.result, "medtail-findings.json");
  $("save-all").onclick = () => save(items.filter((item) => item.state === "done").map((item) => ({ file: item.name, ...item.result })), "medtail-findings.json");
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && current && current.shown) { current.shown = null; markHeat(current); } });
  startDrawing();
}

async function start() {
  try {
    model = await ask("/api/model");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    $("model").textContent = error.message;
    return;
  }
  $("model").textContent = `${model.name}: ${model.classes.length} classes, ${model.calibrated ? "calibrated" : "not calibrated"}${model.networks > 1 ? `, ${model.networks} networks averaged` : ""}.`;
  document.title = `medtail: ${model.name}`;
  $("limits").textContent = `Up to ${model.limits.max_mb} MB and ${(model.limits.max_pixels / 1e6).toFixed(0)} million pixels a file.`;
  const systems = Object.entries(model.tirads_systems);
  $("options").hidden = systems.length === 0;
  $("system").replaceChildren(...systems.map(([value, text]) => make("option", { value, text })));
  $("method").replaceChildren(...model.heat_methods.map((value) => make("option", { value, text: methodName(value) })));
  $("branch").replaceChildren(...model.heat_branches.map((value) => make("option", { value, text: { joint: "both branches", cnn: "CNN branch", vit: "ViT branch" }[value] || value })));
  $("branch-label").hidden = model.heat_branches.length < 2;
  document.body.dataset.ready = "true";
  work();
}

listen();
start();
