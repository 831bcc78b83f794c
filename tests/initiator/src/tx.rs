//! From PDUs to bytes.

use spindle_iscsi_wire::Bhs;
use spindle_iscsi_wire::bhs::{self, Digests};

use crate::digest::crc32c;

/// Bytes waiting to be sent.
#[derive(Debug, Default)]
pub(crate) struct Out {
    bytes: Vec<u8>,
    sent: usize,
}

impl Out {
    /// Appends a PDU with padding and digests. The lengths in the header are the caller's word.
    pub(crate) fn pdu(&mut self, header: &Bhs, ahs: &[u8], data: &[u8], digests: Digests) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(ahs);
        if digests.header {
            let digest = crc32c(&self.bytes[start..]);
            self.bytes.extend_from_slice(&digest);
        }
        if data.is_empty() {
            return;
        }
        let data_start = self.bytes.len();
        self.bytes.extend_from_slice(data);
        let pad = bhs::pad((data.len() & 3) as u32) as usize;
        self.bytes.extend_from_slice(&[0; 3][..pad]);
        if digests.data {
            let digest = crc32c(&self.bytes[data_start..]);
            self.bytes.extend_from_slice(&digest);
        }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.sent = (self.sent + n).min(self.bytes.len());
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent >= 1 << 20 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}
