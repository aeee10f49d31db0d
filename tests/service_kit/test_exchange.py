"""What every exchange keeps to, whatever carries it; and what PostgreSQL adds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Protocol

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from service_kit.database import Database
from service_kit.events.exchange import Exchange, Hub, LocalExchange, PostgresExchange
from service_kit.events.exchange.frames import from_bytes, to_bytes
from service_kit.events.exchange.member import MOST_BYTES, MOST_MESSAGES
from service_kit.events.exchange.postgres import create_exchange_table
from tests.support.postgres import PostgresServer

FAR = timedelta(hours=1)
IN_TIME_S = 20


class Replica:
    """A member, and what it has heard."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.heard: list[bytes] = []
        self._more = asyncio.Event()
        exchange.listen("t", self._hear)
        self.task = asyncio.create_task(exchange.run())

    def _hear(self, payload: bytes) -> None:
        self.heard.append(payload)
        self._more.set()

    async def until(self, is_enough: Callable[[list[bytes]], bool]) -> list[bytes]:
        """Wait until enough was heard, and return all of it."""
        async with asyncio.timeout(IN_TIME_S):
            while not is_enough(self.heard):
                self._more.clear()
                await self._more.wait()
        return self.heard

    async def until_last(self, payload: bytes) -> list[bytes]:
        return await self.until(lambda heard: heard[-1:] == [payload])

    async def company(self) -> None:
        """Wait until another member is known."""
        async with asyncio.timeout(IN_TIME_S):
            while self.exchange.alone:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.001)

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Join(Protocol):
    async def __call__(self, **options: Any) -> Replica: ...


async def make_table(url: str) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    def create(connection: Connection) -> None:
        create_exchange_table(Operations(MigrationContext.configure(connection)))

    database = Database(url)
    async with database.write() as tx:
        await tx.run_sync(create)
    await database.close()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["local", "postgresql"])
async def join(request: pytest.FixtureRequest) -> AsyncIterator[Join]:
    """Let replicas take part in one exchange."""
    hub = Hub()
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    if url:
        await make_table(url)
    async with AsyncExitStack() as stack:

        async def join(**options: Any) -> Replica:
            replica = Replica(PostgresExchange(make_url(url), "public", **options) if url else LocalExchange(hub))
            stack.push_async_callback(replica.leave)
            return replica

        yield join


async def two(join: Join, **options: Any) -> tuple[Replica, Replica]:
    first, second = await join(**options), await join(**options)
    await first.company()
    await second.company()
    return first, second


async def test_what_one_publishes_all_others_hear_once_and_in_order(join: Join) -> None:
    first, second = await two(join)
    third = await join()
    await third.company()
    sent = []
    for number in range(300):
        sent.append(b"%d" % number)
        first.exchange.publish("t", sent[-1])
        if number % 50 == 7:
            await asyncio.sleep(0.01)
    assert await second.until_last(b"299") == sent
    assert await third.until_last(b"299") == sent
    second.exchange.publish("t", b"back")
    assert await first.until_last(b"back") == [b"back"]
    assert await third.until_last(b"back") == [*sent, b"back"]
    # Everybody has looked again by now.
    assert second.heard == sent


async def test_each_sender_keeps_its_own_order(join: Join) -> None:
    first, second = await two(join)
    third = await join()
    await third.company()
    for number in range(100):
        first.exchange.publish("t", b"a%03d" % number)
        second.exchange.publish("t", b"b%03d" % number)
        await asyncio.sleep(0)
    heard = await third.until(lambda heard: len(heard) >= 200)
    assert [one for one in heard if one[:1] == b"a"] == [b"a%03d" % number for number in range(100)]
    assert [one for one in heard if one[:1] == b"b"] == [b"b%03d" % number for number in range(100)]


async def test_what_waits_gives_way_to_what_is_newer_under_its_key(join: Join) -> None:
    first, second = await two(join)
    for payload, key in ((b"1", "x"), (b"2", "y"), (b"3", None), (b"4", "x"), (b"5", None)):
        first.exchange.publish("t", payload, key=key)
    first.exchange.publish("other", b"6", key="x")
    assert await second.until_last(b"5") == [b"2", b"3", b"4", b"5"]


async def test_what_waits_is_bounded_and_the_newest_is_kept(join: Join) -> None:
    first, second = await two(join)
    for number in range(MOST_MESSAGES + 5):
        first.exchange.publish("t", b"%d" % number)
    heard = await second.until_last(b"%d" % (MOST_MESSAGES + 4))
    assert heard == [b"%d" % number for number in range(5, MOST_MESSAGES + 5)]
    second.heard.clear()
    half = bytes(MOST_BYTES // 2)
    for payload in (b"too old", half, bytes(MOST_BYTES + 1), b"a", half, b"b"):
        first.exchange.publish("t", payload)
    assert await second.until_last(b"b") == [b"a", half, b"b"]


async def test_who_comes_later_hears_only_what_is_said_from_then_on(join: Join) -> None:
    first, second = await two(join)
    first.exchange.publish("t", b"before")
    await second.until_last(b"before")
    third = await join()
    await third.company()
    first.exchange.publish("t", b"after")
    assert await third.until_last(b"after") == [b"after"]
    await second.leave()
    first.exchange.publish("t", b"last")
    await third.until_last(b"last")
    assert second.heard == [b"before", b"after"] or second.heard == [b"before"]


async def test_nobody_keeps_what_nobody_hears(join: Join) -> None:
    first = await join()
    assert first.exchange.alone
    first.exchange.publish("t", b"lost")
    second = await join()
    await first.company()
    await second.company()
    first.exchange.publish("t", b"heard")
    assert await second.until_last(b"heard") == [b"heard"]


async def test_a_listener_that_fails_keeps_nothing_from_the_others(join: Join) -> None:
    first, second = await two(join)

    def fail(_payload: bytes) -> None:
        raise KeyError("broken")

    second.exchange.listen("broken", fail)
    first.exchange.publish("broken")
    first.exchange.publish("unheard of")
    first.exchange.publish("t", b"good")
    assert await second.until_last(b"good") == [b"good"]


def test_messages_come_back_from_a_row_and_nothing_else_is_one() -> None:
    messages = [("t", b"x"), ("übrig", b""), ("t", bytes(70_000))]
    body = to_bytes(messages)
    assert from_bytes(body) == messages
    for broken in (body[:-1], b"\1", body + b"\0\0\0\0\1"):
        with pytest.raises(ValueError, match="row of the exchange"):
            from_bytes(broken)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def url(postgres_url: str) -> str:
    await make_table(postgres_url)
    return postgres_url


@pytest.fixture
def ask(url: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    with psycopg.connect(url, autocommit=True) as connection:

        def ask(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query.encode()).fetchall()

        yield ask


async def replica(stack: AsyncExitStack, url: str, **options: Any) -> Replica:
    made = Replica(PostgresExchange(make_url(url), "public", **options))
    stack.push_async_callback(made.leave)
    return made


async def test_a_first_message_goes_at_once_and_many_go_together(
    url: str, stack: AsyncExitStack, ask: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    first, second = await replica(stack, url, every=FAR), await replica(stack, url)
    await first.company()
    await second.company()
    first.exchange.publish("t", b"at once")
    await second.until_last(b"at once")
    for number in range(100):
        first.exchange.publish("t", b"%d" % number)
        await asyncio.sleep(0)
    assert ask("SELECT max(number) FROM exchange") == [(1,)]


async def test_who_is_far_behind_hears_everything(url: str, stack: AsyncExitStack) -> None:
    """Such as a replica that stood still: it reads many rows at once, and more than at once."""
    first, second = await replica(stack, url, every=timedelta(0)), await replica(stack, url)
    await first.company()
    await second.company()
    with psycopg.connect(url) as locking:
        locking.execute("LOCK TABLE exchange IN ACCESS EXCLUSIVE MODE")
        writer = first.exchange._me  # type: ignore[attr-defined]
        rows = ((writer, number, to_bytes([("t", b"%d" % number)])) for number in range(1, 251))
        statement = "INSERT INTO exchange (writer, number, written_at, body) VALUES (%s, %s, statement_timestamp(), %b)"
        locking.cursor().executemany(statement, rows)
        locking.execute("SELECT pg_notify('atelier_exchange_public', 'somebody')")
    assert await second.until_last(b"250") == [b"%d" % number for number in range(1, 251)]


async def test_without_a_notify_it_is_found_all_the_same(url: str, stack: AsyncExitStack) -> None:
    """A pooler in between, for instance, does not pass notifications on."""
    first = await replica(stack, url, look_anyway=timedelta(milliseconds=20))
    second = await replica(stack, url, look_anyway=timedelta(milliseconds=20))
    first.exchange._channel = "elsewhere"  # type: ignore[attr-defined]
    await first.company()
    await second.company()
    first.exchange.publish("t", b"found")
    assert await second.until_last(b"found") == [b"found"]


async def test_a_connection_that_breaks_is_made_again_and_nothing_is_heard_twice(
    url: str, stack: AsyncExitStack, ask: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    first = await replica(stack, url)
    second = await replica(stack, url)
    await first.company()
    await second.company()
    sent: list[bytes] = []
    for round_number in range(4):
        for _ in range(20):
            sent.append(b"%d" % len(sent))
            first.exchange.publish("t", sent[-1])
            await asyncio.sleep(0)
        await second.until(lambda heard: heard[-1:] == [sent[-1]])
        which = "LIKE 'LISTEN%'" if round_number % 2 else "NOT LIKE 'LISTEN%'"
        ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            f" AND pid <> pg_backend_pid() AND application_name LIKE 'atelier%' AND query {which}"
        )
    first.exchange.publish("t", b"last")
    assert await second.until_last(b"last") == [*sent, b"last"]


async def test_rows_have_their_time(
    url: str, stack: AsyncExitStack, ask: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    long_ago = "statement_timestamp() - interval '1 hour'"
    ask(f"INSERT INTO exchange SELECT 'dead', number, {long_ago}, '' FROM generate_series(0, 9) number RETURNING 1")
    first, second = await replica(stack, url), await replica(stack, url)
    await first.company()
    await second.company()
    assert ask("SELECT count(*) FROM exchange WHERE writer = 'dead'") == [(0,)]
    assert ask("SELECT relpersistence FROM pg_class WHERE relname = 'exchange'") == [("u",)]


async def test_a_killed_server_is_found_again(stack: AsyncExitStack) -> None:
    server = PostgresServer()
    stack.callback(server.remove)
    server.start()
    await make_table(server.url())
    first, second = await replica(stack, server.url()), await replica(stack, server.url())
    await first.company()
    await second.company()
    first.exchange.publish("t", b"before")
    await second.until_last(b"before")
    server.kill()
    first.exchange.publish("t", b"while it was away")
    server.start()

    async def talk() -> None:
        while second.heard[-1:] != [b"after"]:
            first.exchange.publish("t", b"after", key="after")
            await asyncio.sleep(0.02)

    await asyncio.wait_for(talk(), IN_TIME_S)
    assert second.heard.count(b"before") == 1
    assert second.heard.count(b"while it was away") <= 1
