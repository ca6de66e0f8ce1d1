//! Steps for the cell whose copy was found to differ: which rows, and these anew, in the order of the owner's changes.

use std::time::Duration;

use cell_model::{Difference, Digest, Seq};
use cell_protos::v1 as wire;
use cell_protos::v1::follow_request::Request;
use cell_protos::v1::step_response::Result as Answer;
use tokio::sync::mpsc;

use super::{Work, position};
use crate::capture::{digest_from_wire, digest_to_wire};
use crate::postgres::captures::RowKey;
use crate::postgres::catalogue::Catalogue;
use crate::postgres::follower::{Ask, Told};
use crate::postgres::narrow::{self, Listed, Narrowed, Stretch, Sums};
use crate::refusal::Refusal;

/// All rows are read once, and those of some buckets once more.
const EXAMINE_MAX: Duration = Duration::from_secs(300);
const RECOPY_MAX: Duration = Duration::from_secs(100);
const SAMPLE_MAX: Duration = Duration::from_secs(30);
/// Each row with its original, page by page.
const EVERY_ROW_MAX: Duration = Duration::from_secs(3_000);
/// Rows of one of these pages.
const PAGE_ROWS: u32 = 1_000;
/// Rows of one sample.
const SAMPLE_ROWS: u32 = 200;

fn lost() -> Refusal {
    Refusal::new("BUSY", "the change stream was lost: it is tried again")
}

/// Not what was asked for.
fn odd() -> Refusal {
    Refusal::new("BUSY", "the owner has answered something else: it is tried again")
}

/// What comes of it. Nothing more does once the stream is lost: nobody else can tell.
async fn ask(asks: &mpsc::Sender<Ask>, request: Request) -> Result<mpsc::Receiver<Told>, Refusal> {
    let (tell, told) = mpsc::channel(1);
    asks.send(Ask { request, tell }).await.map_err(|_| lost())?;
    Ok(told)
}

async fn next(told: &mut mpsc::Receiver<Told>) -> Result<Told, Refusal> {
    match told.recv().await {
        Some(Told::Not(reason)) => Err(Refusal::new("BUSY", reason)),
        Some(told) => Ok(told),
        None => Err(lost()),
    }
}

/// Some rows of a table, as both cells have them at a cut.
struct Compared {
    seq: Seq,
    owner: Digest,
    copy: Digest,
    found: Narrowed,
    /// The copy has more rows there than were looked at.
    more: bool,
    /// Up to this key; none where that was the table's end.
    until: Option<Vec<String>>,
}

impl Work<'_> {
    /// Who can be asked something of the owner, if this cell copies and has every row.
    fn asks(&self) -> Result<mpsc::Sender<Ask>, Refusal> {
        let core = self.lock()?;
        self.copy_of(&core)?;
        if let Some(failure) = &core.progress.failure {
            return Err(failure.clone());
        }
        if !core.is_complete() {
            return Err(Refusal::new("NOT_APPLIED", "the copy is not complete"));
        }
        core.asks.clone().ok_or_else(lost)
    }

    /// One of them at a time, and none for ever.
    async fn mending<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, Refusal>> + Send,
    ) -> Result<T, Refusal> {
        let alone = self.tenant.mending.try_lock();
        let _alone = alone.map_err(|_| Refusal::new("BUSY", "the copy is being mended already"))?;
        let done = self.cell.stop.run_until_cancelled(tokio::time::timeout(patience, work)).await;
        let late = || Refusal::new("BUSY", format!("it was not done within {} s", patience.as_secs()));
        done.ok_or_else(lost)?.map_err(|_| late())?
    }

    pub(super) async fn examine(&self, every_row: bool) -> Result<Answer, Refusal> {
        let asks = self.asks()?;
        if every_row {
            return self.mending(EVERY_ROW_MAX, self.every_row_examined(&asks)).await.map(Answer::Examined);
        }
        self.mending(EXAMINE_MAX, self.examined(&asks)).await.map(Answer::Examined)
    }

    async fn examined(&self, asks: &mpsc::Sender<Ask>) -> Result<wire::Examined, Refusal> {
        let of = (&self.tenant.id, self.context().uid);
        let catalogue = self.cell.catalogue(&self.tenant.id).await?;
        let mut told = ask(asks, Request::Buckets(wire::BucketsWanted {})).await?;
        let Told::Cut(seq, snapshot) = next(&mut told).await? else { return Err(odd()) };
        // At once, so that what the owner sends is taken from the stream as it comes.
        let ours = async { Ok::<_, Refusal>(narrow::sums(&snapshot, &catalogue, of).await?) };
        let (ours, theirs) = tokio::try_join!(ours, next(&mut told))?;
        let Told::Buckets(theirs) = theirs else { return Err(odd()) };
        let theirs = sums_of(theirs)?;
        let (wanted, more) = narrow::differing(&ours, &theirs);
        let (ours, theirs, found) = if wanted.is_empty() {
            (total(&ours), total(&theirs), narrow::Narrowed::default())
        } else {
            let buckets = wanted.iter().copied().collect();
            told = ask(asks, Request::Rows(wire::RowsWanted { buckets })).await?;
            let own = async { Ok::<_, Refusal>(narrow::list(&snapshot, &catalogue, of, &wanted).await?) };
            let (own, listed) = tokio::try_join!(own, listed(&mut told))?;
            (total(&ours), total(&theirs), narrow::narrowed(own, listed))
        };
        let rows = found.told(&catalogue);
        let (missing, extra, changed) = (found.missing, found.extra, found.changed);
        self.tenant.lock().differing = (seq, found.keys.into_iter().map(|(key, _)| key).collect());
        let (owner, copy) = (Some(digest_to_wire(theirs)), Some(digest_to_wire(ours)));
        Ok(wire::Examined { seq: seq.get(), owner, copy, missing, extra, changed, more, rows, every_row: false })
    }

    /// Compares some rows, in soak: of those, the copy follows what the owner has done, and is looked at as readers would.
    pub(super) async fn compare_sample(&self, seed: u64) -> Result<Answer, Refusal> {
        let asks = self.asks()?;
        self.mending(SAMPLE_MAX, self.sample_compared(&asks, seed)).await.map(Answer::Examined)
    }

    async fn sample_compared(&self, asks: &mpsc::Sender<Ask>, seed: u64) -> Result<wire::Examined, Refusal> {
        let of = (&self.tenant.id, self.context().uid);
        let catalogue = self.cell.catalogue(&self.tenant.id).await?;
        let number = seed % (catalogue.tables.len() as u64).max(1);
        let place = u32::try_from(number).unwrap_or_default();
        let table = catalogue.table(place).ok_or_else(odd)?;
        let client = self.cell.database.client().await?;
        let after = narrow::some_key(&client, &catalogue, of.0, (table, seed)).await?;
        drop(client);
        let Compared { seq, owner, copy, found, .. } =
            self.stretch_compared(asks, &catalogue, (place, after), SAMPLE_ROWS).await?;
        let (owner, copy) = (Some(digest_to_wire(owner)), Some(digest_to_wire(copy)));
        let (missing, extra, changed) = (found.missing, found.extra, found.changed);
        let rows = found.told(&catalogue);
        Ok(wire::Examined {
            seq: seq.get(),
            owner,
            copy,
            missing,
            extra,
            changed,
            rows,
            ..wire::Examined::default()
        })
    }

    /// Each row of every table with its original: page by page, each at a cut of its own, while changes are applied. What both cells
    /// add up to differs by what was found, whatever writers do between two pages.
    async fn every_row_examined(&self, asks: &mpsc::Sender<Ask>) -> Result<wire::Examined, Refusal> {
        let catalogue = self.cell.catalogue(&self.tenant.id).await?;
        let (mut owner, mut copy) = (Digest::default(), Digest::default());
        let mut told = wire::Examined { every_row: true, ..wire::Examined::default() };
        let mut keys: Vec<RowKey> = Vec::new();
        for place in 0..u32::try_from(catalogue.tables.len()).unwrap_or(u32::MAX) {
            let mut after = Some(Vec::new());
            while let Some(behind) = after.take() {
                let page = self.stretch_compared(asks, &catalogue, (place, behind), PAGE_ROWS).await?;
                (owner, copy) = (sum(owner, page.owner), sum(copy, page.copy));
                told.seq = page.seq.get();
                told.missing += page.found.missing;
                told.extra += page.found.extra;
                told.changed += page.found.changed;
                told.more |= page.more;
                told.rows.extend(page.found.told(&catalogue));
                told.rows.truncate(Difference::ROWS_MAX);
                let room = narrow::KEYS_MAX.saturating_sub(keys.len());
                keys.extend(page.found.keys.into_iter().map(|(key, _)| key).take(room));
                after = page.until;
            }
        }
        self.tenant.lock().differing = (Seq(told.seq), keys);
        (told.owner, told.copy) = (Some(digest_to_wire(owner)), Some(digest_to_wire(copy)));
        Ok(told)
    }

    /// Some rows of a table behind a key, at a cut.
    async fn stretch_compared(
        &self,
        asks: &mpsc::Sender<Ask>,
        catalogue: &Catalogue,
        (place, after): (u32, Vec<String>),
        rows: u32,
    ) -> Result<Compared, Refusal> {
        let of = (&self.tenant.id, self.context().uid);
        let wanted = wire::SampleWanted { table: place, after_key: after.clone(), rows };
        let mut told = ask(asks, Request::Sample(wanted)).await?;
        let Told::Cut(seq, snapshot) = next(&mut told).await? else { return Err(odd()) };
        let Told::Rows(listed) = next(&mut told).await? else { return Err(odd()) };
        let (theirs, ended) = (listed_of(listed.rows)?, listed.done);
        let until = if ended { None } else { theirs.last().map(|((_, key), _)| key.clone()) };
        // What only the copy has would be as much again at the most, or more than is looked at now.
        let most = rows.saturating_mul(2);
        let stretch = Stretch { table: place, after, until: until.clone(), rows: most };
        let ours = narrow::list_stretch(&snapshot, catalogue, of, &stretch).await?;
        let sum = |listed: &[Listed]| Digest {
            rows: listed.len() as u64,
            sum: listed.iter().fold(0, |sum, (_, hash)| hash.wrapping_add(sum)),
        };
        let (owner, copy) = (sum(&theirs), sum(&ours));
        let more = ours.len() >= usize::try_from(most).unwrap_or(usize::MAX);
        // A table without a key has one row.
        let until = until.filter(|key| !key.is_empty());
        Ok(Compared { seq, owner, copy, found: narrow::narrowed(ours, theirs), more, until })
    }

    pub(super) async fn recopy(&self, at: Seq) -> Result<Answer, Refusal> {
        let asks = self.asks()?;
        let (found_at, keys) = self.tenant.lock().differing.clone();
        if found_at != at {
            let reason = format!("no rows are remembered that differed at {at}: the copy is examined again");
            return Err(Refusal::new("NOT_EXAMINED", reason));
        }
        if keys.is_empty() {
            return Ok(position(self.tenant.lock().applied()));
        }
        let seq = self.mending(RECOPY_MAX, recopied(&asks, keys)).await?;
        let mut core = self.tenant.lock();
        if core.differing.0 == at {
            core.differing.1.clear();
        }
        Ok(position(seq))
    }
}

async fn recopied(asks: &mpsc::Sender<Ask>, keys: Vec<RowKey>) -> Result<Seq, Refusal> {
    let keys = keys.into_iter().map(|(table, key)| wire::TableKey { table, key }).collect();
    let mut told = ask(asks, Request::Recopy(wire::RecopyWanted { keys })).await?;
    match next(&mut told).await? {
        Told::Recopied(seq) => Ok(seq),
        Told::Cut(..) | Told::Buckets(_) | Told::Rows(_) | Told::Not(_) => Err(odd()),
    }
}

const fn sum(all: Digest, one: Digest) -> Digest {
    Digest { rows: all.rows.wrapping_add(one.rows), sum: all.sum.wrapping_add(one.sum) }
}

fn total(sums: &Sums) -> Digest {
    sums.values().copied().fold(Digest::default(), sum)
}

fn sums_of(buckets: wire::Buckets) -> Result<Sums, Refusal> {
    let one = |bucket: wire::Bucket| Some((bucket.number, digest_from_wire(bucket.digest.as_ref()?)?));
    buckets.buckets.into_iter().map(one).collect::<Option<_>>().ok_or_else(odd)
}

fn listed_of(rows: Vec<wire::ListedRow>) -> Result<Vec<Listed>, Refusal> {
    let one = |row: wire::ListedRow| {
        let (key, hash) = (row.key?, row.hash.as_ref().try_into().ok()?);
        Some(((key.table, key.key), u128::from_be_bytes(hash)))
    };
    rows.into_iter().map(one).collect::<Option<_>>().ok_or_else(odd)
}

/// What the owner lists, to its end.
async fn listed(told: &mut mpsc::Receiver<Told>) -> Result<Vec<Listed>, Refusal> {
    let mut listed = Vec::new();
    loop {
        let Told::Rows(rows) = next(told).await? else { return Err(odd()) };
        listed.extend(listed_of(rows.rows)?);
        if rows.done {
            return Ok(listed);
        }
    }
}
