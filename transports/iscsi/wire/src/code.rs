//! One-byte codes of which new ones may appear: an enum with the names of the known and `Other` for the rest,
//! so that any byte can be received, shown and sent back unchanged.

macro_rules! codes {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$vmeta])* $variant,)+
            /// A code without a name here.
            Other(u8),
        }

        impl $name {
            /// The code on the wire.
            #[inline]
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $value,)+ Self::Other(code) => code }
            }

            /// The name of a code; every byte has one.
            #[inline]
            pub const fn of(code: u8) -> Self {
                match code { $($value => Self::$variant,)+ other => Self::Other(other) }
            }
        }
    };
}

/// `to_bhs`: `emit` into a fresh header.
macro_rules! to_bhs {
    ($name:ident) => {
        impl $name {
            /// A fresh header with this PDU in it.
            #[inline]
            pub fn to_bhs(&self) -> $crate::bhs::Bhs {
                let mut bhs = [0; $crate::bhs::BHS_LEN];
                self.emit(&mut bhs);
                bhs
            }
        }
    };
}

pub(crate) use {codes, to_bhs};
