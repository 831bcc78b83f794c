//! How a command ended.

use spindle_scsi_spec::sense::Sense;
use spindle_scsi_spec::status::Status;

/// Data that was expected and not moved, or needed and not offered (RFC 7143 §11.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Residual {
    /// As expected.
    #[default]
    None,
    /// This many bytes fewer than expected were moved.
    Underflow(u32),
    /// This many bytes more would have been needed.
    Overflow(u32),
}

/// Status, residuals and sense of an ended command.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// SAM status.
    pub status: Status,
    /// Whether the logical unit reports descriptor-format sense (D_SENSE of the control mode page).
    pub descriptor_sense: bool,
    /// Residual of the only direction, or of Data-Out for a bidirectional command.
    pub residual: Residual,
    /// Residual of Data-In of a bidirectional command; [`Residual::None`] otherwise.
    pub residual_in: Residual,
    /// Sense data; boxed because the good path has none.
    pub sense: Option<Box<Sense>>,
}

impl Outcome {
    /// GOOD, everything moved.
    pub const GOOD: Outcome = Outcome {
        status: Status::Good,
        descriptor_sense: false,
        residual: Residual::None,
        residual_in: Residual::None,
        sense: None,
    };
}

const _: () = assert!(std::mem::size_of::<Outcome>() <= 32);
