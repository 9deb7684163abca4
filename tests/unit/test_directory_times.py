"""When names in directories were changed here, in bounded memory."""

from mountd.fusefs.directory_times import MOST_KEPT, DirectoryTimes


def test_a_directory_in_which_names_go_on_changing_is_not_as_old_as_before() -> None:
    """It was the first one that was noted, and so the first to go: with the time that it had had,
    programs would believe that nothing is new in it."""
    times = DirectoryTimes()
    for number in range(2 * MOST_KEPT):
        times.changed(number + 2, 1000 + number)
        times.changed(1, 1000 + number)
    assert times.of(1, 5) == 1000 + 2 * MOST_KEPT - 1
    assert times.of(2, 5) == 5
    times.dated(1)
    assert times.of(1, 5) == 5


def test_what_is_known_otherwise_holds_where_it_is_later() -> None:
    times = DirectoryTimes()
    times.changed(7, 1000)
    assert (times.of(7, 999), times.of(7, 1001), times.of(8, 1)) == (1000, 1001, 1)
