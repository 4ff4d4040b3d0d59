// The study, what is being looked at, and the loop that moves the pictures towards it.

const study = JSON.parse(document.getElementById("study").textContent);
const byId = id => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const count = study.names.length;
const number = new Intl.NumberFormat("en");
const KINDS = {pt: "Pretrained", ft: "Fine-tuned"};

const state = {
  run: study.best, // index of the model shown
  at: 0, // moment of training, in checkpoints of that model; fractions lie between two
  view: "model", // model | truth | errors
  region: null, // the one region shown, or null
  city: null, // the city picked
  over: null, // the city under the pointer
  directions: "space", // space: principal components; mixed: along the probes
  held: false, // only cities the probe was not fitted on
  playing: false,
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

// A run's film: map [S, 2, N] in steps of study.quantum; space, and mixed where it has one, [S, 3, N] in shares of each
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

let truth, region, size; // Int16Array [2, N]; region index and dot size [N]
let drawOrder; // [{region, cities}]: regions interleaved, so that none hides another; without those that are taught
let taught = []; // cities that models are taught after pretraining, which are diamonds on top of all others
const shown = {map: new Float32Array(2 * count), space: new Float32Array(3 * count)};

async function decode() {
  truth = await unpack(study.xy, 2 * count, 2 * count);
  region = await unpack(study.region, count, count);
  size = await unpack(study.size, count, count);
  drawOrder = [];
  for (let layer = 0; layer < 6; layer++) {
    study.regions.forEach((_, r) => {
      if (isTaught(r)) return;
      const cities = [];
      for (let i = layer; i < count; i += 6) if (region[i] === r) cities.push(i);
      if (cities.length) drawOrder.push({region: r, cities});
    });
  }
  for (let i = 0; i < count; i++) if (isTaught(region[i])) taught.push(i);
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
  (state.region === null || region[i] === state.region) && (!state.held || films[state.run].held[i]);

// A series of the run's checkpoints between two of them; null where one of the two is missing.
function between(series) {
  const low = Math.min(Math.floor(state.at), series.length - 1),
    high = Math.min(low + 1, series.length - 1);
  if (series[low] === null || series[high] === null) return null;
  return series[low] + (series[high] - series[low]) * (state.at - low);
}

// Moves what is shown towards the chosen model, moment and view; returns the largest step that is left.
function approach(target, values, axes, share) {
  const stride = axes * count,
    low = Math.min(Math.floor(state.at), lastMoment());
  const a = low * stride,
    b = Math.min(low + 1, lastMoment()) * stride,
    f = state.at - low;
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
  state.at = Math.max(0, Math.min(lastMoment(), at));
  wake();
}

async function choose(index) {
  const share = lastMoment() ? state.at / lastMoment() : 1;
  await film(index);
  state.run = index;
  state.at = share * lastMoment();
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

function place(x, y) {
  if (!study.geographic) return `x ${number.format(Math.round(x))}, y ${number.format(Math.round(y))}`;
  const part = (v, plus, minus) => `${Math.abs(v / 10).toFixed(1)}° ${v >= 0 ? plus : minus}`;
  return `${part(y, "N", "S")}, ${part(x, "E", "W")}`;
}
const length = units => (study.geographic ? `${(units / 10).toFixed(1)}°` : number.format(Math.round(units)));

let ink;
function theme() {
  const style = getComputedStyle(document.documentElement),
    read = name => style.getPropertyValue(name).trim();
  const tint = parseFloat(read("--tint")) / 100;
  const lighten = hex =>
    "#" +
    [1, 3, 5]
      .map(i => {
        const c = parseInt(hex.slice(i, i + 2), 16);
        return Math.round(c + (255 - c) * tint)
          .toString(16)
          .padStart(2, "0");
      })
      .join("");
  ink = {
    ink: read("--ink"),
    muted: read("--muted"),
    line: read("--line"),
    sea: read("--sea"),
    ghost: read("--ghost"),
    sans: read("--sans"),
    region: study.regions.map(r => (r.colour ? lighten(r.colour) : read("--ink"))),
    run: study.runs.map(r => (r.colour ? lighten(r.colour) : read("--ink"))),
  };
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

// What a city's label says: the map's tip, the 3D view's, and the screen reader's sentence.
function describe(i) {
  const x = truth[i] * study.quantum,
    y = truth[count + i] * study.quantum;
  const {map, held} = films[state.run],
    low = Math.round(state.at) * 2 * count;
  const px = map[low + i] * study.quantum,
    py = map[low + count + i] * study.quantum;
  return {
    name: study.names[i] || `city ${i}`,
    region: region[i],
    px,
    py,
    lines: [
      `is at ${place(x, y)}`,
      `placed at ${place(px, py)}`,
      `${length(Math.hypot(px - x, py - y))} off, ${held[i] ? "not seen by the probe" : "the probe was fitted on it"}`,
    ],
  };
}

function fillTip(tip, i, x, y, box) {
  tip.hidden = i === null || x === null;
  if (tip.hidden) return;
  const city = describe(i),
    mark = make("i");
  mark.style.setProperty("--c", study.regions[city.region].colour || "var(--ink)");
  mark.classList.toggle("diamond", isTaught(city.region));
  tip.replaceChildren(
    make("b", {}, city.name),
    make("span", {}, mark, study.regions[city.region].name),
    ...city.lines.map(line => make("span", {}, line)),
  );
  const w = tip.offsetWidth,
    h = tip.offsetHeight;
  const left = x + 14 + w < box.width ? x + 14 : x - w - 14;
  tip.style.transform = `translate(${Math.max(4, Math.min(box.width - w - 4, left))}px, ${Math.max(4, Math.min(box.height - h - 4, y - h / 2))}px)`;
}
