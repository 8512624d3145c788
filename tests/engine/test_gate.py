"""Who is next."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.engine.gate import Gate


async def enter(gate: Gate, owner: str, order: list[str], go: asyncio.Event, most: int | None = None) -> None:
    async with gate.slot(owner, owner, most):
        order.append(owner)
        await go.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_owners_take_turns_however_many_requests_one_has() -> None:
    gate, order = Gate(1), list[str]()
    goes = [asyncio.Event() for _ in range(6)]
    tasks = []
    for owner, go in zip("aaaabc", goes, strict=True):
        tasks.append(asyncio.create_task(enter(gate, owner, order, go)))
        await settle()
    assert (gate.held, gate.waiting) == (1, 5)
    for go in goes:
        go.set()
    await asyncio.gather(*tasks)
    assert "".join(order) == "aabcaa" and (gate.held, gate.waiting, gate.free) == (0, 0, 1)


async def test_an_owner_at_its_quota_does_not_hold_up_others() -> None:
    gate, order, go = Gate(3), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(enter(gate, owner, order, go, 1 if owner == "a" else None)) for owner in "aaab"]
    await settle()
    assert sorted(order) == ["a", "b"] and gate.waiting == 2
    go.set()
    await asyncio.gather(*tasks)
    assert order.count("a") == 3 and gate.free == 3


async def test_a_quota_is_of_a_key_not_of_its_owner() -> None:
    gate, inside, go = Gate(9), list[str](), asyncio.Event()

    async def one(key: str, most: int | None) -> None:
        async with gate.slot("owner", key, most):
            inside.append(key)
            await go.wait()

    tasks = [asyncio.create_task(one(key, most)) for key, most in [("k", 1), ("k", 1), ("l", 2), ("l", 2), ("m", None)]]
    await settle()
    assert sorted(inside) == ["k", "l", "l", "m"]
    go.set()
    await asyncio.gather(*tasks)
    assert inside.count("k") == 2 and gate.held == 0


async def test_who_gives_up_leaves_no_slot_taken() -> None:
    gate, order, go = Gate(1), list[str](), asyncio.Event()
    first, second, third = (asyncio.create_task(enter(gate, owner, order, go)) for owner in "abc")
    await settle()
    second.cancel()
    await settle()
    assert gate.waiting == 1
    go.set()
    await settle()
    await asyncio.gather(first, third)
    third_late = asyncio.create_task(enter(gate, "d", order, asyncio.Event()))
    await settle()
    third_late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await third_late
    assert order == ["a", "c", "d"] and gate.free == 1 and gate.held == 0


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_slots_are_never_lost_nor_doubled(slots: int, work: list[tuple[str, bool]]) -> None:
    async def main() -> None:
        gate, inside, most = Gate(slots), 0, 0

        async def one(owner: str) -> None:
            nonlocal inside, most
            async with gate.slot(owner, owner, 2):
                inside += 1
                most = max(most, inside)
                try:
                    await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks = []
        for owner, given_up in work:
            tasks.append(asyncio.create_task(one(owner)))
            await asyncio.sleep(0)
            if given_up:
                tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= slots and (gate.free, gate.held, gate.waiting) == (slots, 0, 0)

    asyncio.run(main())
