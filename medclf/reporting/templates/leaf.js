// The pictures of a page one after the other, large: by click, buttons or arrow keys; a filter shows one section.
const $ = (id) => document.getElementById(id);
const dialog = $('leaf');
const sections = [...document.querySelectorAll('main > section')].filter((one) => one.querySelector('.exhibits'));
let list = [], at = 0;

const exhibitsOf = (section) => [...section.querySelectorAll('.exhibits > li')];

function draw() {
  const item = list[at], picture = item.querySelector('img');
  $('leaf-name').textContent = item.querySelector('.name').textContent;
  $('leaf-place').textContent = `${at + 1} of ${list.length}`;
  $('leaf-picture').hidden = !picture;
  if (picture) Object.assign($('leaf-picture'), { src: picture.src, alt: picture.alt });
  $('leaf-words').replaceChildren(...[...item.querySelectorAll('.line')].map((line) => line.cloneNode(true)));
  $('leaf-before').disabled = at === 0;
  $('leaf-after').disabled = at === list.length - 1;
}

function step(by) {
  if (!list[at + by]) return;
  at += by;
  draw();
}

function enlarge(item) {
  list = exhibitsOf(item.closest('section'));
  at = list.indexOf(item);
  draw();
  dialog.showModal();
}

/** Show one section, or all where `chosen` is null. */
function choose(chosen) {
  for (const section of sections) section.hidden = Boolean(chosen) && section !== chosen;
  for (const button of $('leaf-filter').children) button.setAttribute('aria-pressed', String(button.section === chosen));
}

function filterButton(section, text) {
  const button = document.createElement('button');
  Object.assign(button, { type: 'button', textContent: text, section });
  button.addEventListener('click', () => choose(section));
  return button;
}

function start() {
  document.body.classList.add('live');
  for (const item of sections.flatMap(exhibitsOf)) {
    const button = document.createElement('button'), shown = item.querySelector('.shots') ?? item.querySelector('.name');
    Object.assign(button, { type: 'button', className: 'enlarge' });
    shown.replaceWith(button);
    button.append(shown);
    button.addEventListener('click', () => enlarge(item));
  }
  const images = (n) => `${n} image${n === 1 ? '' : 's'}`;
  const named = sections.map((one) => filterButton(one, `${one.querySelector('h2').textContent}: ${images(exhibitsOf(one).length)}`));
  $('leaf-filter').append(filterButton(null, 'All'), ...named);
  $('leaf-filter').hidden = sections.length < 2;
  choose(null);
  $('leaf-before').addEventListener('click', () => step(-1));
  $('leaf-after').addEventListener('click', () => step(1));
  $('leaf-close').addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('keydown', (event) => step({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0));
  dialog.addEventListener('close', () => list[at].querySelector('button').focus()); // where the reader left off
}

start();
