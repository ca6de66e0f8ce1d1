-- What was delivered of a product is what is on hand and what was ordered.
CREATE TABLE IF NOT EXISTS customers (
    tenant_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    orders bigint NOT NULL DEFAULT 0,
    owes numeric(16, 2) NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE IF NOT EXISTS products (
    tenant_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    price numeric(10, 2) NOT NULL,
    delivered bigint NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE TABLE IF NOT EXISTS stock (
    tenant_id text NOT NULL,
    product bigint NOT NULL,
    on_hand bigint NOT NULL CHECK (on_hand >= 0),
    PRIMARY KEY (tenant_id, product),
    FOREIGN KEY (tenant_id, product) REFERENCES products
);
CREATE TABLE IF NOT EXISTS orders (
    tenant_id text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    customer bigint NOT NULL,
    reference text NOT NULL,
    total numeric(16, 2) NOT NULL DEFAULT 0,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, customer) REFERENCES customers
);
CREATE INDEX IF NOT EXISTS orders_of_customer ON orders (tenant_id, customer);
-- A line's number is the sequence's: no two lines of a tenant have the same one, though no index asks for it.
CREATE TABLE IF NOT EXISTS order_lines (
    tenant_id text NOT NULL,
    order_id bigint NOT NULL,
    id bigserial,
    product bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    price numeric(10, 2) NOT NULL,
    PRIMARY KEY (tenant_id, order_id, id),
    FOREIGN KEY (tenant_id, order_id) REFERENCES orders ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, product) REFERENCES products
);
CREATE INDEX IF NOT EXISTS lines_of_product ON order_lines (tenant_id, product);
GRANT SELECT, INSERT, UPDATE, DELETE ON customers, products, stock, orders, order_lines TO cellway_documents;
GRANT USAGE ON SEQUENCE order_lines_id_seq TO cellway_documents;
