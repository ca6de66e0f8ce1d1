//! `move`: a move is asked for, looked at beforehand, steered.

use std::time::Duration;

use cell_client::ListOptions;
use cell_model::{MoveId, MoveIntent, MoveOptions};

use super::{Control, get, proof, takeover};
use crate::cli::{Describe, Get, LimitMoves, Move, MoveTenant};
use crate::failure::{Exit, Failure};
use crate::view::{LimitsView, MoveView, PreviewView};
use crate::{console, follow, render};

pub(super) async fn run(control: Control, movement: Move) -> Result<Exit, Failure> {
    match movement {
        Move::Tenant(asked) if asked.dry_run => dry_run(control, asked).await,
        Move::Tenant(asked) => move_tenant(control, asked).await,
        Move::List { tenant, all } => get::get(control, Get::Moves { id: None, tenant, all }).await,
        Move::Describe { id } => get::describe(control, Describe::Move { id }).await,
        Move::Pause { id } => steer(control, id, MoveIntent::Pause).await,
        Move::Resume { id } => steer(control, id, MoveIntent::Resume).await,
        Move::Cancel { id } => steer(control, id, MoveIntent::Cancel).await,
        Move::Rollback { id } => steer(control, id, MoveIntent::Rollback).await,
        Move::Takeover(asked) => takeover::run(control, asked).await,
        Move::Throttle { id, bytes_per_second } => {
            control.client.throttle_move(id, bytes_per_second, control.write()).await?;
            show(&control, id).await
        }
        Move::Limits(wanted) => limits(control, wanted).await,
        Move::Proof { id, out } => proof::write(control, id, out).await,
        // Needs no control plane: whoever dispatches sends it elsewhere.
        Move::VerifyProof { file, trusted_keys } => proof::verify(&file, &trusted_keys),
    }
}

async fn move_tenant(control: Control, asked: MoveTenant) -> Result<Exit, Failure> {
    let options = options_of(&asked)?;
    let (id, tenant) = control.client.move_tenant(&asked.tenant, &asked.to, options, control.write()).await?;
    // A rehearsal is run for what it measures.
    if asked.watch || asked.rehearse {
        return follow::follow(&control, id).await;
    }
    let movement = match tenant.r#move {
        Some(movement) => movement,
        None => control.client.get_move(id).await?,
    };
    control.print_list(&[MoveView::from(movement)]);
    console::note(&format!("`cellctl describe move {id}` shows how it goes"));
    Ok(Exit::Done)
}

/// Prints what a move would meet; fails where it would end in preflight.
async fn dry_run(control: Control, asked: MoveTenant) -> Result<Exit, Failure> {
    let options = options_of(&asked)?;
    let found = control.client.preview_move(&asked.tenant, &asked.to, &options).await?;
    let view = PreviewView::new(asked.tenant.to_string(), found, options.hold_max_ms);
    console::data(&render::one(&view, control.global.output, render::preview));
    if view.findings.is_empty() {
        return Ok(Exit::Done);
    }
    let count = view.findings.len();
    let message = if count == 1 {
        format!("one thing stands in the way of moving {} to {}", asked.tenant, asked.to)
    } else {
        format!("{count} things stand in the way of moving {} to {}", asked.tenant, asked.to)
    };
    Err(Failure::new("PREFLIGHT_FINDINGS", message, "mend what is named above, then run it again"))
}

async fn steer(control: Control, id: MoveId, intent: MoveIntent) -> Result<Exit, Failure> {
    control.client.steer_move(id, intent, control.write()).await?;
    show(&control, id).await
}

async fn show(control: &Control, id: MoveId) -> Result<Exit, Failure> {
    control.print_list(&[MoveView::from(control.client.get_move(id).await?)]);
    Ok(Exit::Done)
}

/// Changes what was named and leaves the rest, then prints what holds now, and how many moves run.
async fn limits(control: Control, wanted: LimitMoves) -> Result<Exit, Failure> {
    let (mut limits, mut read) = control.client.limits_with_revision().await?;
    let before = limits;
    limits.moves_total = wanted.total.unwrap_or(limits.moves_total);
    limits.moves_per_cell = wanted.per_cell.unwrap_or(limits.moves_per_cell);
    limits.moves_queued = wanted.queued.unwrap_or(limits.moves_queued);
    if limits != before {
        // What is not named stays as it was read, so that nothing may have changed since.
        let write = control.write();
        let expected_revision = write.expected_revision.or(Some(read).filter(|read| read.get() > 0));
        read = control.client.set_limits(limits, cell_client::WriteOptions { expected_revision, ..write }).await?;
    }
    let options = ListOptions { page_size: 1_000, ..ListOptions::default() };
    let moves = control.client.list_moves(options).await?.items;
    control.print_list(&[LimitsView::new(limits, read, &moves)]);
    Ok(Exit::Done)
}

fn options_of(asked: &MoveTenant) -> Result<MoveOptions, Failure> {
    let small = |name: &str, duration: Duration| {
        u32::try_from(duration.as_millis())
            .map_err(|_| Failure::usage(format!("{name} is too long"), "at most 49 days"))
    };
    Ok(MoveOptions {
        until: asked.until,
        hold_max_ms: small("--max-hold", asked.max_hold)?,
        sync_steady_ms: small("--steady", asked.steady)?,
        soak_ms: small("--soak", asked.soak)?,
        retain_ms: u64::try_from(asked.retain.as_millis())
            .map_err(|_| Failure::usage("--retain is too long", "say a shorter time"))?,
        retries: asked.retries,
        rehearse: asked.rehearse,
        bytes_per_second: asked.bytes_per_second,
        reason: asked.reason.clone(),
        tier: asked.tier.map(Into::into),
        terminate_writers: asked.terminate_writers,
        exact: asked.exact,
    })
}
