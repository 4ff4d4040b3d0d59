// The table of all runs, to be sorted by any column and filtered; and figures, to be looked at in full size.

const every = byId("every");
const table = {sorted: null, down: false, kind: "", words: ""};

// What a cell sorts by: its number, where it has one, else its text; cells that hold nothing come last.
function sortValue(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.v !== undefined) return +cell.dataset.v;
  return cell.textContent === "–" ? null : cell.textContent;
}

const collator = new Intl.Collator("en", {numeric: true});
function sortTable(column) {
  const number = every.tHead.rows[0].cells[column].classList.contains("number");
  table.down = table.sorted === column ? !table.down : false;
  table.sorted = column;
  const way = table.down ? -1 : 1;
  const rows = [...every.tBodies[0].rows].map(row => [sortValue(row, column), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return way * (number ? a - b : collator.compare(a, b));
  });
  every.tBodies[0].append(...rows.map(([, row]) => row));
  [...every.tHead.rows[0].cells].forEach((head, k) => {
    if (k === column) head.setAttribute("aria-sort", table.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

// Shows the rows of the chosen kind that have every word typed.
function filterTable() {
  const words = table.words.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  const rows = every.tBodies[0].rows;
  for (const row of rows) {
    row.hidden =
      (table.kind !== "" && row.dataset.kind !== table.kind) || !words.every(word => row.text.includes(word));
    left += !row.hidden;
  }
  byId("left").textContent = `${number.format(left)} of ${number.format(rows.length)} runs`;
}

function startTable() {
  if (!every) return;
  [...every.tHead.rows[0].cells].forEach((head, column) => {
    const button = make("button", {type: "button", title: "Sort by this column"}, head.textContent);
    button.addEventListener("click", () => sortTable(column));
    head.replaceChildren(button);
  });
  for (const row of every.tBodies[0].rows) {
    // Before the button's words are in it.
    row.text = [...row.cells].map(cell => cell.textContent).join(" ").toLowerCase() + ` ${row.dataset.tasks}`;
    if (row.dataset.film === undefined) continue;
    row.cells[0].dataset.text = row.cells[0].textContent; // what a file of the table says
    const button = make("button", {type: "button", class: "ghost"}, "show on the map");
    button.addEventListener("click", () => {
      setModel(+row.dataset.film);
      byId("maps").scrollIntoView({behavior: calm.matches ? "auto" : "smooth"});
    });
    row.cells[0].append(button);
  }
  const kinds = [...new Set([...every.tBodies[0].rows].map(row => row.dataset.kind))];
  if (kinds.length > 1)
    segments(
      byId("kinds"),
      "kind",
      ["", ...kinds].map(kind => ({label: kind ? (KINDS[kind] ?? kind) : "All"})),
      0,
      k => {
        table.kind = ["", ...kinds][k];
        filterTable();
      },
    );
  byId("words").addEventListener("input", event => {
    table.words = event.target.value;
    filterTable();
  });
  byId("filter").hidden = false;
  filterTable();
}

function startFigures() {
  const dialog = byId("enlarged"),
    large = dialog.querySelector("img");
  for (const button of document.querySelectorAll(".enlarge"))
    button.addEventListener("click", () => {
      const small = button.querySelector("img");
      large.src = small.src;
      large.alt = small.alt;
      large.style.setProperty("--w", `${small.getAttribute("width")}px`);
      dialog.showModal();
    });
  dialog.addEventListener("click", event => event.target === dialog && dialog.close());
}
