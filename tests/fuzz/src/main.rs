//! Lists the fuzz targets, writes their seeds, and repeats single inputs.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use spindle_fuzz::{TARGETS, target};

const USAGE: &str = "usage: spindle-fuzz list | seeds FOLDER | replay TARGET FILE...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["list"] => {
            TARGETS.iter().for_each(|t| println!("{} {}", t.name, t.bytes_max));
            Ok(())
        }
        ["seeds", folder] => write_seeds(Path::new(folder)).map_err(|e| format!("{folder}: {e}")),
        ["replay", name, files @ ..] => replay(name, files),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("spindle-fuzz: {why}");
            ExitCode::from(2)
        }
    }
}

/// A folder of seeds and a dictionary for each target, as libFuzzer reads them.
fn write_seeds(folder: &Path) -> std::io::Result<()> {
    for t in TARGETS {
        let seeds = folder.join(t.name);
        std::fs::create_dir_all(&seeds)?;
        for (n, seed) in (t.seeds)().iter().enumerate() {
            std::fs::write(seeds.join(format!("seed-{n:03}")), seed)?;
        }
        let quoted = |word: String| {
            let escaped: String = word.bytes().map(|b| format!("\\x{b:02x}")).collect();
            format!("\"{escaped}\"\n")
        };
        // libFuzzer takes no empty dictionary.
        let words: String = (t.words)().into_iter().map(quoted).collect();
        if !words.is_empty() {
            std::fs::write(folder.join(format!("{}.dict", t.name)), words)?;
        }
    }
    Ok(())
}

fn replay(name: &str, files: &[&str]) -> Result<(), String> {
    let target = target(name).ok_or_else(|| format!("there is no target {name}; list names them all"))?;
    for file in files {
        let bytes = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
        println!("{file}: {} bytes", bytes.len());
        (target.run)(&bytes);
    }
    println!("{name}: {} inputs, all well", files.len());
    Ok(())
}
