"""The example in a real browser, behind nginx and without: what a person sees, hears of and gets."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import need_chromium, need_nginx
from playwright.sync_api import Browser, Download, Locator, Page, Response, ViewportSize, expect, sync_playwright
from test_example import CLIP, FILES, HOLE, INVOICE, NOTES, OVERVIEW, REPORT, Demo, start, stop

OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WAIT = 60_000  # milliseconds until a test fails, which a busy machine may need
NGINX_ALONE = pytest.mark.parametrize("sender", ["nginx"], indirect=True)  # where it makes no difference
PHONE: ViewportSize = {"width": 390, "height": 844}
DESKTOP: ViewportSize = {"width": 1280, "height": 800}


# Nothing lies over the element's middle.
ON_TOP = """element => {
    const {left, top, width, height} = element.getBoundingClientRect();
    return element.contains(document.elementFromPoint(left + width / 2, top + height / 2));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = need_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo(folder: Path) -> Iterator[Demo]:
    need_nginx()
    own = folder / "browser"
    own.mkdir()
    running = start(own)
    yield running
    stop(running)


@pytest.fixture(params=["nginx", "Python"])
def sender(request: pytest.FixtureRequest) -> str:
    """Who sends the files: nginx, or Python, from the app's own port."""
    return str(request.param)


@pytest.fixture
def page(browser: Browser, demo: Demo, sender: str) -> Iterator[Page]:
    """The first page, in a new browser profile. Nothing that a page says on the console is wrong."""
    address = demo.address if sender == "nginx" else demo.app_address
    with new_page(browser, address) as page:
        yield page


@contextlib.contextmanager
def new_page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(base_url=address)
    context.set_default_timeout(WAIT)
    complaints: list[str] = []
    page = context.new_page()
    # A status that refuses is logged as an error by the browser itself.
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/")
    yield page
    context.close()
    assert not [said for said in complaints if "the server responded with a status of 40" not in said]


def sign_in(page: Page, user: str = "alice", password: str = "wonderland") -> None:
    page.get_by_label("Name").fill(user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def name_of_sender(response: Response) -> str:
    """nginx's ETag is the time and the size in hexadecimal; Starlette's is an MD5."""
    return "nginx" if re.fullmatch('"[0-9a-f]+-[0-9a-f]+"', response.header_value("etag") or "") else "Python"


def first_byte(response: Response) -> int:
    """Where a 206 begins in the file; 0 for one that the browser had, and has only asked about."""
    return int((response.header_value("content-range") or "bytes 0-").removeprefix("bytes ").partition("-")[0])


def expect_transfer(page: Page, file: str, sender: str) -> None:
    """The strip says who has sent the file."""
    row = page.locator("#transfers tbody tr").filter(has_text=file).first
    expect(row.locator(".sender")).to_have_text(sender, timeout=WAIT)


def play_until(video: Locator, seconds: float) -> float:
    """Wait until the video has played up to a moment, and return where it is."""
    script = """(video, [seconds, wait]) => new Promise((resolve, reject) => {
        setTimeout(() => reject(new Error(`stands still at ${video.currentTime}`)), wait);
        video.addEventListener("timeupdate", () => { if (video.currentTime > seconds) resolve(video.currentTime); });
    })"""
    return float(video.evaluate(script, [seconds, WAIT]))


class TestSignIn:
    """The first page."""

    def test_with_what_the_page_says(self, page: Page) -> None:
        """The page shows the users and their passwords, and they let one in."""
        users = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
        assert users == {"alice": "wonderland", "bob": "builder"}
        for user, password in users.items():
            sign_in(page, user, password)
            expect(page.get_by_role("heading", name="Your files")).to_be_visible()
            page.get_by_role("button", name="Sign out").click()

    @NGINX_ALONE
    def test_wrong_password(self, page: Page) -> None:
        """A wrong password is told, and one can try again."""
        sign_in(page, password="builder")
        expect(page.get_by_role("alert")).to_be_visible()
        sign_in(page)
        expect(page.get_by_role("heading", name="Your files")).to_be_visible()

    def test_sign_out(self, page: Page) -> None:
        """Who signs out no longer gets a file that the browser has just shown, nor the shelf by the button Back."""
        sign_in(page)
        assert page.request.get(f"/files/{OVERVIEW}").status == 200
        page.goto(f"/files/{OVERVIEW}")
        page.goto("/")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        for number in (CLIP, REPORT, OVERVIEW):
            answer = page.goto(f"/files/{number}")
            assert answer is not None
            assert answer.status == 401
            expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.go_back()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


class TestFiles:
    """What one does with files."""

    def test_video(self, page: Page, sender: str) -> None:
        """The video plays, seeks to its middle and plays on there: the browser asks for that part alone."""
        parts: list[Response] = []
        page.on(
            "response", lambda response: parts.append(response) if response.url.endswith(f"/files/{CLIP}") else None
        )
        sign_in(page)
        video = page.locator("video")
        expect(video).to_be_visible()
        video.evaluate("video => { video.muted = true; return video.play(); }")
        play_until(video, 0.2)
        duration = video.evaluate("video => video.duration")
        middle = duration / 2 + 1
        already = len(parts)
        video.evaluate("(video, to) => { video.currentTime = to; }", middle)
        assert middle < play_until(video, middle + 0.5) < duration
        assert any(first_byte(part) > HOLE for part in parts[already:])
        assert video.evaluate("video => video.paused") is False
        assert {part.status for part in parts} == {206}
        assert {name_of_sender(part) for part in parts} == {sender}
        expect_transfer(page, "Sunrise.mp4", sender)

    def test_pdf(self, page: Page, sender: str) -> None:
        """The PDF opens in the browser's viewer, and is not downloaded."""
        sign_in(page)
        downloads: list[Download] = []
        page.on("download", lambda download: downloads.append(download))
        with (
            page.expect_response(lambda response: response.url.endswith(f"/files/{REPORT}")) as answer,
            page.expect_event("framenavigated", lambda frame: frame.url.startswith("chrome-extension:")),  # the viewer
        ):
            page.get_by_role("link", name="Annual report.pdf", exact=True).click()
        assert answer.value.header_value("content-type") == "application/pdf"
        assert name_of_sender(answer.value) == sender
        assert page.evaluate("document.contentType") == "application/pdf"
        assert downloads == []
        page.go_back()
        expect_transfer(page, "Annual report.pdf", sender)

    def test_download(self, page: Page, sender: str) -> None:
        """A download has its name, blanks, umlauts and percent sign, and is the file."""
        sign_in(page)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download Übersicht").click()
        assert download.value.suggested_filename == "Übersicht 100 % für März.txt"
        assert download.value.path().read_bytes() == (FILES / "overview.txt").read_bytes()
        expect_transfer(page, "Übersicht 100 % für März.txt", sender)

    def test_upload(self, page: Page, sender: str, tmp_path: Path) -> None:
        """An uploaded file is on the shelf, and can be downloaded at once."""
        own = tmp_path / f"Mein Foto für {sender} 50 %.bin"
        own.write_bytes(os.urandom(3_000_000))
        sign_in(page)
        page.get_by_label("A file of your own").set_input_files(own)
        page.get_by_role("button", name="Upload").click()
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download {own.name}").click()
        assert download.value.suggested_filename == own.name
        assert download.value.path().read_bytes() == own.read_bytes()
        expect_transfer(page, own.name, sender)

    def test_uploaded_page(self, page: Page, sender: str, tmp_path: Path) -> None:
        """An uploaded page does not open as one of the site's."""
        own = tmp_path / f"page for {sender}.html"
        own.write_text("<title>open</title><script>fetch('/sign-out', {method: 'POST'})</script>")
        sign_in(page)
        page.get_by_label("A file of your own").set_input_files(own)
        page.get_by_role("button", name="Upload").click()
        with page.expect_download() as download:
            page.get_by_role("link", name=own.name, exact=True).click()
        assert download.value.suggested_filename == own.name
        page.reload()
        expect(page.get_by_role("heading", name="Your files")).to_be_visible()

    def test_refusal(self, page: Page) -> None:
        """Another user's file is refused with a page that says so, and leads back."""
        sign_in(page)
        with page.expect_response(lambda response: response.url.endswith(f"/files/{INVOICE}")) as answer:
            page.get_by_role("link", name=f"File {INVOICE}").click()
        assert answer.value.status == 403
        expect(page.get_by_role("heading", name="This file is not yours.")).to_be_visible()
        page.get_by_role("link", name="Back to your files").click()
        expect(page.get_by_role("heading", name="Your files")).to_be_visible()

    def test_large_download(self, page: Page, sender: str) -> None:
        """A download of a GiB starts; the strip says how it goes."""
        sign_in(page)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download Backup of the old laptop.img").click()
        expect_transfer(page, "Backup of the old laptop.img", sender)
        download.value.cancel()
        row = page.locator("#transfers tbody tr").filter(has_text="Backup").first
        through_the_app = row.locator("td[data-label='Through the app']")
        if sender == "nginx":
            expect(through_the_app).to_have_text("0 B")
        else:
            expect(through_the_app).to_have_text(re.compile(r"[\d.]+ (MiB|GiB)"), timeout=WAIT)


class TestPage:
    """The page itself."""

    def test_switch(self, page: Page, demo: Demo, sender: str) -> None:
        """The strip leads to the same app with nginx or without, still signed in, and back."""
        sign_in(page)
        names = ("Without nginx", "Behind nginx") if sender == "nginx" else ("Behind nginx", "Without nginx")
        for name, address in zip(
            names, (demo.app_address, demo.address)[:: 1 if sender == "nginx" else -1], strict=True
        ):
            page.get_by_role("link", name=name).click()
            expect(page).to_have_url(f"{address}/")
            expect(page.get_by_role("link", name=name)).to_have_attribute("aria-current", "page")
            expect(page.get_by_role("heading", name="Your files")).to_be_visible()

    @pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
    def test_strip_is_where_the_click_is(self, page: Page, sender: str, size: ViewportSize) -> None:
        """After a click on a file one sees who has sent it, with nothing to scroll, and the file is still there."""
        page.set_viewport_size(size)
        sign_in(page)
        for name in ("Annual report.pdf", "Backup of the old laptop.img"):
            link = page.get_by_role("link", name=f"Download {name}")
            link.scroll_into_view_if_needed()
            with page.expect_download() as download:
                link.click()
            download.value.cancel()
            latest = page.locator("#transfers tbody tr").first
            expect(latest.locator("td").first).to_have_text(name, timeout=WAIT)
            for shown in (latest.locator("td").first, latest.locator(".sender"), latest.locator("td").last, link):
                expect(shown).to_be_in_viewport(ratio=1)
                assert shown.evaluate(ON_TOP)
            expect(latest.locator(".sender")).to_have_text(sender)

    @NGINX_ALONE
    def test_page_on_another_port(self, page: Page, demo: Demo) -> None:
        """A page on another port of this host, to which the cookie goes, signs nobody in as somebody else."""
        sign_in(page)
        page.goto(f"{demo.app_address}/")
        with page.expect_response(lambda response: response.url == f"{demo.address}/sign-in") as answer:
            page.evaluate(
                """address => {
                    const form = document.createElement("form");
                    form.method = "post";
                    form.action = `${address}/sign-in`;
                    form.innerHTML = '<input name="user" value="bob"><input name="password" value="builder">';
                    document.body.append(form);
                    form.submit();
                }""",
                demo.address,
            )
        assert answer.value.status == 403
        expect(page.get_by_text("Another site has sent this.")).to_be_visible()
        page.goto("/")
        expect(page.locator(".who")).to_have_text("alice")

    @NGINX_ALONE
    def test_phone(self, page: Page) -> None:
        """Each page fits a phone: nothing is to be scrolled sideways."""
        page.set_viewport_size(PHONE)
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.evaluate(fits)
        sign_in(page)
        for address in ("/", f"/files/{NOTES}", "/nonsense"):
            page.goto(address)
            assert page.evaluate(fits)

    @NGINX_ALONE
    def test_keyboard(self, page: Page) -> None:
        """One can sign in and reach a file with the keyboard alone."""
        expect(page.get_by_label("Name")).to_be_focused()
        for text, key in (("alice", "Tab"), ("wonderland", "Enter")):
            page.keyboard.type(text)
            page.keyboard.press(key)
        expect(page.get_by_role("heading", name="Your files")).to_be_visible()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Annual report.pdf":
                break
        with page.expect_response(lambda response: response.url.endswith(f"/files/{REPORT}")) as answer:
            page.keyboard.press("Enter")
        assert answer.value.status == 200
