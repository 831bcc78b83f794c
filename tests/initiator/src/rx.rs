//! From bytes to PDUs: the target's stream may be cut anywhere. A PDU that lies whole in the bytes that came is
//! read in place; only what is cut is copied together.

use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::{BHS_LEN, Bhs};

use crate::digest::crc32c;
use crate::violation::What;

/// One PDU as it lies in the stream.
pub(crate) struct Frame<'a> {
    pub(crate) bhs: &'a Bhs,
    /// Data segment without padding.
    pub(crate) data: &'a [u8],
}

/// Bytes of a PDU that is not yet complete.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    bytes: Vec<u8>,
}

impl Partial {
    /// Takes bytes off `input` until a PDU is complete, and gives it out. `None`: the input is used up.
    /// `whole` holds the PDU when it had to be put together.
    pub(crate) fn next<'w, 'i: 'w>(
        &mut self,
        input: &mut &'i [u8],
        digests: Digests,
        data_max: u32,
        whole: &'w mut Vec<u8>,
    ) -> Result<Option<Frame<'w>>, What> {
        loop {
            let have: &[u8] = if self.bytes.is_empty() { input } else { &self.bytes };
            let need = match have.first_chunk::<BHS_LEN>() {
                None => BHS_LEN,
                Some(bhs) => {
                    // The length decides how much we hold in memory: check it before waiting for more.
                    let len = bhs::data_bytes(bhs);
                    if len > data_max {
                        return Err(What::SegmentTooLong { len, max: data_max });
                    }
                    bhs::pdu_bytes(bhs, digests) as usize
                }
            };
            if have.len() >= need {
                if self.bytes.is_empty() {
                    let (pdu, rest) = input.split_at(need);
                    *input = rest;
                    return frame(pdu, digests).map(Some);
                }
                debug_assert_eq!(self.bytes.len(), need, "never more than one PDU is put together");
                core::mem::swap(whole, &mut self.bytes);
                self.bytes.clear();
                return frame(whole, digests).map(Some);
            }
            if input.is_empty() {
                return Ok(None);
            }
            let take = (need - self.bytes.len()).min(input.len());
            let (now, rest) = input.split_at(take);
            self.bytes.extend_from_slice(now);
            *input = rest;
        }
    }
}

fn frame(pdu: &[u8], digests: Digests) -> Result<Frame<'_>, What> {
    let bhs = pdu.first_chunk::<BHS_LEN>().expect("at least a header was waited for");
    let header_len = BHS_LEN + bhs::ahs_bytes(bhs) as usize;
    let (header, mut rest) = pdu.split_at(header_len);
    if digests.header {
        let (digest, after) = rest.split_at(4);
        if crc32c(header) != digest {
            return Err(What::HeaderDigest);
        }
        rest = after;
    }
    let len = bhs::data_bytes(bhs);
    let padded = bhs::padded(len) as usize;
    if digests.data && len != 0 && crc32c(&rest[..padded]) != rest[padded..padded + 4] {
        return Err(What::DataDigest);
    }
    if header_len != BHS_LEN {
        return Err(What::UnexpectedAhs { opcode: bhs::opcode(bhs) });
    }
    Ok(Frame { bhs, data: &rest[..len as usize] })
}
