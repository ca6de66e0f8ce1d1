//! Books that are in order, and then each kind of disorder.

use super::*;
use crate::shop::books::{Customer, Line, Product};

const TENANT: &str = "acme";

fn deed(what: What, told: Told) -> Deed {
    Deed { tenant: TENANT.into(), what, told, returned: 0, failed: false }
}

fn ordered(reference: &str, lines: &[(i64, i64)], told: Told) -> Deed {
    deed(What::Order { reference: reference.into(), customer: 1, lines: lines.to_vec() }, told)
}

fn made(id: i64, lines: &[i64]) -> Told {
    Told::Made { id, lines: lines.to_vec() }
}

fn unknown() -> Told {
    Told::Unknown { reason: "cut".into() }
}

fn line(id: i64, product: i64, amount: i64) -> Line {
    Line { id, product, amount, price_cents: 10 }
}

fn order(id: i64, reference: &str, lines: Vec<Line>) -> Order {
    let total_cents = lines.iter().map(|line| line.amount * line.price_cents).sum();
    Order { id, reference: reference.into(), customer: Some(1), total_cents, lines }
}

/// One customer, two products; orders 1 and 3 are there, 2 was taken back, and nobody knows of the fourth.
fn shop() -> (Vec<Deed>, Books) {
    let deeds = vec![
        deed(What::Customer, made(1, &[])),
        deed(What::Product { amount: 100 }, made(1, &[])),
        deed(What::Product { amount: 100 }, made(2, &[])),
        deed(What::Delivery { product: 2, amount: 10 }, Told::Done),
        deed(What::Delivery { product: 2, amount: 5 }, unknown()),
        ordered("acme/1", &[(1, 2), (2, 1)], made(1, &[1, 2])),
        ordered("acme/1", &[(1, 2), (2, 1)], made(1, &[1, 2])),
        ordered("acme/2", &[(1, 4)], made(2, &[3])),
        deed(What::TakeBack { order: 2 }, Told::Done),
        ordered("acme/3", &[(2, 3)], made(3, &[4])),
        deed(What::Look { order: 3 }, Told::Shown(Some(order(3, "acme/3", vec![line(4, 2, 3)])))),
        ordered("acme/4", &[(1, 1)], unknown()),
        ordered("acme/5", &[(1, 1)], Told::Refused { code: "OUT_OF_STOCK".into() }),
    ];
    let orders =
        vec![order(1, "acme/1", vec![line(1, 1, 2), line(2, 2, 1)]), order(3, "acme/3", vec![line(4, 2, 3)])];
    let products = vec![
        Product { id: 1, delivered: 100, on_hand: Some(98), ordered: 2 },
        Product { id: 2, delivered: 110, on_hand: Some(106), ordered: 4 },
    ];
    let customer = Customer { id: 1, orders: 2, orders_counted: 2, owes_cents: 60, owes_summed_cents: 60 };
    (deeds, Books { customers: vec![customer], products, orders })
}

fn judged(deeds: &[Deed], books: Books) -> Vec<(FaultKind, String)> {
    let mut findings = Findings::default();
    audit(deeds, &BTreeMap::from([(Arc::from(TENANT), books)]), &mut findings);
    findings.faults.into_iter().map(|fault| (fault.kind, fault.object)).collect()
}

/// What is found once the books were changed so. Where nothing is said of the customer, he has the orders that are there.
fn found(change: impl FnOnce(&mut Books)) -> Vec<(FaultKind, String)> {
    let (deeds, mut books) = shop();
    let before = books.customers.clone();
    change(&mut books);
    if books.customers == before {
        let orders = i64::try_from(books.orders.len()).unwrap();
        let owes = books.orders.iter().map(|order| order.total_cents).sum();
        let of_him = Customer { id: 1, orders, orders_counted: orders, owes_cents: owes, owes_summed_cents: owes };
        books.customers = vec![of_him];
    }
    judged(&deeds, books)
}

fn told(change: impl FnOnce(&mut Vec<Deed>)) -> Vec<(FaultKind, String)> {
    let (mut deeds, books) = shop();
    change(&mut deeds);
    judged(&deeds, books)
}

fn is(kind: FaultKind, object: &str) -> (FaultKind, String) {
    (kind, object.into())
}

#[test]
fn books_in_order_are_clean_whether_or_not_the_unknown_has_happened() {
    assert_eq!(found(|_| {}), []);
    let happened = found(|books| {
        books.orders.push(order(4, "acme/4", vec![line(5, 1, 1)]));
        books.products[0].on_hand = Some(97);
        books.products[0].ordered = 3;
        books.products[1].delivered = 115;
        books.products[1].on_hand = Some(111);
        books.customers[0] =
            Customer { id: 1, orders: 3, orders_counted: 3, owes_cents: 70, owes_summed_cents: 70 };
    });
    assert_eq!(happened, []);
}

#[test]
fn an_order_that_was_acknowledged_and_is_gone_is_lost() {
    let without = found(|books| {
        books.orders.remove(1);
        books.products[1].on_hand = Some(109);
        books.products[1].ordered = 1;
    });
    assert_eq!(without, [is(FaultKind::Lost, "order 3")]);
    let nothing = found(|books| *books = Books::default());
    for object in ["order 1", "order 3", "product 1", "product 2", "customer 1"] {
        assert!(nothing.contains(&is(FaultKind::Lost, object)), "{object}: {nothing:?}");
    }
}

#[test]
fn a_table_that_was_left_out_of_a_copy_shows() {
    let lines = found(|books| {
        books.orders.iter_mut().for_each(|order| order.lines.clear());
        books.products.iter_mut().for_each(|product| product.ordered = 0);
    });
    for object in ["order 1", "order 3", "product 1", "product 2"] {
        assert!(lines.contains(&is(FaultKind::Torn, object)), "{object}: {lines:?}");
    }
    let stock = found(|books| books.products.iter_mut().for_each(|product| product.on_hand = None));
    assert_eq!(stock, [is(FaultKind::Torn, "product 1"), is(FaultKind::Torn, "product 2")]);
    let customers = found(|books| {
        books.customers.clear();
        books.orders.iter_mut().for_each(|order| order.customer = None);
    });
    assert!(customers.contains(&is(FaultKind::Lost, "customer 1")), "{customers:?}");
    assert!(customers.contains(&is(FaultKind::Torn, "order 1")), "{customers:?}");
}

#[test]
fn a_part_of_a_transaction_shows() {
    let on_hand = found(|books| books.products[0].on_hand = Some(100));
    assert_eq!(on_hand, [is(FaultKind::Torn, "product 1")]);
    let orphan = found(|books| {
        books.products[0].ordered = 3;
        books.products[0].on_hand = Some(97);
    });
    assert_eq!(orphan, [is(FaultKind::Torn, "product 1")], "a line whose order is gone");
    let amount = found(|books| {
        books.orders[1].lines[0].amount = 2;
        books.orders[1].total_cents = 20;
        books.products[1].ordered = 3;
        books.products[1].on_hand = Some(107);
    });
    assert_eq!(amount, [is(FaultKind::Torn, "order 3")]);
    let total = found(|books| books.orders[0].total_cents = 31);
    assert_eq!(total, [is(FaultKind::Torn, "order 1")]);
    let owes = found(|books| books.customers[0].owes_cents = 61);
    assert_eq!(owes, [is(FaultKind::Torn, "customer 1")]);
    let other_lines = found(|books| books.orders[1].lines[0].id = 9);
    assert_eq!(other_lines, [is(FaultKind::Torn, "order 3")]);
}

#[test]
fn a_number_that_was_given_twice_is_a_duplicate() {
    let order = told(|deeds| deeds.push(ordered("acme/6", &[(1, 1)], made(2, &[9]))));
    assert!(order.contains(&is(FaultKind::Duplicated, "order 2")), "{order:?}");
    let of_a_line = told(|deeds| deeds.push(ordered("acme/6", &[(1, 1)], made(9, &[3]))));
    assert!(of_a_line.contains(&is(FaultKind::Duplicated, "line 3")), "{of_a_line:?}");
    let there = found(|books| books.orders[1].lines[0].id = 1);
    assert!(there.contains(&is(FaultKind::Duplicated, "line 1")), "{there:?}");
}

#[test]
fn what_was_done_twice_or_is_back_or_came_from_nowhere_is_named() {
    let twice = found(|books| books.orders.push(order(8, "acme/3", vec![line(9, 2, 3)])));
    assert!(twice.contains(&is(FaultKind::Duplicated, "order 8")), "{twice:?}");
    let back = found(|books| {
        books.orders.insert(1, order(2, "acme/2", vec![line(3, 1, 4)]));
        books.products[0].on_hand = Some(94);
        books.products[0].ordered = 6;
    });
    assert_eq!(back, [is(FaultKind::Resurrected, "order 2")]);
    for (reference, kind) in
        [("acme/5", FaultKind::Phantom), ("acme/77", FaultKind::Phantom), ("other/1", FaultKind::Leaked)]
    {
        let foreign = found(|books| {
            books.orders.push(order(9, reference, vec![line(9, 1, 1)]));
            books.products[0].on_hand = Some(97);
            books.products[0].ordered = 3;
        });
        assert_eq!(foreign, [is(kind, "order 9")], "{reference}");
    }
    let product = found(|books| books.products.push(Product { id: 3, delivered: 1, on_hand: Some(1), ordered: 0 }));
    assert_eq!(product, [is(FaultKind::Phantom, "product 3")]);
}

#[test]
fn deliveries_are_all_there_and_none_came_twice() {
    let delivered = |delivered: i64| {
        found(|books| {
            books.products[1].delivered = delivered;
            books.products[1].on_hand = Some(delivered - 4);
        })
    };
    assert_eq!(delivered(109), [is(FaultKind::Lost, "product 2")]);
    assert_eq!(delivered(110), []);
    assert_eq!(delivered(113), [is(FaultKind::Torn, "product 2")], "a part of one delivery");
    assert_eq!(delivered(115), []);
    assert_eq!(delivered(116), [is(FaultKind::Duplicated, "product 2")]);
}

#[test]
fn a_look_that_finds_nothing_or_half_of_it_shows() {
    let look = |shown| told(|deeds| deeds.push(deed(What::Look { order: 1 }, Told::Shown(shown))));
    assert_eq!(look(None), [is(FaultKind::Lost, "order 1")]);
    assert_eq!(look(Some(order(1, "acme/1", vec![line(1, 1, 2)]))), [is(FaultKind::Torn, "order 1")]);
    assert_eq!(look(Some(order(1, "acme/1", Vec::new()))), [is(FaultKind::Torn, "order 1")]);
}

#[test]
fn an_order_that_was_sent_again_and_made_again_shows_also_where_one_of_the_two_was_taken_back() {
    let twice = told(|deeds| {
        deeds.push(ordered("acme/3", &[(2, 3)], made(7, &[8])));
        deeds.push(deed(What::TakeBack { order: 7 }, Told::Done));
    });
    assert!(twice.contains(&is(FaultKind::Duplicated, "order 7")), "{twice:?}");
}

#[test]
fn a_number_of_one_that_is_gone_is_not_given_to_one_of_which_nobody_was_told() {
    let reused = found(|books| books.orders.insert(1, order(2, "acme/4", vec![line(3, 1, 1)])));
    for object in ["order 2", "line 3"] {
        assert!(reused.contains(&is(FaultKind::Duplicated, object)), "{object}: {reused:?}");
    }
}

#[test]
fn an_order_that_has_other_prices_than_when_it_was_looked_at_shows() {
    let dearer = found(|books| {
        books.orders[1].lines[0].price_cents = 20;
        books.orders[1].total_cents = 60;
    });
    assert_eq!(dearer, [is(FaultKind::Torn, "order 3")]);
}

#[test]
fn customers_are_those_that_were_made_and_have_the_orders_that_name_them() {
    let stranger = |books: &mut Books| {
        let nobody = Customer { id: 2, orders: 0, orders_counted: 0, owes_cents: 0, owes_summed_cents: 0 };
        books.customers.push(nobody);
    };
    assert_eq!(found(stranger), [is(FaultKind::Phantom, "customer 2")]);
    let (mut deeds, mut books) = shop();
    deeds.push(deed(What::Customer, unknown()));
    stranger(&mut books);
    assert_eq!(judged(&deeds, books), [], "he may have been made");
    let others = found(|books| {
        let (orders, owes) = (3, 61);
        books.customers[0] =
            Customer { id: 1, orders, orders_counted: orders, owes_cents: owes, owes_summed_cents: owes };
    });
    assert_eq!(others, [is(FaultKind::Torn, "customer 1")]);
}
