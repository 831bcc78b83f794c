//! What is counted.

use anyhow::Result;
use clap::ValueEnum;

use crate::alone;
use crate::device::Disk;
use crate::parts;
use crate::world::{Ask, World};

/// Something that is done many times. Commands carry 4 KiB and come 32 in a turn, unless their name says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scenario {
    /// READ from the null device
    ReadNull,
    /// WRITE with immediate data to the null device
    WriteNull,
    /// READ from the null device beside 1,000 sessions and 1,000 units that are idle
    ReadNullCrowd,
    /// WRITE beside them
    WriteNullCrowd,
    /// READ beside them, one in a turn
    ReadNullAloneCrowd,
    /// READ, one in a turn
    ReadNullAlone,
    /// WRITE, one in a turn
    WriteNullAlone,
    /// WRITE after an R2T
    WriteNullSolicited,
    /// READ from memory
    ReadRam,
    /// WRITE to memory
    WriteRam,
    /// READ from memory, one in a turn
    ReadRamAlone,
    /// WRITE to memory, one in a turn
    WriteRamAlone,
    /// READ by an operation, as of a device that needs time
    ReadSlow,
    /// WRITE by an operation
    WriteSlow,
    /// READ under both digests
    ReadNullDigests,
    /// WRITE under both digests
    WriteNullDigests,
    /// READ from memory under both digests
    ReadRamDigests,
    /// WRITE to memory under both digests
    WriteRamDigests,
    /// TEST UNIT READY
    TestUnitReady,
    /// READ without a transport: mid-level, pool, channel and the null device
    EngineReadNull,
    /// WRITE without a transport
    EngineWriteNull,
    /// READ from memory without a transport
    EngineReadRam,
    /// WRITE to memory without a transport: pages are exchanged
    EngineWriteRam,
    /// A turn with nothing to do, of a core with 1,000 idle sessions and units
    IdleTurn,
    /// A command PDU parsed and a Data-In PDU made
    Pdu,
    /// A vector taken from the pool and put back
    Pool,
    /// A message between two cores
    Ring,
}

impl Scenario {
    /// All of them.
    pub fn all() -> Vec<Scenario> {
        Self::value_variants().to_vec()
    }

    /// As it is written on the command line and in the budget.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadNull => "read-null",
            Self::WriteNull => "write-null",
            Self::ReadNullCrowd => "read-null-crowd",
            Self::WriteNullCrowd => "write-null-crowd",
            Self::ReadNullAloneCrowd => "read-null-alone-crowd",
            Self::ReadNullAlone => "read-null-alone",
            Self::WriteNullAlone => "write-null-alone",
            Self::WriteNullSolicited => "write-null-solicited",
            Self::ReadRam => "read-ram",
            Self::WriteRam => "write-ram",
            Self::ReadRamAlone => "read-ram-alone",
            Self::WriteRamAlone => "write-ram-alone",
            Self::ReadSlow => "read-slow",
            Self::WriteSlow => "write-slow",
            Self::ReadNullDigests => "read-null-digests",
            Self::WriteNullDigests => "write-null-digests",
            Self::ReadRamDigests => "read-ram-digests",
            Self::WriteRamDigests => "write-ram-digests",
            Self::EngineReadNull => "engine-read-null",
            Self::EngineWriteNull => "engine-write-null",
            Self::EngineReadRam => "engine-read-ram",
            Self::EngineWriteRam => "engine-write-ram",
            Self::TestUnitReady => "test-unit-ready",
            Self::IdleTurn => "idle-turn",
            Self::Pdu => "pdu",
            Self::Pool => "pool",
            Self::Ring => "ring",
        }
    }

    /// What it may cost no more than: the same without a crowd of idle ones.
    pub fn twin(self) -> Option<Scenario> {
        match self {
            Self::ReadNullCrowd => Some(Self::ReadNull),
            Self::WriteNullCrowd => Some(Self::WriteNull),
            Self::ReadNullAloneCrowd => Some(Self::ReadNullAlone),
            _ => None,
        }
    }

    /// Does it.
    pub fn run(self, count: u32) -> Result<()> {
        let drive = |disk, digests, ask, batch| World::new(disk, digests, 0)?.run(ask, count, batch);
        let crowd = |ask, batch| World::new(Disk::Null, false, 1000)?.run(ask, count, batch);
        match self {
            Self::ReadNullCrowd => crowd(Ask::Read, 32),
            Self::WriteNullCrowd => crowd(Ask::Write, 32),
            Self::ReadNullAloneCrowd => crowd(Ask::Read, 1),
            Self::ReadNull => drive(Disk::Null, false, Ask::Read, 32),
            Self::WriteNull => drive(Disk::Null, false, Ask::Write, 32),
            Self::ReadNullAlone => drive(Disk::Null, false, Ask::Read, 1),
            Self::WriteNullAlone => drive(Disk::Null, false, Ask::Write, 1),
            Self::WriteNullSolicited => drive(Disk::Null, false, Ask::WriteSolicited, 32),
            Self::ReadRam => drive(Disk::Ram, false, Ask::Read, 32),
            Self::WriteRam => drive(Disk::Ram, false, Ask::Write, 32),
            Self::ReadRamAlone => drive(Disk::Ram, false, Ask::Read, 1),
            Self::WriteRamAlone => drive(Disk::Ram, false, Ask::Write, 1),
            Self::ReadSlow => drive(Disk::Slow, false, Ask::Read, 32),
            Self::WriteSlow => drive(Disk::Slow, false, Ask::Write, 32),
            Self::ReadNullDigests => drive(Disk::Null, true, Ask::Read, 32),
            Self::WriteNullDigests => drive(Disk::Null, true, Ask::Write, 32),
            Self::ReadRamDigests => drive(Disk::Ram, true, Ask::Read, 32),
            Self::WriteRamDigests => drive(Disk::Ram, true, Ask::Write, 32),
            Self::EngineReadNull => alone::run(Disk::Null, false, count),
            Self::EngineWriteNull => alone::run(Disk::Null, true, count),
            Self::EngineReadRam => alone::run(Disk::Ram, false, count),
            Self::EngineWriteRam => alone::run(Disk::Ram, true, count),
            Self::TestUnitReady => drive(Disk::Null, false, Ask::Nothing, 32),
            Self::IdleTurn => World::new(Disk::Null, false, 1000)?.idle(count),
            Self::Pdu => parts::pdu(count),
            Self::Pool => parts::pool(count),
            Self::Ring => parts::ring(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for scenario in Scenario::all() {
            assert_eq!(scenario.to_possible_value().unwrap().get_name(), scenario.name());
        }
    }

    #[test]
    fn the_parts_run() {
        for scenario in [Scenario::Pdu, Scenario::Pool, Scenario::Ring] {
            scenario.run(100).unwrap();
        }
    }
}
