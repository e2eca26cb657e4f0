// What an answer says, in words, numbers and boxes, and how it is saved; it knows nothing of the page.

export async function kindOf(file) {
  const head = new Uint8Array(await file.slice(0, 132).arrayBuffer());
  const starts = (...bytes) => bytes.every((byte, index) => head[index] === byte);
  if (starts(0x89, 0x50, 0x4e, 0x47)) return "image/png";
  if (starts(0xff, 0xd8, 0xff)) return "image/jpeg";
  if (starts(0x49, 0x49) || starts(0x4d, 0x4d)) return "image/tiff";
  if (starts(0x42, 0x4d)) return "image/bmp";
  if (starts(0x52, 0x49, 0x46, 0x46)) return "image/webp";
  return "application/octet-stream"; // DICOM with its preamble or without, or NIfTI: the service looks
}

// What the service says; of an answer that is none of its own (a proxy's page), what the status means.
export async function told(response) {
  const body = await response.json().catch(() => null);
  if (body && (response.ok || body.error)) return body;
  const meaning = {
    413: ["The file is too large for the server in front of the service", "send a smaller file, or raise that server's limit"],
    429: ["Too many requests", "wait a moment, then try again"],
    502: ["The service does not answer the server in front of it", "it may be starting: try again in a minute"],
    503: ["The service is not available", "it may be starting: try again in a minute"],
    504: ["The service took too long to answer", "try again later"],
  }[response.status] || ["The answer is not the service's own", "is there a proxy or a login page in between?"];
  return { ok: false, error: `${meaning[0]} (status ${response.status})`, remedy: meaning[1] };
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// A remark as a sentence; what asks keeps its question mark.
export const sentence = (text) => (text ? capital(text) + (/[.?!]$/.test(text) ? "" : ".") : "");

export function percent(value) {
  if (value > 0.999 && value < 1) return "> 99.9 %";
  if (value < 0.001 && value > 0) return "< 0.1 %";
  return `${(100 * value).toFixed(1)} %`;
}

// What a flag says, for who meets one.
export const FLAGS = {
  "unsure": "the confidence is below this model's limit, from which on its answers were reliable enough in validation",
  "not like the training images": "the model has seen nothing like this image, so its confidence means little",
  "fields unknown": "what is known besides the image was left out",
  "fields unlike training": "a value besides the image lies outside what the model was trained on",
};

// Which labels were given, in words.
export const said = ({ label, boxes }) => [label].flat().join(", ") || (boxes ? "no finding" : "none of the labels");

// Whether an image may have several labels; a detector lists its findings, too.
export const several = ({ label, boxes }) => Array.isArray(label) && !boxes;

// The probability of the label; of several, the least certain one counts. A detector without a finding says nothing.
export function certainty(answer) {
  const probs = Object.entries(answer.probs);
  if (several(answer)) return Math.min(...probs.map(([label, p]) => (answer.label.includes(label) ? p : 1 - p)));
  if (answer.boxes) return answer.boxes.length ? Math.max(...probs.map(([, p]) => p)) : 0;
  return answer.probs[answer.label]; // a threshold may have chosen another than the likeliest
}

export const certain = (answer) => (answer.boxes && !answer.boxes.length ? "–" : percent(certainty(answer)));

// The boxes over a picture of the file itself, whose pixels they count in.
export function frames(image, boxes) {
  const space = "http://www.w3.org/2000/svg", drawn = document.createElementNS(space, "svg");
  drawn.classList.add("found");
  drawn.setAttribute("aria-hidden", "true"); // they are told in words as well
  for (const box of boxes) {
    const frame = document.createElementNS(space, "rect");
    for (const [name, value] of [["x", box.x_min], ["y", box.y_min], ["width", box.x_max - box.x_min], ["height", box.y_max - box.y_min]])
      frame.setAttribute(name, value);
    drawn.append(frame);
  }
  const fit = () => drawn.setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  image.addEventListener("load", fit);
  fit();
  return drawn;
}

// The file's own address, where browsers can show it; else none.
export async function ownPicture(file) {
  return /^image\/(png|jpeg|bmp|webp)$/.test(await kindOf(file)) ? URL.createObjectURL(file) : "";
}

// A field of CSV: quoted, and never a formula for a spreadsheet to run.
const field = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : String(text)).replaceAll('"', '""')}"`;

export function save(name, lines) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.map((line) => line.map(field).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export const without = (n) => `${n} ${n === 1 ? "file has" : "files have"} no answer`;
