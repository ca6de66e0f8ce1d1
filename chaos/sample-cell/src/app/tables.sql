CREATE TABLE IF NOT EXISTS documents (
    tenant_id text NOT NULL,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE IF NOT EXISTS counters (
    tenant_id text NOT NULL,
    name text NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
-- Answers to writes with an Idempotency-Key. They are tenants' rows like any other, and move with them.
CREATE TABLE IF NOT EXISTS answers (
    tenant_id text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    version bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    answer text NOT NULL,
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (tenant_id, version);
CREATE TABLE IF NOT EXISTS tallies (
    tenant_id text PRIMARY KEY,
    version bigint NOT NULL
);
GRANT USAGE ON SCHEMA public TO cellway_documents;
GRANT SELECT, INSERT, UPDATE, DELETE ON documents, counters, answers, tallies TO cellway_documents;
