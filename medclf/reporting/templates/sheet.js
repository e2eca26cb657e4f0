// A second reader's answers: one section an image, kept in this browser, downloaded as the sheet filled in.
const main = document.getElementById('main');
const sections = [...main.querySelectorAll('.reading')];
const several = 'several' in main.dataset;
const NONE = '(none)';
const STORE = `medclf-sheet-${main.dataset.sheet}`;
let delivered = true;

const inputs = (section, name) => [...section.querySelectorAll(`[name^="${name}-"]`)];
const labelsOf = (section) => inputs(section, 'label').filter((box) => box.checked).map((box) => box.value);
const markOf = (section) => inputs(section, 'mark').find((box) => box.checked)?.value ?? '';
const isRead = (section) => labelsOf(section).length > 0 || markOf(section) !== '';

function answerOf(section) {
  return { labels: labelsOf(section), mark: markOf(section), note: section.querySelector('[data-note]').value };
}

function put(section, { labels = [], mark = '', note = '' }) {
  for (const box of inputs(section, 'label')) box.checked = labels.includes(box.value);
  for (const box of inputs(section, 'mark')) box.checked = box.value === mark;
  section.querySelector('[data-note]').value = note;
}

function keep() {
  delivered = false;
  try {
    localStorage.setItem(STORE, JSON.stringify(sections.map((section) => [section.id, answerOf(section)])));
  } catch {
    // the download is what counts
  }
  show();
}

function recall() {
  try {
    for (const [id, answer] of JSON.parse(localStorage.getItem(STORE) || '[]')) {
      const section = sections.find((one) => one.id === id);
      if (section) put(section, answer);
    }
  } catch {
    // a page opened from disk may have no storage
  }
}

// Answers of another tab of this sheet come here as well, since either keeps all of them.
window.addEventListener('storage', (event) => {
  if (event.key !== STORE) return;
  recall();
  show();
});

function show() {
  const read = sections.filter(isRead).length;
  document.getElementById('progress').textContent = `${read} of ${sections.length} read`;
  for (const section of sections) section.classList.toggle('done', isRead(section));
  const next = document.getElementById('next'), all = read === sections.length;
  next.disabled = all;
  next.textContent = all ? 'All read' : 'Next without answer';
}

/** Choosing "none of these" takes the others back, and the other way round. */
function settle(section, box) {
  if (!several || !box.checked || !box.name.startsWith('label-')) return;
  for (const other of inputs(section, 'label')) {
    if (other !== box && (other.value === NONE || box.value === NONE)) other.checked = false;
  }
}

function choose(section, box) {
  if (!box) return;
  box.checked = several && box.name.startsWith('label-') ? !box.checked : true;
  settle(section, box);
  keep();
}

function go(section) {
  if (!section) return;
  current = section;
  section.scrollIntoView({ block: 'start', behavior: 'instant' }); // quick keys are about the image in view
  section.focus({ preventScroll: true });
}

let current = null; // the image that keys are about while no image has the focus

function sectionOf(target) {
  const inView = () => sections.find((section) => section.getBoundingClientRect().bottom > innerHeight / 3);
  return target.closest?.('.reading') ?? current ?? inView();
}

/**
 * The keys of the image that is read, wherever the focus is. Only a text field keeps them for itself; an arrow never
 * changes an answer that was given: across it goes on or back, up and down it moves the focus alone.
 */
function byKey(event) {
  const { key, target } = event, section = sectionOf(target);
  if (!section || event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches('[data-note]') && key !== 'Enter') return;
  if (key === 'Enter' && target.matches('button')) return;
  const labels = inputs(section, 'label'), marks = inputs(section, 'mark'), place = sections.indexOf(section);
  const down = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (/^[1-9]$/.test(key)) choose(section, labels.filter((box) => box.value !== NONE)[Number(key) - 1]);
  else if (key === '0') none(section, labels);
  else if (key === 'u' || key === 'p') choose(section, marks.find((box) => box.value.startsWith(key)));
  else if (key === 's') toggleSuggestions();
  else if (key === 'n' || key === 'Enter' || key === 'ArrowRight') go(sections[place + 1]);
  else if (key === 'b' || key === 'ArrowLeft') go(sections[place - 1]);
  else if (down && target.matches('[type=radio]')) [...labels, ...marks][[...labels, ...marks].indexOf(target) + down]?.focus();
  else return;
  event.preventDefault();
}

/** "None of these", or where an image has one label, no answer. */
function none(section, labels) {
  if (several) choose(section, labels.at(-1));
  else for (const box of labels) box.checked = false;
  keep();
}

/** A CSV field: quoted, and never a formula for a spreadsheet to run. */
function csvField(text) {
  return `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

/**
 * The sheet: items, or the paths of images; then labels given earlier stand in it, too, and say so, and a poor image has
 * none. A last column has the patients, where they were given.
 */
function sheetLines() {
  const named = 'earlier' in main.dataset, { patientCol } = main.dataset;
  const earlier = JSON.parse(main.dataset.earlier ?? '[]');
  const lines = [[named ? 'path' : 'item', 'label', 'mark', 'note'], ...earlier.map((row) => [...row])];
  for (const section of sections) {
    const { labels, mark, note } = answerOf(section);
    const label = named && mark === 'poor image' ? '' : labels.join('|');
    lines.push([section.dataset.path ?? section.id, label, mark, note]);
  }
  if (earlier.length) lines.forEach((line, place) => line.push(place > earlier.length ? '' : place ? 'yes' : 'earlier'));
  if (patientCol) {
    const patients = JSON.parse(main.dataset.patients);
    lines.forEach((line, place) => line.push(place ? patients[line[0]] ?? '' : patientCol));
  }
  return lines;
}

function toggleSuggestions() {
  const button = document.getElementById('suggest');
  if (!button) return;
  const shown = button.getAttribute('aria-pressed') !== 'true';
  button.setAttribute('aria-pressed', String(shown));
  for (const text of main.querySelectorAll('.suggestion')) text.hidden = !shown;
}

function download() {
  const lines = sheetLines();
  const text = lines.map((line) => line.map(csvField).join(',')).join('\r\n') + '\r\n';
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
  link.download = main.dataset.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  delivered = true;
}

document.body.classList.add('live');
recall();
show();
main.addEventListener('input', (event) => { settle(event.target.closest('.reading'), event.target); keep(); });
document.addEventListener('keydown', byKey);
main.addEventListener('focusin', (event) => { current = event.target.closest('.reading') ?? current; });
document.getElementById('next').addEventListener('click', () => {
  const after = sections.indexOf(current) + 1;
  go([...sections.slice(after), ...sections.slice(0, after)].find((section) => !isRead(section)));
});
document.getElementById('suggest')?.addEventListener('click', toggleSuggestions);
document.getElementById('download').addEventListener('click', download);
window.addEventListener('beforeunload', (event) => { if (!delivered) event.preventDefault(); });
