CREATE SCHEMA IF NOT EXISTS cellway;

-- One row: what of this file was run last.
CREATE TABLE IF NOT EXISTS cellway.installed (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    digest text NOT NULL
);

-- One row: whose database this is.
CREATE TABLE IF NOT EXISTS cellway.agent (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    cell text NOT NULL,
    generation bigint NOT NULL,
    lineage bigint NOT NULL,
    term bigint NOT NULL
);

-- Its generation once more, in a row that changes only when an agent takes the place of another one: whatever is written expects it,
-- and holds it until that is durable. The leader's term is in nobody's way.
CREATE TABLE IF NOT EXISTS cellway.incarnation (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    generation bigint NOT NULL
);

-- How its tenants are told apart. It was always so before anything else was possible.
ALTER TABLE cellway.agent ADD COLUMN IF NOT EXISTS layout text NOT NULL DEFAULT 'shared';

-- While what exists is adopted: writers of tenants that nobody has granted are let in, and noted.
ALTER TABLE cellway.agent ADD COLUMN IF NOT EXISTS observe boolean NOT NULL DEFAULT false;
CREATE TABLE IF NOT EXISTS cellway.observed (
    tenant text PRIMARY KEY,
    first_at timestamptz NOT NULL DEFAULT now(),
    writer text NOT NULL
);

-- What writers check. Changes only when ownership does, so that nobody who holds a row lock on it is disturbed.
CREATE TABLE IF NOT EXISTS cellway.grants (
    tenant text PRIMARY KEY,
    uid bigint NOT NULL,
    epoch bigint NOT NULL,
    role text NOT NULL
);

-- What the agent knows of a tenant.
CREATE TABLE IF NOT EXISTS cellway.controls (
    tenant text PRIMARY KEY,
    control bytea NOT NULL
);

-- And how often that has changed: a database that was put back to an older state is known by it.
ALTER TABLE cellway.controls ADD COLUMN IF NOT EXISTS number bigint NOT NULL DEFAULT 0;

-- Where each tenant has a database of its own: which one, and what its agent knew of it when it last answered. A database that
-- has less than that is not the one that it was.
CREATE TABLE IF NOT EXISTS cellway.databases (
    tenant text PRIMARY KEY,
    name text NOT NULL UNIQUE,
    oid oid,
    stage text NOT NULL CHECK (stage IN ('making', 'ready', 'dropping')),
    uid bigint,
    epoch bigint,
    role text,
    number bigint NOT NULL,
    control bytea
);

-- How far the rows of a tenant go.
CREATE TABLE IF NOT EXISTS cellway.copies (
    tenant text PRIMARY KEY,
    applied bigint NOT NULL,
    frontier bytea NOT NULL
);

-- And how fast they may come, in bytes a second; 0: as fast as it goes.
ALTER TABLE cellway.copies ADD COLUMN IF NOT EXISTS bytes_per_second bigint NOT NULL DEFAULT 0;

-- Whatever outlives the agent is written down before it is made.
CREATE TABLE IF NOT EXISTS cellway.made (
    kind text NOT NULL,
    name text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, name)
);

-- Tenants of whom this database had less than their cell had answered with: it was promoted as a standby that was behind, or put back.
-- Of those that are kept no row is deleted before somebody has looked, and has deleted the line here. `taken`: a tenant that nobody
-- owns since is to be owned with what is there, from the agent's next start on.
CREATE TABLE IF NOT EXISTS cellway.put_back (
    tenant text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    what text NOT NULL,
    kept boolean NOT NULL,
    taken boolean NOT NULL DEFAULT false
);

-- Where this cell took a tenant over by force, in which move: up to here it held what the other cell had done.
CREATE TABLE IF NOT EXISTS cellway.taken (
    tenant text PRIMARY KEY,
    move_id bigint NOT NULL,
    seq bigint NOT NULL
);

-- What this cell alone has of tenants that were taken over: how far it has been put aside, and what the numbers in the changes mean.
CREATE TABLE IF NOT EXISTS cellway.tails (
    tenant text PRIMARY KEY,
    tail bytea NOT NULL,
    tables bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS cellway.tail_changes (
    tenant text NOT NULL,
    seq bigint NOT NULL,
    change bytea NOT NULL,
    PRIMARY KEY (tenant, seq)
);

-- How many transactions of writers that no gate has let in holds of a move have ended.
CREATE TABLE IF NOT EXISTS cellway.ended_writers (
    tenant text PRIMARY KEY,
    move_id bigint NOT NULL,
    ended bigint NOT NULL
);

CREATE OR REPLACE FUNCTION cellway.lock_key(who text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT pg_catalog.hashtextextended(who, 7234017283807667300) $$;

-- Of those who have the lock without a gate.
CREATE OR REPLACE FUNCTION cellway.outside_key(who text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT pg_catalog.hashtextextended(who, 8031170693411369057) $$;

-- The lock first, the grant in a LATER statement: in one statement the snapshot is older than the wait for the lock,
-- and the old grant is read. At REPEATABLE READ and above the snapshot is the transaction's, so the row is locked:
-- that fails if it has changed since.
CREATE OR REPLACE FUNCTION cellway.enter(who text, as_uid bigint DEFAULT NULL, at_epoch bigint DEFAULT NULL)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known cellway.grants%ROWTYPE;
    said text;
BEGIN
    IF who IS NULL THEN
        RAISE EXCEPTION 'NOT_OWNER: no tenant is named' USING ERRCODE = 'CW005';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(cellway.lock_key(who));
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        SELECT * INTO known FROM cellway.grants AS g WHERE g.tenant = who FOR SHARE;
    ELSE
        SELECT * INTO known FROM cellway.grants AS g WHERE g.tenant = who;
    END IF;
    -- What is nearly always so is asked in place: a call would cost more than all the rest.
    IF known.role = 'owner' AND known.uid = as_uid AND known.epoch = at_epoch THEN
        NULL;
    ELSE
        PERFORM cellway.judge(who, as_uid, at_epoch, known);
    END IF;
    -- Whoever names no epoch has come through no gate: a hold that may end such writers knows them by this.
    IF as_uid IS NULL THEN
        PERFORM pg_advisory_xact_lock_shared(cellway.outside_key(who));
    END IF;
    -- Assigned, not performed: an expression is a fifth of the price of a query.
    said := set_config('cellway.tenant', who, true);
    said := set_config('cellway.entered', who || ' ' || pg_current_xact_id()::text, true);
END $$;

-- The first writer of each tenant. Nobody waits for another transaction here: one note is as good as two.
CREATE OR REPLACE FUNCTION cellway.note(who text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_read_only') = 'on'
       OR EXISTS (SELECT 1 FROM cellway.observed AS o WHERE o.tenant = who)
       OR NOT pg_try_advisory_xact_lock(hashtextextended(who, 8026370394861396834)) THEN
        RETURN;
    END IF;
    INSERT INTO cellway.observed (tenant, writer)
    VALUES (who, concat_ws(' ', nullif(current_setting('application_name'), ''), session_user))
    ON CONFLICT DO NOTHING;
END $$;

CREATE OR REPLACE FUNCTION cellway.judge(who text, as_uid bigint, at_epoch bigint, known cellway.grants)
RETURNS void LANGUAGE plpgsql VOLATILE CALLED ON NULL INPUT SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Whoever comes with an epoch comes through a gate: Cellway knows the tenant, and this cell does not own it.
    IF known.tenant IS NULL AND as_uid IS NULL AND (SELECT a.observe FROM cellway.agent AS a) THEN
        PERFORM cellway.note(who);
    ELSIF known.tenant IS NULL OR known.role IN ('none', 'redirect') THEN
        RAISE EXCEPTION 'NOT_OWNER: this cell does not own tenant %', who USING ERRCODE = 'CW005';
    ELSIF known.role = 'deleted' OR as_uid < known.uid THEN
        RAISE EXCEPTION 'TENANT_DELETED: tenant % is deleted', who USING ERRCODE = 'CW006';
    ELSIF known.role = 'fenced' THEN
        RAISE EXCEPTION 'FENCED: tenant % is between two owners', who USING ERRCODE = 'CW003';
    ELSIF known.role = 'importing' THEN
        RAISE EXCEPTION 'IMPORTING: tenant % is being copied to this cell', who USING ERRCODE = 'CW004';
    ELSIF as_uid > known.uid OR at_epoch > known.epoch THEN
        RAISE EXCEPTION 'NOT_YET: the request knows a newer epoch of tenant % than this cell', who
            USING ERRCODE = 'CW002';
    ELSIF at_epoch < known.epoch THEN
        RAISE EXCEPTION 'STALE: the request knows an older epoch of tenant % than this cell', who
            USING ERRCODE = 'CW001';
    ELSIF known.role <> 'owner' THEN
        RAISE EXCEPTION 'NOT_OWNER: this cell is % to tenant %', known.role, who USING ERRCODE = 'CW005';
    END IF;
END $$;

-- For reads: the grant as the transaction sees it, no lock.
CREATE OR REPLACE FUNCTION cellway.look(who text, as_uid bigint DEFAULT NULL, at_epoch bigint DEFAULT NULL)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known cellway.grants%ROWTYPE;
    said text;
BEGIN
    SELECT * INTO known FROM cellway.grants AS g WHERE g.tenant = who;
    -- What is nearly always so is asked in place: a call would cost more than all the rest.
    IF known.role = 'owner' AND known.uid = as_uid AND known.epoch = at_epoch THEN
        NULL;
    ELSE
        PERFORM cellway.judge(who, as_uid, at_epoch, known);
    END IF;
    said := set_config('cellway.tenant', who, true);
END $$;

-- Whose rows a policy of row-level security lets through: of the tenant that the transaction has entered or looks at.
CREATE OR REPLACE FUNCTION cellway.tenant() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT nullif(pg_catalog.current_setting('cellway.tenant', true), '') $$;

-- For writers that do not call enter(). Whoever has entered in this transaction holds the lock already.
CREATE OR REPLACE FUNCTION cellway.guard() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whose text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'TRUNCATE_REFUSED: TRUNCATE of % takes the rows of every tenant', TG_TABLE_NAME
            USING ERRCODE = 'CW007', HINT = 'delete the rows of one tenant after another';
    END IF;
    IF TG_OP <> 'INSERT' THEN
        whose := OLD.{tenant_column}::text;
        IF current_setting('cellway.entered', true) IS DISTINCT FROM whose || ' ' || pg_current_xact_id()::text THEN
            PERFORM cellway.fence_check(whose);
        END IF;
    END IF;
    IF TG_OP <> 'DELETE' AND whose IS DISTINCT FROM NEW.{tenant_column}::text THEN
        IF TG_OP = 'UPDATE' THEN
            RAISE EXCEPTION 'TENANT_CHANGED: a row of % is never handed from one tenant to another', TG_TABLE_NAME
                USING ERRCODE = 'CW008', HINT = 'delete the row and insert it anew, each in its own tenant';
        END IF;
        whose := NEW.{tenant_column}::text;
        IF current_setting('cellway.entered', true) IS DISTINCT FROM whose || ' ' || pg_current_xact_id()::text THEN
            PERFORM cellway.fence_check(whose);
        END IF;
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END $$;

-- The same on a table in a tenant's own schema, whose name the trigger gives: nobody's rows but its own are there, so
-- TRUNCATE is a write like any other.
CREATE OR REPLACE FUNCTION cellway.guard_of() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('cellway.entered', true) IS DISTINCT FROM TG_ARGV[0] || ' ' || pg_current_xact_id()::text THEN
        PERFORM cellway.fence_check(TG_ARGV[0]);
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END $$;

-- The schema with a tenant's tables: its own, or the one that all share.
CREATE OR REPLACE FUNCTION cellway.schema_of(who text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT {schema_of} $$;

-- As enter(), without changing whose rows the transaction sees.
CREATE OR REPLACE FUNCTION cellway.fence_check(who text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    seen text := coalesce(current_setting('cellway.tenant', true), '');
BEGIN
    PERFORM cellway.enter(who);
    PERFORM set_config('cellway.tenant', seen, true);
END $$;

GRANT USAGE ON SCHEMA cellway TO PUBLIC;
REVOKE ALL ON FUNCTION cellway.judge(text, bigint, bigint, cellway.grants) FROM PUBLIC;
REVOKE ALL ON FUNCTION cellway.note(text) FROM PUBLIC;
