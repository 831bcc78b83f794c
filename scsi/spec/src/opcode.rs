//! Operation codes and service actions (SPC-5 annex on operation codes; SBC-4 §5).
//!
//! All of direct-access block devices that Spindle serves, passes through, or may be asked about by REPORT
//! SUPPORTED OPERATION CODES.

macro_rules! opcodes {
    ($($id:ident = $code:literal, $name:literal;)*) => {
        $(#[doc = $name] pub const $id: u8 = $code;)*

        /// The command's name in the standards; for an opcode with service actions, the opcode's own.
        pub const fn name(opcode: u8) -> Option<&'static str> {
            match opcode { $($code => Some($name),)* _ => None }
        }
    };
}

opcodes! {
    TEST_UNIT_READY = 0x00, "TEST UNIT READY";
    REZERO_UNIT = 0x01, "REZERO UNIT";
    REQUEST_SENSE = 0x03, "REQUEST SENSE";
    FORMAT_UNIT = 0x04, "FORMAT UNIT";
    REASSIGN_BLOCKS = 0x07, "REASSIGN BLOCKS";
    READ_6 = 0x08, "READ(6)";
    WRITE_6 = 0x0A, "WRITE(6)";
    SEEK_6 = 0x0B, "SEEK(6)";
    INQUIRY = 0x12, "INQUIRY";
    MODE_SELECT_6 = 0x15, "MODE SELECT(6)";
    RESERVE_6 = 0x16, "RESERVE(6)";
    RELEASE_6 = 0x17, "RELEASE(6)";
    MODE_SENSE_6 = 0x1A, "MODE SENSE(6)";
    START_STOP_UNIT = 0x1B, "START STOP UNIT";
    RECEIVE_DIAGNOSTIC_RESULTS = 0x1C, "RECEIVE DIAGNOSTIC RESULTS";
    SEND_DIAGNOSTIC = 0x1D, "SEND DIAGNOSTIC";
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E, "PREVENT ALLOW MEDIUM REMOVAL";
    READ_CAPACITY_10 = 0x25, "READ CAPACITY(10)";
    READ_10 = 0x28, "READ(10)";
    WRITE_10 = 0x2A, "WRITE(10)";
    SEEK_10 = 0x2B, "SEEK(10)";
    WRITE_AND_VERIFY_10 = 0x2E, "WRITE AND VERIFY(10)";
    VERIFY_10 = 0x2F, "VERIFY(10)";
    PRE_FETCH_10 = 0x34, "PRE-FETCH(10)";
    SYNCHRONIZE_CACHE_10 = 0x35, "SYNCHRONIZE CACHE(10)";
    READ_DEFECT_DATA_10 = 0x37, "READ DEFECT DATA(10)";
    WRITE_BUFFER = 0x3B, "WRITE BUFFER";
    READ_BUFFER_10 = 0x3C, "READ BUFFER(10)";
    READ_LONG_10 = 0x3E, "READ LONG(10)";
    WRITE_LONG_10 = 0x3F, "WRITE LONG(10)";
    WRITE_SAME_10 = 0x41, "WRITE SAME(10)";
    UNMAP = 0x42, "UNMAP";
    SANITIZE = 0x48, "SANITIZE";
    LOG_SELECT = 0x4C, "LOG SELECT";
    LOG_SENSE = 0x4D, "LOG SENSE";
    XDWRITEREAD_10 = 0x53, "XDWRITEREAD(10)";
    MODE_SELECT_10 = 0x55, "MODE SELECT(10)";
    RESERVE_10 = 0x56, "RESERVE(10)";
    RELEASE_10 = 0x57, "RELEASE(10)";
    MODE_SENSE_10 = 0x5A, "MODE SENSE(10)";
    PERSISTENT_RESERVE_IN = 0x5E, "PERSISTENT RESERVE IN";
    PERSISTENT_RESERVE_OUT = 0x5F, "PERSISTENT RESERVE OUT";
    EXTENDED_CDB = 0x7E, "extended CDB";
    VARIABLE_LENGTH = 0x7F, "variable length CDB";
    EXTENDED_COPY = 0x83, "EXTENDED COPY";
    RECEIVE_COPY_RESULTS = 0x84, "RECEIVE COPY RESULTS";
    ATA_PASS_THROUGH_16 = 0x85, "ATA PASS-THROUGH(16)";
    READ_16 = 0x88, "READ(16)";
    COMPARE_AND_WRITE = 0x89, "COMPARE AND WRITE";
    WRITE_16 = 0x8A, "WRITE(16)";
    ORWRITE_16 = 0x8B, "ORWRITE(16)";
    WRITE_AND_VERIFY_16 = 0x8E, "WRITE AND VERIFY(16)";
    VERIFY_16 = 0x8F, "VERIFY(16)";
    PRE_FETCH_16 = 0x90, "PRE-FETCH(16)";
    SYNCHRONIZE_CACHE_16 = 0x91, "SYNCHRONIZE CACHE(16)";
    WRITE_SAME_16 = 0x93, "WRITE SAME(16)";
    ZBC_OUT = 0x94, "ZBC OUT";
    ZBC_IN = 0x95, "ZBC IN";
    WRITE_STREAM_16 = 0x9A, "WRITE STREAM(16)";
    WRITE_ATOMIC_16 = 0x9C, "WRITE ATOMIC(16)";
    SERVICE_ACTION_BIDIRECTIONAL = 0x9D, "SERVICE ACTION BIDIRECTIONAL";
    SERVICE_ACTION_IN_16 = 0x9E, "SERVICE ACTION IN(16)";
    SERVICE_ACTION_OUT_16 = 0x9F, "SERVICE ACTION OUT(16)";
    REPORT_LUNS = 0xA0, "REPORT LUNS";
    ATA_PASS_THROUGH_12 = 0xA1, "ATA PASS-THROUGH(12)";
    SECURITY_PROTOCOL_IN = 0xA2, "SECURITY PROTOCOL IN";
    MAINTENANCE_IN = 0xA3, "MAINTENANCE IN";
    MAINTENANCE_OUT = 0xA4, "MAINTENANCE OUT";
    READ_12 = 0xA8, "READ(12)";
    SERVICE_ACTION_OUT_12 = 0xA9, "SERVICE ACTION OUT(12)";
    WRITE_12 = 0xAA, "WRITE(12)";
    SERVICE_ACTION_IN_12 = 0xAB, "SERVICE ACTION IN(12)";
    WRITE_AND_VERIFY_12 = 0xAE, "WRITE AND VERIFY(12)";
    VERIFY_12 = 0xAF, "VERIFY(12)";
    SECURITY_PROTOCOL_OUT = 0xB5, "SECURITY PROTOCOL OUT";
    READ_DEFECT_DATA_12 = 0xB7, "READ DEFECT DATA(12)";
}

macro_rules! service_actions {
    ($(#[$about:meta])* $module:ident: $int:ty; $($id:ident = $code:literal, $name:literal;)*) => {
        $(#[$about])*
        pub mod $module {
            $(#[doc = $name] pub const $id: $int = $code;)*

            /// The name in the standards.
            pub const fn name(service_action: $int) -> Option<&'static str> {
                match service_action { $($code => Some($name),)* _ => None }
            }
        }
    };
}

service_actions! {
    /// Service actions of SERVICE ACTION IN(16), 9Eh.
    service_action_in_16: u8;
    READ_CAPACITY_16 = 0x10, "READ CAPACITY(16)";
    READ_LONG_16 = 0x11, "READ LONG(16)";
    GET_LBA_STATUS_16 = 0x12, "GET LBA STATUS(16)";
    REPORT_REFERRALS = 0x13, "REPORT REFERRALS";
    STREAM_CONTROL = 0x14, "STREAM CONTROL";
    BACKGROUND_CONTROL = 0x15, "BACKGROUND CONTROL";
    GET_STREAM_STATUS = 0x16, "GET STREAM STATUS";
}

service_actions! {
    /// Service actions of SERVICE ACTION OUT(16), 9Fh.
    service_action_out_16: u8;
    WRITE_LONG_16 = 0x11, "WRITE LONG(16)";
}

service_actions! {
    /// Service actions of MAINTENANCE IN, A3h.
    maintenance_in: u8;
    REPORT_IDENTIFYING_INFORMATION = 0x05, "REPORT IDENTIFYING INFORMATION";
    REPORT_TARGET_PORT_GROUPS = 0x0A, "REPORT TARGET PORT GROUPS";
    REPORT_ALIASES = 0x0B, "REPORT ALIASES";
    REPORT_SUPPORTED_OPERATION_CODES = 0x0C, "REPORT SUPPORTED OPERATION CODES";
    REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS = 0x0D, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS";
    REPORT_PRIORITY = 0x0E, "REPORT PRIORITY";
    REPORT_TIMESTAMP = 0x0F, "REPORT TIMESTAMP";
}

service_actions! {
    /// Service actions of MAINTENANCE OUT, A4h.
    maintenance_out: u8;
    SET_IDENTIFYING_INFORMATION = 0x06, "SET IDENTIFYING INFORMATION";
    SET_TARGET_PORT_GROUPS = 0x0A, "SET TARGET PORT GROUPS";
    CHANGE_ALIASES = 0x0B, "CHANGE ALIASES";
    SET_PRIORITY = 0x0E, "SET PRIORITY";
    SET_TIMESTAMP = 0x0F, "SET TIMESTAMP";
}

service_actions! {
    /// Service actions of PERSISTENT RESERVE IN, 5Eh.
    persistent_reserve_in: u8;
    READ_KEYS = 0x00, "READ KEYS";
    READ_RESERVATION = 0x01, "READ RESERVATION";
    REPORT_CAPABILITIES = 0x02, "REPORT CAPABILITIES";
    READ_FULL_STATUS = 0x03, "READ FULL STATUS";
}

service_actions! {
    /// Service actions of PERSISTENT RESERVE OUT, 5Fh.
    persistent_reserve_out: u8;
    REGISTER = 0x00, "REGISTER";
    RESERVE = 0x01, "RESERVE";
    RELEASE = 0x02, "RELEASE";
    CLEAR = 0x03, "CLEAR";
    PREEMPT = 0x04, "PREEMPT";
    PREEMPT_AND_ABORT = 0x05, "PREEMPT AND ABORT";
    REGISTER_AND_IGNORE_EXISTING_KEY = 0x06, "REGISTER AND IGNORE EXISTING KEY";
    REGISTER_AND_MOVE = 0x07, "REGISTER AND MOVE";
    REPLACE_LOST_RESERVATION = 0x08, "REPLACE LOST RESERVATION";
}

service_actions! {
    /// Service actions of EXTENDED COPY, 83h.
    extended_copy: u8;
    EXTENDED_COPY_LID1 = 0x00, "EXTENDED COPY(LID1)";
    EXTENDED_COPY_LID4 = 0x01, "EXTENDED COPY(LID4)";
    POPULATE_TOKEN = 0x10, "POPULATE TOKEN";
    WRITE_USING_TOKEN = 0x11, "WRITE USING TOKEN";
    COPY_OPERATION_ABORT = 0x1C, "COPY OPERATION ABORT";
}

service_actions! {
    /// Service actions of RECEIVE COPY RESULTS, 84h.
    receive_copy_results: u8;
    RECEIVE_COPY_STATUS_LID1 = 0x00, "RECEIVE COPY STATUS(LID1)";
    RECEIVE_COPY_DATA_LID1 = 0x01, "RECEIVE COPY DATA(LID1)";
    RECEIVE_COPY_OPERATING_PARAMETERS = 0x03, "RECEIVE COPY OPERATING PARAMETERS";
    RECEIVE_COPY_FAILURE_DETAILS_LID1 = 0x04, "RECEIVE COPY FAILURE DETAILS(LID1)";
    RECEIVE_COPY_STATUS_LID4 = 0x05, "RECEIVE COPY STATUS(LID4)";
    RECEIVE_COPY_DATA_LID4 = 0x06, "RECEIVE COPY DATA(LID4)";
    RECEIVE_ROD_TOKEN_INFORMATION = 0x07, "RECEIVE ROD TOKEN INFORMATION";
    REPORT_ALL_ROD_TOKENS = 0x08, "REPORT ALL ROD TOKENS";
}

service_actions! {
    /// Service actions of the variable length CDB, 7Fh.
    variable_length: u16;
    XDREAD_32 = 0x0003, "XDREAD(32)";
    XDWRITE_32 = 0x0004, "XDWRITE(32)";
    XPWRITE_32 = 0x0006, "XPWRITE(32)";
    XDWRITEREAD_32 = 0x0007, "XDWRITEREAD(32)";
    READ_32 = 0x0009, "READ(32)";
    VERIFY_32 = 0x000A, "VERIFY(32)";
    WRITE_32 = 0x000B, "WRITE(32)";
    WRITE_AND_VERIFY_32 = 0x000C, "WRITE AND VERIFY(32)";
    WRITE_SAME_32 = 0x000D, "WRITE SAME(32)";
    ORWRITE_32 = 0x000E, "ORWRITE(32)";
    WRITE_ATOMIC_32 = 0x000F, "WRITE ATOMIC(32)";
    WRITE_STREAM_32 = 0x0010, "WRITE STREAM(32)";
    GET_LBA_STATUS_32 = 0x0012, "GET LBA STATUS(32)";
}

/// The service action of a CDB; `None` where the opcode has none, or the CDB is too short to say.
pub fn service_action(cdb: &[u8]) -> Option<u16> {
    match *cdb.first()? {
        PERSISTENT_RESERVE_IN
        | PERSISTENT_RESERVE_OUT
        | EXTENDED_COPY
        | RECEIVE_COPY_RESULTS
        | SANITIZE
        | ZBC_OUT
        | ZBC_IN
        | SERVICE_ACTION_BIDIRECTIONAL
        | SERVICE_ACTION_IN_16
        | SERVICE_ACTION_OUT_16
        | MAINTENANCE_IN
        | MAINTENANCE_OUT
        | SERVICE_ACTION_IN_12
        | SERVICE_ACTION_OUT_12 => cdb.get(1).map(|b| u16::from(b & 0x1F)),
        VARIABLE_LENGTH => cdb.get(8..10).map(|b| u16::from_be_bytes([b[0], b[1]])),
        _ => None,
    }
}

/// The name of the command in a CDB, by service action where it has one.
pub fn name_of(cdb: &[u8]) -> Option<&'static str> {
    let opcode = *cdb.first()?;
    let Some(wide) = service_action(cdb) else { return name(opcode) };
    let sa = (wide & 0xFF) as u8; // every opcode but 7Fh has five bits
    let exact = match opcode {
        PERSISTENT_RESERVE_IN => persistent_reserve_in::name(sa),
        PERSISTENT_RESERVE_OUT => persistent_reserve_out::name(sa),
        EXTENDED_COPY => extended_copy::name(sa),
        RECEIVE_COPY_RESULTS => receive_copy_results::name(sa),
        SERVICE_ACTION_IN_16 => service_action_in_16::name(sa),
        SERVICE_ACTION_OUT_16 => service_action_out_16::name(sa),
        MAINTENANCE_IN => maintenance_in::name(sa),
        MAINTENANCE_OUT => maintenance_out::name(sa),
        VARIABLE_LENGTH => variable_length::name(wide),
        _ => None,
    };
    exact.or(name(opcode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_service_action_where_there_is_one() {
        assert_eq!(name_of(&[READ_10]), Some("READ(10)"));
        assert_eq!(name_of(&[SERVICE_ACTION_IN_16, 0x10]), Some("READ CAPACITY(16)"));
        assert_eq!(name_of(&[SERVICE_ACTION_IN_16, 0x1F]), Some("SERVICE ACTION IN(16)"));
        assert_eq!(name_of(&[SERVICE_ACTION_IN_16]), Some("SERVICE ACTION IN(16)"));
        assert_eq!(name_of(&[VARIABLE_LENGTH, 0, 0, 0, 0, 0, 0, 0x18, 0, 0x0B]), Some("WRITE(32)"));
        assert_eq!(name_of(&[0xFF]), None);
        assert_eq!(name_of(&[]), None);
    }

    #[test]
    fn only_opcodes_with_service_actions_have_one() {
        assert_eq!(service_action(&[READ_10, 0xFF]), None);
        assert_eq!(service_action(&[PERSISTENT_RESERVE_OUT, 0xE6]), Some(6));
        assert_eq!(service_action(&[VARIABLE_LENGTH, 0, 0, 0, 0, 0, 0, 0x18, 0]), None);
    }
}
