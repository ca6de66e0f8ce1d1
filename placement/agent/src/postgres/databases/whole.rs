//! A tenant's database while it is open, and where it stands while it is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cell_model::TenantId;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::registry::Row;
use crate::postgres::cell::Cell;
use crate::postgres::tenant::Tenant;
use crate::record::Role;
use crate::refusal::Refusal;

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The reader of the log ends within this time.
const READER_MAX: Duration = Duration::from_secs(8);

/// One tenant.
pub(super) struct Slot {
    pub(super) tenant: TenantId,
    /// Steps share it; whoever makes, opens or drops the database is alone.
    pub(super) life: tokio::sync::RwLock<()>,
    state: Mutex<State>,
}

/// Whether it has a database here.
#[derive(Clone)]
pub(super) enum State {
    /// It has none: the home knows what this cell is to it.
    Nothing,
    Open(Arc<Whole>),
    /// It is in the registry, or may have to be, and is not open.
    Closed(Box<Closed>),
}

/// What is known of a tenant whose database is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// There is a database of its name, which the registry does not know.
    Unread,
    /// Nothing: its database has the say, or was not looked at since the agent has started.
    Unknown,
    /// What the home knows: nothing was answered of the database, or it goes.
    Home,
}

impl State {
    pub(super) fn closed(row: Row) -> Self {
        Self::Closed(Box::new(Closed::new(row, Word::Unknown)))
    }

    /// One that is being made, or dropped, by this agent.
    pub(super) fn of_home(row: Row) -> Self {
        Self::Closed(Box::new(Closed::new(row, Word::Home)))
    }

    /// See [`Word::Unread`].
    pub(super) fn unread(row: Row) -> Self {
        Self::Closed(Box::new(Closed::new(row, Word::Unread)))
    }
}

/// See [`State::Closed`].
#[derive(Clone)]
pub(super) struct Closed {
    pub(super) row: Row,
    pub(super) word: Word,
    pub(super) why: Refusal,
    again: Again,
}

impl Closed {
    fn new(row: Row, word: Word) -> Self {
        Self { row, word, why: opening(), again: Again::new() }
    }
}

/// When what has failed is tried again.
#[derive(Debug, Clone, Copy)]
struct Again {
    at: Instant,
    pause: Duration,
}

impl Again {
    fn new() -> Self {
        Self { at: Instant::now(), pause: PAUSE_MIN }
    }

    fn put_off(&mut self) {
        self.at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// Nothing is wrong with it.
pub(super) fn opening() -> Refusal {
    Refusal::new("BUSY", "it is being opened, made or dropped")
}

impl Slot {
    pub(super) fn new(tenant: TenantId, state: State) -> Self {
        Self { tenant, life: tokio::sync::RwLock::default(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        self.lock().clone()
    }

    pub(super) fn whole(&self) -> Option<Arc<Whole>> {
        match &*self.lock() {
            State::Open(whole) => Some(Arc::clone(whole)),
            State::Nothing | State::Closed(_) => None,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(*self.lock(), State::Nothing)
    }

    pub(super) fn set(&self, state: State) {
        *self.lock() = state;
    }

    /// What is known of the tenant while its database is not open.
    pub(super) fn knows(&self, word: Word) {
        if let State::Closed(closed) = &mut *self.lock() {
            closed.word = word;
        }
    }

    /// Whether it is to be looked at now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match &*self.lock() {
            State::Nothing => false,
            State::Open(whole) => whole.has_ended() || whole.leaves(now),
            State::Closed(closed) => closed.again.at <= now,
        }
    }

    /// It is not open still, or could not be left, and is tried again later.
    pub(super) fn failed(&self, why: &Refusal) {
        let mut state = self.lock();
        let closed = match &mut *state {
            State::Nothing => return,
            State::Open(whole) => return whole.stays_for_now(why),
            State::Closed(closed) => closed,
        };
        if closed.why != *why {
            tracing::warn!(tenant = %self.tenant, database = %closed.row.name, stage = %closed.row.stage, %why, "a tenant's database is not open");
        }
        closed.why = why.clone();
        closed.again.put_off();
    }
}

/// An open one.
pub(crate) struct Whole {
    pub(super) cell: Arc<Cell>,
    pub(super) tenant: Arc<Tenant>,
    /// As the registry has it.
    row: Mutex<Row>,
    /// One at a time tells the registry.
    pub(super) noting: tokio::sync::Mutex<()>,
    /// It could not be left: why, and when that is tried again.
    stays: Mutex<Option<(Refusal, Again)>>,
    reader: Mutex<Option<JoinHandle<()>>>,
    reader_stop: CancellationToken,
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.reader_stop.cancel();
    }
}

impl Whole {
    /// With its log being read, where somebody wants it.
    pub(super) fn start(cell: Arc<Cell>, row: Row) -> Self {
        let (stop, tenant) = (CancellationToken::new(), cell.entry(&row.tenant));
        let (reading, reader_stop) = (Arc::clone(&cell), stop.clone());
        let reader = tokio::spawn(async move {
            if let Err(error) = reading.watch(&stop).await {
                tracing::warn!(database = %reading.database.name, %error, "a tenant's database was lost");
            }
            // What waits in it for what comes no more would keep it from being opened again.
            reading.stop.cancel();
        });
        Self {
            cell,
            tenant,
            row: Mutex::new(row),
            noting: tokio::sync::Mutex::default(),
            stays: Mutex::default(),
            reader: Mutex::new(Some(reader)),
            reader_stop,
        }
    }

    pub(super) fn row(&self) -> Row {
        self.row.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_row(&self, row: Row) {
        *self.row.lock().unwrap_or_else(PoisonError::into_inner) = row;
    }

    /// The session that pinned it is gone: behind its name may be another database by now.
    pub(super) fn has_ended(&self) -> bool {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Nothing of the tenant is here that a database is needed for.
    pub(super) fn is_over(&self) -> bool {
        let core = self.tenant.lock();
        if core.doubted || core.kept.is_some() || core.copied.is_some() || core.tail.is_some() {
            return false;
        }
        core.control.as_ref().is_none_or(|control| {
            let has_none = matches!(control.role, Role::Nothing | Role::Redirect | Role::Deleted);
            has_none && control.capture.is_none() && control.follow.is_none() && control.reverse.is_none()
        })
    }

    fn stays(&self) -> MutexGuard<'_, Option<(Refusal, Again)>> {
        self.stays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is to be left now, having failed before.
    fn leaves(&self, now: Instant) -> bool {
        self.stays().as_ref().is_some_and(|(_, again)| again.at <= now)
    }

    fn stays_for_now(&self, why: &Refusal) {
        let mut stays = self.stays();
        let (known, again) = stays.get_or_insert_with(|| (opening(), Again::new()));
        if known != why {
            tracing::warn!(database = %self.cell.database.name, %why, "a tenant's database could not be left");
        }
        known.clone_from(why);
        again.put_off();
    }

    /// Nothing is left to be tried.
    pub(super) fn stays_for_good(&self) {
        *self.stays() = None;
    }

    /// Ends everything of ours that is connected to it.
    pub(super) async fn close(&self) -> Result<(), Refusal> {
        let is_quiet = self.cell.quiesce().await;
        self.reader_stop.cancel();
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut reader) = reader
            && tokio::time::timeout(READER_MAX, &mut reader).await.is_err()
        {
            reader.abort();
        }
        self.cell.database.close();
        self.cell.keeper.release().await;
        if is_quiet {
            return Ok(());
        }
        Err(Refusal::new("BUSY", "something is under way in the tenant's database still"))
    }
}
