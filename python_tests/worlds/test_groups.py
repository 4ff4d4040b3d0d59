"""What runs were taught apart from their world is read from their specifications."""

from dataclasses import replace

import worldfast as wf
from worldfast.worlds.cities import Dataset, paper, world_update
from worldfast.worlds.cities.components import Component
from worldfast.worlds.cities.groups import groups_of
from worldfast.worlds.cities.world_spec import WorldSpec

BASE = wf.Run(Dataset("distance", among="region != 'Atlantis'", world=WorldSpec(atlantis=20, largest=300)))


def names(runs):
    groups = groups_of(runs)
    return [" and ".join(groups.of(run)) for run in runs]


def of(run, name="", **data):
    return replace(run, name=name, data=replace(run.data, **data))


def test_a_region_is_called_by_its_name_and_any_other_group_by_its_expression():
    groups = ("region == 'Arm C'", "country in ['JP', 'KR']")
    runs = [BASE, *(world_update(BASE, "angle", group, seed=seed) for seed, group in enumerate(groups))]
    assert names(runs) == [groups[1], "Arm C", groups[1]]  # the base has seen Japan and Korea


def test_a_pretrained_run_has_what_its_rows_may_hold_of_what_others_are_taught():
    tuned = world_update(BASE, "angle")
    seen = of(BASE, name="seen", among=None)
    bare = of(seen, name="bare", world=WorldSpec(largest=300))
    assert names([BASE, tuned, seen, bare]) == ["", "Atlantis", "Atlantis", ""]
    assert names([BASE, seen]) == ["", ""]  # nobody is taught it apart
    rows = Component("distance", 100, among="region == 'Atlantis'")
    assert names([tuned, of(BASE, mixture=(rows,), among=None)])[1] == "Atlantis"


def test_the_paper_has_one_model_that_knew_atlantis_before():
    runs = paper().runs
    found = dict(zip((run.name for run in runs), names(runs), strict=True))
    assert [name for name, group in found.items() if group and name.startswith("pt")] == ["pt-all-atlantis-s42"]
    assert all(group == "Atlantis" for name, group in found.items() if name.startswith("ft"))
