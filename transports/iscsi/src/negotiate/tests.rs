use proptest::prelude::*;

use super::*;

fn ask(n: &mut Negotiator, stage: Stage, pairs: &[(&str, &str)]) -> Result<Vec<String>, KeyError> {
    let answers = n.offers(stage, pairs.iter().copied())?;
    Ok(answers.into_iter().map(|(k, v)| format!("{k}={v}")).collect())
}

fn fresh() -> Negotiator {
    Negotiator::new(&IscsiLimits::default())
}

#[test]
fn an_ordinary_login_gets_an_answer_for_every_key_that_wants_one() {
    let mut n = fresh();
    let got = ask(
        &mut n,
        Stage::Operational,
        &[
            ("InitiatorName", "iqn.2000-01.com.example:Host"),
            ("TargetName", "iqn.2000-01.com.example:disk"),
            ("SessionType", "Normal"),
            ("HeaderDigest", "CRC32C,None"),
            ("DataDigest", "None"),
            ("ErrorRecoveryLevel", "2"),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxBurstLength", "16776192"),
            ("FirstBurstLength", "262144"),
            ("MaxRecvDataSegmentLength", "0x40000"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "0"),
            ("MaxConnections", "4"),
            ("MaxOutstandingR2T", "16"),
            ("DataPDUInOrder", "No"),
            ("DataSequenceInOrder", "No"),
            ("IFMarker", "No"),
            ("OFMarkInt", "1~65535"),
            ("iSCSIProtocolLevel", "2"),
            ("TaskReporting", "FastAbort,ResponseFence"),
            ("X-com.example.colour", "green"),
            ("RDMAExtensions", "Yes"),
            ("MaxAHSLength", "0"),
        ],
    )
    .unwrap();
    let want = [
        "HeaderDigest=CRC32C",
        "DataDigest=None",
        "ErrorRecoveryLevel=0",
        "InitialR2T=No",
        "ImmediateData=Yes",
        "MaxBurstLength=1048576",
        "FirstBurstLength=65536",
        "DefaultTime2Wait=2",
        "DefaultTime2Retain=0",
        "MaxConnections=1",
        "MaxOutstandingR2T=4",
        "DataPDUInOrder=Yes",
        "DataSequenceInOrder=Yes",
        "IFMarker=No",
        "OFMarkInt=Reject",
        "iSCSIProtocolLevel=2",
        "TaskReporting=ResponseFence",
        "X-com.example.colour=NotUnderstood",
        "RDMAExtensions=No",
        "MaxAHSLength=Irrelevant",
    ];
    assert_eq!(got, want);
    assert_eq!(n.params().max_send_data_segment_length, 0x40000);
    assert_eq!(n.declared().initiator_name.as_deref(), Some("iqn.2000-01.com.example:host"));
}

#[test]
fn values_that_cannot_be_are_rejected_and_leave_the_default() {
    let mut n = fresh();
    let pairs = [
        ("MaxBurstLength", "511"),
        ("MaxOutstandingR2T", "0"),
        ("InitialR2T", "Maybe"),
        ("HeaderDigest", "MD5"),
        ("MaxConnections", "1~4"),
        ("DefaultTime2Wait", "3601"),
        ("ErrorRecoveryLevel", "-1"),
    ];
    let got = ask(&mut n, Stage::Operational, &pairs).unwrap();
    assert!(got.iter().all(|a| a.ends_with("=Reject")), "{got:?}");
    assert_eq!(*n.params(), Params::defaults(&IscsiLimits::default()));
    for bad in ["511", "16777216", "", "many"] {
        let e = ask(&mut fresh(), Stage::Operational, &[("MaxRecvDataSegmentLength", bad)]);
        assert_eq!(e, Err(KeyError::BadValue));
    }
}

#[test]
fn a_key_may_be_negotiated_once() {
    let mut n = fresh();
    ask(&mut n, Stage::Operational, &[("MaxBurstLength", "65536")]).unwrap();
    assert_eq!(ask(&mut n, Stage::Operational, &[("MaxBurstLength", "65536")]), Err(KeyError::Twice));
    let mut n = fresh();
    let twice = [("InitialR2T", "Yes"), ("InitialR2T", "No")];
    assert_eq!(ask(&mut n, Stage::Operational, &twice), Err(KeyError::Twice));
}

#[test]
fn keys_keep_to_their_stage() {
    for (stage, key, value) in [
        (Stage::Security, "MaxBurstLength", "65536"),
        (Stage::Security, "HeaderDigest", "None"),
        (Stage::Operational, "AuthMethod", "None"),
        (Stage::FullFeature, "TargetName", "iqn.x"),
        (Stage::FullFeature, "InitialR2T", "No"),
        (Stage::Operational, "SendTargets", "All"),
    ] {
        assert_eq!(ask(&mut fresh(), stage, &[(key, value)]), Err(KeyError::WrongStage), "{key}");
    }
    let mut n = fresh();
    assert_eq!(ask(&mut n, Stage::FullFeature, &[("MaxRecvDataSegmentLength", "4096")]), Ok(vec![]));
    assert_eq!(n.params().max_send_data_segment_length, 4096);
}

#[test]
fn keys_without_meaning_in_discovery_are_irrelevant_wherever_session_type_stands() {
    let pairs = [("MaxConnections", "1"), ("InitialR2T", "No"), ("SessionType", "Discovery")];
    let got = ask(&mut fresh(), Stage::Operational, &pairs).unwrap();
    assert_eq!(got, ["MaxConnections=Irrelevant", "InitialR2T=Irrelevant"]);
}

#[test]
fn first_burst_length_means_nothing_without_unsolicited_data() {
    let pairs = [("FirstBurstLength", "8192"), ("ImmediateData", "No"), ("InitialR2T", "Yes")];
    let got = ask(&mut fresh(), Stage::Operational, &pairs).unwrap();
    assert_eq!(got[0], "FirstBurstLength=Irrelevant");
}

#[test]
fn digest_policies_form_their_results() {
    for (policy, offer, answer, settled) in [
        (DigestPolicy::AsOffered, "None,CRC32C", "None", true),
        (DigestPolicy::Prefer, "None,CRC32C", "CRC32C", true),
        (DigestPolicy::Prefer, "None", "None", true),
        (DigestPolicy::Never, "CRC32C,None", "None", true),
        (DigestPolicy::Never, "CRC32C", "Reject", true),
        (DigestPolicy::Require, "None,CRC32C", "CRC32C", true),
        (DigestPolicy::Require, "None", "Reject", false),
    ] {
        let mut n = fresh();
        n.digest_policy(policy, DigestPolicy::AsOffered);
        let got = ask(&mut n, Stage::Operational, &[("HeaderDigest", offer)]).unwrap();
        assert_eq!(got, [format!("HeaderDigest={answer}")], "{policy:?} {offer}");
        assert_eq!(n.settled().is_ok(), settled);
    }
}

proptest! {
    #[test]
    fn the_order_of_keys_does_not_matter(
        seed in prop::collection::vec(any::<u32>(), 10),
        first in 512u32..2_000_000, burst in 512u32..2_000_000,
        r2t in any::<bool>(), immediate in any::<bool>(), discovery in any::<bool>(),
    ) {
        let yes = yes_no;
        let (first, burst) = (first.to_string(), burst.to_string());
        let mut pairs = vec![
            ("FirstBurstLength", first.as_str()), ("MaxBurstLength", burst.as_str()),
            ("InitialR2T", yes(r2t)), ("ImmediateData", yes(immediate)), ("DataDigest", "CRC32C"),
            ("SessionType", if discovery { "Discovery" } else { "Normal" }), ("X-a", "b"),
            ("MaxOutstandingR2T", "3"), ("DefaultTime2Wait", "7"), ("MaxRecvDataSegmentLength", "4096"),
        ];
        let mut a = fresh();
        let mut one = ask(&mut a, Stage::Operational, &pairs).unwrap();
        let mut order = seed.iter().enumerate().map(|(i, s)| (*s, i)).collect::<Vec<_>>();
        order.sort_unstable();
        pairs = order.iter().map(|&(_, i)| pairs[i]).collect();
        let mut b = fresh();
        let mut two = ask(&mut b, Stage::Operational, &pairs).unwrap();
        one.sort();
        two.sort();
        prop_assert_eq!(one, two);
        prop_assert_eq!(a.params(), b.params());
        prop_assert!(a.params().first_burst_length <= 65_536);
    }

    #[test]
    fn any_key_and_value_get_an_answer_or_an_error(key in "[A-Za-z0-9.#-]{1,63}", value in "\\PC{0,40}") {
        let mut n = fresh();
        if let Ok(answers) = n.offers(Stage::Operational, [(key.as_str(), value.as_str())].into_iter()) {
            prop_assert!(answers.len() <= 1);
        }
    }

    #[test]
    fn every_row_takes_any_value(at in 0..TABLE.len(), value in "[0-9A-Za-z,~x]{0,24}") {
        for stage in [Stage::Security, Stage::Operational, Stage::FullFeature] {
            let mut n = fresh();
            let _ = n.offers(stage, [(TABLE[at].name, value.as_str())].into_iter());
            prop_assert!(n.params().max_outstanding_r2t >= 1);
            prop_assert!(n.params().max_send_data_segment_length >= 512);
        }
    }
}
