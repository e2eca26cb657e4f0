// One section at a time; its pictures one after the other, large: by click, buttons or arrow keys.
const $ = (id) => document.getElementById(id);
const dialog = $('leaf');
const sections = [...document.querySelectorAll('main > section')], links = [...document.querySelectorAll('.tabs a')];
const AT_ONCE = 30;
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

/** Show the section that the address names, else the first; a link elsewhere on the page leaves it as it is. */
function follow(first) {
  const named = sections.find((one) => `#${one.id}` === location.hash), chosen = named ?? first;
  if (!chosen) return;
  for (const section of sections) section.classList.toggle('shown', section === chosen);
  for (const link of links) {
    if (link.hash === `#${chosen.id}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const nav = document.querySelector('nav');
  if (nav) scrollTo({ top: Math.min(scrollY, nav.offsetTop), behavior: 'instant' });
}

/** Show as many images as fit on a few screens, and more when asked. */
function fold(section) {
  const items = exhibitsOf(section), button = section.querySelector('.more');
  let shown = 0;
  const unfold = () => {
    shown += AT_ONCE;
    items.forEach((item, place) => item.classList.toggle('beyond', place >= shown));
    button.hidden = shown >= items.length;
    button.textContent = `Show ${Math.min(AT_ONCE, items.length - shown)} more`;
  };
  button.addEventListener('click', unfold);
  unfold();
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
  sections.filter((one) => one.querySelector('.exhibits')).forEach(fold);
  follow(sections[0]);
  addEventListener('hashchange', () => follow());
  $('leaf-before').addEventListener('click', () => step(-1));
  $('leaf-after').addEventListener('click', () => step(1));
  $('leaf-close').addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('keydown', (event) => step({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0));
  dialog.addEventListener('close', () => { // where the reader left off
    for (const button = list[at].closest('section').querySelector('.more'); list[at].classList.contains('beyond');) button.click();
    list[at].querySelector('button').focus();
  });
}

start();
