//! Writers straight in a database, until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::ground::Cell;

const PAUSE: Duration = Duration::from_millis(3);

pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// So many, each with a session of its own; `sql` says what one does at its turn. Two of them may meet in opposite order.
    pub(crate) async fn start(
        cell: &Cell,
        count: i64,
        sql: impl Fn(i64) -> String + Clone + Send + 'static,
    ) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), Vec::new());
        for number in 0..count {
            let (client, stop, sql) = (cell.session().await, stop.clone(), sql.clone());
            tasks.push(tokio::spawn(async move {
                let mut turn = number;
                while !stop.load(Ordering::SeqCst) {
                    turn += 7;
                    if let Err(error) = client.batch_execute(&format!("BEGIN; {}; COMMIT", sql(turn))).await {
                        assert_eq!(error.code().unwrap().code(), "40P01", "{error:?}");
                        client.batch_execute("ROLLBACK").await.unwrap();
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }));
        }
        Self { stop, tasks }
    }

    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}
