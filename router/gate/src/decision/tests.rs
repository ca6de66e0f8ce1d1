use proptest::prelude::*;

use super::*;

fn grant(uid: u64, epoch: u64, role: Role) -> Grant {
    Grant { uid: Uid(uid), epoch: Epoch(epoch), role }
}

/// A verdict in one word, to compare.
fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Admit => "admit".into(),
        Verdict::Wait(code) => format!("wait {code}"),
        Verdict::Redirect(_) => "421".into(),
        Verdict::AskNewest(Otherwise::Wait(code)) => format!("421 or wait {code}"),
        Verdict::AskNewest(Otherwise::Refuse(code)) => format!("421 or {code}"),
        Verdict::Refuse(code) => format!("{code}"),
    }
}

fn decided(role: Role, stamp: (u64, u64), is_write: bool) -> String {
    word(&decide(Some(&grant(5, 5, role)), true, (Uid(stamp.0), Epoch(stamp.1)), is_write))
}

#[test]
fn every_row_of_the_table_is_as_written() {
    let redirect = || Role::Redirect(Redirect::for_test((5, 6)));
    let holding = || Role::Holding { hold_id: 1 };
    const NOT_YET: &str = "wait NOT_YET";
    const STALE: &str = "421 or STALE";
    const GONE: &str = "421 or TENANT_DELETED";
    // The request's (uid, epoch) → owner, holding (write), holding (read), redirect to (5, 6), deleted.
    let rows: [((u64, u64), [&str; 5]); 7] = [
        ((5, 5), ["admit", "wait HOLD", "admit", "421", "TENANT_DELETED"]),
        ((5, 4), [STALE, STALE, STALE, "421", "TENANT_DELETED"]),
        ((4, 9), [GONE, GONE, GONE, "421", "TENANT_DELETED"]),
        ((1, 1), [GONE, GONE, GONE, "421", "TENANT_DELETED"]),
        ((5, 6), [NOT_YET, NOT_YET, NOT_YET, "421", "TENANT_DELETED"]),
        ((5, 7), [NOT_YET, NOT_YET, NOT_YET, NOT_YET, "TENANT_DELETED"]),
        ((6, 1), [NOT_YET, NOT_YET, NOT_YET, NOT_YET, NOT_YET]),
    ];
    for (stamp, [owner, hold_write, hold_read, redirected, deleted]) in rows {
        for is_write in [true, false] {
            assert_eq!(decided(Role::Owner, stamp, is_write), owner, "owner {stamp:?}");
            assert_eq!(decided(Role::Importing, stamp, is_write), "wait IMPORTING", "importing {stamp:?}");
            assert_eq!(decided(Role::Fenced, stamp, is_write), "wait FENCED", "fenced {stamp:?}");
            assert_eq!(decided(redirect(), stamp, is_write), redirected, "redirect {stamp:?}");
            assert_eq!(decided(Role::Deleted, stamp, is_write), deleted, "deleted {stamp:?}");
        }
        assert_eq!(decided(holding(), stamp, true), hold_write, "a write while holding {stamp:?}");
        assert_eq!(decided(holding(), stamp, false), hold_read, "a read while holding {stamp:?}");
    }
    assert_eq!(word(&decide(None, true, (Uid(1), Epoch(1)), true)), "421 or wait NOT_OWNER");
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![
        Just(Role::Owner),
        (0..9u64).prop_map(|hold_id| Role::Holding { hold_id }),
        Just(Role::Importing),
        Just(Role::Fenced),
        (1..4u64, 1..4u64).prop_map(|says| Role::Redirect(Redirect::for_test(says))),
        Just(Role::Deleted),
    ]
}

proptest! {
    #[test]
    fn only_an_owner_of_exactly_this_epoch_under_a_lease_lets_in(
        known in prop::option::of((1..4u64, 1..4u64, roles())),
        stamp in (1..4u64, 1..4u64),
        lease in any::<bool>(),
        is_write in any::<bool>(),
    ) {
        let granted = known.map(|(uid, epoch, role)| grant(uid, epoch, role));
        let verdict = decide(granted.as_ref(), lease, (Uid(stamp.0), Epoch(stamp.1)), is_write);
        let serves = granted.as_ref().is_some_and(|grant| {
            let role = matches!(grant.role, Role::Owner) || (matches!(grant.role, Role::Holding { .. }) && !is_write);
            role && (grant.uid.0, grant.epoch.0) == stamp
        });
        prop_assert_eq!(matches!(verdict, Verdict::Admit), serves && lease, "{:?}", verdict);
        if !lease {
            prop_assert_eq!(word(&verdict), "NO_LEASE");
        }
    }

    #[test]
    fn a_router_is_never_sent_to_something_older_than_it_knows(says in (1..5u64, 1..5u64), stamp in (1..5u64, 1..5u64)) {
        let redirecting = grant(1, 1, Role::Redirect(Redirect::for_test(says)));
        let verdict = decide(Some(&redirecting), true, (Uid(stamp.0), Epoch(stamp.1)), true);
        prop_assert_eq!(matches!(verdict, Verdict::Redirect(_)), says >= stamp);
    }
}

#[cfg(feature = "planted")]
#[test]
fn a_planted_fault_serves_what_must_not_be_served_and_only_when_it_is_chosen() {
    let fenced = grant(5, 5, Role::Fenced);
    let importing = grant(5, 5, Role::Importing);
    let stamp = (Uid(5), Epoch(5));
    for (granted, planted) in [
        (&fenced, Planted { stale_epoch: true, early_serve: false }),
        (&importing, Planted { stale_epoch: false, early_serve: true }),
    ] {
        let honest = decide(Some(granted), true, stamp, true);
        assert!(matches!(Planted::default().spoil(honest.clone(), Some(granted)), Verdict::Wait(_)));
        assert!(matches!(planted.spoil(honest, Some(granted)), Verdict::Admit));
    }
}
