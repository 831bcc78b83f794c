//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use spindle_reactor::{CoreSet, PollMode};

use crate::wake::WakeLatency;

/// Spindle: a SCSI target in user space.
#[derive(Parser, Debug)]
#[command(name = "spindle", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What is logged on standard error: error, warn, info, debug, or a filter such as `spindle=debug`.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER", env = "SPINDLE_LOG")]
    pub log: String,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Serves the targets of a configuration file until it is told to stop.
    Run(Run),
    /// Serves one disk at once, without a configuration: prints its address and stays until Ctrl-C.
    Demo(Demo),
    /// Calls a method of a running target and prints the answer.
    Rpc(Rpc),
    /// Checks a configuration file: every call, without opening devices or portals.
    Check(Check),
    /// Prints the reference of all RPC methods as Markdown.
    Reference,
}

/// Options of a process that serves.
#[derive(Args, Debug, Clone)]
pub struct Serve {
    /// Processors to run on: a list (`2-5`, `0,2`) or a mask (`0xF0`). One reactor on each. [default: one, chosen by us]
    #[arg(long, value_name = "SET")]
    pub cores: Option<CoreSet>,
    /// What an idle core does: `adaptive` sleeps, `always` spins.
    #[arg(long, value_name = "MODE", default_value = "adaptive", value_parser = poll_mode)]
    pub poll: PollMode,
    /// Idle processors of the machine sleep only so deep that they are back within so many microseconds; `0`: they never
    /// halt, for virtual machines; `any`: as the system likes. [default: 50]
    #[arg(long, value_name = "US|any")]
    pub wake_latency: Option<WakeLatency>,
    /// Sessions stay on the core they came to, however busy it is beside others. (`iscsi_move_session` moves them all the
    /// same.)
    #[arg(long)]
    pub no_moves: bool,
    /// Memory for I/O and RAM disks at most (`512M`, `4G`). [default: half of what is available]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Memory for I/O of each core.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    pub pool: u64,
    /// Where the RPC socket is. [default: /run/spindle.sock for root, else in the user's runtime folder]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where reservations and mode pages are kept over a restart. [default: /var/lib/spindle for root, else in the
    /// user's state folder]
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
}

/// `spindle run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Configuration file: JSON as `save_config` answers it. Without it the target starts empty.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// `spindle demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// TCP port; 0 takes any free one.
    #[arg(long, default_value_t = 3260)]
    pub port: u16,
    /// Address to listen at. The demo asks nobody who he is: keep it on loopback unless the network is yours.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub listen: String,
    /// Size of the disk (`64M`, `1G`). A file that exists keeps its own.
    #[arg(long, default_value = "1G", value_parser = size)]
    pub size: u64,
    /// Export this file (made, sparse, if it does not exist) or block device instead of memory.
    #[arg(long, value_name = "PATH", conflicts_with = "null")]
    pub file: Option<PathBuf>,
    /// Open the file past the page cache.
    #[arg(long, requires = "file")]
    pub direct: bool,
    /// Export a disk that forgets everything: for measuring.
    #[arg(long)]
    pub null: bool,
    /// Logical block in bytes: 512 or 4096.
    #[arg(long, default_value_t = 512, value_name = "BYTES")]
    pub block_size: u32,
    /// Physical block in bytes, as initiators are told. Writes of whole ones into memory are not copied.
    #[arg(long, default_value_t = 4096, value_name = "BYTES")]
    pub physical_block_size: u32,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// `spindle rpc`.
#[derive(Args, Debug)]
pub struct Rpc {
    /// Where the RPC socket is.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
    /// Name of the method; `rpc_get_methods` lists them.
    pub method: String,
    /// Parameters as a JSON object, or `-` to read them from standard input.
    pub params: Option<String>,
}

/// `spindle check`.
#[derive(Args, Debug)]
pub struct Check {
    /// Configuration file.
    pub file: PathBuf,
}

fn poll_mode(text: &str) -> Result<PollMode, String> {
    match text {
        "adaptive" => Ok(PollMode::Adaptive),
        "always" => Ok(PollMode::Always),
        _ => Err("adaptive or always".into()),
    }
}

/// `512`, `64K`, `64M`, `4G`, `2T`, also as `KiB`, …: powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_uppercase();
    let shift = match unit.trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("{text:?}: a number with K, M, G or T behind it")),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{text:?}: a number with K, M, G or T behind it"))?;
    number.checked_mul(1 << shift).filter(|n| *n > 0).ok_or_else(|| format!("{text:?} is not a size"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("512", 512), ("64K", 65_536), ("64M", 64 << 20), ("1GiB", 1 << 30), ("2tb", 2 << 40)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "M", "1X", "-1", "0", "99999999999T", "1.5G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
