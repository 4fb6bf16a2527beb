"""The way to a judge: an answer without an end, a server that repeats the key, proxies."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import pytest

from distill.judging.purchases import read_purchases
from distill.judging.scores import read_scores
from distill.judging.settings import ProtocolSettings
from distill.project.errors import DistillError, run_stage
from distill.project.network import proxy_of
from tests.chat_server import Action, Drip, Raw, Say, Status, after, serving
from tests.judge_calls import KEY, ask, protocol, quick, scores


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


# --- a server without an end --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Drip(), "timed out"),
        (Drip(head=True), "timed out"),
        (Drip(2**20, 0), "larger than 16 MiB"),
        (Raw("[" * 50_000), "not a chat completion"),
    ],
    ids=repr,
)
def test_an_answer_without_an_end_is_lost_within_the_time_of_a_call(fault: Action, said: str) -> None:
    with serving(after(fault)) as server:
        seconds = 1.0 if said == "timed out" else 20.0
        assert scores(ask(protocol(server), server=quick(timeout=seconds))[0]) == (4, 5)  # and it ends
    assert said in str(read_purchases().all[0].lost)


# --- the key, and the way to the server ---------------------------------------------------------------


@pytest.mark.parametrize(
    "spelled",
    [
        KEY,
        KEY.upper(),
        quote(f"{KEY}", safe=""),
        "".join(f"%{ord(c):02X}" for c in KEY),
        "".join(f"\\u{ord(c):04x}" for c in KEY),
        "".join(f"&#{ord(c)};" for c in KEY),
        b64encode(f"Bearer {KEY}".encode()).decode(),
        b64encode(f"user:{KEY}".encode()).decode(),
        KEY.encode().hex(),
        f"{KEY[:8]}\n{KEY[8:]}",
    ],
)
def test_no_text_of_a_server_brings_the_key_along(
    spelled: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scored = json.dumps({"first": 4, "second": 5, "reason": f"Authorization: {spelled}"})
    script = after(
        Raw(f"<pre>Authorization: Bearer {spelled}</pre>"),
        Raw(f"{'x' * 70}{spelled}"),  # cut in its middle if it were cut first
        Status(400, error={"message": spelled}),
        Status(503, error={"message": spelled}),
        Say(scored, more={"reasoning": spelled}),
        then=lambda body, number: Status(403, error={"message": spelled}),
    )
    with serving(script) as server, pytest.raises(DistillError) as caught:
        ask(protocol(server), [3, 4])
    texts = [str(caught.value), *capfd.readouterr()]
    texts += [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert any("[key]" in text for text in texts)
    hidden = (spelled, spelled[:20], KEY, json.dumps(spelled)[1:-1])
    assert not [text for text in texts for form in hidden if form in text]


def test_a_word_in_place_of_a_key_stays_in_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "anything")
    with serving(lambda body, number: Say('{"first": 4, "second": 5, "reason": "anything goes"}')) as server:
        (answer,) = ask(protocol(server))
    assert answer.reply is not None
    assert read_scores(answer.reply).reason == "anything goes"


@pytest.mark.parametrize("key", ["sk-schlüssel", "sk-a b", "sk-a\nb", "sk-\x7f", "sk-…"])
def test_a_key_that_no_header_carries_is_named_by_its_variable(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving() as server:
        with pytest.raises(DistillError, match=r"^OPENAI_API_KEY holds a blank.*export the key anew") as caught:
            ask(protocol(server))
        assert server.requests == []
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "proxy"),
    [
        ("127.0.0.1", "http://127.0.0.1:9"),
        ("127.0.0.2", "socks5://127.0.0.1:9"),
        ("localhost", "socks://127.0.0.1:9"),
        ("::1", "http://127.0.0.1:9"),
    ],
)
def test_loopback_never_goes_through_a_proxy(host: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    with serving(host=host) as server:
        assert scores(ask(protocol(server))[0]) == (4, 5)


@pytest.mark.parametrize(
    ("variable", "proxy", "said"),
    [
        ("HTTP_PROXY", "http://user:geheim@127.0.0.1:9", r"no connection to .* through the proxy of HTTP_PROXY \(127"),
        ("http_proxy", "127.0.0.1:9", r"through the proxy of http_proxy \(127.0.0.1:9\)"),
        ("ALL_PROXY", "socks://user:geheim@127.0.0.1:9", r"the proxy in ALL_PROXY cannot be used .* unset ALL_PROXY$"),
        ("all_proxy", "http://127.0.0.1:port", r"the proxy in all_proxy cannot be used"),
        ("HTTP_PROXY", "http://", r"the proxy in HTTP_PROXY cannot be used \(it names no host"),
    ],
)
def test_a_proxy_that_is_of_no_use_is_named_by_its_variable(
    variable: str, proxy: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy)
    far = ProtocolSettings(model="judge-1", base_url="http://192.0.2.7:8000/v1", max_tokens=50)
    with pytest.raises(DistillError, match=said) as caught:
        ask(far, [3], server=quick(retries=0, give_up_after=1))
    assert "geheim" not in str(caught.value)


def test_what_no_proxy_names_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8, *.corp, .lan, gpu:8000")
    monkeypatch.delenv("no_proxy", raising=False)
    direct = (
        "http://10.1.2.3/v1",
        "http://a.corp/v1",
        "https://b.lan/v1",
        "http://gpu:8000/v1",
        "http://127.1:8000/v1",
    )
    assert [url for url in direct if proxy_of(url) is not None] == []
    through = ("http://11.1.2.3/v1", "http://corp.example/v1", "https://api.openai.com/v1", "http://gpu:8001/v1")
    assert {str(proxy_of(url)) for url in through} == {"the proxy of ALL_PROXY (proxy.invalid:3128)"}


@pytest.mark.parametrize("name", ["Örtlich", "mine\nX-Other: 1"])
def test_a_variable_that_no_header_carries_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", name)
    with serving() as server, pytest.raises(DistillError, match=r"what OPENAI_ORG_ID.* correct or unset it$"):
        ask(protocol(server))
    assert read_purchases().all == []


@pytest.mark.parametrize("address", ["http://256.1.1.1:9/v1", "http://ü..de/v1"])
def test_an_address_that_no_client_takes_is_a_sentence(address: str) -> None:
    with pytest.raises(DistillError, match=r"is no address .*correct `base_url`$"):
        ask(ProtocolSettings(model="judge-1", base_url=address, max_tokens=50), [3])


def test_a_hub_behind_a_proxy_of_no_use_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch() -> None:
        import httpx2  # the library below the hub's client

        try:
            httpx2.Client()
        except (ImportError, ValueError) as error:
            raise DistillError(f"cannot load a model ({error})") from None

    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:7890")
    with pytest.raises(SystemExit) as caught:
        run_stage(fetch)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the proxy in ALL_PROXY cannot be used") and "Traceback" not in said
