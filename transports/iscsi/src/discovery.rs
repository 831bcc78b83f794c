//! SendTargets (RFC 7143 §4.3, appendix C): which targets an initiator may see, and where they are.

use std::net::SocketAddr;

use spindle_iscsi_wire::keys::{TextBuf, name};

use crate::config::{IscsiConfig, shown_address};

/// Who asks, and where.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// InitiatorName.
    pub initiator: &'a str,
    /// Its address.
    pub peer: SocketAddr,
    /// The address it used.
    pub local: SocketAddr,
    /// In a normal session: the target it is logged in to.
    pub session_target: Option<u32>,
}

/// Answers `SendTargets=value`. `None`: the value means nothing here (answered with Reject).
pub fn send_targets(config: &IscsiConfig, asker: &Asker<'_>, value: &str) -> Option<TextBuf> {
    let mut text = TextBuf::new();
    let wanted: Box<dyn Fn(&crate::config::TargetNode) -> bool> = match (value, asker.session_target) {
        // RFC 7143 appendix C: All only in a discovery session.
        ("All", None) => Box::new(|_| true),
        ("All", Some(_)) => return None,
        // Without a value: the target of this session.
        ("", Some(id)) => Box::new(move |t| t.id == id),
        ("", None) => return None,
        // A name: the target of this session, or any in a discovery session.
        (name, own) => {
            let name = name.to_owned();
            Box::new(move |t| t.name.eq_ignore_ascii_case(&name) && own.is_none_or(|id| id == t.id))
        }
    };
    for target in config.targets.iter().filter(|t| wanted(t)) {
        let mut addresses = Vec::new();
        for map in &target.maps {
            let open = config.access(target, map.portal_group, asker.initiator, asker.peer.ip()).is_some();
            let Some(group) = config.portal_group(map.portal_group).filter(|g| open && !g.private) else {
                continue;
            };
            for portal in &group.portals {
                let line = format!("{},{}", shown_address(*portal, asker.local), group.tag);
                if !addresses.contains(&line) {
                    addresses.push(line);
                }
            }
        }
        if !addresses.is_empty() {
            text.pair(name::TARGET_NAME, &target.name);
            for address in &addresses {
                text.pair(name::TARGET_ADDRESS, address);
            }
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AccessMap, InitiatorGroup, Netmask, PortalGroup};

    fn config() -> IscsiConfig {
        let mut c = IscsiConfig::open_target("iqn.2000-01.com.example:a", "0.0.0.0:3260".parse().unwrap());
        c.portal_groups.push(PortalGroup {
            tag: 2,
            portals: vec!["[fd00::1]:3260".parse().unwrap(), "192.0.2.1:3261".parse().unwrap()],
            private: false,
        });
        c.portal_groups.push(PortalGroup {
            tag: 3,
            portals: vec!["192.0.2.3:1".parse().unwrap()],
            private: true,
        });
        c.initiator_groups.push(InitiatorGroup {
            tag: 2,
            names: vec!["iqn.*:host".parse().unwrap()],
            netmasks: vec![Netmask::Any],
        });
        let mut b = c.targets[0].clone();
        (b.id, b.name) = (2, "iqn.2000-01.com.example:b".into());
        b.maps =
            [1, 2, 3].map(|portal_group| AccessMap { portal_group, initiator_group: 2, lun_map: 1 }).to_vec();
        c.targets.push(b);
        c
    }

    fn ask(initiator: &str, session_target: Option<u32>, value: &str) -> Option<String> {
        let asker = Asker {
            initiator,
            peer: "198.51.100.7:1234".parse().unwrap(),
            local: "198.51.100.1:3260".parse().unwrap(),
            session_target,
        };
        let text = send_targets(&config(), &asker, value)?;
        Some(
            String::from_utf8(text.into_bytes())
                .unwrap()
                .replace('\0', " ")
                .replace("iqn.2000-01.com.example", "iqn"),
        )
    }

    const A: &str = "TargetName=iqn:a TargetAddress=198.51.100.1:3260,1 ";
    const B: &str = "TargetName=iqn:b TargetAddress=198.51.100.1:3260,1 TargetAddress=[fd00::1]:3260,2 \
                     TargetAddress=192.0.2.1:3261,2 ";

    #[test]
    fn all_shows_what_the_initiator_may_use_and_no_private_portal() {
        assert_eq!(ask("iqn.x:host", None, "All").unwrap(), format!("{A}{B}"));
        assert_eq!(ask("iqn.x:other", None, "All").unwrap(), A);
    }

    #[test]
    fn a_name_shows_one_target_and_nothing_of_others() {
        assert_eq!(ask("iqn.x:host", None, "iqn.2000-01.com.example:B").unwrap(), B);
        assert_eq!(ask("iqn.x:other", None, "iqn.2000-01.com.example:b").unwrap(), "");
        assert_eq!(ask("iqn.x:host", Some(1), "iqn.2000-01.com.example:b").unwrap(), "");
    }

    #[test]
    fn an_empty_value_shows_the_target_of_the_session() {
        assert_eq!(ask("iqn.x:host", Some(1), "").unwrap(), A);
        assert_eq!(ask("iqn.x:host", None, ""), None);
        assert_eq!(ask("iqn.x:host", Some(1), "All"), None);
    }
}
