// Two fine-tunes side by side on the slider of the map: one that took its group in, and one that left it out. Both stand
// at the same share of their own training as the model of the map does of its.

const sides = study.pair.map((run, k) => ({
  ...flatView(["near", "far"][k]),
  run,
  says: byId(["near-says", "far-says"][k]),
  verdict: ["taken in", "left out"][k],
  places: new Float32Array(2 * count),
}));
let share = 0; // of its training that the model of the map has had

function drawSide(side) {
  const run = study.runs[side.run],
    last = run.rows.length - 1,
    at = share * last,
    place = placedAt(side.run, at);
  for (let k = 0; k < 2 * count; k++) side.places[k] = place(k);
  const c = fit(side, heightOf(side.canvas.clientWidth, 0.6));
  if (c) paintMap(c, side, side.run, side.places, "model");
  const name = study.groups[run.taught[0]].name,
    after = short(Math.round(between(run.rows, at)));
  const done = at > last - 1e-6,
    now = done ? "" : `; now ${length(taughtOff(side.run, at))}`;
  side.says.replaceChildren(
    make("b", {}, `${name}, ${done ? "" : "in the end "}${side.verdict}: `), // said before the end, for who looks briefly
    `${length(taughtOff(side.run, last))} off on average${now}, ` +
      `taught by ${run.label.replace(/, fine-tuned$/, "")}, after ${after} rows`,
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
