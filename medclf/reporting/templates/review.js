// One image at full size, and the marks of a second read.
const dialog = $('dialog');
let open = { row: 0, list: [], back: [] };

function openDialog(row, list, back = []) {
  open = { row, list, back };
  drawDialog();
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const next = open.list[open.list.indexOf(open.row) + by];
  if (next === undefined) return;
  open.row = next;
  drawDialog();
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
    ...fact('Partition', DATA.parts[DATA.part[row]]),
    ...fact('Patient', DATA.patient[row]),
  ];
  for (const [name, [values, codes]] of Object.entries(DATA.columns)) list.push(...fact(name, values[codes[row]]));
  if (DATA.saliency && pictures(row)[0] && !pictures(row)[2]) list.push(...fact('Where it looked', 'no map was made of this image'));
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

function linked(title, links) {
  if (!links?.length) return null;
  const cards = links.map((link) => {
    const [name, label] = link >= 0 ? [nameOf(link), labelText(DATA.actual[link])] : DATA.outside[-1 - link];
    const source = link >= 0 ? pictures(link)[0] : DATA.beside[-1 - link];
    const missing = link >= 0 ? absence(link) : DATA.missing[-1 - link] || 'No picture';
    const inside = [source ? el('img', { src: source, alt: '' }) : el('span', { class: 'nothing' }, missing),
      el('span', { class: 'name', title: name }, name.split('/').pop()), label ? el('span', {}, label) : null];
    if (link < 0) return el('li', {}, el('span', { class: 'near' }, ...inside));
    return el('li', {}, el('button', {
      type: 'button', class: 'near', onclick: () => openDialog(link, open.list, [...open.back, open.row]),
    }, ...inside));
  });
  return el('section', {}, el('h3', {}, title), el('ul', { class: 'linked' }, ...cards));
}

function drawDialog() {
  const { row, list, back } = open, place = list.indexOf(row), [small, large] = pictures(row);
  $('dialog-title').textContent = nameOf(row);
  $('dialog-picture').replaceChildren(picture(row, large || small, 'full'));
  $('dialog-facts').replaceChildren(...facts(row));
  $('dialog-probs').replaceChildren(...allBars(row));
  $('dialog-linked').replaceChildren(...[
    linked('Near-duplicates found by the audit', DATA.twins[row]), linked('Most similar training images', DATA.near[row]),
  ].filter(Boolean));
  $('place').textContent = place < 0 ? '' : `${count(place + 1)} of ${count(list.length)}`;
  $('before').disabled = place <= 0;
  $('after').disabled = place < 0 || place >= list.length - 1;
  $('back').hidden = !back.length;
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
  $('marked-count').textContent = marks.size === 1 ? '1 image marked' : `${count(marks.size)} images marked`;
  $('download').disabled = !marks.size;
}

function mark(row, change) {
  keepMark(row, { ...markOf(row), ...change });
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
  const address = URL.createObjectURL(new Blob([reviewCsv()], { type: 'text/csv' }));
  el('a', { href: address, download: 'review.csv' }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
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
  $('back').addEventListener('click', () => openDialog(open.back.at(-1), open.list, open.back.slice(0, -1)));
  $('close').addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('close', () => {
    const gallery = $('gallery');
    (gallery.querySelector(`[data-row="${open.row}"]`) || gallery.querySelector('button') || $('order')).focus();
  });
  document.addEventListener('keydown', dialogKey);
}

/**
 * The keys of an opened image, wherever its focus is. Only a text field keeps them for itself; an arrow never changes a
 * choice that was made: across it leafs, up and down it moves the focus alone.
 */
function dialogKey(event) {
  const at = event.target;
  if (!dialog.open || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (at.matches?.('input[type=text]')) return;
  const across = { ArrowLeft: -1, ArrowRight: 1 }[event.key], down = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (across && !at.matches?.('input[type=range]')) {
    event.preventDefault();
    step(across);
  } else if (down && at.matches?.('[name=mark]')) {
    event.preventDefault();
    const radios = [...dialog.querySelectorAll('[name=mark]')];
    radios[radios.indexOf(at) + down]?.focus();
  } else markByKey(event, open.row);
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
  makeDialog();
  makeOverlay();
  makeControls();
  drawCount();
  $('download').addEventListener('click', download);
  window.addEventListener('beforeunload', (event) => { if (undelivered) event.preventDefault(); });
}

start();
