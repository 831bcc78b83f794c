//! Follows the PDUs of a byte stream, to know inside which one a connection was cut.

/// Bytes of a Basic Header Segment.
const BHS: usize = 48;

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Framer {
    header: Vec<u8>,
    /// Bytes of the PDU that follow its header.
    rest: usize,
    digests: (bool, bool),
    /// Digests that hold from the next PDU on.
    next_digests: Option<(bool, bool)>,
}

impl Framer {
    /// From the next PDU on headers and data carry digests.
    pub fn set_digests(&mut self, header: bool, data: bool) {
        self.next_digests = Some((header, data));
    }

    /// Takes the next bytes in.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest == 0 && self.header.len() == BHS {
                self.header.clear();
            }
            if self.rest > 0 {
                let n = self.rest.min(bytes.len());
                self.rest -= n;
                bytes = &bytes[n..];
                continue;
            }
            if self.header.is_empty()
                && let Some(next) = self.next_digests.take()
            {
                self.digests = next;
            }
            let n = (BHS - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.header.len() == BHS {
                self.rest = self.after_header();
            }
        }
    }

    /// Inside which PDU the stream stands (its opcode); `None` between two.
    pub fn inside(&self) -> Option<u8> {
        let between = self.header.is_empty() || (self.header.len() == BHS && self.rest == 0);
        (!between).then(|| self.header[0] & 0x3F)
    }

    fn after_header(&self) -> usize {
        let ahs = usize::from(self.header[4]) * 4;
        let data = u32::from_be_bytes([0, self.header[5], self.header[6], self.header[7]]) as usize;
        let header_digest = if self.digests.0 { 4 } else { 0 };
        let data_digest = if self.digests.1 && data > 0 { 4 } else { 0 };
        ahs + header_digest + data.next_multiple_of(4) + data_digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framer_knows_where_it_stands_whatever_the_splits() {
        let mut pdu = vec![0u8; BHS];
        pdu[0] = 0x41;
        pdu[7] = 5;
        pdu.extend_from_slice(&[0; 8]);
        for split in 1..pdu.len() {
            let mut framer = Framer::default();
            framer.feed(&pdu[..split]);
            assert_eq!(framer.inside(), Some(1), "after {split} bytes");
            framer.feed(&pdu[split..]);
            assert_eq!(framer.inside(), None);
            framer.set_digests(true, true);
            framer.feed(&pdu);
            assert_eq!(framer.inside(), Some(1), "two digests are missing");
            framer.feed(&[0; 8]);
            assert_eq!(framer.inside(), None);
        }
    }
}
