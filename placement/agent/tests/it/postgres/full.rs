//! A target whose disk fills up in the middle of a copy.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cell_client::StepError;

use super::ground::*;
use super::server::Own;

/// A file system of its own for one tablespace. Mounting one takes rights that not everybody has.
struct Small {
    path: PathBuf,
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

impl Small {
    fn mount(path: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let small = Self { path };
        let options = format!("size={size},mode=0700");
        let mounted =
            succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&small.path));
        let is_its_own = mounted && succeeds(Command::new("chown").arg("postgres:").arg(&small.path));
        is_its_own.then_some(small)
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(succeeds(Command::new("mount").args(["-o", &options]).arg(&self.path)));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _unmounted = succeeds(Command::new("umount").arg("-l").arg(&self.path));
        let _removed = std::fs::remove_dir(&self.path);
    }
}

fn beside(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("cellway-full-{}-{name}", std::process::id()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_whose_disk_is_full_says_so_waits_and_goes_on_when_there_is_room() {
    let Some(small) = Small::mount(beside("target"), "6m") else {
        let said = "skipped: no file system can be mounted here, which takes root";
        writeln!(std::io::stderr(), "{said}").unwrap();
        return;
    };
    let ground = Ground::new();
    let server = Own::start("").await;
    let url = server.database().await;
    let admin = session(&url).await;
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", small.path.display());
    admin.batch_execute(&tablespace).await.unwrap();
    admin.batch_execute(&format!("SET default_tablespace = small; {TABLES}")).await.unwrap();
    let a = ground.open("a").await;
    let b = ground.try_open("b", &url, "127.0.0.1:0").await.unwrap();
    ground.pool.grant(&a.agent, &outside(1)).await.unwrap();
    let client = a.session().await;
    accounts(&client, 12_000).await;
    let step = context(1, 1);
    ground.begin(&a, &b, &step).await;
    let full = async {
        loop {
            match ground.pool.import_status(&b.agent, &step).await {
                Err(StepError::Refused { code, reason }) => return (code, reason),
                Ok(progress) => assert!(progress.failure_code.is_empty() && !progress.backfilled, "{progress:?}"),
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (code, reason) = tokio::time::timeout(PATIENCE, full).await.expect("it is full");
    assert!(code == "DATABASE_FULL" && reason.contains("make room"), "{code}: {reason}");
    // The source is served as ever.
    client.batch_execute("UPDATE accounts SET name = 'while it was full' WHERE id % 10 = 0").await.unwrap();
    small.grow("200m");
    let copied = async {
        while !ground.pool.import_status(&b.agent, &step).await.is_ok_and(|progress| progress.backfilled) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, copied).await.expect("it goes on by itself");
    ground.verify(&a, &b, &step).await;
    assert_eq!(b.rows().await, a.rows().await);
    b.close().await;
    a.close().await;
    drop(admin);
    drop(server);
}
