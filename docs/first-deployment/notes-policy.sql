-- Once the cell has been started: `cellway.tenant()` is the tenant that `enter` or `look` has named in this transaction.
SET ROLE cell;
CREATE POLICY of_its_tenant ON notes USING (tenant_id = cellway.tenant());
