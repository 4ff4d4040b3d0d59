// Loss and probe R2 against rows seen, a line a model, with the moment that the pictures show.

const curves = [
  {node: byId("curve-r2"), x: run => run.curve_rows, y: run => run.curve_r2, low: 0, high: 1, percent: false, nulls: run => run.nulls},
  {node: byId("curve-loss"), x: run => run.loss_rows, y: run => run.loss, nulls: () => []},
];

function niceSteps(low, high, about) {
  const raw = (high - low) / about,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find(m => m * power >= raw * 0.999);
  const marks = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step)
    marks.push(+v.toPrecision(12));
  return marks;
}

function layOut(curve) {
  const width = curve.node.clientWidth,
    height = curve.node.clientHeight;
  if (!width || !height) return;
  const which = peers(),
    runs = which.map(r => study.runs[r]),
    many = runs.length > 8;
  const nulls = curve.nulls(current()).filter(([, level]) => level !== null),
    ys = [...runs.flatMap(run => curve.y(run)), ...nulls.map(([, level]) => level)].filter(v => v !== null),
    end = Math.max(1, ...runs.flatMap(run => curve.x(run)));
  let low = curve.low ?? Math.min(...ys),
    high = curve.high ?? Math.max(...ys);
  const log = curve.low === undefined && low > 0 && high > 20 * low;
  if (curve.low === undefined && !log) low = Math.min(low, Math.max(0, low - 0.08 * (high - low)));
  if (curve.low === 0) low = Math.max(-0.25, Math.min(-0.04, ...ys)); // a probe can be worse than the mean; far worse is cut off
  if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
  const longest = Math.max(...(many ? [current()] : runs).map(run => run.label.length), ...nulls.map(([name]) => name.length));
  const right = Math.min(width * 0.3, 18 + 6.6 * longest),
    letters = Math.floor((right - 12) / 6.6);
  const area = {left: 34, right: width - right, top: 8, bottom: height - 22};
  const sx = rows => area.left + ((area.right - area.left) * rows) / end;
  const f = log ? Math.log : v => v;
  const sy = v =>
    area.bottom - ((area.bottom - area.top) * (f(Math.max(low, v)) - f(low))) / (f(high) - f(low));
  Object.assign(curve, {area, sx, sy, end, width, height});

  const svg = make("svg", {
    role: "img",
    "aria-label": curve.node.previousElementSibling.textContent,
    viewBox: `0 0 ${width} ${height}`,
  });
  const marks = log
    ? [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].filter(v => v >= low && v <= high)
    : niceSteps(low, high, height < 190 ? 3 : 5);
  for (const v of marks) {
    svg.append(
      make("line", {class: "grid", x1: area.left, x2: area.right, y1: sy(v), y2: sy(v)}),
      make("text", {x: area.left - 7, y: sy(v) + 4, "text-anchor": "end"}, `${v}`),
    );
  }
  const across = niceSteps(0, end, width < 420 ? 2.5 : 4);
  across.forEach((rows, k) =>
    svg.append(
      make(
        "text",
        {x: sx(rows), y: height - 4, "text-anchor": rows ? "middle" : "start"},
        short(rows) + (k === across.length - 1 ? " rows" : ""),
      ),
    ),
  );
  const labels = [];
  for (const [name, level] of nulls) {
    svg.append(make("line", {class: "null", x1: area.left, x2: area.right, y1: sy(level), y2: sy(level)}));
    labels.push({name, fill: "", at: sy(level)});
  }
  curve.dots = which.map(r => {
    const run = study.runs[r],
      x = curve.x(run),
      y = curve.y(run);
    let d = "",
      pen = "M";
    y.forEach((v, k) => {
      if (v === null) pen = "M";
      else {
        d += `${pen}${sx(x[k]).toFixed(1)} ${sy(v).toFixed(1)}`;
        pen = "L";
      }
    });
    svg.append(
      make("path", {
        class: `line${r === state.run ? " chosen" : ""}`,
        d,
        stroke: ink.run[r],
        "stroke-dasharray": run.dashes,
        opacity: r === state.run ? 1 : 0.75,
      }),
    );
    const last = y.findLastIndex(v => v !== null);
    if ((!many || r === state.run) && last >= 0) labels.push({name: run.label, fill: `fill:${ink.run[r]}`, at: sy(y[last])});
    return make("circle", {r: r === state.run ? 5 : 3.5, fill: ink.run[r]});
  });
  labels
    .sort((a, b) => a.at - b.at)
    .forEach((label, k) => {
      if (k) label.at = Math.max(label.at, labels[k - 1].at + 14);
    });
  const over = labels.length ? Math.max(0, labels[labels.length - 1].at - area.bottom) : 0;
  for (const {name, fill, at} of labels)
    svg.append(
      make(
        "text",
        {class: "name", x: area.right + 9, y: at - over + 4, style: fill},
        name.length > letters ? `${name.slice(0, letters - 1)}…` : name,
      ),
    );
  curve.now = make("line", {class: "now", y1: area.top, y2: area.bottom});
  svg.append(curve.now, ...curve.dots);
  curve.node.replaceChildren(svg);
  curve.drawn = `${state.run} ${width} ${height} ${ink.ink}`;
}

// The value of a series at some rows, on the line between its points; null outside or at a gap.
function valueAt(xs, ys, rows) {
  let k = xs.findIndex(x => x >= rows);
  if (k < 0) k = xs.length - 1;
  if (k === 0 || xs[k] === xs[k - 1]) return ys[k];
  if (ys[k] === null || ys[k - 1] === null) return null;
  return ys[k - 1] + (ys[k] - ys[k - 1]) * Math.min(1, (rows - xs[k - 1]) / (xs[k] - xs[k - 1]));
}

function drawCurves() {
  const rows = between(current().rows);
  for (const curve of curves) {
    const {clientWidth: width, clientHeight: height} = curve.node;
    if (curve.drawn !== `${state.run} ${width} ${height} ${ink.ink}`) layOut(curve);
    if (!curve.now) continue;
    const x = curve.sx(Math.min(rows, curve.end));
    curve.now.setAttribute("x1", x);
    curve.now.setAttribute("x2", x);
    peers().forEach((r, k) => {
      const run = study.runs[r],
        y = valueAt(curve.x(run), curve.y(run), rows),
        dot = curve.dots[k];
      dot.setAttribute("visibility", y === null ? "hidden" : "visible");
      if (y !== null) {
        dot.setAttribute("cx", x);
        dot.setAttribute("cy", curve.sy(y));
      }
    });
  }
}

// Dragging along a curve moves the moment.
function scrub(curve, event) {
  const box = curve.node.getBoundingClientRect(),
    {left, right} = curve.area;
  const rows = (curve.end * (event.clientX - box.left - left)) / (right - left),
    series = current().rows;
  const k = series.findIndex(r => r >= rows);
  if (k < 0) return seek(lastMoment());
  seek(k === 0 ? 0 : k - 1 + (rows - series[k - 1]) / Math.max(1, series[k] - series[k - 1]));
}

function startCurves() {
  for (const curve of curves) {
    curve.node.addEventListener("pointerdown", event => {
      curve.node.setPointerCapture(event.pointerId);
      curve.held = true;
      scrub(curve, event);
    });
    curve.node.addEventListener("pointermove", event => curve.held && scrub(curve, event));
    for (const kind of ["pointerup", "pointercancel"])
      curve.node.addEventListener(kind, () => (curve.held = false));
  }
  painters.push(changed => {
    if (changed) drawCurves();
    return false;
  });
}
