// What is looked at stands in the page's address: model, step and view, as in #model=pt-all-s0&step=632&view=errors. A
// part that the page does not know is passed over.

const VIEWS = ["model", "truth", "errors"];

function readAddress() {
  const said = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const run = study.runs.findIndex(({name}) => name === said.get("model")),
    step = said.get("step") ? Number(said.get("step")) : NaN;
  return {
    run: run < 0 ? null : run,
    step: Number.isFinite(step) ? step : null,
    view: mapped && VIEWS.includes(said.get("view")) ? said.get("view") : null,
  };
}

// The moment of the chosen model's checkpoint that is nearest to a step.
function momentOf(step) {
  const far = current().steps.map(one => Math.abs(one - step));
  return far.indexOf(Math.min(...far));
}

let inAddress = "";
function writeAddress() {
  if (!state.moved || state.playing) return;
  const said = {model: current().name, step: current().steps[Math.round(state.at)], view: state.view};
  const hash = `#${new URLSearchParams(said)}`;
  if (hash === inAddress) return;
  inAddress = hash;
  try {
    history.replaceState(null, "", hash);
  } catch {} // a page inside another has no address of its own
}

// Goes where the address says; false if it says nothing.
async function followAddress() {
  const {run, step, view} = readAddress();
  if (run === null && step === null && view === null) return false;
  if (run !== null) await setModel(run);
  if (view !== null) setView(view);
  seek(step === null ? lastMoment() : momentOf(step));
  settle();
  return true;
}

function startAddress() {
  addEventListener("hashchange", followAddress);
  painters.push(() => {
    writeAddress();
    return false;
  });
}

// A link to something that is folded away opens it.
function unfold() {
  const there = location.hash.includes("=") ? null : document.getElementById(location.hash.slice(1));
  const folded = there && (there.querySelector(":scope > details") ?? there.closest("details"));
  if (!folded || folded.open) return;
  folded.open = true;
  there.scrollIntoView();
}
