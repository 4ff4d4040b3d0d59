"""A study of a world that the instrument does not know, which names no analysis, has tables and a page all the same."""

import html
import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from browser import CHROMIUM, browsed

import worldfast as wf
from worldfast.dataset import Dataset, Readout, Score
from worldfast.report import publish, report
from worldfast.report.figures import aligned_maps, standard
from worldfast.rows import Rows, Shape
from worldfast.studies import Subject, scene_of

POINTS, NUMBERS, QUESTIONS = 90, 8, 5
RANDOM = np.random.default_rng(3)
HIDDEN = RANDOM.normal(size=(POINTS, 3)) * [1, 50, 0.01] + [0, 1e4, 0]  # of three scales
SPREAD = (HIDDEN - HIDDEN.mean(0)) / HIDDEN.std(0)
SEEN = SPREAD @ RANDOM.normal(size=(3, NUMBERS))
SIDES = SPREAD @ RANDOM.normal(size=(3, QUESTIONS)) > 0
ATTRIBUTES = ("size", "mass", "charge")
SUBJECT = Subject("particle", "particles", {"size": "mm", "mass": "kg", "charge": "C"})


def rows_of(points, seen):
    n = len(points)
    targets = torch.from_numpy(SIDES[points].astype(np.float32))
    return Rows(torch.from_numpy(seen.astype(np.float32)), torch.arange(n + 1), torch.arange(n), targets)


@dataclass(frozen=True)
class Looks:
    key: tuple
    rows: int
    shape = Shape(NUMBERS, QUESTIONS, vectors=True, loss="binary_cross_entropy")
    longest = 1

    def batch(self, start, n):
        of_row = [np.random.default_rng([*self.key, i]) for i in range(start, start + n)]
        points = [random.integers(POINTS) for random in of_row]
        return rows_of(points, SEEN[points] + [0.3 * random.normal(size=NUMBERS) for random in of_row])


@dataclass(frozen=True)
class Particles(Dataset):
    rows: int = 320
    columns: int = 3
    label = "particles"

    def content(self):
        return {"hidden": HIDDEN}

    def stream(self, seed, split="train"):
        return Looks((seed, ("train", "validation", "test").index(split)), self.rows)

    def readout(self):
        groups = {"heavy <ones>": HIDDEN[:, 1] > 1.003e4, "small ones": HIDDEN[:, 0] < -1}
        things = np.arange(POINTS, dtype=np.int32)
        names = ATTRIBUTES[: self.columns]
        return Readout(rows_of(things, SEEN), things, HIDDEN[:, : self.columns], names, groups, about={})

    def score(self, ensemble, member, n, *, seed, split="validation"):
        rows = self.stream(seed, split).batch(0, n)
        right = (ensemble.outputs(rows, member) > 0) == (rows.targets > 0.5)
        return {"sides": Score(float(right.float().mean()), 0.5, n, unparsable=0)}


def study_of(columns, subject, name):
    model = wf.RecurrentSpec(hidden=100 if columns == 1 else 16)
    how = {"model": model, "learning_rate": 1e-2, "batch": 32, "checkpoints": 2}
    runs = [wf.Run(Particles(columns=columns), seed=seed, name=f"{name}-s{seed}", **how) for seed in (0, 1)]
    return wf.Study(name, runs, test_rows=50, subject=subject)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results of the world with three attributes, with one and with none, by their number; pages of three and none."""
    out, found = tmp_path_factory.mktemp("any"), {}
    for columns, subject in ((3, SUBJECT), (1, Subject("particle", "particles")), (0, Subject())):
        study = study_of(columns, subject, f"of{columns}")
        result = wf.run_study(study, out, device="cpu", progress=False)
        found[columns] = result, None
    three, none = found[3][0], found[0][0]
    found[3] = three, publish(study_of(3, SUBJECT, "of3"), three, out / "of3")
    found[0] = none, report.write(none, out / "of0.html")  # figures take most of the time
    return found


def test_every_attribute_is_probed_and_groups_stand_beside_the_rest(made):
    tables = made[3][0].tables
    probes = tables["probes"]
    assert {f"r2_{name}" for name in ATTRIBUTES} <= set(probes.columns) and len(probes) == 2 * 3
    assert np.allclose(probes.r2, probes[[f"r2_{name}" for name in ATTRIBUTES]].mean(axis=1)) and probes.r2.max() > 0.8
    groups = tables["groups"].set_index(["run", "group", "attribute"])
    assert len(groups) == 2 * 2 * 3 and (groups.n + groups.n_rest == 18).all()
    assert set(groups.index.get_level_values("group")) == {"heavy <ones>", "small ones"}


def test_groups_are_of_held_out_things_and_in_the_attributes_unit(made):
    """Computed once more, from the film of the two attributes that are drawn."""
    result = made[3][0]
    run, table = result.runs[0], result.tables["groups"]
    off = np.abs(run.predicted[-1] - HIDDEN[:, :2])
    heavy = (HIDDEN[:, 1] > 1.003e4) & run.held_out
    line = table[(table.run == run.name) & (table.group == "heavy <ones>")].set_index("attribute")
    assert line.n.tolist() == [heavy.sum()] * 3
    for k, name in enumerate(ATTRIBUTES[:2]):
        assert line.error[name] == pytest.approx(np.median(off[heavy, k]), rel=1e-3, abs=2e-3)
        assert line.rest[name] == pytest.approx(np.median(off[run.held_out & ~heavy, k]), rel=1e-3, abs=2e-3)


def test_runs_are_compared_and_scored(made):
    for columns, (result, _) in made.items():
        cka = result.tables["cka"]
        assert sorted(cka.step_share.unique())[0] == 0 and result.cka[0, 1] == cka[cka.step_share == 1].value.item()
        assert result.tables["evaluation"].task.tolist() == ["sides"] * 2
        assert [run.scores["sides"] for run in result.runs] == result.tables["evaluation"].value.tolist()
        assert ("probes" in result.tables) == (columns > 0)
        assert np.isfinite(result.runs[0].fit).all() == (columns > 0)


def test_a_map_needs_two_attributes_and_distances_one_unit(made):
    three, one, none = (made[columns][0].world for columns in (3, 1, 0))
    assert [axis.name for axis in three.axes] == ["size", "mass"] and not three.metric
    assert three.distance(3.0) == "–" and one.xy is none.xy is None
    alike = scene_of(Subject(units={"size": "m", "mass": "m"}), Particles(), Particles().readout())
    assert alike.metric and alike.distance(3.0) == "3 m"
    other = Subject(axes=("charge", "size"))
    assert [axis.name for axis in scene_of(other, Particles(), Particles().readout()).axes] == ["charge", "size"]
    assert scene_of(Subject(axes=()), Particles(), Particles().readout()).xy is None


def test_what_a_subject_refuses():
    with pytest.raises(TypeError, match="subject.one: expected a text, got 3"):
        Subject(one=3)
    with pytest.raises(
        ValueError, match="subject.axes: expected the names of two attributes or none, got 1|\\['size'\\]"
    ):
        Subject(axes=("size",))
    with pytest.raises(TypeError, match="subject: expected a worldfast.studies.Subject, got 'particle'"):
        wf.Study("one", [wf.Run(Particles())], subject="particle")
    for wrong in (Subject(axes=("size", "mas")), Subject(units={"mas": "kg"})):
        with pytest.raises(ValueError, match="unknown attribute of subject 'mas': did you mean 'mass'"):
            scene_of(wrong, Particles(), Particles().readout())


def test_the_analyses_that_a_study_names_are_all_it_has():
    run = wf.Run(Particles())
    assert wf.Study("none", [run], analyses=()).analyses == () and wf.Study("none", [run], analyses=()).findings is None
    assert [one.kind for one in wf.Study("all", [run]).analyses][:2] == ["evaluation", "probes"]


# Both sizes in one browser; what is wrong on either is put in the document's title.
LOOK = """
const frames = [...document.querySelectorAll("iframe")], wait = () => new Promise(done => setTimeout(done, 50));
const blank = canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return !data.some(value => value);
};
(async () => {
  const said = [];
  for (const frame of frames) {
    const ready = () => frame.contentDocument?.documentElement?.dataset.ready;
    for (let k = 0; k < 200 && !ready(); k++) await wait();
    const page = frame.contentDocument, width = frame.contentWindow.innerWidth;
    const seen = node => node.getClientRects().length;
    const over = [...page.body.querySelectorAll("*")].filter(node =>
      seen(node) && node.getBoundingClientRect().right > width + 1 && !node.closest(".scroll, .groups, .enlarge, .visually-hidden, svg"));
    const bad = [...page.querySelectorAll("figure img")].filter(img => !img.complete || !img.naturalWidth);
    const lines = [...page.querySelectorAll(".curve")].filter(node => seen(node) && !node.querySelector("path.line"));
    const words = /undefined|NaN|null|\\{\\{\\w+\\}\\}/.exec(page.body.innerText);
    const wide = page.documentElement.scrollWidth;
    frame.contentWindow.dispatchEvent(new Event("beforeprint")); // also draws what is out of sight
    const empty = [...page.querySelectorAll("canvas")].filter(blank).map(node => node.id);
    said.push({width, ready: page.documentElement.dataset.ready, wide,
      over: over.map(node => node.outerHTML.slice(0, 120)), empty, bad: bad.length, lines: lines.length, words,
      numbers: page.getElementById("numbers").innerText, failed: page.getElementById("failed").innerText});
  }
  document.title = JSON.stringify(said);
})();
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("columns", [3, 0])
def test_the_page_fits_a_desktop_and_a_phone(columns, made, tmp_path):
    result, page = made[columns]
    text = html.escape(page.read_text(encoding="utf-8"))
    frames = "".join(f'<iframe srcdoc="{text}" width={w} height={h}></iframe>' for w, h in ((1440, 900), (390, 844)))
    (tmp_path / "both.html").write_text(f"<style>*{{border:0}}</style><body>{frames}<script>{LOOK}</script>", "utf-8")
    done = browsed((tmp_path / "both.html").as_uri(), tmp_path, (1600, 1900))
    desktop, phone = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    for seen, width in ((desktop, 1440), (phone, 390)):
        assert seen["width"] == width and seen["ready"] and seen["wide"] <= width, seen
        assert not (seen["over"] or seen["empty"] or seen["bad"] or seen["lines"] or seen["words"] or seen["failed"]), (
            seen
        )
        assert ("held-out particles" in seen["numbers"]) == (columns > 0) and "median error" not in seen["numbers"]
    assert "CONSOLE" not in done.stderr, done.stderr


def test_the_page_speaks_of_its_own_things_and_of_no_other_worlds(made):
    for columns in (3, 0):
        result, path = made[columns]
        text = re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]+>", " ", path.read_text(encoding="utf-8"))
        many = "entities" if columns == 0 else "particles"
        assert f"Each dot is one of {POINTS} {many}" in text and f"What models know of the {many}" in text
        assert all(html.escape(sentence) in text for sentence in result.findings)
        assert not re.search(r"\b(city|cities|Atlantis|latitude|longitude|degrees?|GeoNames|region)\b", text)
        assert ("size to the right, mass upward" in text) == (columns == 3)
        assert "best constant answer" in text and "0.500" in text
    names = re.findall(r'id="figure-([\w-]+)"', made[3][1].read_text(encoding="utf-8"))
    order = "attributes-over-training groups cka-over-training dimension-over-training aligned-maps world"
    assert " ".join(names) == order


def test_more_numbers_than_things_are_probed_with_a_penalty_that_is_said(made):
    """16 states of 90 things are least squares; 100 are not, and the table and the caption say so."""
    assert set(made[3][0].tables["probes"].ridge) == {0.0}
    result, _ = made[1]
    assert set(result.tables["probes"].ridge) == {1.0}
    (drawn,) = (one for one in standard.draw(result, result.tables) if one.name == "attributes-over-training")
    assert "Ridge regression, since there are too few for least squares." in drawn.caption


def test_models_without_a_map_are_aligned_by_their_components(made):
    """A model that is another turned, mirrored and scaled lies on it."""
    result, _ = made[0]
    one = result.runs[0]
    turned = replace(one, components=3 * one.components[:, :, [1, 0, 2]])
    figure, caption = aligned_maps(result.world, [one, turned])
    first, second = (np.concatenate([c.get_offsets() for c in axes.collections]) for axes in figure.axes)
    assert np.allclose(first, second, atol=1e-4 * np.abs(first).max())
    assert caption.startswith("90 entities as each model has them") and "turned, mirrored and scaled" in caption
