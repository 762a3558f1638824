"""The coach's page: a real server on this machine, asked by programs and by a browser."""

import asyncio
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page needs the extra app: pip install 'pawpularity[app]'")
pytest.importorskip("uvicorn", reason="the page needs the extra app: pip install 'pawpularity[app]'")

from pawpularity.coach.body_reader import Refused, body
from pawpularity.coach.queue import Busy, Desk

BYTES = {"content-type": "application/octet-stream"}


class Server:
    """A running `pawpularity app`."""

    def __init__(self, place, data, temporary, log="app.log", *settings):
        self.temporary = temporary
        temporary.mkdir()
        self.log = place / log
        words = [
            sys.executable,
            "-m",
            "pawpularity",
            "app",
            "--run",
            "toy",
            "--data",
            str(data),
            "--port",
            "0",
            *settings,
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(words, cwd=place, stderr=log, stdout=log,
                                            env={**os.environ, "TMPDIR": str(temporary)})  # fmt: skip
        for _ in range(600):
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.log.read_text())
            if found:
                break
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        self.port = int(found.group(1))
        self.url = f"http://127.0.0.1:{self.port}/"
        for _ in range(100):  # it names its port a moment before it listens
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return
            time.sleep(0.05)

    def ask(self, method, path, body=None, headers=BYTES):
        """(status, headers, body) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def told(self, path, body):
        """(status, JSON) of one photo."""
        status, _, answer = self.ask("POST", path, body)
        return status, json.loads(answer)

    @property
    def largest(self):
        """The most memory it ever took, MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", text).group(1)) / 1e3


@pytest.fixture(scope="module")
def server(coached, drawn, tmp_path_factory):
    """The page of the toy run."""
    running = Server(coached, drawn, tmp_path_factory.mktemp("server") / "tmp")
    yield running
    running.process.send_signal(signal.SIGINT)
    code = running.process.wait(20)
    assert code == 0, running.log.read_text()
    assert "page    closed" in running.log.read_text()
    assert "Traceback" not in running.log.read_text(), "no request met a defect of ours"


@pytest.fixture(scope="module")
def photo(drawn):
    """The bytes of a photo."""
    return sorted((drawn / "test").glob("*.jpg"))[0].read_bytes()


@pytest.fixture(scope="module")
def heavy():
    """A JPEG of about 10 MB."""
    noise = np.random.default_rng(0).integers(0, 255, (2200, 3000, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_the_page_refers_to_nothing_but_itself(server):
    status, headers, body = server.ask("GET", "/")
    text = body.decode()
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    for name in re.findall(r'(?:src|href)="([^"]+)"', text):
        status, _, found = server.ask("GET", f"/{name}")
        assert status == 200
        found = found.replace(b'xmlns="http://www.w3.org/2000/svg"', b"")  # a name, not an address
        assert not re.search(rb"https?://|@import|//[a-z]+\.[a-z]", found), name
    assert not re.search(r"https?://", text)
    assert "drawn pets" in text, "a run that learned from drawings says so first"
    for words in (
        "never saw",
        "It says nothing about the pet",
        "the photo alone",
        "extrapolation",
        "Do the tips keep their promises",
    ):
        assert words in text
    for path in ("/index.html.j2", "/../app.py", "/%2e%2e/app.py", "/docs", "/openapi.json", "/score"):
        assert server.ask("GET", path)[0] in (404, 405)


def test_it_says_what_the_command_says(server, coached, photo):
    first = json.loads((coached / "first.json").read_text())["photos"][0]
    status, told = server.told("/score", photo)
    assert status == 200
    assert told == {key: value for key, value in first.items() if key in told}
    status, tips = server.told("/tips", photo)
    assert [(tip["key"], tip["kind"]) for tip in tips] == [(tip["key"], tip["kind"]) for tip in first["tips"]]
    assert server.told("/crop", photo) == (200, first["crop"])
    status, order = server.told("/order", json.dumps({"scores": [20.0, 41.5, 40.0]}).encode())
    assert [row["place"] for row in order["order"]] == [1, 2, 0]
    assert "extrapolation" in order["note"]


def test_the_map_comes_coarse_first(server, photo):
    status, _, body = server.ask("POST", "/map", photo)
    assert status == 200
    lines = [json.loads(line) for line in body.splitlines()]
    assert [line["masks"] for line in lines[:3]] == [128, 256, 512]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["verdict"] in ("precise", "budget spent", "no signal found")
    assert all(line["picture"].startswith("data:image/png;base64,") for line in lines)
    assert all(line["scale"] > 0 for line in lines)


@pytest.mark.parametrize("path", ["/score", "/tips", "/crop", "/map"])
def test_bad_files_get_a_friendly_line(server, photo, path):
    for data, said in ((photo[:900], "truncated"), (b"hello", "not a JPEG"), (b"", "empty")):
        status, answer = server.told(path, data)
        assert status == 422
        assert answer["fault"].startswith("This file cannot be used as a photo: ")
        assert said in answer["fault"]
    too_large = bytes(20_000_001)
    assert server.told(path, too_large) == (413, {"fault": "This file is too large: 20 MB at most."})
    chunks = (bytes(1_000_000) for _ in range(21))  # of unknown length
    assert server.told(path, chunks) == (413, {"fault": "This file is too large: 20 MB at most."})


def test_who_sends_far_too_much_hears_why(server):
    """A door shut on somebody who is still sending loses the answer on its way: twenty of twenty must hear it."""
    answers = []

    def one():
        try:
            # A client that closes afterwards: of others the server itself waits for the rest.
            status, _, body = server.ask("POST", "/score", bytes(80_000_000), {**BYTES, "connection": "close"})
            answers.append((status, json.loads(body)))
        except OSError as error:
            answers.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [(413, {"fault": "This file is too large: 20 MB at most."})] * 20


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"scores": []}',
        b'{"scores": ["x"]}',
        b'{"scores": "123"}',
        b'{"scores": {"2": 3}}',
        b'{"scores": [true]}',
        b'{"scores": [NaN]}',
        b'{"scores": [0.9]}',
        b'{"scores": [100.1]}',
        b'{"scores": [1' + b"0" * 400 + b"]}",
        b'{"scores": [1e308, -1e308]}',
        b"[" * 90_000,
    ],
)
def test_bad_scores_are_refused(server, body):
    status, answer = server.told("/order", body)
    assert (status, answer["fault"]) == (422, 'Send {"scores": [...]}: 1 to 500 numbers from 1 to 100.')


def test_scores_have_their_own_size(server):
    assert server.told("/order", b"[" * 100_001) == (413, {"fault": "Too much: 100000 bytes at most."})
    assert server.told("/order", b'{"scores": [1, 100]}')[0] == 200


def test_other_sites_and_names_are_not_answered(server, photo):
    assert server.ask("GET", "/", headers={"host": "evil.example"})[0] == 421
    assert server.ask("GET", "/", headers={"host": f"localhost:{server.port}"})[0] == 200
    # What a form or a plain request of another site can send.
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        assert server.ask("POST", "/score", photo, {"content-type": kind})[0] == 415
    assert "access-control-allow-origin" not in server.ask("GET", "/")[1]


@pytest.mark.parametrize("path", ["/score", "/map"])
def test_twenty_at_once_are_answered_or_asked_to_come_back(server, heavy, path):
    before, found = server.largest, []

    def one():
        try:
            status, headers, body = server.ask("POST", path, heavy)
            found.append((status, headers.get("retry-after"), body))
        except OSError as error:
            found.append(("lost", None, str(error)))

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    counts = Counter(status for status, _, _ in found)
    assert set(counts) <= {200, 503}, counts
    assert sum(counts.values()) == 20
    assert counts[200] >= (2 if path == "/map" else 8)
    if path == "/map":  # scores may be quicker than the photos come
        assert counts[503] >= 1
    assert all(wait == "2" and b"try again" in body for status, wait, body in found if status == 503)
    # Photos of 160 MB are held at most, one is decoded: what 20 would take is 20 times more.
    assert server.largest - before < 400
    assert server.told("/score", heavy)[0] == 200


def test_who_leaves_gives_the_place_back(server, photo):
    for _ in range(4):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        connection.request("POST", "/map", photo, BYTES)
        connection.getresponse().readline()
        connection.close()
        time.sleep(0.2)
    deadline = time.monotonic() + 120
    while (status := server.ask("POST", "/map", photo)[0]) == 503:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert status == 200


def stalled(server, path, sent):
    """A connection that announces a photo, sends a part of it and stops."""
    line = socket.create_connection(("127.0.0.1", server.port), timeout=300)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nContent-Length: 500000\r\n\r\n"
    line.sendall(head.encode() + sent)
    return line


@pytest.mark.slow
def test_slow_lines_keep_nobody_waiting_and_are_given_up(server, photo):
    lines = [stalled(server, path, photo[:500]) for path in ("/score", "/map") for _ in range(10)]
    time.sleep(0.3)
    assert server.told("/score", photo)[0] == 200
    assert server.ask("POST", "/map", photo)[0] == 200
    for line in lines[1:]:
        line.close()
    assert b"408" in lines[0].recv(1000).split(b"\r\n")[0]
    lines[0].close()


def test_photos_on_their_way_are_bounded():
    """The bytes of all photos that are held, arriving or waiting."""
    desk = Desk(None, most_bytes=25)

    class Sent:
        def __init__(self, *chunks):
            self.headers, self.chunks = {}, chunks

        async def stream(self):
            for chunk in self.chunks:
                yield chunk

    async def held(*sizes):
        with ExitStack() as first, ExitStack() as second:
            found = [await body(Sent(bytes(10), bytes(size)), desk, 20, held)
                     for size, held in zip(sizes, (first, second), strict=True)]  # fmt: skip
            return [len(data) for data in found], desk.bytes

    assert asyncio.run(held(0, 5)) == ([10, 15], 25)
    assert desk.bytes == 0
    with pytest.raises(Busy):
        asyncio.run(held(0, 6))
    with pytest.raises(Refused) as refused:
        asyncio.run(held(11, 0))
    assert (refused.value.status, desk.bytes) == (413, 0)


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly_in_the_middle_of_everything(coached, drawn, photo, tmp_path, way):
    running = Server(coached, drawn, tmp_path / "tmp", "app2.log", "explain.precision=0.01", "explain.budget=16384")
    try:
        lines = [stalled(running, "/score", photo[:500]) for _ in range(2)]
        stalled(running, "/tips", photo[:500]).close()  # a tab that was closed
        mapping = http.client.HTTPConnection("127.0.0.1", running.port, timeout=300)
        mapping.request("POST", "/map", photo, BYTES)
        answer = mapping.getresponse()
        assert json.loads(answer.readline())["masks"] == 128
        running.process.send_signal(way)
        assert running.process.wait(300) == 0
        assert json.loads(answer.read().splitlines()[-1]) == {"fault": "The coach is being closed."}
        said = running.log.read_text()
        assert said[said.index("Ctrl-C ends it") :].splitlines()[1:] == ["page    closed"]
        for line in lines:
            line.close()
    finally:
        running.process.kill()


def test_nothing_is_left_on_disk(server, coached, photo, heavy):
    def files():
        return {
            path
            for folder in (coached, server.temporary)
            for path in folder.rglob("*")
            if not path.name.startswith("app")
        }

    before = files()
    for path in ("/score", "/tips", "/crop", "/map"):
        server.ask("POST", path, heavy)
        server.ask("POST", path, photo[:500])
    assert files() == before
    opened = [str(link.readlink()) for link in Path(f"/proc/{server.process.pid}/fd").iterdir() if link.exists()]
    assert not [name for name in opened if str(server.temporary) in name or "(deleted)" in name]


def test_a_taken_port_is_told_before_anything_is_loaded(server, bench, refused, drawn, monkeypatch):
    monkeypatch.setattr("pawpularity.coach.coach.Coach.open", lambda chosen: pytest.fail("a run was loaded"))
    assert "cannot be listened on" in refused("app", "--run", "toy", "--data", drawn, "--port", server.port)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, refused):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'pawpularity[app]'" in refused("app")


RATIO = """colours => { const light = text => { const own = text.match(/[\\d.]+/g).slice(0, 3).map(v => { v /= 255;
  return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * own[0] + 0.7152 * own[1] + 0.0722 * own[2]; };
  const [a, b] = colours.map(light).sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); }"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium, to look at the page as people do")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_in_a_browser(server, drawn, photo, tmp_path, scheme, width):
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive chromium")
    broken = tmp_path / "broken <b>photo.jpg"
    broken.write_bytes(photo[:900])
    good = sorted((drawn / "test").glob("*.jpg"))[:2]
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        errors, asked = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files", "the keyboard reaches the choice of photos first"
        page.set_input_files("#files", [str(good[0])])
        page.wait_for_selector(".ask[hidden]", state="attached", timeout=300_000)  # the map is finished
        page.wait_for_selector("body[data-done]", state="attached", timeout=300_000)
        assert page.inner_text(".number").isdigit()
        # The chance and the half of all such photos come first, then the score, and only then the photo where they share a column.
        order = [
            page.locator(name).first.bounding_box()["y"] for name in (".chance", ".half", ".score", ".shot", ".slider")
        ]
        assert order[:3] == sorted(order[:3])
        assert width > 720 or order == sorted(order)
        assert not re.search(r"Holm|AUC|beside all other|RMSE", page.inner_text("main")), "folded away"
        assert re.search(r"\d+\s% chance to beat the shelter's middle photo", page.inner_text(".chance"))
        assert page.locator(".tips .tip").count() == 6
        assert page.evaluate("document.querySelector('.heat').naturalWidth") == 224
        page.focus(".slider input")
        before = page.evaluate("getComputedStyle(document.querySelector('.heat')).opacity")
        page.keyboard.press("Home")
        assert (before, page.evaluate("getComputedStyle(document.querySelector('.heat')).opacity")) == ("0.75", "0")
        assert errors == []
        page.screenshot(path=tmp_path / "one.png", full_page=True)
        page.set_input_files("#files", [str(good[0]), str(broken), str(good[1])])
        page.wait_for_selector("body[data-done]", state="attached", timeout=300_000)
        assert page.locator("#ranks li").count() == 2
        assert "truly does better in" in page.inner_text("#ranks")
        assert page.inner_text(".fault:not([hidden])") == "This file cannot be used as a photo: truncated."
        assert page.inner_text("#told") == "2 of 3 photos scored."
        assert page.locator(".name b").count() == 0, "a file's name is text"
        assert page.locator(".name").all_inner_texts()[2] == broken.name, "what failed stands last"
        # Accessibility: texts for pictures, names for controls, contrast, and no scrolling sideways.
        assert page.evaluate("[...document.querySelectorAll('main img:not([alt])')].length") == 0
        assert page.evaluate("[...document.querySelectorAll('input')].every(e => e.labels.length || e.ariaLabel)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for text, behind in (
            (".soft", "body"),
            (".card .soft", ".card"),
            (".banner", ".banner"),
            (".tip b", ".card"),
            (".fault", ".card"),
        ):
            colours = page.evaluate(f"""[getComputedStyle(document.querySelector("{text}")).color,
              getComputedStyle(document.querySelector("{behind}")).backgroundColor]""")
            assert page.evaluate(RATIO, colours) >= 4.5, (text, colours)
        page.screenshot(path=tmp_path / "three.png", full_page=True)
        assert {re.match(r"\w+:(//[^/]+/)?", url).group() for url in asked} <= {server.url, "blob:", "data:"}
        # The browser itself notes the refused photo; nothing else went wrong.
        assert all("422" in error for error in errors)
        flat = tmp_path / "flat.png"
        Image.new("RGB", (300, 300), (90, 90, 90)).save(flat)
        page.set_input_files("#files", [str(flat)])
        page.wait_for_selector("body[data-done]", state="attached", timeout=300_000)
        assert "nearly one colour" in page.inner_text(".result .banner"), "what is hardly a photo is doubted first"
        del asked[:]
        page.set_input_files("#files", [str(good[0])] * 40)
        page.wait_for_selector(".card:nth-of-type(2) .result:not([hidden])")
        page.set_input_files("#files", [str(good[1])])
        page.wait_for_selector("body[data-done='1']", state="attached", timeout=300_000)
        assert page.inner_text("#told") == "1 of 1 photo scored."
        before = Counter(url.rsplit("/", 1)[-1] for url in asked if url.startswith(server.url))
        page.wait_for_timeout(1500)
        after = Counter(url.rsplit("/", 1)[-1] for url in asked if url.startswith(server.url))
        assert before == after, "nobody asks for photos that are no longer shown"
        assert (after["tips"], after["crop"]) == (1, 1)
        assert after["score"] < 41
        browser.close()
