// Tables as files: their cells as CSV, and a picture of them as PNG.
const SHARP = 2; // pixels of the picture to one of the screen

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  el('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** The pieces of text that a node shows, with the element that each is in. */
function* shownTexts(node) {
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode;
    if (text.data.trim() && !text.parentElement.closest('.hide') && text.parentElement.checkVisibility()) yield text;
  }
}

function cellText(cell) {
  const counted = cell.querySelector('b');
  const texts = counted ? [counted.textContent] : [...shownTexts(cell)].map((text) => text.data.trim());
  return texts.join(' ').replaceAll('\u202f', '');
}

function tableCsv(table) {
  return [...table.rows].map((row) => [...row.cells].map((cell) => csvField(cellText(cell))).join(',')).join('\r\n') + '\r\n';
}

/** Draw a table as it looks: the ground of each cell, then its words where they stand. */
function tablePicture(table) {
  const box = table.getBoundingClientRect(), canvas = document.createElement('canvas'), pen = canvas.getContext('2d');
  canvas.width = Math.ceil(box.width * SHARP);
  canvas.height = Math.ceil(box.height * SHARP);
  pen.scale(SHARP, SHARP);
  pen.translate(-box.left, -box.top);
  pen.fillStyle = getComputedStyle(document.body).getPropertyValue('--surface').trim();
  pen.fillRect(box.left, box.top, box.width, box.height);
  for (const cell of table.querySelectorAll('th, td')) {
    const { left, top, width, height } = cell.getBoundingClientRect();
    pen.fillStyle = getComputedStyle(cell).backgroundColor;
    pen.fillRect(left, top, width, height);
  }
  for (const text of shownTexts(table)) drawWords(pen, text);
  return canvas;
}

function drawWords(pen, text) {
  const style = getComputedStyle(text.parentElement), range = document.createRange();
  const upright = !style.writingMode.startsWith('vertical');
  pen.fillStyle = style.color;
  pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  pen.textBaseline = 'middle';
  for (const word of text.data.matchAll(/[^\s-]+-*|-+/g)) { // a line may end at a hyphen
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    const { left, top, right, bottom } = range.getBoundingClientRect();
    pen.save();
    if (upright) pen.translate(left, (top + bottom) / 2);
    else {
      pen.translate((left + right) / 2, bottom);
      pen.rotate(-Math.PI / 2);
    }
    pen.fillText(word[0], 0, 0);
    pen.restore();
  }
}

function saveTable(table, name, kind) {
  const scrolled = table.closest('.scroll');
  scrolled?.scrollTo({ left: 0, top: 0, behavior: 'instant' }); // or what is sticky would be drawn over the rest
  if (kind === 'CSV') save(new Blob([tableCsv(table)], { type: 'text/csv' }), `${name}.csv`);
  else tablePicture(table).toBlob((blob) => save(blob, `${name}.png`));
}

function saveButtons(table, name) {
  const file = name.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '-');
  return ['CSV', 'PNG'].map((kind) => el('button', {
    type: 'button', 'aria-label': `Save as ${kind}: ${name}`, onclick: () => saveTable(table(), file, kind),
  }, kind));
}

function makeSaves() {
  document.querySelector('[data-saves]').append(...saveButtons(() => $('matrix').querySelector('table'), 'confusion matrix'));
  for (const box of document.querySelectorAll('.tab .scroll')) {
    const table = box.querySelector('table');
    if (box.id === 'matrix' || !table) continue;
    const heading = box.closest('section, .part')?.querySelector('h2')?.firstChild.textContent.trim() ?? '';
    const told = box.getAttribute('aria-label'), name = told === 'Table' ? heading : told;
    box.after(el('div', { class: 'saves' }, ...saveButtons(() => table, name)));
  }
}
