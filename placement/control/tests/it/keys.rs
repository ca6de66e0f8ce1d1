//! Exchanging the signing key while everything runs.

use cell_client::{WriteOptions, wire};
use cell_control::{Options, key_file};
use cell_trust::{PublicKey, SignedMapping, TrustedKeys};

use crate::nodes::{Nodes, create_cell, new_tenant, tenant_id};

/// What an agent is told to believe.
async fn told(nodes: &Nodes) -> TrustedKeys {
    let report = wire::ReportCellRequest {
        cell: "c1".into(),
        generation: 1,
        gates: Vec::new(),
        agent: "127.0.0.1:1".into(),
        partial: false,
    };
    let answer = nodes.client().report_cell(report).await.unwrap();
    answer.trusted_keys.iter().map(|key| PublicKey::from_bytes(key).unwrap()).collect()
}

async fn signed(nodes: &Nodes) -> SignedMapping {
    nodes.client().get_signed_mapping(&tenant_id("t-1")).await.unwrap()
}

/// One node after another, as an operator does it.
async fn roll(nodes: &mut Nodes, change: impl Fn(&mut Options)) {
    for node in &mut nodes.nodes {
        node.stop().await;
        change(node.options_mut());
        node.start().await;
    }
    // Answered only behind a leader of the new kind that a majority follows.
    nodes.client().confirm_revision(1, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_key_is_exchanged_with_an_overlap_in_which_nothing_is_refused() {
    let (mut nodes, _) = Nodes::cluster(3).await;
    create_cell(&nodes.client(), "c1").await;
    nodes.client().create_tenant(new_tenant("t-1", "c1"), WriteOptions::default()).await.unwrap();
    let old = nodes.nodes[0].handle().public_key();
    let next_file = nodes.dir.path().join("next");
    let next = key_file::generate(&next_file).unwrap();
    let before = signed(&nodes).await;

    roll(&mut nodes, |options| options.trusted_keys = vec![next.to_string()]).await;
    let believed = told(&nodes).await;
    assert!(believed.get(&old.key_id()).is_some() && believed.get(&next.key_id()).is_some());
    assert_eq!(signed(&nodes).await.key_id, old.key_id(), "the next one is believed before it signs");

    roll(&mut nodes, |options| {
        options.signing_key_file.clone_from(&next_file);
        options.trusted_keys = vec![old.to_string()];
    })
    .await;
    let after = signed(&nodes).await;
    assert_eq!(after.key_id, next.key_id());
    // Whoever was told before the exchange believes what is signed after it, and the other way round.
    after.verify(&believed).unwrap();
    before.verify(&told(&nodes).await).unwrap();

    roll(&mut nodes, |options| options.trusted_keys.clear()).await;
    let believed = told(&nodes).await;
    after.verify(&believed).unwrap();
    assert!(before.verify(&believed).is_err(), "the old key signs nothing any more");
}

#[tokio::test]
async fn a_key_to_be_believed_that_is_none_is_refused_at_the_start() {
    let nodes = Nodes::start(1).await;
    let dir = nodes.dir.path();
    let mut options = crate::nodes::options(dir.join("other"), dir.join("key"));
    options.trusted_keys = vec!["abc".into()];
    assert_eq!(cell_control::Service::start(options).await.expect_err("no key").code(), "INVALID_OPTION");
}
