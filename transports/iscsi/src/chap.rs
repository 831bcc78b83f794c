//! CHAP, one-way and mutual (RFC 7143 §12.1.3, RFC 1994): MD5, SHA1, SHA-256, SHA3-256.
//!
//! The response to a challenge is H(identifier, secret, challenge). Three things are refused beyond a wrong
//! answer: our own challenge sent back to us, a mutual exchange in which both sides have the same secret (an
//! attacker could let us answer our own questions, RFC 7143 §9.2.1), and values of the wrong length.

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use sha3::Sha3_256;
use subtle::ConstantTimeEq;

use spindle_iscsi_wire::values::{self, to_hex};

use crate::config::ChapSecret;
use crate::negotiate::Answers;

/// CHAP_A.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// 5.
    Md5,
    /// 6.
    Sha1,
    /// 7.
    Sha256,
    /// 8.
    Sha3_256,
}

/// Why an authentication failed. The peer is told of nothing but the failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChapError {
    /// No algorithm in common.
    NoAlgorithm,
    /// A value is missing, too long, or cannot be read.
    BadValue,
    /// The initiator sent our own challenge back.
    Reflected,
    /// Unknown name or wrong response.
    Denied,
    /// Mutual authentication is demanded and was not asked for, or is asked for and has no secret.
    Mutual,
    /// No randomness to be had.
    Random,
}

/// Our side of one exchange, from the challenge to the response.
#[derive(Debug)]
pub struct Chap {
    algorithm: Algorithm,
    id: u8,
    challenge: [u8; CHALLENGE_BYTES],
}

/// What the initiator says in its last step.
#[derive(Clone, Copy, Default, Debug)]
pub struct Proof<'a> {
    /// CHAP_N.
    pub name: Option<&'a str>,
    /// CHAP_R.
    pub response: Option<&'a str>,
    /// CHAP_I, for mutual authentication.
    pub id: Option<&'a str>,
    /// CHAP_C, for mutual authentication.
    pub challenge: Option<&'a str>,
}

const CHALLENGE_BYTES: usize = 32;
const BINARY_BYTES_MAX: usize = 1024;

impl Chap {
    /// The initiator named its algorithms (CHAP_A): picks the first we know and asks.
    pub fn challenge(algorithms: &str) -> Result<(Chap, Answers), ChapError> {
        let algorithm =
            algorithms.split(',').find_map(|a| Algorithm::of(number(a)?)).ok_or(ChapError::NoAlgorithm)?;
        let mut random = [0; CHALLENGE_BYTES + 1];
        getrandom::fill(&mut random).map_err(|_| ChapError::Random)?;
        let mut challenge = [0; CHALLENGE_BYTES];
        challenge.copy_from_slice(&random[1..]);
        let chap = Chap { algorithm, id: random[0], challenge };
        let answers = vec![
            ("CHAP_A".into(), algorithm.code().to_string()),
            ("CHAP_I".into(), chap.id.to_string()),
            ("CHAP_C".into(), to_hex(&chap.challenge)),
        ];
        Ok((chap, answers))
    }

    /// Judges the initiator's response; answers its own challenge if it sent one.
    pub fn judge(
        &self,
        proof: &Proof<'_>,
        secrets: &[ChapSecret],
        mutual_wanted: bool,
    ) -> Result<Answers, ChapError> {
        let (Some(name), Some(response)) = (proof.name, proof.response) else {
            return Err(ChapError::BadValue);
        };
        let response = binary(response)?;
        let known = secrets.iter().find(|s| s.user == name);
        // An unknown name costs the same work as a wrong response.
        let secret = known.map_or(&b"nobody"[..], |s| &s.secret.0);
        let right = self.algorithm.response(self.id, secret, &self.challenge);
        let equal = bool::from(right.as_slice().ct_eq(&response));
        let Some(known) = known.filter(|_| equal) else { return Err(ChapError::Denied) };
        match (proof.id, proof.challenge) {
            (None, None) if mutual_wanted => Err(ChapError::Mutual),
            (None, None) => Ok(Answers::new()),
            (Some(id), Some(challenge)) => self.answer(known, id, challenge),
            _ => Err(ChapError::BadValue),
        }
    }

    fn answer(&self, known: &ChapSecret, id: &str, challenge: &str) -> Result<Answers, ChapError> {
        let id = number(id).and_then(|id| u8::try_from(id).ok()).ok_or(ChapError::BadValue)?;
        let challenge = binary(challenge)?;
        if challenge.is_empty() {
            return Err(ChapError::BadValue);
        }
        // RFC 7143 §12.1.3: the same challenge must not be used in both directions.
        if challenge == self.challenge {
            return Err(ChapError::Reflected);
        }
        let (name, secret) = known.mutual.as_ref().ok_or(ChapError::Mutual)?;
        if *secret == known.secret {
            return Err(ChapError::Mutual);
        }
        let response = self.algorithm.response(id, &secret.0, &challenge);
        Ok(vec![("CHAP_N".into(), name.clone()), ("CHAP_R".into(), to_hex(&response))])
    }
}

impl Algorithm {
    /// By number of the IANA registry.
    pub fn of(code: u64) -> Option<Self> {
        Some(match code {
            5 => Algorithm::Md5,
            6 => Algorithm::Sha1,
            7 => Algorithm::Sha256,
            8 => Algorithm::Sha3_256,
            _ => return None,
        })
    }

    /// Its number.
    pub fn code(self) -> u8 {
        match self {
            Algorithm::Md5 => 5,
            Algorithm::Sha1 => 6,
            Algorithm::Sha256 => 7,
            Algorithm::Sha3_256 => 8,
        }
    }

    /// What one who knows the secret answers.
    pub fn response(self, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut d = D::new();
            parts.iter().for_each(|p| d.update(p));
            d.finalize().to_vec()
        }
        let parts = [&[id][..], secret, challenge];
        match self {
            Algorithm::Md5 => hash::<Md5>(parts),
            Algorithm::Sha1 => hash::<Sha1>(parts),
            Algorithm::Sha256 => hash::<Sha256>(parts),
            Algorithm::Sha3_256 => hash::<Sha3_256>(parts),
        }
    }
}

fn number(value: &str) -> Option<u64> {
    values::number(value).ok()
}

fn binary(value: &str) -> Result<Vec<u8>, ChapError> {
    let mut room = [0; BINARY_BYTES_MAX];
    let n = values::binary(value, &mut room).map_err(|_| ChapError::BadValue)?;
    Ok(room[..n].to_vec())
}

#[cfg(test)]
mod tests {
    use spindle_iscsi_wire::values::to_base64;

    use super::*;
    use crate::config::Secret;

    fn secrets() -> Vec<ChapSecret> {
        let secret = |s: &str| Secret(s.as_bytes().to_vec());
        vec![
            ChapSecret { user: "anna".into(), secret: secret("annas-secret-1"), mutual: None },
            ChapSecret {
                user: "bert".into(),
                secret: secret("berts-secret-1"),
                mutual: Some(("disk".into(), secret("disks-secret-1"))),
            },
            ChapSecret {
                user: "same".into(),
                secret: secret("sames-secret-1"),
                mutual: Some(("disk".into(), secret("sames-secret-1"))),
            },
        ]
    }

    fn respond(answers: &Answers, secret: &str) -> (Algorithm, Vec<u8>) {
        let value = |key: &str| &answers.iter().find(|(k, _)| k == key).unwrap().1;
        let algorithm = Algorithm::of(number(value("CHAP_A")).unwrap()).unwrap();
        let id = value("CHAP_I").parse().unwrap();
        (algorithm, algorithm.response(id, secret.as_bytes(), &binary(value("CHAP_C")).unwrap()))
    }

    /// The hash standards' own example, "abc", cut into the three parts.
    #[test]
    fn responses_are_hashes_of_identifier_secret_and_challenge() {
        let got = Algorithm::Md5.response(1, b"secret", b"challenge");
        let mut whole = Md5::new();
        whole.update(b"\x01secretchallenge");
        assert_eq!(got, whole.finalize().to_vec());
        let sizes = [(5, 16), (6, 20), (7, 32), (8, 32)];
        for (code, bytes) in sizes {
            assert_eq!(Algorithm::of(code).unwrap().response(0, b"", b"").len(), bytes);
        }
        assert_eq!(
            to_hex(&Algorithm::Sha1.response(b'a', b"b", b"c")),
            "0xa9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            to_hex(&Algorithm::Sha256.response(b'a', b"b", b"c")),
            "0xba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            to_hex(&Algorithm::Sha3_256.response(b'a', b"b", b"c")),
            "0x3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"
        );
    }

    #[test]
    fn the_right_secret_is_let_in_and_every_other_is_not() {
        for offer in ["5", "8,7,6,5", "99,6", "7"] {
            let (chap, asked) = Chap::challenge(offer).unwrap();
            for (name, secret, fits) in [
                ("anna", "annas-secret-1", true),
                ("anna", "berts-secret-1", false),
                ("nobody", "nobody", false),
                ("", "", false),
            ] {
                let (_, response) = respond(&asked, secret);
                for text in [to_hex(&response), to_base64(&response)] {
                    let proof = Proof { name: Some(name), response: Some(&text), ..Proof::default() };
                    assert_eq!(chap.judge(&proof, &secrets(), false).is_ok(), fits, "{name}");
                }
            }
        }
        assert!(matches!(Chap::challenge("1,2,3"), Err(ChapError::NoAlgorithm)));
        assert!(matches!(Chap::challenge(""), Err(ChapError::NoAlgorithm)));
    }

    #[test]
    fn mutual_authentication_proves_who_we_are() {
        let (chap, asked) = Chap::challenge("7").unwrap();
        let (algorithm, response) = respond(&asked, "berts-secret-1");
        let text = to_hex(&response);
        let proof = Proof {
            name: Some("bert"),
            response: Some(&text),
            id: Some("9"),
            challenge: Some("0x00112233445566778899aabbccddeeff"),
        };
        let answers = chap.judge(&proof, &secrets(), true).unwrap();
        let right =
            algorithm.response(9, b"disks-secret-1", &binary("0x00112233445566778899aabbccddeeff").unwrap());
        assert_eq!(answers, [("CHAP_N".into(), "disk".into()), ("CHAP_R".into(), to_hex(&right))]);
        let one_way = Proof { id: None, challenge: None, ..proof };
        assert_eq!(chap.judge(&one_way, &secrets(), true), Err(ChapError::Mutual));
        let half = Proof { challenge: None, ..proof };
        assert_eq!(chap.judge(&half, &secrets(), false), Err(ChapError::BadValue));
    }

    #[test]
    fn reflection_and_shared_secrets_are_refused() {
        let (chap, asked) = Chap::challenge("5").unwrap();
        let ours = &asked[2].1;
        let (_, response) = respond(&asked, "berts-secret-1");
        let text = to_hex(&response);
        let proof = Proof { name: Some("bert"), response: Some(&text), id: Some("1"), challenge: Some(ours) };
        assert_eq!(chap.judge(&proof, &secrets(), false), Err(ChapError::Reflected));
        let (_, response) = respond(&asked, "sames-secret-1");
        let text = to_hex(&response);
        let proof =
            Proof { name: Some("same"), response: Some(&text), id: Some("1"), challenge: Some("0x01") };
        assert_eq!(chap.judge(&proof, &secrets(), false), Err(ChapError::Mutual));
        let (_, response) = respond(&asked, "annas-secret-1");
        let text = to_hex(&response);
        let proof =
            Proof { name: Some("anna"), response: Some(&text), id: Some("1"), challenge: Some("0x01") };
        assert_eq!(chap.judge(&proof, &secrets(), false), Err(ChapError::Mutual), "no secret for it");
    }

    #[test]
    fn values_that_cannot_be_read_are_refused() {
        let (chap, asked) = Chap::challenge("5").unwrap();
        let (_, response) = respond(&asked, "berts-secret-1");
        let good = to_hex(&response);
        let long = format!("0x{}", "00".repeat(1025));
        for bad in ["", "12", "0xzz", "0b***", &long] {
            let proof = Proof { name: Some("bert"), response: Some(bad), ..Proof::default() };
            assert_eq!(chap.judge(&proof, &secrets(), false), Err(ChapError::BadValue), "{bad:.9}");
        }
        for (id, challenge) in [("256", "0x01"), ("x", "0x01"), ("1", ""), ("1", "0x"), ("1", &long)] {
            let proof =
                Proof { name: Some("bert"), response: Some(&good), id: Some(id), challenge: Some(challenge) };
            assert_eq!(
                chap.judge(&proof, &secrets(), false),
                Err(ChapError::BadValue),
                "{id} {challenge:.9}"
            );
        }
    }
}
