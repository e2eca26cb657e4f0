// The opened image: zoom, pan, brightness and contrast, the map, and another image beside it that moves along.
const plain = { zoom: 1, x: 0, y: 0, brightness: 1, contrast: 1, invert: 0 };
const shot = { ...plain, map: 0.8 };
const MAX_ZOOM = 12;

function drawShot() {
  const stages = [...dialog.querySelectorAll('.stage')];
  for (const stage of stages) {
    stage.style.setProperty('--zoom', shot.zoom);
    stage.style.setProperty('--x', `${shot.x * stage.clientWidth}px`);
    stage.style.setProperty('--y', `${shot.y * stage.clientHeight}px`);
    for (const name of ['brightness', 'contrast', 'invert', 'map']) stage.style.setProperty(`--${name}`, shot[name]);
  }
  for (const stage of stages) stage.redraw?.();
  $('zoom').textContent = `${Math.round(100 * shot.zoom)} %`;
  $('brightness').value = shot.brightness;
  $('contrast').value = shot.contrast;
  $('invert').setAttribute('aria-pressed', String(Boolean(shot.invert)));
}

/** Zoom about a point of the stage, given as shares from its centre. */
function zoomBy(factor, [px, py] = [0, 0]) {
  const zoom = Math.min(MAX_ZOOM, Math.max(1, shot.zoom * factor)), change = zoom / shot.zoom;
  shot.x = zoom === 1 ? 0 : px + (shot.x - px) * change;
  shot.y = zoom === 1 ? 0 : py + (shot.y - py) * change;
  shot.zoom = zoom;
  drawShot();
}

function placeIn(stage, event) {
  const { left, top, width, height } = stage.getBoundingClientRect();
  return [(event.clientX - left) / width - 0.5, (event.clientY - top) / height - 0.5];
}

/** Drag to pan, with Shift (or where "window" is on) to change brightness and contrast; two fingers or the wheel zoom. */
function makeStage(stage) {
  const held = new Map();
  const spread = () => { const [a, b] = [...held.values()]; return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY); };
  stage.addEventListener('wheel', (event) => {
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, placeIn(stage, event));
  }, { passive: false });
  stage.addEventListener('pointerdown', (event) => {
    held.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener('pointermove', (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const before = held.size === 2 ? spread() : 0;
    held.set(event.pointerId, event);
    const dx = (event.clientX - last.clientX) / stage.clientWidth, dy = (event.clientY - last.clientY) / stage.clientHeight;
    if (before) zoomBy(spread() / before);
    else if (event.shiftKey || $('windowing').getAttribute('aria-pressed') === 'true') {
      shot.contrast = Math.min(4, Math.max(0.2, shot.contrast + 2 * dx));
      shot.brightness = Math.min(4, Math.max(0.2, shot.brightness - 2 * dy));
    } else if (shot.zoom > 1) {
      shot.x += dx;
      shot.y += dy;
    }
    drawShot();
  });
  for (const end of ['pointerup', 'pointercancel']) stage.addEventListener(end, (event) => held.delete(event.pointerId));
  stage.addEventListener('dblclick', () => { Object.assign(shot, plain); drawShot(); });
  return stage;
}

function stageOf(row, source, saliency) {
  const stage = makeStage(el('div', { class: 'stage' }, picture(row, source, 'full', saliency))), deep = pictures(row)[4];
  if (deep) deepen(stage, deep);
  return stage;
}

/**
 * Lay all 16 bits of a grey image over its picture: high bytes are the red of a PNG, low bytes its green. Level and window
 * then work on them, also on what the picture's own window does not show.
 */
function deepen(stage, [source, black, white]) {
  const image = new Image();
  image.addEventListener('load', () => {
    const { naturalWidth: width, naturalHeight: height } = image, canvas = el('canvas', { width, height, 'aria-hidden': 'true' });
    const pen = canvas.getContext('2d', { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, width, height), { data } = pixels;
    const values = Float32Array.from({ length: width * height }, (_, i) => (256 * data[4 * i] + data[4 * i + 1] - black) / (white - black || 1));
    let drawn = '';
    stage.redraw = () => {
      const { brightness, contrast } = shot, wanted = `${brightness} ${contrast}`;
      if (wanted === drawn) return;
      drawn = wanted;
      values.forEach((value, i) => data.fill(255 * ((value * brightness - 0.5) * contrast + 0.5), 4 * i, 4 * i + 3));
      pen.putImageData(pixels, 0, 0);
    };
    stage.querySelector('.fit img').after(canvas);
    stage.classList.add('deep');
    stage.redraw();
  });
  image.src = source;
}

/** The opened image; beside it another one, or the same with the maps of both classes. */
function drawPicture(row, beside = null) {
  const [small, large, said, actual] = pictures(row), source = large || small, stage = stageOf(row, source, said);
  dialog.classList.toggle('comparing', Boolean(beside));
  if (beside) {
    const other = beside.maps ? stageOf(row, source, actual) : otherStage(beside);
    const likeliest = DATA.vocab.map((_, i) => i).reduce((a, b) => (prob(row, b) > prob(row, a) ? b : a)); // a threshold may predict another
    const captions = beside.maps ? [`What speaks for ${DATA.vocab[likeliest]} (most probable)`, `What speaks for ${labelText(DATA.actual[row])} (actual)`]
      : [labelText(DATA.actual[row]), beside.label || beside.name];
    $('dialog-picture').replaceChildren(el('div', { class: beside.maps ? 'beside overlay' : 'beside' },
      ...[stage, other].map((one, i) => el('figure', {}, one, el('figcaption', {}, captions[i])))),
    el('button', { type: 'button', onclick: () => drawPicture(row) }, 'Close the comparison'));
  } else {
    const maps = actual ? [el('button', { type: 'button', id: 'both-maps', onclick: () => drawPicture(row, { maps: true }) }, 'Maps of both classes')] : [];
    $('dialog-picture').replaceChildren(stage, ...maps);
  }
  $('opacity').hidden = !said;
  drawShot();
}

function otherStage({ source, name }) {
  const shape = ({ target }) => target.parentElement.style.setProperty('--ratio', target.naturalWidth / target.naturalHeight);
  return makeStage(el('div', { class: 'stage' }, el('span', { class: 'full' }, el('span', { class: 'fit' },
    el('img', { src: source, alt: name, onload: shape })))));
}

const PRESETS = { 'as it is': [1, 1], brighter: [1.6, 1], darker: [0.6, 1], 'more contrast': [1.1, 1.8], 'less contrast': [1, 0.6] };

function makeTools() {
  const button = (id, text, name, change) => el('button', { type: 'button', id, 'aria-label': name, title: name, onclick: () => { change(); drawShot(); } }, text);
  const slider = (id, text, low, high, key = id) => el('label', { id: id === key ? undefined : id }, text, el('input', {
    type: 'range', id: id === key ? id : undefined, min: low, max: high, step: 0.05, value: shot[key],
    oninput: (event) => { shot[key] = Number(event.target.value); drawShot(); },
  }));
  const toggle = (id) => $(id).setAttribute('aria-pressed', String($(id).getAttribute('aria-pressed') !== 'true'));
  const presets = el('select', { 'aria-label': 'Window', onchange: (event) => {
    [shot.brightness, shot.contrast] = PRESETS[event.target.value];
    drawShot();
  } }, ...Object.keys(PRESETS).map((name) => el('option', { value: name }, name)));
  $('tools').append(
    button('zoom-out', '−', 'Zoom out', () => zoomBy(1 / 1.4)), el('output', { id: 'zoom' }, '100 %'),
    button('zoom-in', '+', 'Zoom in', () => zoomBy(1.4)),
    button('fit', 'Reset', 'Show the whole image as it is', () => { Object.assign(shot, plain); presets.selectedIndex = 0; }),
    button('full-screen', 'Full screen', 'Full screen', fullScreen),
    presets, slider('brightness', 'Level ', 0.2, 4), slider('contrast', 'Window ', 0.2, 4),
    button('windowing', 'Drag', 'Drag changes level and window', () => toggle('windowing')),
    button('invert', 'Invert', 'Invert', () => { shot.invert = 1 - shot.invert; }),
    slider('opacity', 'Map ', 0, 1, 'map'),
  );
  $('windowing').setAttribute('aria-pressed', 'false');
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $('viewer').requestFullscreen?.();
}

/** The keys of the opened image's picture; true where it was one. */
function viewerKey(key) {
  const done = { '+': () => zoomBy(1.4), '-': () => zoomBy(1 / 1.4), i: () => $('invert').click(), f: fullScreen, r: () => $('fit').click() }[key];
  done?.();
  return Boolean(done);
}
