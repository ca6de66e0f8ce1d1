//! Clients misbehave, or a tenant's key is taken away. The others are served.

use super::SERVED;
use crate::drill::{Act, Drill, Expect, Group, Needs, Span, Stage, Who};

pub(super) fn drills() -> Vec<Drill> {
    vec![hot_tenant(), retry_storm(), key_disabled()]
}

fn hot_tenant() -> Drill {
    Drill {
        name: "hot-tenant",
        title: "One tenant's clients multiply",
        hypothesis: "A tenant that asks ten times as much as before is slowed or refused at the router; the others, \
                     on its own cell too, are served hardly slower than before.",
        steady: SERVED,
        fault: "60 more clients of one tenant, each asking again at once, for about eight seconds",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![Act::Crowd(Group::One(0), 60), Act::Wait(8_000), Act::Disperse],
        expects: vec![
            Expect::Flooded(Group::One(0), 10),
            Expect::Served(Group::AllBut(0), Span::Whole, 100),
            Expect::Quick(Group::AllBut(0), Span::Fault, 250),
            Expect::Served(Group::One(0), Span::Whole, 99),
            Expect::Busy(Group::AllBut(0)),
            Expect::Back(1_000),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}

fn retry_storm() -> Drill {
    Drill {
        name: "retry-storm",
        title: "A cell hangs, and its clients ask again and again without a pause",
        hypothesis: "Requests to a cell that does not answer are refused quickly instead of piling up, so that the \
                     storm takes nothing from the tenants of other cells; when the cell is back, its tenants are \
                     served again although the storm goes on. Routers add little to it: their own retries have a budget.",
        steady: SERVED,
        fault: "SIGSTOP of cell-1 for about seven seconds, and 12 more clients of each of its tenants, asking at once",
        needs: Needs::Any,
        stage: Stage::default(),
        script: vec![
            Act::Freeze(Who::Cell(0)),
            Act::Crowd(Group::On(0), 12),
            Act::Wait(7_000),
            Act::Thaw(Who::Cell(0)),
            Act::Wait(4_000),
            Act::Disperse,
        ],
        expects: vec![
            Expect::Hurt(Group::On(0)),
            Expect::Served(Group::NotOn(0), Span::Whole, 100),
            Expect::Quick(Group::NotOn(0), Span::Fault, 250),
            Expect::Radius(Group::On(0)),
            Expect::RetriesBounded(25),
            Expect::Busy(Group::NotOn(0)),
            Expect::Back(3_000),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}

fn key_disabled() -> Drill {
    Drill {
        name: "key-disabled",
        title: "The key of one tenant is disabled, and enabled again",
        hypothesis: "Whoever holds a tenant's key can shut it: from one request to the next nothing of it is read or written, and \
                     the answer says why. Nobody else notices. A move needs no key: the tenant is elsewhere when its key is \
                     enabled, with all that it had, and is served at once.",
        steady: SERVED,
        fault: "the key of one tenant is disabled for about six seconds, and the tenant moves meanwhile",
        needs: Needs::Any,
        stage: Stage { keys: true, ..Stage::default() },
        script: vec![
            Act::DisableKey(0),
            Act::Wait(3_000),
            Act::Move { tenant: 0, to: 1, until: None },
            Act::Settle,
            Act::Wait(2_000),
            Act::EnableKey(0),
        ],
        expects: vec![
            Expect::Refused(Group::One(0), "TENANT_KEY_DISABLED"),
            Expect::Radius(Group::One(0)),
            Expect::Served(Group::AllBut(0), Span::Whole, 100),
            Expect::Quick(Group::AllBut(0), Span::Fault, 250),
            Expect::Ends("completed"),
            Expect::Hurt(Group::One(0)),
            Expect::Busy(Group::AllBut(0)),
            Expect::Back(1_000),
            Expect::Fresh,
            Expect::Agreed,
        ],
    }
}
