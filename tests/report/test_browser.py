"""The page in a real browser: it opens quietly, asks nobody for anything, fits a phone, and its filters work."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pawpularity.cli import main

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
LARGE = 60  # photos with maps


@pytest.fixture(scope="module")
def page(everything, tmp_path_factory):
    """The page of everything, its gallery blown up to sixty photos of two runs, half of them of fold 1."""
    place = Path(shutil.copytree(everything, tmp_path_factory.mktemp("browser") / "place"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        shutil.copytree("oof/a/explain", "oof/b/explain")
        for run in ("a", "b"):
            _blow_up(place / "oof" / run, LARGE // 2)
        assert main(["report"]) == 0
    return place / "oof" / "report.html"


def _blow_up(run, count):
    """Let the gallery of `run` hold `count` photos of its own rows, whose pictures are those of one photo."""
    folder = run / "explain"
    rows = [line.split(",") for line in (run / "oof.csv").read_text().splitlines()[1 : 1 + count]]
    record = json.loads((folder / "explain.json").read_text())
    first, kinds = record["photos"][0], ("highest", "lowest", "over", "under")
    record["photos"] = [
        first | {"name": name, "kinds": [kinds[place % 4]], "fold": int(fold), "target": float(target), "prediction": float(value)}
        for place, (name, fold, target, value) in enumerate(rows)
    ]  # fmt: skip
    for photo in record["photos"]:
        if photo["name"] != first["name"]:
            shutil.copy(folder / "strips" / f"{first['name']}.png", folder / "strips" / f"{photo['name']}.png")
    (folder / "explain.json").write_text(json.dumps(record))


def browser(place):
    """The words that start it, with a profile of its own in `place`."""
    if CHROMIUM is None:
        pytest.skip("needs chromium, to open the page")
    return [CHROMIUM, *QUIET, f"--user-data-dir={place / 'profile'}"]


def browse(place, text, *, wait_ms=4000):
    """Open a page of `text` and give (what its script put into the title, what the browser printed).

    The script's clock jumps over waits, up to `wait_ms`.
    """
    file = place / "page.html"
    file.write_text(text, encoding="utf-8")
    words = [
        *browser(place),
        "--enable-logging=stderr",
        "--dump-dom",
        f"--virtual-time-budget={wait_ms}",
        file.as_uri(),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    return json.loads(html.unescape(re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[0])), done.stderr


def with_script(page, script):
    text = page.read_text(encoding="utf-8")
    return text.replace("</body>", f"<script>{script}</script></body>")


def test_it_opens_quietly_and_fetches_nothing(page, tmp_path):
    if CHROMIUM is None:
        pytest.skip("needs chromium, to open the page")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright (the extra dev), to drive the browser"
    )
    script = """async () => {
      const images = [...document.images];
      await Promise.all(images.map(image => { image.loading = "eager"; return image.decode().catch(() => null); }));
      return {
        images: images.length, broken: images.filter(image => image.naturalWidth === 0).map(image => image.alt),
        misshapen: images.filter(image => image.naturalWidth * image.height !== image.naturalHeight * image.width
          && Math.abs(image.naturalWidth / image.naturalHeight
            - image.getAttribute("width") / image.getAttribute("height")) > .01).length,
        cards: document.querySelectorAll(".card").length,
      };
    }"""
    said, asked = [], []
    with sync_api.sync_playwright() as playwright:
        driven = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = driven.new_page()
        shown.set_default_timeout(120_000)
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(page.as_uri())
        found = shown.evaluate(script)
        driven.close()
    assert found["cards"] == LARGE
    assert found["images"] >= 3 * LARGE
    assert (found["broken"], found["misshapen"], said) == ([], 0, []), found
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert page.stat().st_size < 15_000_000


def test_a_console_error_would_be_seen(page, tmp_path):
    """So that the quiet of the test above means something."""
    script = """fetch("https://example.org/").catch(() => null); console.error("oh"); document.title = "1";"""
    _, said = browse(tmp_path, with_script(page, script))
    assert "Content Security Policy" in said
    assert re.search(r"CONSOLE.*oh", said)


def test_filters_and_keys(page, tmp_path):
    steps = [
        [], [["run", "b"]], [["kind", "over"]], [["fold", "1"], ["run", "a"]], [["beats", "+rise"]], [["beats", "-rise"]],
        [["from", "40"], ["to", "60"]], [["off", "15"], ["sort", "off"]], [["sort", "target"], ["turn", ""]], [["sort", "name"]],
    ]  # fmt: skip
    script = """
    const form = document.querySelector("form.controls"), found = [];
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
        const cards = [...document.querySelectorAll(".card:not([hidden])")].map(card => ({...card.dataset}));
        found.push([cards, form.querySelector("output").textContent]);
      }
      form.reset();
      await new Promise(done => setTimeout(done));
      press("j"); press("j"); press("k"); press("j");
      found.push(document.activeElement.closest(".card").dataset.place);
      document.title = JSON.stringify(found);
    })();"""
    found, _ = browse(tmp_path, with_script(page, script.replace("STEPS", json.dumps(steps))))
    cards = [cards for cards, _ in found[:-1]]
    assert [said for _, said in found[:-1]] == [f"{len(some)} of {LARGE} photos" for some in cards]
    everyone = cards[0]
    assert len(everyone) == LARGE

    def due(keep):
        return [card["place"] for card in everyone if keep(card)]

    def got(step):
        return [card["place"] for card in cards[step]]

    assert got(1) == due(lambda card: card["run"] == "b")
    assert got(2) == due(lambda card: card["kinds"] == "over")
    assert got(3) == due(lambda card: card["fold"] == "1" and card["run"] == "a")
    assert got(4) == due(lambda card: "rise" in card["beats"].split())
    assert sorted(got(4) + got(5), key=int) == due(lambda card: True)
    assert got(6) == due(lambda card: 40 <= float(card["target"]) <= 60)
    assert set(got(7)) == set(due(lambda card: abs(float(card["error"])) >= 15))
    assert [abs(float(card["error"])) for card in cards[7]] == sorted(
        (abs(float(card["error"])) for card in cards[7]), reverse=True
    )
    assert [float(card["target"]) for card in cards[8]] == sorted(float(card["target"]) for card in everyone)
    assert [card["name"] for card in cards[9]] == sorted(card["name"] for card in everyone)
    assert all(0 < len(some) < LARGE for some in (cards[1], cards[2], cards[3], cards[6], cards[7])), (
        "each of them does something"
    )
    assert found[-1] == "2", "j, j, k, j ends on the second photo"


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_it_fits_the_screen(page, tmp_path, width):
    """No part but tables in scrollers of their own is wider than the screen, and no plot's words are too small to read."""
    inside = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    text = f"""<!doctype html><title></title><body><iframe style="width:{width}px;height:900px;border:0"></iframe><script>
    const frame = document.querySelector("iframe");
    frame.onload = () => setTimeout(() => {{
      const page = frame.contentDocument, words = [...page.querySelectorAll(".plot text")];
      document.title = JSON.stringify({{
        wide: page.documentElement.scrollWidth,
        culprits: [...page.querySelectorAll("main *, header *, footer *")]
          .filter(one => !one.parentElement.closest(".wide, pre, svg") && one.scrollWidth > {width})
          .map(one => one.tagName + " " + one.className + " " + one.textContent.slice(0, 60)),
        smallest: Math.min(...words.map(one => one.getBoundingClientRect().height)), words: words.length,
        stacked: frame.contentWindow.getComputedStyle(page.querySelector("table.stacked tr")).display,
      }});
    }}, 500);
    frame.srcdoc = {inside};
    </script>"""
    found, _ = browse(tmp_path, text)
    assert found["wide"] <= width, found["culprits"]
    assert found["words"] > 100
    assert found["smallest"] >= (10 if width < 390 else 11), "the height of a line of words, pixels"
    assert (found["stacked"] == "grid") == (width < 640)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_words_stand_out_from_what_is_behind_them(page, theme):
    """WCAG 2.1, AA: a contrast of 4.5 for text, 3 for lines of drawings."""
    style = page.read_text(encoding="utf-8").partition("</style>")[0]
    start = {"light": ":root {", "dark": "@media (prefers-color-scheme: dark)", "print": "@media print {\n  :root"}[
        theme
    ]
    colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", style[style.index(start) :].partition("}")[0]))

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(a, b):
        high, low = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for ground in ("paper", "card"):
        for words in ("ink", "soft", "bad", "link"):
            assert contrast(words, ground) >= 4.5, (words, ground)
        for line in ("c0", "c1", "c2", "c3", "c4", "c5", "c6"):
            assert contrast(line, ground) >= 3.0, (line, ground)
