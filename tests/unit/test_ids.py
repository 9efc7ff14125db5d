from sessile.wire import ids


def test_an_input_keeps_the_tail_of_its_id_when_it_gets_its_place() -> None:
    waiting = ids.waiting_id()
    placed = ids.placed_id(waiting, 7)
    assert (ids.sequence_of(placed), len(placed)) == (7, len(ids.event_id(7)))
    assert (ids.is_waiting(waiting), ids.is_waiting(placed)) == (True, False)
    assert ids.is_same_input(placed, waiting)
    assert not ids.is_same_input(ids.event_id(7), waiting)


def test_an_id_that_waits_sorts_behind_all_that_have_a_place() -> None:
    assert ids.event_id(1) < ids.event_id(2**39) < ids.waiting_id()
