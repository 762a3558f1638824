"""Panels, raw maps and the page: scales and colours, bytes, what the page refers to, and (in a browser) sorting and filtering."""

import html
import io
import json
import re
import shutil
import subprocess
import zipfile
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pawpularity.explain.explain import Explained
from pawpularity.explain.faithfulness import Faithfulness
from pawpularity.explain.faithfulness_summary import summarise
from pawpularity.explain.gallery import Frame, Section, caption, csv_text, page, weak_methods, write_pictures
from pawpularity.explain.panel import overlay, scale_of, strip, tidy, tiles_of, write_maps
from pawpularity.explain.saliency import Saliency


def judged(method, gain, p, substrate="blur"):
    return Faithfulness(
        method=method, substrate=substrate, deletion_auc=30.0, insertion_auc=30.0 + gain, insertion_minus_deletion=gain,
        positive_end=-5.0, negative_end=float("nan"), road=1.0, beats_random=p <= 0.05, p_random=p, road_beats_random=False,
        beats_centre=True, random_sd=3.0, grain=4.0, constant=False,
    )  # fmt: skip


def explained(name, target, prediction, *, fold=0, kinds=("highest",), p=0.045, size=48, seed=0):
    random = np.random.default_rng(seed)
    bump = np.zeros((size, size), dtype=np.float32)
    bump[:10, :10], bump[-10:, -10:] = 8.0, -4.0
    error = (0.5 + random.random((size, size))).astype(np.float32)
    noise = random.standard_normal((size, size)).astype(np.float32)
    facts = {"masks": 512, "blocks": 4, "degrees": 3, "verdict": "precise", "relative_error": 0.1, "r2": 0.8}
    maps = {
        "gradient": Saliency("gradient", noise, "points per pixel", facts={"smooth": 4}),
        "rise": Saliency("rise", bump, "points from hidden to shown", error, facts=facts),
    }
    rows = [judged("gradient", 1.0, 0.4), judged("rise", 9.0, p), judged("rise", 9.5, 0.045, "grey")]
    record = {
        "name": name, "kinds": list(kinds), "fold": fold, "folds": [0, 1], "target": target, "constant": 38.0,
        "prediction": prediction, "score": prediction, "hidden_score": 20.0, "group": seed, "refusals": [], "methods": {},
        "judged": [row.to_dict() for row in rows],
    }  # fmt: skip
    return Explained(record, maps)


def frame(some):
    scales, units = {"gradient": 3.0, "rise": 8.0, "error": 1.5}, {"gradient": "points a", "rise": "points b"}
    section = Section("A table", "t", "caption", ("", "x"), [["row", "1"]])
    return Frame("run: title", ["intro"], scales, units, summarise([one.judged for one in some]), [section], ["foot"])


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A page of four photos beside its pictures."""
    folder = tmp_path_factory.mktemp("gallery")
    some = [explained("aa", 80.0, 90.0), explained("bb", 20.0, 60.0, kinds=("over",), fold=1, seed=1),
            explained("cc", 10.0, 12.0, kinds=("lowest",), p=0.5, seed=2),
            explained("dd", 99.0, 30.0, kinds=("under", "lowest"), seed=3)]  # fmt: skip
    photos = {one.name: np.full((48, 48, 3), 120, dtype=np.uint8) for one in some}
    write_pictures(folder, some, photos, frame(some).scales)
    for one in some:
        write_maps(folder / "maps" / f"{one.name}.npz", one.maps)
    (folder / "index.html").write_text(page(some, frame(some)), encoding="utf-8")
    return folder, some


def test_tidy_scales_cover_their_value():
    values = np.geomspace(1e-4, 1e4, 997)
    ends = np.array([tidy(value) for value in values])
    assert (ends >= values * (1 - 1e-8)).all()
    assert (ends <= 1.5 * values * (1 + 1e-8)).all()
    assert [tidy(v) for v in (0.2, 1.0, 1.01, 7.0, 9.0, 0.0)] == [0.2, 1.0, 1.5, 8.0, 10.0, 1.0]


def test_one_scale_covers_99_per_cent_of_all_pixels():
    maps = [np.random.default_rng(i).normal(0, 1 + i, (50, 50)).astype(np.float32) for i in range(3)]
    end = scale_of(maps)
    beyond = np.mean([np.abs(one) > end for one in maps])
    assert beyond <= 0.01
    assert end <= 1.5 * np.quantile(np.abs(np.stack(maps)), 0.99)


def test_colours_are_signed_centred_at_zero_and_never_stretched_to_the_maps_own_maximum():
    photo = np.full((32, 32, 3), 90, dtype=np.uint8)
    nothing = overlay(photo, np.zeros((32, 32)), 5.0, 32)
    assert (nothing[..., 0] == nothing[..., 2]).all(), "where the map is zero, the grey photo shows"
    up, down = (overlay(photo, np.full((32, 32), v), 5.0, 32)[0, 0].astype(int) for v in (2.0, -2.0))
    assert up[0] > up[2]
    assert down[2] > down[0]
    strong = np.full((32, 32), 2.0)
    strong[20:, 20:] = 50.0
    assert (overlay(photo, strong, 5.0, 32)[0, 0] == up).all(), "another place's height changes nothing"
    beyond = overlay(photo, np.full((32, 32), 50.0), 5.0, 32)[0, 0]
    assert (beyond == overlay(photo, np.full((32, 32), 5.0), 5.0, 32)[0, 0]).all()


def test_a_strip_holds_the_tiles_in_their_order(gallery):
    _, some = gallery
    tiles = strip(np.full((48, 48, 3), 120, dtype=np.uint8), some[0].maps, frame(some).scales)
    assert tiles_of(some[0].maps) == ["photo", "gradient", "rise", "error"]
    assert tiles.shape == (224, 4 * 224, 3)
    rise = tiles[:, 2 * 224 : 3 * 224].astype(int)
    assert rise[5, 5, 0] > rise[5, 5, 2] + 50, "raises: red"
    assert rise[-5, -5, 2] > rise[-5, -5, 0], "lowers: blue"
    assert (rise[112, 112, 0] == rise[112, 112, 2]).all()


def test_pictures_and_maps_are_the_same_bytes_each_time(gallery, tmp_path):
    folder, some = gallery
    photos = {one.name: np.full((48, 48, 3), 120, dtype=np.uint8) for one in some}
    write_pictures(tmp_path, some[:1], photos, frame(some).scales)
    write_maps(tmp_path / "maps" / "aa.npz", some[0].maps)
    for name in ("panels/aa.png", "strips/aa.png", "maps/aa.npz"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    with zipfile.ZipFile(folder / "maps" / "aa.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}, "no time of day in it"
    with np.load(folder / "maps" / "aa.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"gradient", "rise", "rise_standard_error"}
        assert np.array_equal(arrays["rise"], some[0].maps["rise"].map)
    with Image.open(folder / "panels" / "aa.png") as panel:
        assert not {"Software", "Creation Time", "date:create"} & set(panel.info)


def test_a_method_that_does_not_beat_random_is_marked(gallery):
    folder, some = gallery
    assert [sorted(weak_methods(one)) for one in some] == [
        ["gradient"],
        ["gradient"],
        ["gradient", "rise"],
        ["gradient"],
    ]
    assert "not told from random" in " ".join(caption(some[2], frame(some).scales).under["rise"])
    assert "beats random" in " ".join(caption(some[0], frame(some).scales).under["rise"])
    assert "from -4 to +8" in caption(some[0], frame(some).scales).under["rise"]
    assert "from -4 to +8: faint on this scale" in caption(some[0], {"gradient": 3.0, "rise": 60.0}).under["rise"]
    plain, marked = (np.asarray(Image.open(folder / "panels" / f"{name}.png")).astype(int) for name in ("aa", "cc"))
    red = [((p[..., 0] > 150) & (p[..., 1] < 60) & (p[..., 2] < 90)).sum() for p in (plain, marked)]
    assert red[1] > red[0] + 500, "a second frame and title in red"


def test_the_table_has_a_row_per_photo_and_method(gallery):
    _, some = gallery
    table = pd.read_csv(io.StringIO(csv_text(some, {"rise": {"sanity": "passes"}})))
    assert list(zip(table["Id"], table["method"], strict=True)) == [
        (one.name, m) for one in some for m in ("gradient", "rise")
    ]
    row = table[(table["Id"] == "bb") & (table["method"] == "rise")].iloc[0]
    assert (row["error"], row["masks"], row["blur_insertion_minus_deletion"], row["grey_insertion_minus_deletion"]) == (
        40,
        512,
        9,
        9.5,
    )
    assert row["sanity"] == "passes"
    assert pd.isna(row["blur_negative_end"])


class Seen(HTMLParser):
    """What a page refers to, and its pictures' texts."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.labels = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found[key] for key in ("src", "href") if key in found]
        if tag == "img":
            self.images.append(found)


def test_the_page_stands_alone(gallery):
    folder, some = gallery
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text), "nothing is fetched from anywhere"
    seen = Seen(text)
    for link in seen.links:
        assert link.startswith("#") or (folder / link).is_file(), link
    assert len(seen.images) == sum(len(tiles_of(one.maps)) for one in some)
    assert all(len(image["alt"]) > 10 for image in seen.images)
    assert "raises the score most at the top left, lowers it most at the bottom right" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_names_cannot_become_markup(tmp_path):
    one = explained('x"><script>alert(1)</script>', 1.0, 2.0)
    assert "<script>alert" not in page([one], frame([one]))


@pytest.mark.parametrize("name", ["50 %", "a%20b", "#1", "who?", "a:b", "é", "a&amp;b", "a'b\""])
def test_any_name_is_a_link_to_its_files(name):
    one = explained(name, 1.0, 2.0)
    links = {unquote(urlsplit(link).path) for link in Seen(page([one], frame([one]))).links if not link.startswith("#")}
    assert links == {f"strips/{name}.png", f"panels/{name}.png", f"maps/{name}.npz"}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium, to run the page's script")
def test_sorting_and_filtering_in_a_browser(gallery, tmp_path):
    folder, _ = gallery
    text = (folder / "index.html").read_text(encoding="utf-8")
    steps = [
        ([], ["aa", "bb", "cc", "dd"]),
        ([("sort", "prediction")], ["aa", "bb", "dd", "cc"]),
        ([("sort", "error"), ("turn", "")], ["dd", "cc", "aa", "bb"]),
        ([("kind", "lowest")], ["cc", "dd"]),
        ([("beats", "-rise")], ["cc"]),
        ([("beats", "+rise"), ("sort", "name"), ("turn", "")], ["dd", "bb", "aa"]),
        ([("off", "30"), ("sort", "off")], ["dd", "bb"]),
        ([("fold", "1")], ["bb"]),
        ([("from", "20"), ("to", "80")], ["aa", "bb"]),
    ]
    script = """
    const form = document.querySelector("form.controls"), found = [];
    const cards = () => [...document.querySelectorAll(".card:not([hidden])")].map(card => card.dataset.name);
    const press = key => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    (async () => {
      for (const step of STEPS) {
        form.reset();
        await new Promise(done => setTimeout(done));
        for (const [name, value] of step) {
          if (name === "turn") { form.elements.turn.click(); continue; }
          form.elements[name].value = value;
          form.dispatchEvent(new Event("input"));
        }
        found.push([cards(), form.querySelector("output").textContent]);
      }
      form.reset();
      await new Promise(done => setTimeout(done));
      press("j"); press("j"); press("k"); press("j");
      found.push([[document.activeElement.textContent], ""]);
      document.title = JSON.stringify(found);
    })();"""
    place = tmp_path / "page.html"
    script = script.replace("STEPS", json.dumps([words for words, _ in steps]))
    place.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=2000", "--dump-dom"]  # fmt: skip
    done = subprocess.run([*words, place.as_uri()], capture_output=True, text=True, timeout=300)
    titles = re.findall(r"<title>(.*?)</title>", done.stdout)
    found = json.loads(html.unescape(titles[0]))
    assert [names for names, _ in found[:-1]] == [names for _, names in steps]
    assert [told for _, told in found[:-1]] == [f"{len(names)} of 4 photos" for _, names in steps]
    assert found[-1][0] == ["bb"], "j, j, k, j ends on the second photo"
