DO $$
DECLARE
    of text;
BEGIN
    FOREACH of IN ARRAY ARRAY['documents', 'counters', 'answers', 'tallies'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', of);
        IF NOT EXISTS (SELECT 1 FROM pg_policies WHERE tablename = of AND policyname = 'of_its_tenant') THEN
            EXECUTE format('CREATE POLICY of_its_tenant ON %I USING (tenant_id = cellway.tenant())', of);
        END IF;
    END LOOP;
END $$;
