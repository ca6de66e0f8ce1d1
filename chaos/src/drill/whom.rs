//! Who is meant by an act: names of processes, as the fleet stands now.

use super::Who;
use super::script::{Runner, Trouble};

impl Runner {
    /// Who is meant.
    pub(super) async fn names(&mut self, who: Who) -> Result<Vec<String>, Trouble> {
        let cells = || self.fleet.cells.iter().map(|cell| cell.id.to_string());
        let controls = || self.fleet.controls.iter().map(|node| node.name.clone());
        let routers = || self.fleet.routers.iter().map(|router| router.name.clone());
        let one = |of: Option<String>| of.map(|name| vec![name]).ok_or("nobody of that number is there".to_owned());
        match who {
            Who::Leader => {
                let leader = self.fleet.leader().await.ok_or("nobody leads")?.name;
                self.victim = Some(leader.clone());
                Ok(vec![leader])
            }
            Who::Victim => Ok(vec![self.victim.clone().ok_or("nobody was the victim yet")?]),
            Who::OtherControls => Ok(controls().filter(|name| Some(name) != self.victim.as_ref()).collect()),
            Who::Control(index) => one(controls().nth(index)),
            Who::Controls => Ok(controls().collect()),
            Who::Router(index) => one(routers().nth(index)),
            Who::Routers => Ok(routers().collect()),
            Who::Cell(index) => one(cells().nth(index)),
            Who::OtherCells(index) => {
                Ok(cells().enumerate().filter(|(other, _)| *other != index).map(|(_, name)| name).collect())
            }
            Who::Cells => Ok(cells().collect()),
        }
    }
}

/// Names in a row, `control-1…3` where they are counted through.
pub(super) fn joined(names: &[String]) -> String {
    let number = |name: &String| name.rsplit_once('-').and_then(|(_, number)| number.parse::<u32>().ok());
    let (Some(first), Some(last)) = (names.first(), names.last()) else { return String::new() };
    let numbers: Option<Vec<u32>> = names.iter().map(number).collect();
    let counted = numbers.is_some_and(|all| all.len() > 2 && all.windows(2).all(|two| two[0] + 1 == two[1]));
    let number = last.rsplit_once('-').map_or(last.as_str(), |(_, number)| number);
    if counted { format!("{first}…{number}") } else { names.join(", ") }
}

pub(super) fn pairs<'a>(from: &'a [String], to: &'a [String]) -> impl Iterator<Item = (&'a str, &'a str)> {
    from.iter().flat_map(move |a| to.iter().map(move |b| (a.as_str(), b.as_str()))).filter(|(a, b)| a != b)
}
