-- As `tables.sql`, without whose a row is: a tenant's own schema is made as this one.
CREATE SCHEMA IF NOT EXISTS cellway_template;
CREATE TABLE IF NOT EXISTS cellway_template.documents (
    id text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    body text NOT NULL
);
CREATE TABLE IF NOT EXISTS cellway_template.counters (
    name text PRIMARY KEY,
    value bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS cellway_template.answers (
    key text PRIMARY KEY,
    fingerprint text NOT NULL,
    version bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    answer text NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_age ON cellway_template.answers (version);
-- One row: what is its key elsewhere is the schema here.
CREATE TABLE IF NOT EXISTS cellway_template.tallies (
    version bigint NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS tallies_one ON cellway_template.tallies ((true));
ALTER TABLE cellway_template.tallies REPLICA IDENTITY FULL;
DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'cellway_documents') THEN
        CREATE ROLE cellway_documents NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$;
-- Who has made a role may not therefore act as it: from PostgreSQL 16 on it is its administrator, and no more.
DO $$ BEGIN
    IF NOT pg_has_role('cellway_documents',
                       CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END) THEN
        GRANT cellway_documents TO CURRENT_USER;
    END IF;
END $$;
GRANT USAGE ON SCHEMA cellway_template TO cellway_documents;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA cellway_template TO cellway_documents;
