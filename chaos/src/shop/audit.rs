//! What is wrong with a shop's books, by what its tills were told.
//!
//! * **orders**: each that was acknowledged is there, whole, under its number, unless it was taken back; none is there twice, none that
//!   nobody made, none of another tenant; a look at one shows it as it was made, and as it is in the end; sent again it is the same one;
//! * **numbers**: no order and no line was ever given a number that another one has, or had;
//! * **stock**: of each product, what is on hand and what was ordered is what was delivered, and that is what tills have delivered;
//! * **customers**: as many as were made; each has the orders that name him, and owes what they add up to;
//! * **sums**: an order costs what its lines add up to.
//!
//! What has an unknown outcome may have happened or not, but never in part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::books::{Books, Order};
use super::{Deed, Told, What};
use crate::check::{FaultKind, Findings};

/// Compares what tills were told with the books, tenant by tenant. A tenant without books is taken to have empty ones.
pub fn audit(deeds: &[Deed], books: &BTreeMap<Arc<str>, Books>, findings: &mut Findings) {
    let mut tenants: BTreeMap<&Arc<str>, Asked<'_>> =
        books.keys().map(|tenant| (tenant, Asked::default())).collect();
    for deed in deeds {
        tenants.entry(&deed.tenant).or_default().sort_in(deed);
    }
    let nothing = Books::default();
    for (tenant, asked) in &tenants {
        let books = books.get(*tenant).unwrap_or(&nothing);
        let mut audit = Audit { tenant, asked, books, findings: &mut *findings };
        audit.numbers();
        audit.orders_made();
        audit.orders_found();
        audit.looks();
        audit.stock();
        audit.customers();
    }
}

/// What was asked of one shop.
#[derive(Default)]
struct Asked<'a> {
    /// By their references; sent again they have the same.
    orders: BTreeMap<&'a str, Vec<&'a Deed>>,
    /// Whether that was acknowledged; those that were refused are not in it.
    taken_back: BTreeMap<i64, bool>,
    customers: BTreeSet<i64>,
    /// Customers and products that may be there under a number that nobody was told.
    perhaps: (usize, usize),
    /// How many of each there were at first.
    products: BTreeMap<i64, i64>,
    /// How many of each came surely, and each delivery that perhaps came.
    delivered: BTreeMap<i64, (i64, Vec<i64>)>,
    looks: Vec<(i64, Option<&'a Order>)>,
}

impl<'a> Asked<'a> {
    fn sort_in(&mut self, deed: &'a Deed) {
        match (&deed.what, &deed.told) {
            (What::Order { reference, .. }, _) => self.orders.entry(reference).or_default().push(deed),
            (What::TakeBack { order }, Told::Done) => {
                self.taken_back.insert(*order, true);
            }
            (What::TakeBack { order }, Told::Unknown { .. }) => {
                self.taken_back.entry(*order).or_insert(false);
            }
            (What::Customer, Told::Made { id, .. }) => {
                self.customers.insert(*id);
            }
            (What::Customer, Told::Unknown { .. }) => self.perhaps.0 += 1,
            (What::Product { amount }, Told::Made { id, .. }) => {
                self.products.insert(*id, *amount);
            }
            (What::Product { .. }, Told::Unknown { .. }) => self.perhaps.1 += 1,
            (What::Delivery { product, amount }, Told::Done) => {
                self.delivered.entry(*product).or_default().0 += amount;
            }
            (What::Delivery { product, amount }, Told::Unknown { .. }) => {
                self.delivered.entry(*product).or_default().1.push(*amount);
            }
            (What::Look { order }, Told::Shown(shown)) => self.looks.push((*order, shown.as_ref())),
            _ => {}
        }
    }

    /// Each order that was acknowledged, with its number and its lines'.
    fn made(&self) -> impl Iterator<Item = (&'a Deed, i64, &'a [i64])> {
        let deeds = self.orders.values().flatten();
        deeds.filter_map(|deed| match &deed.told {
            Told::Made { id, lines } => Some((*deed, *id, lines.as_slice())),
            _ => None,
        })
    }
}

struct Audit<'a, 'f> {
    tenant: &'a Arc<str>,
    asked: &'a Asked<'a>,
    books: &'a Books,
    findings: &'f mut Findings,
}

impl Audit<'_, '_> {
    fn add(&mut self, kind: FaultKind, object: &str, detail: String) {
        self.findings.add(kind, self.tenant, object, 1, detail);
    }

    /// Of all that were ever told, and of those that are there.
    fn numbers(&mut self) {
        let (mut orders, mut lines, mut by_reference) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut twice = Vec::new();
        for (deed, id, its_lines) in self.asked.made() {
            let What::Order { reference, .. } = &deed.what else { continue };
            let first = *by_reference.entry(&**reference).or_insert(id);
            if first != id {
                twice.push((format!("order {id}"), format!("{reference} was made under the number {first}, too")));
            }
            let given = std::iter::once(("order", *orders.entry(id).or_insert(&**reference), id));
            let of_lines =
                its_lines.iter().map(|line| ("line", *lines.entry(*line).or_insert(&**reference), *line));
            let of_another = given.chain(of_lines).filter(|(_, first, _)| *first != &**reference);
            twice.extend(of_another.map(|(what, first, number)| {
                (format!("{what} {number}"), format!("its number was given to {first} and to {reference}"))
            }));
        }
        // What nobody knows the outcome of may have got a number, too.
        let mut there = BTreeMap::new();
        for order in &self.books.orders {
            let given = std::iter::once(("order", orders.get(&order.id), order.id));
            let of_lines = order.lines.iter().map(|line| ("line", lines.get(&line.id), line.id));
            for (what, first, number) in given.chain(of_lines) {
                if let Some(first) = first.filter(|first| **first != order.reference) {
                    let detail = format!("its number was given to {first}, and {} has it", order.reference);
                    twice.push((format!("{what} {number}"), detail));
                }
            }
            for line in &order.lines {
                if let Some(other) = there.insert(line.id, order.id) {
                    let detail = format!("orders {other} and {} have a line of this number", order.id);
                    twice.push((format!("line {}", line.id), detail));
                }
            }
        }
        for (object, detail) in twice {
            self.add(FaultKind::Duplicated, &object, detail);
        }
    }

    /// Those that were acknowledged are there, or gone where they were taken back.
    fn orders_made(&mut self) {
        let there: BTreeMap<i64, &Order> = self.books.orders.iter().map(|order| (order.id, order)).collect();
        let asked = self.asked;
        let made: BTreeMap<i64, &Deed> = asked.made().map(|(deed, id, _)| (id, deed)).collect();
        for (id, deed) in made {
            let What::Order { reference, .. } = &deed.what else { continue };
            let found = there.get(&id).filter(|order| order.reference == **reference);
            match (asked.taken_back.get(&id), found) {
                (None, None) => {
                    let detail = format!("it was acknowledged as {reference}, and it is not there");
                    self.add(FaultKind::Lost, &format!("order {id}"), detail);
                }
                (Some(true), Some(_)) => {
                    let detail = format!("{reference} was taken back, and it is there");
                    self.add(FaultKind::Resurrected, &format!("order {id}"), detail);
                }
                (None, Some(_)) | (Some(true), None) | (Some(false), _) => {}
            }
        }
    }

    /// Those that are there were made, once, as they are.
    fn orders_found(&mut self) {
        let (asked, books) = (self.asked, self.books);
        let mut found = BTreeMap::new();
        for order in &books.orders {
            let object = format!("order {}", order.id);
            if let Some(first) = found.insert(order.reference.as_str(), order.id) {
                let detail = format!("{} is there under the number {first}, too", order.reference);
                self.add(FaultKind::Duplicated, &object, detail);
            }
            let Some(deeds) = asked.orders.get(order.reference.as_str()) else {
                let ours = order.reference.split_once('/').is_some_and(|(tenant, _)| tenant == &**self.tenant);
                let kind = if ours { FaultKind::Phantom } else { FaultKind::Leaked };
                self.add(kind, &object, format!("nobody has ordered {} here", order.reference));
                continue;
            };
            if deeds.iter().all(|deed| matches!(deed.told, Told::Refused { .. })) {
                let detail = format!("{} was refused, and it is there", order.reference);
                self.add(FaultKind::Phantom, &object, detail);
            }
            if let Some(wrong) = deeds.iter().find_map(|deed| differs(order, deed)) {
                self.add(FaultKind::Torn, &object, wrong);
            }
        }
    }

    /// A till looks at its own order while it is there, so that it is shown as it was made. It does not change.
    fn looks(&mut self) {
        let asked = self.asked;
        let made: BTreeMap<i64, &Deed> = asked.made().map(|(deed, id, _)| (id, deed)).collect();
        let there: BTreeMap<i64, &Order> = self.books.orders.iter().map(|order| (order.id, order)).collect();
        for (id, shown) in &asked.looks {
            let object = format!("order {id}");
            match (shown, made.get(id)) {
                (None, _) => {
                    self.add(FaultKind::Lost, &object, "it was made, and a look at it found nothing".into())
                }
                (Some(order), Some(deed)) => {
                    let now = there.get(id).filter(|now| now.reference == order.reference);
                    if let Some(wrong) = differs(order, deed) {
                        self.add(FaultKind::Torn, &object, format!("a look at it: {wrong}"));
                    } else if let Some(now) = now.filter(|now| **now != *order && differs(now, deed).is_none()) {
                        let detail = format!("a look at it has shown {order:?}, and now it is {now:?}");
                        self.add(FaultKind::Torn, &object, detail);
                    }
                }
                (Some(_), None) => {}
            }
        }
    }

    fn stock(&mut self) {
        let mut in_orders: BTreeMap<i64, i64> = BTreeMap::new();
        for line in self.books.orders.iter().flat_map(|order| &order.lines) {
            *in_orders.entry(line.product).or_default() += line.amount;
        }
        let (asked, books) = (self.asked, self.books);
        let mut strangers = asked.perhaps.1;
        let mut missing: BTreeSet<i64> = asked.products.keys().copied().collect();
        for product in &books.products {
            let object = format!("product {}", product.id);
            missing.remove(&product.id);
            let in_orders = in_orders.get(&product.id).copied().unwrap_or(0);
            if product.ordered != in_orders {
                let detail = format!("lines have {} of it, and those of orders {in_orders}", product.ordered);
                self.add(FaultKind::Torn, &object, detail);
            }
            let (delivered, ordered) = (product.delivered, product.ordered);
            match product.on_hand {
                Some(on_hand) if on_hand + ordered == delivered => {}
                Some(on_hand) => {
                    let detail =
                        format!("{delivered} were delivered, {ordered} ordered, and {on_hand} are on hand");
                    self.add(FaultKind::Torn, &object, detail);
                }
                None => self.add(FaultKind::Torn, &object, "what is on hand of it is not there".into()),
            }
            let Some(at_first) = asked.products.get(&product.id) else {
                if strangers == 0 {
                    self.add(FaultKind::Phantom, &object, "nobody has made it".into());
                }
                strangers = strangers.saturating_sub(1);
                continue;
            };
            let (surely, perhaps) = asked.delivered.get(&product.id).cloned().unwrap_or_default();
            let (least, most) = (at_first + surely, at_first + surely + perhaps.iter().sum::<i64>());
            if delivered < least {
                let detail = format!("{least} were delivered, and the books say {delivered}");
                self.add(FaultKind::Lost, &object, detail);
            } else if delivered > most {
                let detail = format!("{most} were delivered at the most, and the books say {delivered}");
                self.add(FaultKind::Duplicated, &object, detail);
            } else if !is_sum_of_some(&perhaps, delivered - least) {
                let detail =
                    format!("{least} and some of {perhaps:?} were delivered, and the books say {delivered}");
                self.add(FaultKind::Torn, &object, detail);
            }
        }
        for id in missing {
            self.add(FaultKind::Lost, &format!("product {id}"), "it was made, and it is not there".into());
        }
    }

    fn customers(&mut self) {
        let books = self.books;
        let mut of_orders: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for order in &books.orders {
            let (count, owes) = of_orders.entry(order.customer.unwrap_or_default()).or_default();
            (*count, *owes) = (*count + 1, *owes + order.total_cents);
        }
        let mut strangers = self.asked.perhaps.0;
        let mut missing = self.asked.customers.clone();
        for customer in &books.customers {
            let object = format!("customer {}", customer.id);
            if !missing.remove(&customer.id) {
                if strangers == 0 {
                    self.add(FaultKind::Phantom, &object, "nobody has made him".into());
                }
                strangers = strangers.saturating_sub(1);
            }
            let own = (customer.orders, customer.owes_cents);
            let added_up = (customer.orders_counted, customer.owes_summed_cents);
            let shown = of_orders.get(&customer.id).copied().unwrap_or_default();
            if own != added_up {
                let detail = format!("orders and what is owed: {own:?} in his own row, {added_up:?} added up");
                self.add(FaultKind::Torn, &object, detail);
            } else if own != shown {
                let detail = format!("orders and what is owed: {own:?}, and orders that name him {shown:?}");
                self.add(FaultKind::Torn, &object, detail);
            }
        }
        for id in missing {
            self.add(FaultKind::Lost, &format!("customer {id}"), "it was made, and it is not there".into());
        }
    }
}

/// Whether some of these, each once, add up to that.
fn is_sum_of_some(amounts: &[i64], sum: i64) -> bool {
    let mut sums = BTreeSet::from([0]);
    for amount in amounts {
        sums.extend(sums.iter().map(|sum| sum + amount).collect::<Vec<_>>());
    }
    sums.contains(&sum)
}

/// How an order differs from what was asked for, and answered.
fn differs(order: &Order, deed: &Deed) -> Option<String> {
    let What::Order { reference, customer, lines } = &deed.what else { return None };
    if order.reference != **reference {
        return Some(format!("it is {}, and was made as {reference}", order.reference));
    }
    if order.lines.is_empty() {
        return Some(format!("{reference} has no lines"));
    }
    let mut found: Vec<(i64, i64)> = order.lines.iter().map(|line| (line.product, line.amount)).collect();
    found.sort_unstable();
    if found != *lines {
        return Some(format!("{reference} has the lines {found:?} and was ordered with {lines:?}"));
    }
    if let Told::Made { lines: numbers, .. } = &deed.told
        && order.lines.iter().map(|line| line.id).collect::<BTreeSet<_>>() != numbers.iter().copied().collect()
    {
        return Some(format!("{reference} has lines of other numbers than were answered"));
    }
    if order.customer != Some(*customer) {
        return Some(format!("{reference} is customer {:?}'s and was ordered by {customer}", order.customer));
    }
    let sum: i64 = order.lines.iter().map(|line| line.amount * line.price_cents).sum();
    (order.total_cents != sum).then(|| format!("{reference} costs {}, and its lines {sum}", order.total_cents))
}

#[cfg(test)]
mod tests;
