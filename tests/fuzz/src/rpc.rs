//! JSON-RPC: the stream's framing and every method, on a control plane that opens nothing.
//!
//! The first byte says how. Either the rest are bytes of the stream, in pieces of any size; or a program that calls
//! methods of the real table with values out of a small one, so that calls that fit each other are soon found.
//!
//! What must hold: nothing panics; a call that fails has changed nothing; and the configuration that was saved can be
//! replayed, and says the same when it is saved again.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use spindle::control::dry::Dry;
use spindle::control::save::saved;
use spindle::control::{Control, methods};
use spindle_conf::jsonrpc::Methods;
use spindle_conf::jsonrpc::codec::Decoder;
use spindle_conf::load::ConfigFile;

use crate::input::Input;

/// Calls of one input.
const CALLS_MAX: u32 = 64;
/// JSON-RPC 2.0 §5.1: internal error.
const INTERNAL: i64 = -32603;

thread_local! {
    static METHODS: RefCell<Option<Rc<Methods<Control>>>> = const { RefCell::new(None) };
}

fn table() -> Rc<Methods<Control>> {
    METHODS.with(|place| place.borrow_mut().get_or_insert_with(|| Rc::new(methods())).clone())
}

fn control() -> Control {
    Control::new(Arc::new(Dry::new().expect("a megabyte can be had")))
}

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(how) = input.byte() else { return };
    let control = control();
    if how & 1 == 0 {
        stream(&control, usize::from(how >> 1) + 1, input.rest());
    } else {
        program(&control, &mut input);
    }
    check_saved(&control);
}

fn stream(control: &Control, piece: usize, bytes: &[u8]) {
    let mut decoder = Decoder::new();
    let mut calls = 0;
    for part in bytes.chunks(piece) {
        decoder.push(part);
        while let Some(value) = decoder.next_value() {
            let Ok(request) = value else { return };
            calls += 1;
            if calls > CALLS_MAX {
                return;
            }
            ask(control, request);
        }
    }
}

fn program(control: &Control, input: &mut Input<'_>) {
    let table = table();
    let infos: Vec<_> = table.infos().copied().collect();
    let values = values();
    for id in 0..CALLS_MAX {
        let Some(method) = input.byte() else { return };
        let info = &infos[usize::from(method) % infos.len()];
        let mut params = Map::new();
        for p in info.params {
            match input.byte() {
                None => return,
                Some(0) => {}
                Some(n) => {
                    let value = values[usize::from(n) % values.len()].clone();
                    params.insert(p.name.into(), value);
                }
            }
        }
        ask(control, json!({ "jsonrpc": "2.0", "id": id, "method": info.name, "params": params }));
    }
}

fn ask(control: &Control, mut request: Value) {
    keep_from_files(&mut request);
    let single = request.is_object();
    let notification = single && request.get("id").is_none();
    let before = saved(&control.model());
    let answer = table().answer(control, request);
    let Some(answer) = answer else {
        assert!(notification || !single, "a request with an id is answered");
        return;
    };
    serde_json::to_string(&answer).expect("an answer can be written");
    for one in answer.as_array().map_or(std::slice::from_ref(&answer), Vec::as_slice) {
        assert_eq!(one["jsonrpc"], "2.0");
        let Some(error) = one.get("error") else {
            assert!(one.get("result").is_some(), "an answer has a result or an error");
            continue;
        };
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
        assert_ne!(error["code"].as_i64(), Some(INTERNAL), "a peer's input is no internal error: {error}");
        if single {
            assert_eq!(saved(&control.model()), before, "a call that failed has changed something: {error}");
        }
    }
}

fn check_saved(control: &Control) {
    let file = saved(&control.model());
    let second = self::control();
    let calls = second.replay(&table(), &file);
    let calls =
        calls.unwrap_or_else(|e| panic!("what was saved cannot be replayed: {}: {file:?}", e.message));
    assert_eq!(calls, file.calls().count());
    assert_eq!(saved(&second.model()), file, "replayed, it says something else");
}

/// A configuration file, replayed as far as it goes.
pub fn replay(mut file: ConfigFile) {
    for call in file.subsystems.iter_mut().filter_map(|s| s.config.as_mut()).flatten() {
        keep_from_files(&mut call.params);
    }
    let control = control();
    let _ = control.replay(&table(), &file);
    check_saved(&control);
}

/// Fuzzers have no business with the machine's files.
fn keep_from_files(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                if matches!(key.as_str(), "filename" | "secret_file" | "msecret_file") {
                    *value = json!("/nonexistent/file");
                } else {
                    keep_from_files(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(keep_from_files),
        _ => {}
    }
}

/// Values that some method takes, and some that none should.
fn values() -> Vec<Value> {
    vec![
        json!(null),
        json!("m0"),
        json!("m1"),
        json!("disk"),
        json!("iqn.2026-01.org.example:disk"),
        json!(0),
        json!(1),
        json!(2),
        json!(512),
        json!(4096),
        json!(2048),
        json!(-1),
        json!(u64::MAX),
        json!(1.5),
        json!(true),
        json!(false),
        json!(""),
        json!("ANY"),
        json!("none"),
        json!("00112233-4455-6677-8899-aabbccddeeff"),
        json!([]),
        json!({}),
        json!(["ANY"]),
        json!(["iqn.2026-01.org.example:*", "!iqn.2026-01.org.example:bad"]),
        json!(["10.0.0.0/8", "fd00::/8", "127.0.0.1"]),
        json!([{ "host": "127.0.0.1", "port": "3260" }]),
        json!([{ "host": "0.0.0.0", "port": "3261" }, { "host": "[::1]", "port": "0" }]),
        json!([{ "pg_tag": 1, "ig_tag": 1 }]),
        json!([{ "pg_tag": 2, "ig_tag": 2 }, { "pg_tag": 1, "ig_tag": 2 }]),
        json!([{ "bdev_name": "m0", "lun_id": 0 }]),
        json!([{ "bdev_name": "m1", "lun_id": 3 }, { "bdev_name": "m0" }]),
        json!([{ "user": "anna", "secret": "annas-secret-1" }]),
        json!([{ "user": "bert", "secret": "berts-secret-1", "muser": "disk", "msecret": "disks-secret-1" }]),
        json!([{ "user": "anna", "secret": "short" }]),
    ]
}

/// The calls of a small set-up, as a stream and as a program, and their undoing.
pub fn seeds() -> Vec<Vec<u8>> {
    let call = |method: &str, params: Value| {
        json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string()
    };
    let set_up = [
        call("bdev_malloc_create", json!({ "name": "m0", "num_blocks": 2048, "block_size": 512 })),
        call("bdev_null_create", json!({ "name": "m1", "num_blocks": 2048, "block_size": 4096 })),
        call(
            "iscsi_create_portal_group",
            json!({ "tag": 1, "portals": [{ "host": "127.0.0.1", "port": "3260" }] }),
        ),
        call("iscsi_create_initiator_group", json!({ "tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"] })),
        call(
            "iscsi_create_auth_group",
            json!({ "tag": 1, "secrets": [{ "user": "anna", "secret": "annas-secret-1" }] }),
        ),
        call(
            "iscsi_create_target_node",
            json!({ "name": "disk", "pg_ig_maps": [{ "pg_tag": 1, "ig_tag": 1 }],
                    "luns": [{ "bdev_name": "m0", "lun_id": 0 }], "queue_depth": 64 }),
        ),
        call("save_config", Value::Null),
    ];
    let mut seeds = vec![
        [&[0xFE][..], set_up.concat().as_bytes()].concat(),
        [&[6][..], call("bdev_get_bdevs", json!({ "name": "m0" })).as_bytes()].concat(),
        [&[0xFE][..], b"[{\"jsonrpc\":\"2.0\",\"method\":\"save_config\"},7]".as_slice()].concat(),
    ];
    // Each method once, with each of its parameters in turn left out.
    let table = table();
    for (n, info) in table.infos().enumerate() {
        let mut program = vec![1, n as u8];
        program.extend((0..info.params.len()).map(|p| p as u8 * 5 + 1));
        program.push(n as u8);
        program.extend((0..info.params.len()).map(|p| if p % 2 == 0 { 0 } else { p as u8 + 5 }));
        seeds.push(program);
    }
    seeds
}

/// Names of methods and parameters.
pub fn words() -> Vec<String> {
    let table = table();
    let mut words: Vec<String> = table.infos().map(|i| format!("\"{}\"", i.name)).collect();
    let params = table.infos().flat_map(|i| i.params);
    words.extend(params.map(|p| format!("\"{}\":", p.name)));
    words.extend(["\"jsonrpc\":\"2.0\"", "\"id\":1", "\"method\":", "\"params\":{"].map(String::from));
    words.sort_unstable();
    words.dedup();
    words
}
