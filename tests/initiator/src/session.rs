//! CmdSN window and StatSN (RFC 7143 §4.2.2).

use spindle_iscsi_wire::SerialNumber;

use crate::violation::What;

/// The command window of a session. The connections of one session share it: the owner moves it from one engine
/// to the next with [`crate::InitiatorConn::window`] and [`crate::InitiatorConn::set_window`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// CmdSN of the next command.
    pub cmd_sn: SerialNumber,
    /// The target's ExpCmdSN.
    pub exp_cmd_sn: SerialNumber,
    /// The target's MaxCmdSN.
    pub max_cmd_sn: SerialNumber,
}

impl Window {
    pub(crate) fn new(cmd_sn: SerialNumber) -> Self {
        // Closed until the target says otherwise.
        Self { cmd_sn, exp_cmd_sn: cmd_sn, max_cmd_sn: cmd_sn.prev() }
    }

    /// Whether a non-immediate command may be sent.
    pub fn is_open(&self) -> bool {
        self.cmd_sn.le(self.max_cmd_sn)
    }

    /// How many non-immediate commands may be sent.
    pub fn room(&self) -> u32 {
        u32::try_from(self.max_cmd_sn.next().diff(self.cmd_sn)).unwrap_or(0)
    }

    /// Takes ExpCmdSN and MaxCmdSN of a response.
    pub(crate) fn update(&mut self, exp: SerialNumber, max: SerialNumber) -> Result<(), What> {
        // RFC 7143 §4.2.2.1: such a pair is to be ignored; a good target does not send it.
        if max.lt(exp.prev()) {
            return Err(What::Window { exp_cmd_sn: exp, max_cmd_sn: max });
        }
        if exp.gt(self.cmd_sn) {
            return Err(What::AcknowledgesUnsent { exp_cmd_sn: exp, next: self.cmd_sn });
        }
        // Smaller values are old ones that were overtaken, or an attempt to take back a promise.
        if exp.gt(self.exp_cmd_sn) {
            self.exp_cmd_sn = exp;
        }
        if max.gt(self.max_cmd_sn) {
            self.max_cmd_sn = max;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sn(n: u32) -> SerialNumber {
        SerialNumber(n)
    }

    #[test]
    fn the_window_opens_and_never_shrinks() {
        let mut window = Window::new(sn(u32::MAX));
        assert!(!window.is_open());
        assert_eq!(window.room(), 0);
        window.update(sn(u32::MAX), sn(2)).unwrap();
        assert!(window.is_open());
        assert_eq!(window.room(), 4);
        window.update(sn(u32::MAX), sn(1)).unwrap();
        assert_eq!(window.room(), 4, "a smaller MaxCmdSN is ignored");
        window.cmd_sn = sn(3);
        assert!(!window.is_open());
        window.update(sn(3), sn(2)).unwrap();
        assert_eq!(window.room(), 0, "closed, and rightly so");
    }

    #[test]
    fn impossible_windows_are_violations() {
        let mut window = Window::new(sn(10));
        assert!(matches!(window.update(sn(10), sn(8)), Err(What::Window { .. })));
        assert!(matches!(window.update(sn(11), sn(20)), Err(What::AcknowledgesUnsent { .. })));
        assert_eq!(window, Window::new(sn(10)));
    }
}
