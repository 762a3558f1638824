"""The report: its figures are those of the verbs, flags and constants stand everywhere, and nothing that is wrong is shown."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pawpularity.cli import TARGETS, main
from pawpularity.evaluation.leaderboard import details
from pawpularity.evaluation.predictions import open_predictions
from pawpularity.report import gallery
from pawpularity.report.inputs import gather

PAGE = Path("oof/report.html")
KEYS = ("runs", "ensemble", "leaks", "paired", "predicted", "bands", "curves", "errors", "table1", "hypotheses", "search",
        "explain", "groups", "robustness", "checklist")  # fmt: skip


class Page(HTMLParser):
    """Tables as rows of cell texts, by section; sections' texts; pictures."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.images, self.drawings, self.sections, self.ids, self.links = [], [], [], {}, [], []
        self._section, self._cell, self._skip = "", None, 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("src", "href", "xlink:href") if key in found]
        if tag in ("style", "script"):
            self._skip += 1
        elif tag == "section":
            self._section = found.get("id", "")
        elif tag == "table":
            self.tables.append((self._section, []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "img":
            self.images.append(found)
        elif tag == "svg":
            self.drawings.append(found)

    def handle_endtag(self, tag):
        if tag in ("style", "script"):
            self._skip -= 1
        elif tag in ("td", "th") and self._cell is not None:
            self.tables[-1][1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data):
        if self._skip:
            return
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def whole(everything):
    """The report of everything, made once, and what the command says of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(everything)
        assert main(["report", "--json", "report.json"]) == 0
    text = (everything / PAGE).read_text(encoding="utf-8")
    return Page(text), json.loads((everything / "report.json").read_text()), text


def made(paw, *words):
    """The page and what the command says of it."""
    done = paw("report", *words, "--json", "-")
    assert done.code == 0, done.err
    value = json.loads(done.out)
    text = Path(value["report"]).read_text(encoding="utf-8")
    return Page(text), value, text


def states(value):
    return {section["key"]: section["state"] for section in value["sections"]}


def test_every_section_is_there_and_its_figures_are_those_of_the_verbs(whole, at, paw):
    page, value, text = whole
    assert states(value) == dict.fromkeys(KEYS, "made"), [s for s in value["sections"] if s["faults"]]
    table = {row["run"]: row for row in json.loads(paw("oof", "--json", "-").out)["runs"]}
    assert [row["run"] for row in value["runs"]] == [name for name in table if not name.startswith("found-")]
    rows = {row[0].split()[0]: row for row in next(rows for key, rows in page.tables if key == "runs")}
    for own in value["runs"]:
        due = table[own["run"]]
        assert {key: own[key] for key in due} == due
        s = due["score"]
        assert f"{s['rmse']:.3f}" in rows[own["run"]]
        assert f"{s['constant_rmse']:.3f}" in rows[own["run"]]
        assert any(cell.startswith(f"[{s['low']:.2f}, {s['high']:.2f}]") for cell in rows[own["run"]])
    first, *others = [row["name"] for pair in value["paired"] for row in ({"name": pair["first"]}, *pair["others"])]
    compared = json.loads(paw("compare", first, *others, "--json", "-").out)
    assert {first, *others} == {"a", "b", "blend", "leaky", "default", "found-default"} & {first, *others}
    for own, due in zip(value["paired"][0]["others"], compared["others"], strict=True):
        assert {key: own[key] for key in due} == due
        assert f"{due['difference']:+.3f}" in page.sections["paired"]
    assert len(text.encode()) == value["bytes"] < 15_000_000
    whole = [row for row in value["runs"] if not row["flag"] and row["folds"] == "2/2"]
    best = min(whole, key=lambda row: row["score"]["rmse"])
    line = f"The lowest honest RMSE is that of {best['run']}, the lowest of {len(whole)} on these rows"
    assert line in page.sections["runs"], "and not of half a run"


def test_the_checklist_is_that_of_its_verb_and_a_gap_stands_open(at, paw):
    (at / "oof/blend/weights.json").unlink()
    assert paw("checklist", "--runs", "a", "blend").code == 2
    page, _, _ = made(paw, "--runs", "a", "blend")
    told = json.loads(Path("oof/checklist.json").read_text())
    rows = {row[0]: row[1:] for row in next(rows for key, rows in page.tables if key == "checklist")}
    section = " ".join(page.sections["checklist"].split())
    for run in told["runs"]:
        states = [answer["status"] for answer in run["answers"]]
        assert rows[run["run"]] == [str(states.count(word)) for word in ("answered", "does not apply", "not backed")]
        assert all(" ".join(answer["text"].split()) in section for answer in run["answers"])
        assert all(source in section for answer in run["answers"] for source in answer["read"])
    assert rows["blend"][-1] == "1"
    assert "blend, size: oof/blend/weights.json is missing; run: make ensemble" in section


def test_what_is_said_of_a_run_is_what_oof_says(at):
    for one in gather(["leaky", "half", "blend"])[0]:
        assert one.row == details(open_predictions(one.name, partly=True))


def test_the_constant_stands_beside_every_rmse(whole):
    page, _, _ = whole
    checked = 0
    for key, rows in page.tables:
        if any(re.search(r"(?<!inner )RMSE|^all", head) for head in rows[0]):
            assert any("constant" in head for head in rows[0]), (key, rows[0])
            checked += 1
    assert checked >= 6
    for drawing in page.drawings:
        words = drawing["aria-label"]
        # Differences, and parts of an RMSE that stands in the table below, have no constant of their own.
        if "RMSE" in words and not words.startswith(("Paired", "Inner", "Table 1", "RMSE in score points by")):
            assert "constant" in words, words


def test_a_leaky_run_is_flagged_wherever_it_stands(whole):
    page, value, _ = whole
    assert [row["flag"] for row in value["runs"] if row["run"] == "leaky"] == ["leaky by design"]
    named = [(key, row) for key, rows in page.tables for row in rows[1:] if row and re.match(r"leaky\b", row[0])]
    assert {key for key, _ in named} >= {"runs", "leaks", "paired", "bands"}
    for key, row in named:
        assert "leaky by design" in row[0], (key, row)
    for drawing in page.drawings:
        words = drawing["aria-label"]
        assert not re.search(r"\bleaky\b", words) or "leaky by design" in words or words.startswith("Table 1"), words
    assert "beliefs of leaky (leaky by design)" in page.sections["hypotheses"]
    verdicts = next(rows for key, rows in page.tables if key == "paired")
    assert next(row for row in verdicts if row[0].startswith("leaky"))[-1] == "means nothing"
    assert [row["run"] for row in value["runs"]][-1] == "leaky" or value["runs"][-1]["score"] is None, (
        "after everything honest"
    )


def test_the_page_stands_alone_and_says_what_it_shows(whole):
    page, value, text = whole
    outside = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=\s]+", "", text)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)", outside), "nothing is fetched from anywhere"
    assert "default-src 'none'" in text
    for link in page.links:
        assert link.startswith(("#", "data:image/")), link
    assert len(page.ids) == len(set(page.ids)), "an id twice is no id"
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    for image in page.images:
        assert len(image["alt"]) > 10
        assert int(image["width"]) > 0
        assert int(image["height"]) > 0
    for drawing in page.drawings:
        assert drawing["role"] == "img"
        assert len(drawing["aria-label"]) > 20
    commands = re.findall(r"Made by <code>make ([a-z0-9]+)", text)
    assert len(commands) > 20
    assert set(commands) | {section["command"].split()[1] for section in value["sections"]} <= TARGETS.keys()
    assert not re.search(
        r"\bnan\b|\bNone\b|\bundefined\b", re.sub(r"(?s)<script>.*", "", " ".join(page.sections.values()))
    )


def test_the_same_command_gives_the_same_bytes(whole, at, paw):
    PAGE.unlink()
    assert paw("report").code == 0
    assert PAGE.read_text(encoding="utf-8") == whole[2]


def test_what_was_not_run_says_so_and_how(at, paw):
    for name in ("studies", "table1", "hypotheses", "errors", "a", "b", "blend", "leaky"):
        shutil.rmtree(f"oof/{name}")
    for path in Path("oof").glob("found-*"):
        shutil.rmtree(path)
    shutil.rmtree("oof/sample-toy", ignore_errors=True)
    page, value, _ = made(paw)
    assert states(value) == dict.fromkeys(KEYS, "not made") | dict.fromkeys(
        ("runs", "leaks", "predicted", "bands", "curves", "checklist"), "made"
    )
    told = paw("report").out
    assert "not made: The paper's Table 1, honest and leaky (make table1)" in told
    assert re.search(
        r"^half: RMSE \d+\.\d{2} \[[\d.]+, [\d.]+\] indicative, constant \d+\.\d{2}, n = \d+$", told, re.MULTILINE
    )
    for key, state in states(value).items():
        if state == "not made":
            assert re.search(r"Make it with make [a-z0-9]+", page.sections[key]), key
    assert "Only folds 1/2 are there" in page.sections["runs"]
    assert "indicative" in page.sections["runs"], "30 rows"
    assert "needed; here each stands alone" in page.sections["paired"]


def test_findings_about_other_predictions_are_not_shown(at, paw):
    for name in ("fold0", "fold1", "config.json", "oof.csv"):
        path = Path(f"oof/a/{name}")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree("oof/b", "oof/a", dirs_exist_ok=True)
    page, value, _ = made(paw)
    faults = {section["key"]: section["faults"] for section in value["sections"]}
    for key in ("errors", "explain", "groups", "robustness"):
        assert states(value)[key] == "cannot be shown"
        assert "other predictions than a holds now; run: make " in faults[key][0]
        assert "Cannot be shown" in page.sections[key]
    assert "Made of other predictions than a hold now" in page.sections["ensemble"]


def test_beliefs_of_other_predictions_are_not_shown(at, paw):
    shutil.rmtree("oof/leaky")
    shutil.copytree("oof/b", "oof/leaky")
    _, value, _ = made(paw)
    faults = {section["key"]: section["faults"] for section in value["sections"]}
    assert states(value)["hypotheses"] == "cannot be shown"
    assert "is about other predictions than leaky holds now; run: make hypotheses" in faults["hypotheses"][0]


def test_a_name_is_no_formula(at, paw):
    """matplotlib would read what stands between two dollars as one."""
    names = ["a$^$b", "costs$5and$6"]
    for name in names:
        shutil.copy("oof/a/oof.csv" if "^" in name else "oof/b/oof.csv", f"{name}.csv")
    _, _, text = made(paw, "--runs", *(f"{name}.csv" for name in names), "leaky")
    for name in names:
        assert re.search(rf"<text[^>]*>[^<]*{re.escape(name)}", text), name


@pytest.mark.parametrize("line", ["{}", "[1]", '{"op_code": 99, "worker_id": "w"}'])
def test_a_journal_that_is_none_of_optunas_costs_its_own_part_alone(at, paw, line):
    Path("oof/studies/found/study.journal").write_text(f"{line}\n")
    _, value, _ = made(paw)
    (fault,) = next(section["faults"] for section in value["sections"] if section["key"] == "search")
    assert "study.journal" in fault


def test_damaged_files_cost_their_own_part_alone(at, paw):
    (beliefs,) = Path().glob("oof/hypotheses/*/leaky/hypotheses.json")
    damaged = {
        "oof/a/explain/explain.json": ("explain", '{"photos": [{}]}'),
        "oof/a/explain/groups/eyes/groups.json": ("groups", "[1]"),
        "oof/a/robustness.json": ("robustness", '{"score": 1}'),
        "oof/table1/table1-toy-part.csv": ("table1", "backbone,copies\nx,y\n"),
        beliefs.as_posix(): ("hypotheses", "{"),
        "oof/studies/found/search.json": ("search", "{}"),
        "oof/blend/weights.json": ("ensemble", "{}"),
        "oof/a/fold0/history.csv": ("curves", "epoch\n1\n"),
        "oof/errors/a/worst.csv": ("errors", "Id,target\n"),
    }
    for path, (_, text) in damaged.items():
        assert Path(path).is_file()
        Path(path).write_text(text)
    Path("oof/b/config.json").write_text("{}")
    page, value, _ = made(paw)
    assert "left out b: " in value["left_out"][1]
    assert "left out b: " in page.sections["runs"]
    faults = {section["key"]: section["faults"] for section in value["sections"]}
    for path, (key, _) in damaged.items():
        assert [path.rsplit("/", 1)[0] in fault for fault in faults.pop(key)] == [True], path
        assert "Cannot be shown" in page.sections[key]
    assert not any(faults.values())
    assert states(value)["search"] == "made", "its trials are in the journal"
    assert states(value)["curves"] == "made", "of the other runs"


def test_a_picture_that_is_none_is_named(at, paw):
    for path in (
        "oof/errors/a/worst.png",
        "oof/a/explain/groups/eyes/figure.png",
        *Path("oof/a/explain/strips").glob("*.png"),
    ):
        Path(path).write_text("no picture")
    _, value, _ = made(paw, "--runs", "a")
    faults = {section["key"]: section["faults"] for section in value["sections"] if section["faults"]}
    assert faults.keys() == {"errors", "groups", "explain"}
    assert all("not a JPEG, PNG" in fault and "run: make " in fault for lines in faults.values() for fault in lines)
    assert len(faults["explain"]) == 4


def test_the_page_holds_as_many_photos_as_it_can_carry(at, paw, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_PHOTOS", 2)
    page, value, text = made(paw, "--runs", "a")
    assert value["photos"] == text.count('<article class="card"') == 2
    assert "2 of 4 photos, to keep the page light; all of them: oof/a/explain/index.html." in page.sections["explain"]


def test_a_card_shows_the_tiles_of_its_strip(whole, at, paw):
    record = json.loads(Path("oof/a/explain/explain.json").read_text())
    _, value, text = whole
    assert value["photos"] == len(record["photos"])
    photo = record["photos"][0]
    card = text[text.index('<article class="card" data-place="1"') :]
    card = card[: card.index("</article>")]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))).astype(float)
             for uri in re.findall(r"data:image/webp;base64,([^\"]+)", card)]  # fmt: skip
    strip = np.asarray(Image.open(f"oof/a/explain/strips/{photo['name']}.png").convert("RGB")).astype(float)
    tiles = np.split(strip, strip.shape[1] // strip.shape[0], axis=1)
    assert len(shown) == len(tiles) == 1 + len(photo["methods"]) + 1
    for own, tile in zip(shown, tiles, strict=True):
        assert np.abs(own - tile).mean() < 8
    assert f'data-target="{photo["target"]:g}"' in card
    assert f"predicted {photo['prediction']:.1f}" in card
    for row in photo["judged"]:
        if row["method"] in photo["methods"] and row["baseline"] == "blur":
            assert f"insertion - deletion {row['insertion_minus_deletion']:+.1f} points" in card
    assert card.count('class="weak"') == sum(
        not row["beats_random"]
        for row in photo["judged"]
        if row["method"] in photo["methods"] and row["baseline"] == "blur"
    )


def test_named_runs_alone_and_the_first_is_the_reference(at, paw):
    before = PAGE.read_text(encoding="utf-8")
    page, value, _ = made(paw, "--runs", "b,a", "--out", "some.html")
    assert {row["run"] for row in value["runs"]} == {"a", "b"}
    assert value["paired"][0]["first"] == "b"
    assert states(value)["hypotheses"] == "not made", "of the beliefs of a run that was not named"
    assert "leaky by design" not in page.sections["runs"]
    assert PAGE.read_text(encoding="utf-8") == before, "--out says where"


def test_anybodys_file_and_names_cannot_become_markup(at, paw):
    table = open_predictions("a").table
    name = '"><script>alert(1)<!--.csv'
    table.assign(prediction=table["prediction"] + 1).to_csv(name, index=False)
    page, value, text = made(paw, "--runs", "a", name)
    assert "<script>alert" not in text
    assert len(re.findall(r"<script>", text)) == 1
    assert any(row["run"].startswith('"><script>') for row in value["runs"])
    assert "file, taken as declared" in page.sections["runs"]


def test_an_interval_stands_once(whole):
    page, value, _ = whole
    due = {f"[{row['score']['low']:.2f}, {row['score']['high']:.2f}]" for row in value["runs"] if row["score"]}
    found = re.findall(r"\[[\d.]+, [\d.]+\]", page.sections["paired"])
    assert found
    assert set(found) <= due, "of one RMSE by two numbers of draws"


def test_refusals(at, refused):
    assert "holds no run" in refused("report", "--runs", "nothing")
    assert "must end in .html" in refused("report", "--out", "report.pdf")
    shutil.rmtree("oof")
    assert "make train FOLD=0" in refused("report")


def test_public_models_on_the_contests_rows(real, work, paw):
    """Figures of an independent computation: RMSEs to the digit, the paired interval to 0.03. Beside them a file that knows:
    its predictions lie halfway to their targets, R2 0.82, where the contest's winner has 0.33."""
    files = [str(real / "oof-peers" / f"{name}.csv") for name in ("v31", "v44")]
    table = open_predictions(files[0]).table
    table.assign(prediction=(table["prediction"] + table["target"]) / 2).to_csv("knows.csv", index=False)
    page, value, text = made(paw, "--runs", *files, "knows.csv")
    assert [(row["run"], row["flag"]) for row in value["runs"]] == [
        ("v31", ""), ("v44", ""), ("knows", "leak alarm: R2, label noise, top scores")
    ]  # fmt: skip
    found = {row["run"]: row["score"]["rmse"] for row in value["runs"]}
    assert found == pytest.approx({"v31": 17.4695, "v44": 17.4955, "knows": 17.4695 / 2}, abs=5e-5)
    v44, knows = value["paired"][0]["others"]
    assert v44["difference"] == pytest.approx(0.026, abs=0.001)
    assert (v44["low"], v44["high"]) == pytest.approx((-0.085, 0.135), abs=0.03)
    assert v44["verdict"] == "no clear difference"
    assert knows["flag"]
    assert next(rows for key, rows in page.tables if key == "paired")[2][-1] == "means nothing"
    line = next(rows for key, rows in page.tables if key == "bands")
    assert [head.rsplit(" ", 1)[1] for head in line[0][2:]] == ["1,417", "2,779", "2,340", "2,088", "727", "273", "288"]
    assert [cell.split()[0] for cell in line[1][2:]] == ["24.8", "10.8", "9.4", "13.0", "23.5", "36.8", "41.7"]
    assert "true = 2.94 + 0.915 x predicted" in page.sections["predicted"]
    for key, rows in page.tables:
        for row in rows:
            assert not row[0].startswith("knows") or "leak alarm" in row[0], (key, row)
    assert "Alarms are raised on knows" in page.sections["leaks"]
    assert "The lowest honest RMSE is that of v31, the lowest of 2" in page.sections["runs"]
    assert len(text.encode()) < 3_000_000
