//! More tenants with something to be done outside of moves than may have a task each.

use cell_model::{Life, TenantId};
use tokio::runtime::Handle;

use crate::cells::Cells;
use crate::paper::Paper;
use crate::takeover::report;

const TENANTS: usize = 1_000;
/// Those that may be under way at one cell, and what the cells, their connections and the test itself need.
const TASKS_MAX: usize = 64 + 64;

#[tokio::test]
async fn tenants_of_a_cell_that_is_away_wait_in_the_table_and_are_granted_when_it_is_back() {
    let cells = Cells::start().await;
    let paper = Paper::new(&cells);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    report(&paper, &nobody.to_string(), 1);
    for number in 0..TENANTS {
        paper.create(TenantId::new(format!("crowd-{number}")).unwrap(), "a");
    }
    let leader = paper.elect();
    for number in 0..10 {
        let here = TenantId::new(format!("here-{number}")).unwrap();
        paper.create(here.clone(), "b");
        paper.until("a cell that is there is not waited for", |paper| paper.life(&here) == Life::Live).await;
        let alive = Handle::current().metrics().num_alive_tasks();
        assert!(alive < TASKS_MAX, "{alive} tasks");
    }
    assert!(!cells.steps().iter().any(|step| step == "a Grant"));
    report(&paper, &cells.a, 2);
    paper.until("everybody is granted", Paper::is_settled).await;
    leader.stop().await;
}
