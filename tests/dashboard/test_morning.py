from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import need, wait_for
from nights import AUDITED, a_long_night, a_night, tried

from nightlab.dashboard import morning
from nightlab.dashboard.morning import markdown, plain
from nightlab.ledger import Event, Ledger
from nightlab.report import lines, report

Nightlab = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = (
    "</script><script>document.title='mine'</script><img src=x onerror=\"document.title='mine'\">`|[a](http://e.vil)"
)


class Page(HTMLParser):
    """What a page is made of: tags with their attributes, the text that is shown, the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append((self.tags[-1][1].get("type"), data))
        elif self._open and self._open[-1] not in ("style", "title", "head", "html") and data.strip():
            self.words.append(data.strip())


def page_of(ledger: Ledger, **more: Any) -> Page:
    return Page(morning.html(ledger, name="main", **more))


def told_of(ledger: Ledger) -> dict[str, Any]:
    return report(ledger, name="main", is_running=False)


@pytest.fixture
def night(tmp_path: Path) -> Ledger:
    return a_night(tmp_path / "ledger.sqlite")


@pytest.fixture
def hostile(tmp_path: Path) -> Ledger:
    diff = f"--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-X = 1\n+X = '{HOSTILE}'\n"
    words = {"hypothesis": HOSTILE, "proposer": HOSTILE, "reason": HOSTILE}
    more = [
        *tried(5, "kept", 2.5, parent=2, diff=diff, **words),
        *tried(6, "crashed", None, parent=5, **words),
        *tried(7, "kept", 2.4, parent=5, **words),
        Event("demoted", "7", {"status": "pruned", "reason": HOSTILE, "by": 8}, 7),
        Event("steered", "0", {"text": HOSTILE}),
        Event("stopped", "0", {"reason": HOSTILE}),
    ]
    return a_night(tmp_path / "ledger.sqlite", more=more)


def test_the_first_words_of_the_page_are_the_audited_number(night: Ledger) -> None:
    words = page_of(night).words

    assert words[:3] == ["25.0\N{NO-BREAK SPACE}%", "lower val_bpb", "E3"]
    assert words[3] == "95 % interval 20.0 to 30.0\N{NO-BREAK SPACE}%"
    assert next(n for n, one in enumerate(words) if "own claim" in one) > 3


def test_without_an_audit_there_is_no_number_to_believe(tmp_path: Path) -> None:
    night = a_night(tmp_path / "ledger.sqlite", audited=None)

    assert page_of(night).words[:2] == ["Not audited", "no number to believe yet"]
    assert markdown(told_of(night)).startswith("# Not audited")
    assert told_of(night)["caveats"][0].startswith("Nothing was audited")


def test_a_gain_that_does_not_hold_is_said_so_beside_its_number(tmp_path: Path) -> None:
    night = a_night(tmp_path / "ledger.sqlite", audited=AUDITED | {"low": -0.1})

    assert page_of(night).words[:2] == ["25.0\N{NO-BREAK SPACE}%", "gain in val_bpb: none that holds"]


def test_the_number_comes_with_what_it_does_not_say(tmp_path: Path) -> None:
    printed = a_night(
        tmp_path / "a.sqlite", level="printed", jail="process", audited=AUDITED | {"sealed": None, "experiment": 1}
    )
    sealed = a_night(tmp_path / "b.sqlite")

    loud, quiet = (" ".join(told_of(one)["caveats"]) for one in (printed, sealed))

    assert all(
        words in loud for words in ("report this number themselves", "--unsafe", "no sealed data", "audit again")
    )
    assert not any(words in quiet for words in ("themselves", "--unsafe", "no sealed data", "audit again"))
    assert "2 of 2 were decided by one run" in quiet


@pytest.mark.parametrize(("high", "is_said"), [(1.2, False), (0.9, True)])
def test_a_claim_above_the_whole_interval_is_called_flattery(tmp_path: Path, high: float, is_said: bool) -> None:
    night = a_night(tmp_path / "ledger.sqlite", audited=AUDITED | {"high": high})

    told = told_of(night)

    assert told["claim"]["gain"] == 1.0
    assert ("flattered itself" in " ".join(told["caveats"])) == is_said


def test_no_word_of_an_agent_becomes_markup(hostile: Ledger) -> None:
    text = morning.html(hostile, name="main")

    page = Page(text)
    assert [kind for kind, _ in page.scripts] == ["application/json"] * 2 + [None] * 2
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "a", "link", "object", "form")]
    assert not [name for _, names in page.tags for name in names if name.startswith("on") or name in ("src", "style")]
    assert sum("document.title" in word for word in page.words) >= 6  # shown, as what it is: text
    assert HOSTILE in json.loads(page.scripts[0][1])["kept"][-1]["hypothesis"] + HOSTILE[141:]


def test_words_that_turn_the_page_around_are_made_harmless(tmp_path: Path) -> None:
    night = a_night(tmp_path / "ledger.sqlite", more=tried(5, "kept", 2.5, parent=2, hypothesis="a\u202eb\x1b[2Jc"))

    assert not set(morning.html(night, name="main")) & {"\u202e", "\x1b"}
    assert not set(markdown(told_of(night))) & {"\u202e", "\x1b"}


def test_the_page_may_run_its_own_scripts_and_reach_no_address(hostile: Ledger) -> None:
    text = morning.html(hostile, name="main")

    page = Page(text)
    policy = next(names["content"] for tag, names in page.tags if names.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    style = text.partition("<style>")[2].partition("</style>")[0]
    own = [body for kind, body in page.scripts if kind is None]
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [in_policy(body) for body in own]
    assert rules["style-src"] == in_policy(style)
    assert "url(" not in style
    assert "@import" not in style


def in_policy(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_a_long_night_stays_a_short_page_that_says_what_it_leaves_out(tmp_path: Path) -> None:
    ledger = a_long_night(tmp_path / "ledger.sqlite", 2_500)

    text = morning.html(ledger, name="main")

    assert len(text.encode()) < 400_000
    assert "and 84 more: <code>nightlab best</code>" in text
    assert len(markdown(told_of(ledger))) < 40_000


def test_a_long_patch_is_cut_and_says_so(tmp_path: Path) -> None:
    diff = "--- a/x\n+++ b/x\n" + "".join(f"+{n} {'y' * 1000}\n" for n in range(1000))
    night = a_night(tmp_path / "ledger.sqlite", more=tried(5, "kept", 2.5, parent=2, diff=diff))

    text = morning.html(night, name="main")

    assert "(852 more lines)" in text
    assert len(text) < 200_000


def test_failures_of_one_kind_are_told_together(tmp_path: Path) -> None:
    more = [e for n in range(5, 9) for e in tried(n, "crashed", None, parent=2, reason=f"exit code 1: line {n}")]
    night = a_night(tmp_path / "ledger.sqlite", more=more)

    assert [(one["count"], one["experiments"]) for one in told_of(night)["failures"]] == [(4, [5, 6, 7, 8]), (1, [4])]


def test_what_was_not_kept_is_told_apart_by_how_bad_it_was(tmp_path: Path) -> None:
    more = [*tried(5, "discarded", 4.0, gain=-1.0, stderr=0.1), *tried(6, "shelved", 2.9, gain=0.4, stderr=0.1)]
    night = a_night(tmp_path / "ledger.sqlite", more=more)

    assert told_of(night)["not_kept"] == {"worse": 1, "close": 1, "better": 1}


@pytest.mark.parametrize(("money", "is_warned"), [(10.0, False), (1.2, True)])
def test_a_cap_is_warned_of_from_eighty_percent_on(tmp_path: Path, money: float, is_warned: bool) -> None:
    more = [Event("capped", "0", {"money": money, "tokens": None}), *tried(5, "discarded", 4.0)]
    night = a_night(tmp_path / "ledger.sqlite", more=more)
    night.append(Event("drafted", "7", {"hypothesis": None, "money": 1.0, "tokens": 1000}))

    assert ("Warning:" in morning.html(night, name="main")) == is_warned
    assert any(line.startswith("warning: 83 % of the cap is spent") for line in lines(told_of(night))) == is_warned
    assert told_of(night)["caps"]["share"] == pytest.approx(1.0 / money)


def test_what_was_learned_is_shown_where_it_is_given(night: Ledger) -> None:
    finding = {"kind": "dead_end", "subject": "x", "words": "<b>Width</b> was tried 9 times.", "grade": "E1"}

    text = morning.html(night, name="main", insights={"findings": [finding] * 9})

    assert "&lt;b&gt;Width&lt;/b&gt; was tried 9 times." in text
    assert "and 3 more: <code>nightlab insights</code>" in text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a `b` c", r"a \`b\` c"),
        ("<img src=x>", r"\<img src=x\>"),
        ("[here](http://e.vil)", r"\[here\](http\://e.vil)"),
        ("see www.e.vil", r"see www\.e.vil"),
        ("a|b", r"a\|b"),
        ("ask @someone", "ask `@`someone"),
        ("one\n# two", "one # two"),
        ("&lt;", r"\&lt;"),
    ],
)
def test_words_of_others_are_only_shown_in_markdown(said: str, shown: str) -> None:
    assert plain(said) == shown


def test_the_markdown_says_the_same_in_short(hostile: Ledger) -> None:
    text = markdown(told_of(hostile))

    assert text.startswith("# 25.0 % lower val\\_bpb (E3)")
    assert "## What fell away" in text
    assert not re.search(r"(?<!\\)<", text)
    assert "](http:" not in text


@pytest.mark.slow
def test_a_report_is_written_by_the_ending_of_its_name(folder: Path, nightlab: Nightlab) -> None:
    a_night_in(folder)

    for name in ("r.html", "r.md", "r.json"):
        assert nightlab("report", "-o", name).stdout.strip() == name
    assert (folder / "r.html").read_text().startswith("<!doctype html>")
    assert (folder / "r.md").read_text().startswith("# 25.0")
    assert json.loads((folder / "r.json").read_text())["audited"]["gain"] == 1.0
    assert json.loads(nightlab("report", "-o", "r.md", "--json").stdout) == {"file": "r.md"}


@pytest.mark.parametrize("name", ["r.pdf", "r", "no-such-folder/r.html"])
def test_a_report_that_cannot_be_written_is_said_in_one_line(folder: Path, nightlab: Nightlab, name: str) -> None:
    a_night_in(folder)
    before = set(folder.iterdir())

    done = nightlab("report", "-o", name, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("nightlab: cannot write")
    assert len(done.stderr.splitlines()) == 1
    assert set(folder.iterdir()) == before


def a_night_in(folder: Path) -> None:
    (folder / ".nightlab").mkdir()
    a_night(folder / ".nightlab" / "ledger.sqlite").close()


@pytest.mark.slow
def test_a_run_leaves_its_report_and_a_picture_and_says_where(folder: Path, nightlab: Nightlab) -> None:
    pytest.importorskip("matplotlib")

    done = nightlab("run", "--experiments", "7", "--no-audit")  # and the start

    page = folder / ".nightlab" / "report.html"
    assert done.stdout.splitlines()[-1] == f"The report: {page} (beside it report.md, progress.svg)"
    assert "Not audited" in page.read_text()
    assert page.with_name("report.md").read_text().startswith("# Not audited")
    assert page.with_name("progress.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_a_report_that_cannot_be_left_ends_nothing(folder: Path, nightlab: Nightlab) -> None:
    (folder / ".nightlab" / "report.html").mkdir(parents=True)

    done = nightlab("run", "--experiments", "1", "--no-audit")

    assert done.stdout.splitlines()[-1].startswith(f"the report could not be left in {folder / '.nightlab'} (")
    assert json.loads(nightlab("status", "--json").stdout)["experiments"] == 2


# In a real browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    found = shutil.which("chromium")
    need(found is not None, "chromium is not installed (sudo apt-get install chromium)")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A report opened from disk in a browser; what it asked for and what went wrong."""

    def __init__(self, browser: Any, file: Path, *, width: int = 1280, scheme: str = "light") -> None:
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(file.as_uri())
        self.page.locator(".chart-plot canvas").nth(1).wait_for()  # a function to wait for would be an eval: forbidden

    def ink(self) -> int:
        """How many different colours are on the chart's canvas."""
        return self.page.evaluate(
            """() => { const c = document.querySelector('.chart-plot canvas');
            const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
            return new Set(d).size; }"""
        )

    def is_too_wide(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


@pytest.fixture
def file(hostile: Ledger, tmp_path: Path) -> Path:
    path = tmp_path / "a report.html"
    path.write_text(morning.html(hostile, name="main"), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_from_disk_and_draws(chromium: Any, file: Path, width: int, scheme: str) -> None:
    opened = Opened(chromium, file, width=width, scheme=scheme)

    assert opened.page.evaluate("document.body.innerText.trim().split('\\n')[0]") == "25.0\N{NO-BREAK SPACE}%"
    assert opened.asked == [file.as_uri()]
    assert opened.wrong == []
    assert opened.ink() > 20
    assert not opened.is_too_wide()
    assert opened.page.title().startswith("25.0")  # and not what the hostile words would have made of it
    is_dark = opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 24, 31)"
    assert is_dark == (scheme == "dark")
    opened.page.close()


def test_the_points_are_read_by_the_keyboard(chromium: Any, file: Path) -> None:
    opened = Opened(chromium, file)
    opened.page.focus(".chart-plot")
    told = opened.page.locator(".chart-told").first

    opened.page.keyboard.press("Home")
    first = told.inner_text()
    opened.page.keyboard.press("ArrowDown")
    second = told.inner_text()
    opened.page.keyboard.press("End")
    last = told.inner_text()

    assert first.startswith("Experiment 0, kept, val_bpb 4, 95 % 3.804 to 4.196 (E1): baseline")
    assert second.startswith("Experiment 1, kept, val_bpb 3.5")
    assert last.startswith("Experiment 7, pruned, val_bpb 2.4")
    opened.page.close()


def test_the_chart_changes_its_colours_with_the_system(chromium: Any, file: Path) -> None:
    opened = Opened(chromium, file)
    picture = "document.querySelector('.chart-plot canvas').toDataURL()"
    light = opened.page.evaluate(picture)

    opened.page.emulate_media(color_scheme="dark")

    wait_for(lambda: opened.page.evaluate(picture) != light)
    opened.page.close()


def test_a_click_opens_a_point_and_a_drag_does_not(chromium: Any, file: Path) -> None:
    opened = Opened(chromium, file)
    opened.page.evaluate(
        """() => { const data = JSON.parse(document.getElementById('data-progress').textContent);
        const place = document.createElement('div');
        document.querySelector('main').prepend(place);
        window.chart = nightlabChart(place, data, { link: (id) => '#experiment-' + id }); }"""
    )
    opened.page.wait_for_timeout(100)
    x, y, left, top = opened.page.evaluate(
        """() => { const box = chart.u.over.getBoundingClientRect();
        return [...chart.spot(chart.items.find((one) => one.id === 2)), box.left, box.top]; }"""
    )
    mouse = opened.page.mouse

    mouse.move(left + x - 60, top + y + 4)
    mouse.down()
    mouse.move(left + x, top + y + 2, steps=4)
    mouse.up()
    opened.page.wait_for_timeout(100)
    after_drag = opened.page.url
    opened.page.evaluate("() => { chart.u.isZoomed = false; chart.update(chart.data); }")
    opened.page.wait_for_timeout(350)
    mouse.click(left + x, top + y)

    opened.page.wait_for_url("**#experiment-2")
    assert "#" not in after_drag
    opened.page.close()
