//! The configuration file, as anybody may have edited it: read, and replayed on a control plane that opens nothing.

use spindle_conf::load::ConfigFile;

/// One input: the text of a file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = match ConfigFile::parse(text) {
        Ok(file) => file,
        Err((_place, why)) => {
            assert!(!why.is_empty(), "an error says what is wrong");
            return;
        }
    };
    let calls = file.calls().count();
    assert!(calls <= text.len() / 12, "{calls} calls out of {} bytes", text.len());
    let _ = file.holds_secrets();
    let written = serde_json::to_string(&file).expect("what was read can be written");
    let again = ConfigFile::parse(&written).expect("and read again");
    assert_eq!(again, file);
    crate::rpc::replay(file);
}

/// A file as one would write it, and its smallest relatives.
pub fn seeds() -> Vec<Vec<u8>> {
    [r#"{"subsystems":[]}"#, r#"{"subsystems":[{"subsystem":"bdev","config":null}]}"#, EXAMPLE]
        .map(|s| s.as_bytes().to_vec())
        .to_vec()
}

/// Names that mean something.
pub fn words() -> Vec<String> {
    [
        "\"subsystems\":",
        "\"subsystem\":",
        "\"config\":",
        "\"method\":",
        "\"params\":",
        "null",
        "true",
        "[]",
        "{}",
    ]
    .map(String::from)
    .to_vec()
}

const EXAMPLE: &str = r#"{ "subsystems": [
  { "subsystem": "bdev", "config": [
    { "method": "bdev_malloc_create", "params": { "name": "m0", "num_blocks": 2048, "block_size": 512 } } ] },
  { "subsystem": "iscsi", "config": [
    { "method": "iscsi_create_portal_group",
      "params": { "tag": 1, "portals": [ { "host": "127.0.0.1", "port": "3260" } ] } },
    { "method": "iscsi_create_initiator_group",
      "params": { "tag": 1, "initiators": ["ANY"], "netmasks": ["127.0.0.0/8"] } },
    { "method": "iscsi_create_target_node",
      "params": { "name": "disk", "pg_ig_maps": [ { "pg_tag": 1, "ig_tag": 1 } ],
                  "luns": [ { "bdev_name": "m0", "lun_id": 0 } ], "queue_depth": 64 } } ] } ] }"#;
