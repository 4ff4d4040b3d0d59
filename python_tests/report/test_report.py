"""The page: one file that loads nothing, holds the data it was given, and survives hostile text."""

import dataclasses
import html
import os
import re

import numpy as np
import pytest
from browser import CHROMIUM, HOSTILE, LINKS, Page, browsed, unpack
from elsewhere import KINDS, exchange
from synthetic import SEVEN, run_result, study_result

from worldfast.errors import UnsafeError
from worldfast.report import report
from worldfast.report.page.films import pack
from worldfast.report.page.provenance import flatten
from worldfast.worlds import cities
from worldfast.worlds.cities.world import World


@pytest.fixture(scope="module")
def demo(world):
    tasks = [("distance",), ("angle",), SEVEN]
    return study_result(world, [run_result(world, t, seed, checkpoints=41) for seed, t in enumerate(tasks)])


@pytest.fixture(scope="module")
def page(demo) -> Page:
    return Page(report.page(demo))


def test_the_demos_page_is_small_and_written_whole(demo, tmp_path):
    path = report.write(demo, tmp_path / "studies" / "demo" / "report.html")
    assert path.stat().st_size < 4_000_000
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_notebooks_show_what_a_study_found(demo):
    shown = demo._repr_html_()
    assert f"<caption>Results of the study {demo.name}</caption>" in shown and demo.command in shown
    assert all(run.name in shown for run in demo.runs) and html.escape(demo.findings[0]) in shown
    assert all(f"{name} ({len(table):,} rows)" in shown for name, table in demo.tables.items())


def test_it_loads_nothing(page):
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a" and "//" in attributes["href"]}
    assert links == LINKS
    loading = {"src", "srcset", "poster", "action", "formaction", "data", "background", "ping", "manifest"}
    for tag, attributes in page.tags:
        assert not loading & attributes.keys(), (tag, attributes)
        if tag == "link":
            assert attributes["href"].startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|importScripts|sendBeacon|eval)\b", page.script)
    style = (report.PAGE / "style.css").read_text()
    assert "url(" not in style and "@import" not in style and "@font-face" not in style


def test_no_place_of_the_template_is_left_open(demo):
    assert not re.search(r"\{\{\w+\}\}", report.page(demo))


def test_the_map_decodes_to_what_went_in(page, demo):
    n = len(demo.world)
    study = page.study
    assert study["quantum"] == [1, 1] and study["metric"] is True and study["axes"][1]["signs"] == ["N", "S"]
    assert study["names"] == demo.world.name.tolist()
    assert (unpack(study["xy"], 1, 2, n)[0].T == demo.world.xy).all()
    regions = np.array([group["name"] for group in study["groups"]])
    assert (regions[unpack(study["group"], 1, n)[0]] == demo.world.group).all()
    for shown, run in zip(study["runs"], demo.runs, strict=True):
        assert (np.moveaxis(unpack(shown["map"], 41, 2, n), 1, 2) == np.rint(run.predicted)).all()
        assert (unpack(shown["held"], 1, n)[0].astype(bool) == run.held_out).all()
        assert shown["rows"] == run.rows.tolist() and shown["held_out"] == run.held_out.sum()
        assert np.allclose(shown["r2"], run.r2.mean(1), atol=1e-4)
        assert np.allclose(shown["error"], run.error, rtol=1e-4)


def test_the_components_decode_to_their_shape_at_every_moment(page, demo):
    n, run = len(demo.world), demo.runs[2]
    inner = np.moveaxis(unpack(page.study["runs"][2]["space"], 41, 3, n), 1, 2) / page.study["radius"]
    reach = np.quantile(np.linalg.norm(run.components, axis=2), 0.98, axis=1)[:, None, None]
    assert np.abs(inner - run.components / reach).max() <= 0.51 / page.study["radius"]


def test_the_best_model_comes_first_and_the_largest_cities_carry_names(page, demo):
    final = [run.r2[-1].mean() for run in demo.runs]
    assert page.study["best"] == int(np.argmax(final))
    named = [demo.world.name[i] for i in page.study["landmarks"]]
    assert len(named) == 14 and named[0] == "Shanghai" and "Sydney" in named


@pytest.mark.parametrize("shape", [(1, 5), (7, 2, 30), (3, 3, 1)])
def test_pack_keeps_every_16_bit_integer(shape):
    values = np.random.default_rng(0).integers(-(2**15), 2**15, shape)
    values.flat[:2] = -(2**15), 2**15 - 1
    assert (unpack(pack(values), *shape) == values).all()


def test_pack_refuses_what_does_not_fit():
    with pytest.raises(OverflowError, match="32768"):
        pack(np.array([[2**15]]))


def test_findings_come_first_and_numbers_have_units_and_n(page, demo):
    text = page.text
    order = ["The map is there.", "It comes early.", "The world as the model has it", "How alike", "What was run"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    held = int(demo.runs[0].held_out.sum())
    assert f"fitted on {5075 - held:,} of them, and the numbers are over the other {held:,}" in text
    assert "2 min 51 s" in text.replace("\u00a0", " ") and "worldfast demo --seed 42" in text
    assert "mean absolute error degree" in text and "50.0%" in text  # of the answers' 0.1 degree
    assert f"{demo.runs[0].error[-1] / 10:.1f}°" in text
    assert "world.atlantis" in text and "GeoNames" in text and "CC BY 4.0" in text


def test_the_cka_table_holds_the_matrix(page):
    cells = [attributes for tag, attributes in page.tags if tag == "td" and "title" in attributes]
    assert len(cells) == 9
    assert cells[1]["title"] == "distance and angle: 0.400" and cells[4]["title"] == "angle and angle: 1.000"


def test_hostile_text_stays_text(small):
    names = HOSTILE + [f"city {i}" for i in range(56)]
    odd = World.from_array(small.xy, name=names, region=[HOSTILE[0], HOSTILE[2]] * 30)
    run = run_result(odd, name=HOSTILE[0], tasks=(HOSTILE[1],), folder=HOSTILE[2], spec={HOSTILE[1]: HOSTILE[3]})
    texts = dict(name=HOSTILE[0], command=HOSTILE[2], commit=HOSTILE[1], date=HOSTILE[3], findings=HOSTILE)
    result = study_result(odd, [run, run_result(odd, name=HOSTILE[2])], machine={HOSTILE[0]: HOSTILE[1]}, **texts)
    page = Page(report.page(result))
    clean = Page(report.page(study_result(small, [run_result(small), run_result(small, ("angle",))])))
    kinds = ("script", "img", "b")
    assert [sum(t == kind for t, _ in page.tags) for kind in kinds] == [
        sum(t == k for t, _ in clean.tags) for k in kinds
    ]
    assert page.study["names"] == names and not set("<>&") & set(page.data)
    assert all(" ".join(text.split()) in page.text for text in HOSTILE)


def test_one_model_one_checkpoint_no_scores(small):
    run = run_result(small, checkpoints=1, scores={}, loss=np.zeros(0), loss_rows=np.zeros(0, dtype=np.int64))
    page = Page(report.page(study_result(small, [run])))
    hidden = {
        attributes.get("aria-labelledby")
        for tag, attributes in page.tags
        if tag == "section" and "hidden" in attributes
    }
    sections = "know alike tuning tasks published cka scores"
    assert hidden == {f"{section}-title" for section in sections.split()}
    assert page.study["runs"][0]["loss"] == [] and len(page.study["runs"][0]["rows"]) == 1


def test_a_run_that_failed_is_marked_and_not_best(small):
    nan = np.full(9, np.nan)
    broken = run_result(small, ("inside",), loss=np.full(100, np.nan), r2=np.stack([nan, nan], 1), error=nan)
    result = study_result(small, [broken, run_result(small)], cka=np.array([[1, np.nan], [np.nan, 1]]))
    page = Page(report.page(result))
    assert page.study["best"] == 1
    assert page.study["runs"][0]["r2"] == [None] * 9
    assert "–" in page.text and "nan" not in page.text.lower()


def test_planes_beyond_the_globe_are_measured_in_larger_steps():
    xy = np.random.default_rng(0).integers(-(2**20), 2**20, (50, 2)).astype(np.int32)
    plane = World.from_array(xy)
    run = run_result(plane)
    far = run.predicted.copy()
    far[0, 0] = 1e12  # an unregularised probe on noise
    page = Page(report.page(study_result(plane, [dataclasses.replace(run, predicted=far)])))
    study = page.study
    assert study["axes"][0]["signs"] == [] and study["groups"] == [{"name": "no region", "colour": None, "members": 50}]
    shown = np.moveaxis(unpack(study["runs"][0]["map"], 9, 2, 50), 1, 2).astype(float) * study["quantum"][0]
    assert np.abs(shown[1:] - far[1:]).max() <= study["quantum"][0] / 2 + 0.1
    assert (shown[0, 0] > 2**20).all()


def test_films_that_would_be_too_large_lose_moments_and_say_so(world):
    run = run_result(world, checkpoints=41)
    full = report.page(study_result(world, [run]))
    thin = Page(report.page(study_result(world, [run]), film_bytes=400_000))
    shown = thin.study["runs"][0]
    assert shown["rows"][0] == run.rows[0] and shown["rows"][-1] == run.rows[-1] and 2 < len(shown["rows"]) < 41
    assert f"The slider shows {len(shown['rows'])} of the 41 checkpoints." in thin.text
    assert "The slider shows" not in full and len(shown["curve_rows"]) == 41
    assert len(shown["map"]) + len(shown["space"]) <= 400_000


def test_a_page_is_replaced_whole_or_kept(small, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old page")
    result = study_result(small, [run_result(small)])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        report.write(result, path)
    assert path.read_text() == "the old page" and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    report.write(result, path)
    assert path.read_text().startswith("<!doctype html>") and len(list(tmp_path.iterdir())) == 1


def test_what_a_result_refuses(small, world):
    run = run_result(small)
    with pytest.raises(ValueError, match="runs is empty"):
        report.page(study_result(small, []))
    with pytest.raises(ValueError, match=r"held_out has shape \(60,\), expected \(5075\)"):
        study_result(world, [run])
    with pytest.raises(ValueError, match=r"cka has shape \(2, 2\), expected \(1, 1\)"):
        study_result(small, [run], cka=np.eye(2))
    with pytest.raises(ValueError, match="steps is empty"):
        run_result(small, steps=np.zeros(0, dtype=np.int64))
    with pytest.raises(ValueError, match=r"r2 has shape \(9,\), expected \(9, 2\)"):
        run_result(small, r2=np.zeros(9))
    with pytest.raises(ValueError, match=r"loss has shape \(7,\), expected \(100\)"):
        run_result(small, loss=np.zeros(7))
    with pytest.raises(ValueError, match=r"predicted has shape \(9, 60, 3\), expected \(9, 60, 2\)"):
        run_result(small, predicted=np.zeros((9, 60, 3)))
    with pytest.raises(ValueError, match="components holds values that are not finite"):
        run_result(small, components=np.full((9, 60, 3), np.inf))


def test_where_a_page_cannot_be(small, tmp_path):
    result = study_result(small, [run_result(small)])
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="path"):
        report.write(result, tmp_path / "file" / "report.html")
    with pytest.raises(OSError):
        report.write(result, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn_or_written_elsewhere(small, tmp_path, kind):
    result = study_result(small, [run_result(small)])
    folder, outside = tmp_path / "page", tmp_path / "outside"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "map-a.png").write_text("kept")
    (folder / "report.html").write_text("kept")
    outside.mkdir()
    exchange(folder / "figures", kind, outside)
    with pytest.raises(UnsafeError, match="figures' is a (link|FIFO|file), expected a folder"):
        report.publish(cities.demo(), result, folder)
    assert (folder / "report.html").read_text() == "kept"
    exchange(folder / "report.html", kind, outside)
    if kind == "other":
        with pytest.raises(IsADirectoryError, match="report.html"):
            report.write(result, folder / "report.html")
    else:  # in the place of what was there
        report.write(result, folder / "report.html")
        assert (folder / "report.html").read_text().startswith("<!doctype") and not (
            folder / "report.html"
        ).is_symlink()
    assert [path.read_text() for path in sorted(outside.rglob("*.*")) if path.is_file()] == ["kept", "kept"]


def test_words_of_the_page():
    assert flatten({"a": {"b": 1, "c": {}}, "d": (1, 2), "e": None, "f": []}) == {
        "a.b": "1",
        "a.c": "{}",
        "d": "1, 2",
        "e": "none",
        "f": "none",
    }


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("kind", ["demo", "plane"])
def test_the_page_starts_in_a_browser(kind, demo, tmp_path):
    if kind == "plane":
        plane = World.from_array(np.random.default_rng(0).integers(-(2**20), 2**20, (50, 2)).astype(np.int32))
        demo = study_result(plane, [run_result(plane, checkpoints=1)])
    path = report.write(demo, tmp_path / "report.html")
    done = browsed(path.as_uri(), tmp_path, seconds=4)
    assert re.search(r'<html[^>]* data-ready="true"', done.stdout), done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'id="failed" role="alert" hidden' in done.stdout
    assert f"<dd>{demo.runs[0].held_out.sum():,}</dd>" in done.stdout  # written by the script
