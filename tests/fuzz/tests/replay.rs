//! Every seed and every input that once failed, on any compiler.

use std::path::Path;

use spindle_fuzz::TARGETS;

#[test]
fn seeds_break_no_rule() {
    for t in TARGETS {
        let seeds = (t.seeds)();
        assert!(!seeds.is_empty(), "{} has nothing to begin with", t.name);
        for seed in &seeds {
            assert!(
                seed.len() <= t.bytes_max,
                "{}: a seed of {} bytes is cut by the fuzzer",
                t.name,
                seed.len()
            );
            (t.run)(seed);
            // Programs that end anywhere are programs, too.
            for cut in 0..seed.len().min(200) {
                (t.run)(&seed[..cut]);
            }
        }
    }
}

#[test]
fn inputs_that_failed_once_fail_no_more() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut folders = 0;
    for folder in std::fs::read_dir(&root).expect("the folder is part of the repository") {
        let folder = folder.expect("it can be read").path();
        if !folder.is_dir() {
            continue;
        }
        folders += 1;
        let name = folder.file_name().and_then(|n| n.to_str()).expect("named after a target").to_owned();
        let target = spindle_fuzz::target(&name).unwrap_or_else(|| panic!("no target is called {name}"));
        for file in std::fs::read_dir(&folder).expect("it can be read") {
            let file = file.expect("it can be read").path();
            println!("{}", file.display());
            (target.run)(&std::fs::read(&file).expect("it can be read"));
        }
    }
    println!("{folders} targets have regressions");
}

/// The same bytes a few times with every byte changed: a fuzzer in small, so that the ordinary test run looks a little
/// beyond the seeds.
#[test]
fn seeds_with_one_byte_changed_break_no_rule() {
    for t in TARGETS {
        for seed in (t.seeds)() {
            for at in 0..seed.len().min(300) {
                for value in [0, 1, 0x7F, 0x80, 0xFF, seed[at] ^ 0x10] {
                    let mut changed = seed.clone();
                    changed[at] = value;
                    (t.run)(&changed);
                }
            }
        }
    }
}
