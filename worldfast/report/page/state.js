// The study, what is being looked at, and the loop that moves the pictures towards it.

const study = JSON.parse(document.getElementById("study").textContent);
const byId = id => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const count = study.names.length;
const sparse = Math.max(1, Math.min(2.4, Math.sqrt(900 / count))); // few entities are drawn larger
const mapped = study.xy !== null; // two attributes are drawn as a map; else the first two principal components
const number = new Intl.NumberFormat("en");
const KINDS = {pt: "Pretrained", ft: "Fine-tuned"};

const state = {
  run: study.best, // index of the model shown
  at: 0, // moment of training, in checkpoints of that model; fractions lie between two
  view: "model", // model | truth | errors
  group: null, // the one group shown, or null
  picked: null, // the entity picked
  over: null, // the entity under the pointer
  directions: "space", // space: principal components; mixed: along the probes
  held: false, // only entities the probe was not fitted on
  playing: false,
  moved: false, // by the reader, whose choices are then in the page's address
};

// Integers [S, C, N] from the page: base64 of zlib of the differences along the first axis, zigzag, low bytes first.
async function unpack(text, length, stride) {
  const zipped = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (bytes.length !== 2 * length)
    throw new Error(`the page holds ${bytes.length} bytes of film, expected ${2 * length}`);
  const values = new Int16Array(length);
  for (let i = 0; i < length; i++) {
    const zigzag = bytes[i] | (bytes[length + i] << 8);
    values[i] = ((zigzag >>> 1) ^ -(zigzag & 1)) + (i >= stride ? values[i - stride] : 0);
  }
  return values;
}

// A run's film: map [S, 2, N] in steps of study.quantum from study.origin; space, and mixed where it has one, [S, 3, N] in shares of each
// moment's radius; held [N].
const films = [];
async function film(index) {
  if (films[index]) return;
  const run = study.runs[index],
    moments = run.rows.length;
  const [map, space, held, mixed] = await Promise.all([
    unpack(run.map, moments * 2 * count, 2 * count),
    unpack(run.space, moments * 3 * count, 3 * count),
    unpack(run.held, count, count),
    run.mixed ? unpack(run.mixed, moments * 3 * count, 3 * count) : null,
  ]);
  films[index] = {map, space, held, mixed};
}

let truth, groupOf, size; // Int16Array [2, N]; group index and dot size [N]
let drawOrder; // [{index, members}]: groups interleaved, so that none hides another; without those that are taught
let taught = []; // entities that models are taught after pretraining, which are diamonds on top of all others
const shown = {map: new Float32Array(2 * count), space: new Float32Array(3 * count)};

async function decode() {
  truth = mapped ? await unpack(study.xy, 2 * count, 2 * count) : new Int16Array(2 * count);
  groupOf = await unpack(study.group, count, count);
  size = await unpack(study.size, count, count);
  drawOrder = [];
  for (let layer = 0; layer < 6; layer++) {
    study.groups.forEach((_, r) => {
      if (isTaught(r)) return;
      const members = [];
      for (let i = layer; i < count; i += 6) if (groupOf[i] === r) members.push(i);
      if (members.length) drawOrder.push({index: r, members});
    });
  }
  for (let i = 0; i < count; i++) if (isTaught(groupOf[i])) taught.push(i);
  await film(state.run);
}

// The middle of some numbers.
function median(values) {
  const sorted = Float64Array.from(values).sort(),
    half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// The film of the directions that are looked at; a model without the mixed view shows its components.
function inner(index) {
  const {space, mixed} = films[index];
  return state.directions === "mixed" && mixed ? mixed : space;
}

// The models that the chosen one is compared with in the curves: those of its kind.
const peers = () => study.runs.map((_, r) => r).filter(r => study.runs[r].kind === current().kind);

const current = () => study.runs[state.run];
const lastMoment = () => current().rows.length - 1;
const visible = i =>
  (state.group === null || groupOf[i] === state.group) && (!state.held || films[state.run].held[i]);

// The moments on both sides of one of `moments`, and the share of the way to the later.
function around(at, moments) {
  const low = Math.min(Math.floor(at), moments - 1);
  return [low, Math.min(low + 1, moments - 1), at - low];
}

// A series of a run's checkpoints between two of them; null where one of the two is missing.
function between(series, at = state.at) {
  const [low, high, f] = around(at, series.length);
  if (series[low] === null || series[high] === null) return null;
  return series[low] + (series[high] - series[low]) * f;
}

// Where a run's map has the entities at a moment: a function of an index into [2, N].
function placedAt(run, at) {
  const {map} = films[run],
    [low, high, f] = around(at, study.runs[run].rows.length);
  const a = low * 2 * count,
    b = high * 2 * count;
  return k => map[a + k] + (map[b + k] - map[a + k]) * f;
}

// Moves what is shown towards the chosen model, moment and view; returns the largest step that is left.
function approach(target, values, axes, share) {
  const stride = axes * count,
    [low, high, f] = around(state.at, current().rows.length);
  const a = low * stride,
    b = high * stride;
  let left = 0;
  for (let i = 0; i < stride; i++) {
    const goal = values === truth ? truth[i] : values[a + i] + (values[b + i] - values[a + i]) * f;
    const step = goal - target[i];
    target[i] += step * share;
    if (step > left) left = step;
    else if (-step > left) left = -step;
  }
  return left;
}

// Puts the pictures where they are going, without the way there.
function settle() {
  approach(shown.map, state.view === "truth" ? truth : films[state.run].map, 2, 1);
  approach(shown.space, inner(state.run), 3, 1);
}

// ---- the loop: runs only while something moves ----

const painters = []; // functions (what changed) -> true while they want to go on by themselves
let asked = 0,
  before = 0,
  dirty = true;
function wake() {
  dirty = true;
  if (!asked) asked = requestAnimationFrame(tick);
}

const PLAY_SECONDS = 11,
  EARLY = 1.7; // a map forms early: the first moments get more of the time
let played = 0; // share of the playing time, 0..1

function tick(now) {
  const elapsed = Math.max(0, Math.min(0.1, (now - before) / 1000));
  cancelAnimationFrame(asked); // one loop, also where it is called outside a frame
  asked = 0;
  before = now;
  if (state.playing) {
    played = Math.min(1, played + elapsed / PLAY_SECONDS);
    const at = lastMoment() * played ** EARLY;
    state.at = calm.matches ? Math.floor(at + 1e-9) : at;
    if (played === 1) pause();
    dirty = true;
  }
  const share = calm.matches ? 1 : 1 - Math.exp(-elapsed / 0.085);
  const {map} = films[state.run];
  const left = Math.max(
    approach(shown.map, state.view === "truth" ? truth : map, 2, share) / study.extent,
    approach(shown.space, inner(state.run), 3, share) / study.radius,
  );
  const moving = left > 4e-4;
  let again = moving || state.playing;
  for (const paint of painters) again = paint(dirty || moving, elapsed) || again;
  dirty = false;
  if (again && !asked) asked = requestAnimationFrame(tick);
}

function play() {
  if (state.at >= lastMoment() - 1e-6) state.at = 0;
  played = lastMoment() ? (state.at / lastMoment()) ** (1 / EARLY) : 1;
  state.playing = true;
  before = performance.now();
  wake();
}

function pause() {
  state.playing = false;
  wake();
}

function seek(at) {
  state.playing = false;
  state.moved = true;
  state.at = Math.max(0, Math.min(lastMoment(), at));
  wake();
}

async function choose(index) {
  const share = lastMoment() ? state.at / lastMoment() : 1;
  await film(index);
  state.run = index;
  state.at = share * lastMoment();
  state.moved = true;
  wake();
}

// ---- words and colours ----

function short(value) {
  for (const [unit, letter] of [
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ])
    if (Math.abs(value) >= unit * 0.9995) return `${+(value / unit).toPrecision(3)}${letter}`;
  return `${+value.toPrecision(3)}`;
}

// A value of an attribute of the map in words, and a place, and a distance.
function written({scale, digits, unit, signs}, value) {
  const v = value * scale;
  const text = Math.abs(v).toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits}) + unit;
  return signs.length ? `${text} ${v >= 0 ? signs[0] : signs[1]}` : (v < 0 ? "−" : "") + text;
}
function place(...values) {
  const parts = study.axes.map((axis, k) => (axis.signs.length ? "" : `${axis.name} `) + written(axis, values[k]));
  return (study.axes[0].signs.length ? parts.reverse() : parts).join(", "); // north or south comes first
}
const length = value => written({...study.axes[0], signs: []}, value);

// A colour for the ground that the page has, light or dark.
const lighten = hex =>
  "#" +
  [1, 3, 5]
    .map(i => {
      const c = parseInt(hex.slice(i, i + 2), 16);
      return Math.round(c + (255 - c) * ink.tint)
        .toString(16)
        .padStart(2, "0");
    })
    .join("");

let ink;
function theme() {
  const style = getComputedStyle(document.documentElement),
    read = name => style.getPropertyValue(name).trim();
  ink = {tint: parseFloat(read("--tint")) / 100};
  Object.assign(ink, {
    ink: read("--ink"),
    muted: read("--muted"),
    line: read("--line"),
    sea: read("--sea"),
    ghost: read("--ghost"),
    sans: read("--sans"),
    group: study.groups.map(r => (r.colour ? lighten(r.colour) : read("--ink"))),
    run: study.runs.map(r => (r.colour ? lighten(r.colour) : read("--ink"))),
  });
}

function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "path", "line", "text", "circle", "rect", "g"].includes(tag);
  const node = drawn
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// What an entity's label says: the map's tip, the 3D view's, and the screen reader's sentence.
function describe(i) {
  const value = (steps, k) => study.origin[k] + steps * study.quantum[k];
  const x = value(truth[i], 0),
    y = value(truth[count + i], 1);
  const {map, held} = films[state.run],
    low = Math.round(state.at) * 2 * count;
  const px = value(map[low + i], 0),
    py = value(map[low + count + i], 1);
  const unknown = isTaught(groupOf[i]) && !knows(state.run, i), // its distance would be no error of the model
    seen = held[i] ? "not seen by the probe" : "the probe was fitted on it",
    off = study.metric ? `${length(Math.hypot(px - x, py - y))} off, ` : "";
  return {
    name: study.names[i] || `${study.one} ${i}`,
    group: groupOf[i],
    px,
    py,
    lines: mapped ? [`is at ${place(x, y)}`, `placed at ${place(px, py)}`, unknown ? "not taught to this model" : off + seen] : [],
  };
}

function fillTip(tip, i, x, y, box) {
  tip.hidden = i === null || x === null;
  if (tip.hidden) return;
  const one = describe(i),
    mark = make("i");
  mark.style.setProperty("--c", study.groups[one.group].colour || "var(--ink)");
  mark.classList.toggle("diamond", isTaught(one.group));
  tip.replaceChildren(
    make("b", {}, one.name),
    make("span", {}, mark, study.groups[one.group].name),
    ...one.lines.map(line => make("span", {}, line)),
  );
  const w = tip.offsetWidth,
    h = tip.offsetHeight;
  const left = x + 14 + w < box.width ? x + 14 : x - w - 14;
  tip.style.transform = `translate(${Math.max(4, Math.min(box.width - w - 4, left))}px, ${Math.max(4, Math.min(box.height - h - 4, y - h / 2))}px)`;
}
