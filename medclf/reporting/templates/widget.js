// A review in a notebook: one image at a time, keys, groups. What was said lives in the model, so groups lose nothing.
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function render({ model, el }) {
  const items = model.get('items'), vocab = model.get('vocab'), several = model.get('several'), NONE = model.get('none');
  const answers = () => model.get('answers');
  const answer = (item) => answers()[item.path] ?? { labels: [], mark: '', note: '' };
  const isRead = (item) => answer(item).labels.length > 0 || answer(item).mark !== ''; // unsure is an answer, too, as in the sheet
  let shown = [], place = 0, undone = [];

  const group = make('select'), progress = make('span', { role: 'status' }), about = make('p', { className: 'about' });
  const image = make('img'), note = make('input', { type: 'text', placeholder: 'Note' });
  const choices = make('div', { className: 'choices', role: 'group', ariaLabel: 'Class' });
  const marks = make('div', { className: 'choices', role: 'group', ariaLabel: 'Remarks' });
  note.setAttribute('aria-label', 'Note');
  group.setAttribute('aria-label', 'Images');
  const button = (text, act) => make('button', { type: 'button', textContent: text, onclick: act });
  const names = ['all images', ...new Set(items.map((item) => item.group).filter(Boolean))];
  group.append(...names.map((name) => make('option', { value: name, textContent: name })));
  group.hidden = names.length < 2;

  function write(item, changed) {
    undone.push([item.path, answers()[item.path] ?? null]);
    model.set('answers', { ...answers(), [item.path]: { ...answer(item), ...changed } });
    model.save_changes();
  }

  function undo() {
    const [path, before] = undone.pop() ?? [];
    if (!path) return;
    const { [path]: last, ...others } = answers();
    model.set('answers', before ? { ...others, [path]: before } : others);
    model.save_changes();
    const found = shown.findIndex((item) => item.path === path);
    if (found >= 0) place = found;
    show();
  }

  function choose(label) {
    const item = shown[place];
    if (!item) return;
    let labels = [label];
    if (several) {
      const held = answer(item).labels.filter((one) => label !== NONE && one !== NONE);
      labels = held.includes(label) ? held.filter((one) => one !== label) : [...held, label];
    }
    write(item, { labels });
    if (several) show();
    else go(1);
  }

  function mark(word) {
    const item = shown[place];
    if (!item) return;
    write(item, { mark: answer(item).mark === word ? '' : word });
    show();
  }

  function accept() {
    const item = shown[place];
    if (item?.suggestion.length && !isRead(item)) write(item, { labels: item.suggestion });
    go(1);
  }

  function go(step) {
    place = Math.min(Math.max(place + step, 0), Math.max(shown.length - 1, 0));
    show();
  }

  function filter() {
    shown = items.filter((item) => group.value === 'all images' || item.group === group.value);
    place = Math.max(shown.findIndex((item) => !isRead(item)), 0);
    show();
  }

  function pressed(buttons, held) {
    for (const one of buttons) one.setAttribute('aria-pressed', String(held.includes(one.dataset.value)));
  }

  function show() {
    const item = shown[place];
    progress.textContent = `${items.filter(isRead).length} of ${items.length} read`;
    about.textContent = item ? [`${place + 1} of ${shown.length}`, ...item.about].join(' · ') : 'No images.';
    image.src = item?.picture ?? '';
    image.alt = item ? `Image ${place + 1}` : '';
    note.value = item ? answer(item).note : '';
    pressed(choices.children, item ? answer(item).labels : []);
    pressed(marks.children, item ? [answer(item).mark] : []);
    accepting.hidden = !item?.suggestion.length;
    accepting.textContent = item ? `Accept: ${item.suggestion.join(', ')} (Enter)` : '';
  }

  const key = (place) => (place < 9 ? ` (${place + 1})` : '');
  for (const [index, label] of vocab.entries()) choices.append(button(label + key(index), () => choose(label)));
  if (several) choices.append(button('none of these (0)', () => choose(NONE)));
  for (const [index, label] of [...vocab, ...(several ? [NONE] : [])].entries()) choices.children[index].dataset.value = label;
  for (const word of ['unsure', 'poor image']) {
    marks.append(button(`${word} (${word[0]})`, () => mark(word)));
    marks.lastChild.dataset.value = word;
  }
  const accepting = button('', accept);
  const steps = make('div', { className: 'choices' }, button('Back (←)', () => go(-1)), button('Next (→)', () => go(1)), button('Undo (z)', undo), accepting);
  note.addEventListener('change', () => shown[place] && write(shown[place], { note: note.value }));
  group.addEventListener('change', filter);

  const box = make('div', { className: 'medclf-review', tabIndex: 0 });
  box.setAttribute('role', 'group');
  box.setAttribute('aria-label', 'Review of images');
  box.append(make('div', { className: 'choices' }, group, progress), about, make('div', { className: 'body' }, image, make('div', {}, choices, marks, note, steps)));

  box.addEventListener('keydown', (event) => {
    event.stopPropagation(); // the notebook has keys of its own
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === note || event.target === group) return;
    const pressedKey = event.key;
    if (/^[1-9]$/.test(pressedKey) && vocab[pressedKey - 1] !== undefined) choose(vocab[pressedKey - 1]);
    else if (pressedKey === '0' && several) choose(NONE);
    else if (pressedKey === 'u') mark('unsure');
    else if (pressedKey === 'p') mark('poor image');
    else if (pressedKey === 'ArrowRight' || pressedKey === 'n') go(1);
    else if (pressedKey === 'ArrowLeft' || pressedKey === 'b') go(-1);
    else if (pressedKey === 'z') undo();
    else if (pressedKey === 'Enter' && event.target.tagName !== 'BUTTON') accept();
    else return;
    event.preventDefault();
  });
  model.on('change:answers', show);
  el.append(box);
  filter();
  return () => model.off('change:answers', show);
}

export default { render };
