"""The coach's page: a real server on this machine, asked by programs and by a browser."""

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
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the page needs the extra app")
pytest.importorskip("uvicorn", reason="the page needs the extra app")

BYTES = {"content-type": "application/octet-stream"}


class Server:
    """A running `pawpularity app` of the toy run."""

    def __init__(self, place, data, temporary, *settings):
        temporary.mkdir()
        self.temporary, self.log = temporary, temporary.with_suffix(".log")
        words = [sys.executable, *f"-m pawpularity app --run toy --data {data} --port 0".split(), *settings]
        surroundings = {**os.environ, "TMPDIR": str(temporary)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(words, cwd=place, stderr=log, stdout=log, env=surroundings)
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        self.port, self.url = int(found.group(1)), found.group()

    def ask(self, method, path, body=None, headers=BYTES):
        """(status, headers, body) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, path, body):
        """(status, JSON)."""
        status, _, answer = self.ask("POST", path, body)
        return status, json.loads(answer)

    def twenty(self, path, body, headers=BYTES):
        """The answers to twenty equal requests at once."""
        with ThreadPoolExecutor(20) as pool:
            return list(pool.map(lambda _: self.ask("POST", path, body, headers), range(20)))

    def stalled(self, path, sent):
        """A connection that announces a photo, sends a part of it and stops."""
        line = socket.create_connection(("127.0.0.1", self.port), timeout=300)
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {BYTES['content-type']}\r\n".encode())
        line.sendall(b"Content-Length: 500000\r\n\r\n" + sent)
        return line

    @property
    def largest(self):
        """The most memory it ever took, MB."""
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text()).group(1)) / 1e3


@pytest.fixture(scope="module")
def server(coached, drawn, tmp_path_factory):
    running = Server(coached, drawn, tmp_path_factory.mktemp("server") / "tmp")
    yield running
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0, running.log.read_text()
    assert "Traceback" not in running.log.read_text(), "no request met a defect of ours"


@pytest.fixture(scope="module")
def photo(drawn):
    return sorted((drawn / "test").glob("*.jpg"))[0].read_bytes()


@pytest.fixture(scope="module")
def heavy():
    """A JPEG of about 10 MB."""
    noise = np.random.default_rng(0).integers(0, 255, (2200, 3000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), "JPEG", quality=95)
    return file.getvalue()


def test_the_page_refers_to_nothing_but_itself(server):
    status, headers, body = server.ask("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    for name in re.findall(r'(?:src|href)="([^"]+)"', body.decode()):
        status, _, found = server.ask("GET", f"/{name}")
        assert status == 200
        found = found.replace(b'xmlns="http://www.w3.org/2000/svg"', b"")  # a name, not an address
        assert not re.search(rb"https?://|@import|//[a-z]+\.[a-z]", found), name
    assert b"http" not in body
    for path in ("/index.html.j2", "/../app.py", "/%2e%2e/app.py", "/docs", "/score"):
        assert server.ask("GET", path)[0] in (404, 405)


def test_it_says_what_the_command_says(server, coached, photo):
    first = json.loads((coached / "first.json").read_text())["photos"][0]
    status, report = server.post("/score", photo)
    assert status == 200
    assert report == {key: first[key] for key in report}
    assert server.post("/tips", photo) == (200, first["tips"])
    assert server.post("/crop", photo) == (200, first["crop"])
    status, order = server.post("/order", json.dumps({"scores": [20.0, 41.5, 40.0]}).encode())
    assert [row["place"] for row in order["order"]] == [1, 2, 0]
    lines = [json.loads(line) for line in server.ask("POST", "/map", photo)[2].splitlines()]
    assert [line["masks"] for line in lines[:3]] == [128, 256, 512], "coarse first"
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


@pytest.mark.parametrize("path", ["/score", "/tips", "/crop", "/map"])
def test_bad_files_get_a_friendly_line(server, photo, path):
    for data, word in ((photo[:900], "truncated"), (b"hello", "not a JPEG"), (b"", "empty")):
        status, answer = server.post(path, data)
        assert status == 422
        assert word in answer["fault"]
    for too_large in (bytes(20_000_001), (bytes(1_000_000) for _ in range(21))):  # the second of unknown length
        status, answer = server.post(path, too_large)
        assert (status, "20 MB" in answer["fault"]) == (413, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"scores": []}', b'{"scores": ["x"]}', b'{"scores": [NaN]}', b'{"scores": [100.1]}', b"[" * 90_000],
)
def test_bad_scores_are_refused(server, body):
    assert server.post("/order", body)[0] == 422


def test_other_sites_and_names_are_not_answered(server, photo):
    assert server.ask("GET", "/", headers={"host": "evil.example"})[0] == 400
    assert server.ask("GET", "/", headers={"host": f"localhost:{server.port}"})[0] == 200
    # What a form or a plain request of another site can send.
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        assert server.ask("POST", "/score", photo, {"content-type": kind})[0] == 415
    assert "access-control-allow-origin" not in server.ask("GET", "/")[1]


@pytest.mark.parametrize(("path", "photos"), [("/score", 8), ("/map", 2), ("/tips", 0)])
def test_twenty_at_once_are_answered_or_asked_to_come_back(server, heavy, path, photos):
    """Who sends far too much hears why: a connection that closes on a client still sending loses the answer."""
    before = server.largest
    body, more = (heavy, {}) if photos else (bytes(80_000_000), {"connection": "close"})
    answers = server.twenty(path, body, BYTES | more)
    codes = [status for status, _, _ in answers]
    assert set(codes) <= {200 if photos else 413, 503}
    assert codes.count(200) >= photos
    assert all(headers["retry-after"] for status, headers, _ in answers if status == 503)
    # Photos of 160 MB are held at most, one is decoded: what 20 would take is 20 times more.
    assert server.largest - before < 400
    assert server.post("/score", heavy)[0] == 200


def test_half_sent_heads_keep_nobody_waiting(server):
    lines = []
    for _ in range(205):
        lines.append(socket.create_connection(("127.0.0.1", server.port), timeout=30))
        lines[-1].sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: ")
    assert [server.ask("GET", "/")[0] for _ in range(3)] == [200] * 3
    with suppress(ConnectionResetError):  # by what it had sent and nobody read
        assert lines[0].recv(10) == b"", "the oldest is closed"
    assert server.post("/order", b'{"scores": [3, 4]}')[0] == 200
    for line in lines:
        line.close()


def test_more_than_500_photos_have_an_order(server):
    scores = np.linspace(2, 99, 733).tolist()
    status, answer = server.post("/order", json.dumps({"scores": scores}).encode())
    assert (status, len(answer["order"]), answer["order"][0]["place"]) == (200, 733, 732)


def test_a_photo_that_browsers_cannot_show_has_a_preview(server):
    turned = np.zeros((60, 90, 3), dtype=np.uint8)
    turned[:, 45:] = (250, 0, 0)
    Image.fromarray(turned).save(file := io.BytesIO(), "TIFF")
    status, headers, picture = server.ask("POST", "/preview", file.getvalue())
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    with Image.open(io.BytesIO(picture)) as shown:
        assert shown.width / shown.height == pytest.approx(1.5, abs=0.01)
        assert shown.getpixel((shown.width - 9, 9))[0] > 230 > 30 > shown.getpixel((9, 9))[0]
    assert server.post("/preview", b"hello")[0] == 422


@pytest.mark.slow
def test_slow_lines_keep_nobody_waiting_and_are_given_up(server, photo):
    head = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    head.sendall(b"GET / HTTP/1.1\r\nHost: ")
    lines = [server.stalled(path, photo[:500]) for path in ("/score", "/map") for _ in range(10)]
    assert server.post("/score", photo)[0] == 200
    assert server.ask("POST", "/map", photo)[0] == 200
    for line in lines[1:]:
        line.close()
    assert b"408" in lines[0].recv(1000).split(b"\r\n")[0]
    lines[0].close()
    assert head.recv(10) == b"", "a half-sent head is given up too"
    head.close()


def test_maps_end_when_nobody_looks_and_with_the_program(coached, drawn, photo, tmp_path):
    running = Server(coached, drawn, tmp_path / "tmp", "explain.precision=0.01", "explain.budget=1000000")

    def open_map():
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=300)
        connection.request("POST", "/map", photo, BYTES)
        return connection, connection.getresponse()

    try:
        several = [open_map() for _ in range(2)]  # minutes of work
        for connection, answer in several:
            assert json.loads(answer.readline())["masks"] == 128
            answer.close()
            connection.close()
        deadline = time.monotonic() + 20
        while (last := open_map())[1].status == 503:
            assert time.monotonic() < deadline, "who leaves gives the place back"
            time.sleep(0.1)
        line = running.stalled("/score", photo[:500])
        running.stalled("/tips", photo[:500]).close()  # a tab that was closed
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 0
        said = running.log.read_text()
        assert said[said.index("Ctrl-C ends it") :].splitlines()[1:] == ["page    closed", "next: make report RUNS=toy"]
        for one in (line, last[0]):
            one.close()
    finally:
        running.process.kill()


def test_nothing_is_left_on_disk(server, coached, photo, heavy):
    def files():
        return {path for folder in (coached, server.temporary) for path in folder.rglob("*")}

    before = files()
    for path in ("/score", "/tips", "/crop", "/map"):
        server.ask("POST", path, heavy)
        server.ask("POST", path, photo[:500])
    assert files() == before
    opened = [str(link.readlink()) for link in Path(f"/proc/{server.process.pid}/fd").iterdir() if link.exists()]
    assert not [name for name in opened if f"{server.temporary}/" in name or "(deleted)" in name]


def test_a_taken_port_is_told_before_anything_is_loaded(server, bench, refused, drawn, monkeypatch):
    monkeypatch.setattr("pawpularity.coach.coach.Coach.open", lambda context: pytest.fail("a run was loaded"))
    assert str(server.port) in refused("app", "--run", "toy", "--data", drawn, "--port", server.port)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium, to look at the page as people do")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_in_a_browser(server, drawn, photo, tmp_path, scheme, width):
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive chromium")
    broken = tmp_path / "broken <b>photo.jpg"
    broken.write_bytes(photo[:900])
    good = [str(path) for path in sorted((drawn / "test").glob("*.jpg"))[:2]]
    with sync.sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        errors, asked = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))

        def choose(*files):
            page.set_input_files("#files", list(files))
            page.wait_for_selector(f"body[data-done='{len(files)}']", state="attached", timeout=300_000)

        page.goto(server.url)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files", "the keyboard reaches the choice of photos first"
        choose(good[0])
        page.wait_for_selector(".ask[hidden]", state="attached", timeout=300_000)  # the map is finished
        assert page.inner_text(".number").isdigit()
        assert page.locator(".tips .tip").count() == 6
        assert page.evaluate("document.querySelector('.saliency').naturalWidth") == 224
        page.focus(".slider input")
        page.keyboard.press("Home")
        assert page.evaluate("getComputedStyle(document.querySelector('.saliency')).opacity") == "0"
        assert errors == []
        choose(good[0], str(broken), good[1])
        assert page.locator("#ranks li").count() == 2
        assert "truncated" in page.inner_text(".fault:not([hidden])")
        assert page.inner_text("#status").startswith("2 of 3")
        assert page.locator(".name b").count() == 0, "a file's name is text"
        assert page.locator(".name").all_inner_texts()[2] == broken.name, "what failed stands last"
        assert page.evaluate("[...document.querySelectorAll('main img:not([alt])')].length") == 0
        assert page.evaluate("[...document.querySelectorAll('input')].every(e => e.labels.length || e.ariaLabel)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert {re.match(r"\w+:(//[^/]+/)?", url).group() for url in asked} <= {server.url, "blob:", "data:"}
        assert all("422" in error for error in errors), "the browser notes the refused photo, and nothing else"
        browser.close()


@pytest.fixture
def tab(server):
    """A new page of the server in chromium, and its address."""
    if shutil.which("chromium") is None:
        pytest.skip("needs chromium, to look at the page as people do")
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive chromium")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(server.url)
        yield page
        browser.close()


def scored(page, *files, given=1):
    """Choose files, and wait until all is done."""
    page.set_input_files("#files", [str(file) for file in files])
    page.wait_for_selector(f"body[data-done='{given}']", state="attached", timeout=120_000)


@pytest.mark.slow
def test_the_same_name_chosen_again_is_the_new_photo(tab, drawn, tmp_path):
    first, second = sorted((drawn / "test").glob("*.jpg"))[:2]
    numbers = []
    for source in (first, second, first):
        shutil.copyfile(source, tmp_path / "rex.jpg")
        scored(tab, tmp_path / "rex.jpg")
        assert tab.evaluate("document.getElementById('files').value") == "", "so that the same name is a change"
        numbers.append(tab.inner_text(".chance") + tab.inner_text(".number"))
    assert numbers[0] == numbers[2] != numbers[1]
    tab.goto("about:blank")
    tab.go_back()
    scored(tab, tmp_path / "rex.jpg")
    assert tab.inner_text(".chance") + tab.inner_text(".number") == numbers[0]


@pytest.mark.slow
def test_odd_files_in_a_browser(tab, drawn, tmp_path):
    good = sorted((drawn / "test").glob("*.jpg"))[0]
    with Image.open(good) as photo:
        photo.save(tmp_path / "photo.tif")
    Image.new("RGB", (99, 99), (9, 9, 200)).save(tmp_path / "blue.png")
    scored(tab, tmp_path / "photo.tif", tmp_path / "blue.png", given=2)
    assert tab.evaluate("document.querySelector('.shot').naturalWidth") > 90, "a TIFF is shown"
    assert "No score" in tab.locator(".photo").nth(1).inner_text()
    assert tab.locator(".photo").nth(1).locator(".number, .tip").count() == 0
    assert "1 of 2" in tab.inner_text("#status")
    # Saved again or removed between being chosen and being read, and a folder.
    tab.evaluate("""() => {
        const gone = new File(["x"], "rex.jpg");
        gone.arrayBuffer = () => Promise.reject(new DOMException("", "NotReadableError"));
        const items = [{ kind: "file", webkitGetAsEntry: () => ({ isDirectory: true, name: "holiday" }) },
                       { kind: "file", webkitGetAsEntry: () => ({ isDirectory: false }), getAsFile: () => gone }];
        const event = new Event("drop", { bubbles: true });
        event.dataTransfer = { items };
        document.dispatchEvent(event);
    }""")
    tab.wait_for_selector(".photo .fault:not([hidden])")
    assert "changed" in tab.inner_text(".photo .fault")
    assert "holiday" in tab.inner_text("#problems")


@pytest.mark.slow
def test_what_goes_wrong_stays_in_sight(tab, drawn):
    tab.route("**/order", lambda route: route.fulfill(status=500, json={"fault": "planted"}))
    scored(tab, *sorted((drawn / "test").glob("*.jpg"))[:2], given=2)
    assert "planted" in tab.inner_text("#problems")
    assert "2 of 2" in tab.inner_text("#status")


@pytest.mark.slow
def test_without_scripts_the_page_says_why_nothing_happens(tab, server):
    plain = tab.context.browser.new_context(java_script_enabled=False).new_page()
    plain.goto(server.url)
    assert "JavaScript" in plain.inner_text("main")
