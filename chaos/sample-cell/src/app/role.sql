-- Whom the application acts as, whatever it is itself: the policies hold for nobody else.
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
