"""What programs do with psycopg2; prints what came of it."""
import io
import select

import psycopg2
import psycopg2.extensions
import psycopg2.extras

con = psycopg2.connect("")
print(con.server_version // 10000 > 0, con.encoding, con.info.ssl_in_use)
cur = con.cursor()
cur.execute("SELECT customer, amount FROM orders WHERE id = %s", (7,))
print(cur.fetchall())
try:
    cur.execute("SELECT 1/0")
except psycopg2.Error as e:
    print(e.pgcode, e.diag.message_primary)
print(con.info.transaction_status)
con.rollback()
cur.execute("CREATE TEMPORARY TABLE copied (id int, name text)")
cur.copy_expert("COPY copied FROM STDIN", io.StringIO("".join(f"{i}\tname {i}\n" for i in range(30000))))
out = io.StringIO()
cur.copy_expert("COPY copied TO STDOUT", out)
print(cur.rowcount, len(out.getvalue()))
psycopg2.extras.execute_values(cur, "INSERT INTO copied VALUES %s", [(i, "x") for i in range(500)])
with con.cursor(name="server_side") as named:  # a cursor of the server's
    named.itersize = 100
    named.execute("SELECT id FROM generate_series(1, 5000) id")
    print(sum(r[0] for r in named))
big = con.lobject(0, "wb")
big.write(b"\x00\xff" * 100000)
oid = big.oid
big.close()
big = con.lobject(oid, "rb")
print(len(big.read()))
big.unlink()
cur.execute("DO $$ BEGIN RAISE WARNING 'look'; END $$")
print([n.strip() for n in con.notices])
con.commit()

con.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
cur.execute("LISTEN news; NOTIFY news, 'hello'")
while not con.notifies:
    select.select([con], [], [], 10)
    con.poll()
print(con.notifies[0].channel, con.notifies[0].payload)
cur.execute("SET statement_timeout = 50")
try:
    cur.execute("SELECT pg_sleep(20)")
except psycopg2.Error as e:
    print(e.pgcode, type(e).__name__)
con.close()
