-- As `tables.sql`, without whose a row is.
-- What was delivered of a product is what is on hand and what was ordered.
CREATE TABLE IF NOT EXISTS cellway_template.customers (
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    orders bigint NOT NULL DEFAULT 0,
    owes numeric(16, 2) NOT NULL DEFAULT 0,
    PRIMARY KEY (id)
);
CREATE TABLE IF NOT EXISTS cellway_template.products (
    id bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    price numeric(10, 2) NOT NULL,
    delivered bigint NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE IF NOT EXISTS cellway_template.stock (
    product bigint NOT NULL,
    on_hand bigint NOT NULL CHECK (on_hand >= 0),
    PRIMARY KEY (product),
    FOREIGN KEY (product) REFERENCES cellway_template.products
);
CREATE TABLE IF NOT EXISTS cellway_template.orders (
    id bigint GENERATED ALWAYS AS IDENTITY,
    customer bigint NOT NULL,
    reference text NOT NULL,
    total numeric(16, 2) NOT NULL DEFAULT 0,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id),
    FOREIGN KEY (customer) REFERENCES cellway_template.customers
);
CREATE INDEX IF NOT EXISTS orders_of_customer ON cellway_template.orders (customer);
-- A line's number is the sequence's: no two lines of a tenant have the same one, though no index asks for it.
CREATE TABLE IF NOT EXISTS cellway_template.order_lines (
    order_id bigint NOT NULL,
    id bigserial,
    product bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    price numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_id, id),
    FOREIGN KEY (order_id) REFERENCES cellway_template.orders ON DELETE CASCADE,
    FOREIGN KEY (product) REFERENCES cellway_template.products
);
CREATE INDEX IF NOT EXISTS lines_of_product ON cellway_template.order_lines (product);
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA cellway_template TO cellway_documents;
GRANT USAGE ON SEQUENCE cellway_template.order_lines_id_seq TO cellway_documents;
