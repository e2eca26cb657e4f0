// The matrix, its numbers, the filters and the images.
const DENSE = 8, CLOSE = 5; // above so many labels the matrix takes the page's width, with smaller cells; has smaller cells
const MOST = 100; // classes that the matrix shows: a browser cannot draw a million cells
let current = look0(); // what look() gave last

function look0() {
  readRows();
  return look();
}

function moveFocus(event, nodes, columns) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const place = nodes.indexOf(document.activeElement);
  if (step === undefined || place < 0 || !nodes[place + step]) return;
  event.preventDefault();
  nodes[place + step].focus();
}

/** The order of the classes in the matrix: as given, or each beside the one that it is most confused with. */
function classOrder({ names, matrix }) {
  const left = names.map((_, i) => i);
  if (state.classes === 'given' || names.length < 3) return left;
  const confusion = (i, j) => matrix[i][j] + matrix[j][i];
  const errors = (i) => left.reduce((sum, j) => sum + (i === j ? 0 : confusion(i, j)), 0);
  const order = left.splice(left.indexOf([...left].sort((a, b) => errors(b) - errors(a))[0]), 1);
  while (left.length) {
    const next = [...left].sort((a, b) => confusion(order.at(-1), b) - confusion(order.at(-1), a))[0];
    order.push(...left.splice(left.indexOf(next), 1));
  }
  return order;
}

/** Of many classes those with most errors here. */
function shownOf(names, matrix, totals) {
  if (names.length <= MOST) return new Set(names.keys());
  const errors = matrix.map((row, i) => row.reduce((a, b) => a + b, 0) + totals[i] - 2 * row[i]);
  return new Set([...names.keys()].sort((a, b) => errors[b] - errors[a]).slice(0, MOST));
}

function drawMatrix() {
  const { names, matrix } = current, body = el('tbody');
  const sum = (list) => list.reduce((a, b) => a + b, 0), totals = names.map(() => 0), column = (j) => totals[j];
  for (const row of matrix) row.forEach((n, j) => { totals[j] += n; });
  const shown = shownOf(names, matrix, totals), order = classOrder(current).filter((i) => shown.has(i));
  for (const i of order) {
    const row = matrix[i], total = sum(row);
    const line = el('tr', {}, el('th', { scope: 'row' }, el('span', { class: 'label' }, names[i])));
    for (const j of order) {
      const n = row[j], of = state.cells === 'column' ? column(j) : total;
      const share = of ? n / of : 0, heat = n ? `${i === j ? 'good' : DATA.ordinal && Math.abs(i - j) === 1 ? 'near' : 'bad'}${Math.round(share * 10)}` : 'zero';
      const chosen = Boolean(state.cell) && state.cell[0] === i && state.cell[1] === j;
      line.append(el('td', { class: heat }, el('button', {
        type: 'button', title: `${names[i]} predicted as ${names[j]}`, 'aria-pressed': String(chosen), 'data-cell': `${i},${j}`,
        onclick: () => chooseCell(i, j),
      }, el('b', {}, count(n)), el('small', {}, n && state.cells !== 'count' ? percent(share, 0) : ''),
      el('span', { class: 'hide' }, ` ${MANY}: actual ${names[i]}, predicted ${names[j]}`))));
    }
    line.append(el('td', { class: 'total' }, count(total)));
    body.append(line);
  }
  body.append(el('tr', {}, el('th', { scope: 'row', class: 'total-head' }, 'all'),
    ...order.map((j) => el('td', { class: 'total' }, count(column(j)))), el('td', { class: 'total' }, count(sum(matrix.flat())))));
  const table = el('table', { class: `matrix${names.length > 4 ? ' many' : ''}${names.length > DENSE ? ' dense' : names.length > CLOSE ? ' close' : ''}` },
    el('thead', {}, el('tr', {}, el('td', { class: 'corner' }, 'actual \\ predicted'),
      ...order.map((j) => el('th', { scope: 'col' }, el('span', { class: 'label', title: names[j] }, names[j]))),
      el('th', { scope: 'col', class: 'total-head' }, 'all'))),
    body);
  table.addEventListener('keydown', (event) => moveFocus(event, [...table.querySelectorAll('button')], order.length));
  const focused = document.activeElement?.dataset?.cell;
  const rest = `${count(order.length)} of ${count(names.length)} classes are shown: those with most errors. Totals are of all.`;
  $('matrix').replaceChildren(table, ...(order.length < names.length ? [el('p', { class: 'note' }, rest)] : []));
  if (focused) table.querySelector(`[data-cell="${focused}"]`)?.focus();
}

function chooseCell(i, j) {
  const same = state.cell && state.cell[0] === i && state.cell[1] === j;
  state.cell = same ? null : [i, j];
  state.group = 'all';
  update();
  if (!same && matchMedia('(max-width: 959px)').matches) toImages();
}

/** On a narrow screen the images lie below the matrix. */
function toImages() {
  requestAnimationFrame(() => {
    $('gallery-title').focus({ preventScroll: true });
    $('gallery-title').scrollIntoView({ block: 'start', behavior: 'instant' });
  });
}

function numberRow(name, metric, text) {
  const end = (share) => (100 * share).toFixed(1).replace('100.0', '100');
  const ends = metric.low === null ? '' : `${end(metric.low)} to ${end(metric.high)} %`;
  return el('tr', {}, el('th', { scope: 'row' }, name), el('td', { class: 'number' }, percent(metric.value)),
    el('td', { class: 'number' }, ends), el('td', { class: 'number' }, text ?? (metric.k === undefined ? '' : `${count(metric.k)} / ${count(metric.n)}`)));
}

/**
 * A share as it may be shown. Where several images are of one patient, or near-duplicates, an interval that counts images
 * is too narrow: the run's own stands for all images of its partition, and none for a selection.
 */
function ownInterval(key, share) {
  if (!DATA.grouped) return share;
  const all = state.part === 0 && state.label < 0 && !state.search && !Object.keys(state.columns).length && state.low <= 0 && state.high >= 1;
  const own = state.view < 0 ? DATA.reported[key] : DATA.reported[DATA.vocab[state.view]]?.[key];
  const same = all && own && own.n === share.n && Math.abs(own.value - share.value) < 1e-6;
  return { ...share, low: same ? own.low : null, high: same ? own.high : null };
}

function drawNumbers() {
  const { matrix } = current, rows = [];
  const right = matrix.reduce((sum, row, i) => sum + row[i], 0);
  const total = matrix.flat().reduce((a, b) => a + b, 0);
  rows.push(numberRow('Accuracy', ownInterval('accuracy', proportion(right, total))));
  let sentence = '';
  if (state.view >= 0) {
    const [[tn, fp], [fn, tp]] = matrix, here = total ? (tp + fn) / total : 0;
    const prevalence = state.prevalence ?? here;
    const moved = state.prevalence === null ? { ppv: proportion(tp, tp + fp), npv: proportion(tn, tn + fn) }
      : predictive(tp, fn, fp, tn, prevalence);
    const note = state.prevalence === null ? undefined : `at ${percent(prevalence)}`;
    rows.push(numberRow('Sensitivity', ownInterval('sensitivity', proportion(tp, tp + fn))),
      numberRow('Specificity', ownInterval('specificity', proportion(tn, tn + fp))),
      numberRow('PPV', ownInterval('ppv', moved.ppv), note), numberRow('NPV', ownInterval('npv', moved.npv), note));
    if (state.prevalence !== null && tp + fn >= 10 && tn + fp >= 10) { // a rate of fewer is no count of thousands
      const missed = Math.round(1000 * prevalence * fn / (tp + fn));
      const called = Math.round(1000 * (1 - prevalence) * fp / (tn + fp));
      sentence = `Of 1\u202f000 ${MANY}, ${Math.round(1000 * prevalence)} with ${sides()[1]}: ${missed} missed, ${called} false alarms.`;
    }
  }
  $('numbers').replaceChildren(...rows);
  $('per-thousand').textContent = sentence;
}

function bar(label, share, css, role) {
  const fill = el('span', { class: `fill ${css}` });
  fill.style.width = `${100 * share}%`;
  return el('span', { class: 'prob' }, el('span', { class: 'prob-label', title: label }, label, role ? el('i', {}, ` ${role}`) : null),
    el('span', { class: 'track' }, fill), el('span', { class: 'prob-share' }, percent(share)));
}

/** The bars of a card: what was predicted, and what it is. */
function bars(row) {
  if (state.view >= 0) return [bar(DATA.vocab[state.view], prob(row, state.view), isWrong(row) ? 'wrong' : '')];
  const said = DATA.pred[row], actual = DATA.actual[row], wrong = isWrong(row);
  const list = [bar(DATA.vocab[said], prob(row, said), wrong ? 'wrong' : '')];
  if (wrong) list.push(bar(DATA.vocab[actual], prob(row, actual), ''));
  return list;
}

function picture(row, source, css, saliency = pictures(row)[2]) {
  const names = sides();
  const alt = `${fileOf(row)}: actual ${names[seen.actual[row]] ?? 'unknown'}, predicted ${names[seen.pred[row]]}`;
  if (!source) return el('span', { class: `${css} nothing` }, absence(row));
  const fit = el('span', { class: 'fit' });
  const shape = (event) => fit.style.setProperty('--ratio', event.target.naturalWidth / event.target.naturalHeight);
  fit.append(el('img', { src: source, alt, loading: 'lazy', decoding: 'async', onload: shape }));
  if (saliency) fit.append(el('img', { src: saliency, alt: '', class: 'saliency', loading: 'lazy' }));
  return el('span', { class: css }, fit);
}

function verdict(row) {
  const names = sides(), wrong = isWrong(row);
  if (seen.actual[row] < 0) return el('span', { class: 'verdict' }, `? ${names[seen.pred[row]]}`);
  return el('span', { class: `verdict ${wrong ? 'wrong' : 'right'}` }, wrong
    ? `✕ ${names[seen.actual[row]]} → ${names[seen.pred[row]]}` : `✓ ${names[seen.actual[row]]}`);
}

function makeCard(row, open = () => openDialog(row, current.list), said = verdict(row)) {
  const { mark, new_label: newLabel, kept } = markOf(row), told = newLabel ? `${mark}: ${newLabel}` : mark || (kept ? 'label kept' : '');
  return el('li', {}, el('button', { type: 'button', class: 'card', 'data-row': row, onclick: open },
    picture(row, pictures(row)[0], 'thumb'),
    el('span', { class: 'name', title: nameOf(row) }, fileOf(row)), said, ...bars(row),
    told ? el('span', { class: 'mark' }, told) : null));
}

function galleryTitle() {
  const { names, list } = current, n = count(list.length);
  if (state.cell) return `${names[state.cell[0]]} predicted as ${names[state.cell[1]]}: ${n}`;
  return { wrong: `Errors: ${n}`, suspect: `Doubtful labels: ${n}`, right: `Correct: ${n}`, all: `All ${MANY}: ${n}`, marked: `Marked: ${n}` }[state.group];
}

function drawGallery() {
  const { list, groups } = current, gallery = $('gallery'), focused = document.activeElement;
  const place = gallery.contains(focused) ? [...gallery.children].indexOf(focused.closest('li')) : -1;
  $('gallery-title').textContent = galleryTitle();
  for (const button of document.querySelectorAll('[data-group]')) {
    button.setAttribute('aria-pressed', String(!state.cell && button.dataset.group === state.group));
    button.querySelector('.n').textContent = count(groups[button.dataset.group]);
  }
  gallery.replaceChildren(...list.slice(0, state.shown).map((row) => makeCard(row)));
  if (place >= 0) { // the same image, or where it has left the list the one in its place
    const same = gallery.querySelector(`[data-row="${focused.dataset.row}"]`);
    (same ?? gallery.children[Math.min(place, gallery.children.length - 1)]?.firstChild)?.focus();
  }
  $('nothing').hidden = list.length > 0;
  $('more').hidden = list.length <= state.shown;
  $('more').textContent = `Show ${Math.min(PAGE, list.length - state.shown)} more of ${count(list.length - state.shown)}`;
}

let queued = 0;

function draw() {
  queued = 0;
  readRows();
  current = look();
  drawMatrix();
  drawNumbers();
  drawGallery();
  if (tab === 'labels') drawQueue();
  writeAddress();
}

/** Draw again after a change of the state, once a frame. */
function update({ keepLength = false } = {}) {
  if (!keepLength) state.shown = PAGE;
  queued ||= requestAnimationFrame(draw);
}

function option(value, text, chosen) {
  return el('option', { value, selected: chosen }, text);
}

function field(label, control) {
  return el('label', { class: 'field' }, el('span', {}, label), control);
}

const controls = {}; // the filters' elements by name

function makeFilters() {
  const select = (options, change) => el('select', { onchange: (event) => { change(Number(event.target.value)); state.cell = null; update(); } }, ...options);
  const box = $('filters');
  if (DATA.parts.length > 1) {
    controls.part = select([...DATA.part_names.map((name, i) => option(i, name, i === 0)), option(-1, 'all')], (v) => { state.part = v; });
    box.append(field('Partition', controls.part));
  }
  controls.label = select([option(-1, 'any'), ...DATA.vocab.map((name, i) => option(i, name))], (v) => { state.label = v; });
  box.append(field('Actual label', controls.label));
  controls.columns = {};
  for (const [name, [values]] of Object.entries(DATA.columns)) {
    controls.columns[name] = select([option(-2, 'any'), ...values.map((v, i) => option(i, v)), option(-1, '(blank)')], (v) => {
      if (v === -2) delete state.columns[name]; else state.columns[name] = v;
    });
    box.append(field(name, controls.columns[name]));
  }
  const end = (key, start) => el('input', {
    type: 'number', min: 0, max: 100, step: 1, value: start, 'aria-label': `Confidence ${key === 'low' ? 'from' : 'to'}, percent`, inputmode: 'numeric',
    oninput: (event) => { state[key] = event.target.value === '' ? start / 100 : Number(event.target.value) / 100; update(); },
  });
  [controls.low, controls.high] = [end('low', 0), end('high', 100)];
  box.append(el('div', { class: 'field', role: 'group', 'aria-label': 'Confidence' }, el('span', {}, 'Confidence, %'),
    el('span', { class: 'ends' }, controls.low, '–', controls.high)));
  controls.search = el('input', { type: 'search', id: 'search', size: 14, oninput: (event) => { state.search = event.target.value.trim(); update(); } });
  box.append(field(DATA.hidden ? 'Row' : 'File name', controls.search));
  box.append(el('button', { type: 'button', id: 'reset', onclick: () => { resetFilters(); showControls(); update(); } }, 'Reset'));
}

function resetFilters() {
  Object.assign(state, { part: 0, label: -1, columns: {}, low: 0, high: 1, search: '', cell: null, pictured: false, order: 'sure' });
  readRows();
  state.group = usualGroup();
}

/** The controls as the state has them. */
function showControls() {
  if (controls.part) controls.part.value = state.part;
  controls.label.value = state.label;
  for (const [name, control] of Object.entries(controls.columns)) control.value = state.columns[name] ?? -2;
  controls.low.value = 100 * state.low;
  controls.high.value = 100 * state.high;
  controls.search.value = state.search;
  $('view').value = state.view;
  $('prevalence').value = state.prevalence === null ? '' : 100 * state.prevalence;
  $('order').value = state.order;
  $('pictured').checked = state.pictured;
}

const FINE = 0.05; // nearer than that to 0 or 1 the slider goes in thousandths
const usualThreshold = (view) => DATA.thresholds[DATA.vocab[view]] ?? 0.5;

function setThreshold(value) {
  state.threshold = value;
  const fine = Math.min(value, 1 - value) < FINE;
  $('threshold').step = fine ? 0.001 : 0.01;
  $('threshold').value = value;
  $('threshold-out').textContent = value > 0 && value < 0.001 ? value.toPrecision(2) : value.toFixed(fine ? 3 : 2);
  update();
}

function setView(view) {
  state.view = view;
  state.cell = null;
  $('one-label').hidden = view < 0;
  if (view >= 0) setThreshold(usualThreshold(view));
  update();
}

function makeControls() {
  const first = DATA.multi ? 0 : -1;
  const options = DATA.vocab.map((name, i) => option(i, DATA.multi ? name : `${name} against the rest`, i === first));
  if (!DATA.multi) options.unshift(option(-1, 'All classes', true));
  $('view').append(...options);
  $('view').addEventListener('change', (event) => setView(Number(event.target.value)));
  $('threshold').addEventListener('input', (event) => setThreshold(Number(event.target.value)));
  $('prevalence').addEventListener('input', (event) => {
    const value = Number(event.target.value) / 100;
    state.prevalence = event.target.value !== '' && value > 0 && value < 1 ? value : null;
    update();
  });
  for (const name of ['cells', 'classes']) $(name).addEventListener('change', (event) => { state[name] = event.target.value; update(); });
  $('to-matrix').addEventListener('click', () => { $('matrix').scrollIntoView({ behavior: 'instant' }); $('matrix').focus(); });
  $('order').addEventListener('change', (event) => { state.order = event.target.value; update(); });
  $('more').addEventListener('click', () => {
    const place = state.shown;
    state.shown += PAGE;
    drawGallery();
    $('gallery').children[place]?.firstChild.focus();
  });
  for (const button of document.querySelectorAll('[data-group]')) {
    button.addEventListener('click', () => { state.group = button.dataset.group; state.cell = null; update(); });
  }
  $('pictured-field').hidden = DATA.place.every((place) => place >= 0) || DATA.place.every((place) => place < 0);
  $('pictured').addEventListener('change', (event) => { state.pictured = event.target.checked; update(); });
  $('gallery').addEventListener('keydown', (event) => {
    const cards = [...$('gallery').querySelectorAll('button')];
    const columns = getComputedStyle($('gallery')).gridTemplateColumns.split(' ').length;
    moveFocus(event, cards, columns);
    const row = event.target.closest('[data-row]')?.dataset.row;
    if (row !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) markByKey(event, Number(row));
  });
  if (!current.groups.wrong) state.group = 'all';
  setView(first);
}
