//! The tables of the tests' databases.

/// Everything that types, keys and references can do to a mover.
pub(crate) const TABLES: &str = "
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE DOMAIN positive AS numeric(12, 3) CHECK (VALUE > 0);
CREATE TABLE accounts (
    tenant_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    mood mood,
    price positive,
    big text,
    tags text[],
    doc jsonb,
    seen timestamptz,
    raw bytea,
    ratio double precision,
    doubled numeric GENERATED ALWAYS AS (price * 2) STORED,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE entries (
    tenant_id text NOT NULL,
    account bigint NOT NULL,
    n bigserial,
    amount numeric,
    PRIMARY KEY (tenant_id, account, n),
    FOREIGN KEY (tenant_id, account) REFERENCES accounts (tenant_id, id)
);
CREATE TABLE \"Odd \"\" name\" (
    \"the key\" text,
    tenant_id text,
    value text,
    PRIMARY KEY (tenant_id, \"the key\")
) PARTITION BY HASH (\"the key\");
CREATE TABLE odd_0 PARTITION OF \"Odd \"\" name\" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE odd_1 PARTITION OF \"Odd \"\" name\" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
";

/// The same tables for one tenant: a schema of its own is made as this one.
pub(crate) const TEMPLATE: &str = "
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE DOMAIN positive AS numeric(12, 3) CHECK (VALUE > 0);
CREATE SCHEMA cellway_template;
SET search_path = cellway_template, public;
CREATE TABLE accounts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    mood mood,
    price positive,
    big text,
    tags text[],
    doc jsonb,
    seen timestamptz,
    raw bytea,
    ratio double precision,
    doubled numeric GENERATED ALWAYS AS (price * 2) STORED
);
CREATE TABLE entries (
    account bigint NOT NULL REFERENCES accounts,
    n bigserial,
    amount numeric,
    PRIMARY KEY (account, n)
);
CREATE TABLE \"Odd \"\" name\" (\"the key\" text PRIMARY KEY, value text) PARTITION BY HASH (\"the key\");
CREATE TABLE odd_0 PARTITION OF \"Odd \"\" name\" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE odd_1 PARTITION OF \"Odd \"\" name\" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
RESET search_path;
";
