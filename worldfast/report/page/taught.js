// Entities that models are taught after pretraining: diamonds, on top of all others.

const isTaught = r => study.new.includes(r);

// Adds a diamond to the path of a canvas.
function diamond(c, x, y, r) {
  c.moveTo(x, y - r);
  c.lineTo(x + r, y);
  c.lineTo(x, y + r);
  c.lineTo(x - r, y);
  c.closePath();
}

// Those: filled where they are shown, hollow where they are; a group's name stands where its entities are together.
function drawTaught(c, px, py, tx, ty, dot) {
  const members = taught.filter(i => !state.held || films[state.run].held[i]);
  mapView.taken = [];
  if (!members.length) return;
  const lit = state.group === null || isTaught(state.group),
    rim = 1.9 * Math.max(1.6, dot);
  if (mapped && state.view !== "truth") {
    c.beginPath();
    for (const i of members) diamond(c, tx(i), ty(i), 0.8 * rim);
    c.globalAlpha = lit ? 0.6 : 0.1;
    c.lineWidth = 0.8;
    c.strokeStyle = ink.ink;
    c.stroke();
  }
  c.beginPath();
  for (const i of members) diamond(c, px(i), py(i), rim);
  c.globalAlpha = lit ? 0.95 : 0.1;
  c.lineWidth = 0.8;
  c.fillStyle = ink.group[study.new[0]];
  c.strokeStyle = ink.sea;
  c.fill();
  c.stroke();
  c.globalAlpha = 1;
  for (const r of lit ? study.new : []) {
    const together = members.filter(i => groupOf[i] === r);
    if (together.length && !nameGroup(c, r, together, px, py) && mapped) nameGroup(c, r, together, tx, ty);
  }
}

// Writes a group's name above its entities where they lie together; false where they do not.
function nameGroup(c, r, members, x, y) {
  const mx = median(members.map(x)),
    my = median(members.map(y));
  const spread = median(members.map(i => Math.hypot(x(i) - mx, y(i) - my)));
  if (spread > 0.08 * mapView.width) return false;
  c.font = `600 ${mapView.width < 600 ? 10.5 : 12}px ${ink.sans}`;
  c.lineJoin = "round";
  c.lineWidth = 3.5;
  c.strokeStyle = ink.sea;
  c.fillStyle = ink.ink;
  const text = study.groups[r].name,
    left = mx - c.measureText(text).width / 2,
    above = my - 2.5 * spread - 8;
  c.strokeText(text, left, above);
  c.fillText(text, left, above);
  mapView.taken.push([left, above, c.measureText(text).width]); // no other name goes there
  return true;
}
