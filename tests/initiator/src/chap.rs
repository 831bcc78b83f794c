//! CHAP as iSCSI uses it (RFC 1994, RFC 7143 §12.1.3): response = H(identifier, secret, challenge).

use md5::Digest;
use spindle_iscsi_wire::values;

/// CHAP_A values.
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

impl Algorithm {
    /// Its number in CHAP_A.
    pub fn number(self) -> u64 {
        match self {
            Self::Md5 => 5,
            Self::Sha1 => 6,
            Self::Sha256 => 7,
            Self::Sha3_256 => 8,
        }
    }

    /// The algorithm of a number.
    pub fn of(number: u64) -> Option<Self> {
        [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha3_256].into_iter().find(|a| a.number() == number)
    }
}

/// How binary values are written: both are allowed at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BinaryForm {
    /// `0x…`
    #[default]
    Hex,
    /// `0b…`
    Base64,
}

impl BinaryForm {
    pub(crate) fn write(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => values::to_hex(bytes),
            Self::Base64 => values::to_base64(bytes),
        }
    }
}

/// What proves the knowledge of a secret.
pub fn chap_response(algorithm: Algorithm, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
    fn hash<H: Digest>(identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        H::new().chain_update([identifier]).chain_update(secret).chain_update(challenge).finalize().to_vec()
    }
    match algorithm {
        Algorithm::Md5 => hash::<md5::Md5>(identifier, secret, challenge),
        Algorithm::Sha1 => hash::<sha1::Sha1>(identifier, secret, challenge),
        Algorithm::Sha256 => hash::<sha2::Sha256>(identifier, secret, challenge),
        Algorithm::Sha3_256 => hash::<sha3::Sha3_256>(identifier, secret, challenge),
    }
}

/// A binary value of at most 1024 bytes, the longest challenge there may be.
pub(crate) fn decode(value: &str) -> Option<Vec<u8>> {
    let mut bytes = [0; 1024];
    let len = values::binary(value, &mut bytes).ok()?;
    Some(bytes[..len].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_agree_with_an_independent_implementation() {
        // Computed with coreutils: printf '\001secretsecret\000\001\002\003' | md5sum, and so on.
        let response = |a| values::to_hex(&chap_response(a, 1, b"secretsecret", &[0, 1, 2, 3]));
        assert_eq!(response(Algorithm::Md5), "0xcd52a453f1dd4692442a6a1b33bec1a5");
        assert_eq!(response(Algorithm::Sha1), "0x96f181ddbb100ea26b9ddea53e168a63dbaa28d0");
        assert_eq!(
            response(Algorithm::Sha256),
            "0x1418c7b9826cf1dbdb2e583105d4337a4adf53c6cf3aa4de7841ee1168742a25"
        );
        assert_eq!(
            response(Algorithm::Sha3_256),
            "0x05f4a994f4d3ca39c8355be7385a070d785ef210256e58e628459379df65d700"
        );
    }

    #[test]
    fn numbers_name_their_algorithms() {
        for number in 0..20 {
            assert!(Algorithm::of(number).is_none_or(|a| a.number() == number));
        }
        assert_eq!(Algorithm::of(7), Some(Algorithm::Sha256));
    }
}
