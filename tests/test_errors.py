"""What engine.errors promises: each error says code, status and whose move is next, as the protocol has it."""

import pytest

from engine.errors import (
    AuthError,
    BadRequest,
    Discontinuity,
    JournalCorrupted,
    JournalUnavailable,
    LimitExceeded,
    PublishRejected,
    PubSubError,
    StartupFailed,
)


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (PubSubError("x"), 50000, 500),
        (PubSubError("x", code=50004, status=503), 50004, 503),
        (PubSubError("x", code=90003, status=404), 90003, 404),
        (PubSubError("x", code=80018), 80018, 400),
        (BadRequest("x"), 40000, 400),
        (BadRequest("x", code=40010), 40010, 400),
        (BadRequest("x", code=40400), 40400, 404),
        (BadRequest("x", code=80018), 80018, 400),
        (AuthError("x"), 40100, 401),
        (AuthError("x", code=40142), 40142, 401),
        (AuthError("x", code=40120), 40120, 401),
        (LimitExceeded("x"), 42910, 429),
        (LimitExceeded("x", code=90010, status=400), 90010, 400),
        (LimitExceeded("x", code=40009), 40009, 400),
        (PublishRejected("x", code=40031, status=400), 40031, 400),
        (Discontinuity("room", 5, 9), 90003, 404),
        (JournalUnavailable("the disk is full"), 50003, 503),
        (JournalCorrupted("room", "crc"), 50001, 500),
        (StartupFailed("x"), 50000, 500),
    ],
)
def test_an_error_has_the_code_and_status_that_the_client_sees(error: PubSubError, code: int, status: int) -> None:
    assert error.info() == {"code": code, "statusCode": status, "message": str(error)}
    assert (error.code, error.status) == (code, status)


def test_one_errors_code_does_not_stick_to_its_class() -> None:
    BadRequest("x", code=40400)
    assert (BadRequest("x").code, BadRequest("x").status) == (40000, 400)


def test_a_discontinuity_says_where_reading_may_go_on() -> None:
    lag = Discontinuity("room", 5, 9)
    assert lag.evicted == 9
    assert str(lag) == "room: entries between 5 and 9 are no longer held"
