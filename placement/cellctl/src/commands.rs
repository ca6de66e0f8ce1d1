//! Each command: ask the control plane, print what it says.

mod audit;
mod ca;
mod check;
mod cluster;
mod fits;
mod get;
mod keygen;
mod moves;
mod proof;
mod quarantine;
mod request;
mod takeover;
mod watch;
mod write;

use std::future::Future;

use cell_client::{AsOf, ClientOptions, ControlClient, Link, WriteOptions};
use clap::CommandFactory;

use crate::cli::{Cli, Command, Explain, Global, Move, OfCells, OfTenant, Output};
use crate::console;
use crate::endpoints::{self, Target};
use crate::failure::{Exit, Failure};
use crate::{adopt, demo, dev, drill, enroll, host, ids, plan, store};

/// Runs one command line.
#[must_use]
pub fn run(cli: Cli) -> Exit {
    let exit = match dispatch(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            console::note(&failure.to_string());
            failure.exit
        }
    };
    let Some(reason) = console::lost() else { return exit };
    let hint = "make room where it goes to, and look at what the command has done before it is run again";
    console::note(
        &Failure::new("FILE_WRITE", format!("cannot write to standard output: {reason}"), hint).to_string(),
    );
    if exit == Exit::Done { Exit::Failed } else { exit }
}

fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let global = cli.global;
    let draws =
        matches!(cli.command, Command::Plan(_) | Command::Explain(Explain::Tenant { .. }) | Command::Simulate(_));
    if global.output == Output::Html && !draws {
        return Err(Failure::usage(
            "only `plan`, `explain tenant` and `simulate` print pages",
            "-o table, json or name",
        ));
    }
    fits::check(&cli.command, &global)?;
    match cli.command {
        Command::Create(create) => ask(&global, |control| write::create(control, create)),
        Command::Delete(delete) => ask(&global, |control| write::delete(control, delete)),
        Command::Get(get) => ask(&global, |control| get::get(control, get)),
        Command::Describe(describe) => ask(&global, |control| get::describe(control, describe)),
        Command::Watch(asked) => ask(&global, |control| watch::run(control, asked)),
        Command::Cordon(of) => {
            ask(&global, |control| write::set_state(control, of, cell_model::CellState::Cordoned))
        }
        Command::Uncordon(of) => {
            ask(&global, |control| write::set_state(control, of, cell_model::CellState::Active))
        }
        Command::Adopt(asked) => ask(&global, |control| adopt::run(control, asked)),
        Command::Cell(OfCells::Dead { name, yes }) => {
            ask(&global, |control| write::declare_dead(control, name, yes))
        }
        Command::Cell(OfCells::Declare(asked)) => ask(&global, |control| write::declare(control, asked)),
        Command::Cell(OfCells::Enroll(asked)) => ask(&global, |control| enroll::run(control, *asked)),
        Command::Cell(OfCells::Ids { stride, headroom, sql }) => {
            ask(&global, |control| ids::run(control, ids::Wanted { stride, headroom }, sql))
        }
        Command::Tenant(OfTenant::Set { name, tier }) => {
            ask(&global, |control| write::set_tier(control, name, tier.into()))
        }
        Command::Move(Move::VerifyProof { file, trusted_keys }) => proof::verify(&file, &trusted_keys),
        Command::Move(movement) => ask(&global, |control| moves::run(control, movement)),
        Command::Quarantine(of) => ask(&global, |control| quarantine::run(control, of)),
        Command::Plan(command) => plan::run(&global, command),
        Command::Explain(Explain::Tenant { name, of, judge }) => plan::explain(&global, &name, &of, &judge),
        Command::Explain(Explain::Request { id, routers }) => on_runtime(request::explain(&global, &id, &routers)),
        Command::Simulate(asked) => plan::simulate(&global, &asked),
        Command::Apply(apply) => ask(&global, |control| plan::apply(control, apply)),
        Command::Cluster(command) => on_runtime(cluster::run(global.clone(), command)),
        Command::Audit(command) => audit::run(global, command),
        Command::Check(what) => on_runtime(check::run(global, what)),
        Command::Ca(command) => ca::run(command),
        Command::Store(command) if store::is_local(&command) => on_runtime(store::run_local(command)),
        Command::Store(command) => ask(&global, |control| store::run(control, command)),
        Command::Keygen(asked) => keygen::run(&asked),
        Command::Dev(options) => on_runtime(dev::run(options)),
        Command::Demo(options) => on_runtime(demo::run(options)),
        Command::Drill(command) => on_runtime(drill::run(global.output, command)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cellctl", &mut script);
            console::data(&String::from_utf8_lossy(&script));
            Ok(Exit::Done)
        }
        Command::Version => {
            console::data(&format!("cellctl {}\n", env!("CARGO_PKG_VERSION")));
            Ok(Exit::Done)
        }
        Command::Run(server) => host::run(server),
    }
}

/// The control plane, and how its answers are to be printed.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    /// The client.
    pub client: ControlClient,
    /// Where it goes, and as whom.
    pub target: Target,
    /// What was said on the command line.
    pub global: Global,
}

impl Control {
    /// What goes along with a write.
    pub(crate) fn write(&self) -> WriteOptions {
        let earlier = self.global.request_id;
        WriteOptions {
            request_id: earlier.map(|earlier| earlier.id),
            first_tried: earlier.and_then(|earlier| earlier.first_tried),
            expected_revision: self.global.expected_revision.map(cell_model::Revision),
        }
    }

    /// Prints a list.
    pub(crate) fn print_list<V: crate::view::View>(&self, items: &[V]) {
        if items.is_empty() && self.global.output == crate::Output::Table {
            console::note("there is none");
            return;
        }
        console::data(&crate::render::list(items, self.global.output, !self.global.no_headers));
    }
}

/// A client of the control plane that the command line names.
pub(crate) fn connect(global: &Global) -> Result<Control, Failure> {
    let target = endpoints::resolve(global)?;
    let client = ControlClient::new(target.endpoints.clone(), client_options(global, &target.link));
    Ok(Control { client, target, global: global.clone() })
}

fn ask<F>(global: &Global, command: impl FnOnce(Control) -> F) -> Result<Exit, Failure>
where
    F: Future<Output = Result<Exit, Failure>>,
{
    on_runtime(async {
        let control = connect(global)?;
        let client = control.client.clone();
        let done = command(control).await;
        tell_staleness(&client);
        done
    })
}

/// What the answers of a client were as of that may be stale.
fn tell_staleness(client: &ControlClient) {
    client.stale_answers().iter().for_each(|as_of| console::note(&staleness(as_of)));
}

fn staleness(as_of: &AsOf) -> String {
    let age = match as_of.age {
        Some(age) => format!("{} ms before, nothing that was acknowledged was missing there", age.as_millis()),
        None => "it has not been level with a leader since it was started".to_owned(),
    };
    format!("{} has answered as of revision {}; {age}", as_of.node, as_of.revision)
}

/// How a command calls the control plane.
fn client_options(global: &Global, link: &Link) -> ClientOptions {
    ClientOptions {
        deadline: global.timeout,
        link: link.clone(),
        allow_stale: global.stale,
        ..ClientOptions::default()
    }
}

pub(crate) fn on_runtime<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let hint = "too many threads or open files on this machine?";
    runtime.map_err(|error| Failure::local("RUNTIME", &error.into(), hint))?.block_on(command)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cell_model::Revision;

    use super::*;

    #[test]
    fn a_stale_answer_says_as_of_when_it_is() {
        let told = |age| staleness(&AsOf { node: "n2:1".into(), revision: Revision(7), age });
        assert_eq!(
            told(Some(Duration::from_millis(40))),
            "n2:1 has answered as of revision 7; 40 ms before, nothing that was acknowledged was missing there"
        );
        assert!(told(None).ends_with("it has not been level with a leader since it was started"));
    }
}
