//! Who has outgrown its tier, and who no longer needs it: proposals, never surprises.
//!
//! A tier is what a tenant has paid for, and nothing here changes one. Once a day [`TierWatch::observe`] looks at what
//! share of its cell each tenant takes by itself. Above a tier's `enter` for `promote_days` in a row, the next tier is
//! proposed; below `leave`, which is lower, for the longer `demote_days`, the one before. Between the two nothing
//! happens, and a streak that breaks begins anew: that is the hysteresis.
//!
//! | tier | what it gets | asked for by |
//! |---|---|---|
//! | bronze | a pooled cell | – |
//! | silver | a pooled cell, stricter limits | spikes: demand that deviates by more than `spike_ratio` of its mean |
//! | gold | a database of its own, on a cell that gives each tenant one | its share of its cell |
//! | platinum | a cell of its own | its share of its cell |
//!
//! Each proposal comes with its cost: where it would go, what is copied, and what a dedicated cell leaves idle.

use std::collections::BTreeMap;

use cell_model::{CellId, Revision, TenantId, Tier, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::document::Amounts;
use crate::explain::{Decision, choose, explain};
use crate::filter::Question;
use crate::fleet::{CellIx, TenantIx};
use crate::layout::{Layout, rounded};
use crate::policy::PolicyInvalid;
use crate::resource::{DIMS, Dim, Resource, SCALE};
use crate::ring::HomeRing;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// From which share of a cell a tier is asked for, and below which it is no longer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// At or above this the tier is asked for.
    pub enter: f64,
    /// Below this it is no longer needed.
    pub leave: f64,
}

/// When to propose another tier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TierPolicy {
    /// Deviation by mean, where the tenant is largest.
    pub silver: Threshold,
    /// Share of the cell's budget.
    pub gold: Threshold,
    /// Share of the cell's budget.
    pub platinum: Threshold,
    /// Days in a row before a higher tier is proposed.
    pub promote_days: u32,
    /// Days in a row before a lower tier is proposed.
    pub demote_days: u32,
}

impl Default for TierPolicy {
    fn default() -> Self {
        Self {
            silver: Threshold { enter: 1.0, leave: 0.5 },
            gold: Threshold { enter: 0.10, leave: 0.05 },
            platinum: Threshold { enter: 0.25, leave: 0.15 },
            promote_days: 3,
            demote_days: 30,
        }
    }
}

impl TierPolicy {
    /// Checks every number.
    ///
    /// # Errors
    /// [`PolicyInvalid`] names the first one that breaks its rule.
    pub fn check(&self) -> Result<(), PolicyInvalid> {
        for (option, of, most) in
            [("silver", self.silver, 100.0), ("gold", self.gold, 1.0), ("platinum", self.platinum, 1.0)]
        {
            // Written so that what is no number breaks the rule.
            if !(of.leave >= 0.0 && of.leave < of.enter && of.enter <= most) {
                let rule = "a leave from 0 to below enter, and an enter of at most 1 (silver: 100)";
                return Err(PolicyInvalid { option, given: format!("{} to {}", of.leave, of.enter), rule });
            }
        }
        if !(self.gold.enter <= self.platinum.enter && self.gold.leave <= self.platinum.leave) {
            let given = format!("{} to {}", self.gold.leave, self.gold.enter);
            return Err(PolicyInvalid { option: "gold", given, rule: "at most what platinum is" });
        }
        for (option, days) in [("promote-days", self.promote_days), ("demote-days", self.demote_days)] {
            if days == 0 {
                return Err(PolicyInvalid { option, given: "0".into(), rule: "at least 1 day" });
            }
        }
        Ok(())
    }
}

/// What a tenant's demand shows on one day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Share of its cell that it takes by itself, where that is most.
    pub share: f64,
    /// In which resource, at which hour.
    pub at: Dim,
    /// Deviation by mean, in the resource and hour in which the two add up to the largest share.
    pub spike_ratio: f64,
}

impl Signal {
    fn of(layout: &Layout<'_>, tenant: TenantIx, cell: CellIx) -> Self {
        let fleet = layout.fleet();
        let profile = fleet.demand(tenant);
        let budget = &fleet.cell(cell).budget;
        let mut most = (0.0, 0);
        for dim in 0..DIMS {
            let share = budget.share(dim, profile.need(dim, layout.policy().risk));
            if share > most.0 {
                most = (share, dim);
            }
        }
        let (mean, deviation) = (profile.mean[most.1], profile.deviation[most.1]);
        let spike_ratio = if mean > 0.0 { deviation / mean } else { 0.0 };
        Self { share: rounded(most.0), at: Dim::at(most.1), spike_ratio: rounded(spike_ratio) }
    }

    /// The highest tier that it reaches, by `enter` or by `leave`.
    fn tier(&self, policy: &TierPolicy, limit: fn(&Threshold) -> f64) -> Tier {
        if self.share >= limit(&policy.platinum) {
            Tier::Platinum
        } else if self.share >= limit(&policy.gold) {
            Tier::Gold
        } else if self.spike_ratio >= limit(&policy.silver) {
            Tier::Silver
        } else {
            Tier::Bronze
        }
    }
}

/// For how many days in a row a tenant has asked for another tier.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Streak {
    /// The lowest tier asked for on all of these days when promoting, the highest when demoting.
    pub tier: Tier,
    /// The tier that it has.
    pub from: Tier,
    /// How many days.
    pub days: u32,
}

/// Remembers from day to day who has asked for another tier. It is plain data: keep it where it outlives the process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TierWatch {
    /// The day that was looked at last, in days since 1970; nothing before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<u64>,
    /// Only tenants with a streak.
    pub streaks: BTreeMap<TenantId, Streak>,
}

/// What another tier costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierCost {
    /// The cell that it would be on: the best one for that tier.
    pub target: Option<CellId>,
    /// Whether that is another cell than today's.
    pub moves: bool,
    /// What is copied.
    pub bytes: u64,
    /// How long that is expected to take.
    pub seconds: u64,
    /// What a dedicated cell would leave idle, at the tenant's largest hours; nothing for a pooled one.
    pub idle: Option<Amounts>,
}

/// Another tier for a tenant, proposed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Who.
    pub tenant: TenantId,
    /// Revision of the fleet that it was made on.
    pub parent: Revision,
    /// What it has.
    pub from: Tier,
    /// What it should have.
    pub to: Tier,
    /// For how many days in a row it has asked for that.
    pub days: u32,
    /// What its demand shows today.
    pub signal: Signal,
    /// What it costs.
    pub cost: TierCost,
    /// All of it in a sentence.
    pub sentence: String,
    /// What each cell said.
    pub decision: Box<Decision>,
}

impl TierWatch {
    /// Looks at every tenant, unless that day, or a later one, has been looked at already: a streak is one of days,
    /// however often somebody asks. Says whether it has. A day on which nobody looks is passed over.
    ///
    /// # Errors
    /// [`PolicyInvalid`] for a policy that cannot hold.
    pub fn observe_on(
        &mut self,
        at: UnixMillis,
        layout: &Layout<'_>,
        policy: &TierPolicy,
    ) -> Result<bool, PolicyInvalid> {
        policy.check()?;
        let today = at.0 / DAY_MS;
        if self.day.is_some_and(|day| day >= today) {
            return Ok(false);
        }
        self.observe(layout, policy)?;
        self.day = Some(today);
        Ok(true)
    }

    /// Looks at every tenant once; call it once a day.
    ///
    /// # Errors
    /// [`PolicyInvalid`] for a policy that cannot hold.
    pub fn observe(&mut self, layout: &Layout<'_>, policy: &TierPolicy) -> Result<(), PolicyInvalid> {
        policy.check()?;
        let fleet = layout.fleet();
        let mut streaks = BTreeMap::new();
        for tenant in fleet.tenants() {
            let Some(cell) = layout.home(tenant) else { continue };
            let from = fleet.tenant(tenant).tier;
            let signal = Signal::of(layout, tenant, cell);
            let up = signal.tier(policy, |of| of.enter);
            let down = signal.tier(policy, |of| of.leave);
            let asked = if up > from {
                up
            } else if down < from {
                down
            } else {
                continue;
            };
            let id = fleet.tenant_id(tenant);
            let before = self.streaks.get(&id).filter(|of| of.from == from && (of.tier > from) == (asked > from));
            let streak = before.map_or(Streak { tier: asked, from, days: 1 }, |before| Streak {
                // What every day of the streak asked for at least.
                tier: if asked > from { before.tier.min(asked) } else { before.tier.max(asked) },
                from,
                days: before.days.saturating_add(1),
            });
            streaks.insert(id, streak);
        }
        self.streaks = streaks;
        Ok(())
    }

    /// What to propose today, promotions first, the largest share first. Each one reckons with those before it, and whoever would move
    /// counts on both cells: all of them can be carried out together. Who is being moved is proposed nothing until that is over.
    #[must_use]
    pub fn proposals(&self, layout: &Layout<'_>, ring: Option<&HomeRing>, policy: &TierPolicy) -> Vec<Proposal> {
        let fleet = layout.fleet();
        let due = self.streaks.iter().filter(|(_, streak)| {
            let days = if streak.tier > streak.from { policy.promote_days } else { policy.demote_days };
            streak.days >= days
        });
        let mut due: Vec<Due> = due
            .filter_map(|(id, streak)| {
                let tenant = fleet.find_tenant(id.as_str())?;
                let home = layout.home(tenant)?;
                let of = fleet.tenant(tenant);
                let stands = of.tier == streak.from && of.elsewhere().is_none();
                stands.then(|| Due { tenant, home, streak: *streak, signal: Signal::of(layout, tenant, home) })
            })
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        // They come in the order of their names, and stay in it where nothing else decides.
        due.sort_by(|a, b| {
            let promotes = |of: &Due| of.streak.tier > of.streak.from;
            promotes(b).cmp(&promotes(a)).then(b.signal.share.total_cmp(&a.signal.share))
        });
        let mut planned = layout.clone();
        let beside_the_rest = |due: &Due| {
            let (proposal, target) = propose(&planned, ring, due);
            if let Some(target) = target.filter(|target| *target != due.home) {
                planned.begin_move(due.tenant, target);
            }
            proposal
        };
        due.iter().map(beside_the_rest).collect()
    }
}

/// Somebody who has asked for another tier for long enough.
struct Due {
    tenant: TenantIx,
    home: CellIx,
    streak: Streak,
    signal: Signal,
}

/// The proposal, and the cell that the tenant would be on.
fn propose(layout: &Layout<'_>, ring: Option<&HomeRing>, due: &Due) -> (Proposal, Option<CellIx>) {
    let Due { tenant, home, streak, signal } = *due;
    let fleet = layout.fleet();
    let then = fleet.tenant(tenant).with_tier(streak.tier);
    let question = Question::new(layout, tenant, &[]).of(&then);
    let assessment = choose(&question, ring);
    let target = assessment.best().map(|(score, _)| score.cell);
    let moves = target.is_some_and(|target| target != home);
    let bytes = if moves { fleet.bytes_of(tenant) } else { 0 };
    let idle = target.filter(|_| streak.tier == Tier::Platinum).map(|cell| idle(layout, tenant, cell));
    let cost = TierCost {
        target: target.map(|cell| fleet.cell_id(cell).clone()),
        moves,
        bytes,
        seconds: if moves { layout.policy().seconds_for(bytes) } else { 0 },
        idle,
    };
    let id = fleet.tenant_id(tenant);
    let proposal = Proposal {
        sentence: sentence(&id, &streak, &signal, &cost),
        tenant: id,
        parent: fleet.revision(),
        from: streak.from,
        to: streak.tier,
        days: streak.days,
        signal,
        cost,
        decision: Box::new(explain(&question, &assessment)),
    };
    (proposal, target)
}

/// What of a cell one tenant leaves unused, at its largest hours.
fn idle(layout: &Layout<'_>, tenant: TenantIx, cell: CellIx) -> Amounts {
    let profile = layout.fleet().demand(tenant);
    let budget = &layout.fleet().cell(cell).budget.amounts;
    let risk = layout.policy().risk;
    let of = |resource: Resource| {
        let dims = resource.first_dim()..resource.first_dim() + crate::resource::HOURS;
        let left = dims.map(|dim| budget[dim] - profile.need(dim, risk)).fold(f64::INFINITY, f64::min);
        (left.max(0.0) / SCALE * 1000.0).round() / 1000.0
    };
    Amounts { cpu: of(Resource::Cpu), connections: of(Resource::Connections), storage: of(Resource::Storage) }
}

fn sentence(tenant: &TenantId, streak: &Streak, signal: &Signal, cost: &TierCost) -> String {
    let verb = if streak.tier > streak.from { "outgrown" } else { "needed less than" };
    let what = if streak.tier == Tier::Silver && streak.from == Tier::Bronze {
        format!("its demand deviates by {:.2} of its mean", signal.spike_ratio)
    } else {
        format!("it takes {:.1} % of its cell ({})", signal.share * 100.0, signal.at)
    };
    let place = match (&cost.target, cost.moves) {
        (None, _) => "no cell admits it so: add one first".to_owned(),
        (Some(cell), false) => format!("it stays on {cell}"),
        (Some(cell), true) => format!("it moves to {cell}, {} bytes in about {} s", cost.bytes, cost.seconds),
    };
    let (from, to, days) = (streak.from.as_str(), streak.tier.as_str(), streak.days);
    format!("{tenant} has {verb} {from} for {days} days in a row: {what}; as {to} {place}")
}
