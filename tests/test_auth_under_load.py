"""Rights change on an open connection while messages are in flight: each is judged by those in force when it came.

    one stream of bytes    AUTH may   m m m m m   AUTH may not   m m m   AUTH may   m m ...
    its answers                       ACK x 5                    NACK x 3           ACK ...

Nothing waits for an answer. The checker holds what was said against what is stored and what a subscriber got."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.checker import Outcome, PublisherLog, Sent, check
from tests.harness import Server, history, wait_until
from tests.jwts import jwt
from tests.returning import Subscriber, marks_of
from tests.test_protocol import auth
from tests.wsclient import Action, WsClient

SEED, CHANGES, MOST = 20261121, 60, 40


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("attached", [False, True])
def test_each_message_is_judged_by_the_rights_in_force(
    server: Server, channel: str, format: str, attached: bool
) -> None:
    chance = random.Random(SEED)
    tokens = {may: jwt(capability={channel: ["subscribe", *["publish"] * may]}) for may in (False, True)}
    subscriber = Subscriber("s", server.address, channel, format=format)
    subscriber.start()
    assert subscriber.attached.wait(20)
    expected: list[tuple[str, bool]] = []
    sent: list[Sent] = []
    with WsClient(server.address, key=None, access_token=tokens[True], format=format, echo="false") as client:
        if attached:
            client.attach(channel)
        may = True
        for _ in range(CHANGES):
            for _ in range(chance.randrange(1, MOST)):
                expected.append((f"m{len(expected):05d}", may))
                client.send_messages(channel, [{"name": expected[-1][0], "data": "x"}])
            may = not may if chance.random() < 0.8 else may  # a renewal with the same rights, too
            auth(client, tokens[may])
        while len(sent) < len(expected):
            answer = client.expect(Action.ACK, Action.NACK)
            assert answer["msgSerial"] == len(sent)
            for at in range(answer["count"]):
                mark = expected[len(sent)][0]
                if answer["action"] == Action.ACK:
                    sent.append(Sent(mark, Outcome.ACKED, answer["res"][at]["serials"][0]))
                else:
                    assert answer["error"]["code"] == 40160
                    sent.append(Sent(mark, Outcome.NACKED))
        for _ in range(CHANGES):
            assert client.expect(Action.CONNECTED)["connectionId"] == client.connection_id
    assert [(one.mark, one.outcome is Outcome.ACKED) for one in sent] == expected
    journal = marks_of(history(server.address, channel))
    with contextlib.suppress(TimeoutError):  # the report says better what is missing
        wait_until(lambda: subscriber.last == journal[-1].mark, seconds=10)
    subscriber.leave()
    report = check([PublisherLog("p", sent, all_answered=True)], [subscriber.log()], journal)
    assert not report.faults, str(report)
    assert report.stored == report.acked == sum(may for _, may in expected)
