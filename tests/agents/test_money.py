"""Caps hold to the cent, whoever asks at the same time, and whatever the model does."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from asking import DOLLARS, WIRES, ask, calling, upstream

from nightlab.agents import requests
from nightlab.agents.answers import Reading
from nightlab.agents.bounds import Bounds
from nightlab.agents.prices import Price, Prices, Tokens
from nightlab.agents.relay import Caps, Relay
from nightlab.agents.requests import limited
from nightlab.agents.upstream import Upstream, Wire
from nightlab.errors import BadTask
from nightlab.testing.modelserver import Asked, Broken, ModelServer, Reply, Usage
from nightlab.values import Cost

CAP = 0.50


def stated(asked: Asked) -> int:
    inner = asked.body.get("generationConfig", {})
    limits = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    return next((asked.body[name] for name in limits if name in asked.body), inner.get("maxOutputTokens"))


def greedy(asked: Asked) -> Reply:
    """The dearest model there is: counts each byte as a token written to the cache, and always says all it may."""
    read = len(json.dumps(asked.body))
    return Reply("more", usage=Usage(read, stated(asked), 0, read if asked.wire == "messages" else 0))


def usual(asked: Asked) -> Reply:
    return Reply("done", usage=Usage(len(json.dumps(asked.body)) // 4, min(1500, stated(asked))))


def money(server: ModelServer) -> float:
    used, price = server.usage.total, DOLLARS.own["m"]
    return price.money(Tokens(used.input, used.output, used.cached, used.written))


def spend(relay: Relay, server: ModelServer, wire: str, folder: Path, calls: int) -> list[httpx.Response]:
    with calling(relay, upstream(server, wire), folder) as (line, client):
        answers = [ask(client, wire, stream=n % 2 == 0, words="go " * (1 + n * 37 % 400)) for n in range(calls)]
        assert bool(line.refusal) == (answers[-1].status_code == 400)
    return answers


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("script", [greedy, usual])
def test_a_cap_stops_at_or_before_it_last_call_included(
    wire: str, script: Callable[[Asked], Reply], tmp_path: Path
) -> None:
    relay = Relay(DOLLARS, Caps(money=CAP))
    with ModelServer(script) as server:
        answers = spend(relay, server, wire, tmp_path, 30)

        relay.close()

    refused = [answer for answer in answers if answer.status_code != 200]
    assert money(server) == pytest.approx(relay.spent.money)
    assert 0.8 * CAP < money(server) <= CAP
    assert {answer.status_code for answer in refused} == {400}
    assert "the cap leaves no room" in refused[0].json()["error"]["message"]
    assert refused[0].headers["x-should-retry"] == "false"


@pytest.mark.parametrize("script", [greedy, usual])
def test_four_lines_at_once_keep_one_cap(script: Callable[[Asked], Reply], tmp_path: Path) -> None:
    relay = Relay(DOLLARS, Caps(money=CAP))
    with ModelServer(script, delay=0.005) as server, ThreadPoolExecutor(4) as pool:
        lines = [pool.submit(spend, relay, server, wire, tmp_path / wire, 10) for wire in WIRES]
        answers = [answer for line in lines for answer in line.result()]
        relay.close()

    assert money(server) == pytest.approx(relay.spent.money)
    assert 0.8 * CAP < money(server) <= CAP
    assert {answer.status_code for answer in answers} == {200, 400}


def test_what_others_hold_is_waited_for_and_not_refused(tmp_path: Path) -> None:
    relay = Relay(DOLLARS, Caps(money=0.30))
    with ModelServer([Reply("done", usage=Usage(10, 10), delay=0.1)]) as server, ThreadPoolExecutor(4) as pool:
        lines = [pool.submit(spend, relay, server, "messages", tmp_path / str(n), 1) for n in range(4)]
        answers = [answer for line in lines for answer in line.result()]
        relay.close()

    assert [answer.status_code for answer in answers] == [200] * 4


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("caps", [Caps(), Caps(money=CAP)])
def test_the_agents_own_shorter_limit_stays(wire: str, caps: Caps, tmp_path: Path) -> None:
    name = {"responses": "max_output_tokens", "gemini": "generationConfig"}.get(wire, "max_tokens")
    relay = Relay(DOLLARS, caps)
    with ModelServer([Reply()]) as server, calling(relay, upstream(server, wire), tmp_path) as (_, client):
        ask(client, wire, **{name: {"maxOutputTokens": 500} if wire == "gemini" else 500})
        relay.close()

    assert stated(server.asked[0]) == 500


def test_without_a_cap_no_limit_is_made_up(tmp_path: Path) -> None:
    relay = Relay(DOLLARS)
    with ModelServer([Reply()]) as server, calling(relay, upstream(server, "chat"), tmp_path) as (_, client):
        ask(client, "chat")
        relay.close()

    assert stated(server.asked[0]) is None


def test_the_limit_has_the_name_that_the_server_knows(tmp_path: Path) -> None:
    bodies = [limited(upstream(url, "chat"), {}, 9) for url in ("https://api.openai.com", "http://127.0.0.1:8080")]

    assert bodies == [{"max_completion_tokens": 9}, {"max_tokens": 9}]


@pytest.mark.parametrize("wire", WIRES)
def test_a_count_of_nothing_is_no_count(wire: str, tmp_path: Path) -> None:
    relay = Relay(DOLLARS)
    with (
        ModelServer([Reply(usage=Usage(0, 0))]) as server,
        calling(relay, upstream(server, wire), tmp_path) as (line, client),
    ):
        ask(client, wire)
        relay.close()

    assert line.is_estimated
    assert line.cost.money > 0.1


def test_thoughts_that_only_the_total_holds_are_counted() -> None:
    for wire, usage in {
        "chat": {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45}},
        "gemini": {
            "candidates": [{"finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 45},
        },
    }.items():
        reading = Reading(wire)  # type: ignore[arg-type]

        reading.see(usage)

        assert reading.tokens == Tokens(10, 35)


def test_a_count_on_the_way_is_not_the_last_word() -> None:
    reading = Reading("chat")
    used = {"prompt_tokens": 10, "completion_tokens": 1}

    reading.see({"choices": [{"delta": {}, "finish_reason": None}], "usage": used})
    early = reading.tokens
    reading.see({"choices": [], "usage": used | {"completion_tokens": 9}})

    assert early is None
    assert reading.tokens == Tokens(10, 9)


def test_an_unpriced_model_of_the_agents_own_choice_is_refused_in_words(tmp_path: Path) -> None:
    relay = Relay(DOLLARS, Caps(money=CAP))
    with ModelServer([Reply()]) as server:
        anyone = replace(upstream(server, "chat"), model="")
        with calling(relay, anyone, tmp_path) as (line, client):
            answers = [ask(client, "chat", model=model) for model in ("m", "nobodys-model")]
        relay.close()

    assert [answer.status_code for answer in answers] == [200, 400]
    assert "no price is known for nobodys-model" in answers[1].json()["error"]["message"]
    assert "no price is known" in (line.trouble or "")
    assert line.refusal is None


@pytest.mark.parametrize("wire", WIRES)
def test_the_answer_is_limited_to_what_is_left(wire: str, tmp_path: Path) -> None:
    relay = Relay(DOLLARS, Caps(money=0.05))
    limit = {"messages": {"max_tokens": 32_000}}.get(wire, {})
    with ModelServer([Reply()]) as server, calling(relay, upstream(server, wire), tmp_path) as (_, client):
        answer = ask(client, wire, **limit)
        relay.close()

    assert answer.status_code == 200
    assert 256 <= stated(server.asked[0]) < 0.05 / 15e-6


def test_thinking_is_shortened_with_the_answer(tmp_path: Path) -> None:
    relay = Relay(DOLLARS, Caps(money=0.10))
    thinking = {"type": "enabled", "budget_tokens": 30_000}
    with ModelServer([Reply()]) as server, calling(relay, upstream(server, "messages"), tmp_path) as (_, client):
        ask(client, "messages", max_tokens=32_000, thinking=thinking)
        relay.close()

    body = server.asked[0].body
    assert 1024 <= body["thinking"]["budget_tokens"] < body["max_tokens"]


@pytest.mark.parametrize("caps", [Caps(call_money=0.05), Caps(call_tokens=6000), Caps(tokens=6000)])
def test_every_kind_of_cap_holds(caps: Caps, tmp_path: Path) -> None:
    relay = Relay(DOLLARS, caps)
    with ModelServer(greedy) as server:
        answers = spend(relay, server, "chat", tmp_path / "a", 30)
        first = relay.spent
        again = spend(relay, server, "chat", tmp_path / "b", 1)
        relay.close()

    assert answers[-1].status_code == 400
    assert first.money <= (caps.call_money or 1.0)
    assert first.tokens <= (caps.call_tokens or caps.tokens or 10**9)
    is_per_call = caps.tokens is None
    assert (again[0].status_code == 200) == is_per_call


def test_a_study_that_goes_on_keeps_the_cap_it_began_with(tmp_path: Path) -> None:
    relay = Relay(DOLLARS, Caps(money=CAP), spent=Cost(money=0.499))
    with ModelServer(usual) as server:
        (answer,) = spend(relay, server, "chat", tmp_path, 1)
        relay.close()

    assert answer.status_code == 400
    assert "$0.4990 of $0.5 of this study are spent" in answer.json()["error"]["message"]
    assert not server.asked


def test_a_broken_answer_keeps_the_cap_too(tmp_path: Path) -> None:
    relay = Relay(DOLLARS, Caps(money=0.02))
    with (
        ModelServer([Broken(Reply("x" * 400))]) as server,
        calling(relay, upstream(server, "chat"), tmp_path) as (line, client),
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            ask(client, "chat", stream=True)
        after = ask(client, "chat", stream=True)
        relay.close()

    assert after.status_code == 400
    assert money(server) <= line.cost.money <= 0.02


def test_one_warning_comes_at_four_fifths(tmp_path: Path) -> None:
    heard: list[str] = []
    spent: list[float] = []
    relay = Relay(DOLLARS, Caps(money=CAP), warn=heard.append)
    with (
        ModelServer([Reply(usage=Usage(1000, 1000))]) as server,
        calling(relay, upstream(server, "chat"), tmp_path) as (line, client),
    ):
        while not line.refusal:
            before = len(heard)
            ask(client, "chat", max_tokens=1000)
            spent += [line.cost.money] * (len(heard) - before)
        relay.close()

    assert len(heard) == 1
    assert "of $0.5 of this study are spent" in heard[0]
    assert 0.8 * CAP <= spent[0] < 0.85 * CAP


def test_a_listener_that_fails_does_not_stop_the_books(tmp_path: Path) -> None:
    heard: list[str] = []

    def fail(words: str) -> None:
        heard.append(words)
        raise OSError("nobody there")

    relay = Relay(DOLLARS, Caps(tokens=10_000), warn=fail, spent=Cost(tokens=1000))
    with (
        ModelServer([Reply(usage=Usage(6000, 1500))]) as server,
        calling(relay, upstream(server, "chat"), tmp_path) as (line, client),
    ):
        answer = ask(client, "chat")
        relay.close()

    assert answer.status_code == 200
    assert heard == ["8,500 of 10,000 tokens of this study are spent"]
    assert line.cost.tokens == 7500


def test_a_model_without_a_price_is_refused_at_the_door_of_a_cap_on_money(tmp_path: Path) -> None:
    nobody = upstream("http://127.0.0.1:9", "chat")
    relay = Relay(Prices(), Caps(money=CAP))

    with pytest.raises(BadTask, match=r"no price is known for m, .*prices\.toml"), relay.line(nobody, tmp_path):
        pass
    assert "no price is known for m" in (relay.preflight(nobody) or "")
    assert Relay(Prices(), Caps(tokens=10)).unpriced(nobody) is None


def test_the_users_prices_go_before_the_table(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('["gpt-5"]\ninput = 1\noutput = 2\ncached_input = 0.5\n')

    prices = Prices.load(file)

    assert prices.of("gpt-5") == Price(1, 2, 0.5, 1)
    assert prices.of("no-such-model") is None
    assert Prices.load() == Prices()


def test_the_table_of_genai_prices_gives_its_own_sums() -> None:
    table = pytest.importorskip("genai_prices")
    for model in ("claude-sonnet-4-5", "gpt-5", "gemini-2.5-pro"):
        price = Prices().of(model, "https://api.example.org")
        for tokens in (Tokens(1000, 500, 100), Tokens(200_000, 5), Tokens(300_000, 500, 1000, 500)):
            used = table.Usage(
                input_tokens=tokens.input,
                output_tokens=tokens.output,
                cache_read_tokens=tokens.cached,
                cache_write_tokens=tokens.written,
            )

            assert price is not None
            assert price.money(tokens) == pytest.approx(float(table.calc_price(used, model).total_price))
            assert price.money(tokens) <= price.most(tokens.input, tokens.output) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[m]\ninput = 1\n", "needs input and output"),
        ("m = 1\n", "needs input and output"),
        ("[m]\ninput = 1\noutput = -2\n", "output = -2"),
        ("[m]\ninput = nan\noutput = 2\n", "input = nan"),
        ("[m]\ninput = true\noutput = 2\n", "input = True"),
        ("[m]\ninput = 1\noutput = 2\ncache = 1\n", "unknown key cache; known are input, output, cached_input"),
        ("[m\n", "cannot be read"),
        (f"[m]\ninput = 1{'0' * 400}\noutput = 2\n", "input = 1000"),
    ],
)
def test_a_price_list_that_is_wrong_says_where(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)

    with pytest.raises(BadTask, match=words):
        Prices.load(file)


def test_a_price_list_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    for place in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(BadTask, match="cannot be read"):
            Prices.load(place)


@pytest.mark.parametrize(
    ("wire", "body", "most"),
    [
        ("chat", {"max_tokens": 90_000, "max_completion_tokens": 1}, 90_000),
        ("gemini", {"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 90_000}}, 90_000),
        ("messages", {"max_tokens": 1000, "thinking": {"type": "enabled", "budget_tokens": 90_000}}, 90_000),
        ("messages", {"max_tokens": 1000, "thinking": {"type": "enabled", "budget_tokens": "many"}}, 1000),
        ("chat", {"max_tokens": "many"}, None),
    ],
)
def test_of_two_limits_the_larger_is_held(wire: Wire, body: dict[str, Any], most: int | None) -> None:
    assert requests.limit(wire, body) == most


def test_a_field_under_two_names_is_refused() -> None:
    model = Upstream("gemini", "http://127.0.0.1:9", "m")
    body = json.dumps({"contents": [], "generationConfig": {}, "generation_config": {"maxOutputTokens": 1}}).encode()

    with pytest.raises(requests.Refused, match="two names of one field"):
        requests.read(model, "POST", "/v1beta/models/m:generateContent", "", {}, body, None)


def test_a_bound_never_falls_below_the_count() -> None:
    """Conversations grow, fork and start anew; a model counts each part as it likes, up to a token a byte."""
    dice = random.Random(4)
    for _ in range(50):
        bounds = Bounds()
        weights = {text: dice.randint(1, len(text)) for text in ["a" * 50, "b" * 400, "c" * 3000, "d" * 7]}
        turns: list[str] = []
        for _ in range(30):
            turns = [] if dice.random() < 0.1 else turns[: dice.randint(0, len(turns))]
            turns = [*turns, *dice.choices(list(weights), k=2)]
            body = {"system": "s" * 900, "messages": [{"role": "user", "content": text} for text in turns]}
            counted = 900 + sum(weights[text] for text in turns)

            assert bounds.most("chat", "m", body, 0) >= counted
            bounds.learn("chat", "m", body, counted)


def test_a_conversation_that_goes_on_is_bound_by_what_it_was_counted_as() -> None:
    bounds = Bounds()
    turns = [{"role": "user", "content": "x" * 100_000}]
    bounds.learn("chat", "m", {"messages": turns}, 25_000)

    most = bounds.most("chat", "m", {"messages": [*turns, {"role": "user", "content": "y" * 1000}]}, 0)

    assert 26_000 <= most < 26_100
