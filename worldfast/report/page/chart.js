// Curves of figures, drawn here so that a reader can point at them: a panel each, with what a point says beside it.

const CHART = {left: 46, top: 26, bottom: 38, letter: 6.7};

function ticksOf(low, high, log, about) {
  if (!log) return niceSteps(low, high, about);
  const marks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const m of [1, 2, 5]) marks.push(+(m * 10 ** power).toPrecision(3));
  const there = marks.filter(v => v >= low * 0.999 && v <= high * 1.001);
  return there.length > 1 ? there : niceSteps(low, high, about);
}

const inkOf = colour => (colour === study.ink ? ink.ink : lighten(colour));

function drawPanel(panel, box, tip) {
  const width = box.clientWidth,
    height = Math.round(Math.max(240, Math.min(320, width * 0.75)));
  const named = panel.lines.filter(line => line.name),
    xs = panel.lines.flatMap(line => line.x).filter(v => v !== null),
    edges = ({y, error}) => y.flatMap((v, k) => (v === null ? [] : [v - (error?.[k] ?? 0), v + (error?.[k] ?? 0)])),
    ys = panel.lines.flatMap(edges).filter(v => !panel.log[1] || v > 0);
  const longest = Math.min(22, Math.max(...named.filter(line => line.joined).map(line => line.name.length)));
  const area = {
    left: CHART.left,
    right: width - Math.min(0.36 * width, 14 + CHART.letter * longest),
    top: CHART.top,
    bottom: height - CHART.bottom,
  };
  const scale = (values, log, low, from, to) => {
    const f = log ? Math.log : v => v;
    const a = low ?? Math.min(...values),
      b = Math.max(...values, a + 1e-9);
    return Object.assign(v => from + ((to - from) * (f(v) - f(a))) / (f(b) - f(a) || 1), {a, b});
  };
  const sx = scale(xs, panel.log[0], null, area.left, area.right),
    sy = scale(ys, panel.log[1], panel.log[1] ? null : panel.low, area.bottom, area.top);
  const svg = make("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${panel.title}: ${panel.y} over ${panel.x}`});
  svg.append(make("text", {class: "name", x: 0, y: 12}, [panel.title, panel.y].filter(Boolean).join(": ")));
  for (const v of ticksOf(sy.a, sy.b, panel.log[1], 4))
    svg.append(
      make("line", {class: "grid", x1: area.left, x2: area.right, y1: sy(v), y2: sy(v)}),
      make("text", {x: area.left - 7, y: sy(v) + 4, "text-anchor": "end"}, short(v)),
    );
  const names = panel.names ?? [],
    nameOf = v => names.find(([place]) => Math.abs(place - v) < 0.25)?.[1],
    say = v => nameOf(v) ?? (panel.percent ? `${Math.round(100 * v)}%` : short(v));
  for (const v of names.length ? names.map(([place]) => place) : ticksOf(sx.a, sx.b, panel.log[0], width < 420 ? 3 : 5))
    svg.append(make("text", {x: sx(v), y: area.bottom + 16, "text-anchor": "middle"}, say(v)));
  svg.append(make("text", {x: area.right, y: height - 4, "text-anchor": "end"}, panel.x));

  const points = [];
  for (const line of panel.lines) {
    const colour = inkOf(line.colour),
      at = line.x.map((x, k) => (x === null || line.y[k] === null ? null : [sx(x), sy(line.y[k])])),
      group = make("g", {class: line.name ? "curve-of" : "curve-of faint"});
    if (line.error && line.joined) {
      const edge = sign => line.y.map((y, k) => at[k] && `${at[k][0].toFixed(1)} ${sy(Math.max(panel.log[1] ? sy.a : -1e300, y + sign * (line.error[k] ?? 0))).toFixed(1)}`).filter(Boolean);
      group.append(make("path", {d: `M${[...edge(1), ...edge(-1).reverse()].join("L")}z`, fill: colour, opacity: 0.16}));
    }
    if (line.joined) {
      let d = "",
        pen = "M";
      for (const one of at) {
        d += one ? `${pen}${one[0].toFixed(1)} ${one[1].toFixed(1)}` : "";
        pen = one ? "L" : "M";
      }
      group.append(make("path", {class: "line", d, stroke: colour, "stroke-dasharray": line.dash || "none"}));
    }
    at.forEach((one, k) => {
      if (!one || !line.name) return;
      points.push({line, k, x: one[0], y: one[1], group});
      if (line.joined) group.append(make("circle", {cx: one[0], cy: one[1], r: 2.4, fill: colour, stroke: "none"}));
      else group.append(make("circle", {cx: one[0], cy: one[1], r: 4, fill: "none", stroke: colour, class: "ring"}));
    });
    svg.append(group);
  }
  const ends = named
    .filter(line => line.joined && line.y.some(v => v !== null))
    .map(line => ({line, at: sy(line.y.findLast(v => v !== null))}))
    .sort((a, b) => a.at - b.at);
  ends.forEach((end, k) => {
    if (k) end.at = Math.max(end.at, ends[k - 1].at + 13);
  });
  const over = ends.length ? Math.max(0, ends[ends.length - 1].at - area.bottom - 14) : 0;
  for (const {line, at} of ends) {
    const text = line.name.length > longest ? `${line.name.slice(0, longest - 1)}…` : line.name;
    svg.append(make("text", {class: "name", x: area.right + 8, y: at - over + 4, style: `fill:${inkOf(line.colour)}`}, text));
  }
  const ring = make("circle", {r: 6, class: "pointed", visibility: "hidden"});
  svg.append(ring);
  box.replaceChildren(svg);

  // A point in words: its line, where it is, and how sure it is.
  const show = point => {
    svg.querySelectorAll(".curve-of").forEach(group => group.classList.toggle("away", point !== null && group !== point.group));
    ring.setAttribute("visibility", point === null ? "hidden" : "visible");
    tip.hidden = point === null;
    if (point === null) return;
    ring.setAttribute("cx", point.x);
    ring.setAttribute("cy", point.y);
    const {line, k} = point,
      error = line.error?.[k],
      value = +line.y[k].toPrecision(3);
    tip.replaceChildren(
      make("b", {}, line.name),
      make("span", {}, `${panel.y}: ${value.toLocaleString("en")}${error ? ` ± ${+error.toPrecision(2)}` : ""}`),
      make("span", {}, `${panel.x}: ${say(line.x[k])}`),
    );
    const left = box.offsetLeft + point.x + (point.x > width / 2 ? -tip.offsetWidth - 12 : 12);
    tip.style.transform = `translate(${Math.max(0, left)}px, ${box.offsetTop + point.y - tip.offsetHeight / 2}px)`;
  };
  const nearest = event => {
    const at = svg.getBoundingClientRect();
    let best = null,
      least = 40 ** 2;
    for (const point of points) {
      const d = (point.x - event.clientX + at.left) ** 2 + (point.y - event.clientY + at.top) ** 2;
      if (d < least) [best, least] = [point, d];
    }
    return best;
  };
  let held = null;
  const on = {
    pointermove: event => show((held = nearest(event))),
    pointerdown: event => show((held = nearest(event))),
    pointerleave: () => show((held = null)),
    blur: () => show((held = null)),
    keydown: event => {
      const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: named.length, ArrowUp: -named.length}[event.key];
      if (!step) return;
      event.preventDefault();
      const turn = points.findIndex(point => point.line === held?.line && point.k === held?.k);
      if (Math.abs(step) === 1 || turn < 0) held = points[(turn + step + points.length) % points.length];
      else {
        const next = named[(named.indexOf(held.line) + Math.sign(step) + named.length) % named.length];
        held = points.find(point => point.line === next && point.k >= held.k) ?? points.find(point => point.line === next);
      }
      show(held);
      byId("said").textContent = [...tip.children].map(node => node.textContent).join("; ");
    },
  };
  svg.setAttribute("tabindex", 0);
  for (const [kind, act] of Object.entries(on)) svg.addEventListener(kind, act);
}

function startCharts() {
  for (const node of document.querySelectorAll("[data-chart]")) {
    const panels = study.charts[node.dataset.chart],
      tip = make("div", {class: "tip", hidden: ""}),
      boxes = panels.map(() => make("div", {class: "panel-of"}));
    node.replaceChildren(...boxes, tip);
    node.hidden = false;
    node.parentNode.classList.add("has-chart");
    let drawn = "";
    const draw = () => {
      const now = `${node.clientWidth} ${ink.ink}`;
      if (!node.clientWidth || now === drawn) return;
      drawn = now;
      panels.forEach((panel, k) => drawPanel(panel, boxes[k], tip));
    };
    new ResizeObserver(() => requestAnimationFrame(draw)).observe(node);
    node.closest("details")?.addEventListener("toggle", draw);
    repaints.push(draw);
  }
}
