//! What the control plane tells the engine: portal groups, initiator groups, targets, secrets, limits.
//!
//! An [`IscsiConfig`] is an immutable snapshot with an epoch, shared by all cores behind an `Arc`. A login
//! looks at the snapshot of its moment; sessions remember the number of their target, so that a later
//! snapshot without that target ends them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::session::WINDOW_MAX;

/// Everything that decides who may log in where.
#[derive(Clone, Debug, Default)]
pub struct IscsiConfig {
    /// Grows by one with every change.
    pub epoch: u64,
    /// Where we listen.
    pub portal_groups: Vec<PortalGroup>,
    /// Who may come.
    pub initiator_groups: Vec<InitiatorGroup>,
    /// What they find.
    pub targets: Vec<TargetNode>,
    /// Secrets by group.
    pub chap_groups: Vec<ChapGroup>,
    /// What a discovery session must show.
    pub discovery_auth: AuthPolicy,
    /// Numbers.
    pub limits: IscsiLimits,
}

/// A set of portals that share one tag (RFC 7143 §4.4.1: portal group).
#[derive(Clone, Debug)]
pub struct PortalGroup {
    /// Target portal group tag.
    pub tag: u16,
    /// Addresses. A wildcard address is shown to an initiator as the address it used itself.
    pub portals: Vec<SocketAddr>,
    /// A private group is not shown by SendTargets.
    pub private: bool,
}

/// A set of initiators.
#[derive(Clone, Debug)]
pub struct InitiatorGroup {
    /// Its number.
    pub tag: u32,
    /// Names; the first pattern that fits decides.
    pub names: Vec<NamePattern>,
    /// Addresses; one of them must fit.
    pub netmasks: Vec<Netmask>,
}

/// A target node.
#[derive(Clone, Debug)]
pub struct TargetNode {
    /// The number the control plane gave it; never used twice.
    pub id: u32,
    /// iSCSI name, lower case.
    pub name: String,
    /// For people.
    pub alias: Option<String>,
    /// Which initiators reach it through which portals, and what they see.
    pub maps: Vec<AccessMap>,
    /// Who they must prove to be.
    pub auth: AuthPolicy,
    /// Digest of headers.
    pub header_digest: DigestPolicy,
    /// Digest of data.
    pub data_digest: DigestPolicy,
    /// Most commands one session may have in flight.
    pub queue_depth: u32,
}

/// One row of a target's access list.
#[derive(Clone, Copy, Debug)]
pub struct AccessMap {
    /// Portal group tag.
    pub portal_group: u16,
    /// Initiator group tag.
    pub initiator_group: u32,
    /// Which set of LUNs such an initiator sees; means something to the control plane alone.
    pub lun_map: u32,
}

/// What authentication a login must bring.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuthPolicy {
    /// Whether CHAP is asked for.
    pub chap: ChapRule,
    /// The initiator must ask us to prove who we are, too.
    pub mutual: bool,
    /// Whose secrets are good.
    pub chap_group: Option<u32>,
}

/// Whether CHAP is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChapRule {
    /// Never: `AuthMethod=None` alone is accepted.
    Disabled,
    /// As the initiator likes.
    #[default]
    Optional,
    /// Always: `AuthMethod=None` is refused.
    Required,
}

/// What is answered to an offer of digests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DigestPolicy {
    /// The first value of the initiator's list that we know.
    #[default]
    AsOffered,
    /// CRC32C if it is in the list, wherever it stands.
    Prefer,
    /// CRC32C, or the login fails.
    Require,
    /// None.
    Never,
}

/// Secrets of a group of initiators.
#[derive(Clone, Debug)]
pub struct ChapGroup {
    /// Its number.
    pub tag: u32,
    /// Its secrets.
    pub secrets: Vec<ChapSecret>,
}

/// What one initiator knows.
#[derive(Clone, Debug)]
pub struct ChapSecret {
    /// Its name (CHAP_N of the initiator).
    pub user: String,
    /// Its secret.
    pub secret: Secret,
    /// Our name and secret, for mutual authentication.
    pub mutual: Option<(String, Secret)>,
}

/// Bytes that are not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Limits and times of the engine, for one core.
#[derive(Clone, Debug)]
pub struct IscsiLimits {
    /// Sessions, discovery sessions included.
    pub sessions_max: u32,
    /// Commands of all sessions; at most 65,535 (the slot of a target transfer tag has 16 bits).
    pub tasks_max: u32,
    /// Task management requests of one session that are not answered yet.
    pub tmfs_per_session_max: u32,
    /// Commands a new session may have in flight.
    pub window_first: u32,
    /// Commands a session may earn, if its target allows as many ([`TargetNode::queue_depth`]).
    pub window_max: u32,
    /// Vectors of all sessions that are kept ready for writes which are only expected.
    pub lent_max: u32,
    /// What we declare as MaxRecvDataSegmentLength.
    pub max_recv_data_segment_length: u32,
    /// MaxBurstLength we agree to.
    pub max_burst_length: u32,
    /// FirstBurstLength we agree to.
    pub first_burst_length: u32,
    /// MaxOutstandingR2T we agree to, at most 32 (half of what the sequence of a transfer tag can tell apart).
    pub max_outstanding_r2t: u16,
    /// Bytes that R2Ts of a session ask for at a time at least (and before anything is known of the way); one R2T may always
    /// be out.
    pub solicited_min: u32,
    /// The same at most, on a long and fast way.
    pub solicited_max: u32,
    /// `true`: every write waits for an R2T.
    pub initial_r2t: bool,
    /// Whether data may come with the command.
    pub immediate_data: bool,
    /// DefaultTime2Wait, seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain, seconds.
    pub time2retain: u16,
    /// Bytes of one text negotiation, over all its PDUs.
    pub text_bytes_max: u32,
    /// Unsolicited data kept for one session while the pool is empty, whatever others have kept.
    pub unsolicited_reserve_bytes: u32,
    /// More of it, for all sessions of the core together: deep queues of large writes send FirstBurstLength with each.
    pub unsolicited_common_bytes: u32,
    /// Bytes queued for sending at which a connection takes no further commands.
    pub send_queue_bytes_max: u32,
    /// A login must be over after this time.
    pub login_ms_max: u64,
    /// Silence after which we ask with a NOP-In; 0: never.
    pub nop_in_interval_ms: u64,
    /// Silence after our NOP-In that ends the connection.
    pub nop_in_timeout_ms: u64,
    /// A connection that takes nothing of what is queued for this long is ended.
    pub send_stall_ms_max: u64,
    /// After a request to log out, the session is dropped when this has passed.
    pub logout_wait_ms: u64,
    /// How long an answer to a task management function that ended several tasks waits for Data-Out of
    /// transfer tags given before (RFC 7143 §4.2.3.3).
    pub abort_data_wait_ms: u64,
    /// How long data for an aborted command is still recognised and dropped.
    pub sink_ms: u64,
}

impl Default for IscsiLimits {
    fn default() -> Self {
        IscsiLimits {
            sessions_max: 1024,
            tasks_max: 8192,
            tmfs_per_session_max: 16,
            window_first: 8,
            window_max: WINDOW_MAX,
            // 4 MiB of writes of 4 KiB: 68 busy sessions.
            lent_max: 1024,
            max_recv_data_segment_length: 262_144,
            max_burst_length: 1_048_576,
            first_burst_length: 65_536,
            max_outstanding_r2t: 4,
            // Half of a small second-level cache.
            solicited_min: 262_144,
            // 100 Gb/s over 2.5 ms.
            solicited_max: 32 << 20,
            initial_r2t: false,
            immediate_data: true,
            time2wait: 2,
            // ErrorRecoveryLevel 0 keeps nothing over the loss of a connection.
            time2retain: 0,
            text_bytes_max: 65_536,
            unsolicited_reserve_bytes: 65_536,
            // Four sessions with 128 first bursts of 64 KiB each.
            unsolicited_common_bytes: 32 << 20,
            send_queue_bytes_max: 4 << 20,
            login_ms_max: 15_000,
            nop_in_interval_ms: 15_000,
            nop_in_timeout_ms: 15_000,
            send_stall_ms_max: 30_000,
            logout_wait_ms: 5_000,
            abort_data_wait_ms: 1_000,
            sink_ms: 30_000,
        }
    }
}

/// A pattern for initiator names: `*` stands for any characters, `?` for one, a leading `!` refuses, `ANY`
/// fits everybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern {
    refuse: bool,
    glob: String,
}

impl NamePattern {
    /// Fits every initiator.
    pub fn any() -> Self {
        NamePattern { refuse: false, glob: "*".into() }
    }

    /// `None`: does not fit; otherwise whether a name that fits may come.
    pub fn verdict(&self, name: &str) -> Option<bool> {
        glob_fits(self.glob.as_bytes(), name.as_bytes()).then_some(!self.refuse)
    }
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(s: &str) -> Result<Self, PatternError> {
        let (refuse, rest) = match s.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, s),
        };
        if rest.is_empty() || rest.len() > 255 {
            return Err(PatternError::Name(s.into()));
        }
        let glob = if rest.eq_ignore_ascii_case("any") || rest.eq_ignore_ascii_case("all") {
            "*".into()
        } else {
            rest.to_ascii_lowercase()
        };
        Ok(NamePattern { refuse, glob })
    }
}

/// A range of addresses: `ANY`, `10.0.0.0/8`, `[fd00::]/8`, or a single address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Netmask {
    /// Every address.
    Any,
    /// Addresses that share the first bits.
    Prefix(IpAddr, u8),
}

impl Netmask {
    /// Whether an address lies within.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (*self, address.to_canonical()) {
            (Netmask::Any, _) => true,
            (Netmask::Prefix(IpAddr::V4(net), bits), IpAddr::V4(a)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                u32::from(net) & mask == u32::from(a) & mask
            }
            (Netmask::Prefix(IpAddr::V6(net), bits), IpAddr::V6(a)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                u128::from(net) & mask == u128::from(a) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Netmask {
    type Err = PatternError;

    fn from_str(s: &str) -> Result<Self, PatternError> {
        if s.eq_ignore_ascii_case("any") || s.eq_ignore_ascii_case("all") {
            return Ok(Netmask::Any);
        }
        let bad = || PatternError::Netmask(s.into());
        let (address, bits) = match s.rsplit_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| bad())?)),
            None => (s, None),
        };
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        let address = match bare {
            Some(v6) => IpAddr::V6(v6.parse::<Ipv6Addr>().map_err(|_| bad())?),
            None => address.parse::<IpAddr>().map_err(|_| bad())?,
        };
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(widest);
        if bits > widest { Err(bad()) } else { Ok(Netmask::Prefix(address, bits)) }
    }
}

/// A pattern that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    /// Of initiator names.
    #[error("not an initiator name or pattern: {0:?}")]
    Name(String),
    /// Of addresses.
    #[error("not an address or a range of addresses: {0:?}")]
    Netmask(String),
}

impl InitiatorGroup {
    /// Whether an initiator of this name and address belongs to the group.
    pub fn admits(&self, name: &str, address: IpAddr) -> bool {
        let named = self.names.iter().find_map(|p| p.verdict(name)).unwrap_or(false);
        named && self.netmasks.iter().any(|m| m.holds(address))
    }
}

impl IscsiConfig {
    /// A configuration with one target that everybody may use, as `demo` and tests want it.
    pub fn open_target(name: &str, portal: SocketAddr) -> Self {
        IscsiConfig {
            epoch: 1,
            portal_groups: vec![PortalGroup { tag: 1, portals: vec![portal], private: false }],
            initiator_groups: vec![InitiatorGroup {
                tag: 1,
                names: vec![NamePattern::any()],
                netmasks: vec![Netmask::Any],
            }],
            targets: vec![TargetNode {
                id: 1,
                name: name.into(),
                alias: None,
                maps: vec![AccessMap { portal_group: 1, initiator_group: 1, lun_map: 1 }],
                auth: AuthPolicy { chap: ChapRule::Disabled, ..AuthPolicy::default() },
                header_digest: DigestPolicy::AsOffered,
                data_digest: DigestPolicy::AsOffered,
                queue_depth: 128,
            }],
            chap_groups: Vec::new(),
            discovery_auth: AuthPolicy { chap: ChapRule::Disabled, ..AuthPolicy::default() },
            limits: IscsiLimits::default(),
        }
    }

    /// A target by name. iSCSI names are compared in lower case (RFC 3722).
    pub fn target(&self, name: &str) -> Option<&TargetNode> {
        self.targets.iter().find(|t| t.name.eq_ignore_ascii_case(name))
    }

    /// A target by number.
    pub fn target_by_id(&self, id: u32) -> Option<&TargetNode> {
        self.targets.iter().find(|t| t.id == id)
    }

    /// The first row of a target's access list that lets this initiator in through this portal group.
    pub fn access(&self, target: &TargetNode, group: u16, name: &str, address: IpAddr) -> Option<AccessMap> {
        target
            .maps
            .iter()
            .filter(|m| m.portal_group == group)
            .find(|m| {
                self.initiator_groups.iter().any(|g| g.tag == m.initiator_group && g.admits(name, address))
            })
            .copied()
    }

    /// A portal group by tag.
    pub fn portal_group(&self, tag: u16) -> Option<&PortalGroup> {
        self.portal_groups.iter().find(|g| g.tag == tag)
    }

    /// Secrets that are good under a policy.
    pub fn secrets(&self, policy: &AuthPolicy) -> &[ChapSecret] {
        policy
            .chap_group
            .and_then(|tag| self.chap_groups.iter().find(|g| g.tag == tag))
            .map_or(&[], |g| &g.secrets)
    }
}

/// The address an initiator is told for a portal: a wildcard becomes the address it used itself.
pub fn shown_address(portal: SocketAddr, used: SocketAddr) -> SocketAddr {
    let wild = match portal.ip() {
        IpAddr::V4(a) => a == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(a) => a == Ipv6Addr::UNSPECIFIED,
    };
    let ip = if wild { used.ip() } else { portal.ip() };
    // An IPv4 peer of a dual-stack socket shows up as ::ffff:a.b.c.d.
    SocketAddr::new(ip.to_canonical(), if portal.port() == 0 { used.port() } else { portal.port() })
}

/// Matches `*` and `?`, without recursion: a star remembers where to come back to.
fn glob_fits(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                back = Some((g, t));
                g += 1;
            }
            Some(&c) if c == b'?' || c.eq_ignore_ascii_case(&text[t]) => {
                g += 1;
                t += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    g = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(names: &[&str], masks: &[&str]) -> InitiatorGroup {
        InitiatorGroup {
            tag: 1,
            names: names.iter().map(|n| n.parse().unwrap()).collect(),
            netmasks: masks.iter().map(|m| m.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_first_name_pattern_that_fits_decides() {
        let g = group(&["!iqn.2000-01.com.bad:*", "iqn.*:host?"], &["ANY"]);
        let ip = "10.1.2.3".parse().unwrap();
        assert!(g.admits("iqn.2000-01.com.good:host1", ip));
        assert!(!g.admits("iqn.2000-01.com.bad:host1", ip));
        assert!(!g.admits("iqn.2000-01.com.good:host12", ip));
        assert!(!group(&[], &["ANY"]).admits("iqn.x", ip));
    }

    #[test]
    fn addresses_are_compared_by_prefix_and_family() {
        let g = group(&["ANY"], &["10.0.0.0/8", "[fd00::]/8", "192.168.1.7"]);
        for (address, fits) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("::ffff:10.0.0.1", true),
            ("fdab::1", true),
            ("fe80::1", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
        ] {
            assert_eq!(g.admits("iqn.x", address.parse().unwrap()), fits, "{address}");
        }
        assert!("10.0.0.0/0".parse::<Netmask>().unwrap().holds("1.2.3.4".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Netmask>().is_err());
        assert!("ten".parse::<Netmask>().is_err());
        assert!("!".parse::<NamePattern>().is_err());
    }

    #[test]
    fn a_wildcard_portal_is_shown_as_the_address_the_initiator_used() {
        let used = "[::ffff:192.0.2.9]:3260".parse().unwrap();
        assert_eq!(shown_address("0.0.0.0:3260".parse().unwrap(), used).to_string(), "192.0.2.9:3260");
        assert_eq!(shown_address("[::]:3261".parse().unwrap(), used).to_string(), "192.0.2.9:3261");
        assert_eq!(
            shown_address("198.51.100.1:3260".parse().unwrap(), used).to_string(),
            "198.51.100.1:3260"
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?}", Secret(b"hunter2hunter2".to_vec()));
        assert!(!text.contains("hunter"));
    }
}
