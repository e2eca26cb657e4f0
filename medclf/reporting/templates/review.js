// One image at full size, and the marks of a second read.
const dialog = $('dialog');
let open = { row: 0, list: [], back: [], queue: false };
const past = []; // [row, its mark before] of each change, to undo

function openDialog(row, list, { back = [], queue = false } = {}) {
  open = { row, list, back, queue };
  drawDialog();
  if (!dialog.open) dialog.showModal();
  writeAddress();
  atTop();
}

function step(by) {
  const next = open.list[open.list.indexOf(open.row) + by];
  if (next === undefined) return;
  open.row = next;
  drawDialog();
  writeAddress();
  if (open.queue) atTop();
}

/** Another image is shown from its top on, with what is suggested; Enter is about it then. */
function atTop() {
  if (open.queue) $('accept').focus({ preventScroll: true });
  dialog.scrollTop = 0;
}

function fact(name, value) {
  return value === '' || value === null || value === undefined ? [] : [el('dt', {}, name), el('dd', {}, String(value))];
}

function facts(row) {
  const loss = DATA.loss[row];
  const list = [
    ...fact('Actual', labelText(DATA.actual[row])),
    ...fact('Not judged', (DATA.unjudged[row] || []).map((label) => DATA.vocab[label]).join(', ')),
    ...fact('Predicted', labelText(DATA.pred[row])),
    ...fact('Loss', loss === null ? '' : loss.toPrecision(3)),
    ...fact('Partition', DATA.part_names[DATA.part[row]]),
    ...fact('Judged by', DATA.judges[row]),
    ...fact('Patient', DATA.patient[row]),
  ];
  for (const [name, [values, codes]] of Object.entries(DATA.columns)) list.push(...fact(name, values[codes[row]]));
  if ((DATA.saliency || DATA.no_maps) && pictures(row)[0] && !pictures(row)[2]) list.push(...fact('Where it looked', DATA.no_maps || 'no map was made of this image'));
  if (pictures(row)[4]) list.push(...fact('Depth', 'more than 8 bits: level and window use them all'));
  return list;
}

function allBars(row) {
  const order = DATA.vocab.map((_, i) => i).sort((a, b) => prob(row, b) - prob(row, a));
  return order.map((i) => {
    const isActual = known(row) && has(DATA.actual[row], i), said = has(DATA.pred[row], i);
    const role = [isActual ? 'actual' : '', said ? 'predicted' : ''].filter(Boolean).join(', ');
    return bar(DATA.vocab[i], prob(row, i), said && !isActual && judged(row, i) ? 'wrong' : '', role);
  });
}

function linked(title, links, firstIs = '') {
  if (!links?.length) return null;
  const cards = links.map((link, place) => {
    const [name, label] = link >= 0 ? [nameOf(link), labelText(DATA.actual[link])] : DATA.outside[-1 - link];
    const source = link >= 0 ? pictures(link)[0] : DATA.beside[-1 - link];
    const missing = link >= 0 ? absence(link) : DATA.missing[-1 - link] || 'No picture';
    const inside = [source ? el('img', { src: source, alt: '' }) : el('span', { class: 'nothing' }, missing),
      el('span', { class: 'name', title: name }, name.split('/').pop()), label ? el('span', {}, label) : null,
      firstIs && !place ? el('b', { class: 'decided' }, firstIs) : null];
    const larger = link >= 0 ? pictures(link)[1] || source : source;
    const compare = larger ? el('button', {
      type: 'button', class: 'compare', onclick: () => { drawPicture(open.row, { source: larger, name, label }); $('dialog-picture').scrollIntoView({ block: 'nearest' }); },
    }, 'Compare') : null;
    if (link < 0 || link === open.row) return el('li', {}, el('span', { class: 'near' }, ...inside), compare);
    return el('li', {}, el('button', {
      type: 'button', class: 'near', onclick: () => openDialog(link, open.list, { back: [...open.back, open.row] }),
    }, ...inside), compare);
  });
  return el('section', {}, el('h3', {}, title), el('ul', { class: 'linked' }, ...cards));
}

function drawDialog() {
  const { row, list, back } = open, place = list.indexOf(row);
  $('dialog-title').textContent = nameOf(row);
  Object.assign(shot, { zoom: 1, x: 0, y: 0 });
  drawPicture(row);
  $('dialog-facts').replaceChildren(...facts(row));
  $('dialog-probs').replaceChildren(...allBars(row));
  $('dialog-linked').replaceChildren(...[
    linked(`Images of this ${ONE}`, DATA.members[row], 'decided'),
    linked('Near-duplicates found by the audit', DATA.twins[row]), linked('Most similar training images', DATA.near[row]),
  ].filter(Boolean));
  $('place').textContent = place < 0 ? '' : `${count(place + 1)} of ${count(list.length)}`;
  $('before').disabled = place <= 0;
  $('after').disabled = place < 0 || place >= list.length - 1;
  $('back').hidden = !back.length;
  drawSuggestion(row);
  drawMarks();
}

function drawMarks() {
  const entry = markOf(open.row);
  for (const radio of dialog.querySelectorAll('[name=mark]')) radio.checked = radio.value === entry.mark;
  showNewLabel(entry.new_label);
  $('note').value = entry.note;
  $('label-wanted').hidden = !lacksLabel(entry);
}

function drawCount() {
  $('marked-count').textContent = marks.size > 1 ? `${count(marks.size)} ${MANY} marked` : marks.size ? `1 ${ONE} marked` : '';
  $('download').hidden = !marks.size;
}

function mark(row, change) {
  const before = markOf(row);
  if (!lacksLabel(before) || past.at(-1)?.[0] !== row) past.push([row, before]); // to choose the label ends the step that asked for it
  put(row, { ...before, kept: 'note' in change && before.kept, ...change }); // a note leaves the answer as it is
}

function put(row, entry) {
  keepMark(row, entry);
  drawCount();
  update({ keepLength: true });
  if (dialog.open && row === open.row) drawMarks();
}

/** Mark an image by the number of a mark, 0 for none; "new label" asks which, in the opened image. */
function setMark(row, number) {
  if (number) mark(row, { mark: MARKS[number - 1] });
  else mark(row, { mark: '', new_label: '' });
  if (!lacksLabel(markOf(row))) return;
  if (!dialog.open) openDialog(row, current.list);
  (labelBoxes()[0] ?? $('new-label')).focus();
}

/** 1 to 4 set a mark, 0 removes it. */
function markByKey(event, row) {
  if (!/^[0-4]$/.test(event.key)) return;
  event.preventDefault();
  setMark(row, Number(event.key));
  if (open.queue && dialog.open && '123'.includes(event.key)) advance();
}

/** The new label as text: one of the classes, or where an image has several, those ticked. */
function newLabelGiven() {
  if (!DATA.multi) return $('new-label').value;
  const ticked = labelBoxes().filter((box) => box.checked).map((box) => box.value);
  const before = known(open.row) ? DATA.actual[open.row].map((label) => DATA.vocab[label]).join('|') || NONE : '';
  const text = ticked.join('|') || NONE; // to take the last one back is to say that there is none
  return text === before ? '' : text;
}

const labelBoxes = () => [...$('new-label').querySelectorAll('input')];

function showNewLabel(text) {
  if (!DATA.multi) $('new-label').value = text;
  const shown = text ? text.split('|') : known(open.row) && DATA.multi ? DATA.actual[open.row].map((label) => DATA.vocab[label]) : [];
  for (const box of labelBoxes()) box.checked = shown.length || !known(open.row) ? shown.includes(box.value) : box.value === NONE;
}

/** Ticking "no finding" takes the others back, and the other way round. */
function settle(box) {
  if (box.checked) for (const other of labelBoxes()) if (other !== box && (other.value === NONE || box.value === NONE)) other.checked = false;
}

function makeNewLabel() {
  const control = $('new-label');
  if (DATA.multi) {
    control.append(...[...DATA.vocab, NONE].map((name) => el('label', {}, el('input', {
      type: 'checkbox', value: name, onchange: (event) => settle(event.target),
    }), name === NONE ? ' no finding' : ` ${name}`)));
  } else {
    control.append(el('option', { value: '' }, 'choose a class'), ...DATA.vocab.map((name) => el('option', { value: name }, name)));
  }
  control.addEventListener('change', () => {
    const text = newLabelGiven(), before = markOf(open.row).mark;
    mark(open.row, { new_label: text, mark: text ? 'new label' : before === 'new label' ? '' : before });
  });
}

/** A mark that lacks its label would be lost on the way: the image is opened instead, to choose it. */
function download() {
  const lacking = [...marks].find(([, entry]) => lacksLabel(entry));
  if (lacking) {
    openDialog(lacking[0], [...marks.keys()]);
    setMark(lacking[0], MARKS.indexOf('new label') + 1);
    return;
  }
  save(new Blob([reviewCsv()], { type: 'text/csv' }), 'review.csv');
  undelivered = false;
}

function makeDialog() {
  for (const [i, text] of ['no mark', ...MARKS].entries()) {
    $('mark-choices').append(el('label', {}, el('input', {
      type: 'radio', name: 'mark', value: i ? text : '', onchange: () => setMark(open.row, i),
    }), ` ${text}`, el('kbd', {}, String(i))));
  }
  makeNewLabel();
  $('note').addEventListener('input', (event) => mark(open.row, { note: event.target.value }));
  $('before').addEventListener('click', () => step(-1));
  $('after').addEventListener('click', () => step(1));
  $('back').addEventListener('click', () => openDialog(open.back.at(-1), open.list, { back: open.back.slice(0, -1) }));
  $('close').addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('close', () => {
    const shown = document.querySelector('.tab.shown');
    (shown.querySelector(`[data-row="${open.row}"]`) || shown.querySelector('.gallery button, button, a') || document.body).focus();
    writeAddress();
  });
  document.addEventListener('keydown', dialogKey);
}

/** Whether a key looks for an entry of a list, such as a class by its name or grade: the list keeps it for itself. */
function typed(at, key) {
  return key.length === 1 && at.matches?.('select') && [...at.options].some((one) => one.text.toLowerCase().includes(key.toLowerCase()));
}

/**
 * The keys of an opened image, wherever its focus is. Only a text field keeps them for itself, and a list those of its
 * entries; an arrow never changes a choice that was made: across it leafs, up and down it moves the focus alone.
 */
function dialogKey(event) {
  const at = event.target;
  if (!dialog.open || event.defaultPrevented || event.altKey) return;
  if (at.matches?.('input[type=text]') || typed(at, event.key)) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key === 'z') undo();
    return;
  }
  const across = { ArrowLeft: -1, ArrowRight: 1 }[event.key], down = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (across && !at.matches?.('input[type=range]')) {
    event.preventDefault();
    step(across);
  } else if (down && at.matches?.('[name=mark]')) {
    event.preventDefault();
    const radios = [...dialog.querySelectorAll('[name=mark]')];
    radios[radios.indexOf(at) + down]?.focus();
  } else if (queueKey(event) || (!at.matches?.('select') && viewerKey(event.key))) event.preventDefault();
  else markByKey(event, open.row);
}

// Doubtful labels one after the other, the most doubtful first.
const QUEUE = 4 * PAGE; // shown below the button
const isDone = (row) => { const entry = markOf(row); return Boolean(entry.mark || entry.kept) && !lacksLabel(entry); };

function drawSuggestion(row) {
  const wanted = DATA.suggested[row];
  $('suggestion').hidden = wanted === undefined;
  if (wanted === undefined) return;
  $('suggested').replaceChildren(`Its label is `, el('b', {}, labelText(DATA.actual[row])), '. Suggested: ', el('b', {}, labelText(wanted)),
    `. ${DATA.reasons[row] ?? ''}`);
  $('accept').replaceChildren(`Accept “${labelText(wanted)}” `, el('kbd', {}, 'Enter'));
  $('undo').disabled = !past.length;
}

/** Go to the next image that has no answer yet; after the last one the queue is done. */
function advance() {
  const { list, row } = open, at = list.indexOf(row);
  const next = [...list.slice(at + 1), ...list.slice(0, at)].find((one) => !isDone(one));
  if (next === undefined) dialog.close();
  else openDialog(next, list, { queue: true });
}

function accept() {
  const wanted = DATA.suggested[open.row];
  const text = DATA.multi ? wanted.map((label) => DATA.vocab[label]).join('|') || NONE : DATA.vocab[wanted];
  mark(open.row, { mark: 'new label', new_label: text });
  if (open.queue) advance();
}

function keepLabel() {
  mark(open.row, { mark: '', new_label: '', kept: true });
  if (open.queue) advance();
}

function undo() {
  const last = past.pop();
  if (!last) return;
  const [row, entry] = last, { list, queue } = open;
  put(row, entry);
  openDialog(row, list.includes(row) ? list : [row], { queue });
}

/** The keys of a suggestion; true where it was one. Enter on a button is the button's own. */
function queueKey(event) {
  const at = event.target;
  if (event.key === 'z') undo();
  else if ($('suggestion').hidden) return false;
  else if (event.key === 'k') keepLabel();
  else if (event.key === 'Enter' && at.matches?.('select') && markOf(open.row).new_label) advance();
  else if (event.key === 'Enter' && !at.matches?.('button')) accept();
  else return false;
  return true;
}

function drawQueue() {
  const rows = DATA.suspects, done = rows.filter(isDone).length;
  $('queue').replaceChildren(...rows.slice(0, QUEUE).map((row) => {
    const given = el('span', { class: 'verdict' }, `Label: ${labelText(DATA.actual[row])}`); // whatever class is looked at
    const card = makeCard(row, () => openDialog(row, rows, { queue: true }), given);
    card.firstChild.classList.toggle('done', isDone(row));
    card.firstChild.append(el('span', { class: 'reason' }, `Suggested: ${labelText(DATA.suggested[row])}`));
    return card;
  }));
  $('review').hidden = !rows.length;
  $('review').textContent = done === rows.length ? 'Go through them again' : `Review ${count(rows.length - done)} doubtful labels`;
  const beyond = rows.length > QUEUE ? `. The ${QUEUE} most doubtful are shown here; the review goes through all` : '';
  $('queue-progress').textContent = rows.length ? `${count(done)} of ${count(rows.length)} done${beyond}` : 'No label is doubtful.';
}

function makeQueue() {
  $('accept').addEventListener('click', accept);
  $('keep').addEventListener('click', keepLabel);
  $('undo').addEventListener('click', undo);
  $('review').addEventListener('click', () => openDialog(DATA.suspects.find((row) => !isDone(row)) ?? DATA.suspects[0], DATA.suspects, { queue: true }));
}

function makeOverlay() {
  const switches = [...document.querySelectorAll('[data-overlay]')];
  for (const box of switches) {
    box.closest('label').hidden = !DATA.saliency;
    box.closest('label').append(` (in ${count(DATA.saliency)} images)`);
    box.addEventListener('change', () => {
      document.body.classList.toggle('overlay', box.checked);
      for (const other of switches) other.checked = box.checked;
    });
  }
}

function start() {
  document.body.classList.add('live');
  makeFilters();
  makeTools();
  makeDialog();
  makeQueue();
  makeOverlay();
  makeControls();
  makeLinks();
  makeSaves();
  drawCount();
  $('download').addEventListener('click', download);
  window.addEventListener('beforeunload', (event) => { if (undelivered) event.preventDefault(); });
  restore();
}

start();
