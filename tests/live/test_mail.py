"""Mail: each recipient is written to once, with the arm they were given; links count and lead where they may."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from email.message import EmailMessage
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from mails import CHALLENGER, CHAMPION, Sink, command, list_of, mail_folder, sent, sink, store_of
from services import Served, served

from nightlab.errors import BadTask
from nightlab.live.links import Links
from nightlab.live.mail import address_of, unfit
from nightlab.live.privacy import Secret
from nightlab.live.sending import people
from nightlab.live.store import Side, Store

OF_VERSION = {CHAMPION["subject"]: 0, CHALLENGER["subject"]: 1}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def mails() -> Iterator[Sink]:
    with sink() as kept:
        yield kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mail_folder(tmp_path)


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with closing(store_of(folder)) as opened:
        yield opened


@pytest.fixture
def service(folder: Path, store: Store) -> Iterator[Served]:
    with served(folder) as running:
        yield running


def secret_of(folder: Path) -> Secret:
    return Secret.at(folder / ".nightlab/live.secret")


def html_of(mail: EmailMessage) -> str:
    part = mail.get_body(("html",))
    assert part is not None
    return str(part.get_content())


def link_of(mail: EmailMessage, where: str = "/l?") -> str:
    found = re.search(rf'href="([^"]*{re.escape(where)}[^"]*)"', html_of(mail))
    assert found, html_of(mail)
    return unescape(found[1])


def total(store: Store, outcome: str) -> Side:
    return sum((one.side for one in store.totals(outcome)), Side())


@pytest.mark.slow
def test_a_mailing_goes_out_is_clicked_and_is_left_by_one_click(
    folder: Path, store: Store, service: Served, mails: Sink
) -> None:
    list_ = list_of(folder, 30)

    first = sent(folder, list_, mails, service.url)

    assert first.stdout == "30 taken\n", first.stderr
    units = {f"person{n}@mail.example": secret_of(folder).hashed(f"u{n}") for n in range(30)}
    shown = store.assigned(units.values())
    for to, mail in mails.taken:
        assert OF_VERSION[mail["Subject"]] == shown[units[to.lower()]].arm
    assert set(Counter(one.arm for one in shown.values())) == {0, 1}
    assert {one.segment for one in shown.values()} == {"audience=old", "audience=new"}

    mail = mails.mail_of("person3@mail.example")
    with service.client as client:
        clicked = [client.get(link_of(mail)) for _ in range(2)]
        assert {(answer.status_code, answer.headers["location"]) for answer in clicked} == {
            (302, "https://shop.example/try?a=1&b=2")
        }
        assert total(store, "try") == Side(30, 1)

    leave = str(mail["List-Unsubscribe"]).strip("<>")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert httpx.get(leave).status_code == 200
    assert total(store, "unsubscribe") == Side(30, 0)  # a program that opens links takes nobody off
    assert httpx.post(leave, data={"List-Unsubscribe": "One-Click"}).status_code == 200
    assert total(store, "unsubscribe") == Side(30, 1)

    again = sent(folder, list_, mails, service.url)
    later = sent(folder, list_, mails, service.url, "--mailing", "later")
    assert again.stdout == "30 already\n"
    assert later.stdout == "29 taken, 1 suppressed\n"
    assert len(mails.taken) == 59


def test_copy_is_text_in_both_halves_of_a_mail(folder: Path, store: Store, mails: Sink) -> None:
    store.put_split({1: 1.0}, 1)

    sent(folder, list_of(folder, 1), mails, NOWHERE)

    ((_, mail),) = mails.taken
    words = mail.get_body(("plain",))
    assert words is not None
    assert "Write <together>." in words.get_content()
    assert "Write &lt;together&gt;." in html_of(mail)
    assert mail["Subject"] == "Größer schreiben"
    assert mail["From"] == "Tidewater <hello@tidewater.example>"


@pytest.mark.slow
def test_a_mailing_that_is_killed_again_and_again_writes_to_nobody_twice(
    folder: Path, store: Store, mails: Sink
) -> None:
    list_, env = list_of(folder, 300), {**os.environ, "NIGHTLAB_SMTP": mails.url}
    kills = 0
    for _ in range(4):
        before = len(mails.taken)
        process = subprocess.Popen(command(folder, list_, NOWHERE), env=env, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(mails.taken) < before + 15 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()

    last = json.loads(sent(folder, list_, mails, NOWHERE, "--json").stdout)

    got = Counter(to for to, _ in mails.taken)
    lost = 300 - len(got)
    assert kills >= 3
    assert max(got.values()) == 1
    assert lost <= kills
    assert last["already"] + last["taken"] == 300
    unknown = [status for status in store.sends("list").values() if status == "begun"]
    assert lost <= len(unknown) <= kills
    assert total(store, "try").exposed == 300


def test_what_was_put_off_is_sent_by_the_next_run_and_what_was_refused_never(
    folder: Path, store: Store, mails: Sink
) -> None:
    list_ = list_of(folder, 4)
    mails.answers = {"person1@mail.example": "450 later", "person2@mail.example": "550 nobody here"}

    first = json.loads(sent(folder, list_, mails, NOWHERE, "--json").stdout)
    mails.answers = {}
    second = json.loads(sent(folder, list_, mails, NOWHERE, "--json").stdout)

    assert first == {"taken": 2, "deferred": 1, "refused": 1}
    assert second == {"already": 3, "taken": 1}


def test_who_may_have_a_mail_is_not_sent_it_again(folder: Path, store: Store, mails: Sink) -> None:
    list_ = list_of(folder, 3)
    mails.breaks_at = "person1@mail.example"

    first = sent(folder, list_, mails, NOWHERE)
    second = sent(folder, list_, mails, NOWHERE)

    assert first.stdout.splitlines()[0] == "2 taken, 1 begun"
    assert "they may have them" in first.stdout
    assert second.stdout == "3 already\n"
    assert len(mails.taken) == 3


def test_a_sender_who_is_refused_burns_nobody(folder: Path, store: Store, mails: Sink) -> None:
    list_ = list_of(folder, 3)
    mails.answers = {"hello@tidewater.example": "550 who are you"}

    failed = sent(folder, list_, mails, NOWHERE)
    mails.answers = {}

    assert failed.returncode != 0
    assert "takes no mail from hello@tidewater.example" in failed.stderr
    assert sent(folder, list_, mails, NOWHERE).stdout == "3 taken\n"


def test_a_server_that_refuses_one_after_the_other_ends_the_run(folder: Path, store: Store, mails: Sink) -> None:
    mails.answers = {f"person{n}@mail.example": "550 spam" for n in range(30)}

    failed = sent(folder, list_of(folder, 30), mails, NOWHERE)

    assert failed.returncode != 0
    assert "in a row" in failed.stderr
    assert len(store.sends("list")) == 10


def test_nobody_is_begun_while_the_mail_server_is_away(folder: Path, store: Store, mails: Sink) -> None:
    list_, away = list_of(folder, 2), Sink(port=9)

    failed = sent(folder, list_, away, NOWHERE)

    assert failed.returncode != 0
    assert "does not answer" in failed.stderr
    assert store.sends("list") == {}
    assert sent(folder, list_, mails, NOWHERE).stdout == "2 taken\n"


def test_a_dry_run_writes_nothing_and_to_nobody(folder: Path, store: Store, mails: Sink) -> None:
    said = json.loads(sent(folder, list_of(folder, 40), mails, NOWHERE, "--dry-run", "--json").stdout)

    assert sum(said.values()) == 40
    assert set(said) == {"version 0", "version 1"}
    assert mails.taken == []
    assert store.sends("list") == {}
    assert total(store, "try").exposed == 0


def test_who_does_not_consent_gets_the_champion_with_plain_links_and_leaves_nothing_but_the_wish_to_be_left_alone(
    folder: Path, store: Store, service: Served, mails: Sink
) -> None:
    store.put_split({0: 0.001, 1: 0.999}, 0)
    list_ = list_of(folder, 0, "u1,a@mail.example,no,new", "u2,b@mail.example,,new")

    sent(folder, list_, mails, service.url)
    assert httpx.post(str(mails.taken[0][1]["List-Unsubscribe"]).strip("<>")).status_code == 200

    for _, mail in mails.taken:
        assert mail["Subject"] == CHAMPION["subject"]
        assert 'href="https://shop.example/try?a=1&amp;b=2"' in html_of(mail)
        assert "/l?" not in mail.as_string()
    assert len(mails.taken) == 2
    with closing(sqlite3.connect(folder / ".nightlab/live.sqlite")) as db:
        rows = {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("exposures", "outcomes")}
    assert rows == {"exposures": 0, "outcomes": 0}
    assert sent(folder, list_, mails, service.url, "--mailing", "next").stdout == "1 taken, 1 suppressed\n"


def test_a_rollback_holds_from_the_next_mail_on(folder: Path, store: Store, mails: Sink) -> None:
    store.put_split({1: 1.0}, 1)
    sent(folder, list_of(folder, 3), mails, NOWHERE)
    store.put_split({0: 1.0}, 0)

    sent(folder, list_of(folder, 6), mails, NOWHERE)

    assert [OF_VERSION[mail["Subject"]] for _, mail in mails.taken] == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"to": "https://evil.example/"},
        {"to": "//evil.example"},
        {"to": "https://shop.example@evil.example/"},
        {"n": "order"},
        {"u": "00" * 16},
        {"s": ""},
        {"s": "ü"},
    ],
)
def test_a_changed_link_leads_nowhere(service: Served, folder: Path, store: Store, change: dict[str, str]) -> None:
    links = Links(secret_of(folder), service.url, hosts=frozenset({"shop.example"}))
    said = {
        key: one[0]
        for key, one in parse_qs(urlsplit(links.tracked(b"x" * 16, "m", "try", "https://shop.example/")).query).items()
    }

    with service.client as client:
        answer = client.get("/l?" + urlencode(said | change))

    assert answer.status_code == 403
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/",
        "https://shop.example.evil.example/",
        "https://shop.example@evil.example/",
        "https://evil.example\\@shop.example/",
        "javascript:alert(1)//shop.example",
        "//shop.example/",
        "https://shop.example/\r\nset-cookie: a=b",
        "https://[::1",
    ],
)
def test_a_signed_link_still_leads_only_to_hosts_that_were_named(service: Served, folder: Path, to: str) -> None:
    """Whoever can make one sign a link, by an older template say, gains nothing by it."""
    links = Links(secret_of(folder), service.url, hosts=frozenset({"shop.example"}))

    with service.client as client:
        answer = client.get(links.tracked(b"x" * 16, "m", "try", to))

    assert answer.status_code == 403


def test_a_click_is_not_counted_for_who_objects_a_bot_or_a_look_ahead(
    service: Served, folder: Path, store: Store, mails: Sink
) -> None:
    sent(folder, list_of(folder, 1), mails, service.url)
    link = link_of(mails.taken[0][1])

    with service.client as client:
        answers = [
            client.get(link, headers={"sec-gpc": "1"}),
            client.get(link, headers={"user-agent": "Mozilla/5.0 (compatible; LinkBot/1.0)"}),
            client.head(link),
        ]

    assert {answer.status_code for answer in answers} == {302}
    assert total(store, "try") == Side(1, 0)


def test_nobody_is_taken_off_by_a_link_that_was_made_up(service: Served, folder: Path) -> None:
    with service.client as client:
        for said in ("", "AAAA", "A" * 64, "ü" * 64):
            assert client.post("/unsubscribe", params={"u": said}).status_code == 403


@pytest.mark.parametrize(
    "said",
    [
        "a@b.example\r\nBcc: c@d.example",
        "a@b.example\nBcc: c@d.example",
        "Mara\r\nBcc: c@d.example <a@b.example>",
        "a@b.example, c@d.example",
        "a@b.example> <c@d.example",
        "a b@c.example",
        "@b.example",
        "a@",
        "",
    ],
)
def test_an_address_with_more_in_it_is_refused(said: str) -> None:
    with pytest.raises(BadTask):
        address_of(said)


def test_a_list_with_a_header_in_an_address_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('id,address,consent\nu1,a@b.example,yes\nu2,"c@d.example\nBcc: e@f.example",yes\n')

    with pytest.raises(BadTask, match=r"list\.csv line 4"):
        people(path, Secret(b"x" * 64))


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "Hello\nBcc: a@b.example"},
        {"subject": "Hello\r\n\r\n<p>"},
        {"subject": "Hello\u2028there"},
        {"subject": " "},
        {"body": "see https://evil.example"},
        {"body": "see www.evil.example"},
        {"body": "write to me@evil.example"},
        {"body": "see evil.example/try"},
    ],
)
def test_copy_that_brings_a_header_or_a_link_is_no_mail(change: dict[str, str]) -> None:
    assert unfit(CHAMPION) is None
    assert unfit(CHAMPION | change) is not None


def test_such_copy_is_not_deployed(folder: Path) -> None:
    (folder / "copy.toml").write_text(
        "\n".join(f"{slot} = {json.dumps(text)}" for slot, text in (CHAMPION | {"subject": "a\nb: c"}).items())
    )

    done = subprocess.run([*command(folder, folder, NOWHERE)[:5], "live", "deploy"], capture_output=True, text=True)

    assert done.returncode == 2
    assert "more than one line" in done.stderr


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("mail.html", "nightlab:unsubscribe", "https://shop.example/", "no link out of it"),
        ("mail.txt", "nightlab:unsubscribe", "", "no link out of it"),
        ("mail.html", "shop.example", "evil.example", "hosts"),
        ("mail.html", "<title>{{subject}}</title>", "", "subject"),
        ("mail.txt", "{{body}}", "{{other}}", "other"),
    ],
)
def test_a_template_that_may_not_go_out_is_told(
    folder: Path, store: Store, mails: Sink, name: str, old: str, new: str, said: str
) -> None:
    (folder / name).write_text((folder / name).read_text().replace(old, new))

    done = sent(folder, list_of(folder, 1), mails, NOWHERE)

    assert done.returncode == 2
    assert said in done.stderr
    assert mails.taken == []
