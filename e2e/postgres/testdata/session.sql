\set VERBOSITY verbose
\set SHOW_CONTEXT always
SELECT 1 AS a; SELECT 'two' AS b;
SELECT 1\; SELECT 2\; SELECT 3;
;
SELECT NULL, '', E'a\nb', 'naïve 漢字 🐘', $tag$it's$tag$;
SELECT 1/0;
SELECT nonsense;
SELEC;
BEGIN;
SELECT 1/0;
SELECT 1;
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO nowhere VALUES (1);
ROLLBACK TO s;
SELECT 'rescued';
COMMIT;
BEGIN\; SELECT 1\; COMMIT\; SELECT 1/0\; SELECT 2;
DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning' USING HINT = 'take it'; RAISE EXCEPTION 'an exception' USING DETAIL = 'why', ERRCODE = 'P0042'; END $$;
CREATE TEMPORARY TABLE t (id int PRIMARY KEY, v text);
COPY t FROM STDIN;
1	one
2	two\ttab
3	\N
\.
COPY t FROM STDIN WITH (FORMAT csv);
4,"quoted, ""so"""
\.
COPY t FROM STDIN;
1	again
\.
COPY t FROM STDIN;
x	no number
\.
COPY t TO STDOUT;
COPY (SELECT * FROM t WHERE false) TO STDOUT;
COPY t TO STDOUT WITH (FORMAT csv, HEADER);
COPY t TO STDOUT\; SELECT 'and more'\; COPY t TO STDOUT;
\copy t to '/dev/null'
SELECT * FROM t ORDER BY id \gdesc
SELECT id, v FROM t ORDER BY id \gx
PREPARE p(int) AS SELECT v FROM t WHERE id = $1;
EXECUTE p(2);
EXECUTE p('x');
DEALLOCATE p;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT generate_series(1, 1000);
FETCH 3 FROM c;
MOVE 900 FROM c;
FETCH BACKWARD 2 FROM c;
CLOSE c;
END;
\set FETCH_COUNT 7
SELECT generate_series(1, 20) AS fetched;
\unset FETCH_COUNT
LISTEN news;
UNLISTEN *;
SELECT lo_from_bytea(0, '\x00ff10') AS loid \gset
SELECT lo_get(:loid);
\lo_unlink :loid
SET statement_timeout = 20;
SELECT pg_sleep(10);
RESET statement_timeout;
SET lock_timeout = 20;
RESET lock_timeout;
SET application_name = 'renamed';
SET client_encoding = 'LATIN1';
SELECT length('é');
RESET client_encoding;
SHOW application_name;
EXPLAIN (COSTS OFF) SELECT * FROM orders WHERE id = 1;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
INSERT INTO orders (customer) VALUES ('x');
ABORT;
CREATE FUNCTION pg_temp.boom(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1/$1; END $$;
SELECT pg_temp.boom(0);
SELECT current_user, session_user, current_database();
DISCARD ALL;
SELECT count(*), sum(amount) FROM orders;
\echo the end
