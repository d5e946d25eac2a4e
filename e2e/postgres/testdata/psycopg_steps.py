"""What programs do with psycopg 3; prints what came of it."""
import asyncio
import logging

import psycopg
from psycopg import sql

logging.disable()  # what it warns of depends on when an answer comes

with psycopg.connect("") as con:
    print(con.info.encoding, con.pgconn.ssl_in_use)
    for binary in False, True:
        cur = con.cursor(binary=binary)
        for i in range(8):  # prepared after five times
            cur.execute("SELECT customer, amount, placed FROM orders WHERE id = %s", (i + 1,))
            print(cur.fetchone())
        print(con.execute("SELECT %s::int[], %b", ([1, None, 3], b"\x00\xff")).fetchone())
    try:
        with con.transaction():
            con.execute("SELECT 1/0")
    except psycopg.Error as e:
        print(e.sqlstate, e.diag.message_primary, con.info.transaction_status)

    con.execute("CREATE TEMPORARY TABLE copied (id int, name text)")
    with con.cursor() as cur:
        with cur.copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for i in range(5000):
                copy.write_row((i, f"name {i}"))
        with cur.copy("COPY copied TO STDOUT") as copy:
            print(sum(len(block) for block in copy))
        try:
            with cur.copy("COPY copied FROM STDIN") as copy:
                copy.write("1\tone\n")
                raise ValueError("the program gives up")
        except psycopg.Error as e:
            print(e.sqlstate, con.info.transaction_status)
    con.rollback()

    with con.pipeline() as p:
        cursors = [con.cursor() for _ in range(10)]
        for i, cur in enumerate(cursors):
            cur.execute("SELECT %s::int * 2", (i,))
        p.sync()
        print([cur.fetchone()[0] for cur in cursors])
    con.rollback()
    try:
        with con.pipeline():
            for n in 1, 0, 3:
                con.execute("SELECT 1/%s", (n,))
    except psycopg.Error as e:
        print(e.sqlstate, type(e).__name__)
    con.rollback()
    print(con.execute("SELECT 'usable'").fetchone())
    with con.cursor() as cur:
        total = 0
        for row in cur.stream("SELECT id FROM generate_series(1, 20000) id"):  # row by row
            total += row[0]
        print(total)
    con.rollback()
    print(con.execute(sql.SQL("SELECT {}").format(sql.Literal("it's"))).fetchone())


async def concurrent():
    async with await psycopg.AsyncConnection.connect("", autocommit=True) as con:
        sleeping = asyncio.create_task(con.execute("SELECT pg_sleep(20)"))
        async with await psycopg.AsyncConnection.connect("", autocommit=True) as other:
            found = 0
            while not found:
                cur = await other.execute("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(20)' AND state = 'active'")
                (found,) = await cur.fetchone()
        con.cancel()
        try:
            await sleeping
        except psycopg.Error as e:
            print(e.sqlstate, e.diag.message_primary)


asyncio.run(concurrent())
