import { FLAGS, capital, certain, certainty, frames, kindOf, ownPicture, percent, said, save, sentence, several, told, without } from "./answer.js";

const find = (id) => document.getElementById(id);
const AT_ONCE = 4, SHOWN = 5, RETRIES = 8;
const waiting = [];
const results = [];
let token = "", running = 0, asked = 0, answered = 0, offersHeat = false, described = null, vocab = [], least = null, unsaved = false;

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// The fields beside the image, as the model names them: a number, or one of its categories, or unknown.
function fieldInput({ name, kind, categories }) {
  const label = document.createElement("label"), input = document.createElement(kind === "number" ? "input" : "select");
  if (kind === "number") Object.assign(input, { type: "number", step: "any", placeholder: "unknown" });
  else input.append(new Option("unknown", ""), ...categories.filter((one) => one !== "unknown").map((one) => new Option(one, one)));
  input.name = name;
  label.append(`${name} `, input);
  return label;
}

const fieldValues = () => [...find("fields").querySelectorAll("input, select")]
  .filter(({ value }) => value !== "").map(({ name, value }) => `${name}=${value}`);

async function ask(file, fields) {
  await described; // only then is it known whether to ask for a map
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(`v1/predict?preview=true&saliency=${offersHeat}${file.drawn ? "&sketch=false" : ""}${fields.map((one) => `&field=${encodeURIComponent(one)}`).join("")}`, {
      method: "POST",
      headers: { ...headers(), "Content-Type": await kindOf(file) },
      body: file,
    });
    const busy = response.status === 429 || response.status === 503;
    if (!busy || attempt === RETRIES) return { ok: response.ok, status: response.status, ...(await told(response)) };
    await pause(Number(response.headers.get("Retry-After")) || 1);
  }
}

function bar([label, value]) {
  const row = find("prob").content.cloneNode(true).firstElementChild;
  row.querySelector(".label").textContent = label;
  row.querySelector(".percent").textContent = percent(value);
  row.querySelector(".fill").style.width = `${100 * value}%`;
  return row;
}

function explainFlags() {
  const met = new Set(results.flatMap(({ answer }) => answer.flags)), known = Object.keys(FLAGS).filter((flag) => met.has(flag));
  find("flag-meanings").hidden = !known.length;
  find("flag-meanings").textContent = known.map((flag) => `${capital(flag)}: ${FLAGS[flag]}.`).join(" ");
}

function badge(flag) {
  const item = document.createElement("li");
  item.textContent = flag;
  return item;
}

// Where a detector found something, in the file's own pixels.
function place(box) {
  const [left, top, right, bottom] = [box.x_min, box.y_min, box.x_max, box.y_max].map(Math.round);
  return badge(`${box.label} ${percent(box.prob)}: from (${left}, ${top}) to (${right}, ${bottom})`);
}

async function drawBoxes(item, boxes) {
  const own = await ownPicture(item.file), image = item.querySelector(".seen");
  if (!own) return;
  Object.assign(image, { src: own, alt: "the image, with what was found" });
  image.after(frames(image, boxes));
}

function show(item, answer) {
  const part = (selector) => item.querySelector(selector);
  if (!answer.ok) {
    item.classList.add("failed");
    part("h3").textContent = capital(answer.error);
    part(".remedy").textContent = sentence(answer.remedy);
    part(".picture").hidden = true;
    return;
  }
  part("h3").textContent = said(answer);
  const surest = Math.max(0, ...Object.values(answer.probs));
  if (answer.boxes && !answer.boxes.length && least !== null && surest > 0)
    part(".remedy").textContent = `The surest box (${percent(surest)}) is below this detector's threshold of ${percent(least)}.`;
  part(".boxes").replaceChildren(...(answer.boxes ?? []).map(place));
  part(".flags").replaceChildren(...answer.flags.map(badge));
  if (answer.flags.length) { // the flag is the heading then, and the label second
    item.classList.add("flagged");
    part("h3").before(part(".flags"));
  }
  const probs = Object.entries(answer.probs).sort((a, b) => b[1] - a[1]);
  part(".probs").replaceChildren(...probs.slice(0, SHOWN).map(bar));
  if (probs.length > SHOWN) {
    part(".more").hidden = false;
    part(".more summary").textContent = `${probs.length - SHOWN} more labels`;
    part(".more .probs").replaceChildren(...probs.slice(SHOWN).map(bar));
  }
  part(".seen").src = answer.preview;
  part(".seen").alt = "what the model saw";
  if (answer.boxes?.length) drawBoxes(item, answer.boxes);
  part(".enlarge").hidden = false;
  part(".enlarge").addEventListener("click", () => enlarge(item, answer));
  results.push({ item, answer });
  results.sort((a, b) => a.item.place - b.item.place); // several are asked at a time, and any may come first
  if (answer.saliency) part(".heat").src = answer.saliency;
  if (answer.note) part(".note").textContent = `${capital(answer.note)}.`;
  if (answer.saliency_problem) part(".no-heat").textContent = `Where the model looked is not shown: ${answer.saliency_problem}.`;
  part(".correct").hidden = !vocab.length || Boolean(answer.boxes);
  const choice = part(".correct select");
  if (several(answer)) {
    choice.multiple = true;
    part(".correct span").textContent = "Correct classes, all that are present (Ctrl or ⌘ adds one)";
    choice.replaceChildren(new Option("none of the labels", "(none)"));
  }
  choice.append(...vocab.map((label) => new Option(label, label)));
}

// What was chosen as correct; of "none" and a label, the label.
function correctOf(item) {
  const chosen = [...item.querySelector(".correct select").selectedOptions].map((option) => option.value);
  return (chosen.length > 1 ? chosen.filter((label) => label !== "(none)") : chosen).join("|");
}

// The file itself where browsers can show it, so in its true proportions; else what the model saw.
async function enlarge(item, answer) {
  const image = find("large"), own = await ownPicture(item.file);
  find("sheet").querySelector(".found")?.remove();
  image.src = own || answer.preview;
  if (own && answer.boxes) image.after(frames(image, answer.boxes));
  image.alt = item.querySelector(".file").textContent;
  find("reader").addEventListener("close", () => own && URL.revokeObjectURL(own), { once: true });
  for (const name of ["zoom", "brightness", "contrast"]) find(name).value = 100;
  await image.decode().catch(() => {}); // its proportions are known then
  look();
  find("reader").showModal();
}

function look() {
  const value = (name) => Number(find(name).value);
  const large = find("large"), whole = `min(100%, 75vh * ${large.naturalWidth / large.naturalHeight || 1})`; // fits at 100 %
  find("sheet").style.width = `calc(${value("zoom") / 100} * ${whole})`;
  large.style.filter = `brightness(${value("brightness")}%) contrast(${value("contrast")}%)`;
}

function saveAnswers() {
  const labels = Object.keys(results[0].answer.probs);
  const written = ({ label, prob, x_min, y_min, x_max, y_max }) => [label, prob, x_min, y_min, x_max, y_max].join(" ");
  const boxes = (answer) => (answer.boxes ? [answer.boxes.map(written).join("; ")] : []); // corners in the file's pixels
  const rows = results.map(({ item, answer }) => [item.file.name, [answer.label].flat().join("|"), ...labels.map((label) => answer.probs[label]), answer.flags.join("|"), answer.sketch ?? "", ...boxes(answer)]);
  const columns = ["path", "label", ...labels.map((label) => `prob_${label}`), "flags", "sketch"];
  save("answers.csv", [[...columns, ...(results[0].answer.boxes ? ["boxes"] : [])], ...rows]);
}

// What `medclf train --corrections` takes; files' names, as browsers tell no folder.
function saveCorrections() {
  const chosen = results.map(({ item }) => [item.file.name, correctOf(item)]).filter(([, label]) => label);
  unsaved = false;
  save("corrections.csv", [["path", "label", "mark", "new_label", "note"], ...chosen.map(([name, label]) => [name, "", "new label", label, ""])]);
}

// The least sure first, or as they came.
function order() {
  const sure = ({ answer }) => certainty(answer) - answer.flags.length;
  const shown = find("by-doubt").checked ? [...results].sort((a, b) => sure(a) - sure(b)) : results;
  find("answers").append(...shown.map(({ item }) => item));
}

// The batch as a table: name of the column, what a row sorts by there, what it shows.
const COLUMNS = [
  ["Flag", ({ answer }) => answer.flags.length, ({ answer }) => answer.flags.join(", ")],
  ["Label", ({ answer }) => said(answer), ({ answer }) => said(answer)],
  ["Confidence", ({ answer }) => certainty(answer), ({ answer }) => certain(answer)],
  ["Corrected to", ({ item }) => correctOf(item), ({ item }) => correctOf(item)],
  ["File", ({ item }) => item.file.name, ({ item }) => item.file.name],
];
let sortedBy = 0, falling = true;

function drawTable() {
  const [, key] = COLUMNS[sortedBy];
  const compare = (a, b) => (typeof key(a) === "number" ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true }));
  const rows = [...results].sort((a, b) => (falling ? compare(b, a) : compare(a, b)));
  find("table").querySelector("thead tr").replaceChildren(...COLUMNS.map(heading));
  find("table").querySelector("tbody").replaceChildren(...rows.map(tableRow));
  const failed = find("answers").querySelectorAll(".failed").length;
  find("unanswered").textContent = failed ? `${without(failed)}: see the list.` : "";
}

function heading([name], index) {
  const cell = document.createElement("th"), button = document.createElement("button");
  cell.scope = "col";
  if (index === sortedBy) cell.ariaSort = falling ? "descending" : "ascending";
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => {
    falling = index === sortedBy ? !falling : index === 0; // flags: the most first; all else: A or 0 first
    sortedBy = index;
    drawTable();
    find("table").querySelectorAll("th button")[index].focus();
  });
  cell.append(button);
  return cell;
}

function tableRow(result) {
  const row = document.createElement("tr");
  row.classList.toggle("doubted", result.answer.flags.length > 0);
  for (const [name, , shown] of COLUMNS) {
    const cell = row.insertCell();
    cell.classList.toggle("number", name === "Confidence");
    if (name !== "File") {
      cell.textContent = shown(result);
      continue;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = shown(result);
    button.addEventListener("click", () => goTo(result.item));
    cell.append(button);
  }
  return row;
}

function view() {
  const table = find("as-table").checked && results.length > 0;
  find("table").hidden = !table;
  find("by-doubt").disabled = table; // its headings sort the table
  find("answers").hidden = table;
  if (table) drawTable();
}

// From a row of the table to its image.
function goTo(item) {
  find("as-table").checked = false;
  view();
  item.scrollIntoView();
  item.querySelector(".enlarge").focus();
}

// Two pictures to try the page with: a gradient like a scope's, and a grey one like a radiograph's.
async function samples() {
  const drawn = [["#e8927c", "#5a1a14", 0.95], ["#f2f2f2", "#101010", 0.6]].map(([light, dark, width], index) => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    canvas.width = canvas.height = 256;
    pen.fillRect(0, 0, 256, 256);
    const fill = pen.createRadialGradient(110 + 30 * index, 120, 10, 128, 128, 128 * width);
    fill.addColorStop(0, light);
    fill.addColorStop(1, dark);
    pen.fillStyle = fill;
    pen.beginPath();
    pen.ellipse(128, 128, 120 * width, 120, 0, 0, 2 * Math.PI);
    pen.fill();
    pen.strokeStyle = dark;
    for (let ring = 1; ring < 4; ring++) pen.stroke(new Path2D(`M 128 ${128 - 30 * ring} Q ${128 + 60 * ring * width} 128 128 ${128 + 30 * ring}`));
    const named = (blob) => Object.assign(new File([blob], `drawn-${index + 1}.png`), { drawn: true }); // not of those that medclf watch looks at
    return new Promise((done) => canvas.toBlob((blob) => done(named(blob)), "image/png"));
  });
  take(await Promise.all(drawn));
}

function tell() {
  const failed = find("answers").querySelectorAll(".failed").length, lacking = failed ? ` ${without(failed)}.` : "";
  find("progress").textContent = asked ? `${answered - failed} of ${asked} answered.${lacking}` : "None yet.";
  find("clear").hidden = !asked || answered < asked;
  find("batch").hidden = !results.length || answered < asked;
  offerCorrections();
  explainFlags();
  view();
}

// Corrections can be saved once there are some; of boxes there are none.
function offerCorrections() {
  const button = find("save-corrections");
  button.hidden = find("corrections-use").hidden = results.every(({ item }) => item.querySelector(".correct").hidden);
  button.disabled = !results.some(({ item }) => correctOf(item));
}

async function next() {
  if (running >= AT_ONCE || !waiting.length) return;
  running++;
  const { file, item, fields } = waiting.shift();
  try {
    const answer = await ask(file, fields);
    if (answer.status === 401) {
      waiting.unshift({ file, item, fields });
      askForToken("The token is missing or wrong.");
      running--;
      return;
    }
    show(item, answer.ok || file.size ? answer : { ok: false, error: "The file is empty", remedy: "copy or save it again" });
  } catch {
    const isRead = await kindOf(file).then(() => true, () => false); // a folder is not, nor a file that has changed since
    show(item, isRead ? { ok: false, error: "The service cannot be reached", remedy: "is it still running?" }
      : { ok: false, error: "This is a folder, or a file that cannot be read", remedy: "choose the files themselves, once more if they have changed" });
  }
  running--;
  answered++;
  tell();
  next();
}

function take(files) {
  for (const file of files) {
    const item = find("answer").content.cloneNode(true).firstElementChild;
    item.querySelector(".file").textContent = file.name;
    [item.file, item.place] = [file, asked];
    item.querySelector("h3").textContent = "…";
    find("answers").append(item);
    waiting.push({ file, item, fields: fieldValues() }); // as they stand now, whatever is typed while it waits
    asked++;
  }
  tell();
  for (let lane = 0; lane < AT_ONCE; lane++) next();
}

function askForToken(problem) {
  find("key").hidden = false;
  find("key-problem").textContent = problem;
  find("token").focus();
}

function fact(name, value) {
  const term = document.createElement("dt"), text = document.createElement("dd");
  term.textContent = capital(name.replaceAll("_", " "));
  text.textContent = inWords(value);
  return [term, text];
}

// A list or a record of the card as a reader writes it: a, b; or name: a; other: b.
function inWords(value) {
  if (Array.isArray(value)) return value.map(inWords).join(", ");
  if (value === null || typeof value !== "object") return String(value);
  return Object.entries(value).map(([name, one]) => `${name.replaceAll("_", " ")}: ${inWords(one)}`).join("; ");
}

function classRow(label, sensitivity) {
  const row = document.createElement("tr"), name = document.createElement("th");
  name.scope = "row";
  name.textContent = label;
  row.append(name);
  row.insertCell().textContent = sensitivity;
  return row;
}

async function describe() {
  const response = await fetch("v1/model", { headers: headers() });
  if (response.status === 401) return askForToken(token ? "The token is wrong." : "");
  const model = await response.json();
  find("key").hidden = true;
  offersHeat = model.saliency;
  vocab = model.vocab;
  least = model.threshold;
  find("heat-choice").hidden = !offersHeat;
  find("fields").hidden = !(model.fields ?? []).length;
  find("fields").querySelector(".row").replaceChildren(...(model.fields ?? []).map(fieldInput));
  find("name").textContent = model.name;
  find("unit").hidden = !model.unit;
  find("unit").textContent = `This model was measured on all images of a ${model.unit} together. This page answers each image alone, which was not measured; see predict_unit in the API.`;
  document.title = `${model.name} · medclf`;
  const facts = Object.entries(model.card).filter(([, value]) => value !== null && value !== "");
  const { sensitivity: told, ...others } = Object.fromEntries(facts);
  const sensitivity = told && typeof told === "object" ? told : {}; // a card of one's own may say it in words
  if (typeof told === "string") others.sensitivity = told;
  find("classes").tBodies[0].replaceChildren(...model.vocab.map((label) => classRow(label, sensitivity[label] ?? "not stated")));
  if (!("intended use" in others)) others.intended_use ??= "not stated";
  find("facts").replaceChildren(...fact("trained", model.trained || "not stated"), ...Object.entries(others).flatMap((pair) => fact(...pair)), ...fact("hash", model.hash));
  find("card").hidden = false;
  for (let lane = 0; lane < AT_ONCE; lane++) next();
}

function meet() {
  described = describe().catch(console.error); // whoever drops an image then hears why
}

find("key").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  meet();
});
find("files").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
find("heat").addEventListener("change", (event) => find("answers").classList.toggle("answers-plain", !event.target.checked));
find("clear").addEventListener("click", () => {
  if (unsaved && !confirm("The corrections have not been downloaded. Clear them all the same?")) return;
  unsaved = false;
  find("answers").replaceChildren();
  asked = answered = results.length = 0;
  tell();
  find("files").focus();
});
find("save-answers").addEventListener("click", saveAnswers);
find("save-corrections").addEventListener("click", saveCorrections);
find("answers").addEventListener("change", () => {
  offerCorrections();
  unsaved = !find("save-corrections").disabled;
});
addEventListener("beforeunload", (event) => unsaved && event.preventDefault());
find("by-doubt").addEventListener("change", order);
find("as-table").addEventListener("change", view);
find("samples").addEventListener("click", samples);
find("reader").addEventListener("input", look);
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take([...event.clipboardData.files]);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget || find("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  take([...event.dataTransfer.files]);
});
find("answers").classList.add("answers-plain");
meet();
