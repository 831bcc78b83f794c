//! Resource limits that stand in a target's way.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A limit as it stands; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// What counts now.
    pub soft: Option<u64>,
    /// How far the process may raise it by itself.
    pub hard: Option<u64>,
}

/// How many bytes may be locked in memory (RLIMIT_MEMLOCK; not applied to the privileged).
pub fn locked_bytes() -> Limit {
    limit(Resource::Memlock)
}

/// How many descriptors may be open (RLIMIT_NOFILE): each connection is one.
pub fn open_files() -> Limit {
    limit(Resource::Nofile)
}

/// Raises the limit of open descriptors as far as the process may; returns what counts from now on.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    raise(Resource::Nofile)
}

/// Raises the limit of locked memory as far as the process may; returns what counts from now on.
pub fn raise_locked_bytes() -> io::Result<Option<u64>> {
    raise(Resource::Memlock)
}

fn limit(of: Resource) -> Limit {
    let Rlimit { current, maximum } = getrlimit(of);
    Limit { soft: current, hard: maximum }
}

fn raise(of: Resource) -> io::Result<Option<u64>> {
    let Rlimit { maximum, .. } = getrlimit(of);
    setrlimit(of, Rlimit { current: maximum, maximum })?;
    Ok(getrlimit(of).current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_brings_the_soft_limit_up_to_the_hard_one() {
        assert_eq!(raise_open_files().unwrap(), open_files().hard);
        assert_eq!(open_files().soft, open_files().hard);
        assert_eq!(raise_locked_bytes().unwrap(), locked_bytes().soft);
    }
}
