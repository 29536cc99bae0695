"""What the realtime protocol promises about attachments: modes, params, rewind, names, detach, continuity."""

import pytest

from tests.harness import publish
from tests.harness import token as make_token
from tests.test_protocol import until_pong
from tests.wsclient import ATTACH_RESUME, HAS_BACKLOG, RESUMED, Action, RefusedError, WsClient

PUBLISH, SUBSCRIBE = 1 << 17, 1 << 18
ALL = PUBLISH | SUBSCRIBE  # that there are
BAD_NAMES = ["", ":hell", "::", "[", "[x]y", "[?rewind=1]", "[?a=b][?c=d]e", "a\nb", "a\x00b", "x" * 2049]


def with_rights(server, *operations, client_id=None, **params):
    token = make_token(server.address, {"*": list(operations)}, client_id=client_id)
    return WsClient(server.address, key=None, access_token=token, **params)


def texts(client, channel, count):
    return [message["data"] for message in client.deliveries(channel, count)]


# attaching


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ({}, ALL),
        ({"flags": 0}, ALL),
        ({"flags": None, "params": None, "channelSerial": None}, ALL),
        ({"flags": 16}, ALL),
        ({"flags": SUBSCRIBE}, SUBSCRIBE),
        ({"flags": float(PUBLISH | SUBSCRIBE)}, PUBLISH | SUBSCRIBE),
        ({"params": {"modes": "subscribe"}}, 262144),
        ({"params": {"modes": "publish,subscribe"}}, 393216),
        ({"params": {"modes": " Publish, subscribe "}}, 393216),
        ({"flags": PUBLISH, "params": {"modes": "subscribe"}}, SUBSCRIBE),
    ],
)
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_modes_come_from_params_then_flags_then_defaults(server, channel, asked, granted, format):
    with WsClient(server.address, format=format) as client:
        attached = client.attach(channel, **asked)
        assert attached["flags"] == granted
        assert isinstance(attached["channelSerial"], str)


@pytest.mark.parametrize(
    ("operations", "flags", "granted"),
    [
        (["subscribe"], 0, 262144),
        (["publish"], 0, 131072),
        (["publish", "subscribe"], SUBSCRIBE, SUBSCRIBE),
        (["publish"], SUBSCRIBE, None),
        (["history"], 0, None),
    ],
)
def test_modes_are_cut_to_the_capability_and_none_left_is_40160(server, channel, operations, flags, granted):
    with with_rights(server, *operations) as client:
        if granted is not None:
            assert client.attach(channel, flags=flags)["flags"] == granted
        else:
            with pytest.raises(RefusedError) as refused:
                client.attach(channel, flags=flags)
            assert (refused.value.code, refused.value.status) == (40160, 401)
        assert until_pong(client) == []


@pytest.mark.parametrize(
    ("operations", "asked", "modes", "lacking"),
    [
        (["publish"], {"flags": SUBSCRIBE}, "subscribe", "subscribe"),
        (["subscribe"], {"params": {"modes": "publish,presence"}}, "presence, publish", "publish or presence"),
        (["publish"], {"params": {"modes": "presence_subscribe"}}, "presence_subscribe", "subscribe"),
        (
            ["history"],
            {},
            "presence, publish, subscribe, presence_subscribe, annotation_publish",
            "subscribe or publish or presence or annotation-publish",
        ),
    ],
)
def test_refused_attach_names_the_missing_capability(server, channel, operations, asked, modes, lacking):
    with with_rights(server, *operations) as client:
        with pytest.raises(RefusedError) as refused:
            client.attach(f"[?rewind=1]{channel}", **asked)
        assert str(refused.value) == (
            f"40160: the credentials do not permit attaching to {channel!r} with the modes {modes}: "
            f"their capability has no {lacking} for {channel!r}"
        )


@pytest.mark.parametrize(
    ("params", "echoed"),
    [
        ({}, {}),
        ({"rewind": "1"}, {"rewind": "1"}),
        ({"rewind": 1, "echo": False}, {"rewind": "1", "echo": "false"}),
        ({"rewind": 2.0, "rewindLimit": 5}, {"rewind": "2", "rewindLimit": "5"}),
        ({"modes": "subscribe", "rewind": None}, {"modes": "subscribe"}),
        ({"unknown": {"a": [1]}, "Rewind": "1"}, {}),
    ],
)
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_exactly_the_params_in_force_are_told_as_text(server, channel, params, echoed, format):
    with WsClient(server.address, format=format) as client:
        assert client.attach(channel, params=params).get("params", {}) == echoed


@pytest.mark.parametrize("params", [5, "x", [], {"modes": "subscribe,fly"}, {"modes": ""}])
def test_wrong_params_are_that_channels_error(server, channel, params):
    with WsClient(server.address) as client:
        with pytest.raises(RefusedError) as refused:
            client.attach(channel, params=params)
        assert refused.value.status == 400
        assert client.attach(channel)["flags"] == ALL


def test_name_with_params_is_the_same_channel_as_without(server, channel):
    publish(server.address, channel, [{"data": "old"}, {"data": "older"}])
    full = f"[?rewind=1&echo=false]{channel}"
    with WsClient(server.address) as plain, WsClient(server.address) as client:
        plain.attach(channel)
        attached = client.attach(full)
        assert attached["params"] == {"rewind": "1", "echo": "false"}
        assert texts(client, full, 1) == ["older"]  # the last one of those that were published together
        client.publish(full, {"data": "mine"})
        plain.publish(channel, {"data": "yours"})
        assert texts(client, full, 1) == ["yours"]
        assert texts(plain, channel, 2) == ["mine", "yours"]
        assert client.attach(full, params={"echo": "true"})["params"] == {"rewind": "1", "echo": "true"}
        client.send({"action": Action.DETACH, "channel": full})
        assert client.expect(Action.DETACHED) == {"action": Action.DETACHED, "channel": full}


@pytest.mark.parametrize(
    ("rewind", "expected"), [("1", ["c"]), ("2", ["b", "c"]), (3, ["a", "b", "c"]), ("1000", "abc"), ("2m", "abc")]
)
def test_rewind_delivers_the_newest_forward_with_has_backlog(server, channel, rewind, expected):
    for text in "abc":
        publish(server.address, channel, {"data": text})
    with WsClient(server.address) as client:
        attached = client.attach(channel, params={"rewind": rewind})
        assert attached["flags"] == ALL | HAS_BACKLOG
        assert texts(client, channel, len(expected)) == list(expected)
        client.publish(channel, {"data": "live"})
        assert texts(client, channel, 1) == ["live"]


def test_without_anything_to_rewind_no_backlog_is_told(server, channel):
    with WsClient(server.address) as client:
        assert client.attach(channel, params={"rewind": "10"})["flags"] == ALL


@pytest.mark.parametrize("rewind", ["abc", "-1", "0x", "", "1h", "1.5", " 1", "1 ", True, 1.5, "١"])
def test_a_rewind_that_is_none_is_refused_with_40003(server, channel, rewind):
    with WsClient(server.address) as client:
        with pytest.raises(RefusedError) as refused:
            client.attach(channel, params={"rewind": rewind})
        assert (refused.value.code, refused.value.status) == (40003, 400)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_name_is_refused_by_that_name_and_connection_lives(server, name):
    with WsClient(server.address) as client:
        client.send({"action": Action.ATTACH, "channel": name})
        answer = client.receive()
        assert (answer["action"], answer["channel"], answer["error"]["code"]) == (Action.ERROR, name, 40010)
        with pytest.raises(RefusedError, match="40010"):
            client.publish(name, {"data": "x"})
        client.send({"action": Action.DETACH, "channel": name})
        assert until_pong(client) == [{"action": Action.DETACHED, "channel": name}]


def test_detach_is_always_answered_and_ends_delivery(server, channel):
    with WsClient(server.address) as client:
        client.attach(channel)
        for _ in range(2):
            client.send({"action": Action.DETACH, "channel": channel})
            assert client.receive() == {"action": Action.DETACHED, "channel": channel}
        client.publish(channel, {"data": "unseen"})
        assert until_pong(client) == []


def test_attach_and_detach_that_cross_are_answered_in_order(server, channel):
    with WsClient(server.address) as client:
        actions = [Action.ATTACH, Action.DETACH, Action.ATTACH, Action.ATTACH, Action.DETACH]
        for action in actions:
            client.send({"action": action, "channel": channel})
        assert [client.receive()["action"] for _ in actions] == [action + 1 for action in actions]
        assert until_pong(client) == []


def test_too_many_requests_for_one_channel_do_not_spoil_it(server, channel):
    with WsClient(server.address) as client:
        attach = {"action": Action.ATTACH, "channel": channel}
        for _ in range(300):
            client.send(attach)
        answers = [message["action"] for message in until_pong(client)]
        client.send(attach)
        client.expect(Action.ATTACHED, seconds=5)
        assert set(answers) <= {Action.ATTACHED, Action.ERROR}


def test_excess_channel_is_refused_with_90010_until_a_detach(make_server):
    own = make_server(config="[limits]\nchannels_per_connection = 2\n")
    with WsClient(own.address) as client:
        for name in "abab":
            client.attach(name)
        with pytest.raises(RefusedError) as refused:
            client.attach("c")
        assert (refused.value.code, refused.value.status) == (90010, 400)
        client.send({"action": Action.DETACH, "channel": "a"})
        client.expect(Action.DETACHED)
        assert client.attach("c")["flags"] == ALL


# attaching again, and continuity


def test_new_attach_replaces_options_without_rewind_or_repeat(server, channel):
    publish(server.address, channel, {"data": "old"})
    with WsClient(server.address) as client:
        client.attach(channel, params={"rewind": "1", "echo": "false"})
        assert texts(client, channel, 1) == ["old"]
        again = client.attach(channel, params={"rewind": "1"})
        assert (again["flags"], again["params"]) == (ALL, {"rewind": "1"})
        client.publish(channel, {"data": "echoed"})
        assert texts(client, channel, 1) == ["echoed"]
        again = client.attach(channel, flags=SUBSCRIBE)
        assert (again["flags"], again.get("params", {})) == (SUBSCRIBE, {})
        with pytest.raises(RefusedError, match="40165"):
            client.publish(channel, {"data": "x"})
        assert until_pong(client) == []


def test_who_begins_to_subscribe_begins_now(server, channel):
    with WsClient(server.address) as client:
        client.attach(channel, flags=PUBLISH)
        client.publish(channel, {"data": "unseen"})
        assert client.attach(channel, flags=PUBLISH | SUBSCRIBE)["flags"] == PUBLISH | SUBSCRIBE
        client.publish(channel, {"data": "seen"})
        assert texts(client, channel, 1) == ["seen"]


@pytest.mark.parametrize("flags", [0, ATTACH_RESUME])
def test_attach_from_a_serial_delivers_exactly_what_followed(server, channel, flags):
    with WsClient(server.address) as client, WsClient(server.address) as other:
        client.attach(channel)
        for text in "abc":
            other.publish(channel, {"data": text})
        cursors = [message["channelSerial"] for message in client.deliveries(channel, 3)]
        for at, missed in enumerate(["bc", "c", ""]):
            with WsClient(server.address) as fresh:
                attached = fresh.attach(channel, channelSerial=cursors[at], flags=flags, params={"rewind": "3"})
                assert attached["flags"] & ~HAS_BACKLOG == ALL | RESUMED
                assert "error" not in attached
                assert texts(fresh, channel, len(missed)) == list(missed)
                assert until_pong(fresh) == []
        attached = client.attach(channel, channelSerial=cursors[0])  # also on the connection that is attached
        assert attached["flags"] & RESUMED
        assert texts(client, channel, 2) == ["b", "c"]


@pytest.mark.parametrize("wrong", ["series", "ahead", "garbage", "empty", "other form"])
def test_unverifiable_serial_is_told_and_reading_starts_now(server, channel, wrong):
    with WsClient(server.address) as client:
        true = client.attach(channel)["channelSerial"]
        client.publish(channel, {"data": "old"})
        number, _, series = true.partition("@")
        false = {
            "series": f"{number}@{series[::-1]}",
            "ahead": f"{int(number[:15]) + 3_600_000:015d}-00000@{series}",
            "garbage": "garbage",
            "empty": "",
            "other form": f"{true}:000",
        }[wrong]
        with WsClient(server.address) as fresh:
            attached = fresh.attach(channel, channelSerial=false, params={"rewind": "1"})
            assert attached["flags"] == ALL
            assert (attached["error"]["code"], attached["error"]["statusCode"]) == (90003, 404)
            fresh.publish(channel, {"data": "new"})
            assert texts(fresh, channel, 1) == ["new"]


def test_first_attach_is_not_resumed_and_a_later_not_rewound(server, channel):
    publish(server.address, channel, {"data": "old"})
    with WsClient(server.address) as client:
        attached = client.attach(channel, flags=ATTACH_RESUME, params={"rewind": "1"})
        assert attached["flags"] == ALL
        again = client.attach(channel, flags=ATTACH_RESUME)
        assert again["flags"] == ALL | RESUMED
        assert until_pong(client) == []
