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
GRANT USAGE ON SCHEMA cellway_template TO cellway_documents;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA cellway_template TO cellway_documents;
