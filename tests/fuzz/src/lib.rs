//! What the fuzzers do with their bytes: one function a target, free of any fuzzing library.
//!
//! Everything that a stranger can send ends in one of the functions of [`TARGETS`]. They panic when a rule is broken,
//! and for no other reason. Three things run them:
//!
//! * `fuzz/` beside this crate, a workspace of its own in cargo-fuzz's layout, which needs a nightly compiler and
//!   libFuzzer: `ci/fuzz.sh` gives each target its minute;
//! * the tests of this crate, on any compiler: every seed and every input that once failed (`regressions/`);
//! * `cargo run -p spindle-fuzz -- replay TARGET FILE...`, to look at one input with a debugger.
//!
//! Seeds are programs' output, not files: [`Target::seeds`] writes them, so that they follow the formats as they
//! change.
#![forbid(unsafe_code)]

pub mod cdb;
pub mod config_file;
pub mod input;
pub mod login;
pub mod memory;
pub mod rpc;
pub mod session;
pub mod spec;
pub mod wire;

/// Something that takes a stranger's bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: of the fuzz target, of its folder of regressions.
    pub name: &'static str,
    /// One input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that stand in good inputs.
    pub words: fn() -> Vec<String>,
    /// Longest input that is of use.
    pub bytes_max: usize,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "wire", run: wire::run, seeds: wire::seeds, words: login::words, bytes_max: 1024 },
    Target { name: "login", run: login::run, seeds: login::seeds, words: login::words, bytes_max: 8192 },
    Target {
        name: "session",
        run: session::run,
        seeds: session::seeds,
        words: login::words,
        bytes_max: 1024,
    },
    Target { name: "cdb", run: cdb::run, seeds: cdb::seeds, words: no_words, bytes_max: 4096 },
    Target { name: "rpc", run: rpc::run, seeds: rpc::seeds, words: rpc::words, bytes_max: 4096 },
    Target { name: "spec", run: spec::run, seeds: spec::seeds, words: no_words, bytes_max: 1024 },
    Target { name: "memory", run: memory::run, seeds: memory::seeds, words: no_words, bytes_max: 1024 },
    Target {
        name: "config_file",
        run: config_file::run,
        seeds: config_file::seeds,
        words: config_file::words,
        bytes_max: 4096,
    },
];

/// The target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// Runs one input; what the fuzz targets call.
///
/// # Panics
/// If a rule is broken, or there is no target of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = target(name).expect("fuzz targets are named after the table");
    (target.run)(data);
}

fn no_words() -> Vec<String> {
    Vec::new()
}
