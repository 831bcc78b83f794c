//! What the seeds have reached together, and whether that is enough.

use std::collections::BTreeMap;
use std::fmt::Write;

use spindle_iscsi_wire::{InitiatorOpcode, TargetOpcode};
use spindle_scsi::task::{AbortCause, CAUSES, STATES, TaskState};

/// Counters of one seed or of many.
#[derive(Clone, Default, Debug)]
pub struct Counters {
    /// How often a task in a state met a cause to end it.
    pub aborts: [[u64; CAUSES]; STATES],
    /// Tasks seen in a state while their gate was closed.
    pub gates: [u64; STATES],
    /// Connections cut inside a PDU of an opcode.
    pub cuts: BTreeMap<u8, u64>,
    /// Tasks that had to wait for memory.
    pub waited_for_memory: u64,
    /// Everything else.
    pub named: BTreeMap<String, u64>,
}

/// PDUs inside which a connection must have been cut.
const CUTS: [u8; 13] = [0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x20, 0x21, 0x22, 0x23, 0x25, 0x26, 0x31];

impl Counters {
    /// Adds those of a seed.
    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.aborts.iter_mut().flatten().zip(other.aborts.iter().flatten()) {
            *mine += theirs;
        }
        for (mine, theirs) in self.gates.iter_mut().zip(other.gates) {
            *mine += theirs;
        }
        for (opcode, n) in &other.cuts {
            *self.cuts.entry(*opcode).or_default() += n;
        }
        self.waited_for_memory += other.waited_for_memory;
        for (name, n) in &other.named {
            *self.named.entry(name.clone()).or_default() += n;
        }
    }

    /// What must have been reached and was not. `excused` names cells of the table: `State Cause reason`.
    pub fn missing(&self, excused: &str) -> Vec<String> {
        let listed = |row: &str, column: &str| {
            excused.lines().any(|line| {
                let mut words = line.split_whitespace();
                (words.next(), words.next()) == (Some(row), Some(column))
            })
        };
        let mut missing = Vec::new();
        for state in TaskState::ALL {
            for cause in AbortCause::ALL {
                let (row, column) = (format!("{state:?}"), format!("{cause:?}"));
                let reached = self.aborts[state as usize][cause as usize] > 0;
                if !reached && !listed(&row, &column) {
                    missing.push(format!("no task in {row} met {column}"));
                }
            }
            let row = format!("{state:?}");
            if self.gates[state as usize] == 0 && !listed(&row, "Gate") {
                missing.push(format!("no gate was closed while a task was in {row}"));
            }
        }
        for opcode in CUTS {
            if !self.cuts.contains_key(&opcode) {
                missing.push(format!("no connection was cut inside {}", pdu(opcode)));
            }
        }
        if self.waited_for_memory == 0 {
            missing.push("no pool was ever empty".to_owned());
        }
        missing
    }

    /// Tables for people.
    pub fn show(&self) -> String {
        let mut out = String::from("Tasks by state that met a cause to end them:\n");
        let _ = write!(out, "{:<14}", "");
        for cause in AbortCause::ALL {
            let _ = write!(out, "{:>17}", format!("{cause:?}"));
        }
        let _ = writeln!(out, "{:>17}", "gate closed");
        for state in TaskState::ALL {
            let _ = write!(out, "{:<14}", format!("{state:?}"));
            for cause in AbortCause::ALL {
                let _ = write!(out, "{:>17}", self.aborts[state as usize][cause as usize]);
            }
            let _ = writeln!(out, "{:>17}", self.gates[state as usize]);
        }
        let _ = writeln!(out, "\nConnections cut inside:");
        for (opcode, n) in &self.cuts {
            let _ = writeln!(out, "{n:>12}  {}", pdu(*opcode));
        }
        let _ = writeln!(out, "\n{:>12}  tasks that waited for memory", self.waited_for_memory);
        for (name, n) in &self.named {
            let _ = writeln!(out, "{n:>12}  {name}");
        }
        out
    }
}

fn pdu(opcode: u8) -> String {
    let mut header = [0; 48];
    header[0] = opcode;
    match (InitiatorOpcode::of(&header), TargetOpcode::of(&header)) {
        (Some(name), _) => format!("{name:?}"),
        (_, Some(name)) => format!("{name:?}"),
        _ => format!("opcode {opcode:#04x}"),
    }
}
