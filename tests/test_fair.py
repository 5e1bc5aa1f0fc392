"""Who gets the next page: by priority, then inbox by inbox, then in the order of asking; and no slot is ever lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.fair import PageSlots


class Pages:
    """Requests for slots, with what has become of them."""

    def __init__(self, capacity: int) -> None:
        self.slots = PageSlots(capacity)
        #: Names in the order in which they were served.
        self.served: list[str] = []
        self.asking: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, inbox: str = "a", priority: int = 0) -> None:
        """Begin to wait for a slot."""

        async def wait() -> None:
            await self.slots.acquire(inbox, priority)
            self.served.append(name)

        self.asking[name] = asyncio.create_task(wait())
        await settle()

    async def release(self) -> None:
        """A page is finished."""
        self.slots.release()
        await settle()

    async def cancel(self, name: str) -> None:
        """A request is given up."""
        self.asking[name].cancel()
        await asyncio.wait([self.asking[name]])


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


#: Name -> who asks, as (name, inbox, priority), while the only slot is taken; and the order in which they are served.
ORDERS: dict[str, tuple[list[tuple[str, str, int]], str]] = {
    "in the order of asking": ([("1", "a", 0), ("2", "a", 0), ("3", "a", 0)], "123"),
    "inboxes in turn": ([("1", "a", 0), ("2", "a", 0), ("3", "a", 0), ("x", "b", 0), ("y", "b", 0)], "1x2y3"),
    "three inboxes": (
        [("1", "a", 0), ("2", "a", 0), ("x", "b", 0), ("y", "b", 0), ("p", "c", 0), ("q", "c", 0)], "1xp2yq",
    ),
    "higher priority first": ([("1", "a", 0), ("x", "b", 5), ("y", "b", 5), ("p", "c", -1)], "xy1p"),
    "turns within a priority": ([("1", "a", 5), ("2", "a", 5), ("x", "b", 5), ("p", "c", 0)], "1x2p"),
}  # fmt: skip


@pytest.mark.parametrize(("asking", "order"), ORDERS.values(), ids=ORDERS)
async def test_orders(asking: list[tuple[str, str, int]], order: str) -> None:
    """Slots are given one by one as the table says."""
    pages = Pages(1)
    await pages.ask("first")
    for name, inbox, priority in asking:
        await pages.ask(name, inbox, priority)
    for _ in asking:
        await pages.release()
    assert pages.served == ["first", *order]


async def test_a_short_document_passes_a_long_one() -> None:
    """Two documents of one inbox that ask page by page take turns: the short one is not held up by the long one."""
    slots, order = PageSlots(1), list[str]()

    async def read(name: str, count: int) -> None:
        for _ in range(count):
            await slots.acquire("a")
            order.append(name)
            await asyncio.sleep(0)
            slots.release()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read("long", 50))
        tasks.create_task(read("short", 3))
    assert order.index("short") <= 1
    assert len(order) - 1 - order[::-1].index("short") <= 6


async def test_as_many_pages_as_capacity_are_in_flight() -> None:
    """Requests beyond the capacity wait, and a free slot is taken at once."""
    pages = Pages(2)
    for name in "1234":
        await pages.ask(name)
    assert (pages.served, pages.slots.in_flight, pages.slots.waiting) == (["1", "2"], 2, 2)
    for _ in range(4):
        await pages.release()
    assert (pages.served, pages.slots.in_flight, pages.slots.waiting) == (["1", "2", "3", "4"], 0, 0)


async def test_a_cancelled_request_holds_nothing() -> None:
    """One that is given up while it waits is passed over and counts no more."""
    pages = Pages(1)
    for name in "123":
        await pages.ask(name)
    await pages.cancel("2")
    assert pages.slots.waiting == 1
    await pages.release()
    assert pages.served == ["1", "3"]


async def test_a_request_that_is_cancelled_as_its_slot_comes_gives_it_on() -> None:
    """A slot that was granted in the moment of the cancellation goes to the next one."""
    pages = Pages(1)
    for name in "123":
        await pages.ask(name)
    pages.slots.release()  # grants it to 2, which has not run yet
    await pages.cancel("2")
    await settle()
    assert pages.served == ["1", "3"]
    assert pages.slots.in_flight == 1


async def test_at_a_stop_everyone_is_let_go() -> None:
    """Whoever waits is woken over capacity; once all have left, everything is as in the beginning."""
    pages = Pages(1)
    for name in "1234":
        await pages.ask(name)
    pages.slots.let_all_go()
    await settle()
    assert (sorted(pages.served), pages.slots.in_flight) == (["1", "2", "3", "4"], 4)
    for _ in range(4):
        await pages.release()
    assert (pages.slots.in_flight, pages.slots.busy_since) == (0, None)


async def test_busy_since_tells_the_first_page_in_flight() -> None:
    """It stays as long as any page is in flight and ends with the last."""
    pages = Pages(2)
    assert pages.slots.busy_since is None
    await pages.ask("1")
    since = pages.slots.busy_since
    assert since is not None
    await pages.ask("2")
    await pages.release()
    assert pages.slots.busy_since == since
    await pages.release()
    assert pages.slots.busy_since is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("ab"), st.integers(0, 1)),
        st.tuples(st.just("release"), st.none(), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.none()),
        st.tuples(st.just("release and cancel"), st.integers(0, 30), st.none()),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 3))
@settings(max_examples=150)
def test_cancellation_leaks_no_slot(steps: list[tuple[str, Any, Any]], capacity: int) -> None:
    """In any order of asking, finishing and giving up: never more than capacity, and never one too few."""
    asyncio.run(_never_leaks(steps, capacity))


async def _never_leaks(steps: list[tuple[str, Any, Any]], capacity: int) -> None:
    pages, given_up, finished = Pages(capacity), set[str](), 0
    for number, (kind, value, priority) in enumerate(steps):
        waiting = [name for name, task in pages.asking.items() if not task.done()]
        if kind == "ask":
            await pages.ask(str(number), value, priority)
        if kind.startswith("release") and len(pages.served) > finished:
            finished += 1
            pages.slots.release()
        if kind.endswith("cancel") and waiting:
            name = waiting[value % len(waiting)]
            await pages.cancel(name)
            given_up.add(name)
        await settle()
        given_up -= set(pages.served)
        held = len(pages.served) - finished
        left = len(pages.asking) - len(pages.served) - len(given_up)
        assert pages.slots.in_flight == held <= capacity
        assert pages.slots.waiting == left
        assert left == 0 or held == capacity
    while len(pages.served) > finished:
        finished += 1
        await pages.release()
    assert pages.slots.in_flight == 0
    assert set(pages.served) | given_up == set(pages.asking)
