//! What a demo does, as plain data: which tenants there are, how large, where, and which of them move when and how.
//! A function of its options and nothing else.

use std::collections::BTreeSet;

use cell_model::{Phase, Tier};

use super::DemoOptions;
use crate::exercise::Wanted;
use crate::seed::Choices;

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPlan {
    /// Its name.
    pub name: String,
    /// Where it begins: an index of a cell.
    pub cell: usize,
    /// What it has paid for.
    pub tier: Tier,
    /// Documents that it is filled with.
    pub docs: u32,
    /// Size of each.
    pub doc_bytes: usize,
}

/// What is done to a move while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Twist {
    /// Nothing.
    Plain,
    /// Called off while it copies.
    Cancel,
    /// Brought back out of soak.
    RollBack,
    /// The leader's process is killed as soon as the move has reached this phase.
    KillLeader(Phase),
    /// One router hears nothing from the control plane, from before the move until after it.
    CutRouter,
}

impl Twist {
    /// How the move is to end, in the words of [`cell_model::End::as_str`].
    #[must_use]
    pub const fn wanted_end(self) -> &'static str {
        match self {
            Self::Cancel => "cancelled",
            Self::RollBack => "rolled-back",
            Self::Plain | Self::KillLeader(_) | Self::CutRouter => "completed",
        }
    }

    /// Whether a fault is injected: its times are reported apart.
    #[must_use]
    pub const fn is_fault(self) -> bool {
        matches!(self, Self::KillLeader(_) | Self::CutRouter)
    }

    /// What clients must have done meanwhile.
    #[must_use]
    pub const fn wanted(self) -> Wanted {
        match self {
            Self::Cancel => Wanted::Copying,
            Self::Plain | Self::RollBack | Self::KillLeader(_) | Self::CutRouter => Wanted::Everything,
        }
    }

    /// As progress and reports print it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Cancel => "cancelled while it copies",
            Self::RollBack => "rolled back from soak",
            Self::KillLeader(_) => "leader killed",
            Self::CutRouter => "router cut off",
        }
    }
}

/// One move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovePlan {
    /// Whose: an index of a tenant.
    pub tenant: usize,
    /// To where: an index of a cell.
    pub target: usize,
    /// What is done to it.
    pub twist: Twist,
}

/// A whole demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// All tenants.
    pub tenants: Vec<TenantPlan>,
    /// Moves that run beside each other. Those of one lane run one after the other: they are of one tenant.
    pub lanes: Vec<Vec<MovePlan>>,
    /// Moves that run alone, one after the other, after the lanes: a fault touches no other move.
    pub alone: Vec<MovePlan>,
}

impl Plan {
    /// The plan of these options.
    #[must_use]
    pub fn new(options: &DemoOptions) -> Self {
        let mut choices = Choices::new(options.seed).part(0);
        let count = |moves: u32| usize::try_from(moves).unwrap_or(usize::MAX);
        let least = if options.faults { DemoOptions::MOVES_MIN } else { DemoOptions::MOVES_MIN_CALM };
        let moves = count(options.moves.clamp(least, 10_000));
        let movers = (moves / 2).max(3);
        let tenants_count = usize::try_from(options.tenants).unwrap_or(usize::MAX).max(movers + 1);
        let mut tenants = tenants(&mut choices, tenants_count, movers, options);
        let mut order: Vec<usize> = (1..=movers).collect();
        choices.shuffle(&mut order);

        // The big tenant is the first: a move called off, and one that goes through afterwards.
        let mut at: Vec<usize> = tenants.iter().map(|tenant| tenant.cell).collect();
        let mut next = |tenant: usize, twist: Twist, choices: &mut Choices| {
            let target = (at[tenant] + 1 + choices.index(options.cells - 1)) % options.cells;
            if twist.wanted_end() == "completed" {
                at[tenant] = target;
            }
            MovePlan { tenant, target, twist }
        };
        let mut lanes = vec![vec![next(0, Twist::Cancel, &mut choices), next(0, Twist::Plain, &mut choices)]];
        let phase = [Phase::Backfill, Phase::CatchUp, Phase::Sync, Phase::Sync, Phase::Hold][choices.index(5)];
        let [killed, cut] = [order[0], order[1]];
        // Of all: one with the leader killed, one with a router cut off, one brought back, the big one, others plain.
        let plain = moves - count(least);
        for (number, &tenant) in order.iter().cycle().take(plain + 1).enumerate() {
            let twist = if number == 0 { Twist::RollBack } else { Twist::Plain };
            let planned = next(tenant, twist, &mut choices);
            match lanes.iter_mut().find(|lane| lane[0].tenant == tenant) {
                Some(lane) => lane.push(planned),
                None => lanes.push(vec![planned]),
            }
        }
        let faults = [(killed, Twist::KillLeader(phase)), (cut, Twist::CutRouter)];
        let faults = faults.into_iter().filter(|_| options.faults);
        let alone = faults.map(|(tenant, twist)| next(tenant, twist, &mut choices)).collect();
        // Names say nothing of sizes or moves.
        rename(&mut choices, &mut tenants);
        Self { tenants, lanes, alone }
    }

    /// Every move.
    pub fn moves(&self) -> impl Iterator<Item = &MovePlan> {
        self.lanes.iter().flatten().chain(&self.alone)
    }

    /// Tenants that move at all.
    #[must_use]
    pub fn movers(&self) -> BTreeSet<usize> {
        self.moves().map(|planned| planned.tenant).collect()
    }
}

/// The big one, those that move, and all the others.
fn tenants(choices: &mut Choices, count: usize, movers: usize, options: &DemoOptions) -> Vec<TenantPlan> {
    let tier_of = |choices: &mut Choices| [Tier::Bronze, Tier::Silver, Tier::Gold][choices.index(3)];
    (0..count)
        .map(|index| {
            let (docs, doc_bytes) = match index {
                0 => (options.big_docs(), DemoOptions::BIG_DOC_BYTES),
                index if index <= movers => (choices.between(300, 700), choices.between(800, 3_000)),
                _ => (choices.between(1, 6), choices.between(150, 1_500)),
            };
            TenantPlan {
                name: String::new(),
                cell: index % options.cells,
                tier: tier_of(choices),
                docs: u32::try_from(docs).unwrap_or(u32::MAX),
                doc_bytes: usize::try_from(doc_bytes).unwrap_or(usize::MAX),
            }
        })
        .collect()
}

fn rename(choices: &mut Choices, tenants: &mut [TenantPlan]) {
    let mut numbers: Vec<usize> = (1..=tenants.len()).collect();
    choices.shuffle(&mut numbers);
    for (tenant, number) in tenants.iter_mut().zip(numbers) {
        tenant.name = format!("t-{number:04}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> (DemoOptions, Plan) {
        let options = DemoOptions { seed, ..DemoOptions::default() };
        let plan = Plan::new(&options);
        (options, plan)
    }

    #[test]
    fn a_seed_decides_the_whole_plan() {
        assert_eq!(plan(5).1, plan(5).1);
        assert_ne!(plan(5).1, plan(6).1);
    }

    #[test]
    fn every_plan_has_what_the_demo_promises() {
        for seed in 0..200 {
            let (options, plan) = plan(seed);
            assert!(plan.tenants.len() >= 200);
            let names: BTreeSet<&str> = plan.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
            assert_eq!(names.len(), plan.tenants.len());
            let big = &plan.tenants[0];
            assert!(u64::from(big.docs) * big.doc_bytes as u64 >= 100_000_000);
            let of = |wanted: fn(Twist) -> bool| plan.moves().filter(|planned| wanted(planned.twist)).count();
            assert_eq!(of(|twist| twist == Twist::Cancel), 1);
            assert_eq!(of(|twist| twist == Twist::RollBack), 1);
            assert_eq!(of(|twist| matches!(twist, Twist::KillLeader(_))), 1);
            assert_eq!(of(|twist| twist == Twist::CutRouter), 1);
            // The one that is called off comes on top.
            assert_eq!(plan.moves().count(), options.moves as usize + 1);
            assert!(plan.alone.iter().all(|planned| planned.twist.is_fault()));
        }
    }

    #[test]
    fn a_demo_without_faults_has_all_the_rest_and_may_be_small() {
        for seed in 0..50 {
            let options = DemoOptions { seed, moves: 2, faults: false, ..DemoOptions::default() };
            let twists: Vec<Twist> = Plan::new(&options).moves().map(|planned| planned.twist).collect();
            assert_eq!(twists, [Twist::Cancel, Twist::Plain, Twist::RollBack]);
        }
    }

    #[test]
    fn every_move_leads_somewhere_else() {
        for seed in 0..200 {
            let (options, plan) = plan(seed);
            let mut at: Vec<usize> = plan.tenants.iter().map(|tenant| tenant.cell).collect();
            let mut lanes_of = std::collections::HashMap::new();
            for (number, lane) in plan.lanes.iter().enumerate() {
                for planned in lane {
                    assert_eq!(*lanes_of.entry(planned.tenant).or_insert(number), number, "one tenant, one lane");
                }
            }
            for planned in plan.moves() {
                assert!(planned.target < options.cells);
                assert_ne!(at[planned.tenant], planned.target);
                if planned.twist.wanted_end() == "completed" {
                    at[planned.tenant] = planned.target;
                }
            }
        }
    }
}
