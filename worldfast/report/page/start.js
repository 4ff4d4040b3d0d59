// Buttons, sliders and words; then everything is set going.

function pick(one, view) {
  state.picked = one;
  mapView.quiet = view !== mapView;
  spaceView.quiet = view !== spaceView;
  if (one !== null) {
    const {name, group: r, lines} = describe(one);
    byId("said").textContent = `${name}, ${study.groups[r].name}: ${lines.join("; ")}`;
  }
  wake();
}

// A row of choices of which one holds: radio buttons, or a list, in groups where there are several, where they would not
// fit. Returns a function that shows another one as chosen.
function segments(box, name, options, chosen, act) {
  if (options.length > 4 || options.reduce((letters, {label}) => letters + label.length, 0) > 60) {
    const groups = new Map(options.map(({group}) => [group, []]));
    options.forEach(({label, group}, k) => groups.get(group).push(make("option", {value: k}, label)));
    const list = make(
      "select",
      {"aria-label": box.getAttribute("aria-label")},
      ...(groups.size > 1
        ? [...groups].map(([label, members]) => make("optgroup", {label}, ...members))
        : [...groups.values()].flat()),
    );
    list.value = chosen;
    list.addEventListener("change", () => act(+list.value));
    box.replaceChildren(list);
    return k => (list.value = k);
  }
  box.classList.add("segments");
  const inputs = options.map(({label, mark}, k) => {
    const input = make("input", {type: "radio", name, value: k});
    input.checked = k === chosen;
    input.addEventListener("change", () => act(k));
    box.append(make("label", {}, input, make("span", {}, ...(mark ? [mark] : []), label)));
    return input;
  });
  return k => (inputs[k].checked = true);
}

let showModel, showView; // as chosen
async function setModel(run) {
  await choose(run);
  showModel(run);
}
function setView(view) {
  state.view = view;
  state.moved = true;
  showView(VIEWS.indexOf(view));
  wake();
}

function startControls() {
  const choices = [{label: "As the model has it"}, {label: "As it is"}, {label: "Errors"}];
  byId("view").hidden = !mapped;
  if (mapped) showView = segments(byId("view"), "view", choices, 0, k => setView(VIEWS[k]));
  byId("models").setAttribute("role", "radiogroup");
  byId("models").setAttribute("aria-label", "Model");
  showModel = segments(
    byId("models"),
    "model",
    study.runs.map((run, r) => {
      const line = make("line", {
        x1: 1,
        x2: 17,
        y1: 4,
        y2: 4,
        "stroke-width": 3,
        "stroke-dasharray": run.dashes,
      });
      const mark = make("svg", {viewBox: "0 0 18 8", "aria-hidden": "true"}, line);
      mark.style.setProperty("--c", run.colour || "var(--ink)");
      return {label: run.label, mark, group: KINDS[run.kind]};
    }),
    state.run,
    choose,
  );

  if (study.runs.some(run => run.mixed)) {
    segments(byId("directions"), "directions", [{label: "Components"}, {label: "Probes"}], 0, k => {
      state.directions = ["space", "mixed"][k];
      wake();
    });
  }

  byId("play").addEventListener("click", () => (state.playing ? pause() : play()));
  byId("moment").addEventListener("input", event => seek(+event.target.value));
  byId("moment").addEventListener("keydown", event => {
    const keys = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5};
    if (!keys[event.key]) return;
    event.preventDefault(); // the slider's own step is fine, for dragging: keys go from checkpoint to checkpoint
    seek(Math.round(state.at) + keys[event.key]);
  });
  byId("held").addEventListener("change", event => {
    state.held = event.target.checked;
    wake();
  });

  if (study.groups.length > 1)
    byId("groups").replaceChildren(
      ...study.groups.map((r, k) => {
        const mark = make("i"),
          button = make(
            "button",
            {"aria-pressed": "false", title: `${number.format(r.members)} ${study.many}`},
            mark,
            r.name,
          );
        mark.style.setProperty("--c", r.colour);
        mark.classList.toggle("diamond", isTaught(k));
        button.addEventListener("click", () => {
          state.group = state.group === k ? null : k;
          [...byId("groups").children].forEach((other, j) =>
            other.setAttribute("aria-pressed", `${state.group === j}`),
          );
          wake();
        });
        return button;
      }),
    );

  const find = byId("find"),
    folded = study.names.map(name => name.toLowerCase());
  find.addEventListener("input", () => {
    const typed = find.value.trim().toLowerCase(),
      exact = folded.indexOf(typed);
    if (!typed) return pick(null, mapView);
    const near = [];
    for (let i = 0; i < count && near.length < 12; i++)
      if (folded[i].startsWith(typed)) near.push(study.names[i]);
    byId("names").replaceChildren(...[...new Set(near)].map(name => make("option", {value: name})));
    const found = exact >= 0 ? exact : near.length === 1 ? folded.indexOf(near[0].toLowerCase()) : null;
    if (found !== null) pick(found, mapView);
  });

  for (const copy of document.querySelectorAll("[data-copy]")) {
    copy.hidden = !navigator.clipboard;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(byId(copy.dataset.copy).textContent);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1600);
    });
  }
}

// What the pictures show of the chosen model, in words.
const components = byId("space-what").textContent;
function drawWords() {
  const {mixed} = films[state.run];
  byId("directions").hidden = !mixed;
  byId("space-what").textContent =
    inner(state.run) === mixed
      ? `The same model’s activations at the same moment along three directions, one point per ${study.one}: those in ` +
        `which a linear probe reads ${study.axes.map(({name}) => name).join(" and ")}, and the first principal component ` +
        "of what is left; scaled to fill the frame."
      : components;
  const among = peers().length;
  byId("peers").hidden = among === study.runs.length;
  const models = among === 1 ? "model" : "models";
  byId("peers").textContent = ` The curves are of the ${among} ${KINDS[current().kind].toLowerCase()} ${models} shown.`;
}

function drawNumbers() {
  const run = current(),
    rows = Math.round(between(run.rows)),
    r2 = between(run.r2),
    each = run.r2_of.map(series => between(series)),
    error = between(run.error);
  const score = v =>
    v === null ? "none" : Math.abs(v) < 10 ? v.toFixed(2).replace("-", "−") : v.toExponential(0);
  const facts = [
    [short(rows), "rows seen"],
  ];
  if (each.length) {
    const names = study.columns.map((name, k) => `${name} ${score(each[k])}`);
    facts.push([score(r2), each.length < 2 ? `R² of ${study.columns[0]}` : `R² (${names.slice(0, 4).join(", ")}${each.length > 4 ? " …" : ""})`]);
    if (study.metric) facts.push([error === null ? "none" : length(error), "median error"]);
    facts.push([number.format(run.held_out), `held-out ${study.many}`]);
  }
  const off = taughtOff(state.run, state.at),
    names = run.taught.map(r => study.groups[r].name).join(" and ");
  if (off !== null) facts.push([length(off), `${names}, mean error`]);
  byId("numbers").replaceChildren(
    ...facts.map(([value, name]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
  const moment = byId("moment");
  moment.max = lastMoment();
  moment.value = state.at;
  moment.setAttribute("aria-valuetext", `${short(rows)} rows seen` + (each.length ? `, R² ${score(r2)}` : ""));
  byId("clock").replaceChildren(`${short(rows)} rows`, make("span", {}, " seen"));
  byId("play").classList.toggle("playing", state.playing);
  byId("play").setAttribute("aria-label", state.playing ? "Pause" : "Play training");
}

const repaints = []; // functions that draw what stands still in other colours

// While it is printed, the page shows the end of training, on paper, and all that is folded away.
function startPrinting() {
  const repaint = () => {
    theme();
    for (const draw of repaints) draw();
    wake();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  let before;
  addEventListener("beforeprint", () => {
    before ??= {at: state.at, playing: state.playing, seen: [mapView, spaceView, ...sides].map(view => view.seen)};
    document.documentElement.classList.add("print");
    document.querySelectorAll("details").forEach(node => (node.open = true));
    theme();
    for (const draw of repaints) draw();
    Object.assign(state, {at: lastMoment(), playing: false});
    for (const view of [mapView, spaceView, ...sides]) view.seen = true;
    settle();
    dirty = true;
    tick(performance.now());
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("print");
    [mapView, spaceView, ...sides].forEach((view, k) => (view.seen = before.seen[k]));
    state.at = before.at;
    if (before.playing) play();
    before = undefined;
    repaint();
  });
}

// The map forms once it is seen, and rests at its end; where motion is not wanted, it is there from the start.
function playWhenSeen() {
  new IntersectionObserver((entries, watch) => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    watch.disconnect();
    setTimeout(() => state.at === 0 && !state.playing && !state.moved && play(), 500);
  }, {threshold: 0.5}).observe(mapView.canvas);
}

// The slider stays in reach while something that it moves is in sight.
function startTransport() {
  const seen = new Set(),
    bar = byId("transport");
  bar.hidden = false;
  const watch = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) seen[isIntersecting ? "add" : "delete"](target);
    bar.classList.toggle("away", !seen.size && !bar.contains(document.activeElement));
  });
  for (const id of ["maps", "explore"]) watch.observe(byId(id));
}

async function start() {
  theme();
  startTable();
  startFigures();
  startFiles();
  startCharts();
  unfold();
  addEventListener("hashchange", unfold);
  await decode();
  byId("explore").hidden = byId("maps").hidden = false;
  startControls();
  startMap();
  startSpace();
  startCurves();
  startPictureFiles();
  startTransport();
  painters.push(changed => {
    if (changed) {
      drawNumbers();
      drawWords();
    }
    return false;
  });
  startPrinting();
  new ResizeObserver(wake).observe(document.body);

  state.at = calm.matches ? lastMoment() : 0;
  const sent = await followAddress();
  startAddress();
  settle();
  await startPair();
  tick(performance.now()); // drawn before the page says that it is ready, whenever the browser paints
  if (!sent && !calm.matches) playWhenSeen();
  document.documentElement.dataset.ready = "true";
}

start().catch(error => {
  byId("failed").hidden = false;
  byId("failed").textContent =
    typeof DecompressionStream === "undefined"
      ? "The moving pictures on this page need a newer browser: Chrome 80, Firefox 113, Safari 16.4 or later."
      : `The moving pictures on this page could not start: ${error.message}`;
  console.error(error);
});
