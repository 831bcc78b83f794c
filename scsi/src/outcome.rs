//! How commands end: residuals, and the one map from what a device says to sense data.

use spindle_bdev::BlockError;
use spindle_scsi_port::{Outcome, ReceiveError, Residual};
use spindle_scsi_spec::{Asc, Sense, SenseKey, Status};

/// Expected against needed (RFC 7143 §11.4.5): `expected` is what the initiator set aside, `needed` what the
/// command had to move.
#[inline]
pub fn residual(expected: u32, needed: u32) -> Residual {
    if expected == needed {
        Residual::None
    } else if expected > needed {
        Residual::Underflow(expected - needed)
    } else {
        Residual::Overflow(needed - expected)
    }
}

/// A status without sense data.
#[inline]
pub fn plain(status: Status, residual: Residual) -> Outcome {
    Outcome { status, descriptor_sense: false, residual, residual_in: Residual::None, sense: None }
}

/// CHECK CONDITION.
pub fn check(sense: Sense, descriptor_sense: bool, residual: Residual) -> Outcome {
    Outcome {
        status: Status::CheckCondition,
        descriptor_sense,
        residual,
        residual_in: Residual::None,
        sense: Some(Box::new(sense)),
    }
}

/// What the initiator is told when a device fails (SBC-4 §4.18, SPC-5 annex on additional sense codes).
/// `lba`: the first block of the operation.
pub fn sense_of(error: BlockError, lba: u64) -> Sense {
    match error {
        BlockError::OutOfRange => Sense::illegal_request(Asc::LBA_OUT_OF_RANGE).with_information(lba),
        BlockError::MediumRead => {
            Sense::new(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR).with_information(lba)
        }
        BlockError::MediumWrite => Sense::new(SenseKey::MediumError, Asc::WRITE_ERROR).with_information(lba),
        BlockError::ReadOnly => Sense::new(SenseKey::DataProtect, Asc::WRITE_PROTECTED),
        // SBC-4 §4.7.3.6: a thin unit without room.
        BlockError::NoSpace => Sense::new(SenseKey::DataProtect, Asc::SPACE_ALLOCATION_FAILED_WRITE_PROTECT),
        // What was acknowledged may be lost; a retry must not make it look well again.
        BlockError::FlushLost => Sense::new(SenseKey::MediumError, Asc::WRITE_ERROR),
        BlockError::Unsupported => Sense::illegal_request(Asc::INVALID_COMMAND_OPERATION_CODE),
        // Somebody has to bring the file or disk back; repeating the command does not.
        BlockError::Gone => Sense::not_ready(Asc::MANUAL_INTERVENTION_REQUIRED),
        BlockError::Aborted => Sense::aborted_command(Asc::NO_ADDITIONAL_SENSE_INFORMATION),
        BlockError::TimedOut => Sense::aborted_command(Asc::TIMEOUT_ON_LOGICAL_UNIT),
        BlockError::Os(_) => Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE),
    }
}

/// What the initiator is told when its Data-Out did not arrive (RFC 7143 §11.4.7.2).
pub fn sense_of_receive(error: ReceiveError) -> Sense {
    Sense::aborted_command(match error {
        ReceiveError::Digest => Asc::PROTOCOL_SERVICE_CRC_ERROR,
        ReceiveError::NotEnoughUnsolicited => Asc::NOT_ENOUGH_UNSOLICITED_DATA,
        ReceiveError::UnexpectedUnsolicited => Asc::UNEXPECTED_UNSOLICITED_DATA,
        ReceiveError::NoRoom => Asc::INSUFFICIENT_RESOURCES,
        ReceiveError::Protocol => Asc::DATA_PHASE_ERROR,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_say_by_how_much_the_initiator_was_wrong() {
        assert_eq!(residual(512, 512), Residual::None);
        assert_eq!(residual(10_000, 512), Residual::Underflow(9_488));
        assert_eq!(residual(200, 512), Residual::Overflow(312));
        assert_eq!(residual(0, 512), Residual::Overflow(512));
    }

    #[test]
    fn no_device_error_becomes_a_good_status_or_no_sense() {
        use BlockError::*;
        let all = [
            OutOfRange,
            MediumRead,
            MediumWrite,
            ReadOnly,
            NoSpace,
            FlushLost,
            Unsupported,
            Gone,
            Aborted,
            TimedOut,
            Os(5),
        ];
        for error in all {
            assert!(!matches!(sense_of(error, 7).key, SenseKey::NoSense | SenseKey::RecoveredError));
        }
        assert_eq!(sense_of(OutOfRange, 7).information(), Some(7));
        assert_eq!(sense_of(NoSpace, 0).asc, Asc::new(0x27, 7));
    }
}
