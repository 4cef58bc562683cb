-- The app's tables of the benchmarks. lead has 32 columns.
CREATE TABLE lead (
    id bigint PRIMARY KEY, organization_id text NOT NULL,
    text0 text, text1 text, text2 text, text3 text, text4 text, text5 text, text6 text, text7 text, text8 text, text9 text,
    text10 text, text11 text, text12 text, text13 text, text14 text,
    number0 numeric, number1 numeric, number2 numeric, number3 numeric, number4 numeric, number5 numeric, number6 numeric,
    number7 numeric,
    flag0 boolean, flag1 boolean, flag2 boolean, day0 date, day1 date, at0 timestamptz, custom jsonb
) WITH (fillfactor = 45, autovacuum_enabled = false);
-- Its rows are of one transaction, which is large.
CREATE TABLE note (id bigint PRIMARY KEY, organization_id text NOT NULL, body text NOT NULL);
-- Leads of companies, for triggers across a relation.
CREATE TABLE company (id bigint PRIMARY KEY, organization_id text NOT NULL, tier text NOT NULL);
CREATE TABLE deal (
    id bigint PRIMARY KEY, organization_id text NOT NULL, company_id bigint NOT NULL REFERENCES company, status text NOT NULL,
    name text NOT NULL, value numeric NOT NULL
) WITH (fillfactor = 45, autovacuum_enabled = false);
-- An app's own queue.
CREATE TABLE bench_job (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, args jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now());

-- One change of each row, in transactions of so many rows; every nth becomes hot, if n is not 0. The others are
-- changed as much: three columns, to values that triggers wait for, too.
CREATE PROCEDURE change_leads(rows int, per int, nth int, round int) LANGUAGE plpgsql AS $$
DECLARE i int := 0;
BEGIN
  SET synchronous_commit = off; -- only while the backlog is made
  WHILE i < rows LOOP
    IF per = 1 THEN
      UPDATE lead SET text0 = CASE WHEN nth > 0 AND id % nth = 0 THEN 'hot' ELSE 'cold-' || round END,
             text1 = 'value-' || (id * 7 + round) % 50, number2 = -(id + round) % 1000 - 1
       WHERE id = i + 1;
    ELSE
      UPDATE lead SET text0 = CASE WHEN nth > 0 AND id % nth = 0 THEN 'hot' ELSE 'cold-' || round END,
             text1 = 'value-' || (id * 7 + round) % 50, number2 = -(id + round) % 1000 - 1
       WHERE id BETWEEN i + 1 AND i + per;
    END IF;
    COMMIT;
    i := i + per;
  END LOOP;
  RESET synchronous_commit;
END $$;

CREATE PROCEDURE change_deals(rows int, per int, round int) LANGUAGE plpgsql AS $$
DECLARE i int := 0;
BEGIN
  SET synchronous_commit = off;
  WHILE i < rows LOOP
    UPDATE deal SET status = CASE WHEN round % 2 = 0 THEN 'open' ELSE 'won' END, name = 'deal ' || round WHERE id BETWEEN i + 1 AND i + per;
    COMMIT;
    i := i + per;
  END LOOP;
  RESET synchronous_commit;
END $$;
