// The first three principal components of the activations, a point an entity, turned by hand.

const HOME = {yaw: -0.5, pitch: 0.32, zoom: 1};
const spaceView = {
  canvas: byId("space"),
  tip: byId("space-tip"),
  ...HOME,
  width: 0,
  height: 0,
  touched: false,
  seen: false,
  quiet: true,
};
const turned = new Float32Array(3 * count); // x, y in pixels, depth -1..1 (near is positive)
const LAYERS = 10;

function turn(width, height) {
  const cy = Math.cos(spaceView.yaw),
    sy = Math.sin(spaceView.yaw),
    cp = Math.cos(spaceView.pitch),
    sp = Math.sin(spaceView.pitch);
  const unit = 0.45 * spaceView.zoom * Math.min(width, height);
  return (x, y, z) => {
    // component 1 to the right, 2 up, 3 towards the reader
    const right = x * cy + z * sy,
      into = z * cy - x * sy;
    const up = y * cp - into * sp,
      near = into * cp + y * sp;
    const lens = (unit * 3.4) / (3.4 - near);
    return [width / 2 + right * lens, height / 2 - up * lens, near];
  };
}

// Where an entity is drawn now: x, y in pixels and its depth, kept in `turned` for who asks later.
function turnOne(i, project) {
  const far = study.radius;
  const drawn = project(
    shown.space[i] / far,
    shown.space[count + i] / far,
    shown.space[2 * count + i] / far,
  );
  [turned[i], turned[count + i], turned[2 * count + i]] = drawn;
  return drawn;
}

function drawSpace() {
  const c = fit(spaceView, spaceView.canvas.clientHeight);
  if (!c) return;
  paintSpace(c);
  const i = state.over ?? state.picked;
  fillTip(
    spaceView.tip,
    i,
    i === null || spaceView.quiet ? null : turned[i],
    i === null ? 0 : turned[count + i],
    spaceView,
  );
}

function paintSpace(c) {
  const {width, height} = spaceView,
    project = turn(width, height);
  drawAxes(c, project);
  const layers = Array.from({length: LAYERS}, () => new Map());
  for (const group of drawOrder)
    for (const i of group.members) {
      if (state.held && !films[state.run].held[i]) continue;
      const [, , near] = turnOne(i, project);
      const layer = layers[Math.max(0, Math.min(LAYERS - 1, Math.floor(((near + 1) * LAYERS) / 2)))];
      if (!layer.has(group.index)) layer.set(group.index, []);
      layer.get(group.index).push(i);
    }
  const dot = Math.max(1.05, Math.min(1.9, width / 330)) * Math.sqrt(spaceView.zoom) * sparse;
  layers.forEach((layer, depth) => {
    const close = (depth + 0.5) / LAYERS; // far points smaller and paler
    for (const [r, members] of layer) {
      const lit = state.group === null || state.group === r;
      c.globalAlpha = lit ? 0.34 + 0.6 * close : 0.06;
      c.fillStyle = ink.group[r];
      c.beginPath();
      for (const i of members) {
        const radius = dot * (0.62 + 0.5 * close) * (0.8 + size[i] / 150);
        c.moveTo(turned[i] + radius, turned[count + i]);
        c.arc(turned[i], turned[count + i], radius, 0, 7);
      }
      c.fill();
    }
  });
  const newcomers = taught.filter(i => !state.held || films[state.run].held[i]);
  c.beginPath();
  for (const i of newcomers) {
    const [x, y, near] = turnOne(i, project);
    diamond(c, x, y, 2.1 * dot * (0.8 + 0.3 * near));
  }
  c.globalAlpha = state.group === null || isTaught(state.group) ? 0.95 : 0.08;
  c.fillStyle = ink.group[study.new[0]];
  c.strokeStyle = ink.sea;
  c.lineWidth = 0.8;
  if (newcomers.length) {
    c.fill();
    c.stroke();
  }
  c.globalAlpha = 1;
  for (const i of new Set([state.picked, state.over]))
    if (i !== null) {
      c.strokeStyle = ink.ink;
      c.lineWidth = 1.4;
      c.beginPath();
      c.arc(turned[i], turned[count + i], 6.5, 0, 7);
      c.stroke();
    }
}

function drawAxes(c, project) {
  c.strokeStyle = ink.line;
  c.fillStyle = ink.muted;
  c.lineWidth = 1;
  c.font = `11px ${ink.sans}`;
  [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ].forEach((axis, k) => {
    const [ax, ay] = project(...axis.map(v => -1.05 * v)),
      [bx, by] = project(...axis.map(v => 1.05 * v));
    c.beginPath();
    c.moveTo(ax, ay);
    c.lineTo(bx, by);
    c.stroke();
    const mixed = inner(state.run) === films[state.run].mixed;
    const label = mixed
        ? [...study.axes.map(({name}) => `probe of ${name}`), "first component of the rest"][k]
        : `component ${k + 1}, ${Math.round(100 * current().explained[k])}%`,
      w = c.measureText(label).width;
    c.fillText(
      label,
      Math.max(6, Math.min(spaceView.width - w - 6, bx - w / 2)),
      Math.max(14, Math.min(spaceView.height - 8, by - 7)),
    );
  });
}

function nearestInSpace(x, y, reach = 14) {
  let best = null,
    least = reach * reach;
  for (let i = 0; i < count; i++) {
    if (!visible(i)) continue;
    const dx = turned[i] - x,
      dy = turned[count + i] - y,
      d = dx * dx + dy * dy - 40 * turned[2 * count + i];
    if (d < least) {
      least = d;
      best = i;
    }
  }
  return best;
}

function moveSpace(change) {
  spaceView.touched = true;
  Object.assign(spaceView, change);
  spaceView.pitch = Math.max(-1.5, Math.min(1.5, spaceView.pitch));
  spaceView.zoom = Math.max(0.5, Math.min(9, spaceView.zoom));
  byId("space-reset").hidden = false;
  wake();
}

function startSpace() {
  whileSeen(spaceView);
  gestures(spaceView, {
    drag: (dx, dy) => moveSpace({yaw: spaceView.yaw + dx * 0.008, pitch: spaceView.pitch + dy * 0.008}),
    zoom: factor => moveSpace({zoom: spaceView.zoom * factor}),
    tap: (x, y) => {
      state.over = null;
      spaceView.touched = true;
      pick(nearestInSpace(x, y, 22), spaceView);
    },
    hover: (x, y) => {
      const over = x === null ? null : nearestInSpace(x, y);
      if (over === state.over) return;
      state.over = over;
      spaceView.quiet = false;
      mapView.quiet = true;
      wake();
    },
  });
  spaceView.canvas.addEventListener("keydown", event => {
    const {yaw, pitch, zoom} = spaceView;
    const change = {
      ArrowLeft: {yaw: yaw - 0.12},
      ArrowRight: {yaw: yaw + 0.12},
      ArrowUp: {pitch: pitch - 0.12},
      ArrowDown: {pitch: pitch + 0.12},
      "+": {zoom: zoom * 1.2},
      "=": {zoom: zoom * 1.2},
      "-": {zoom: zoom / 1.2},
      Home: HOME,
    }[event.key];
    if (change) {
      moveSpace(change);
      event.preventDefault();
    } else if (event.key === "Escape") pick(null, spaceView);
  });
  byId("space-reset").addEventListener("click", () => {
    Object.assign(spaceView, HOME, {touched: false});
    byId("space-reset").hidden = true;
    wake();
  });
  painters.push((changed, elapsed) => {
    if (!spaceView.seen) return false;
    const alone = !spaceView.touched && !calm.matches && state.over === null;
    if (alone) spaceView.yaw += 0.16 * elapsed;
    if (changed || alone) drawSpace();
    return alone;
  });
}
