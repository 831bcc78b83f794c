//! Where a logical unit is: `iscsi://ADDRESS[:PORT]/TARGET/LUN`, the form libiscsi, QEMU and fio share.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// A logical unit behind a portal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    /// Address and port, as `ToSocketAddrs` takes it.
    pub portal: String,
    /// TargetName.
    pub target: String,
    /// Logical unit number.
    pub lun: u16,
}

/// The port of iSCSI (RFC 7143 §13.8).
const PORT: u16 = 3260;

impl FromStr for Url {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let rest = text.trim().strip_prefix("iscsi://").context("a URL begins with iscsi://")?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [portal, target, lun] = parts[..] else {
            bail!("a URL is iscsi://ADDRESS:PORT/TARGET/LUN, not {text}")
        };
        ensure!(!portal.is_empty() && !target.is_empty(), "no address or no target in {text}");
        ensure!(!portal.contains('@'), "names and secrets in URLs are not supported");
        let after_bracket = portal.rsplit(']').next().unwrap_or(portal);
        let portal = if after_bracket.contains(':') { portal.to_owned() } else { format!("{portal}:{PORT}") };
        let lun = lun.parse().with_context(|| format!("{lun:?} is not a logical unit number"))?;
        ensure!(lun < 0x4000, "logical unit numbers end at 16,383");
        Ok(Self { portal, target: target.to_owned(), lun })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iscsi://{}/{}/{}", self.portal, self.target, self.lun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_written() {
        let url: Url = "iscsi://127.0.0.1:3261/iqn.2026-01.org.example:disk/3".parse().unwrap();
        assert_eq!((url.portal.as_str(), url.lun), ("127.0.0.1:3261", 3));
        assert_eq!(url.to_string(), "iscsi://127.0.0.1:3261/iqn.2026-01.org.example:disk/3");
    }

    #[test]
    fn the_port_may_be_left_out_with_old_and_new_addresses() {
        let of = |text: &str| text.parse::<Url>().unwrap().portal;
        assert_eq!(of("iscsi://10.0.0.1/iqn.x/0"), "10.0.0.1:3260");
        assert_eq!(of("iscsi://[::1]/iqn.x/0"), "[::1]:3260");
        assert_eq!(of("iscsi://[::1]:860/iqn.x/0"), "[::1]:860");
    }

    #[test]
    fn what_is_not_a_url_is_refused() {
        for text in [
            "",
            "http://a/b/0",
            "iscsi://a/b",
            "iscsi:///b/0",
            "iscsi://a//0",
            "iscsi://a/b/x",
            "iscsi://u%p@a/b/0",
            "iscsi://a/b/0/1",
            "iscsi://a/b/16384",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }
}
