"""A model in another process knows without waiting whether its reader has room."""

from penstock_runtime.isolation.window import Window


def test_a_window_has_room_until_it_is_used_up_and_when_nobody_waits() -> None:
    """As `take` would find it."""
    window = Window(2)

    seen = [window.has_room]
    assert window.take(0)
    assert window.take(0)
    seen.append(window.has_room)
    assert not window.take(0)
    window.add(1)
    seen.append(window.has_room)
    assert window.take(0)
    window.end()
    seen.append(window.has_room)

    assert seen == [True, False, True, True]
