"""Parameters of a connection, and of an attachment: each value is understood, or refused by its name; what nobody knows
is passed over."""

from __future__ import annotations

import pytest

from tests.peer import message, upgrade
from tests.wsclient import Action, RefusedError, Served

REFUSED = {
    "echo": ["maybe", "", "1", "False", "%00", "fals%c3%a9"],
    "heartbeats": ["maybe", "", "0", "True"],
    "format": ["xml", "", "JSON"],
    "remainPresentFor": ["long", "-1", "", "1.5", "%c2%b2"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("more", ["", "X-More: 1\r\nX-More: 2\r\n"], ids=["usual", "unusual"])
def test_a_value_that_is_none_is_refused(served: Served, name: str, value: str, format: str, more: str) -> None:
    with served.peer() as peer:
        peer.send(upgrade(format, query=f"&{name}={value}", more=more))
        assert peer.told() == ["101", f"ERROR {40000 if name == 'format' else 40003}/400", "close 1000"]
        assert peer.formats == {"json" if name == "format" else format}


@pytest.mark.parametrize("value", ["x", "1.x", ".", "-1", "6 "])
def test_a_version_that_is_none_is_refused(served: Served, value: str) -> None:
    for sent in (
        upgrade(query=f"&v={value.replace(' ', '%20')}"),
        upgrade(query="&v=", more=f"X-Ably-Version: {value}_\r\n"),
    ):
        with served.peer() as peer:
            peer.send(sent)
            assert peer.told() == ["101", "ERROR 40017/400", "close 1000"]


@pytest.mark.parametrize(
    "query",
    [
        "&echo=true",
        "&echo=false",
        "&echo=maybe&echo=true",
        "&heartbeats=false",
        "&heartbeats=true",
        "&remainPresentFor=1000",
        "&v=1.2",
        "&v=",
        "&v=99",
        "&unknown=maybe&=&rnd",
        "".join(f"&x{n}=" for n in range(97)),
    ],
)
def test_known_value_and_unknown_name_are_accepted(served: Served, query: str) -> None:
    with served.peer() as peer:
        peer.send(upgrade(query=query) + message({"action": 7}))
        assert peer.told() == ["101", "CONNECTED", "CLOSED", "close 1000"]


def test_a_query_of_too_many_parameters_is_refused_as_one(served: Served) -> None:
    with served.peer() as peer:
        peer.send(upgrade(query="".join(f"&x{n}=" for n in range(98))))
        assert peer.told() == ["101", "ERROR 40000/400", "close 1000"]


@pytest.mark.parametrize("value", ["maybe", "", 1, 0.5, "True"])
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_the_echo_of_an_attachment_is_true_or_false(served: Served, channel: str, value: object, format: str) -> None:
    with served.client(format=format) as client:
        for name, fields in ((channel, {"params": {"echo": value}}), (f"[?echo={value}]{channel}", {})):
            with pytest.raises(RefusedError) as refused:
                client.attach(name, **fields)
            assert refused.value.code == 40003
        assert client.attach(channel, params={"echo": False})["action"] == Action.ATTACHED
