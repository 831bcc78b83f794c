//! Mistakes that can be planted, to prove that the tests would find them. They live in the crates that could make them,
//! each with a list of its own ([`planted_bugs`](crate::planted_bugs)); here is only which one is planted now. Without
//! the feature `planted` every question is answered with a constant `false` and the hooks vanish.
//!
//! `plant` plants one for a thread; the environment variable `SPINDLE_PLANTED` for a whole process, say a test.

#[cfg(feature = "planted")]
mod active {
    use std::cell::Cell;
    use std::sync::OnceLock;

    static OF_ALL: OnceLock<Option<String>> = OnceLock::new();

    thread_local! {
        static ACTIVE: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Plants a mistake in what this thread runs (one at a time; `None` takes it out).
    pub fn plant(name: Option<&'static str>) {
        ACTIVE.set(name);
    }

    /// Whether this mistake is to be made.
    pub fn on(name: &'static str) -> bool {
        let of_all = OF_ALL.get_or_init(|| std::env::var("SPINDLE_PLANTED").ok());
        ACTIVE.get().or(of_all.as_deref()) == Some(name)
    }
}

#[cfg(feature = "planted")]
pub use active::{on, plant};

/// Whether this mistake is to be made: never, in this build.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn on(_: &'static str) -> bool {
    false
}

/// The list of mistakes of a crate: an enum `Bug` and `on(Bug) -> bool`.
#[macro_export]
macro_rules! planted_bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal,)*) => {
        /// A mistake one could make in this crate.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Bug] = &[$(Bug::$bug),*];

            /// How people and scripts call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)*
                }
            }
        }

        /// Whether this mistake is to be made.
        #[inline(always)]
        pub fn on(bug: Bug) -> bool {
            $crate::planted::on(bug.name())
        }
    };
}
