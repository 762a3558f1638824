"""The sample shelter: layout, determinism, the rule's distribution and floor, twins, label maps, errors."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pawpularity.errors import UserError
from pawpularity.sample import draw as sample
from pawpularity.sample.draw import draw_shelter, floor, plan
from pawpularity.sample.render import (
    ACCESSORY,
    BACKGROUND,
    BODY,
    CLUTTER,
    LABELS,
    LEFT_EYE,
    RIGHT_EYE,
    SECOND_PET,
    TONGUE,
    photo_size,
    render,
)
from pawpularity.sample.spec import (
    ASPECTS,
    METADATA,
    NOISE_SD,
    PARTS,
    SPIKE,
    TEST,
    TRAIN,
    describe,
    expected_score,
    score_variance,
    scored,
    source_of,
    twins,
)

COLUMNS = [
    *("Id", "Subject Focus", "Eyes", "Face", "Near", "Action", "Accessory", "Group", "Collage", "Human"),
    *("Occlusion", "Info", "Blur", "Pawpularity"),
]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def shelter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelter") / "sample"
    draw_shelter(folder, photos=60, size=64, seed=3, twins=1, test_photos=5, workers=1, progress=False)
    return folder


def test_layout_is_the_contests(shelter: Path) -> None:
    assert {p.name for p in shelter.iterdir()} == {
        *("train.csv", "train", "test.csv", "test", "sample_submission.csv", "truth", "twins"),
    }
    for name, columns, count in (("train", COLUMNS, 60), ("test", COLUMNS[:-1], 5)):
        rows = read(shelter / f"{name}.csv")
        ids = [row["Id"] for row in rows]
        assert list(rows[0]) == columns
        assert ids == sorted(set(ids))
        assert len(ids) == count
        assert all(len(i) == 32 and set(i) <= set("0123456789abcdef") for i in ids)
        assert {p.name for p in (shelter / name).iterdir()} == {f"{i}.jpg" for i in ids}
    for row in read(shelter / "train.csv"):
        assert 1 <= int(row["Pawpularity"]) <= 100
        assert {row[name] for name in METADATA} <= {"0", "1"}
    submission = read(shelter / "sample_submission.csv")
    assert list(submission[0]) == ["Id", "Pawpularity"]
    assert [row["Id"] for row in submission] == [row["Id"] for row in read(shelter / "test.csv")]


def test_every_photo_has_a_label_map_of_its_size(shelter: Path) -> None:
    parts = {row["Id"]: row for row in read(shelter / "truth" / "parts.csv")}
    assert {p.stem for p in (shelter / "truth" / "labels").iterdir()} == set(parts)
    for path in (*(shelter / "train").iterdir(), *(shelter / "test").iterdir()):
        photo = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels = cv2.imread(str(shelter / "truth" / "labels" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        assert photo.dtype == labels.dtype == np.uint8
        assert photo.shape == (*labels.shape, 3)
        assert set(np.unique(labels)) <= set(LABELS)
        longer = max(labels.shape)
        assert longer == 64 or (parts[path.stem]["duplicate_of"] and 58 <= longer <= 64)
    readme = (shelter / "truth" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {number} | {meaning} |" in readme for number, meaning in LABELS.items())


def test_truth_agrees_with_itself_and_with_the_tables(shelter: Path) -> None:
    scores = {row["Id"]: row for row in read(shelter / "train.csv")} | {
        row["Id"]: row for row in read(shelter / "test.csv")
    }
    rows = read(shelter / "truth" / "parts.csv")
    assert len(rows) == 65
    for row in rows:
        public = scores[row["Id"]]
        points = {part: float(row[part]) for part in PARTS}
        assert float(row["mean_unclipped"]) == pytest.approx(float(row["base"]) + sum(points.values()), abs=1e-3)
        assert float(row["expected"]) == pytest.approx(
            expected_score(np.array([float(row["mean_unclipped"])]))[0], abs=1e-3
        )
        assert points["accessory"] == 0
        assert public["Eyes"] == str(int(row["eyes_kind"] == "open")) == str(int(points["eyes"] > 0))
        assert public["Face"] == str(int(row["eyes_kind"] != "turned away"))
        assert public["Action"] == str(int(points["pose"] < 0))
        assert public["Group"] == str(int(row["pets_count"] == "2")) == str(int(points["pets"] < 0))
        assert public["Accessory"] == str(int(row["accessory_kind"] != "none"))
        assert public["Occlusion"] == str(int(row["occlusion_kind"] != "none"))
        if row["split"] == "train":
            assert public["Pawpularity"] == row["score"]
        else:
            assert "Pawpularity" not in public


def test_duplicates_show_the_same_and_score_differently(shelter: Path) -> None:
    rows = {row["Id"]: row for row in read(shelter / "truth" / "parts.csv")}
    pairs = read(shelter / "truth" / "duplicates.csv")
    assert {(p["Id_a"], p["Id_b"]) for p in pairs} == {
        (r["duplicate_of"], i) for i, r in rows.items() if r["duplicate_of"]
    }
    assert pairs
    for pair in pairs:
        first, second = rows[pair["Id_a"]], rows[pair["Id_b"]]
        assert first["expected"] == second["expected"]
        a, b = (cv2.imread(str(shelter / "train" / f"{i}.jpg"), 0) for i in (pair["Id_a"], pair["Id_b"]))
        assert a.shape != b.shape
        assert abs(cv2.resize(a, (16, 16), interpolation=cv2.INTER_AREA).astype(float)
                   - cv2.resize(b, (16, 16), interpolation=cv2.INTER_AREA)).mean() < 12  # fmt: skip
    table = plan(2000, 0)
    again = [e for e in table if e.duplicate_of]
    assert len(again) == 40
    by_id = {e.id: e for e in table}
    assert sum(e.score != by_id[e.duplicate_of].score for e in again) > 35
    assert all(source_of(0, by_id[e.duplicate_of].index) is None for e in again)
    assert sum(bool(e.duplicate_of) for e in plan(200, 1)) >= 3


def test_perceptual_hashes_find_the_duplicates_and_nothing_else(tmp_path: Path) -> None:
    draw_shelter(tmp_path / "sample", photos=200, size=96, seed=2, test_photos=1, workers=1, progress=False)
    ids = [row["Id"] for row in read(tmp_path / "sample" / "train.csv")]
    bits = []
    for name in ids:
        with Image.open(tmp_path / "sample" / "train" / f"{name}.jpg") as photo:
            photo.load()
        hashes = (imagehash.average_hash, imagehash.phash, imagehash.dhash, imagehash.whash)
        bits.append(np.concatenate([h(photo, hash_size=16).hash.ravel() for h in hashes]).astype(np.float32))
    signs = 2 * np.array(bits) - 1
    equal = (signs @ signs.T / signs.shape[1] + 1) / 2
    found = {frozenset((ids[a], ids[b])) for a, b in np.argwhere(np.triu(equal >= 0.9, 1))}
    pairs = {frozenset(pair.values()) for pair in read(tmp_path / "sample" / "truth" / "duplicates.csv")}
    assert len(pairs) == 4
    assert found == pairs


def test_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    options = {"photos": 40, "size": 48, "seed": 5, "twins": 1, "test_photos": 2, "progress": False}
    draw_shelter(tmp_path / "one", workers=1, **options)
    draw_shelter(tmp_path / "two", workers=2, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_photos_do_not_depend_on_how_many_there_are(shelter: Path, tmp_path: Path) -> None:
    draw_shelter(tmp_path / "few", photos=40, size=64, seed=3, test_photos=5, workers=1, progress=False)
    few, many = contents(tmp_path / "few"), contents(shelter)
    photos = [name for name in few if name.endswith((".jpg", ".png"))]
    assert len(photos) == 90
    assert all(few[name] == many[name] for name in photos)
    assert plan(40, 3) == plan(60, 3)[:40]


def test_another_seed_is_another_shelter(shelter: Path, tmp_path: Path) -> None:
    draw_shelter(tmp_path / "other", photos=10, size=48, seed=4, test_photos=1, workers=1, progress=False)
    assert not {r["Id"] for r in read(tmp_path / "other" / "train.csv")} & {
        r["Id"] for r in read(shelter / "train.csv")
    }


def test_distribution_is_like_the_contests() -> None:
    table = plan(20_000, 11)
    scores = np.array([entry.score for entry in table])
    means = np.array([entry.mean for entry in table])
    assert 36.5 < scores.mean() < 39.5
    assert 19.6 < scores.std() < 21.6
    assert 0.02 < (scores == 100).mean() < 0.04
    assert 31 < np.median(scores) < scores.mean()
    assert 16 < means.std() < 18
    assert ((scores - scores.mean()) ** 3).mean() / scores.std() ** 3 > 0.4
    shares = {name: np.mean([entry.photo.metadata()[name] for entry in table]) for name in METADATA}
    contest = dict(zip(METADATA, (0.03, 0.77, 0.90, 0.86, 0.10, 0.07, 0.13, 0.05, 0.17, 0.17, 0.06, 0.07), strict=True))
    assert shares == pytest.approx(contest, abs=0.015)


def test_default_shelter_is_within_the_promised_bounds() -> None:
    scores = np.array([entry.score for entry in plan(600, 0)])
    assert abs(scores.mean() - 38) < 1.5
    assert abs(scores.std() - 20.6) < 1
    assert 0.02 <= (scores == 100).mean() <= 0.04


def test_conditional_mean_and_variance_against_numerical_integration() -> None:
    z = np.linspace(-8, 8, 400_001)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()
    means = np.array([-20.0, 5.0, 38.3, 79.0, 95.0, 130.0])
    for mean, expected, variance in zip(means, expected_score(means), score_variance(means), strict=True):
        latent = mean + NOISE_SD * z
        score = np.where(latent >= SPIKE, 100.0, np.clip(np.rint(latent), 1, 99))
        assert expected == pytest.approx((weight * score).sum(), abs=2e-3)
        assert variance == pytest.approx((weight * score**2).sum() - (weight * score).sum() ** 2, abs=0.2)
    assert scored(np.array([-3.0, 1.4, 78.4, 78.6, 78.999, 79.0, 120.0])).tolist() == [1, 1, 78, 79, 79, 100, 100]


def test_floor_against_the_closed_form_and_an_independent_draw(shelter: Path) -> None:
    summary = json.loads((shelter / "truth" / "floor.json").read_text(encoding="utf-8"))
    table = plan(60, 3)
    means = np.array([entry.mean for entry in table])
    expected = np.array([entry.expected for entry in table])
    rng = np.random.default_rng(99)
    error = scored(means + NOISE_SD * rng.standard_normal((4000, 60))) - expected
    drawn = math.sqrt((error**2).mean())
    slack = 4 * summary["floor_standard_error"]
    assert summary["floor"] == pytest.approx(drawn, abs=slack + 0.03)
    assert summary["floor"] == pytest.approx(summary["floor_closed_form"], abs=slack)
    scores = np.array([int(row["Pawpularity"]) for row in read(shelter / "train.csv")])
    assert summary["constant_rmse"] == pytest.approx(scores.std())
    assert summary["share_of_100"] == pytest.approx((scores == 100).mean())
    assert summary["duplicate_pairs"] == len(read(shelter / "truth" / "duplicates.csv"))
    assert 10 < floor(plan(5000, 1), 1)["floor"] < 11.2


def _grown(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1))) > 0


@pytest.mark.parametrize("part", PARTS)
def test_twins_differ_in_one_part_and_there_only(part: str) -> None:
    """Compared before encoding; the margin of 1 pixel is the antialiased rim that labels round away."""
    own = {
        "tongue": {TONGUE},
        "eyes": {LEFT_EYE, RIGHT_EYE},
        "clutter": {CLUTTER},
        "pose": {BODY, TONGUE, LEFT_EYE, RIGHT_EYE, ACCESSORY},
        "pets": {SECOND_PET},
        "accessory": {ACCESSORY},
        "contrast": {BACKGROUND},
    }[part]
    for pair in range(6):
        with_part, without = twins(7, part, pair)
        changed = [name for name in PARTS if with_part.points()[name] != without.points()[name]]
        assert changed == ([] if part == "accessory" else [part])
        (a, labels_a), (b, labels_b) = render(with_part, 128), render(without, 128)
        differs = np.abs(a.astype(int) - b).max(axis=2) > 3
        where = np.isin(labels_a, list(own)) | np.isin(labels_b, list(own))
        assert differs.any()
        if part == "contrast":
            # The pet's soft shadow and rim let the background through, so they are looked at only for what must hold.
            assert np.array_equal(labels_a, labels_b)
            assert not (differs & np.isin(labels_a, [TONGUE, LEFT_EYE, RIGHT_EYE]) & ~_grown(where, 2)).any()
            assert differs[where].mean() > 0.9
        else:
            # A part may shimmer through the antialiased rim of something before it: a few pixels, and faintly.
            stray = differs & ~_grown(where, 1)
            assert stray.mean() < 0.001
            assert not stray.any() or np.abs(a.astype(int) - b)[stray].max() < 32
            assert where.mean() > 0.004


def test_twins_table_holds_the_exact_effects(shelter: Path) -> None:
    rows = read(shelter / "twins" / "twins.csv")
    assert [row["part"] for row in rows] == list(PARTS)
    effects = {row["part"]: float(row["effect"]) for row in rows}
    assert effects == {
        "tongue": 30, "eyes": 9, "contrast": 25.8, "clutter": -10.5, "pose": -9, "pets": -9, "accessory": 0,
    }  # fmt: skip
    for row in rows:
        means = np.array([photo.mean_unclipped() for photo in twins(3, row["part"], 0)])
        assert float(row["effect_expected"]) == pytest.approx(-np.diff(expected_score(means))[0], abs=1e-3)
    ids = {row[side] for row in rows for side in ("Id_with", "Id_without")}
    assert {p.stem for p in (shelter / "twins" / "photos").iterdir()} == ids
    assert {p.stem for p in (shelter / "twins" / "labels").iterdir()} == ids
    assert not ids & {row["Id"] for row in read(shelter / "truth" / "parts.csv")}


def test_parts_are_on_the_picture_exactly_when_the_table_says_so_and_large_enough() -> None:
    for index in range(150):
        photo = describe(1, TEST, index)
        _, labels = render(photo, 96)
        width, height = photo_size(photo.aspect, 96)
        assert labels.shape == (height, width)
        wanted = {
            TONGUE: photo.tongue,
            LEFT_EYE: photo.eyes in ("open", "right shut"),
            RIGHT_EYE: photo.eyes in ("open", "left shut"),
            CLUTTER: photo.clutter > 0,
            SECOND_PET: photo.second,
            ACCESSORY: bool(photo.accessory),
        }
        for part, there in wanted.items():
            mask = labels == part
            assert mask.any() == there, (index, part)
            if there and part in (TONGUE, LEFT_EYE, RIGHT_EYE):
                across, down = (np.flatnonzero(mask.any(axis=k)) for k in (0, 1))
                # A turned head's tongue is as wide as it was, but lies across: its lesser extent counts.
                extent = min(np.ptp(across), np.ptp(down)) + 1 if photo.odd else np.ptp(across) + 1
                assert extent >= 0.04 * width, (index, part)
        assert (labels == BODY).mean() > 0.02
        assert (labels == BACKGROUND).mean() > 0.02


def test_contrast_can_be_measured_in_the_photo() -> None:
    told, measured = [], []
    for index in range(120):
        photo = replace(describe(2, TRAIN, index), focus=False, collage=False)
        rgb, labels = render(photo, 96)
        luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(float)
        pet = cv2.erode((labels == BODY).astype(np.uint8), np.ones((3, 3))) > 0
        told.append(photo.contrast)
        measured.append(abs(luma[pet].mean() - luma[labels == BACKGROUND].mean()))
    assert np.corrcoef(told, measured)[0, 1] > 0.8


def test_every_shape_of_photo_can_be_drawn_small_and_large() -> None:
    for aspect in set(ASPECTS):
        for size in (48, 600):
            rgb, labels = render(replace(describe(0, TRAIN, 8), aspect=aspect), size)
            assert max(labels.shape) == size
            assert rgb.shape == (*labels.shape, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photos": 0}, "--photos 0 is out of range; legal: 1 to 100000"),
        ({"size": 47}, "--size 47 is out of range; legal: 48 to 1024"),
        ({"size": 1025}, "--size 1025"),
        ({"seed": -1}, "--seed -1"),
        ({"twins": -1}, "--twins -1"),
        ({"test_photos": 0}, "--test-photos 0"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, int], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        draw_shelter(tmp_path / "new" / "sample", **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_ctrl_c_is_one_line_of_the_command_and_none_of_its_helpers(tmp_path: Path) -> None:
    """A terminal tells the whole group."""
    words = [sys.executable, "-m", "pawpularity", "sample", "--photos", "20000", "--into", "drawn"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 300
    while not list(tmp_path.rglob("*.jpg")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be blocked there")
def test_helpers_that_are_still_starting_do_not_hear_ctrl_c() -> None:
    # In a process of its own: here others have started what the standard library starts once, and unblocks Ctrl-C with.
    code = """
import signal
from pawpularity.sample.draw import drawers
if __name__ == "__main__":
    with drawers(2) as pool:
        theirs = [pool.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, [])) for _ in range(8)]
    ours = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    print([signal.SIGINT in mask for mask in (*theirs, ours)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{[True] * 8 + [False]}\n", done.stderr


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for name in ("old", "file", "file/below"):
        with pytest.raises(UserError, match="choose another folder"):
            draw_shelter(tmp_path / name, photos=1, size=48)
    assert contents(tmp_path) == {"file": b"mine", "old/mine.txt": b"mine"}


def test_an_empty_folder_is_filled_and_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    draw_shelter(tmp_path / "empty", photos=1, size=48, test_photos=1)
    assert len(read(tmp_path / "empty" / "train.csv")) == 1

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(sample, "render", broken)
    with pytest.raises(RuntimeError):
        draw_shelter(tmp_path / "broken", photos=3, size=48)
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
