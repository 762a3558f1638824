import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pawpularity.data.photos import FITS, decode
from pawpularity.errors import UserError
from pawpularity.explain.known_truth import (
    PLACES,
    Part,
    energy,
    find,
    parts_text,
    pointing,
    read_parts,
    summarise_parts,
)
from pawpularity.explain.orders import centre_first, random_fields
from pawpularity.explain.twins import TwinRow, TwinSummary, against_twins, read_twins, summarise_twins, twins_text
from pawpularity.sample.draw import draw_sample

SIZE = 64


@pytest.fixture(scope="module")
def known(drawn) -> tuple[list[str], list[dict[str, Part]]]:
    ids = pd.read_csv(drawn / "train.csv")["Id"].tolist()
    return ids, [read_parts(drawn, one, size=SIZE) for one in ids]


@pytest.fixture(scope="module")
def paired(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("paired") / "toy"
    draw_sample(folder, photos=4, size=64, seed=5, pairs=3, test_photos=1)
    return folder


def true_map(parts: dict[str, Part], only: str | None = None) -> np.ndarray:
    """Every part's points spread over its place; the contrast, which is no place, is left out unless asked for."""
    chosen = [part for name, part in parts.items() if name == only or (only is None and name != "contrast")]
    spread = [np.sign(p.points) * p.mask / p.mask.mean() for p in chosen]
    return np.sum([np.zeros((SIZE, SIZE)), *spread], axis=0)


def test_points_and_places_are_those_drawn(drawn, known):
    ids, parts = known
    table = pd.read_csv(drawn / "truth" / "parts.csv").set_index("Id")
    for photo, own in zip(ids, parts, strict=True):
        seen = sum(part.points for part in own.values())
        hidden = sum(table.loc[photo, name] for name in PLACES if name not in own)
        assert seen + hidden + table.loc[photo, "base"] == pytest.approx(table.loc[photo, "mean_unclipped"])
        assert all(part.mask.shape == (SIZE, SIZE) and part.mask.any() for part in own.values())
    assert sum("tongue" in own for own in parts) > 5


@pytest.mark.parametrize("fit", FITS)
def test_a_part_is_where_the_decoder_puts_it(drawn, known, tmp_path, fit):
    """A photo that is white where the pet is and black elsewhere, decoded as photos are."""
    for photo in known[0][:6]:
        labels = np.array(Image.open(drawn / "truth" / "labels" / f"{photo}.png"))
        pet = np.isin(labels, PLACES["pose"])
        Image.fromarray(np.repeat(255 * pet[..., None], 3, axis=2).astype(np.uint8)).save(tmp_path / "pet.png")
        shown = decode(tmp_path / "pet.png", 40, fit)[..., 0] > 127
        mask = read_parts(drawn, photo, size=40, fit=fit)["pose"].mask
        # A pixel's place is rounded: the two may differ along the outline alone.
        assert (shown != mask).mean() < 0.06
        assert abs(np.corrcoef(shown.ravel(), mask.ravel())[0, 1]) > 0.85


def test_pointing_and_energy_by_hand():
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, :2] = True
    values = np.zeros((4, 4))
    values[0, 0], values[3, 3], values[2, 2] = 3.0, 1.0, -5.0
    raises, lowers, nothing = Part(mask, 9.0), Part(mask, -9.0), Part(mask, 0.0)
    assert pointing(values, raises) == 1.0
    assert pointing(values, lowers) == 0.0
    assert pointing(values, nothing) == 0.0
    assert energy(values, raises) == pytest.approx(3 / 4)
    assert energy(values, lowers) == 0.0
    assert energy(values, nothing) == pytest.approx(3 / 9)
    assert pointing(-values, lowers) == 1.0
    assert pointing(mask * 1.0 + np.eye(4)[::-1] * 0, raises) == 1.0
    assert pointing(np.array([[1.0, 0, 0, 1]] + [[0.0] * 4] * 3), raises) == 0.5, "of equal places, the share that hits"
    assert np.isnan(energy(np.abs(values), lowers)), "a map without negative energy has none to place"
    assert np.isnan(pointing(np.ones((4, 4)), raises))
    with pytest.raises(ValueError, match="shape"):
        find(np.ones((3, 3)), {"tongue": raises})


def test_the_truth_is_found_and_its_negative_is_not(known):
    parts = known[1]
    found = {row.part: row for row in summarise_parts([true_map(own) for own in parts], parts)}
    opposite = {row.part: row for row in summarise_parts([-true_map(own) for own in parts], parts)}
    for name in ("tongue", "eyes", "clutter", "pose", "pets"):
        enough = found[name].share.n >= 5
        assert found[name].verdict == ("found" if enough else "too few photos"), name
        assert opposite[name].verdict != "found"
        assert found[name].energy.mean > 0.3 > opposite[name].energy.mean
    alone = summarise_parts([true_map(own, "contrast") for own in parts], parts)
    contrast = next(row for row in alone if row.part == "contrast")
    assert contrast.verdict == "found"
    assert contrast.energy.mean == contrast.pointing.mean == 1.0
    assert found["tongue"].points == 30.0
    text = parts_text(list(found.values()))
    assert "found" in text
    assert "nan" not in text


def test_constant_maps_are_named(known):
    parts = known[1]
    rows = summarise_parts([np.full((SIZE, SIZE), 2.0)] * len(parts), parts)
    assert {row.verdict for row in rows} == {"constant maps"}
    assert rows[0].to_dict()["energy"]["mean"] is None


def test_useless_maps_find_nothing(known):
    parts = known[1]
    wins = tries = 0
    for seed in range(8):
        maps = list(random_fields((SIZE, SIZE), 8.0, len(parts), [seed]))
        for row in summarise_parts(maps, parts):
            tries += row.points != 0
            wins += row.verdict == "found"
    assert tries >= 30
    assert wins <= 0.08 * tries, "1 in 40 by the intervals"


def test_a_blob_in_the_middle_finds_no_more_than_other_photos_maps(known):
    parts = known[1]
    rows = summarise_parts([centre_first((SIZE, SIZE)) for _ in parts], parts)
    eyes = next(row for row in rows if row.part == "eyes")
    assert eyes.excess.low > 0, "it does beat the share of the picture"
    assert eyes.verdict == "no better than another photo's map"
    clutter = next(row for row in rows if row.part == "clutter")
    assert clutter.verdict == "maps have no energy of this sign"


def test_groups_widen_the_interval_and_are_no_strangers(known):
    parts = known[1][:20]
    maps = [true_map(own) for own in parts]
    twice = [part for part in parts for _ in range(2)], [one for one in maps for _ in range(2)]
    groups = np.repeat(np.arange(20), 2)
    plain, grouped = (
        next(r for r in summarise_parts(twice[1], twice[0], g) if r.part == "eyes") for g in (None, groups)
    )
    assert plain.energy.mean == pytest.approx(grouped.energy.mean)
    assert grouped.energy.high - grouped.energy.low > 1.2 * (plain.energy.high - plain.energy.low)
    assert grouped.over_others.mean > plain.over_others.mean, "a photo's own copy is no other photo"


def test_twins_know_what_a_part_does(paired):
    twins = read_twins(paired, size=SIZE)
    assert len(twins) == 7 * 3
    assert all(twin.photo_with.is_file() and twin.photo_without.is_file() and twin.place.any() for twin in twins)
    effects = np.array([twin.effect for twin in twins])
    scores = np.stack([40.0 + effects, np.full(len(twins), 40.0)], axis=1)
    maps = [effect * twin.place / twin.place.mean() for effect, twin in zip(effects, twins, strict=True)]
    noise = random_fields((SIZE, SIZE), 8.0, len(twins), [0])
    found = summarise_twins(against_twins(twins, scores, maps))
    everything = found[-1]
    assert everything.as_network.mean == everything.as_truth.mean == everything.balanced == 1.0
    assert everything.rank_network.mean > 0.97  # equal effects are ties, which a map's rounding breaks
    assert everything.verdict == "signs and ranks agree with the network"
    assert {row.part: row.effect for row in found}["tongue"] == 30.0
    assert {row.part: row.as_truth.n for row in found}["accessory"] == 0, "what does nothing has no sign to agree with"
    opposite = summarise_twins(against_twins(twins, scores, [-one for one in maps]))[-1]
    assert opposite.as_network.mean == 0.0
    assert opposite.rank_network.mean < -0.97
    one_sign = summarise_twins(against_twins(twins, scores, [np.abs(one) + 1 for one in maps]))[-1]
    assert one_sign.balanced == 0.5
    assert one_sign.verdict in ("says nothing of what parts do", "ranks agree with the network, signs do not")
    random = summarise_twins(against_twins(twins, scores, list(noise)))[-1]
    assert random.verdict == "says nothing of what parts do"
    flat = summarise_twins(against_twins(twins, scores, [np.ones((SIZE, SIZE))] * len(twins)))[-1]
    assert flat.verdict == "constant maps"
    text = twins_text(found)
    assert "rank" in text
    assert "nan" not in text


def told(effects: np.ndarray, said: np.ndarray) -> TwinSummary:
    """All pairs together, of maps that say `said` where the network has `effects`."""
    rows = [TwinRow("tongue", e, e, e, s, s, False) for e, s in zip(effects.tolist(), said.tolist(), strict=True)]
    return summarise_twins(rows)[-1]


def test_signs_agree_only_where_they_do_on_either_side():
    random = np.random.default_rng(0)
    effects = np.concatenate([random.uniform(1, 9, 30), -random.uniform(1, 9, 5)])
    any_size = random.uniform(1, 9, 35)
    # A map of one sign is right about most pairs, since most parts raise the score, and has learnt nothing.
    one_sign = told(effects, any_size)
    assert one_sign.as_network.mean == pytest.approx(30 / 35)
    assert one_sign.as_network.low > 0.5
    assert one_sign.balanced == 0.5
    assert one_sign.rank_network.low < 0
    assert one_sign.verdict == "says nothing of what parts do"
    # Each side counts as much as the other, however few its pairs are.
    mostly = told(effects, np.sign(effects) * any_size * np.where(np.arange(35) == 34, -1, 1))
    assert mostly.balanced == pytest.approx((30 / 30 + 4 / 5) / 2)
    assert mostly.as_network.mean == pytest.approx(34 / 35)
    assert mostly.verdict.startswith("signs ")
    worse = told(effects, np.sign(effects) * any_size * np.where(np.isin(np.arange(35), [0, 1, 2]), -1, 1))
    assert worse.balanced == pytest.approx((27 / 30 + 5 / 5) / 2)
    # Ranks alone, and a network that nothing lowers: no side to balance with.
    assert told(effects, effects - 20).verdict == "ranks agree with the network, signs do not"
    raised = told(effects[:30], effects[:30])
    assert np.isnan(raised.balanced)
    assert raised.as_network.mean == 1.0
    assert raised.verdict == "ranks agree with the network, signs do not"


def test_the_network_is_judge_before_the_truth(paired):
    """A network that has it the wrong way round: its maps are right about it, and wrong about the pets."""
    twins = read_twins(paired, size=SIZE)
    effects = np.array([twin.effect for twin in twins])
    scores = np.stack([40.0 - effects, np.full(len(twins), 40.0)], axis=1)
    maps = [-effect * twin.place for effect, twin in zip(effects, twins, strict=True)]
    everything = summarise_twins(against_twins(twins, scores, maps))[-1]
    assert (everything.as_network.mean, everything.as_truth.mean) == (1.0, 0.0)


def test_other_data_are_refused_in_one_line(drawn, paired, tmp_path):
    with pytest.raises(UserError, match="is no drawn shelter") as refusal:
        read_parts(tmp_path, "0" * 32, size=SIZE)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="has no photo"):
        read_parts(drawn, "0" * 32, size=SIZE)
    with pytest.raises(UserError, match="drawn without twins"):
        read_twins(drawn, size=SIZE)
    with pytest.raises(UserError, match="is no drawn shelter"):
        read_twins(tmp_path, size=SIZE)
    damaged = Path(shutil.copytree(paired, tmp_path / "damaged"))
    photo = pd.read_csv(damaged / "train.csv")["Id"][0]
    (damaged / "truth" / "labels" / f"{photo}.png").unlink()
    with pytest.raises(UserError, match=r"is missing; draw the shelter again"):
        read_parts(damaged, photo, size=SIZE)
    (damaged / "pairs" / "pairs.csv").write_text("Id_with,part\na,b\n")
    with pytest.raises(UserError, match="draw the shelter again"):
        read_twins(damaged, size=SIZE)
