"""The page of a large study: figures, published numbers, a table of all runs, specifications by family."""

import base64
import html
import json
import re
import zlib
from dataclasses import replace
from math import nan
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, HOSTILE, LINKS, Page, browsed, unpack
from synthetic import run_result, study_result
from synthetic_study import PUBLISHED, large_study, spec, taught

from worldfast.report import report
from worldfast.report.figures.catalogue import SECTIONS, Drawn, title
from worldfast.report.page import comparison, gallery, models, provenance
from worldfast.report.page.taught import known_groups, off, pair
from worldfast.report.page.terms import glossary
from worldfast.studies import Comparison
from worldfast.worlds.cities.scene import scene_of
from worldfast.worlds.cities.world import ATLANTIS

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SVG = b'<?xml version="1.0"?>\n<svg width="144pt" height="72pt" viewBox="0 0 144 72"><path d="M0 0 L9 9" fill="#f00"/></svg>'


@pytest.fixture(scope="module")
def large(world):
    return large_study(world.with_atlantis())


@pytest.fixture(scope="module")
def text(large) -> str:
    return report.page(large)


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def medium(small):
    """The same study over few cities and without figures: quick to write."""
    return large_study(small.with_atlantis(20), drawn=False)


def drawn(name: str, images, caption: str = "One.") -> Drawn:
    return Drawn(name, "alike", name, images, caption)


def cells(text: str, table: str) -> list[list[str]]:
    """The rows of the body of a table as text."""
    body = re.search(rf"<table[^>]*{table}.*?<tbody>(.*?)</tbody>", text, re.DOTALL)[1]
    return [
        [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in body.split("</tr>")[:-1]
    ]


def test_a_hundred_runs_and_twenty_figures_are_below_15_mb(text):
    assert 5_000_000 < len(text.encode()) < 15_000_000
    assert not re.search(r"\{\{\w+\}\}", text)


def test_it_loads_nothing(page):
    for tag, attributes in page.tags:
        if "src" in attributes:
            assert tag == "img" and attributes["src"].startswith("data:image/"), attributes
        if "href" in attributes:
            assert attributes["href"] in LINKS or attributes["href"].startswith(("#", "data:")), attributes
        assert not {"srcset", "action", "data", "background", "poster"} & attributes.keys()


def test_links_lead_to_sections_that_show(page):
    shown = {a["id"] for _, a in page.tags if "id" in a and ("hidden" not in a or a["id"] == "explore")}
    inner = [a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"].startswith("#")]
    assert inner == ["explore", "know", "alike", "tuning", "tasks", "published", "run"] and set(inner) <= shown


def test_sections_stand_in_their_order(page):
    order = [
        "The world as the model has it",
        *SECTIONS.values(),
        "Beside the published numbers",
        "What was run",
        "How each was made",
        "Where and when",
        "This command makes this page again",
    ]
    after = page.text.index(order[0])
    assert page.text.index("What came out") < after
    places = [page.text.index(part, after) for part in order]
    assert places == sorted(places)


def test_every_figure_stands_in_its_group_with_its_sentence(page, large):
    place, found = None, {}
    for tag, attributes in page.tags:
        if tag == "section" and attributes.get("id") in SECTIONS:
            place = attributes["id"]
        if tag == "figure" and attributes.get("id", "").startswith("figure-"):
            found[attributes["id"].removeprefix("figure-")] = place
    assert found == {one.name: one.section for one in large.figures}
    assert list(dict.fromkeys(found.values())) == list(SECTIONS) and len(found) == 20
    images = [a["src"] for tag, a in page.tags if tag == "img" and "src" in a]
    held = {base64.b64decode(image.partition("base64,")[2]) for image in images}
    assert held == {one.figure for one in large.figures}
    assert all(f"{one.title}. {one.caption}" in page.text for one in large.figures)


def test_what_was_not_drawn_is_said_once_for_each_reason(medium):
    lacking = [Drawn(name, "tuning", title(name), None, "no <runs>") for name in ("deviation", "cka-rbf")]
    page = report.page(replace(medium, figures=[drawn("cka", SVG), *lacking]))
    assert "<ul><li>Deviation, CKA RBF: no &lt;runs&gt;</li></ul>" in page
    assert page.count("<figure style=") == 1 and "Figures that were not drawn" not in report.page(medium)


def test_the_smaller_file_of_a_figure_is_taken():
    small = gallery.figures([drawn("cka", (PNG, SVG + b"<!--" + b"x" * 900 + b"-->"))])["alike"]
    assert "image/png" in small and "image/svg" not in small
    vector = gallery.figures([drawn("cka", (PNG + b"\0" * 900, SVG))])["alike"]
    source = re.search(r'src="data:image/svg\+xml,([^"]*)"', vector)[1]
    assert unquote(source.replace("&#x27;", "'")) == " ".join(SVG.decode().split())
    assert not set('"<>#') & set(source) and "--w:221px" in vector  # 2 inches, 15% larger


def test_what_a_figure_may_be():
    with pytest.raises(ValueError, match="figure 'cka': expected a PNG or an SVG, got bytes that begin with b'GIF89a'"):
        gallery.figures([drawn("cka", b"GIF89a")])
    with pytest.raises(ValueError, match="figure 'cka': no image"):
        gallery.figures([drawn("cka", ())])
    assert title("cka-over-training") == "CKA over training" and title("pca") == "PCA"
    hostile = gallery.figures([drawn(HOSTILE[0], PNG, HOSTILE[1]), drawn(HOSTILE[2], SVG, HOSTILE[3])])
    tags = [tag for tag, _ in Page("".join(hostile.values())).tags]
    assert set(tags) == {"div", "figure", "button", "img", "figcaption", "b"} and tags.count("img") == 2


def test_published_numbers_stand_beside_ours(text):
    rows = cells(text, "beside")
    assert len(rows) == len(PUBLISHED)
    same, trained, away, scattered, wide = rows
    assert same[1:5] == ["0.812 ± 0.021", "21 pairs of models", "0.838", "−0.026 no standard error of published"]
    assert "its analysis read wrong cells" in same[0]
    # sqrt(0.034² + 0.051²) = 0.0613, and 0.023 / 0.0613 = 0.375
    assert trained[1:5] == ["0.861 ± 0.034", "14", "0.838 ± 0.051", "+0.023 ± 0.061 0.4 standard errors"]
    assert away[1:6] == ["402 ± 31", "14", "508.3", "−105.9 no standard error of published", "0.1 degree"]
    assert scattered[3:5] == ["never published", "–"] and wide[1:5] == ["not measured", "–", "0.803", "–"]


@pytest.mark.parametrize(
    "value,error,said",
    [
        (0.8382, 0.0136, "0.838 ± 0.014"),
        (18.6, 2.0, "18.6 ± 2.0"),
        (1189.9, nan, "1,190"),
        (0.5, 0.0, "0.5 ± 0"),
        (-0.185, nan, "−0.185"),
        (12345.6, 321.0, "12,346 ± 321"),
        (0.0, nan, "0"),
        (nan, 0.1, "–"),
        (2.38, nan, "2.38"),
        (100.0, nan, "100"),
        (0.0, 0.02, "0.000 ± 0.020"),
        (3e-9, 2e-9, "0.000000 ± 0.000000"),
    ],
)
def test_numbers_are_as_long_as_they_are_sure(value, error, said):
    assert comparison.measured(value, error) == said


def test_the_error_of_a_difference():
    known = Comparison("a", 3.0, 0.3, 5, "", 2.0, 0.4, "")
    assert known.difference == 1 and known.difference_error == pytest.approx(0.5)
    for lacking, why in (
        (replace(known, ours_error=nan), "no standard error of ours"),
        (replace(known, ours_error=nan, published_error=nan), "no standard error of ours or published"),
    ):
        assert np.isnan(lacking.difference_error) and comparison.lacking(lacking) == why
    assert comparison.table([]) == ""
    hostile = Page(comparison.table([Comparison(*HOSTILE[:1], 1, 1, 1, HOSTILE[1], 1, 1, HOSTILE[2], *HOSTILE[2:])]))
    assert {tag for tag, _ in hostile.tags} == {"table", "thead", "tbody", "tr", "th", "td", "small"}


def test_the_table_of_all_runs(large, text):
    rows = cells(text, "id=every")
    runs = large.tables["runs"]
    assert [row[0] for row in rows] == runs.run.tolist()
    heads = re.findall(r"<th scope=col[^>]*>([^<]*)", text[text.index("id=every") :])[: len(rows[0])]
    columns = dict(zip(heads, zip(*rows, strict=True), strict=True))
    assert columns["rows seen"][0] == "384,000" and columns["kind"].count("fine-tuned") == 56
    assert columns["outcome"].count("did not learn") == 2 and columns["tasks"].count("all seven") == 2
    probes = large.tables["probes"]
    last = probes[(probes.layer == large.cka_layer) & (probes.step > 0)].set_index("run")
    assert list(columns["probe R²"]) == [f"{last.r2[run]:.3f}" for run in runs.run]
    at = runs.run.tolist().index("ft-distance-s1")
    assert columns["Atlantis, mean error"][at] == "40.1°" and columns["Atlantis, mean error"][0] == "–"
    assert (columns["improvement, trained"][at], columns["improvement, transfer"][at]) == ("0.90", "0.40")
    assert len(re.findall("data-film=", text)) == len(large.runs)


def test_columns_that_hold_nothing_are_left_out(medium):
    bare = replace(medium, tables={"runs": medium.tables["runs"].drop(columns=["seconds", "loss"])})
    head = models.every(bare)[: models.every(bare).index("<tbody>")]
    assert "rows seen" in head and not re.search("R²|Atlantis|loss|training|improvement", head)
    diverged = medium.tables["runs"].assign(status="diverged")
    assert models.every(replace(medium, tables={"runs": diverged})).count("<td>diverged</td>") == 100


def test_names_of_runs_stay_text(medium):
    runs = medium.tables["runs"].head(4).assign(run=HOSTILE, tasks=HOSTILE, kind=HOSTILE, status=HOSTILE)
    tags = {tag for tag, _ in Page(models.every(replace(medium, tables={"runs": runs}))).tags}
    assert tags == {"table", "thead", "tbody", "tr", "th", "td", "i"}


def test_films_are_a_selection_and_the_page_says_so(page, large):
    assert "100 models" in page.text.replace("\u00a0", " ")
    assert f"Shown are {len(large.runs)} of the study’s 100 models" in page.text
    assert [run["kind"] for run in page.study["runs"]] == ["pt"] * 8 + ["ft"] * 3
    assert page.study["runs"][8]["label"] == "angle, fine-tuned" and page.study["runs"][2]["label"] == "angle"
    regions = [group["name"] for group in page.study["groups"]]
    assert [regions[at] for at in page.study["new"]] == [
        ATLANTIS
    ] and "Diamonds are the cities of Atlantis" in page.text


def test_the_model_that_comes_first_is_not_a_fine_tune(small):
    world = small.with_atlantis(20)
    best = replace(taught(world, ("angle",), 1, 20, "x"), r2=np.ones((9, 2)))
    shown = Page(report.page(study_result(world, [best, run_result(world), run_result(world, ("angle",), 3)]))).study
    assert shown["runs"][0]["r2"][-1] == 1 and shown["best"] > 0


def test_the_mixed_view_is_packed_beside_the_components(page, large):
    n, run = len(large.world), large.runs[0]
    moments = len(page.study["runs"][0]["rows"])
    mixed = unpack(page.study["runs"][0]["mixed"], moments, 3, n)[-1].T / page.study["radius"]
    reach = np.quantile(np.linalg.norm(run.mixed[-1], axis=1), 0.98)
    assert np.abs(mixed - run.mixed[-1] / reach).max() <= 0.51 / page.study["radius"]


def test_a_world_without_atlantis_says_nothing_of_it(small):
    page = Page(report.page(study_result(small, [run_result(small)])))
    assert page.study["new"] == []
    hint = page.text.index("Diamonds")
    assert hint > 0 and any(tag == "span" and "hidden" in a for tag, a in page.tags)


def test_what_a_mixed_view_refuses(small):
    with pytest.raises(ValueError, match=r"mixed has shape \(9, 60, 2\), expected \(9, 60, 3\)"):
        run_result(small, mixed=np.zeros((9, 60, 2)))
    with pytest.raises(ValueError, match="mixed holds values that are not finite"):
        run_result(small, mixed=np.full((9, 60, 3), np.nan))


def test_specifications_are_told_by_family(page, large):
    text = page.text
    for heading in (
        "Pretrained on one task, width 64: 14 runs",
        "Pretrained on seven tasks, width 64: 2 runs",
        "Fine-tuned on two tasks, width 64: 42 runs",
    ):
        assert heading in text
    one = provenance.specifications({"a": spec(("angle",), 1), "b": spec(("angle",), 2)})
    shared = dict(re.findall(r"<tr><th scope=row>([^<]*)</th><td>([^<]*)</td></tr>", one))
    assert shared["data.tasks"] == "angle" and shared["model.hidden"] == "64" and "seed" not in shared
    assert cells(one, "spec") == [["a", "1"], ["b", "2"]]
    alone = provenance.specifications({"a": spec(("angle",), 1, start={"name": "pt-all-s1", "rows": 5})})
    assert "Fine-tuned on one task, width 64: a" in alone and "pt-all-s1" in alone and "What differs" not in alone
    mixture = [{"task": "angle", "rows": 20, "among": None}, {"task": "inside", "rows": 256, "must_include": "x > 0"}]
    assert provenance.flatten({"mixture": mixture}) == {
        "mixture": "task=angle rows=20, task=inside rows=256 must_include=x > 0"
    }


def test_fine_tunes_of_the_same_tasks_are_told_apart(small):
    world = small.with_atlantis(20)
    runs = [
        run_result(world, spec=spec(("distance",), 0)),
        taught(world, ("distance",), 1, 20, "x"),
        taught(world, ("distance",), 2, 20, "x"),
    ]
    assert [style[0] for style in models.styles(runs)] == ["distance", "ft-distance-s1", "ft-distance-s2"]
    assert [style[0] for style in models.styles(runs[:2])] == ["distance", "distance, fine-tuned"]


# Without a screen a browser paints when it likes, or not at all: here it is clocked.
FRAMES = """
requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 16);
cancelAnimationFrame = clearTimeout;
"""
# What a reader does, and what the page then shows, put in the document's title.
READER = """
const wait = () => new Promise(done => setTimeout(done, 50));
addEventListener("error", event => document.title += "ERROR " + event.message);
(async () => {
  const until = async seen => { for (let k = 0; k < 100 && !seen(); k++) await wait(); };
  await until(() => document.documentElement.dataset.ready);
  const one = selector => document.querySelector(selector), all = selector => [...document.querySelectorAll(selector)];
  const said = [];
  const rows = () => all("#every tbody tr").filter(row => !row.hidden);
  said.push(all("#models optgroup").map(group => `${group.label} ${group.children.length}`).join(", "));
  const heads = all("#every thead button"), loss = heads.findIndex(head => head.textContent === "loss");
  const values = () => rows().map(row => +row.cells[loss].dataset.v);
  const rises = list => list.every((v, k) => !k || list[k - 1] <= v);
  heads[loss].click(); said.push(rises(values()), heads[loss].parentNode.getAttribute("aria-sort"));
  heads[loss].click(); said.push(rises(values().reverse()), heads[loss].parentNode.getAttribute("aria-sort"));
  const off = heads.findIndex(head => head.textContent.startsWith("Atlantis"));
  heads[off].click(); said.push(rows().slice(-44).every(row => row.cells[off].textContent === "–"));
  one("#words").value = "distance s1"; one("#words").dispatchEvent(new Event("input"));
  said.push(one("#left").textContent);
  all("#kinds input")[2].click(); said.push(one("#left").textContent, rows().length);
  rows().find(row => row.dataset.film).querySelector("button").click();
  await until(() => one("#peers").textContent.includes("fine-tuned"));
  said.push(one("#numbers").textContent.includes("Atlantis, mean error"), one("#peers").textContent.trim());
  said.push(one("#directions").hidden); all("#directions input")[1].click();
  await until(() => one("#space-what").textContent.includes("probe"));
  said.push(one("#space-what").textContent.includes("linear probe reads x and y"));
  const figure = one(".enlarge");
  if (figure) { figure.click(); said.push(one("#enlarged").open, one("#enlarged img").src === figure.querySelector("img").src); }
  document.title = said.join(" | ");
})();
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_reader_sorts_filters_and_looks_closer(medium, tmp_path):
    few = replace(medium, figures=[drawn("cka", (SVG,), "A sentence.")])
    page = report.page(few).replace("<title>", f"<script>{FRAMES}</script><title>")
    page = page.replace("</body>", f"<script>{READER}</script></body>")
    (tmp_path / "report.html").write_text(page)
    done = browsed((tmp_path / "report.html").as_uri(), tmp_path)
    said = re.search(r"<title>(.*?)</title>", done.stdout)[1].split(" | ")
    assert said == [
        "Pretrained 8, Fine-tuned 3",
        "true",
        "ascending",
        "true",
        "descending",
        "true",
        "14 of 100 runs",
        "7 of 100 runs",
        "7",
        "true",
        "The curves are of the 3 fine-tuned models shown.",
        "false",
        "true",
        "true",
        "true",
    ], done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr


def test_runs_know_the_groups_that_they_were_taught(small):
    world = scene_of(small.with_atlantis(20), [ATLANTIS])
    runs = [run_result(small.with_atlantis(20), name=name) for name in ("a", "b", "c", "d")]
    table = pd.DataFrame({"run": list("abcd"), "group": ["", "x and Atlantis", "New Atlantis", "Atlantis and x"]})
    result = study_result(small, runs[:0])
    result = replace(result, world=world, runs=runs, cka=np.eye(4), tables={"runs": table})
    assert known_groups(result) == [(), (ATLANTIS,), (), (ATLANTIS,)]


def test_the_two_fine_tunes_at_the_head_are_of_one_base_and_the_middle_seed(small):
    world = small.with_atlantis(20)
    scene = scene_of(world, [ATLANTIS])
    off = {("angle",): 20, ("distance",): 400, ("inside",): 26}
    runs = [run_result(world)]
    for seed in (1, 2, 3):  # the farther one by 2, 4 and 20 times
        for tasks, far in off.items():
            far *= {1: 0.15, 2: 0.5, 3: 1}[seed] if far > 100 else 1
            runs.append(taught(world, tasks, seed, far, f"base-s{seed}"))
    known = [(ATLANTIS,) if run.kind == "ft" else () for run in runs]
    near, away = pair(scene, runs, known)
    assert (runs[near].name, runs[away].name) == ("ft-angle-s2", "ft-distance-s2")
    assert pair(scene, runs[:2], known[:2]) == [] and pair(scene, runs, [()] * len(runs)) == []
    assert pair(scene, [runs[1], runs[3]], known[1:3]) == []  # too little apart
    assert pair(replace(scene, xy=None), runs, known) == []


def test_where_it_was_not_taught_no_error_is_said(medium):
    """A table may say where a probe puts Atlantis in models that never saw it; the page does not."""
    places = medium.tables["generalisation"]
    more = places[places.run == "ft-distance-s1"].assign(run="pt-all-s1")
    rows = cells(
        models.every(replace(medium, tables=medium.tables | {"generalisation": pd.concat([places, more])})), "id=every"
    )
    off = {row[0]: row[-3] for row in rows}
    assert off["ft-distance-s1"] == "401" and off["pt-all-s1"] == "–"  # a plane that has no degrees


def test_terms_are_defined_where_they_stand(small):
    world = scene_of(small)
    said = Page(glossary("<p>Mean deviation over held-out cities &amp; R² 0.5<svg>CKA</svg></p>", world)).text
    assert said.startswith("Deviation normalised improvement of a fine-tune on two tasks, less that of the better")
    assert "Held out cities that the probe was not fitted on" in said and "R² share" in said and "CKA" not in said
    assert glossary("nothing of the kind", world) == ""


def test_files_of_a_figure_are_in_the_page(medium):
    one = drawn("cka two", (PNG + b"\0" * 900, SVG))._replace(numbers="panel,x\n,1\n")
    page = Page(report.page(replace(medium, figures=[one, drawn("photo", (PNG, SVG + b"<!--" + b"x" * 900 + b"-->"))])))
    held = {
        name: {kind: zlib.decompress(base64.b64decode(text)) for kind, text in kinds.items()}
        for name, kinds in page.study["files"].items()
    }
    assert held == {"cka-two": {"csv": b"panel,x\n,1\n"}, "photo": {"svg": SVG + b"<!--" + b"x" * 900 + b"-->"}}
    kinds = [a["data-kind"] for tag, a in page.tags if tag == "button" and "data-kind" in a]
    assert kinds == ["svg", "png", "csv", "svg", "png"]


def test_a_page_says_how_to_cite_it_and_to_make_it_again(medium):
    page = Page(report.page(replace(medium, name="my {study}", command="worldfast study run 'my study.py'")))
    assert "@software{worldfast-my-study," in page.text and 'the study my (study)}"' in page.text
    assert "eprint = {2602.00533}" in page.text and page.text.count("worldfast study run 'my study.py'") == 2


def test_three_drawings_say_how_it_was_set_up(page):
    drawings = [a["aria-label"] for tag, a in page.tags if tag == "svg" and "aria-label" in a]
    assert len(drawings) == 3 and "5,175 cities, each with x and y" in drawings[0] and "Atlantis" in drawings[0]
    assert "a row" in page.text and "linear probe, fitted on" in drawings[2]


def test_the_page_says_of_which_rows_fine_tunes_learn_only_where_the_study_does(medium):
    assert "Fine-tunes then learn Atlantis." in Page(report.page(medium)).text
    told = replace(medium, world=replace(medium.world, taught_by="each from rows of x & y"))
    assert "Fine-tunes then learn Atlantis, each from rows of x & y." in Page(report.page(told)).text


def test_the_error_of_what_was_taught_is_a_mean(medium):
    """As in findings and figures: one city that is far off counts."""
    run = next(run for run in medium.runs if run.kind == "ft")
    new = medium.world.group == ATLANTIS
    predicted = run.predicted.copy()
    predicted[-1, new] = medium.world.xy[new]
    predicted[-1, np.flatnonzero(new)[0], 0] += 20 * new.sum()
    assert off(medium.world, replace(run, predicted=predicted), [ATLANTIS]) == pytest.approx(20)


# What a page's head shows, at 1440 x 900 with an address and at 390 x 844 without, put in the document's title.
HEAD = """
const wait = () => new Promise(done => setTimeout(done, 50));
const labels = [], write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  if (this.canvas.id === "map") labels.push([text, x, y]);
  write.call(this, text, x, y);
};
const saved = [];
URL.createObjectURL = blob => { saved.push(blob); return "#"; };
(async () => {
  const until = async seen => { for (let k = 0; k < 100 && !seen(); k++) await wait(); return seen(); };
  await until(() => document.documentElement.dataset.ready);
  const one = selector => document.querySelector(selector), all = selector => [...document.querySelectorAll(selector)];
  const low = node => Math.round(node.getBoundingClientRect().bottom + scrollY), said = {};
  said.bottoms = [low(one(".lede")), low(one("#map")), low(one("#far"))];
  said.pair = [one("#near-says").textContent, one("#far-says").textContent];
  const find = text => { one("#find").value = text; one("#find").dispatchEvent(new Event("input")); };
  find(JSON.parse(one("#study").textContent).names.pop());
  said.new = one("#said").textContent;
  find("");
  said.sizes = [...new Set(all("body *").filter(node => node.getClientRects().length && node.textContent.trim() && !node.closest("script, svg"))
    .map(node => parseFloat(getComputedStyle(node).fontSize)))].filter(size => size < 9 && size > 0);
  said.clock = one("#clock").textContent;
  said.model = one("#models select").selectedOptions[0].textContent;
  said.view = one("#view input:checked + span").textContent;
  said.numbers = one("#numbers").textContent.includes("Atlantis, mean error");
  said.each = one("#numbers").textContent;
  said.label = labels.filter(([text]) => text.startsWith("Atlantis")).pop();
  all("#view input")[0].click();
  all("#models option").find(option => option.textContent === "distance, fine-tuned").selected = true;
  one("#models select").dispatchEvent(new Event("change"));
  await until(() => location.hash.includes("ft-distance"));
  said.hash = location.hash;
  said.taught = one("#numbers").textContent.includes("Atlantis, mean error");
  all("details.fold").forEach(node => (node.open = true));
  const chart = one("[data-chart] svg") ?? (await until(() => one("[data-chart] svg")), one("[data-chart] svg"));
  const box = chart.getBoundingClientRect(), dot = chart.querySelector("circle").getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove", {clientX: dot.x + 3, clientY: dot.y + 3}));
  said.pointed = one("[data-chart] .tip").textContent;
  said.chartText = Math.min(...[...chart.querySelectorAll("text")].map(node => parseFloat(getComputedStyle(node).fontSize)));
  said.dashes = [...chart.querySelectorAll("path.line")].map(node => getComputedStyle(node).strokeDasharray);
  said.nulls = [...all("#curve-r2 .null"), ...all("#curve-loss .null")].length + one("#curve-r2").textContent;
  const image = one("figure:not(.has-chart) > .enlarge img");
  said.image = image.clientWidth / parseFloat(image.getAttribute("width"));
  for (const button of all("[data-files='dose'] button, #map-files button, #space-files button, #curves-files button"))
    button.click();
  await until(() => saved.length === 3 + 3 + 3 + 5);
  said.saved = saved.map(blob => blob.type).sort().join(" ");
  const texts = await Promise.all(saved.filter(blob => blob.type !== "image/png").map(blob => blob.text()));
  said.map = texts.find(text => text.startsWith("<svg") && text.includes("Atlantis"))?.match(/<path/g).length > 3;
  said.csv = texts.find(text => text.startsWith("city,group"))?.split("\\n").slice(0, 2);
  one("#moment").value = 0; one("#moment").dispatchEvent(new Event("input"));
  await until(() => one("#clock").textContent.startsWith("0 rows"));
  dispatchEvent(new Event("beforeprint"));
  said.printed = [one("#clock").textContent, all("details").every(node => node.open)];
  dispatchEvent(new Event("afterprint"));
  await until(() => one("#clock").textContent.startsWith("0 rows"));
  said.after = one("#clock").textContent;
  location.hash = "#model=nobody&step=NaN&view=upside";
  await wait();
  said.astray = [one("#failed").hidden, one("#clock").textContent];
  parent.postMessage(said, "*");
})();
"""
# Both sizes in one browser.
FRAME = """
const said = [];
addEventListener("message", event => {
  said[+(event.source !== frames[0])] = event.data;
  if (said[0] && said[1]) document.title = JSON.stringify(said);
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_head_of_the_page_shows_the_map_and_keeps_its_state_in_the_address(medium, tmp_path):
    line = {"name": "angle", "colour": "#d55e00", "x": [0, 500, 1000], "y": [90, 20, 10], "error": [1, 2, 3]}
    panel = {"title": "One", "x": "rows", "y": "degrees", "log": [False, False], "percent": False, "low": 0}
    image = SVG.replace(b"<svg", b'<svg xmlns="http://www.w3.org/2000/svg"')
    level = {"name": "none", "colour": "#0072b2", "x": [0, 1000], "y": [40, 40], "error": None, "dash": "6 4"}
    chart = [panel | {"lines": [line | {"joined": True, "dash": ""}, level | {"joined": True}]}]
    one = Drawn("dose", "know", "Dose", (image,), "A sentence.", "panel,x\n", chart)
    runs = [replace(run, nulls={"recall": 0.25, "undefined": np.nan}) for run in medium.runs]
    page = report.page(replace(medium, runs=runs, figures=[one, drawn("cka", (SVG,))]))
    assert "Dashed: what the same probe reads of the shown model’s nulls" in page
    study = Page(page).study
    page = page.replace("<title>", f"<script>{FRAMES}</script><title>")
    (tmp_path / "report.html").write_text(page.replace("</body>", f"<script>{HEAD}</script></body>"))
    sizes = {(1440, 900): "#model=ft-angle-s1&step=150&view=errors", (390, 844): ""}
    views = "".join(f'<iframe src="report.html{at}" width={w} height={h}></iframe>' for (w, h), at in sizes.items())
    (tmp_path / "both.html").write_text(f"<style>*{{border:0}}</style><script>{FRAME}</script><body>{views}")
    done = browsed((tmp_path / "both.html").as_uri(), tmp_path, (1600, 1900))
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    for seen, ((_, high), address) in zip(found, sizes.items(), strict=True):
        assert max(seen["bottoms"]) < high - 60 and not seen["sizes"] and seen["chartText"] >= 9
        near, far = seen["pair"]  # on the slider of the map
        in_the_end = "in the end " if address else ""
        assert near.startswith(f"Atlantis, {in_the_end}taken in: ")
        assert far.startswith(f"Atlantis, {in_the_end}left out: ")
        assert f"taught by distance, after {15 if address else 24}k rows" in far
        for says, run in zip((near, far), study["pair"]):  # the end's number is beside the verdict
            end = float(re.match(r"[^:]*: (\S+) off on average", says)[1].replace(",", ""))
            assert end == pytest.approx(off(medium.world, medium.runs[run], [ATLANTIS]), abs=1)
            assert ("; now " in says) == bool(address)
        assert (" off, " in seen["new"]) == bool(address)
        assert ("not taught to this model" in seen["new"]) != bool(address)
        assert seen["view"] == ("Errors" if address else "As the model has it")
        assert (seen["model"] == "angle, fine-tuned") == seen["numbers"] == bool(address) and seen["taught"]
        assert seen["hash"] == "#model=ft-distance-s1&step=" + ("150" if address else "240") + "&view=model"
        shown = (
            next(run for run in study["runs"] if run["name"] == "ft-angle-s1")
            if address
            else study["runs"][study["best"]]
        )
        at = shown["steps"].index(150) if address else -1
        of_each = [f"{name} {of_moments[at]:.2f}" for name, of_moments in zip("xy", shown["r2_of"])]
        assert f"R² ({', '.join(of_each)})".replace("-", "−") in seen["each"]
        assert seen["label"][0] == ("Atlantis" if address else "Atlantis, not taught")
        assert seen["pointed"].startswith("angle") and "degrees: 90 ± 1" in seen["pointed"] and seen["image"] >= 0.9
        assert seen["dashes"] == ["none", "6px, 4px"]
        assert seen["nulls"].startswith("1") and "recall" in seen["nulls"] and "undef" not in seen["nulls"]
        assert seen["saved"].split().count("image/svg+xml") == seen["saved"].split().count("image/png") == 5
        assert seen["map"] and seen["csv"][0] == "city,group,x (true),y (true),x (model),y (model)"
        assert seen["printed"] == ["24k rows seen", True] and seen["after"].startswith("0 rows")
        assert seen["astray"][0] and seen["astray"][1].startswith("0 rows")
