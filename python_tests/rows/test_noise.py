"""Label noise: which rows it changes and to what, that it changes nothing else, and what it is no part of."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import oracle
import pytest
from scipy import stats
from tiles_on_cpu import assert_same, packed_in_tiles

import worldfast as wf
from worldfast import cli
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.sampling import Stream

LEAST_P = 1e-4  # seeds are fixed: a test that fails fails for a reason
NEW = "region == 'Atlantis'"


@pytest.fixture(scope="module")
def atlantis():
    return wf.World.cities().with_atlantis()


def texts(batch):
    return [batch.text(i) for i in range(len(batch))]


def true_labels(world, task, batch):
    count = (batch.cities >= 0).sum(1)
    return oracle.label(task, world.xy[np.where(batch.cities < 0, 0, batch.cities)].astype(np.int64), count)


@pytest.mark.parametrize("must_include", [None, NEW])
@pytest.mark.parametrize("task", oracle.TASKS)
def test_a_noisy_row_keeps_its_cities_and_another_answer_stands_in_it(task, must_include, atlantis):
    """The oracle labels the cities; a label is that, or else an answer drawn from the same distribution."""
    n, noise = 20_000, 0.3
    clean = wf.sample(atlantis, task, n, must_include=must_include)
    noisy = wf.sample(atlantis, task, n, must_include=must_include, noise=noise)
    assert np.array_equal(noisy.cities, clean.cities)
    right = true_labels(atlantis, task, clean)
    assert np.array_equal(clean.label, right)
    changed = noisy.label != right
    assert [a == b for a, b in zip(texts(noisy), texts(clean))] == (~changed).tolist()
    for i in np.flatnonzero(changed)[:50]:
        ids = atlantis.city_id[noisy.cities[i][noisy.cities[i] >= 0]].tolist()
        assert noisy.text(i) == oracle.text(task, ids, noisy.label[i])
    # How often a row of as many cities has the answer that it has, by chance: what is changed is the rest.
    count = (clean.cities >= 0).sum(1)
    by_chance = 0.0
    for k in np.unique(count):
        share = np.unique(right[count == k], return_counts=True)[1] / (count == k).sum()
        by_chance += (count == k).mean() * (share**2).sum()
    assert stats.binomtest(int(changed.sum()), n, noise * (1 - by_chance)).pvalue > LEAST_P


@pytest.mark.parametrize("task", oracle.TASKS)
def test_answers_are_as_frequent_as_without_noise_and_say_nothing_of_the_row(task, atlantis):
    clean, noisy = (wf.sample(atlantis, task, 30_000, noise=noise) for noise in (0, 0.999999))
    for k in np.unique((clean.cities >= 0).sum(1)):
        rows = (clean.cities >= 0).sum(1) == k
        a, b = clean.label[rows], noisy.label[rows]
        if task in oracle.ANSWERS:
            table = np.stack([np.bincount(x, minlength=a.max() + 1) for x in (a, b)])
            assert stats.chi2_contingency(table).pvalue > LEAST_P
            joint = np.zeros((a.max() + 1,) * 2)
            np.add.at(joint, (a, b), 1)
            assert stats.chi2_contingency(joint).pvalue > LEAST_P
        else:
            assert stats.ks_2samp(a, b).pvalue > LEAST_P
            assert stats.spearmanr(a, b).pvalue > LEAST_P


@pytest.mark.parametrize("must_include", [None, NEW])
def test_pairs_are_drawn_again_with_their_group(must_include, atlantis):
    """Distances that are drawn again are those of pairs that must include it where the row must."""
    clean, noisy = (
        wf.sample(atlantis, "distance", 60_000, must_include=must_include, noise=noise) for noise in (0, 0.5)
    )
    changed = clean.label != noisy.label
    assert stats.ks_2samp(clean.label[~changed], noisy.label[changed]).pvalue > LEAST_P
    other = wf.sample(atlantis, "distance", 60_000, must_include=None if must_include else NEW)
    assert stats.ks_2samp(other.label, noisy.label[changed]).pvalue < 1e-30


def test_rows_of_a_small_noise_are_among_those_of_a_large_one(atlantis):
    labels = [wf.sample(atlantis, "perimeter", 5000, noise=noise).label for noise in (0, 0.01, 0.1, 0.6)]
    for small, large in zip(labels, labels[1:]):
        moved = small != labels[0]
        assert np.array_equal(small[moved], large[moved]) and (large != labels[0]).sum() > moved.sum()


def test_noise_is_another_with_another_seed_split_and_task(atlantis):
    def noisy(task="distance", **options):
        pair = (wf.sample(atlantis, task, 4000, noise=noise, **options).label for noise in (0, 0.5))
        return np.not_equal(*pair)

    first = noisy()
    for other in (noisy(seed=1), noisy(split="test"), noisy("perimeter"), noisy(must_include=NEW)):
        assert stats.binomtest(int((first == other).sum()), 4000, 0.5).pvalue > LEAST_P


def mixture():
    parts = [Component(task, 300, noise=0.1 * i) for i, task in enumerate(oracle.TASKS)]
    return [*parts, Component("distance", 100, must_include=NEW, first=11, noise=0.4)]


@pytest.mark.parametrize("vocabulary", ["character", "entity"])
def test_the_same_bits_whatever_start_threads_and_driver(vocabulary, atlantis):
    for shuffle in (False, True):
        stream = Stream(atlantis, mixture(), seed=6, vocabulary=vocabulary, shuffle=shuffle)
        whole = stream.rectangle(0, 20_000, threads=1)
        threaded = stream.rectangle(0, 20_000, threads=3)
        assert np.array_equal(whole.tokens, threaded.tokens) and np.array_equal(whole.label, threaded.label)
        part = stream.rectangle(7013, 400)
        assert np.array_equal(part.tokens, whole.tokens[7013:7413])
        packed = stream.pack(7013, 400)
        rows = [row[:n] for row, n in zip(part.tokens, part.length)]
        assert np.array_equal(packed.tokens, np.concatenate(rows))
        assert_same(stream, 1900, 1000)  # the blocks of the CUDA driver
        assert np.array_equal(packed_in_tiles(stream, 7013, 400)[0], packed.tokens)


def test_only_the_noisy_components_rows_change(atlantis):
    parts = mixture()
    noisy = Stream(atlantis, parts, seed=6, shuffle=False).rectangle(0, 2200)
    clean = Stream(atlantis, [replace(p, noise=0) for p in parts], seed=6, shuffle=False).rectangle(0, 2200)
    changed = (noisy.label != clean.label)[:2100].reshape(7, 300).mean(1)
    assert np.array_equal(noisy.cities, clean.cities) and changed[0] == 0
    for task, share, noise in zip(oracle.TASKS, changed, np.arange(7) * 0.1):
        wrong = noise / 2 if len(oracle.ANSWERS.get(task, ())) == 2 else noise
        assert abs(share - wrong) < 4 * np.sqrt(0.25 / 300), task


def test_reshuffled_crossings_are_drawn_again_as_they_are(atlantis):
    """A quarter of them is TRUE, not half."""
    label = wf.sample(atlantis, "crossing", 20_000, crossing="reshuffled", noise=0.999999).label
    clean = wf.sample(atlantis, "crossing", 20_000, crossing="reshuffled").label
    assert stats.chi2_contingency([np.bincount(clean), np.bincount(label)]).pvalue > LEAST_P
    assert label.mean() < 0.3


def test_several_tasks_in_turn(atlantis):
    both = wf.sample(atlantis, ("angle", "inside"), 1000, noise=0.2)
    for i, task in enumerate(("angle", "inside")):
        assert np.array_equal(both.label[i::2], wf.sample(atlantis, task, 500, noise=0.2).label)


def test_a_world_that_lacks_an_answer_says_so():
    line = wf.World.from_array(np.stack([np.arange(12), 2 * np.arange(12)], 1).astype(np.int32))
    with pytest.raises(ValueError, match="no crossing row with the wanted answer"):
        wf.sample(line, "crossing", 50, noise=0.5)


@pytest.mark.parametrize("bad", [-0.1, 1, 1.0, 2, float("nan"), float("inf")])
def test_a_noise_that_is_no_probability(bad, atlantis):
    for call in (
        lambda: wf.sample(atlantis, "angle", 3, noise=bad),
        lambda: Stream(atlantis, [Component("angle", 5, noise=bad)], seed=1),
        lambda: wf.Run(Dataset("angle", mixture=[Component("angle", 5, noise=bad)])),
    ):
        with pytest.raises(ValueError, match=r"noise.*expected at least 0 and below 1, got"):
            call()


@pytest.mark.parametrize("bad", ["0.1", None, True, [0.1]])
def test_a_noise_that_is_no_number(bad, atlantis):
    with pytest.raises(TypeError, match="noise: expected a number, got"):
        wf.sample(atlantis, "angle", 3, noise=bad)
    with pytest.raises(TypeError, match="mixture: noise of angle: expected a number, got"):
        wf.Run(Dataset("angle", mixture=[Component("angle", 5, noise=bad)]))


def test_numbers_of_any_kind(atlantis):
    expected = wf.sample(atlantis, "angle", 300, noise=0.5).label
    for noise in (np.float32(0.5), np.float64(0.5)):
        assert np.array_equal(wf.sample(atlantis, "angle", 300, noise=noise).label, expected)
    assert wf.Run(Dataset("angle", mixture=[Component("angle", 5, noise=np.float32(0.5))])).to_json()


def test_a_run_without_noise_keeps_its_identity():
    """The hash is that of the content that components had before; with noise it is another run, which JSON keeps."""
    plain = wf.Run(Dataset("angle", mixture=[Component("angle", 50)]))
    content = plain.to_json()
    part = {"task": "angle", "rows": 50, "among": None, "must_include": None, "first": 0}
    assert content.pop("name") and content.pop("keep") == [] and content["data"]["mixture"] == [part]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert plain.id == hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert replace(plain, data=replace(plain.data, mixture=(Component("angle", 50, noise=0),))).id == plain.id
    noisy = replace(plain, data=replace(plain.data, mixture=(Component("angle", 50, noise=0.1),)))
    assert noisy.id != plain.id and noisy != plain
    tuned = wf.Run(Dataset("angle", mixture=[Component("angle", 9)]), start=noisy)
    for run in (noisy, tuned):
        back = wf.Run.from_json(json.loads(json.dumps(run.to_json())))
        assert back == run and back.id == run.id
    assert back.start.data.mixture[0].noise == 0.1 and "noise" not in back.to_json()["data"]["mixture"][0]
    assert tuned.id != replace(tuned, start=plain).id
    assert "noise" not in json.dumps(replace(tuned, start=plain).to_json())


def test_the_rows_that_a_run_trains_on(atlantis):
    run = wf.Run(Dataset("angle", mixture=[Component("angle", 500, noise=0.2)], world=wf.WorldSpec(atlantis=100)))
    assert np.array_equal(
        np.sort(run.stream().rectangle(0, 500).label),
        np.sort(wf.sample(run.data.world.build(), "angle", 500, seed=run.seed, noise=0.2).label),
    )


def test_the_command_line(capsys):
    assert cli.main(["sample", "angle", "--n", "20", "--noise", "0.9"]) == 0
    shown = capsys.readouterr().out.split()
    assert shown == texts(wf.sample(wf.World.cities(), "angle", 20, noise=0.9))
    assert shown != texts(wf.sample(wf.World.cities(), "angle", 20))
    assert cli.main(["sample", "angle", "--noise", "1"]) == 1
    assert "noise: expected at least 0 and below 1" in capsys.readouterr().err
