//! The table of roles over the services as they are compiled.

use std::collections::BTreeSet;

use cell_trust::Rpc;
use prost::Message;

/// Path of every method of every service of ours.
fn methods() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(cell_protos::DESCRIPTOR_SET).expect("a descriptor set");
    let mut methods = BTreeSet::new();
    for file in files.file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods
}

#[test]
fn every_rpc_of_every_service_is_in_the_table_of_roles_and_none_that_is_gone() {
    let methods = methods();
    assert!(methods.len() > 20, "{methods:?}");
    let missing: Vec<&String> = methods.iter().filter(|path| Rpc::of_path(path).is_none()).collect();
    assert!(missing.is_empty(), "nobody may call these; name them in protos/trust/src/role.rs: {missing:#?}");
    let in_table = Rpc::ALL.iter().map(|rpc| rpc.path()).filter(|path| path.starts_with("/cellway."));
    let gone: Vec<&str> = in_table.filter(|path| !methods.contains(*path)).collect();
    assert!(gone.is_empty(), "no service has these any more: {gone:#?}");
}
