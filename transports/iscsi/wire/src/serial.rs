//! Serial number arithmetic (RFC 1982 with 32 bits), which RFC 7143 §4.2.2 asks for CmdSN, StatSN, DataSN and
//! R2TSN. The type has no `<` on purpose: after four thousand million commands plain comparison is wrong.

use core::fmt;

/// A sequence number that wraps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SerialNumber(pub u32);

impl SerialNumber {
    /// Nought, where DataSN and R2TSN begin.
    pub const ZERO: SerialNumber = SerialNumber(0);

    /// The one after this.
    #[inline]
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// The one before this.
    #[inline]
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// `n` further on. RFC 1982 defines this up to 2³¹ - 1.
    #[inline]
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// How far this is ahead of `other`; negative if behind. Numbers 2³¹ apart are incomparable by RFC 1982
    /// and come out as `i32::MIN` both ways.
    #[inline]
    pub const fn diff(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i32
    }

    /// Strictly before `other`. False for numbers 2³¹ apart, whichever way one asks.
    #[inline]
    pub const fn lt(self, other: Self) -> bool {
        let d = self.diff(other);
        d < 0 && d != i32::MIN
    }

    /// Before `other` or the same.
    #[inline]
    pub const fn le(self, other: Self) -> bool {
        let d = self.diff(other);
        d <= 0 && d != i32::MIN
    }

    /// Strictly after `other`.
    #[inline]
    pub const fn gt(self, other: Self) -> bool {
        self.diff(other) > 0
    }

    /// After `other` or the same.
    #[inline]
    pub const fn ge(self, other: Self) -> bool {
        self.diff(other) >= 0
    }

    /// Inside `first ..= last`. A window whose `last` is `first - 1` is closed and holds nothing
    /// (RFC 7143 §4.2.2.1: MaxCmdSN = ExpCmdSN - 1).
    #[inline]
    pub const fn in_window(self, first: Self, last: Self) -> bool {
        first.le(self) && self.le(last)
    }
}

impl From<u32> for SerialNumber {
    #[inline]
    fn from(n: u32) -> Self {
        Self(n)
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sn{}", self.0)
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn comparison_goes_round_the_corner() {
        let (a, b) = (SerialNumber(u32::MAX), SerialNumber(0));
        assert!(a.lt(b) && a.le(b) && b.gt(a) && b.ge(a) && !b.lt(a));
        assert_eq!(b.diff(a), 1);
        assert_eq!(a.next(), b);
        assert_eq!(b.prev(), a);
    }

    #[test]
    fn numbers_half_the_circle_apart_have_no_order() {
        let (a, b) = (SerialNumber(7), SerialNumber(7 + (1 << 31)));
        assert!(!a.lt(b) && !b.lt(a) && !a.gt(b) && !b.gt(a) && !a.le(b) && !a.ge(b));
    }

    #[test]
    fn a_closed_window_holds_nothing() {
        let exp = SerialNumber(0);
        assert!(!exp.in_window(exp, exp.prev()));
        assert!(exp.in_window(exp, exp));
        assert!(SerialNumber(1).in_window(SerialNumber(u32::MAX), SerialNumber(2)));
        assert!(!SerialNumber(3).in_window(SerialNumber(u32::MAX), SerialNumber(2)));
    }

    proptest! {
        #[test]
        fn adding_moves_forward(start: u32, n in 1u32..(1 << 31)) {
            let (a, b) = (SerialNumber(start), SerialNumber(start).plus(n));
            prop_assert!(a.lt(b) && b.gt(a) && !b.le(a));
            prop_assert_eq!(b.diff(a), n as i32);
        }

        #[test]
        fn of_two_numbers_at_most_one_is_less(a: u32, b: u32) {
            let (a, b) = (SerialNumber(a), SerialNumber(b));
            prop_assert!(!(a.lt(b) && b.lt(a)));
            prop_assert_eq!(a.lt(b), b.gt(a));
            prop_assert_eq!(a.le(b), a == b || a.lt(b));
        }

        #[test]
        fn a_window_holds_exactly_its_numbers(first: u32, size in 0u32..4096, at in 0u32..8192) {
            let first = SerialNumber(first);
            let last = first.plus(size).prev();
            prop_assert_eq!(first.plus(at).in_window(first, last), at < size);
        }
    }
}
