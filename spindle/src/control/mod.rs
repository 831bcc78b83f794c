//! The control plane: the single owner of the object model, and the methods that change it.
//!
//! A method validates its parameters against the [`model::Model`] first, then asks the [`Backplane`] to make it
//! so, and only then writes it down; when the backplane fails, what it had begun is undone before the error is
//! answered. So nothing half-applied stays. Changes are serialised by one lock; getters take it for moments
//! only, so that a removal that waits for a slow disk does not silence them.
//!
//! Two backplanes exist: the live one drives the cores (`start`), the dry one only checks (`spindle check`).

pub mod access;
pub mod bdevs;
pub mod decorators;
pub mod dry;
pub mod info;
pub mod luns;
pub mod model;
pub mod portals;
pub mod save;
mod sessions;
pub mod specs;
pub mod targets;

use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use spindle_bdev::{Bdev, BdevInfo};
use spindle_conf::jsonrpc::{Methods, RpcError};
use spindle_conf::load::{Call, ConfigFile};

use model::{LunMap, Model};
use specs::{FileCreate, MallocCreate, NullCreate, Portal};

/// A device to be made: what the method said, with the identity settled.
#[derive(Clone, Debug, PartialEq)]
pub enum BdevSpec {
    /// RAM disk.
    Malloc(MallocCreate),
    /// Reads nothing, writes nowhere.
    Null(NullCreate),
    /// File or block device; the flag says whether RPC calls its driver `uring` or `aio`.
    File(FileCreate, bool),
}

/// A logical unit to be opened: its number, and its device.
pub type Unit = (u32, Arc<dyn Bdev>);

/// What carries out changes. Every call has either happened on all cores when it returns, or not at all.
pub trait Backplane: Send + Sync {
    /// Makes a device.
    fn make_bdev(&self, name: &str, uuid: [u8; 16], spec: &BdevSpec) -> Result<Arc<dyn Bdev>, RpcError>;
    /// Opens logical units on every core, all or none.
    fn open_lus(&self, units: &[Unit]) -> Result<(), RpcError>;
    /// Closes it: its gate closes, its tasks end, its channels go.
    fn close_lu(&self, lu: u32) -> Result<(), RpcError>;
    /// It is about to have fewer blocks; returns when no operation reaches beyond them any more.
    fn lu_shrinks(&self, lu: u32, blocks: u64) -> Result<(), RpcError>;
    /// Its size or identity has changed.
    fn lu_changed(&self, lu: u32, info: &BdevInfo) -> Result<(), RpcError>;
    /// The LUNs of a map are now these.
    fn set_luns(&self, map: u32, luns: &LunMap) -> Result<(), RpcError>;
    /// Starts to listen; answers the port (a portal may ask for port 0).
    fn listen(&self, group: u16, portal: &Portal) -> Result<u16, RpcError>;
    /// Stops listening.
    fn unlisten(&self, group: u16, portal: &Portal);
    /// Who may log in to what, from now on.
    fn apply_access(&self, model: &Model) -> Result<(), RpcError>;
    /// Cores and what they are busy with.
    fn reactors(&self) -> Value;
    /// Sessions and connections.
    fn connections(&self) -> Value;
    /// Moves a session to another core, or says why it stays.
    fn move_session(&self, tsih: u16, core: u8) -> Result<(), RpcError>;
    /// Counters of a logical unit over all cores.
    fn lu_stats(&self, lu: u32) -> Value;
    /// Memory: arena and pools.
    fn memory(&self) -> Value;
    /// Tasks alive now.
    fn tasks(&self) -> Value;
}

/// The control plane.
pub struct Control {
    model: Mutex<Model>,
    change: Mutex<()>,
    backplane: Arc<dyn Backplane>,
}

impl Control {
    /// An empty model over a backplane.
    pub fn new(backplane: Arc<dyn Backplane>) -> Control {
        Control { model: Mutex::new(Model::default()), change: Mutex::new(()), backplane }
    }

    /// The model, for a moment.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        // A panic while the lock was held is a bug of ours; in release builds it has ended the process.
        self.model.lock().expect("no method panics while it holds the model")
    }

    /// One change at a time.
    fn changing(&self) -> MutexGuard<'_, ()> {
        self.change.lock().expect("no method panics while it changes the model")
    }

    /// What carries out changes.
    pub fn backplane(&self) -> &dyn Backplane {
        self.backplane.as_ref()
    }

    /// Tells the cores who may log in, unless a configuration is being replayed: then once, at its end.
    fn apply_access(&self) -> Result<(), RpcError> {
        let model = self.model();
        if model.replaying { Ok(()) } else { self.backplane.apply_access(&model) }
    }

    /// The same after a change of the model; if it fails, the change is undone, at the cores too.
    fn apply_or(&self, undo: impl FnOnce(&mut Model)) -> Result<(), RpcError> {
        let Err(error) = self.apply_access() else { return Ok(()) };
        undo(&mut self.model());
        if let Err(again) = self.apply_access() {
            tracing::error!("going back to the old access lists: {}", again.message);
        }
        Err(error)
    }

    /// Replays a configuration; stops at the first call that fails and says which.
    pub fn replay(&self, methods: &Methods<Control>, file: &ConfigFile) -> Result<usize, RpcError> {
        self.model().replaying = true;
        let mut done = 0;
        let mut failed = None;
        for (place, call) in file.calls() {
            if let Err(e) = self.replay_one(methods, call) {
                let message = format!("{place} ({}): {}", call.method, e.message);
                failed = Some(RpcError { code: e.code, message, data: e.data });
                break;
            }
            done += 1;
        }
        self.model().replaying = false;
        match failed {
            Some(e) => Err(e),
            None => self.apply_access().map(|()| done),
        }
    }

    fn replay_one(&self, methods: &Methods<Control>, call: &Call) -> Result<Value, RpcError> {
        methods.call(self, &call.method, call.params.clone())
    }
}

/// All methods.
pub fn methods() -> Methods<Control> {
    let mut methods = Methods::new();
    bdevs::register(&mut methods);
    decorators::register(&mut methods);
    portals::register(&mut methods);
    access::register(&mut methods);
    targets::register(&mut methods);
    luns::register(&mut methods);
    sessions::register(&mut methods);
    save::register(&mut methods);
    info::register(&mut methods);
    info::register_list(&mut methods);
    methods
}

/// The reference page of all methods, as Markdown.
pub fn reference(methods: &Methods<Control>) -> String {
    let mut page = String::from(include_str!("reference.md"));
    page.push_str("# Methods\n\n");
    for info in methods.infos() {
        page.push_str(&format!("## {}\n\n{}\n\n", info.name, info.about));
        if !info.params.is_empty() {
            page.push_str("| parameter | type | | meaning |\n|---|---|---|---|\n");
            for p in info.params {
                let needed = if p.required { "needed" } else { "" };
                page.push_str(&format!("| `{}` | {} | {needed} | {} |\n", p.name, p.kind, p.about));
            }
            page.push('\n');
        }
    }
    // One new line ends the page.
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

/// A parameter row of a method table.
const fn need(name: &'static str, kind: &'static str, about: &'static str) -> spindle_conf::jsonrpc::Param {
    spindle_conf::jsonrpc::Param { name, kind, required: true, about }
}

/// An optional one.
const fn may(name: &'static str, kind: &'static str, about: &'static str) -> spindle_conf::jsonrpc::Param {
    spindle_conf::jsonrpc::Param { name, kind, required: false, about }
}

/// Many methods answer just that they did it.
fn done() -> Value {
    json!(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_reference_is_that_of_the_methods() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rpc.md");
        let committed = std::fs::read_to_string(&page).unwrap_or_default();
        let same = committed == reference(&methods());
        assert!(same, "docs/rpc.md is old; run: cargo run -p spindle -- reference > docs/rpc.md");
    }
}
