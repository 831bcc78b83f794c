//! Operational keys (RFC 7143 §13): how the result of each is formed, and whether the target's answer is one.

use std::collections::BTreeMap;

use spindle_iscsi_wire::keys::name;
use spindle_iscsi_wire::values;

use crate::violation::What;

/// How a result comes out of an offer and an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The smaller number; both within the bounds.
    Min(u32, u32),
    /// The larger number; both within the bounds.
    Max(u32, u32),
    /// Yes if both say Yes.
    And,
    /// Yes if one says Yes.
    Or,
    /// One item of the offered list.
    Choice,
    /// Each side says its own; no answer.
    Declare,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct KeyRule {
    /// Its name.
    pub name: &'static str,
    /// How it is negotiated.
    pub rule: Rule,
    /// Its value without negotiation.
    pub default: &'static str,
    /// Whether a target may answer NotUnderstood: keys younger than RFC 3720, and those that RFC 7143 dropped.
    pub optional: bool,
}

const fn key(name: &'static str, rule: Rule, default: &'static str) -> KeyRule {
    KeyRule { name, rule, default, optional: false }
}

const fn optional(name: &'static str, rule: Rule, default: &'static str) -> KeyRule {
    KeyRule { name, rule, default, optional: true }
}

/// Every operational key. Bounds and defaults as in RFC 7143 §13 and RFC 7144 §7.1.
pub const KEYS: &[KeyRule] = &[
    key(name::HEADER_DIGEST, Rule::Choice, "None"),
    key(name::DATA_DIGEST, Rule::Choice, "None"),
    key(name::MAX_CONNECTIONS, Rule::Min(1, 65_535), "1"),
    key(name::INITIAL_R2T, Rule::Or, "Yes"),
    key(name::IMMEDIATE_DATA, Rule::And, "Yes"),
    key(name::MAX_RECV_DATA_SEGMENT_LENGTH, Rule::Declare, "8192"),
    key(name::MAX_BURST_LENGTH, Rule::Min(512, 0xFF_FFFF), "262144"),
    key(name::FIRST_BURST_LENGTH, Rule::Min(512, 0xFF_FFFF), "65536"),
    key(name::DEFAULT_TIME2WAIT, Rule::Max(0, 3600), "2"),
    key(name::DEFAULT_TIME2RETAIN, Rule::Min(0, 3600), "20"),
    key(name::MAX_OUTSTANDING_R2T, Rule::Min(1, 65_535), "1"),
    key(name::DATA_PDU_IN_ORDER, Rule::Or, "Yes"),
    key(name::DATA_SEQUENCE_IN_ORDER, Rule::Or, "Yes"),
    key(name::ERROR_RECOVERY_LEVEL, Rule::Min(0, 2), "0"),
    key(name::TARGET_ALIAS, Rule::Declare, ""),
    key(name::TARGET_PORTAL_GROUP_TAG, Rule::Declare, ""),
    key(name::TARGET_ADDRESS, Rule::Declare, ""),
    optional(name::ISCSI_PROTOCOL_LEVEL, Rule::Min(0, 31), "1"),
    optional(name::TASK_REPORTING, Rule::Choice, "RFC3720"),
    optional(name::IF_MARKER, Rule::And, "No"),
    optional(name::OF_MARKER, Rule::And, "No"),
];

fn rule_of(key: &str) -> Option<&'static KeyRule> {
    KEYS.iter().find(|rule| rule.name == key)
}

/// The result of a login.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each field is the key of that name")]
pub struct Params {
    pub header_digest: bool,
    pub data_digest: bool,
    pub max_connections: u32,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// What the initiator takes in one PDU.
    pub max_recv: u32,
    /// What the target takes in one PDU.
    pub max_send: u32,
    pub max_burst: u32,
    pub first_burst: u32,
    pub time2wait: u32,
    pub time2retain: u32,
    pub max_outstanding_r2t: u32,
    pub data_pdu_in_order: bool,
    pub data_sequence_in_order: bool,
    pub error_recovery_level: u32,
    pub protocol_level: u32,
    pub target_alias: Option<String>,
    pub portal_group_tag: Option<u32>,
    /// Every key and value the target sent, for what has no field here.
    pub answers: BTreeMap<String, String>,
}

impl Default for Params {
    /// As if nothing had been negotiated.
    fn default() -> Self {
        Negotiation::default().params()
    }
}

/// Offers, answers and results so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Negotiation {
    offered: BTreeMap<String, String>,
    results: BTreeMap<&'static str, String>,
    /// What the target said.
    pub(crate) answers: BTreeMap<String, String>,
}

impl Negotiation {
    /// Notes an offer that goes out.
    pub(crate) fn offer(&mut self, key: &str, value: &str) {
        self.offered.insert(key.to_owned(), value.to_owned());
    }

    /// Takes a pair of the target; gives the reply it needs, if any.
    pub(crate) fn take(&mut self, key: &str, value: &str, wrong: &mut Vec<What>) -> Option<(String, String)> {
        if self.answers.insert(key.to_owned(), value.to_owned()).is_some() {
            wrong.push(What::Renegotiated { key: key.to_owned() });
            return None;
        }
        let rule = rule_of(key);
        match (rule, self.offered.get(key)) {
            (Some(rule), _) if rule.rule == Rule::Declare => None,
            (Some(rule), Some(offered)) => {
                let bad = || What::Negotiation {
                    key: key.to_owned(),
                    offered: offered.clone(),
                    answered: value.to_owned(),
                };
                match value {
                    values::IRRELEVANT => {}
                    values::NOT_UNDERSTOOD | values::REJECT if rule.optional => {}
                    _ if is_answer(rule.rule, offered, value) => {
                        self.results.insert(rule.name, value.to_owned());
                    }
                    _ => wrong.push(bad()),
                }
                None
            }
            (Some(rule), None) => {
                // The target's own offer: go along with whatever it may say.
                if is_offer(rule.rule, value) {
                    let taken = values::list(value).next_back().unwrap_or(value);
                    let answer = if rule.rule == Rule::Choice { taken } else { value };
                    self.results.insert(rule.name, answer.to_owned());
                    Some((key.to_owned(), answer.to_owned()))
                } else {
                    wrong.push(What::Negotiation {
                        key: key.to_owned(),
                        offered: value.to_owned(),
                        answered: String::new(),
                    });
                    Some((key.to_owned(), values::REJECT.to_owned()))
                }
            }
            // An answer to a key of the test's own.
            (None, Some(_)) => None,
            (None, None) => Some((key.to_owned(), values::NOT_UNDERSTOOD.to_owned())),
        }
    }

    /// Offers that should have been answered and were not.
    pub(crate) fn unanswered(&self) -> Vec<What> {
        let silent = |(key, value): &(&String, &String)| {
            let Some(rule) = rule_of(key) else { return false };
            // RFC 7143 §6.2.1: a boolean offer that decides alone needs no answer.
            let decided = matches!((rule.rule, value.as_str()), (Rule::And, "No") | (Rule::Or, "Yes"));
            rule.rule != Rule::Declare && !decided && !self.answers.contains_key(*key)
        };
        self.offered.iter().filter(silent).map(|(key, _)| What::Unanswered { key: key.clone() }).collect()
    }

    fn result(&self, key: &'static str) -> &str {
        let rule = rule_of(key).expect("every key of Params has a rule");
        // An offer that decides alone is the result whether it was answered or not.
        let decided = self
            .offered
            .get(key)
            .filter(|value| matches!((rule.rule, value.as_str()), (Rule::And, "No") | (Rule::Or, "Yes")));
        self.results.get(key).or(decided).map_or(rule.default, String::as_str)
    }

    pub(crate) fn params(&self) -> Params {
        let number =
            |key| values::number(self.result(key)).map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let boolean = |key| self.result(key) == "Yes";
        let declared = |value: Option<&String>, default: u32| {
            value.and_then(|value| values::number_in(value, 512, 0xFF_FFFF).ok()).unwrap_or(default)
        };
        Params {
            header_digest: self.result(name::HEADER_DIGEST) == "CRC32C",
            data_digest: self.result(name::DATA_DIGEST) == "CRC32C",
            max_connections: number(name::MAX_CONNECTIONS),
            initial_r2t: boolean(name::INITIAL_R2T),
            immediate_data: boolean(name::IMMEDIATE_DATA),
            max_recv: declared(self.offered.get(name::MAX_RECV_DATA_SEGMENT_LENGTH), 8192),
            max_send: declared(self.answers.get(name::MAX_RECV_DATA_SEGMENT_LENGTH), 8192),
            max_burst: number(name::MAX_BURST_LENGTH),
            first_burst: number(name::FIRST_BURST_LENGTH).min(number(name::MAX_BURST_LENGTH)),
            time2wait: number(name::DEFAULT_TIME2WAIT),
            time2retain: number(name::DEFAULT_TIME2RETAIN),
            max_outstanding_r2t: number(name::MAX_OUTSTANDING_R2T),
            data_pdu_in_order: boolean(name::DATA_PDU_IN_ORDER),
            data_sequence_in_order: boolean(name::DATA_SEQUENCE_IN_ORDER),
            error_recovery_level: number(name::ERROR_RECOVERY_LEVEL),
            protocol_level: number(name::ISCSI_PROTOCOL_LEVEL),
            target_alias: self.answers.get(name::TARGET_ALIAS).cloned(),
            portal_group_tag: self
                .answers
                .get(name::TARGET_PORTAL_GROUP_TAG)
                .and_then(|tag| values::number_in(tag, 0, 65_535).ok()),
            answers: self.answers.clone(),
        }
    }
}

/// Whether `value` may stand on either side at all.
fn is_offer(rule: Rule, value: &str) -> bool {
    match rule {
        Rule::Min(low, high) | Rule::Max(low, high) => values::number_in(value, low, high).is_ok(),
        Rule::And | Rule::Or => values::boolean(value).is_ok(),
        Rule::Choice => !value.is_empty(),
        Rule::Declare => true,
    }
}

/// Whether `answered` is a result of `offered`.
fn is_answer(rule: Rule, offered: &str, answered: &str) -> bool {
    if !is_offer(rule, answered) {
        return false;
    }
    let (ours, theirs) = (values::number(offered).ok(), values::number(answered).ok());
    match rule {
        Rule::Min(..) => theirs <= ours || ours.is_none(),
        Rule::Max(..) => theirs >= ours || ours.is_none(),
        Rule::And => offered != "No" || answered == "No",
        Rule::Or => offered != "Yes" || answered == "Yes",
        Rule::Choice => values::list(offered).any(|item| item == answered),
        Rule::Declare => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(pairs: &[(&str, &str, &str)]) -> (Params, Vec<What>) {
        let (mut negotiation, mut wrong) = (Negotiation::default(), Vec::new());
        for (key, offered, answered) in pairs {
            negotiation.offer(key, offered);
            if !answered.is_empty() {
                assert_eq!(negotiation.take(key, answered, &mut wrong), None);
            }
        }
        wrong.extend(negotiation.unanswered());
        (negotiation.params(), wrong)
    }

    #[test]
    fn without_negotiation_everything_is_at_its_default() {
        let params = Params::default();
        assert!(params.initial_r2t && params.immediate_data && params.data_pdu_in_order);
        assert!(!params.header_digest && !params.data_digest);
        assert_eq!((params.max_recv, params.max_send), (8192, 8192));
        assert_eq!((params.max_burst, params.first_burst), (262_144, 65_536));
        assert_eq!((params.time2wait, params.time2retain), (2, 20));
        assert_eq!(
            (params.max_outstanding_r2t, params.error_recovery_level, params.protocol_level),
            (1, 0, 1)
        );
    }

    #[test]
    fn good_answers_become_results() {
        let (params, wrong) = negotiated(&[
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("InitialR2T", "No", "No"),
            ("ImmediateData", "No", ""),
            ("MaxBurstLength", "1048576", "65536"),
            ("FirstBurstLength", "262144", "262144"),
            ("DefaultTime2Wait", "0", "5"),
            ("MaxRecvDataSegmentLength", "65536", "131072"),
            ("iSCSIProtocolLevel", "2", "NotUnderstood"),
            ("ErrorRecoveryLevel", "2", "Irrelevant"),
            ("X-org.example.test", "1", "NotUnderstood"),
        ]);
        assert_eq!(wrong, []);
        assert!(params.header_digest && !params.initial_r2t && !params.immediate_data);
        assert_eq!((params.max_burst, params.first_burst), (65_536, 65_536), "never above MaxBurstLength");
        assert_eq!((params.max_recv, params.max_send, params.time2wait), (65_536, 131_072, 5));
        assert_eq!((params.protocol_level, params.error_recovery_level), (1, 0));
        assert_eq!(params.answers["X-org.example.test"], "NotUnderstood");
    }

    #[test]
    fn bad_answers_are_violations_and_change_nothing() {
        for (key, offered, answered) in [
            ("HeaderDigest", "None", "CRC32C"),
            ("InitialR2T", "Yes", "No"),
            ("ImmediateData", "No", "Yes"),
            ("ImmediateData", "Yes", "yes"),
            ("MaxBurstLength", "65536", "65537"),
            ("MaxBurstLength", "65536", "511"),
            ("DefaultTime2Wait", "5", "4"),
            ("ErrorRecoveryLevel", "0", "1"),
            ("ErrorRecoveryLevel", "0", "NotUnderstood"),
        ] {
            let (params, wrong) = negotiated(&[(key, offered, answered)]);
            assert!(matches!(&wrong[..], [What::Negotiation { .. }]), "{key}: {wrong:?}");
            // Only an offer that decides alone may differ from the default.
            assert_eq!(params.immediate_data, (key, offered) != ("ImmediateData", "No"));
            assert_eq!(params.max_burst, 262_144);
        }
        let (_, wrong) = negotiated(&[("MaxConnections", "4", "")]);
        assert_eq!(wrong, [What::Unanswered { key: "MaxConnections".into() }]);
    }

    #[test]
    fn offers_of_the_target_are_answered() {
        let (mut negotiation, mut wrong) = (Negotiation::default(), Vec::new());
        let mut take = |key: &str, value: &str| {
            negotiation.take(key, value, &mut wrong).map(|(_, value)| value).unwrap_or_default()
        };
        assert_eq!(take("MaxOutstandingR2T", "4"), "4");
        assert_eq!(take("HeaderDigest", "CRC32C,None"), "None");
        assert_eq!(take("TargetPortalGroupTag", "1"), "");
        assert_eq!(take("X-unknown", "1"), "NotUnderstood");
        assert_eq!(take("MaxBurstLength", "1"), "Reject");
        assert_eq!(take("MaxOutstandingR2T", "5"), "");
        assert_eq!(negotiation.params().max_outstanding_r2t, 4);
        assert_eq!(negotiation.params().portal_group_tag, Some(1));
        assert!(matches!(wrong[..], [What::Negotiation { .. }, What::Renegotiated { .. }]));
    }
}
