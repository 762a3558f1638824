"""What goes wrong with a command: networks that are no use, places that cannot be written, disks that get full, wrong words."""

import errno
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.explain.conftest import QUICK, made

from pawpularity import console as verb
from pawpularity import predictor
from pawpularity.cli import verbs
from pawpularity.errors import UserError
from pawpularity.explain import explain, group_command
from pawpularity.explain.explain import span
from pawpularity.explain.rise import still

RISE = (*QUICK, "explain.methods=[rise]")


def spoil(monkeypatch, change, folds=(0, 1)):
    """Networks of `folds` are changed as they are loaded."""
    load = predictor.load_network

    def loading(run, fold, **rest):
        network = load(run, fold, **rest)
        if fold in folds:
            with torch.no_grad():
                change(network)
        return network

    monkeypatch.setattr(predictor, "load_network", loading)


def constant(network):
    network.score.weight.zero_()


def no_numbers(network):
    for weight in network.parameters():
        if weight.requires_grad:  # the trunk is one for all folds
            weight.fill_(torch.nan)


def slopes_that_are_no_numbers(network):
    """The score stays what it is; its derivative is 0 x infinity."""
    network.image.register_forward_hook(lambda module, inputs, output: output + torch.sqrt(0 * output))


def photos_of_folds(at):
    """A photo of each fold."""
    oof = pd.read_csv(at / "oof" / "toy" / "oof.csv")
    return [oof.loc[oof["fold"] == fold, "Id"].iloc[0] for fold in (0, 1)]


def test_a_network_that_sees_nothing_is_refused_and_the_earlier_gallery_stays(at, paw, refused, monkeypatch):
    command = ("explain", "--run", "toy", "--n", "2", *QUICK, "explain.methods=[gradient]")
    assert paw(*command).code == 0
    before = made(at / "oof/toy/explain")
    assert "index.html" in before
    spoil(monkeypatch, constant)
    for words in (command, (*command, "explain.methods=[rise]"), (*command, "explain.methods=[gradient,gradcam,rise]")):
        line = refused(*words)
        assert re.search(r"[0-9a-f]{32}: its score is \d+\.\d+ whatever is hidden", line)
        assert "lower train.lr" in line
        assert line.count("whatever is hidden") == 5, "of many photos the first few are named"
        assert re.search(r"and \d more$", line)
        assert made(at / "oof/toy/explain") == before
    refused(*command, "--out", "new/deep")
    assert not Path("new").exists()


def test_where_one_fold_sees_nothing_its_photos_are_named_and_the_others_shown(at, refused, monkeypatch):
    good, blind = photos_of_folds(at)
    spoil(monkeypatch, constant, folds=(1,))
    line = refused("explain", "--run", "toy", "--photo", good, blind, *QUICK)
    assert line.startswith(f"1 of 2 photos cannot be explained ({blind}: its score is")
    table = pd.read_csv("oof/toy/explain/photos/explain.csv")
    assert set(table["Id"]) == {good}
    assert set(table["method"]) == {"gradient", "gradcam", "rise"}
    assert not Path("oof/toy/explain/photos/.part").exists()


def test_a_group_counts_what_hiding_does_not_move_as_zero_and_refuses_where_nothing_moves(
    at, paw, refused, monkeypatch
):
    words = ("explain", "--run", "toy", "--group", "scores", "--n", "4")
    folder = Path("oof/toy/explain")
    with monkeypatch.context() as patch:
        spoil(patch, constant)
        line = refused(*words)
        assert "of none of its 12 photos" in line
        assert not folder.exists()
    with monkeypatch.context() as patch:
        spoil(patch, no_numbers)
        assert "its score is no number" in refused(*words)
        assert not folder.exists()
    mapped, findings = [], group_command.findings

    def found(group, sides, *rest, **more):
        mapped.append(sides)
        return findings(group, sides, *rest, **more)

    monkeypatch.setattr(group_command, "findings", found)
    assert paw(*words).code == 0
    plain = json.loads((folder / "groups/scores/groups.json").read_text())
    assert plain["unmoved"] == []
    spoil(monkeypatch, constant, folds=(1,))
    done = paw(*words, "--out", "half")
    assert done.code == 0, done.err
    unmoved = json.loads(Path("half/scores/groups.json").read_text())["unmoved"]
    oof = pd.read_csv("oof/toy/oof.csv").set_index("Id")
    assert 0 < len(unmoved) < 12
    assert set(oof.loc[unmoved, "fold"]) == {1}
    assert f"hiding moves no score of {unmoved[0]}" in done.err
    # The others' maps are what they were, and the side's mean is over all of its photos.
    for side, photos in mapped[0].items():
        own = [photo.map for photo in mapped[1][side]]
        assert len(own) == len(photos) == 4
        assert all((one == photo.map).all() or not one.any() for one, photo in zip(own, photos, strict=True))
        with np.load("half/scores/maps.npz") as maps:
            np.testing.assert_allclose(maps[side], sum(own) / 4, atol=1e-6)
    assert sum(not photo.map.any() for photos in mapped[1].values() for photo in photos) == len(unmoved)


def test_a_network_of_no_numbers_gives_one_useful_line(at, refused, monkeypatch):
    name, _ = photos_of_folds(at)
    for method in ("gradcam", "gradient", "rise"):
        with monkeypatch.context() as patch:
            spoil(patch, no_numbers)
            line = refused("explain", "--run", "toy", "--photo", name, *QUICK, f"explain.methods=[{method}]")
            assert line == f"{name}: its score is no number (the training diverged); train with a lower train.lr"
    # The score is a number and its slope is none: Grad-CAM and the gradient say so themselves, RISE needs no slope.
    spoil(monkeypatch, slopes_that_are_no_numbers)
    line = refused("explain", "--run", "toy", "--photo", name, *QUICK, "explain.methods=[gradcam]")
    assert line.startswith(f"none of 1 photos can be explained: {name}: Grad-CAM: the map holds what is no number")
    assert "lower train.lr" in line
    assert "tensor" not in line
    assert not Path("oof/toy/explain").exists()


def test_a_picture_alone_is_seen_by_the_mean_of_the_folds(at, refused, monkeypatch):
    picture = next((at / "toy" / "test").glob("*.jpg"))
    spoil(monkeypatch, constant)
    assert "whatever is hidden" in refused("explain", "--run", "toy", "--photo", picture, *QUICK)
    assert not Path("oof/toy/explain").exists()


def test_what_still_means():
    photo = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    corner = lambda batch: 40 + batch[:, :, :8, :8].mean((1, 2, 3))  # noqa: E731
    assert still(corner, photo) is None
    assert still(lambda batch: torch.full((len(batch),), 40.5), photo) == 40.5
    assert still(lambda batch: 40.5 + 1e-7 * corner(batch), photo) == pytest.approx(40.5, abs=1e-4)

    def between(batch):  # whole and hidden it is 40, in between it is not
        shown = batch.mean((1, 2, 3)) / photo.mean()
        return 40 + shown * (1 - shown)

    assert still(between, photo) is None
    with pytest.raises(UserError, match="no number"):
        still(lambda batch: corner(batch) * torch.nan, photo)


def test_a_command_that_did_nothing_leaves_nothing(at, paw, monkeypatch):
    names = photos_of_folds(at)
    words = ("explain", "--run", "toy", "--photo", *names, *QUICK, "explain.methods=[gradient]")
    assert paw(*words).code == 0
    folder = at / "oof/toy/explain/photos"
    before = made(folder)
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    calls = []
    for stop, code in ((KeyboardInterrupt, 130), (UserError("no more"), 2)):

        def stopping(*args, stop=stop, **kwargs):
            calls.append(1)
            raise stop

        with monkeypatch.context() as patch:
            patch.setattr(explain, "judge", stopping)
            for out in ("new/deep", "mine", folder):
                assert paw(*words, "explain.seed=1", "--out", out).code == code
        assert not Path("new").exists()
        assert [file.name for file in Path("mine").iterdir()] == ["notes.txt"]
        assert made(folder) == before, "without .part, too"
    assert len(calls) == 3 + 3 * len(names), "a photo that will not do is passed over, Ctrl-C is not"
    assert paw(*words, "--out", "mine").code == 0, "and the folder may be used"
    assert made(at / "mine") == before | {"notes.txt": b"mine"}


def test_a_full_disk_says_what_to_free_and_the_command_goes_on(at, paw, refused, monkeypatch):
    names = photos_of_folds(at)
    words = ("explain", "--run", "toy", "--photo", *names, *RISE)
    write, calls = explain.write_maps, []

    def writing(*args):
        calls.append(1)
        if len(calls) in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args)

    full = {1, 3}
    monkeypatch.setattr(explain, "write_maps", writing)
    line = refused(*words)
    assert "no disk space left; free some on that disk" in line
    assert "make clean-cache" in line
    assert line.endswith("the same command can be given again")
    assert not Path("oof/toy/explain").exists()
    assert refused(*words).endswith("the same command goes on from the 1 that are finished")
    done = paw(*words)
    assert done.code == 0, done.err
    assert "going on with" in done.err
    assert len(calls) == 4
    assert sorted(pd.read_csv("oof/toy/explain/photos/explain.csv")["Id"]) == sorted(names)

    def forbidden(*args):
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    monkeypatch.setattr(explain, "write_maps", forbidden)
    assert "no disk space" not in refused(*words, "explain.seed=1")


def test_every_verb_refuses_a_json_that_cannot_be_written_before_it_begins(work, refused, monkeypatch):
    Path("afile").write_text("")
    asked = [name for name, known in verbs().items() if takes_json(known)]
    assert {"explain", "robustness", "oof", "train", "tune", "folds"} <= set(asked)
    for name in asked:
        line = refused(name, "--json", "afile/x.json")
        assert line.startswith("--json afile/x.json: ")
        assert "afile is a file where a folder is needed" in line
    assert "is a folder" in refused("oof", "a", "--json", "configs")
    monkeypatch.setattr(verb.os, "access", lambda place, mode: False)
    assert "work cannot be written" in refused("oof", "a", "--json", "new/x.json")
    assert "/dev/null cannot be written" in refused("oof", "a", "--json", "/dev/null")
    assert not Path("new").exists()


def takes_json(known):
    import argparse

    parser = argparse.ArgumentParser()
    known.arguments(parser)
    return "--json" in parser._option_string_actions


def test_a_json_goes_where_it_can(at, paw):
    name, _ = photos_of_folds(at)
    words = ("explain", "--run", "toy", "--photo", name, *RISE)
    done = paw(*words, "--json", "/dev/null")
    assert done.code == 0, done.err
    assert " dev/null" not in done.err
    assert Path("/dev/null").is_char_device()
    assert paw(*words, "--json", "not/there/yet.json").code == 0
    assert json.loads(Path("not/there/yet.json").read_text())["run"] == "toy"


def test_a_photo_is_called_what_it_was_called(at, refused):
    assert refused("explain", "--run", "toy", "--photo", "/dev/null", *RISE) == "/dev/null: not a regular file"
    Path("some/where").mkdir(parents=True)
    Path("some/where/x.jpg").write_text("no photo")
    assert refused("explain", "--run", "toy", "--photo", "some/where/x.jpg", *RISE).startswith(
        "some/where/x.jpg: not a"
    )


def test_a_list_is_asked_for_as_one(at, refused):
    line = refused("explain", "--run", "toy", "explain.methods=rise")
    assert 'write "explain.methods=[rise]"' in line
    assert "explain.methods=[rise,gradcam]" in refused("explain", "--run", "toy", "explain.methods=rise,gradcam")
    assert "explain.methods=[gradient,gradcam,rise]" in refused("explain", "--run", "toy", "explain.methods=")


@pytest.mark.parametrize(
    ("words", "masks", "times"),
    [
        (("--masks", "1"), "128 masks and", 1),
        (("--masks", "129"), "256 masks and", 1),
        (("--masks", "auto", "explain.precision=0.01", "explain.budget=700"), "512 to 640 masks and", 2),
        (("--masks", "auto", "explain.cells=4", "explain.budget=200"), "128 to 192 masks and", 2),
        (("--masks", "auto", "explain.budget=300"), "256 masks and", 1),
    ],
)
def test_what_is_announced_is_what_is_run(at, paw, monkeypatch, words, masks, times):
    name, _ = photos_of_folds(at)
    rest = ("explain.road=false", "explain.sanity_photos=0", "explain.methods=[rise]")
    monkeypatch.setattr(explain, "span", lambda seconds: f"{seconds:.9f} s")
    done = paw("explain", "--run", "toy", "--photo", name, *words, *rest)
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "a forward pass" in line)
    assert line.startswith("1 photo at ")
    assert masks in line
    assert len(line.rpartition(": about ")[2].split(" to ")) == times
    assert "with 1 panel, raw" in done.err
    taken = json.loads(Path("oof/toy/explain/photos/explain.json").read_text())["photos"][0]["methods"]["rise"]
    low, high = ([int(word) for word in re.findall(r"\d+", masks)] * 2)[:2]
    assert low <= taken["facts"]["masks"] <= max(low, high)


def test_times_for_people():
    assert [span(s) for s in (0.01, 1.4, 99.4, 150, 3600, 7200)] == ["1 s", "1 s", "99 s", "2 min", "60 min", "2.0 h"]
