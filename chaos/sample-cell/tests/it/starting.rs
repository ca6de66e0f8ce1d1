//! What a cell says when it cannot start.

use super::*;

async fn refused(options: Options) -> sample_cell::Error {
    Cell::start(options, CancellationToken::new()).await.expect_err("it must not start")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_whose_ports_are_taken_says_which() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();

    let mut agent = options(directory.path());
    agent.agent_listen.clone_from(&address);
    let error = refused(agent).await;
    assert_eq!(error.code(), "PORT_IN_USE");
    assert!(format!("{:?}", anyhow::Error::new(error)).contains(&address));

    let mut gate = options(directory.path());
    gate.gate_listen = vec!["127.0.0.1:0".into(), address.clone()];
    let error = refused(gate).await;
    assert_eq!(error.code(), "PORT_IN_USE");
    assert!(error.hint().contains("port"));
    assert!(format!("{:?}", anyhow::Error::new(error)).contains(&address));

    // What was started before the failure has let go of the data directory.
    Running::start(options(directory.path())).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_cell_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    Running::start(options(directory.path())).await.stop().await;
    let mut other = Options::new(CellId::new("c2").unwrap(), directory.path());
    other.insecure_plaintext = true;
    assert_eq!(refused(other).await.code(), "OTHER_CELL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(options(directory.path())).await;
    let error = refused(options(directory.path())).await;
    assert_eq!(error.code(), "STORE_NOT_OPENED");
    assert!(error.hint().contains("--data-dir"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_without_a_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.shop = true;
    let error = refused(options).await;
    assert_eq!(error.code(), "INVALID_OPTION");
    assert!(error.to_string().contains("shop"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_key_that_is_none_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.trusted_keys = vec!["not hex".into()];
    assert_eq!(refused(options).await.code(), "INVALID_OPTION");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_nothing_can_be_passed_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let on = |database: Option<&str>, applications: &[&str]| Options {
        database: database.map(str::to_owned),
        application: applications.iter().map(ToString::to_string).collect(),
        ..options(directory.path())
    };
    // Nobody is asked at that address before the options are in order.
    let nowhere = Some("postgres://127.0.0.1:1/none");
    for (options, wrong) in [
        (on(None, &["http://127.0.0.1:3000"]), "--database"),
        (on(nowhere, &["127.0.0.1:3000"]), "\"127.0.0.1:3000\" is not http://host:port"),
        (on(nowhere, &["http://h:1", "http://h:2", "http://h:3"]), "3 applications for 2 gates"),
    ] {
        let error = refused(options).await;
        assert_eq!(error.code(), "INVALID_OPTION");
        assert!(
            error.to_string().starts_with("option --application: ") && error.to_string().contains(wrong),
            "{error}"
        );
    }
}
