//! Proofs of moves on paper, whole and tampered with.

use cell_model::{
    CellId, CellTraits, ClusterId, Command, Declaration, Difference, Differing, DifferingRow, Digest, Envelope,
    Event, Fleet, FleetView, Generation, Lineage, Move, MoveOptions, NewCell, NewTenant, Seq, SyncMode, TenantId,
    Tier, Weight,
};
use cell_trust::{Checkpoint, SigningKey};

use super::*;

struct Paper {
    fleet: Fleet,
    now: u64,
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

impl Paper {
    fn new() -> Self {
        let mut paper = Self { fleet: Fleet::new(ClusterId(7), Lineage(1)), now: 1_000 };
        for name in ["c1", "c2"] {
            paper.ok(Command::CreateCell(NewCell {
                id: CellId::new(name).unwrap(),
                gates: Vec::new(),
                agent: "h:1".into(),
                region: String::new(),
                residency: String::new(),
                traits: CellTraits::default(),
            }));
        }
        let cell = Some(CellId::new("c1").unwrap());
        let new = NewTenant { id: tenant(), cell, tier: Tier::Gold, residency: String::new() };
        paper.ok(Command::CreateTenant(new));
        paper.tell(Event::Granted);
        paper
    }

    fn ok(&mut self, command: Command) {
        self.now += 7;
        let envelope = Envelope { actor: "operator/alice".into(), ..Envelope::new(UnixMillis(self.now), command) };
        let reply = self.fleet.apply(&envelope).0;
        assert!(reply.result.is_ok(), "{:?}", reply.result);
    }

    fn tell(&mut self, event: Event) {
        let record = self.fleet.tenant(&tenant()).unwrap();
        let (uid, movement) = (record.uid, record.movement.as_ref());
        let (move_id, leg) = (movement.map(|movement| movement.id), movement.map(|movement| movement.leg));
        self.ok(Command::Record { tenant: tenant(), uid, move_id, leg, event });
    }

    fn movement(&self) -> Option<Move> {
        self.fleet.tenant(&tenant()).unwrap().movement.as_deref().cloned()
    }

    /// A whole move; its name.
    fn moved(&mut self, options: MoveOptions) -> MoveId {
        self.until(options, |_| false)
    }

    /// A move as far as `there`.
    fn until(&mut self, options: MoveOptions, there: impl Fn(&Move) -> bool) -> MoveId {
        let target = CellId::new("c2").unwrap();
        self.ok(Command::MoveTenant { tenant: tenant(), target, options });
        let id = self.movement().unwrap().id;
        self.go_on(there);
        id
    }

    fn go_on(&mut self, there: impl Fn(&Move) -> bool) {
        while let Some(movement) = self.movement().filter(|movement| !there(movement)) {
            let (attempt, seq, generation) = (movement.attempt, Seq(100), Generation(0));
            let digest = Digest { rows: 3, sum: 9 };
            let events = match movement.phase {
                Phase::Preflight => {
                    let weight = Weight { rows: 3, bytes: 300 };
                    vec![Event::Admitted, Event::Weighed(weight), Event::PreflightPassed]
                }
                Phase::Prepare => {
                    vec![Event::CaptureStarted { position: Seq(5) }, Event::ImportPrepared { generation }]
                }
                Phase::Backfill => vec![Event::BackfillDone { applied: Seq(10) }],
                Phase::CatchUp => vec![Event::CaughtUp { applied: Seq(20) }],
                Phase::Verify => vec![Event::FullyVerified { seq: Seq(30), digest }],
                Phase::Sync if movement.acks.sync == SyncMode::Async => {
                    vec![Event::SyncEngaged, Event::ReverseReady { position: Seq(40), generation }]
                }
                Phase::Sync => {
                    self.now += 10_000;
                    vec![Event::ReverseReady { position: Seq(40), generation }, Event::HoldDue]
                }
                Phase::Hold => {
                    let routers = Event::RoutersHeld { attempt, seen: 3, fenced: 1 };
                    let held = [
                        Event::WritersEnded { count: 2 },
                        Event::Sealed { attempt, seq },
                        Event::Applied { attempt, seq, generation },
                        Event::Verified { attempt, seq, digest },
                    ];
                    movement.leaves_ungated().then_some(routers).into_iter().chain(held).collect()
                }
                Phase::Fenced => vec![Event::Fenced { attempt, seq }, Event::Commit { attempt }],
                Phase::Activate => vec![Event::Activated { generation }, Event::MappingDelivered],
                Phase::Soak if movement.intent == cell_model::Intent::Rollback => {
                    self.now += 10_000;
                    vec![Event::HoldDue]
                }
                Phase::Soak => {
                    self.now += 100_000;
                    vec![Event::Counted { stale_rejected: 4 }, Event::SoakPassed]
                }
                Phase::Unfence => vec![Event::Unfenced { attempt }],
                Phase::Cleanup => vec![Event::ImportDropped, Event::CaptureStopped],
            };
            events.into_iter().for_each(|event| self.tell(event));
        }
    }

    fn trail(&self, key: &SigningKey) -> Trail {
        let last = self.fleet.audit().last().unwrap();
        let end = Checkpoint { cluster: ClusterId(7), number: last.number, hash: last.hash };
        Trail {
            entries: self.fleet.audit().after(0).map(|entry| AuditEntry::clone(entry)).collect(),
            end,
            key_id: key.public().key_id(),
            signature: end.sign(key).to_vec(),
        }
    }
}

#[test]
fn a_proof_says_what_a_move_stood_on_and_is_checked_without_anybody() {
    let (key, mut paper) = (SigningKey::generate(), Paper::new());
    let id = paper.moved(MoveOptions::default());
    let proof = Proof::of(paper.trail(&key), id).unwrap();
    let trusted = TrustedKeys::new([key.public()]);
    let read = Proof::from_lines(&proof.to_lines()).unwrap();
    assert_eq!(read, proof);
    read.verify(&trusted).unwrap();
    let summary = &read.summary;
    assert_eq!((summary.outcome.as_str(), summary.asked_by.as_str()), ("completed", "operator/alice"));
    assert_eq!((summary.sealed, summary.applied, summary.fenced), (Some(100), Some(100), Some(100)));
    assert_eq!((summary.rows, summary.verified, summary.stale_rejected), (Some(3), Some(30), Some(4)));
    assert_eq!((summary.ended_writers, summary.routers_held), (Some(2), None));
    assert_eq!((summary.epoch_before, summary.epoch_after, summary.owner_after.as_str()), (1, 2, "c2"));
    assert_eq!(summary.holds.len(), 1);
    assert!(summary.digest.as_deref().is_some_and(|digest| digest.starts_with("3:")), "{summary:?}");
    let stranger = TrustedKeys::new([SigningKey::generate().public()]);
    assert_eq!(read.verify(&stranger).unwrap_err().code(), "AUDIT_BROKEN");
}

#[test]
fn a_proof_says_on_which_routers_a_move_stood_whose_owner_had_no_gate() {
    let (key, mut paper) = (SigningKey::generate(), Paper::new());
    let declaration = Declaration { ungated: Some(true), ..Declaration::default() };
    paper.ok(Command::DeclareCell { cell: CellId::new("c1").unwrap(), declaration, only: None });
    let id = paper.moved(MoveOptions::default());
    let proof = Proof::from_lines(&Proof::of(paper.trail(&key), id).unwrap().to_lines()).unwrap();
    proof.verify(&TrustedKeys::new([key.public()])).unwrap();
    assert_eq!((proof.summary.routers_held, proof.summary.routers_fenced), (Some(3), Some(1)));
    let asked = proof.trail.entries.iter().find(|entry| entry.action.as_str() == "move-tenant").unwrap();
    assert!(
        asked.detail.contains("without-gate=c1") && !asked.detail.contains("without-gate=c2"),
        "{}",
        asked.detail
    );
}

#[test]
fn a_proof_has_the_rows_that_were_mended_and_those_that_could_not_be() {
    let found = |key: &str| {
        let row = DifferingRow { table: "orders".into(), key: key.into(), differing: Differing::Changed };
        let digest = |sum| Digest { rows: 3, sum };
        let of_digests = Difference::of_digests(Phase::Verify, Seq(25), digest(9), digest(8));
        Event::Differed(Box::new(Difference { changed: 1, rows: vec![row], ..of_digests }))
    };
    for times in [1, Move::DIFFERENCES_MAX + 1] {
        let (key, mut paper) = (SigningKey::generate(), Paper::new());
        let id = paper.until(MoveOptions::default(), |movement| movement.phase == Phase::Verify);
        (0..times).for_each(|time| paper.tell(found(&format!("(a b {time})"))));
        paper.go_on(|_| false);
        let proof = Proof::of(paper.trail(&key), id).unwrap();
        let read = Proof::from_lines(&proof.to_lines()).unwrap();
        read.verify(&TrustedKeys::new([key.public()])).unwrap();
        assert_eq!(read.summary.outcome, if times == 1 { "completed" } else { "aborted" });
        assert_eq!(read.summary.differences.len(), times);
        let last = read.summary.differences.last().unwrap();
        assert!(last.starts_with("differs-in=verify differs-at=25 owner-sum=3:"), "{last}");
        let silent = Proof { summary: Summary { differences: Vec::new(), ..read.summary.clone() }, ..read.clone() };
        let left_out = silent.verify(&TrustedKeys::new([key.public()])).unwrap_err().to_string();
        assert!(left_out.contains("differences is nothing"), "{left_out}");
        assert!(last.ends_with(&format!("changed=1 more=false keys=orders(a_b_{}):changed", times - 1)), "{last}");
    }
}

#[test]
fn whichever_byte_is_changed_it_is_found_and_named() {
    let (key, mut paper) = (SigningKey::generate(), Paper::new());
    let id = paper.moved(MoveOptions::default());
    let text = Proof::of(paper.trail(&key), id).unwrap().to_lines();
    let trusted = TrustedKeys::new([key.public()]);
    let judge = |text: &str| Proof::from_lines(text).and_then(|proof| proof.verify(&trusted));
    judge(&text).unwrap();
    for place in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        let changed = String::from_utf8(bytes).expect("a flipped low bit of ASCII is ASCII");
        let unproven = judge(&changed).expect_err(&format!("byte {place} was changed"));
        assert!(!unproven.to_string().is_empty() && !unproven.code().is_empty());
    }
    let forged = text.replacen("\"sealed\":100", "\"sealed\":101", 1);
    assert_eq!(
        judge(&forged).unwrap_err().to_string(),
        "the summary says sealed is 101, and it follows from the trail that it is 100"
    );
    let line = text.lines().nth(4).unwrap();
    let entry = line.split(['"', ':', ',']).find_map(|word| word.parse::<u64>().ok()).unwrap();
    let forged = text.replacen(line, &line.replacen("\"done\"", "\"none\"", 1), 1);
    let unproven = judge(&forged).unwrap_err().to_string();
    assert!(unproven.contains(&format!("audit entry {entry}: it is not what its hash says")), "{unproven}");
    let spaced = text.replacen("{\"kind\":", "{ \"kind\":", 1);
    assert_eq!(judge(&spaced), Err(Unproven::Written { line: 1, byte: 2 }));
}

#[test]
fn rehearsals_cancels_and_what_has_not_ended_are_told_apart() {
    let (key, mut paper) = (SigningKey::generate(), Paper::new());
    let rehearsed = paper.moved(MoveOptions { rehearse: true, ..MoveOptions::default() });
    let proof = Proof::of(paper.trail(&key), rehearsed).unwrap();
    proof.verify(&TrustedKeys::default()).unwrap();
    let summary = &proof.summary;
    assert_eq!((summary.outcome.as_str(), summary.owner_after.as_str()), ("rehearsed", "c1"));
    assert_eq!((summary.epoch_before, summary.epoch_after, summary.holds.len()), (1, 2, 1));

    let target = CellId::new("c2").unwrap();
    paper.ok(Command::MoveTenant { tenant: tenant(), target, options: MoveOptions::default() });
    let running = paper.movement().unwrap().id;
    assert_eq!(Proof::of(paper.trail(&key), running), Err(Unproven::NotEnded(running)));
    paper.ok(Command::Steer { move_id: running, intent: cell_model::MoveIntent::Cancel });
    let cancelled = Proof::of(paper.trail(&key), running).unwrap();
    cancelled.verify(&TrustedKeys::default()).unwrap();
    assert_eq!(cancelled.summary.outcome, "cancelled");
    assert_eq!(cancelled.summary.cancelled.as_ref().map(|(_, who)| who.as_str()), Some("operator/alice"));
    let nobody = MoveId(99_999);
    assert_eq!(Proof::of(paper.trail(&key), nobody), Err(Unproven::NoBeginning(nobody)));
}

#[test]
fn a_chain_that_holds_is_not_enough_where_a_step_breaks_the_protocol() {
    let (key, mut paper) = (SigningKey::generate(), Paper::new());
    let id = paper.moved(MoveOptions::default());
    // As somebody might who has the key and makes every hash anew.
    let forge = |from: &str, to: &str| {
        let mut trail = paper.trail(&key);
        let mut previous = cell_model::AuditHash::default();
        for entry in &mut trail.entries {
            entry.detail = entry.detail.replace(from, to);
            entry.previous = previous;
            entry.hash = entry.computed();
            previous = entry.hash;
        }
        trail.end.hash = previous;
        trail.signature = trail.end.sign(&key).to_vec();
        let proof = Proof::of(trail, id).unwrap();
        proof.verify(&TrustedKeys::new([key.public()])).unwrap_err().to_string()
    };
    assert!(forge("event=Commit owner=c2 epoch=2", "event=Commit owner=c2 epoch=3").contains("from 1 to 3"));
    assert!(forge("fenced=100", "fenced=99").contains("fenced Some(99)"));
    assert!(forge("event=Commit", "event=Sealed").contains("takes the epoch from 1 to 2"));
}

#[test]
fn a_rollback_whose_fence_is_refused_takes_nothing_from_the_commit_before_it() {
    let (key, mut paper) = (SigningKey::generate(), Paper::new());
    let id = paper.until(MoveOptions::default(), |movement| movement.phase == Phase::Soak);
    paper.ok(Command::Steer { move_id: id, intent: cell_model::MoveIntent::Rollback });
    paper.go_on(|movement| movement.phase == Phase::Fenced);
    let attempt = paper.movement().unwrap().attempt;
    paper.tell(Event::Abort { attempt, reason: "the fence was refused".into(), not_before: UnixMillis(0) });
    paper.go_on(|movement| movement.phase == Phase::Soak);
    paper.ok(Command::Steer { move_id: id, intent: cell_model::MoveIntent::Resume });
    paper.go_on(|_| false);
    let proof = Proof::of(paper.trail(&key), id).unwrap();
    proof.verify(&TrustedKeys::new([key.public()])).unwrap();
    let summary = &proof.summary;
    assert_eq!((summary.outcome.as_str(), summary.owner_after.as_str()), ("completed", "c2"));
    assert_eq!((summary.sealed, summary.applied, summary.fenced), (Some(100), Some(100), Some(100)));
}

#[test]
fn a_cancelled_hold_is_measured_up_to_the_cancel() {
    let (key, mut paper) = (SigningKey::generate(), Paper::new());
    for phase in [Phase::Hold, Phase::Fenced] {
        let id = paper.until(MoveOptions::default(), |movement| movement.phase == phase);
        paper.ok(Command::Steer { move_id: id, intent: cell_model::MoveIntent::Cancel });
        paper.now += 50_000;
        paper.go_on(|_| false);
        let proof = Proof::of(paper.trail(&key), id).unwrap();
        proof.verify(&TrustedKeys::new([key.public()])).unwrap();
        let held = proof.summary.holds[0];
        let (writes_ms, end) = match phase {
            Phase::Hold => (7, cell_model::HoldEnd::LetGo),
            _ => (50_000, cell_model::HoldEnd::TakenBack),
        };
        assert_eq!((proof.summary.outcome.as_str(), held.end), ("cancelled", end));
        assert!(held.writes_ms >= writes_ms && held.writes_ms < writes_ms + 1_000, "{phase}: {held:?}");
    }
}
