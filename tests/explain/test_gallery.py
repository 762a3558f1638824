"""Pictures, raw maps and the page: scales and colours, bytes, what the page refers to, and (in a browser) sorting and filtering."""

import html
import io
import json
import re
import shutil
import subprocess
import zipfile
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pawpularity.config import Explain
from pawpularity.explain.gallery import Explained, csv_text, page, write_pictures
from pawpularity.explain.panel import overlay, scale_of, tidy, tiles, tiles_of
from pawpularity.explain.saliency import Saliency, read_maps, write_maps
from pawpularity.explain.summary import summarise

SCALES = {"gradient": 3.0, "rise": 8.0, "error": 2.0}
PHOTO = np.full((48, 48, 3), 120, dtype=np.uint8)


def judged(method, gain, p, baseline="blur"):
    return {
        "method": method, "baseline": baseline, "deletion_auc": 30.0, "insertion_auc": 30.0 + gain,
        "insertion_minus_deletion": gain, "road": 1.0, "beats_random": p <= 0.05, "p_random": p,
        "road_beats_random": False, "mark": "" if p <= 0.05 else "no better than random",
    }  # fmt: skip


def explained(name, target, prediction, *, fold=0, kinds=("highest",), p=0.045, size=48, seed=0):
    random = np.random.default_rng(seed)
    bump = np.zeros((size, size), dtype=np.float32)
    bump[:10, :10], bump[-10:, -10:] = 8.0, -4.0
    error = (0.5 + random.random((size, size))).astype(np.float32)
    noise = random.standard_normal((size, size)).astype(np.float32)
    facts = {"masks": 512, "blocks": 4, "degrees": 3, "verdict": "precise", "relative_error": 0.1, "r2": 0.8}
    maps = {
        "gradient": Saliency("gradient", noise, "points per pixel", facts={"smooth": 4}),
        "rise": Saliency("rise", bump, "points from hidden to shown", error, facts=facts, warnings=("a warning",)),
    }
    rows = [judged("gradient", 1.0, 0.4), judged("rise", 9.0, p), judged("rise", 9.5, 0.045, "grey")]
    record = {
        "name": name, "kinds": list(kinds), "fold": fold, "folds": [0, 1], "target": target, "constant": 38.0,
        "prediction": prediction, "score": prediction, "hidden_score": 20.0, "group": seed, "refusals": [], "methods": {},
        "judged": [*rows, judged("centre", 0.0, 0.5)],
    }  # fmt: skip
    return Explained(record, maps)


def page_of(some):
    model = SimpleNamespace(model=SimpleNamespace(backbone="net"), photos=SimpleNamespace(size=48))
    about = {"run": SimpleNamespace(name="run", leaky=False), "config": model, "device": "cpu", "data": "toy", "rows": 99,
             "what": "extremes", "partly": "only fold 0 of 2 is trained", "settings": Explain(), "block": 128,
             "plotted": (0, 0)}  # fmt: skip
    return page(some, SCALES, summarise([one.record["judged"] for one in some]), [], about)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A page of four photos beside its pictures."""
    folder = tmp_path_factory.mktemp("gallery")
    some = [explained("aa", 80.0, 90.0), explained("bb", 20.0, 60.0, kinds=("over",), fold=1, seed=1),
            explained("cc", 10.0, 12.0, kinds=("lowest",), p=0.5, seed=2),
            explained("dd", 99.0, 30.0, kinds=("under", "lowest"), seed=3)]  # fmt: skip
    for one in some:
        write_pictures(folder, one, PHOTO, SCALES)
        write_maps(folder / "maps" / f"{one.name}.npz", one.maps)
    (folder / "index.html").write_text(page_of(some), encoding="utf-8")
    return folder, some


def test_tidy_scales_cover_their_value():
    values = np.geomspace(1e-4, 1e4, 997)
    ends = np.array([tidy(value) for value in values])
    assert (ends >= values * (1 - 1e-8)).all()
    assert (ends <= 1.5 * values * (1 + 1e-8)).all()
    maps = [np.random.default_rng(i).normal(0, 1 + i, (50, 50)).astype(np.float32) for i in range(3)]
    assert np.mean([np.abs(one) > scale_of(maps) for one in maps]) <= 0.01, "one scale for all"
    assert scale_of(maps) <= 1.5 * np.quantile(np.abs(np.stack(maps)), 0.99)


def test_colours_are_signed_centred_at_zero_and_never_stretched_to_the_maps_own_maximum():
    photo = np.full((32, 32, 3), 90, dtype=np.uint8)
    nothing = overlay(photo, np.zeros((32, 32)), 5.0)
    assert (nothing[..., 0] == nothing[..., 2]).all(), "where the map is zero, the grey photo shows"
    up, down = (overlay(photo, np.full((32, 32), v), 5.0)[0, 0].astype(int) for v in (2.0, -2.0))
    assert up[0] > up[2]
    assert down[2] > down[0]
    strong = np.full((32, 32), 2.0)
    strong[20:, 20:] = 50.0
    assert (overlay(photo, strong, 5.0)[0, 0] == up).all(), "another place's height changes nothing"
    beyond = overlay(photo, np.full((32, 32), 50.0), 5.0)[0, 0]
    assert (beyond == overlay(photo, np.full((32, 32), 5.0), 5.0)[0, 0]).all()


def test_pictures_and_maps_are_the_same_bytes_each_time(gallery, tmp_path):
    folder, some = gallery
    write_pictures(tmp_path, some[0], PHOTO, SCALES)
    write_maps(tmp_path / "maps" / "aa.npz", some[0].maps)
    for name in ("panels/aa.png", "strips/aa.png", "maps/aa.npz"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    with zipfile.ZipFile(folder / "maps" / "aa.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}, "no time of day in it"
    again = read_maps(folder / "maps" / "aa.npz", {name: one.about() for name, one in some[0].maps.items()})
    for name, one in some[0].maps.items():
        assert np.array_equal(again[name].map, one.map)
        assert (again[name].facts, again[name].warnings, again[name].unit) == (one.facts, one.warnings, one.unit)
    assert np.array_equal(again["rise"].standard_error, some[0].maps["rise"].standard_error)
    with Image.open(folder / "strips" / "aa.png") as strip:
        assert strip.size == (4 * 224, 224)
        assert np.array_equal(np.asarray(strip)[:, 448:672], tiles(PHOTO, some[0].maps, SCALES)["rise"])
    assert tiles_of(some[0].maps) == ["photo", "gradient", "rise", "error"]


def test_a_method_that_does_not_beat_random_is_marked(gallery):
    folder, some = gallery
    assert [sorted(one.weak) for one in some] == [["gradient"], ["gradient"], ["gradient", "rise"], ["gradient"]]
    assert "no better than random (p 0.500)" in " ".join(some[2].lines("rise"))
    assert "from -4 to +8" in some[0].lines("rise")
    plain, marked = (np.asarray(Image.open(folder / "panels" / f"{name}.png")).astype(int) for name in ("aa", "cc"))
    red = [((p[..., 0] > 150) & (p[..., 1] < 60) & (p[..., 2] < 90)).sum() for p in (plain, marked)]
    assert red[1] > red[0] + 500, "a second frame and title in red"


def test_the_table_has_a_row_per_photo_and_method(gallery):
    _, some = gallery
    table = pd.read_csv(io.StringIO(csv_text(some, [SimpleNamespace(method="rise", verdict="passes")])))
    due = [(one.name, method) for one in some for method in ("gradient", "rise")]
    assert list(zip(table["Id"], table["method"], strict=True)) == due
    row = table[(table["Id"] == "bb") & (table["method"] == "rise")].iloc[0]
    gains = row["blur_insertion_minus_deletion"], row["grey_insertion_minus_deletion"]
    assert (row["error"], row["masks"], *gains, row["sanity"]) == (40, 512, 9, 9.5, "passes")


class Seen(HTMLParser):
    """What a page refers to, and its pictures' texts."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images = [], []
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
    for said in ("Only fold 0 of 2 is trained", "RISE: a warning", "prefers-color-scheme: dark", 'name="viewport"'):
        assert said in text


@pytest.mark.parametrize("name", ["50 %", "a%20b", "who?", "a&amp;b", "a'b\"", 'x"><script>alert(1)</script>'])
def test_any_name_is_a_link_to_its_files_and_no_markup(name):
    text = page_of([explained(name, 1.0, 2.0)])
    assert "<script>alert" not in text
    links = {unquote(urlsplit(link).path) for link in Seen(text).links if not link.startswith("#")}
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
    found = json.loads(html.unescape(re.findall(r"<title>(.*?)</title>", done.stdout)[0]))
    assert [names for names, _ in found[:-1]] == [names for _, names in steps]
    assert [words for _, words in found[:-1]] == [f"{len(names)} of 4 photos" for _, names in steps]
    assert found[-1][0] == ["bb"], "j, j, k, j ends on the second photo"
