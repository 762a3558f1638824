"""Known truth: a true map is found and its negative is not, useless maps find nothing, pairs are judged by the network first."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.explain.conftest import QUICK, at, explained, made  # noqa: F401

from pawpularity.data.photos import decode
from pawpularity.errors import UserError
from pawpularity.explain.removal import centre_first, random_fields
from pawpularity.explain.scored import PhotoScore
from pawpularity.predictor import Predictor
from pawpularity.studies.known_truth import (
    PLACES,
    Part,
    energy,
    judge_pairs,
    pairs_text,
    parts_text,
    pointing,
    read_pairs,
    read_parts,
    summarise_pairs,
    summarise_parts,
)

SIZE = 64


@pytest.fixture(scope="module")
def known(drawn):
    ids = pd.read_csv(drawn / "train.csv")["Id"].tolist()
    return ids, read_parts(drawn, ids, size=SIZE, fit="squash")


def true_map(parts, only=None):
    """Every part's points spread over its place; the contrast, which is no place, is left out unless asked for."""
    chosen = [part for name, part in parts.items() if name == only or (only is None and name != "contrast")]
    return np.sum([np.zeros((SIZE, SIZE)), *(np.sign(p.points) * p.mask / p.mask.mean() for p in chosen)], axis=0)


def by_part(maps, parts, groups=None):
    return {row["part"]: row for row in summarise_parts(maps, parts, groups)}


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_a_part_is_where_the_decoder_puts_it(drawn, known, tmp_path, fit):
    """A photo that is white where the pet is and black elsewhere, decoded as photos are."""
    for photo in known[0][:6]:
        labels = np.array(Image.open(drawn / "truth" / "labels" / f"{photo}.png"))
        pet = np.isin(labels, PLACES["pose"])
        Image.fromarray(np.repeat(255 * pet[..., None], 3, axis=2).astype(np.uint8)).save(tmp_path / "pet.png")
        shown = decode(tmp_path / "pet.png", 40, fit)[..., 0] > 127
        mask = read_parts(drawn, [photo], size=40, fit=fit)[0]["pose"].mask
        assert (shown != mask).mean() < 0.06, "a pixel's place is rounded along the outline"
        assert abs(np.corrcoef(shown.ravel(), mask.ravel())[0, 1]) > 0.85


def test_pointing_and_energy_by_hand():
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, :2] = True
    values = np.zeros((4, 4))
    values[0, 0], values[3, 3], values[2, 2] = 3.0, 1.0, -5.0
    raises, lowers, nothing = Part(mask, 9.0), Part(mask, -9.0), Part(mask, 0.0)
    assert [pointing(values, part) for part in (raises, lowers, nothing)] == [1.0, 0.0, 0.0]
    assert [energy(values, part) for part in (raises, lowers, nothing)] == pytest.approx([3 / 4, 0.0, 3 / 9])
    assert pointing(-values, lowers) == 1.0
    assert pointing(np.array([[1.0, 0, 0, 1]] + [[0.0] * 4] * 3), raises) == 0.5, "of equal places, the share that hits"
    assert np.isnan(energy(np.abs(values), lowers))


def test_the_truth_is_found_and_neither_its_negative_nor_useless_maps(known):
    parts = known[1]
    found = by_part([true_map(own) for own in parts], parts)
    opposite = by_part([-true_map(own) for own in parts], parts)
    for name in ("tongue", "eyes", "clutter", "pose", "pets"):
        enough = found[name]["share"].n >= 5
        assert found[name]["verdict"] == ("found" if enough else "too few photos"), name
        assert opposite[name]["verdict"] != "found"
        assert found[name]["energy"].mean > 0.3 > opposite[name]["energy"].mean
    assert by_part([true_map(own, "contrast") for own in parts], parts)["contrast"]["verdict"] == "found"
    assert found["tongue"]["points"] == 30.0
    assert "nan" not in parts_text(list(found.values()))
    flat = by_part([np.full((SIZE, SIZE), 2.0)] * len(parts), parts)
    assert not {row["verdict"] for row in flat.values()} & {"found", "credited, though worth nothing"}
    blob = by_part([centre_first((SIZE, SIZE)) for _ in parts], parts)
    assert blob["eyes"]["excess"].low > 0, "it does beat the share of the picture"
    assert blob["eyes"]["verdict"] == "no better than another photo's map"
    assert blob["clutter"]["verdict"] == "maps have no energy of this sign"
    fields = [list(random_fields((SIZE, SIZE), 8.0, len(parts), [seed])) for seed in range(8)]
    useless = [row for maps in fields for row in summarise_parts(maps, parts) if row["points"]]
    assert sum(row["verdict"] == "found" for row in useless) <= 0.08 * len(useless), "1 in 40 by the intervals"


def test_near_duplicates_are_no_other_photo(known):
    parts = [part for part in known[1][:20] for _ in range(2)]
    maps = [true_map(own) for own in parts]
    plain, grouped = (by_part(maps, parts, groups)["eyes"] for groups in (None, np.repeat(np.arange(20), 2)))
    assert plain["energy"].mean == pytest.approx(grouped["energy"].mean)
    assert grouped["energy"].high - grouped["energy"].low > 1.2 * (plain["energy"].high - plain["energy"].low)
    assert grouped["over_others"].mean > plain["over_others"].mean


def judged(effects, said):
    """Pairs of one part, of maps that say `said` where the network has `effects`."""
    agree = np.float64(said * effects > 0)
    return pd.DataFrame({"part": "tongue", "effect": effects, "effect_network": effects, "map_mean": said, "map_sum": said,
                         "as_network": agree, "as_truth": agree})  # fmt: skip


def test_signs_agree_only_where_they_do_on_either_side():
    random = np.random.default_rng(0)
    effects = np.concatenate([random.uniform(1, 9, 30), -random.uniform(1, 9, 5)])
    any_size = random.uniform(1, 9, 35)
    # A map of one sign is right about most pairs, since most parts raise the score, and has learnt nothing.
    one_sign = summarise_pairs(judged(effects, any_size))[-1]
    assert one_sign["as_network"].mean == pytest.approx(30 / 35)
    assert one_sign["as_network"].low > 0.5
    assert one_sign["balanced"] == 0.5
    assert one_sign["verdict"] == "says nothing of what parts do"
    mostly = summarise_pairs(judged(effects, np.sign(effects) * any_size * np.where(np.arange(35) == 34, -1, 1)))[-1]
    assert mostly["balanced"] == pytest.approx((30 / 30 + 4 / 5) / 2), "each side counts as much as the other"
    assert mostly["verdict"].startswith("signs ")
    assert summarise_pairs(judged(effects, effects - 20))[-1]["verdict"] == "ranks agree with the network, signs do not"
    assert np.isnan(summarise_pairs(judged(effects[:30], effects[:30]))[-1]["balanced"])


@pytest.mark.slow
def test_pairs_through_the_command(at, paw, refused):  # noqa: F811
    assert paw("sample", "--photos", "32", "--size", "64", "--seed", "31", "--pairs", "1", "--into", "pairs").code == 0
    words = ("known-truth", "--run", "toy", "--data", "toy", "--pairs")
    done = paw(*words, "pairs", "--masks", "256", "explain.smooth=2")
    assert done.code == 0, done.err
    folder = Path("oof/toy/explain/pairs")
    table = pd.read_csv(folder / "pairs.csv")
    pairs = {pair.shown.name: pair for pair in read_pairs(Path("pairs"), size=64, fit="squash")}
    assert len(pairs) == table["Id"].nunique() == 7
    assert set(table["method"]) == {"gradient", "gradcam", "rise"}
    predictor = Predictor.load("oof/toy")
    folds = [PhotoScore(network, predictor.compute) for network in predictor.networks.values()]
    for row in table.itertuples():
        pair = pairs[row.Id]
        scores = [np.mean([float(fold(fold.input_of(decode(one.path, 64, "squash"))[None])[0]) for fold in folds])
                  for one in (pair.shown, pair.removed)]  # fmt: skip
        assert row.effect_network == pytest.approx(scores[0] - scores[1], abs=1e-4)
        with np.load(folder / "maps" / f"{row.Id}.npz", allow_pickle=False) as arrays:
            values = arrays["gradient_effect" if row.method == "gradient" else row.method]
        assert row.map_mean == pytest.approx(float(values[pair.place].mean()), rel=1e-4)
    before = made(folder)
    assert paw(*words, "pairs", "--masks", "256", "explain.smooth=2").code == 0
    assert made(folder) == before
    assert "counterfactual pairs" in refused(*words, "toy")
    # A network that has it the wrong way round: its maps are right about it, and wrong about the pets.
    some = list(pairs.values())
    effects = np.array([pair.effect for pair in some])
    scores = np.stack([40.0 - effects, np.full(len(some), 40.0)], axis=1)
    rows = judge_pairs(some, scores, [-pair.effect * pair.place for pair in some])
    last = summarise_pairs(rows)[-1]
    assert (last["as_network"].mean, last["as_truth"].mean) == (1.0, 0.0)
    assert "nan" not in pairs_text(summarise_pairs(rows))


def test_parts_through_the_command(at, paw, refused):  # noqa: F811
    command = ("known-truth", "--run", "toy", "--data", "toy")
    assert "make explain RUN=toy" in refused(*command)
    assert paw("explain", "--run", "toy", "--data", "toy", "--n", "1", *QUICK, "explain.methods=[gradient]").code == 0
    done = paw(*command)
    assert done.code == 0, done.err
    assert "eyes" in done.out
    assert Path("oof/toy/explain/known_truth.json").is_file()
    shutil.rmtree("toy/truth/labels")
    assert "draw the sample again" in refused(*command)
    with pytest.raises(UserError, match="draw the sample again"):
        read_parts(at, ["x"], size=SIZE, fit="squash")
