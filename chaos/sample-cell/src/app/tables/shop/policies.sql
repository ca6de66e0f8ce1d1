-- Whose rows there are, and whose a new one is: what the transaction has entered as.
DO $$
DECLARE
    of text;
BEGIN
    FOREACH of IN ARRAY ARRAY['customers', 'products', 'stock', 'orders', 'order_lines'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', of);
        IF NOT EXISTS (SELECT 1 FROM pg_policies WHERE tablename = of AND policyname = 'of_its_tenant') THEN
            EXECUTE format('CREATE POLICY of_its_tenant ON %I USING (tenant_id = cellway.tenant())', of);
        END IF;
        IF NOT EXISTS (SELECT 1 FROM pg_attribute
                        WHERE attrelid = format('%I', of)::regclass AND attname = 'tenant_id' AND atthasdef) THEN
            EXECUTE format('ALTER TABLE %I ALTER tenant_id SET DEFAULT cellway.tenant()', of);
        END IF;
    END LOOP;
END $$;
