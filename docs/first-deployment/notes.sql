-- The database of one cell: its agent's role with the rights that docs/postgresql.md asks for, the application's role, and its table.
CREATE ROLE cell LOGIN REPLICATION BYPASSRLS;
GRANT SET ON PARAMETER session_replication_role TO cell;
GRANT pg_read_all_stats TO cell;
CREATE ROLE notes LOGIN;
ALTER DATABASE notes OWNER TO cell;

SET ROLE cell;
CREATE TABLE notes (
    tenant_id text NOT NULL,
    name      text NOT NULL,
    body      text NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO notes;
-- Until there is a policy nobody but the agent sees a row.
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
