"""A password that was refused is not sent again and again."""

import socket

import pytest

from mountd.errors import SignInRefused, Unreachable
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.sign_in import AGAIN_S, UNTOLD_S, SignIn
from mountd.sync.retry import Next, what_next
from tests.fakes.fake_clock import FakeClock


def sent(sign_in: SignIn, status: int | None) -> bool:
    """Whether a request went out; it is answered with `status`, None: not at all."""
    try:
        is_try = sign_in.check("GET /")
    except SignInRefused:
        return False
    sign_in.heard(status, is_try=is_try)
    return True


def test_a_wrong_password_is_tried_seven_times_in_twelve_hours_at_the_most() -> None:
    clock = FakeClock()
    sign_in = SignIn(clock)
    assert sent(sign_in, 207)
    tries = 0
    for _ in range(12 * 3600 // 10):
        tries += sent(sign_in, 401)
        clock.advance(10.0)
    assert tries == 6
    assert sign_in.is_refused


def test_who_was_never_let_in_is_refused_for_half_an_hour() -> None:
    clock = FakeClock()
    sign_in = SignIn(clock)
    assert sent(sign_in, 401)
    clock.advance(AGAIN_S[1] - 1)
    assert not sent(sign_in, 207)
    clock.advance(1)
    assert sent(sign_in, 207)
    assert sent(sign_in, 207)


def test_a_single_401_in_between_costs_half_a_minute() -> None:
    clock = FakeClock()
    sign_in = SignIn(clock)
    assert sent(sign_in, 404)
    assert sent(sign_in, 401)
    assert not sent(sign_in, 207)
    clock.advance(AGAIN_S[0])
    assert sent(sign_in, 207)
    assert not sign_in.is_refused


def test_those_under_way_at_the_first_401_count_as_one_and_one_alone_tries_again() -> None:
    clock = FakeClock()
    sign_in = SignIn(clock)
    assert sent(sign_in, 207)
    for _ in range(5):
        sign_in.check("GET /")
    for _ in range(5):
        sign_in.heard(401)
    clock.advance(AGAIN_S[0])
    sign_in.check("GET /")
    with pytest.raises(SignInRefused, match="not asked"):
        sign_in.check("GET /")
    sign_in.heard(401)
    clock.advance(AGAIN_S[1] - 1)
    assert not sent(sign_in, 207)


@pytest.mark.parametrize("status", [302, 403, 429, 500, 503])
def test_an_answer_that_anybody_gets_proves_nothing(status: int) -> None:
    clock = FakeClock()
    sign_in = SignIn(clock)
    assert sent(sign_in, 401)
    clock.advance(AGAIN_S[1])
    assert sent(sign_in, status)
    assert sign_in.is_refused


def test_a_change_that_met_a_401_stays_in_the_queue() -> None:
    for is_well in (True, False):
        assert what_next(SignInRefused("x"), remote_is_well=is_well) is Next.AGAIN


@pytest.mark.parametrize("status", [None, 500, 503])
def test_a_try_that_tells_nothing_is_not_taken_for_another_refusal(status: int | None) -> None:
    clock = FakeClock()
    sign_in = SignIn(clock)
    assert sent(sign_in, 207)
    assert sent(sign_in, 401)
    clock.advance(AGAIN_S[0])
    for _ in range(3):
        assert sent(sign_in, status)
        assert not sent(sign_in, 207)
        clock.advance(UNTOLD_S)
    assert sent(sign_in, 401)
    clock.advance(AGAIN_S[1] - 1)
    assert not sent(sign_in, 207)
    clock.advance(1)
    assert sent(sign_in, 207)
    assert not sign_in.is_refused


def test_a_try_without_a_connection_tells_nothing() -> None:
    clock = FakeClock()
    sign_in = SignIn(clock)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # nobody listens there
        pool = HttpPool(f"http://127.0.0.1:{port}", {}, 1, 5.0, sign_in)
        assert sent(sign_in, 207)
        assert sent(sign_in, 401)
        clock.advance(AGAIN_S[0])
        for _ in range(2):
            with pytest.raises(Unreachable):
                pool.ask("GET", "/", {})
            clock.advance(UNTOLD_S)
        pool.close()
