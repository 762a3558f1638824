"""Lists of random transforms: read from files, refused when they are wrong, and exactly what albumentations makes of them."""

import json

import albumentations as A
import numpy as np
import pytest
from tests.conftest import ROOT

from pawpularity.config import Config, resolve
from pawpularity.data.augment import COPIES, RANDOM, Augmenter
from pawpularity.errors import UserError
from pawpularity.runs import differences, fingerprint

SIZE = 32
FILES = sorted(path.stem for path in (ROOT / "configs" / "augment").glob("*.yaml"))


def transforms_of(augment):
    return resolve("", [f"photos.size={SIZE}", f"train.augment={augment}"]).train.transforms


@pytest.fixture
def photo():
    """Read-only, as photos in the cache are."""
    found = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    found.setflags(write=False)
    return found


def test_strong_is_what_it_was_before_it_was_a_file(photo):
    compose = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomResizedCrop((SIZE, SIZE), scale=(0.7, 1.0), ratio=(0.85, 1.18), p=1),
            A.ColorJitter(brightness=(0.9, 1.1), contrast=(0.9, 1.1), saturation=(0.9, 1.1), hue=(-0.02, 0.02), p=0.8),
        ],
        seed=0,
    )
    augmenter = Augmenter(SIZE, transforms_of("strong"))
    for view in range(RANDOM, RANDOM + 16 * COPIES, COPIES):
        compose.set_random_seed(int(np.random.SeedSequence([7, view]).generate_state(1)[0]))
        assert np.array_equal(augmenter.apply(photo, view, 7), compose(image=photo)["image"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [32, 224])
def test_every_file_here_changes_photos_and_keeps_their_size(name, size):
    photo = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    augmenter = Augmenter(size, resolve("", [f"photos.size={size}", f"train.augment={name}"]).train.transforms)
    views = [augmenter.apply(photo, RANDOM + COPIES * k, 1) for k in range(4)]
    assert {view.shape for view in views} == {photo.shape}
    assert len({view.tobytes() for view in views}) == 4


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("strng", "strong"),
        ("filp", "flip"),
        ("missing.yaml", "no such file"),
        ("[]", "list"),
        ("{HorizontalFlip: {p: 0.5}}", "list"),
        ("7", "list"),
        ("[{HorizontalFlip: , p: 0.5}]", "HorizontalFlip"),
        ("[7]", "7"),
        ("[{HorizontalFlip: {p: 1.5}}]", "p=1.5"),
        ("[{HorizontalFlip: {p: true}}]", "p=True"),
        ("[HorizontalFlip, {ColourJitter: {p: 1}}]", "transform 2.*ColorJitter"),
        ("[Normalise]", "Normalize"),
        ("[{CoarseDropout: {num_hole_range: [1, 2]}}]", "num_holes_range"),
        ("[{CoarseDropout: {num_holes_range: many}}]", "num_holes_range"),
        ("[{OneOf: {transforms: [HorizontalFlip]}}]", "OneOf"),
        ("[{Compose: {transforms: [HorizontalFlip]}}]", "Compose"),
        ("[Normalize]", "float32"),
        ("[{Normalize: {p: 0.01}}]", "float32"),
        ("[{RandomCrop: {height: 16, width: 16}}]", "16x16x3"),
        ("[MaskDropout]", "mask"),
        ("[BBoxSafeRandomCrop]", "bboxes"),
        ("[CoarseDropout3D]", "volume"),
        ("[Mosaic]", "more than the photo"),
        ("[{FDA: {reference_images: [a.jpg]}}]", "more than the photo"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(written, words):
    with pytest.raises(UserError, match=words) as refused:
        transforms_of(written)
    assert "\n" not in str(refused.value)


def test_a_smaller_crop_may_be_resized_to_the_size_of_photos(photo):
    augmenter = Augmenter(SIZE, transforms_of("[{RandomCrop: {height: 16, width: 16}}, Resize]"))
    assert augmenter.apply(photo, RANDOM, 0).shape == photo.shape


def test_a_size_that_changes_only_now_and_then_stops_the_training(photo):
    """The check tries every transform; here Resize is left out of half of the views."""
    augmenter = Augmenter(SIZE, transforms_of("[{RandomCrop: {height: 16, width: 16}}, {Resize: {p: 0.5}}]"))
    with pytest.raises(UserError, match="16x16"):
        _ = [augmenter.apply(photo, RANDOM + COPIES * k, 0) for k in range(40)]


def test_a_file_is_told_by_its_content(tmp_path):
    """Runs record the list itself, so that a changed file is another setting."""
    file = tmp_path / "mine.yaml"

    def record():
        config = resolve("", [f"train.augment={file}"]).to_dict()
        return {"config": json.loads(json.dumps(config)), "data": {"hash": 1}, "folds": {"hash": 1}}

    file.write_text("- HorizontalFlip: {p: 0.5}\n")
    first = record()
    file.write_text("- HorizontalFlip: {p: 0.25}\n")
    assert "train.augment" in differences(fingerprint(first), fingerprint(record()))
    assert Config.model_validate(first["config"]).train.transforms == [{"HorizontalFlip": {"p": 0.5}}]
    file.write_text("- HorizontalFlip: {p: 5}\n")
    with pytest.raises(UserError, match=r"mine\.yaml.*p=5"):
        record()
