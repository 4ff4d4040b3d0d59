// The flat map: where the model places every entity, where it is, and the way between; without a map, two components.

const mapView = {...flatView("map"), tip: byId("map-tip")};
const labelShown = new Map(); // entity -> how visible its name is, 0..1

// A canvas that shows all of a map; its size follows.
function flatView(id) {
  return {canvas: byId(id), zoom: 1, x: 0, y: 0, width: 0, height: 0, seen: true};
}

// Fits a canvas to its box in device pixels; returns its context, or null while it has no size.
function fit(view, height) {
  const width = view.canvas.clientWidth,
    ratio = Math.min(2.5, devicePixelRatio || 1);
  if (!width) return null;
  if (view.width !== width || view.height !== height || view.ratio !== ratio) {
    Object.assign(view, {width, height, ratio});
    view.canvas.width = Math.round(width * ratio);
    view.canvas.height = Math.round(height * ratio);
    if (view.canvas !== spaceView.canvas) view.canvas.style.height = `${height}px`;
  }
  const context = view.canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

// Map units (quantum steps) to pixels: [scale, x offset, y offset].
function projection(view = mapView) {
  const [left, bottom, right, top] = study.box,
    {width, height, zoom} = view;
  const scale = zoom * Math.min(width / (right - left), height / (top - bottom));
  return [
    scale,
    width / 2 - scale * ((left + right) / 2 + view.x),
    height / 2 + scale * ((bottom + top) / 2 + view.y),
  ];
}

// The height of a map of some width; of a small one, at most so many times that.
function heightOf(wide, tallest = 1) {
  const [left, bottom, right, top] = study.box;
  const ratio = (top - bottom) / (right - left);
  return Math.round(wide * (wide < 600 ? Math.max(0.46, Math.min(tallest, ratio)) : Math.max(0.3, Math.min(0.6, ratio))));
}

function drawMap() {
  const height = heightOf(mapView.canvas.clientWidth);
  const c = fit(mapView, height);
  if (!c) return;
  const fading = paintMap(c, mapView, state.run, shown.map, state.view);
  const i = state.over ?? state.picked,
    [scale, ox, oy] = projection();
  const x = i === null || mapView.quiet ? null : ox + scale * shown.map[i];
  fillTip(mapView.tip, i, x, i === null ? 0 : oy - scale * shown.map[count + i], mapView);
  byId("map-reset").hidden = mapView.zoom === 1;
  mapView.canvas.classList.toggle("zoomed", mapView.zoom > 1);
  return fading;
}

// Draws a run's map on a context: where it has every entity in `places`. True while names fade in or out.
function paintMap(c, view, run, places, what) {
  const {width, zoom} = view,
    [scale, ox, oy] = projection(view);
  const px = i => ox + scale * places[i],
    py = i => oy - scale * places[count + i];
  const tx = i => ox + scale * truth[i],
    ty = i => oy - scale * truth[count + i];
  const held = films[run].held,
    visible = i => (state.group === null || groupOf[i] === state.group) && (!state.held || held[i]);
  const dot = Math.max(0.95, Math.min(1.9, width / 640)) * Math.sqrt(zoom) * sparse;
  const radius = i => dot * (0.72 + size[i] / 90);

  graticule(c, view, scale, ox, oy);
  if (mapped && what !== "truth") {
    // where all are, faintly, beneath
    c.fillStyle = ink.ghost;
    c.beginPath();
    for (let i = 0; i < count; i++) if (visible(i)) c.rect(tx(i) - 0.75, ty(i) - 0.75, 1.5, 1.5);
    c.fill();
  }
  if (what === "errors") {
    c.lineWidth = 0.8;
    c.globalAlpha = state.group === null ? 0.38 : 0.75;
    const late = {index: study.new[0], members: taught.filter(i => knows(run, i))};
    for (const group of [...drawOrder, late]) {
      c.strokeStyle = ink.group[group.index];
      c.beginPath();
      for (const i of group.members)
        if (visible(i)) {
          c.moveTo(tx(i), ty(i));
          c.lineTo(px(i), py(i));
        }
      c.stroke();
    }
  }
  for (const lit of [false, true])
    for (const group of drawOrder) {
      // what is not chosen stays as a shadow
      if (
        lit
          ? state.group !== null && group.index !== state.group
          : state.group === null || group.index === state.group
      )
        continue;
      c.globalAlpha = lit ? 0.92 : 0.1;
      c.fillStyle = ink.group[group.index];
      c.beginPath();
      for (const i of group.members) {
        if (state.held && !held[i]) continue;
        const x = px(i),
          y = py(i),
          r = radius(i);
        c.moveTo(x + r, y);
        c.arc(x, y, r, 0, 7);
      }
      c.fill();
    }
  drawTaught(c, view, run, px, py, tx, ty, dot);
  if (view !== mapView) return false;
  const fading = drawNames(c, px, py);
  for (const i of new Set([state.picked, state.over]))
    if (i !== null) {
      c.strokeStyle = c.fillStyle = ink.ink;
      c.lineWidth = 1.4;
      c.beginPath();
      c.arc(px(i), py(i), radius(i) + 4, 0, 7);
      c.stroke();
      if (!mapped) continue;
      c.setLineDash([3, 3]);
      c.beginPath();
      c.moveTo(tx(i), ty(i));
      c.lineTo(px(i), py(i));
      c.stroke();
      c.setLineDash([]);
      c.beginPath();
      c.moveTo(tx(i) - 4, ty(i));
      c.lineTo(tx(i) + 4, ty(i));
      c.moveTo(tx(i), ty(i) - 4);
      c.lineTo(tx(i), ty(i) + 4);
      c.stroke();
    }
  return fading;
}

function graticule(c, view, scale, ox, oy) {
  c.strokeStyle = ink.line;
  c.lineWidth = 1;
  c.fillStyle = ink.muted;
  c.font = `10px ${ink.sans}`;
  c.globalAlpha = 0.75;
  c.beginPath();
  const named = [];
  study.axes.forEach(({grid, scale: factor, unit, signs}, k) => {
    if (!grid) return;
    const at = steps => study.origin[k] + steps * study.quantum[k]; // in the attribute's own numbers
    for (let n = Math.ceil(at(study.box[k]) / grid) - 1; n * grid <= at(study.box[k + 2]) + grid; n++) {
      const steps = (n * grid - study.origin[k]) / study.quantum[k],
        p = Math.round(k ? oy - scale * steps : ox + scale * steps) + 0.5;
      c.moveTo(k ? 0 : p, k ? p : 0);
      c.lineTo(k ? view.width : p, k ? p : view.height);
      const sign = n && signs.length ? ` ${signs[n > 0 ? 0 : 1]}` : "",
        text = `${number.format(Math.abs(n * grid * factor) * (signs.length ? 1 : Math.sign(n)))}${unit}${sign}`;
      if (n % 2 === 0 && !k && p > 20 && p < view.width - 30) named.push([text, p + 4, view.height - 6]);
      if (n % 2 === 0 && k && p > 14 && p < view.height - 20) named.push([text, 6, p - 4]);
    }
  });
  c.stroke();
  if (view.width > 600) for (const [text, x, y] of named) c.fillText(text, x, y);
  c.globalAlpha = 1;
}

// The largest entity of each group by name, where the names do not collide; they fade in and out as the map forms.
function drawNames(c, px, py) {
  const taken = [...mapView.taken];
  let fading = false;
  c.font = `600 ${mapView.width < 600 ? 10.5 : 12}px ${ink.sans}`;
  c.lineJoin = "round";
  for (const i of study.landmarks) {
    const x = px(i) + 7,
      y = py(i) + 4,
      w = c.measureText(study.names[i]).width;
    const free =
      visible(i) &&
      x > 0 &&
      x + w < mapView.width &&
      y > 12 &&
      y < mapView.height &&
      !taken.some(([a, b, d]) => x < a + d + 8 && a < x + w + 8 && Math.abs(y - b) < 17);
    if (free) taken.push([x, y, w]);
    let alpha = labelShown.get(i) ?? 0;
    const goal = free ? 1 : 0;
    alpha = calm.matches || Math.abs(goal - alpha) < 0.03 ? goal : alpha + (goal - alpha) * 0.14;
    labelShown.set(i, alpha);
    fading ||= alpha !== goal;
    if (!alpha) continue;
    c.globalAlpha = alpha;
    c.strokeStyle = ink.sea;
    c.lineWidth = 3.5;
    c.strokeText(study.names[i], x, y);
    c.fillStyle = ink.ink;
    c.fillText(study.names[i], x, y);
    c.beginPath();
    c.arc(px(i), py(i), 3.6, 0, 7);
    c.fillStyle = ink.group[groupOf[i]];
    c.fill();
    c.lineWidth = 1.2;
    c.strokeStyle = ink.ink;
    c.stroke();
  }
  c.globalAlpha = 1;
  return fading;
}

function nearestOnMap(x, y, reach = 16) {
  const [scale, ox, oy] = projection();
  let best = null,
    least = reach * reach;
  for (let i = 0; i < count; i++) {
    if (!visible(i)) continue;
    const dx = ox + scale * shown.map[i] - x,
      dy = oy - scale * shown.map[count + i] - y,
      d = dx * dx + dy * dy;
    if (d < least) {
      least = d;
      best = i;
    }
  }
  return best;
}

// The next entity from the chosen one in a direction, for the arrow keys: near, and not far off the axis.
function nextOnMap(dx, dy) {
  const from = state.picked ?? study.landmarks[0] ?? 0;
  let best = from,
    least = Infinity;
  for (let i = 0; i < count; i++) {
    if (!visible(i) || i === from) continue;
    const x = shown.map[i] - shown.map[from],
      y = shown.map[count + i] - shown.map[count + from];
    const along = x * dx + y * dy,
      aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (along > 0 && along + 3 * aside < least) {
      least = along + 3 * aside;
      best = i;
    }
  }
  return best;
}

function zoomMap(factor, x, y) {
  const [scale, ox, oy] = projection(),
    zoom = Math.max(1, Math.min(14, mapView.zoom * factor));
  const f = zoom / mapView.zoom;
  mapView.zoom = zoom;
  if (zoom === 1) {
    mapView.x = mapView.y = 0;
    return wake();
  }
  const [next] = projection(); // keep what is under (x, y) where it is
  const [left, bottom, right, top] = study.box;
  mapView.x = (x - ox) / scale - (left + right) / 2 + (mapView.width / 2 - x) / next;
  mapView.y = (oy - y) / scale - (bottom + top) / 2 - (mapView.height / 2 - y) / next;
  return f !== 1 && wake();
}

function panMap(dx, dy) {
  if (mapView.zoom === 1) return;
  const [scale] = projection(),
    [left, bottom, right, top] = study.box;
  const clamp = (v, reach) => Math.max(-reach, Math.min(reach, v));
  mapView.x = clamp(mapView.x - dx / scale, (right - left) / 2);
  mapView.y = clamp(mapView.y + dy / scale, (top - bottom) / 2);
  wake();
}

// A picture out of sight is not drawn.
function whileSeen(view) {
  new IntersectionObserver(entries => {
    view.seen = entries[entries.length - 1].isIntersecting;
    if (view.seen) wake();
  }).observe(view.canvas);
}

// Pointers on a canvas: drag, pinch or wheel, tap, hover. The wheel zooms only a picture that was clicked.
function gestures(view, {drag, zoom, tap, hover}) {
  const {canvas} = view,
    down = new Map();
  let travelled = 0,
    spread = 0;
  const at = event => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", event => {
    down.set(event.pointerId, at(event));
    canvas.setPointerCapture(event.pointerId);
    if (down.size === 1) travelled = 0;
    spread = 0;
  });
  canvas.addEventListener("pointermove", event => {
    const [x, y] = at(event),
      held = down.get(event.pointerId);
    if (!held) return hover(x, y);
    const dx = x - held[0],
      dy = y - held[1];
    travelled += Math.abs(dx) + Math.abs(dy);
    down.set(event.pointerId, [x, y]);
    if (travelled > 5) drag(dx / down.size, dy / down.size);
    if (down.size === 2) {
      const [a, b] = [...down.values()],
        now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread) zoom(now / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      spread = now;
    }
  });
  for (const kind of ["pointerup", "pointercancel"])
    canvas.addEventListener(kind, event => {
      if (kind === "pointerup" && travelled <= 5 && down.size === 1) tap(...at(event));
      down.delete(event.pointerId);
      spread = 0;
    });
  canvas.addEventListener("pointerleave", event => {
    hover(null);
    if (event.pointerType === "mouse") canvas.blur();
  });
  canvas.addEventListener(
    "wheel",
    event => {
      if (!event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * 0.0022), ...at(event));
    },
    {passive: false},
  );
}

function startMap() {
  whileSeen(mapView);
  gestures(mapView, {
    drag: panMap,
    zoom: zoomMap,
    tap: (x, y) => {
      state.over = null;
      pick(nearestOnMap(x, y, 24), mapView);
    },
    hover: (x, y) => {
      const over = x === null ? null : nearestOnMap(x, y);
      if (over === state.over) return;
      state.over = over;
      mapView.quiet = false;
      spaceView.quiet = true;
      wake();
    },
  });
  mapView.canvas.addEventListener("keydown", event => {
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
    if (way) pick(nextOnMap(...way), mapView);
    else if (event.key === "+" || event.key === "=") zoomMap(1.3, mapView.width / 2, mapView.height / 2);
    else if (event.key === "-") zoomMap(1 / 1.3, mapView.width / 2, mapView.height / 2);
    else if (event.key === "Escape") pick(null, mapView);
    else return;
    event.preventDefault();
  });
  byId("map-reset").addEventListener("click", () => zoomMap(0, 0, 0));
  painters.push(changed => {
    if (mapView.seen && (changed || mapView.fading)) mapView.fading = drawMap();
    return mapView.seen && mapView.fading;
  });
}
