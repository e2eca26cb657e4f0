// The rows, what is chosen of them, and what follows from that.
const $ = (id) => document.getElementById(id);
const DATA = JSON.parse($('data').textContent);
const K = DATA.vocab.length;
const [ONE, MANY] = DATA.counted; // what a row is: an image, or a patient, study or series
const PAGE = 60; // images shown at once
const MARKS = ['label wrong', 'unsure', 'poor image', 'new label'];
const NONE = '(none)'; // of an image that may have several labels, and has none

const state = {
  view: DATA.multi ? 0 : -1, // -1: all labels; else the label that is read against the rest
  threshold: 0.5,
  prevalence: null,
  part: 0,
  label: -1,
  columns: {}, // name -> code
  low: 0,
  high: 1,
  group: 'wrong', // wrong, suspect, right, all, marked
  cell: null, // [actual, predicted] of the matrix
  order: 'sure',
  pictured: false,
  search: '', // part of a file name
  cells: 'row', // row, column, count: what a cell's second line is
  classes: 'given', // given, confused: their order in the matrix
  shown: PAGE,
};

/** An element with attributes, listeners (on...) and children; text is only ever set as text. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A share as a percentage; nothing short of all reads as 100 %, nothing above none as 0 %. */
function percent(share, digits = 1) {
  if (share === null || share === undefined) return '–';
  if (share === 0 || share === 1) return `${100 * share} %`;
  const step = 10 ** -digits; // in percent
  if (share < step / 200) return `<${step} %`;
  return share >= 1 - step / 200 ? `>${100 - step} %` : `${(100 * share).toFixed(digits)} %`;
}

const count = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, '\u202f');
const nameOf = (row) => (DATA.hidden ? `row ${row + 1}` : DATA.names[row]);
const fileOf = (row) => (DATA.hidden ? nameOf(row) : DATA.names[row].split('/').pop());
const prob = (row, label) => DATA.probs[row * K + label];
const has = (value, label) => (DATA.multi ? value.includes(label) : value === label);
const known = (row) => (DATA.multi ? DATA.actual[row] !== null : DATA.actual[row] >= 0);

const judged = (row, label) => known(row) && !(DATA.unjudged[row] || []).includes(label);

function labelText(value) {
  if (value === null || value === -1) return 'unknown';
  if (!DATA.multi) return DATA.vocab[value];
  return value.map((label) => DATA.vocab[label]).join(', ') || 'none';
}

/** The names of the matrix's rows and columns in this view. */
function sides() {
  if (state.view < 0) return DATA.vocab;
  const rest = !DATA.multi && K === 2 ? DATA.vocab[1 - state.view] : `not ${DATA.vocab[state.view]}`;
  return [rest, DATA.vocab[state.view]];
}

// actual, predicted and confidence of every row as the view reads them: places in sides(), -1 where unknown
const seen = { actual: new Int32Array(DATA.n), pred: new Int32Array(DATA.n), sure: new Float64Array(DATA.n) };

function readRows() {
  const { view, threshold } = state;
  for (let row = 0; row < DATA.n; row++) {
    if (view >= 0) {
      const p = prob(row, view);
      seen.actual[row] = judged(row, view) ? Number(has(DATA.actual[row], view)) : -1;
      seen.pred[row] = Number(p >= threshold);
      seen.sure[row] = p >= threshold ? p : 1 - p;
    } else {
      seen.actual[row] = DATA.actual[row];
      seen.pred[row] = DATA.pred[row];
      seen.sure[row] = prob(row, DATA.pred[row]);
    }
  }
}

const isWrong = (row) => seen.actual[row] >= 0 && seen.actual[row] !== seen.pred[row];

function passes(row) {
  if (state.part >= 0 && DATA.part[row] !== state.part) return false;
  if (state.label >= 0 && !(known(row) && has(DATA.actual[row], state.label))) return false;
  if (seen.sure[row] < state.low - 1e-9 || seen.sure[row] > state.high + 1e-9) return false;
  if (state.search && !nameOf(row).toLowerCase().includes(state.search.toLowerCase())) return false;
  return Object.entries(state.columns).every(([name, code]) => DATA.columns[name][1][row] === code);
}

const suspects = new Set(DATA.suspects); // the most doubtful first
const inGroup = {
  all: () => true,
  wrong: isWrong,
  suspect: (row) => suspects.has(row),
  right: (row) => seen.actual[row] >= 0 && !isWrong(row),
  marked: (row) => marks.has(row),
};
const orders = {
  sure: (a, b) => seen.sure[b] - seen.sure[a] || a - b,
  unsure: (a, b) => seen.sure[a] - seen.sure[b] || a - b,
  loss: (a, b) => (DATA.loss[b] ?? -1) - (DATA.loss[a] ?? -1) || a - b,
  name: (a, b) => (DATA.hidden ? a - b : DATA.names[a] < DATA.names[b] ? -1 : 1),
};

/** What the filters leave: the matrix, the number of each group, and the list of rows to show. */
function look() {
  const names = sides(), matrix = names.map(() => new Array(names.length).fill(0));
  const groups = { wrong: 0, suspect: 0, right: 0, all: 0, marked: 0 }, list = [];
  for (let row = 0; row < DATA.n; row++) {
    if (!passes(row)) continue;
    if (seen.actual[row] >= 0) matrix[seen.actual[row]][seen.pred[row]]++;
    for (const name of Object.keys(groups)) if (inGroup[name](row)) groups[name]++;
    const { cell } = state;
    if (cell ? seen.actual[row] !== cell[0] || seen.pred[row] !== cell[1] : !inGroup[state.group](row)) continue;
    if (state.pictured && DATA.place[row] < 0) continue;
    list.push(row);
  }
  return { names, matrix, groups, list: list.sort(orders[state.order]) };
}

// Pictures lie in chunks, each in a script element of its own that is read when its first picture is shown.
const chunks = new Map();

/** [thumbnail, larger picture, maps of the predicted and the actual label, 16 bits] of a row; empty where there is none. */
function pictures(row) {
  const place = DATA.place[row];
  if (place < 0) return ['', '', '', '', ''];
  const index = Math.floor(place / DATA.chunk);
  if (!chunks.has(index)) chunks.set(index, JSON.parse($(`pictures-${index}`).textContent));
  return chunks.get(index)[place % DATA.chunk];
}

/** Why a row has no picture. */
const absence = (row) => DATA.absence[-1 - DATA.place[row]] ?? 'No picture';

// Marks: row -> {mark, new_label, note}; kept in this browser too where it allows that.
const STORE = `medclf-review-${document.body.dataset.identity}`;
const marks = new Map(readStore());
let undelivered = false; // marks that were not downloaded yet

function isLabel(text) {
  const names = DATA.multi ? text.split('|') : [text];
  return names.every((name) => DATA.vocab.includes(name) || (DATA.multi && name === NONE));
}

function readStore() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE) || '[]');
    const fits = ([row, entry]) => row >= 0 && row < DATA.n && (!entry.new_label || isLabel(entry.new_label));
    return Array.isArray(kept) ? kept.filter(fits) : [];
  } catch {
    return []; // a page opened from disk may have no storage
  }
}

function keepMark(row, entry) {
  if (entry.mark || entry.new_label || entry.note || entry.kept) marks.set(row, entry);
  else marks.delete(row);
  undelivered = marks.size > 0;
  try {
    localStorage.setItem(STORE, JSON.stringify([...marks]));
  } catch {
    // the download is what counts
  }
}

// Marks of another tab of this page come here as well, since either keeps all of them.
window.addEventListener('storage', (event) => {
  if (event.key !== STORE) return;
  marks.clear();
  for (const [row, entry] of readStore()) marks.set(row, entry);
  update();
});

const markOf = (row) => marks.get(row) || { mark: '', new_label: '', note: '' };
const lacksLabel = (entry) => entry.mark === 'new label' && !entry.new_label;

/** A CSV field: quoted, and never a formula for a spreadsheet to run. */
function csvField(text) {
  const value = String(text ?? '');
  return `"${(/^[=+\-@\t\r]/.test(value) ? `'${value}` : value).replaceAll('"', '""')}"`;
}

function reviewCsv() {
  const lines = [[DATA.hidden ? 'row' : 'path', 'label', 'mark', 'new_label', 'note']];
  for (const row of [...marks.keys()].sort((a, b) => a - b)) {
    const { mark, new_label: newLabel, note } = marks.get(row);
    const names = known(row) ? [DATA.actual[row]].flat().map((label) => DATA.vocab[label]) : [];
    lines.push([DATA.hidden ? row + 1 : nameOf(row), names.join('|'), mark, newLabel, note]);
  }
  return lines.map((line) => line.map(csvField).join(',')).join('\r\n') + '\r\n';
}
