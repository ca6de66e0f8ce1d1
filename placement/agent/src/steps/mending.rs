//! Steps for a copy that was found to differ: which rows, page by page, and these anew.

use std::time::Duration;

use cell_model::{Difference, Differing, Digest, Seq};
use cell_protos::v1 as wire;
use cell_protos::v1::follow_request::Request;
use cell_protos::v1::step_response::Result as Answer;

use super::{Work, position};
use crate::capture::digest_to_wire;
use crate::follow::{PAGE_ROWS, Page, Told, key_to_wire};
use crate::refusal::Refusal;

/// How long an answer of the owner is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Keys that are remembered, to be copied anew,
const KEYS_MAX: usize = 10_000;
/// and bytes of them.
const KEYS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Rows that are asked for at once.
const AT_ONCE: usize = 256;
/// What rows are called that are in no table.
const TABLE: &str = "row";

/// Not what was asked for.
fn odd() -> Refusal {
    Refusal::new("BUSY", "the owner has answered something else: it is tried again")
}

/// What pages have shown.
#[derive(Default)]
struct Found {
    seq: Seq,
    owner: Digest,
    copy: Digest,
    counts: [u64; 3],
    keys: Vec<(Vec<u8>, Differing)>,
    bytes: usize,
}

impl Found {
    fn add(&mut self, page: Page) {
        let add = |all: Digest, one: Digest| Digest {
            rows: all.rows.wrapping_add(one.rows),
            sum: all.sum.wrapping_add(one.sum),
        };
        self.seq = page.seq;
        (self.owner, self.copy) = (add(self.owner, page.owner), add(self.copy, page.copy));
        for (key, differing) in page.differing {
            let place = match differing {
                Differing::Missing => 0,
                Differing::Extra => 1,
                Differing::Changed => 2,
            };
            self.counts[place] += 1;
            if self.keys.len() < KEYS_MAX && self.bytes + key.len() <= KEYS_BYTES_MAX {
                self.bytes += key.len();
                self.keys.push((key, differing));
            }
        }
    }

    fn told(&self) -> wire::Examined {
        let row = |(key, differing): &(Vec<u8>, Differing)| wire::ExaminedRow {
            table: TABLE.into(),
            key: format!("({})", key.escape_ascii()),
            differs: match differing {
                Differing::Missing => wire::RowDiffers::Missing,
                Differing::Extra => wire::RowDiffers::Extra,
                Differing::Changed => wire::RowDiffers::Changed,
            }
            .into(),
        };
        let [missing, extra, changed] = self.counts;
        wire::Examined {
            seq: self.seq.get(),
            owner: Some(digest_to_wire(self.owner)),
            copy: Some(digest_to_wire(self.copy)),
            missing,
            extra,
            changed,
            more: false,
            every_row: false,
            rows: self.keys.iter().take(Difference::ROWS_MAX).map(row).collect(),
        }
    }
}

impl Work<'_> {
    /// Compares every row, whether or not that is asked for. Pages are of different moments, and each of one: what both cells add up to differs by what was found.
    pub(super) async fn examine(&self, every_row: bool) -> Result<Answer, Refusal> {
        let (mut found, mut after) = (Found::default(), Vec::new());
        loop {
            let mut page = self.page(&after).await?;
            let next = page.next.take();
            found.add(page);
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        let told = found.told();
        self.lock()?.mending.found = (found.seq, found.keys.into_iter().map(|(key, _)| key).collect());
        Ok(Answer::Examined(wire::Examined { every_row, ..told }))
    }

    /// Compares one page: the next time the one behind it, and after the last the first again.
    pub(super) async fn compare_sample(&self) -> Result<Answer, Refusal> {
        let after = self.lock()?.mending.sampled.clone();
        let mut page = self.page(&after).await?;
        self.lock()?.mending.sampled = page.next.take().unwrap_or_default();
        let mut found = Found::default();
        found.add(page);
        Ok(Answer::Examined(found.told()))
    }

    /// Takes the rows that were found from the owner, and what all rows add up to: that also where none were.
    pub(super) async fn recopy(&self, at: Seq) -> Result<Answer, Refusal> {
        loop {
            let keys: Vec<Vec<u8>> = {
                let core = self.lock()?;
                let (found_at, keys) = &core.mending.found;
                if *found_at != at {
                    let reason =
                        format!("no rows are remembered that differed at {at}: the copy is examined again");
                    return Err(Refusal::new("NOT_EXAMINED", reason));
                }
                keys.iter().take(AT_ONCE).cloned().collect()
            };
            let wanted = wire::RecopyWanted { keys: keys.iter().map(|key| key_to_wire(key)).collect() };
            let Told::Recopied(done) = self.asked(Request::Recopy(wanted), &[]).await? else { return Err(odd()) };
            if done.is_empty() && !keys.is_empty() {
                return Err(odd());
            }
            let (ticket, applied, left) = {
                let core = self.lock()?;
                (core.ticket, core.last_seq(), core.mending.found.1.len())
            };
            if left == 0 {
                self.tenants.wait(ticket).await?;
                return Ok(position(applied));
            }
        }
    }

    async fn page(&self, after: &[u8]) -> Result<Page, Refusal> {
        let after_key = if after.is_empty() { Vec::new() } else { key_to_wire(after).key };
        let rows = u32::try_from(PAGE_ROWS).unwrap_or(u32::MAX);
        let wanted = wire::SampleWanted { table: 0, after_key, rows };
        match self.asked(Request::Sample(wanted), after).await? {
            Told::Page(page) => Ok(page),
            Told::Recopied(_) | Told::Not(_) => Err(odd()),
        }
    }

    /// What the owner answers, where this cell copies, has every row, and may go on.
    async fn asked(&self, request: Request, after: &[u8]) -> Result<Told, Refusal> {
        let mut told = {
            let mut core = self.lock()?;
            self.copy_of(&core)?;
            if let Some(failure) = &core.progress.failure {
                return Err(failure.clone());
            }
            if !core.is_complete() {
                return Err(Refusal::new("NOT_APPLIED", "the copy is not complete"));
            }
            core.mending.ask(request, after)?
        };
        match tokio::time::timeout(ANSWER_MAX, told.recv()).await {
            Ok(Some(Told::Not(reason))) => Err(Refusal::new("BUSY", reason)),
            Ok(Some(told)) => Ok(told),
            Ok(None) => Err(Refusal::new("BUSY", "the change stream was lost: it is tried again")),
            Err(_) => {
                let reason = format!("the owner has not answered within {} s", ANSWER_MAX.as_secs());
                Err(Refusal::new("BUSY", reason))
            }
        }
    }
}
