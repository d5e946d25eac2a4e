// What programs do with node-postgres; prints what came of it.
const { Client, Pool } = require('pg');
const QueryStream = require('pg-query-stream');
const fs = require('fs');

const ssl = { ca: fs.readFileSync(process.env.PGSSLROOTCERT), servername: process.env.PGHOST };

async function main() {
  const client = new Client({ ssl });
  const notices = [];
  client.on('notice', (n) => notices.push(n.message));
  await client.connect();
  console.log((await client.query('SELECT customer FROM orders WHERE id = $1', [3])).rows);
  for (let i = 0; i < 3; i++) {
    console.log((await client.query({ name: 'by-id', text: 'SELECT amount FROM orders WHERE id = $1', values: [i + 1] })).rows[0].amount);
  }
  console.log((await client.query("SELECT 1 AS a; SELECT 2 AS b")).map((r) => r.rows));
  await client.query('SELECT 1/$1::int', [0]).catch((e) => console.log(e.code, e.message));
  await client.query('BEGIN');
  await client.query('SELECT nothing').catch((e) => console.log(e.code, e.message));
  await client.query('SELECT 1').catch((e) => console.log(e.code, e.message));
  await client.query('ROLLBACK');
  await client.query("DO $$ BEGIN RAISE NOTICE 'seen'; END $$");
  console.log(notices);
  console.log((await client.query("SELECT $1::bytea AS b, $2::jsonb AS j", [Buffer.from([0, 255]), { a: [1] }])).rows);

  let rows = 0;
  for await (const _ of client.query(new QueryStream('SELECT * FROM generate_series(1, $1::int)', [10000], { batchSize: 100 }))) rows++;
  console.log('streamed', rows);

  const heard = new Promise((resolve) => client.on('notification', (m) => resolve([m.channel, m.payload])));
  await client.query('LISTEN news');
  const pool = new Pool({ ssl, max: 5 });
  await pool.query("NOTIFY news, 'from the pool'");
  console.log(await heard);
  const sums = await Promise.all(Array.from({ length: 20 }, (_, i) => pool.query('SELECT $1::int AS n', [i])));
  console.log(sums.map((r) => r.rows[0].n).join(' '));
  await client.query('SET statement_timeout = 50');
  await client.query('SELECT pg_sleep(20)').catch((e) => console.log(e.code, e.message));
  await pool.end();
  await client.end();
}

main().catch((e) => { console.log('failed', e.code, e.message); process.exit(1); });
