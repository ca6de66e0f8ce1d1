//! `cell enroll`: everything that a new cell needs, in one go: its database is looked at, its certificate made, its addresses
//! made known. Done again it finds what is there.

use cell_agent::{AgentError, DatabaseOptions, Found, Inspection, inspect_database};
use cell_client::wire;
use cell_control::Authority;
use cell_model::{CellKind, CellRecord, CellTraits, Databases, NewCell};
use cell_trust::{Principal, Role};

use crate::cli::Enroll;
use crate::commands::Control;
use crate::console;
use crate::failure::{Exit, Failure};
use crate::pages::all;
use crate::view::CellView;

pub(crate) async fn run(control: Control, asked: Enroll) -> Result<Exit, Failure> {
    let databases = databases(&asked)?;
    let cells = all(|options| control.client.list_cells(options)).await?;
    let known = known(&cells, &asked)?;
    if let Some(url) = &asked.database {
        look_at(url, &asked).await?;
    }
    if asked.dry_run {
        let what = if known.is_some() { "is enrolled already" } else { "would be enrolled" };
        console::note(&format!("nothing stands in the way; cell {} {what}", asked.name));
        return Ok(Exit::Done);
    }
    if let (Some(ca), Some(out)) = (&asked.ca, &asked.out) {
        let failed = |error: cell_control::AuthorityError| {
            let (code, hint) = (error.code(), error.hint());
            Failure::new(code, format!("{:#}", anyhow::Error::from(error)), hint)
        };
        let principal = Principal::new(Role::Agent, asked.name.as_str());
        let principal = principal.map_err(|error| Failure::usage(error.to_string(), "choose another name"))?;
        let authority = Authority::open(ca).map_err(failed)?;
        authority.issue_once(&principal, asked.valid, out).map_err(failed)?;
        console::note(&format!("its certificate, as {principal}, is in {}", out.display()));
    }
    let cell = match known {
        Some(cell) => cell,
        None => {
            let Enroll { name, agent, gates, region, residency, traits, .. } = asked.clone();
            let traits = CellTraits { databases, ..traits.into() };
            let new = NewCell { id: name, gates, agent, region, residency, traits };
            control.client.create_cell(new, control.write()).await?
        }
    };
    control.print_list(&[CellView::from(wire::Cell::from(&cell))]);
    console::note(&next(&control.target.endpoints.join(","), &asked));
    Ok(Exit::Done)
}

/// The cell, if it is enrolled as it is asked for.
fn known(cells: &[CellRecord], asked: &Enroll) -> Result<Option<CellRecord>, Failure> {
    if let Some(other) = cells.iter().find(|cell| cell.agent == asked.agent && cell.id != asked.name) {
        let message = format!("the agent of cell {} is at {}", other.id, asked.agent);
        return Err(Failure::new("ADDRESS_TAKEN", message, "each cell has an agent of its own: correct --agent"));
    }
    let Some(cell) = cells.iter().find(|cell| cell.id == asked.name) else { return Ok(None) };
    // Addresses are the agent's to say once it has reported, and of the rest only what is said again can be another.
    let (said, traits) = (&asked.traits, &cell.traits);
    let differs = [
        said.kind.is_some_and(|kind| CellKind::from(kind) != traits.kind),
        said.domain.as_ref().is_some_and(|domain| *domain != traits.domain),
        said.capacity.is_some_and(|amounts| amounts.over(traits.capacity) != traits.capacity),
        said.reserve.is_some_and(|reserve| reserve != traits.reserve),
        said.databases.is_some_and(|databases| Some(databases.into()) != traits.databases),
        // Of what was enrolled before it was asked for, nobody has said it.
        laid_out(asked).is_some_and(|databases| traits.databases.is_some_and(|known| known != databases)),
        said.without_gate && !traits.ungated,
        said.without_gate && asked.gates != cell.gates,
    ];
    if cell.region == asked.region && cell.residency == asked.residency && !differs.contains(&true) {
        return Ok(Some(cell.clone()));
    }
    let message = format!(
        "there is a cell {} in region {:?} and residency {:?} already, {}",
        cell.id,
        cell.region,
        cell.residency,
        if differs.contains(&true) { "declared as something else" } else { traits.kind.as_str() }
    );
    let hint =
        format!("choose another name, or say the same as then; `cellctl cell declare {}` changes it", cell.id);
    Err(Failure::new("CELL_EXISTS", message, hint))
}

/// How its tenants' data is kept apart, by how the database is laid out. A store of Cellway's own says nothing.
fn laid_out(asked: &Enroll) -> Option<Databases> {
    asked.database.as_ref()?;
    Some(if asked.tenant_database.is_some() { Databases::Own } else { Databases::Shared })
}

/// The same, or as it is said; both must say the same.
fn databases(asked: &Enroll) -> Result<Option<Databases>, Failure> {
    let (said, laid_out) = (asked.traits.databases.map(Databases::from), laid_out(asked));
    match (said, laid_out) {
        (Some(said), Some(laid_out)) if said != laid_out => {
            let (said, laid_out) = (said.as_str(), laid_out.as_str());
            let message = format!("--databases {said} is said of a database that is laid out as {laid_out}");
            let hint = "leave --databases out; --tenant-database NAME gives each tenant a database of its own";
            Err(Failure::usage(message, hint))
        }
        _ => Ok(said.or(laid_out)),
    }
}

async fn look_at(url: &str, asked: &Enroll) -> Result<(), Failure> {
    let options = DatabaseOptions {
        schema: asked.schema.clone(),
        tenant_column: asked.tenant_column.clone(),
        tenant_schema: asked.tenant_schema.clone(),
        template_schema: asked.template_schema.clone(),
        tenant_database: asked.tenant_database.clone(),
        template_database: asked.template_database.clone(),
        ..DatabaseOptions::new(url)
    };
    let looked = inspect_database(&asked.name, options).await.map_err(|error| {
        let hint = "correct --database, or start the server; docs/postgresql.md lists the rights that are needed";
        // A fault of the database says its cause itself.
        let message = match &error {
            AgentError::Database(fault) => fault.reason.clone(),
            other => other.to_string(),
        };
        Failure::new(error.code(), message, hint)
    })?;
    for note in looked.notes.iter().chain(&of_the_sample(&looked)) {
        console::note(&told(note));
    }
    judged(&looked, asked)
}

/// What the application that is proposed in the end needs beside what every cell does.
fn of_the_sample(looked: &Inspection) -> Option<Found> {
    let role = format!("\"{}\"", looked.role.replace('"', "\"\""));
    let reason = format!(
        "role {role} may not make roles, and sample-cell makes one that row-level security binds: ALTER ROLE {role} CREATEROLE, or \
         CREATE ROLE cellway_documents NOLOGIN; GRANT cellway_documents TO {role}. Another application needs neither"
    );
    (!looked.makes_roles).then(|| Found { code: "ROLE_MAKES_NO_ROLES".into(), reason })
}

fn told(found: &Found) -> String {
    format!("  {}: {}", found.code, found.reason)
}

fn judged(looked: &Inspection, asked: &Enroll) -> Result<(), Failure> {
    if let Some(other) = looked.cell.as_ref().filter(|cell| *cell != asked.name.as_str()) {
        let message = format!("the database is that of cell {other}");
        return Err(Failure::new("OTHER_CELL", message, "give each cell a database of its own"));
    }
    if looked.findings.is_empty() {
        console::note(&format!("the database has {} tables of tenants, and moves can be made", looked.tables));
        return Ok(());
    }
    let lines: Vec<String> = looked.findings.iter().map(told).collect();
    let message = format!("the database is in the way of moves; nothing was made:\n{}", lines.join("\n"));
    Err(Failure::new("DATABASE_UNFIT", message, "run what is named there, then this command again"))
}

/// How the cell is started, as the sample application is; another one says the same in its own way.
fn next(endpoints: &str, asked: &Enroll) -> String {
    let mut line = match asked.traits.without_gate {
        false => format!("next: start its agent and gates: sample-cell serve --cell {}", asked.name),
        // Nothing is adopted there.
        true if asked.tenant_database.is_some() => {
            format!("next: start its agent: sample-cell serve --without-gate --cell {}", asked.name)
        }
        // Its application is at work already.
        true => format!(
            "next: start its agent, and once its tenants are adopted without --observe: sample-cell serve --without-gate --observe --cell {}",
            asked.name
        ),
    };
    // The address has a password in it. Without a gate a database is the fence, also where it was not looked at from here.
    let in_database = asked.database.is_some() || asked.traits.without_gate;
    line.push_str(if in_database { " --database URL" } else { " --data-dir DIR" });
    if asked.traits.without_gate && asked.tenant_schema.is_none() && asked.tenant_database.is_none() {
        line.push_str(&format!(" --schema {} --tenant-column {}", asked.schema, asked.tenant_column));
    }
    if let Some(name) = &asked.tenant_schema {
        line.push_str(&format!(" --tenant-schema '{name}'"));
    }
    if let Some(name) = &asked.tenant_database {
        let template = &asked.template_database;
        line.push_str(&format!(" --tenant-database '{name}' --template-database '{template}'"));
    }
    line.push_str(&format!(" --agent-listen {} --control {endpoints}", asked.agent));
    match &asked.out {
        Some(out) => line.push_str(&format!(" --identity {}", out.display())),
        None => line.push_str(" --identity DIR"),
    }
    line
}

#[cfg(test)]
mod tests {
    use cell_model::{CellState, Generation, Revision};
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, OfCells};

    fn asked(line: &str) -> Enroll {
        let cli = Cli::try_parse_from(format!("cellctl cell enroll {line}").split_whitespace()).unwrap();
        let Command::Cell(OfCells::Enroll(enroll)) = cli.command else { panic!("another command") };
        *enroll
    }

    fn cell(name: &str, agent: &str, region: &str) -> CellRecord {
        CellRecord {
            id: name.parse().unwrap(),
            state: CellState::Active,
            gates: Vec::new(),
            agent: agent.into(),
            region: region.into(),
            residency: String::new(),
            traits: cell_model::CellTraits::default(),
            generation: Generation(0),
            revision: Revision(1),
        }
    }

    #[test]
    fn a_cell_is_found_again_and_another_one_in_its_place_is_refused() {
        let cells = [cell("c1", "h:1", ""), cell("c2", "h:2", "eu-1")];
        assert_eq!(known(&cells, &asked("c3 --agent h:3")).unwrap(), None);
        assert!(known(&cells, &asked("c1 --agent h:1")).unwrap().is_some());
        assert_eq!(known(&cells, &asked("c3 --agent h:2")).unwrap_err().code, "ADDRESS_TAKEN");
        assert_eq!(known(&cells, &asked("c2 --agent h:2 --region eu-2")).unwrap_err().code, "CELL_EXISTS");
        assert!(known(&cells, &asked("c1 --agent h:1 --kind pooled --reserve 0")).unwrap().is_some());
        let other = known(&cells, &asked("c1 --agent h:1 --capacity cpu=4")).unwrap_err();
        assert!(other.code == "CELL_EXISTS" && other.to_string().contains("cellctl cell declare c1"), "{other}");
        let mut ungated = cell("c4", "h:4", "");
        (ungated.traits.ungated, ungated.gates) = (true, vec!["h:5".into()]);
        let code = |cell: &CellRecord, line: &str| {
            let known = known(std::slice::from_ref(cell), &asked(line)).map(|known| known.is_some());
            known.map_err(|refused| refused.code)
        };
        assert_eq!(code(&ungated, "c4 --agent h:4 --without-gate --gate h:5"), Ok(true));
        assert_eq!(code(&ungated, "c4 --agent h:4 --without-gate --gate h:6").unwrap_err(), "CELL_EXISTS");
        assert_eq!(code(&cells[0], "c1 --agent h:1 --without-gate --gate h:5").unwrap_err(), "CELL_EXISTS");
    }

    #[test]
    fn an_agent_without_gates_has_a_database_and_begins_by_turning_nobody_away() {
        let ungated = "c1 --agent h:1 --without-gate --gate h:5";
        let line = next("n:1", &asked(&format!("{ungated} --database url --tenant-column owner")));
        for said in [" --without-gate --observe ", " --database URL ", " --tenant-column owner "] {
            assert!(line.contains(said), "{line}");
        }
        let line = next("n:1", &asked(ungated));
        assert!(
            line.contains(" --database URL ") && !line.contains("--data-dir"),
            "not looked at from here: {line}"
        );
        assert!(line.contains("once its tenants are adopted without --observe"), "{line}");
        let line =
            next("n:1", &asked("c1 --agent h:1 --without-gate --gate h:5 --database url --tenant-database t_{id}"));
        assert!(line.contains(" --tenant-database ") && !line.contains("--observe"), "{line}");
        let line = next("n:1", &asked("c1 --agent h:1"));
        assert!(line.contains(" --data-dir DIR --agent-listen h:1 --control n:1"), "{line}");
    }

    #[test]
    fn whether_tenants_share_a_database_is_told_by_its_layout() {
        let url = "--database postgres://h/d";
        let of = |line: &str| databases(&asked(&format!("c1 --agent h:1 {line}")));
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of("--databases own").unwrap(), Some(Databases::Own), "another store");
        assert_eq!(of(url).unwrap(), Some(Databases::Shared));
        assert_eq!(of(&format!("{url} --tenant-schema t_{{id}}")).unwrap(), Some(Databases::Shared));
        assert_eq!(of(&format!("{url} --tenant-database t_{{id}}")).unwrap(), Some(Databases::Own));
        let wrong = of(&format!("{url} --databases own")).unwrap_err();
        assert!(wrong.exit == Exit::Usage && wrong.hint.contains("--tenant-database"), "{wrong}");

        let again = |databases, line: &str| {
            let mut known_cell = cell("c1", "h:1", "");
            known_cell.traits.databases = databases;
            known(&[known_cell], &asked(&format!("c1 --agent h:1 {line}"))).map(|found| found.is_some())
        };
        assert_eq!(again(None, url), Ok(true), "enrolled by an earlier version");
        assert_eq!(again(Some(Databases::Shared), url), Ok(true));
        assert_eq!(again(Some(Databases::Own), url).unwrap_err().code, "CELL_EXISTS");
        assert_eq!(again(None, "--databases own").unwrap_err().code, "CELL_EXISTS");
    }

    #[test]
    fn everything_that_is_wrong_with_a_database_is_told_at_once() {
        let found = |code: &str| Found { code: code.into(), reason: "it is so".into() };
        let looked =
            Inspection { findings: vec![found("WAL_LEVEL"), found("NO_PRIMARY_KEY")], ..Inspection::default() };
        let refused = judged(&looked, &asked("c1 --agent h:1")).unwrap_err();
        assert!(refused.message.contains("WAL_LEVEL") && refused.message.contains("NO_PRIMARY_KEY"), "{refused}");
        let others = Inspection { cell: Some("c9".into()), ..Inspection::default() };
        assert_eq!(judged(&others, &asked("c1 --agent h:1")).unwrap_err().code, "OTHER_CELL");
        let own = Inspection { cell: Some("c1".into()), tables: 3, ..Inspection::default() };
        assert!(judged(&own, &asked("c1 --agent h:1")).is_ok());
    }

    #[test]
    fn a_role_that_the_sample_cannot_work_with_is_noted_and_is_in_nobody_elses_way() {
        let careful = Inspection { role: "ce\"ll".into(), ..Inspection::default() };
        let note = of_the_sample(&careful).unwrap();
        assert!(note.reason.contains("ALTER ROLE \"ce\"\"ll\" CREATEROLE"), "{note:?}");
        assert!(judged(&careful, &asked("c1 --agent h:1")).is_ok());
        assert_eq!(of_the_sample(&Inspection { makes_roles: true, ..careful }), None);
    }
}
