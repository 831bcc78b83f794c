//! What the REPORT commands return: LUNs, supported operation codes, supported task management functions
//! (SPC-5 §6.33, §6.35, §6.36).

use crate::{
    Emit, Lun, be,
    emit::{flag, len16, len32},
};

/// REPORT LUNS data.
pub fn emit_luns(luns: impl IntoIterator<Item = Lun>, w: &mut Emit<'_>) {
    let start = w.full_len();
    w.zeros(8);
    for lun in luns {
        w.u64(lun.0);
    }
    let length = w.full_len() - start - 8;
    w.patch_u32(start, len32(length));
}

/// LUN LIST LENGTH, which allocation does not change, and the LUNs that came. `None` without a header.
pub fn parse_luns(bytes: &[u8]) -> Option<(u32, impl ExactSizeIterator<Item = Lun> + '_)> {
    let length = be::u32(bytes, 0);
    let end = usize::try_from(length).ok()?.saturating_add(8).min(bytes.len());
    let (luns, _) = bytes.get(8..end)?.as_chunks::<8>();
    Some((length, luns.iter().map(|l| Lun::from_bytes(*l))))
}

/// What a command timeouts descriptor says, in seconds; zero says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CommandTimeouts {
    /// COMMAND SPECIFIC.
    pub command_specific: u8,
    /// NOMINAL COMMAND PROCESSING TIMEOUT.
    pub nominal_s: u32,
    /// RECOMMENDED COMMAND TIMEOUT.
    pub recommended_s: u32,
}

impl CommandTimeouts {
    const BYTES: usize = 12;

    fn emit(&self, w: &mut Emit<'_>) {
        w.u16(Self::BYTES as u16 - 2)
            .u8(0)
            .u8(self.command_specific)
            .u32(self.nominal_s)
            .u32(self.recommended_s);
    }

    fn parse(bytes: &[u8]) -> CommandTimeouts {
        CommandTimeouts {
            command_specific: be::u8(bytes, 3),
            nominal_s: be::u32(bytes, 4),
            recommended_s: be::u32(bytes, 8),
        }
    }
}

/// A line of the list of all commands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CommandDescriptor {
    /// OPERATION CODE.
    pub opcode: u8,
    /// SERVICE ACTION, where the opcode has them.
    pub service_action: Option<u16>,
    /// CDB LENGTH.
    pub cdb_bytes: u16,
    /// Written when RCTD asks for it.
    pub timeouts: CommandTimeouts,
}

/// REPORT SUPPORTED OPERATION CODES, all commands, with timeouts if `rctd`.
pub fn emit_all_commands(
    commands: impl IntoIterator<Item = CommandDescriptor>,
    rctd: bool,
    w: &mut Emit<'_>,
) {
    let start = w.full_len();
    w.u32(0);
    for c in commands {
        w.u8(c.opcode).u8(0).u16(c.service_action.unwrap_or(0)).u8(0);
        w.u8(flag(rctd, 1) | flag(c.service_action.is_some(), 0)).u16(c.cdb_bytes);
        if rctd {
            c.timeouts.emit(w);
        }
    }
    let length = w.full_len() - start - 4;
    w.patch_u32(start, len32(length));
}

/// The lines in what an initiator got, as many as are whole.
pub fn parse_all_commands(bytes: &[u8]) -> impl Iterator<Item = CommandDescriptor> + '_ {
    let end =
        usize::try_from(be::u32(bytes, 0)).map_or(bytes.len(), |n| n.saturating_add(4).min(bytes.len()));
    let mut rest = bytes.get(4..end).unwrap_or(&[]);
    core::iter::from_fn(move || {
        let (line, mut tail) = rest.split_first_chunk::<8>()?;
        let mut timeouts = CommandTimeouts::default();
        if line[5] & 2 != 0 {
            let (descriptor, after) = tail.split_at_checked(CommandTimeouts::BYTES)?;
            (timeouts, tail) = (CommandTimeouts::parse(descriptor), after);
        }
        rest = tail;
        Some(CommandDescriptor {
            opcode: line[0],
            service_action: (line[5] & 1 != 0).then_some(be::u16(line, 2)),
            cdb_bytes: be::u16(line, 6),
            timeouts,
        })
    })
}

/// SUPPORT: whether one command is supported.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Support {
    /// 000b: not known at the moment.
    NotAvailable = 0,
    /// 001b: not supported.
    NotSupported = 1,
    /// 011b: as a standard says.
    Standard = 3,
    /// 101b: in a vendor's way.
    VendorSpecific = 5,
}

/// What an initiator learns about one command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OneCommand<'a> {
    /// SUPPORT.
    pub support: Support,
    /// CDB USAGE DATA: a map of the bits the device server looks at. Opcode and service action stand in it
    /// as they are. Empty if the command is not supported.
    pub usage: &'a [u8],
    /// The timeouts descriptor, if asked for.
    pub timeouts: Option<CommandTimeouts>,
}

impl<'a> OneCommand<'a> {
    /// The answer for a command that is not supported: four bytes.
    pub const NOT_SUPPORTED: OneCommand<'static> =
        OneCommand { support: Support::NotSupported, usage: &[], timeouts: None };

    /// Writes the data.
    pub fn emit(&self, w: &mut Emit<'_>) {
        w.u8(0).u8(flag(self.timeouts.is_some(), 7) | self.support as u8);
        w.u16(len16(self.usage.len())).bytes(self.usage);
        if let Some(t) = self.timeouts {
            t.emit(w);
        }
    }

    /// From what an initiator got; `None` if the header or the usage data was cut, or SUPPORT is reserved.
    pub fn parse(bytes: &'a [u8]) -> Option<OneCommand<'a>> {
        let (header, tail) = bytes.split_first_chunk::<4>()?;
        let support = match header[1] & 7 {
            0 => Support::NotAvailable,
            1 => Support::NotSupported,
            3 => Support::Standard,
            5 => Support::VendorSpecific,
            _ => return None,
        };
        let (usage, rest) = tail.split_at_checked(be::u16(header, 2).into())?;
        let timeouts = header[1] & 0x80 != 0 && rest.len() >= CommandTimeouts::BYTES;
        Some(OneCommand { support, usage, timeouts: timeouts.then(|| CommandTimeouts::parse(rest)) })
    }
}

/// A set of task management functions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TaskManagementFunctions {
    /// ABORT TASK.
    pub abort_task: bool,
    /// ABORT TASK SET.
    pub abort_task_set: bool,
    /// CLEAR ACA.
    pub clear_aca: bool,
    /// CLEAR TASK SET.
    pub clear_task_set: bool,
    /// LOGICAL UNIT RESET.
    pub logical_unit_reset: bool,
    /// QUERY TASK.
    pub query_task: bool,
    /// TARGET RESET; obsolete in SPC-5, but iSCSI still has it.
    pub target_reset: bool,
    /// QUERY ASYNCHRONOUS EVENT.
    pub query_asynchronous_event: bool,
    /// QUERY TASK SET.
    pub query_task_set: bool,
    /// I_T NEXUS RESET.
    pub i_t_nexus_reset: bool,
}

impl TaskManagementFunctions {
    fn bytes(self) -> [u8; 2] {
        let first = flag(self.abort_task, 7)
            | flag(self.abort_task_set, 6)
            | flag(self.clear_aca, 5)
            | flag(self.clear_task_set, 4)
            | flag(self.logical_unit_reset, 3)
            | flag(self.query_task, 2)
            | flag(self.target_reset, 1);
        let second = flag(self.query_asynchronous_event, 2)
            | flag(self.query_task_set, 1)
            | flag(self.i_t_nexus_reset, 0);
        [first, second]
    }

    fn from_bytes(bytes: [u8; 2]) -> TaskManagementFunctions {
        let bit = |byte: usize, bit| be::bit(&bytes, byte, bit);
        TaskManagementFunctions {
            abort_task: bit(0, 7),
            abort_task_set: bit(0, 6),
            clear_aca: bit(0, 5),
            clear_task_set: bit(0, 4),
            logical_unit_reset: bit(0, 3),
            query_task: bit(0, 2),
            target_reset: bit(0, 1),
            query_asynchronous_event: bit(1, 2),
            query_task_set: bit(1, 1),
            i_t_nexus_reset: bit(1, 0),
        }
    }
}

/// The timeouts of extended parameter data, in tenths of a second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TmfTimeouts {
    /// The functions the short timeout is for; the others have the long one.
    pub short_for: TaskManagementFunctions,
    /// TASK MANAGEMENT FUNCTIONS LONG TIMEOUT; zero says nothing.
    pub long_ds: u32,
    /// TASK MANAGEMENT FUNCTIONS SHORT TIMEOUT; zero says nothing.
    pub short_ds: u32,
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SupportedTaskManagement {
    /// The functions supported.
    pub functions: TaskManagementFunctions,
    /// With them the data has 16 bytes (REPD), else 4.
    pub timeouts: Option<TmfTimeouts>,
}

impl SupportedTaskManagement {
    /// Writes the data.
    pub fn emit(&self, w: &mut Emit<'_>) {
        w.bytes(&self.functions.bytes()).u8(0);
        match self.timeouts {
            None => {
                w.u8(0);
            }
            Some(t) => {
                w.u8(12).u8(1).u8(0).bytes(&t.short_for.bytes()).u32(t.long_ds).u32(t.short_ds);
            }
        }
    }

    /// From what an initiator got; `None` below four bytes.
    pub fn parse(bytes: &[u8]) -> Option<SupportedTaskManagement> {
        let header = bytes.first_chunk::<4>()?;
        let extended = header[3] >= 12 && bytes.len() >= 16 && be::bit(bytes, 4, 0);
        let timeouts = extended.then(|| TmfTimeouts {
            short_for: TaskManagementFunctions::from_bytes(be::array(bytes, 6)),
            long_ds: be::u32(bytes, 8),
            short_ds: be::u32(bytes, 12),
        });
        let functions = TaskManagementFunctions::from_bytes([header[0], header[1]]);
        Some(SupportedTaskManagement { functions, timeouts })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::LunMethod;

    #[test]
    fn a_list_of_luns_keeps_its_length_when_cut() {
        let luns = [0, 1, 300].map(|n| Lun::single_level(n, LunMethod::Peripheral).unwrap());
        let mut room = [0xEE; 40];
        let mut w = Emit::new(&mut room[..20]);
        emit_luns(luns, &mut w);
        assert_eq!((w.full_len(), w.written()), (32, 20));
        assert_eq!(room[..20], [0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        let (length, got) = parse_luns(&room[..20]).unwrap();
        assert_eq!((length, got.collect::<Vec<_>>()), (24, luns[..1].to_vec()));
    }

    #[test]
    fn all_commands_with_and_without_timeouts() {
        let timeouts = CommandTimeouts { command_specific: 0, nominal_s: 1, recommended_s: 60 };
        let list = [
            CommandDescriptor { opcode: 0x12, service_action: None, cdb_bytes: 6, timeouts },
            CommandDescriptor { opcode: 0x9E, service_action: Some(0x10), cdb_bytes: 16, timeouts },
        ];
        let mut room = [0xEE; 64];
        let mut w = Emit::new(&mut room);
        emit_all_commands(list, false, &mut w);
        assert_eq!(w.as_bytes(), [0, 0, 0, 16, 0x12, 0, 0, 0, 0, 0, 0, 6, 0x9E, 0, 0, 0x10, 0, 1, 0, 16]);
        let mut w = Emit::new(&mut room);
        emit_all_commands(list, true, &mut w);
        assert_eq!(w.full_len(), 44);
        assert_eq!(w.as_bytes()[4..24], [0x12, 0, 0, 0, 0, 2, 0, 6, 0, 10, 0, 0, 0, 0, 0, 1, 0, 0, 0, 60]);
        assert!(parse_all_commands(&room).eq(list));
    }

    #[test]
    fn one_command_shows_its_usage_map() {
        let inquiry = OneCommand {
            support: Support::Standard,
            usage: &[0x12, 0x01, 0xFF, 0xFF, 0xFF, 0x04],
            timeouts: None,
        };
        let mut room = [0xEE; 32];
        let mut w = Emit::new(&mut room);
        inquiry.emit(&mut w);
        assert_eq!(w.as_bytes(), [0, 3, 0, 6, 0x12, 1, 0xFF, 0xFF, 0xFF, 4]);
        assert_eq!(OneCommand::parse(w.as_bytes()), Some(inquiry));
        let mut w = Emit::new(&mut room);
        OneCommand::NOT_SUPPORTED.emit(&mut w);
        assert_eq!(w.as_bytes(), [0, 1, 0, 0]);
        let timed = OneCommand { timeouts: Some(CommandTimeouts::default()), ..inquiry };
        let mut w = Emit::new(&mut room);
        timed.emit(&mut w);
        assert_eq!((w.as_bytes()[1], w.full_len()), (0x83, 22));
        assert_eq!(OneCommand::parse(w.as_bytes()), Some(timed));
    }

    #[test]
    fn task_management_in_4_and_in_16_bytes() {
        let functions = TaskManagementFunctions {
            abort_task: true,
            abort_task_set: true,
            clear_task_set: true,
            logical_unit_reset: true,
            i_t_nexus_reset: true,
            ..Default::default()
        };
        let short_for = TaskManagementFunctions { abort_task: true, ..Default::default() };
        let mut room = [0xEE; 16];
        let mut w = Emit::new(&mut room);
        SupportedTaskManagement { functions, timeouts: None }.emit(&mut w);
        assert_eq!(w.as_bytes(), [0xD8, 1, 0, 0]);
        let timeouts = Some(TmfTimeouts { short_for, long_ds: 300, short_ds: 150 });
        let data = SupportedTaskManagement { functions, timeouts };
        data.emit(&mut Emit::new(&mut room));
        assert_eq!(room, [0xD8, 1, 0, 12, 1, 0, 0x80, 0, 0, 0, 1, 0x2C, 0, 0, 0, 150]);
        assert_eq!(SupportedTaskManagement::parse(&room), Some(data));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some((_, luns)) = parse_luns(&b) {
                prop_assert!(luns.count() * 8 + 8 <= b.len());
            }
            prop_assert!(parse_all_commands(&b).count() <= b.len());
            let _ = SupportedTaskManagement::parse(&b);
            if let Some(one) = OneCommand::parse(&b) {
                let mut room = [0; 160];
                let mut w = Emit::new(&mut room);
                one.emit(&mut w);
                prop_assert_eq!(OneCommand::parse(w.as_bytes()), Some(one));
            }
        }
    }
}
