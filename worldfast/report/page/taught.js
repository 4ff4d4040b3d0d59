// Entities that models are taught after pretraining: diamonds, on top of all others.

const isTaught = r => study.new.includes(r);

// If a run was taught the group of an entity.
const knows = (run, i) => study.runs[run].taught.includes(groupOf[i]);

// Adds a diamond to the path of a canvas.
function diamond(c, x, y, r) {
  c.moveTo(x, y - r);
  c.lineTo(x + r, y);
  c.lineTo(x, y + r);
  c.lineTo(x - r, y);
  c.closePath();
}

// Those: filled where they are shown, hollow where they are, paler where the run was not taught them; each group's name
// stands at the median of its diamonds.
function drawTaught(c, view, run, px, py, tx, ty, dot) {
  const members = taught.filter(i => !state.held || films[run].held[i]);
  view.taken = [];
  if (!members.length) return;
  const lit = state.group === null || isTaught(state.group),
    rim = 1.9 * Math.max(1.6, dot),
    asTrue = view === mapView && state.view === "truth";
  if (mapped && !asTrue) {
    c.beginPath();
    for (const i of members) diamond(c, tx(i), ty(i), 0.8 * rim);
    c.globalAlpha = lit ? 0.6 : 0.1;
    c.lineWidth = 0.8;
    c.strokeStyle = ink.ink;
    c.stroke();
  }
  for (const known of [false, true]) {
    c.beginPath();
    for (const i of members) if (known === (asTrue || knows(run, i))) diamond(c, px(i), py(i), rim);
    c.globalAlpha = !lit ? 0.1 : known ? 0.95 : 0.4;
    c.lineWidth = 0.8;
    c.fillStyle = ink.group[study.new[0]];
    c.strokeStyle = ink.sea;
    c.fill();
    c.stroke();
  }
  c.globalAlpha = 1;
  for (const r of lit ? study.new : []) {
    const together = members.filter(i => groupOf[i] === r);
    if (together.length) nameGroup(c, view, r, asTrue || study.runs[run].taught.includes(r), together, px, py);
  }
}

// Writes a group's name above the median of its diamonds, inside the picture.
function nameGroup(c, view, r, known, members, x, y) {
  const mx = median(members.map(x)),
    my = median(members.map(y));
  const spread = median(members.map(i => Math.hypot(x(i) - mx, y(i) - my)));
  c.font = `600 ${view.width < 600 ? 10.5 : 12}px ${ink.sans}`;
  c.lineJoin = "round";
  c.lineWidth = 3.5;
  c.strokeStyle = ink.sea;
  c.fillStyle = ink.ink;
  const text = study.groups[r].name + (known ? "" : ", not taught"),
    wide = c.measureText(text).width;
  const left = Math.max(4, Math.min(view.width - wide - 4, mx - wide / 2)),
    above = Math.max(14, Math.min(view.height - 6, my - Math.min(2.5 * spread, 0.07 * view.width) - 8));
  c.strokeText(text, left, above);
  c.fillText(text, left, above);
  view.taken.push([left, above, wide]); // no other name goes there
}

// How far the probe of a run puts the entities that it was taught from where they are, at a moment: the mean, as in
// findings and figures, or null if it was taught none, or the map has no unit.
function taughtOff(run, at) {
  const known = taught.filter(i => knows(run, i));
  if (!known.length || !study.metric || !films[run]) return null;
  const place = placedAt(run, at);
  const off = i => Math.hypot(place(i) - truth[i], place(count + i) - truth[count + i]);
  return (known.reduce((sum, i) => sum + off(i), 0) / known.length) * study.quantum[0];
}
