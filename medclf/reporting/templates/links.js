// Where the reader is, in the address: the parts of the page, and links that show the same again.
const tabs = [...document.querySelectorAll('.tab')];
let tab = 'overview', shown = location.hash; // what of the address is shown

function showTab(name) {
  tab = name;
  for (const one of tabs) one.classList.toggle('shown', one.id === tab);
  for (const link of document.querySelectorAll('a[data-tab]')) {
    if (link.dataset.tab === tab) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (tab === 'labels') drawQueue();
}

/** Show the part that an element is in, opened; false where the page has no such element. */
function reveal(id) {
  const node = $(id), within = node?.closest('.tab');
  if (!within) return false;
  showTab(within.id);
  node.closest('details')?.setAttribute('open', '');
  if (node === within) scrollTo({ top: Math.min(scrollY, document.querySelector('nav').offsetTop), behavior: 'instant' });
  else node.scrollIntoView({ behavior: 'instant' });
  return true;
}

const usualGroup = () => (look().groups.wrong ? 'wrong' : 'all');

/** What is shown, as the text behind `#`: what is as the page opens is left out. */
function address() {
  const params = new URLSearchParams();
  const add = (name, value, usual) => { if (String(value) !== String(usual)) params.append(name, value); };
  add('tab', tab, 'overview');
  add('partition', DATA.parts[state.part] ?? 'all', DATA.parts[0]);
  add('label', DATA.vocab[state.label] ?? '', '');
  for (const [name, code] of Object.entries(state.columns)) params.append('by', `${name}=${DATA.columns[name][0][code] ?? ''}`);
  add('from', state.low, 0);
  add('to', state.high, 1);
  add('search', state.search, '');
  add('view', DATA.vocab[state.view] ?? '', DATA.multi ? DATA.vocab[0] : '');
  if (state.view >= 0) add('threshold', state.threshold, usualThreshold(state.view));
  add('prevalence', state.prevalence ?? '', '');
  add('cell', state.cell?.join('-') ?? '', '');
  add('group', state.group, 'wrong');
  add('order', state.order, 'sure');
  add('pictured', state.pictured, false);
  if (dialog.open) params.append('image', DATA.hidden ? open.row + 1 : DATA.names[open.row]);
  return params.toString();
}

function writeAddress() {
  if (location.hash !== shown) return; // a link was followed: restore is about to read it
  const usual = address() === '', text = `#${address() || tab}`;
  if (location.hash === text || (usual && !location.hash)) return; // a page that was just opened keeps its place
  try {
    history.replaceState(null, '', text);
    shown = location.hash;
  } catch {
    // a page shown inside another may have no address of its own
  }
}

/** Show what the address names; it is written once, when all is shown. */
function restore() {
  shown = null;
  follow(location.hash.slice(1));
  shown = location.hash;
  writeAddress();
}

/** What an address wrote, or as it stands where it was cut or mistyped. */
function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Show what the text behind `#` names; what it does not name is as the page opens. */
function follow(text) {
  if (!text.includes('=')) {
    const id = unescaped(text);
    if (!reveal(id) && !$(id)) showTab('overview'); // an anchor outside the parts, such as the skip link's, leaves them
    draw();
    return;
  }
  const params = new URLSearchParams(text), get = (name) => params.get(name) ?? '';
  const share = (name, usual) => (Number(get(name)) >= 0 && Number(get(name)) <= 1 && get(name) !== '' ? Number(get(name)) : usual);
  resetFilters();
  if (get('partition')) state.part = DATA.parts.indexOf(get('partition'));
  state.label = DATA.vocab.indexOf(get('label'));
  for (const one of params.getAll('by')) {
    const name = Object.keys(DATA.columns).find((key) => one.startsWith(`${key}=`)); // either may hold a "=" of its own
    if (name) state.columns[name] = DATA.columns[name][0].indexOf(one.slice(name.length + 1));
  }
  [state.low, state.high] = [share('from', 0), share('to', 1)];
  state.search = get('search');
  const view = get('view') ? DATA.vocab.indexOf(get('view')) : DATA.multi ? 0 : -1;
  setView(view);
  if (view >= 0) setThreshold(share('threshold', state.threshold));
  state.prevalence = share('prevalence', null);
  const cell = get('cell').split('-').map(Number), size = sides().length;
  state.cell = cell.length === 2 && cell.every((i) => i >= 0 && i < size) ? cell : null;
  if (inGroup[get('group')]) state.group = get('group');
  if (orders[get('order')]) state.order = get('order');
  state.pictured = get('pictured') === 'true';
  showControls();
  showTab(tabs.some((one) => one.id === get('tab')) ? get('tab') : 'overview');
  draw();
  const row = DATA.hidden ? Number(get('image')) - 1 : DATA.names.indexOf(get('image'));
  if (!get('image') || !(row >= 0 && row < DATA.n)) return;
  const queue = tab === 'labels' && suspects.has(row); // the review goes on where it was
  openDialog(row, queue ? DATA.suspects : current.list.includes(row) ? current.list : [row], { queue });
}

/** Copy a text, and let the button say so. */
async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = el('textarea', { class: 'hide', 'aria-hidden': 'true' }, text);
    button.after(box);
    box.select();
    document.execCommand('copy');
    box.remove();
  }
  const said = button.textContent;
  if (said === 'Copied') return;
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = said; }, 1500);
}

function makeLinks() {
  showTab(tab);
  for (const part of document.querySelectorAll('.part')) part.open = part === part.parentElement.querySelector('.part');
  addEventListener('hashchange', restore);
  $('copy-link').addEventListener('click', (event) => {
    writeAddress();
    copy(event.target, location.href);
  });
  $('copy-name').addEventListener('click', (event) => copy(event.target, nameOf(open.row)));
  for (const link of document.querySelectorAll('.check a, a[data-tab]')) {
    link.addEventListener('click', () => reveal(link.hash.slice(1))); // at once, and where the address has it already
  }
  let closed = [];
  addEventListener('beforeprint', () => {
    closed = [...document.querySelectorAll('details:not([open])')];
    for (const one of closed) one.open = true;
  });
  addEventListener('afterprint', () => { for (const one of closed) one.open = false; });
}
