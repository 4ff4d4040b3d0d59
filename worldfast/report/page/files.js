// What is on the page as files: figures, pictures and curves as SVG, PNG and CSV, tables as CSV.

function save(name, content, type) {
  const link = make("a", {download: `${study.study}-${name}`, href: URL.createObjectURL(new Blob([content], {type}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const inflate = async text => {
  const zipped = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new Response(new Blob([zipped]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
};

// The bytes of a data URI.
function bytesOf(uri) {
  const comma = uri.indexOf(","),
    content = uri.slice(comma + 1);
  if (!uri.slice(0, comma).endsWith(";base64")) return new TextEncoder().encode(decodeURIComponent(content));
  return Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
}

// An image as PNG, twice as large as it is shown.
async function pngOf(uri, width, height) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * width, 2 * height];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise(done => canvas.toBlob(done, "image/png"));
}

const TYPES = {svg: "image/svg+xml", png: "image/png", csv: "text/csv"};
const asUri = svg => `data:image/svg+xml,${encodeURIComponent(svg)}`;

async function saveFigure(name, kind) {
  const image = document.getElementById(`figure-${name}`).querySelector(".enlarge img"),
    shown = image.src.startsWith("data:image/png") ? "png" : "svg";
  if (study.files[name][kind]) return save(`${name}.${kind}`, await inflate(study.files[name][kind]), TYPES[kind]);
  const content = kind === shown ? bytesOf(image.src) : await pngOf(image.src, +image.getAttribute("width"), +image.getAttribute("height"));
  save(`${name}.${kind}`, content, TYPES[kind]);
}

const quoted = value => (/[",\n]/.test(value) ? `"${`${value}`.replaceAll('"', '""')}"` : `${value}`);
const asCsv = rows => rows.map(row => row.map(quoted).join(",")).join("\n") + "\n";

// A table as it stands, with the whole number where a cell is of one.
function saveTable(name, table) {
  const text = cell => cell.dataset.v ?? cell.dataset.text ?? cell.innerText.replace(/\s+/g, " ").trim();
  const rows = [...table.rows].filter(row => !row.hidden);
  save(`${name}.csv`, asCsv(rows.map(row => [...row.cells].map(text))), TYPES.csv);
}

// A picture as it is now, drawn once more by a pen that writes SVG.
function svgOf(view, paint) {
  if (!view.width) fit(view, view.canvas.clientHeight); // not in sight until now
  const pen = new Pen(view.width, view.height, ink.sea);
  paint(pen);
  return pen.svg();
}

function placesCsv() {
  const columns = mapped ? study.axes.map(({name}) => name) : ["component 1", "component 2"];
  const value = (steps, k) => (study.origin[k] + steps * study.quantum[k]).toPrecision(6).replace(/\.?0+$/, "");
  const head = [study.one, "group", ...(mapped ? columns.map(name => `${name} (true)`) : []), ...columns.map(name => `${name} (model)`)];
  const {map} = films[state.run],
    low = Math.round(state.at) * 2 * count;
  const rows = study.names.map((name, i) => [
    name,
    study.groups[groupOf[i]].name,
    ...(mapped ? [value(truth[i], 0), value(truth[count + i], 1)] : []),
    value(map[low + i], 0),
    value(map[low + count + i], 1),
  ]);
  return asCsv([head, ...rows]);
}

function spaceCsv() {
  const inside = inner(state.run),
    low = Math.round(state.at) * 3 * count;
  const rows = study.names.map((name, i) => [name, ...[0, 1, 2].map(k => inside[low + k * count + i] / study.radius)]);
  return asCsv([[study.one, "direction 1", "direction 2", "direction 3"], ...rows]);
}

// A drawing of the page as a file of its own: its elements' style is written into them.
function svgOfNode(svg) {
  const copy = svg.cloneNode(true),
    {width, height} = svg.getBoundingClientRect();
  const nodes = [...svg.querySelectorAll("*")];
  [...copy.querySelectorAll("*")].forEach((node, k) => {
    const style = getComputedStyle(nodes[k]);
    for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font", "visibility"])
      node.style.setProperty(name, style.getPropertyValue(name));
  });
  Object.entries({xmlns: "http://www.w3.org/2000/svg", width, height}).forEach(pair => copy.setAttribute(...pair));
  copy.style.background = getComputedStyle(document.body).backgroundColor;
  return new XMLSerializer().serializeToString(copy);
}

function curvesCsv() {
  const rows = peers().flatMap(r => {
    const run = study.runs[r];
    return [
      ...run.curve_rows.map((x, k) => [run.name, "R2", x, run.curve_r2[k] ?? ""]),
      ...run.nulls.map(([name, level]) => [run.name, `R2 of null: ${name}`, "", level ?? ""]),
      ...run.loss_rows.map((x, k) => [run.name, "loss", x, run.loss[k] ?? ""]),
    ];
  });
  return asCsv([["run", "curve", "rows", "value"], ...rows]);
}

// Buttons that save a picture, by kind; `of` makes each content, or a list of [name, SVG].
function offer(box, name, of) {
  box.replaceChildren(
    ...Object.entries(of).map(([kind, content]) => {
      const label = kind.toUpperCase(),
        button = make("button", {type: "button", class: "ghost", "aria-label": `${label} of ${name}`}, label);
      button.addEventListener("click", async () => {
        const found = await content();
        for (const [part, file] of Array.isArray(found) ? found : [[name, found]]) save(`${part}.${kind}`, file, TYPES[kind]);
      });
      return button;
    }),
  );
}

function startFiles() {
  for (const box of document.querySelectorAll("[data-files]")) {
    box.hidden = false;
    for (const button of box.children)
      button.addEventListener("click", () => saveFigure(box.dataset.files, button.dataset.kind));
  }
  for (const box of document.querySelectorAll("[data-table]")) {
    const table = box.querySelector("table");
    if (!table) continue;
    const button = make("button", {type: "button", class: "ghost"}, "CSV");
    button.setAttribute("aria-label", `CSV of the table of ${box.dataset.table}`);
    button.addEventListener("click", () => saveTable(box.dataset.table, table));
    box.after(make("div", {class: "files"}, button));
  }
}

// Of the pictures that move, at the moment that they show.
function startPictureFiles() {
  const at = name => `${current().name}-${name}-step${current().steps[Math.round(state.at)]}`;
  const map = () => svgOf(mapView, pen => paintMap(pen, mapView, state.run, shown.map, state.view));
  const space = () => svgOf(spaceView, paintSpace);
  const png = (view, svg) => pngOf(asUri(svg), view.width, view.height);
  offer(byId("map-files"), "map", {
    svg: () => [[at("map"), map()]],
    png: async () => [[at("map"), await png(mapView, map())]],
    csv: () => [[at("map"), placesCsv()]],
  });
  offer(byId("space-files"), "space", {
    svg: () => [[at("space"), space()]],
    png: async () => [[at("space"), await png(spaceView, space())]],
    csv: () => [[at("space"), spaceCsv()]],
  });
  const drawn = () => curves.map(curve => [curve.node.id, curve.node.querySelector("svg")]).filter(([, svg]) => svg);
  offer(byId("curves-files"), "curves", {
    svg: () => drawn().map(([name, svg]) => [name, svgOfNode(svg)]),
    png: () =>
      Promise.all(
        drawn().map(async ([name, svg]) => {
          const {width, height} = svg.getBoundingClientRect();
          return [name, await pngOf(asUri(svgOfNode(svg)), width, height)];
        }),
      ),
    csv: curvesCsv,
  });
}
