// Two fine-tunes side by side on the slider of the map: one that took its group in, and one that left it out. Both stand
// at the same share of their own training as the model of the map does of its.

const sides = study.pair.map((run, k) => ({
  run,
  canvas: byId(["near", "far"][k]),
  says: byId(["near-says", "far-says"][k]),
  verdict: ["taken in", "left out"][k],
  places: new Float32Array(2 * count),
  zoom: 1,
  x: 0,
  y: 0,
  width: 0,
  height: 0,
  seen: true,
}));
let share = 0; // of its training that the model of the map has had

function drawSide(side) {
  const run = study.runs[side.run],
    last = run.rows.length - 1,
    at = share * last,
    low = Math.min(Math.floor(at), last),
    stride = 2 * count,
    {map} = films[side.run];
  const a = low * stride,
    b = Math.min(low + 1, last) * stride;
  for (let i = 0; i < stride; i++) side.places[i] = map[a + i] + (map[b + i] - map[a + i]) * (at - low);
  const c = fit(side, heightOf(side.canvas.clientWidth, 0.6));
  if (c) paintMap(c, side, side.run, side.places, "model");
  const name = study.groups[run.taught[0]].name,
    off = taughtOff(side.run, at),
    after = short(run.rows[low] + (run.rows[Math.min(low + 1, last)] - run.rows[low]) * (at - low));
  const done = at > last - 1e-6;
  side.says.replaceChildren(
    make("b", {}, done ? `${name} ${side.verdict}: ` : `${name}: `),
    `${length(off)} off, taught by ${run.label.replace(/, fine-tuned$/, "")}, after ${after} rows`,
  );
  side.canvas.setAttribute("aria-label", side.says.textContent);
}

async function startPair() {
  if (!sides.length) return byId("pair").remove();
  await Promise.all(study.pair.map(film));
  byId("maps").classList.add("with-pair");
  byId("pair").hidden = false;
  for (const side of sides) {
    whileSeen(side);
    side.canvas.addEventListener("click", () => setModel(side.run));
  }
  painters.push(changed => {
    if (changed) {
      share = lastMoment() ? state.at / lastMoment() : 1;
      for (const side of sides) if (side.seen) drawSide(side);
    }
    return false;
  });
  wake();
}
