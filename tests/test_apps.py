"""What ``--dev`` promises of apps: made with keys and namespaces, used apart from each other, deleted."""

import base64

import pytest

from tests.harness import Server, request
from tests.test_protocol import ended_with, refusal, short_token, until_pong
from tests.wsclient import Action, WsClient


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    """A server on which anybody can create apps."""
    with Server(tmp_path_factory.mktemp("dev"), arguments=["--dev"]) as running:
        yield running
    assert not running.complaints(), running.complaints()


def make_app(dev, spec):
    status, app, _ = request(dev.address, "POST", "/apps", spec)
    assert status in (200, 201), app
    return app


def test_app_is_created_with_ordered_keys_in_both_spellings(dev):
    capability = '{ "a:*": ["publish"] }'
    app = make_app(
        dev,
        {
            "keys": [{}, {"capability": capability}, {"revocableTokens": True, "privileged": True}],
            "namespaces": [{"id": "persisted", "persisted": True}, {"id": "mutable", "mutableMessages": True}],
            "channels": [{"name": "persisted:presence_fixtures", "presence": []}],
            "limits": {"presence": 250},
        },
    )
    assert [key["capability"] for key in app["keys"]] == ['{"*":["*"]}', capability, '{"*":["*"]}']
    assert [key["revocableTokens"] for key in app["keys"]] == [False, False, True]
    for key in app["keys"]:
        assert (key["keyName"], key["keySecret"]) == (f"{app['appId']}.{key['id']}", key["value"])
        assert key["keyStr"] == f"{key['keyName']}:{key['keySecret']}"
    assert app["namespaces"] == [{"id": "persisted", "persisted": True}, {"id": "mutable", "persisted": False}]
    assert (app["id"], app["endpoint"], app["port"], app["tls"]) == (app["appId"], *dev.address, False)


def test_a_deleted_app_is_gone_with_its_clients(dev):
    app = make_app(dev, {})
    key = app["keys"][0]["keyStr"]
    with WsClient(dev.address, key=key) as client, WsClient(dev.address) as bystander:
        client.publish("x", {"data": "1"})
        assert request(dev.address, "DELETE", f"/apps/{app['appId']}", key=key)[0] == 204
        assert ended_with(client, Action.ERROR)["error"]["statusCode"] == 401
        assert until_pong(bystander) == []
    assert refusal(dev.address, key=key) == (40101, 401)


@pytest.mark.parametrize(
    "spaces", [{}, "x", [1], [{}], [{"id": ""}], [{"id": "a:b"}], [{"id": 5}], [{"id": "a"}] * 101]
)
def test_namespaces_that_are_none_are_refused(dev, spaces):
    status, body, _ = request(dev.address, "POST", "/apps", {"namespaces": spaces})
    assert (status, body["error"]["code"]) == (400, 40000)
    assert "namespaces" in body["error"]["message"]


def test_namespaces_of_an_app_apply_to_it_alone_after_a_restart(make_server):
    own = make_server(arguments=["--dev"], config="[limits]\nwindow_seconds = 1\n")
    spaces = [{"id": "kept", "persisted": True}, {"id": "brief", "persisted": False}]
    app, other = make_app(own, {"namespaces": spaces}), make_app(own, {})
    keys = [one["keys"][0]["keyStr"] for one in (app, other)]
    names = [(keys[0], "kept:room"), (keys[0], "brief:room"), (keys[1], "kept:room")]
    for key, name in names:
        with WsClient(own.address, key=key) as client:
            client.publish(name, {"data": name})

    def kept():
        found = []
        for key, name in names:
            headers = {"Authorization": "Basic " + base64.b64encode(key.encode()).decode()}
            status, page, _ = request(own.address, "GET", f"/channels/{name}/messages", headers=headers)
            assert status == 200
            found.append([message["data"] for message in page])
        return found

    with WsClient(own.address, key=None, access_token=short_token(own.address, 1500)) as clock:
        clock.expect(Action.DISCONNECTED)  # 1.5 s have gone by, and the window with them
    assert kept() == [["kept:room"], [], []]
    own.restart()
    assert kept() == [["kept:room"], [], []]
    with WsClient(own.address, key=keys[0]) as client:
        client.publish("kept:room", {"data": "after"})
        client.attach("kept:room", params={"rewind": "10"})
        assert [message["data"] for message in client.deliveries("kept:room", 2)] == ["kept:room", "after"]


def test_a_server_in_memory_does_not_say_that_it_persists(make_server):
    own = make_server(arguments=["--dev", "--durability", "memory"])
    app = make_app(own, {"namespaces": [{"id": "kept", "persisted": True}]})
    assert app["namespaces"] == [{"id": "kept", "persisted": False}]
    with WsClient(own.address, key=app["keys"][0]["keyStr"]) as client:
        assert client.publish("kept:room", {"data": "x"})


def test_apps_never_see_each_other(dev):
    keys = [make_app(dev, {})["keys"][0]["keyStr"] for _ in range(2)]
    with WsClient(dev.address, key=keys[0]) as one, WsClient(dev.address, key=keys[1]) as two:
        for client in (one, two):
            client.attach("room")
        one.publish("room", {"data": "one"})
        two.publish("room", {"data": "two"})
        for client, data in ((one, "one"), (two, "two")):
            assert [message["data"] for message in client.deliveries("room", 1)] == [data]
            assert until_pong(client) == []
        with WsClient(dev.address, key=keys[1], resume=one.connection_key) as thief:
            assert thief.connected["error"]["code"] == 80011
            assert thief.connection_id != one.connection_id
        assert until_pong(one) == []


def test_apps_are_not_made_outside_of_development(server):
    for method, path, status in (("POST", "/apps", 404), ("DELETE", "/apps/x", 404), ("POST", "/stats", 405)):
        told, body, _ = request(server.address, method, path, {})
        assert told == status and "only with --dev" in body["error"]["message"]
    assert "--dev" not in request(server.address, "GET", "/apps")[1]["error"]["message"]
