//! Mode parameters: the lists of MODE SENSE and MODE SELECT, 6 and 10 (SPC-5 §7.5, SBC-4 §6.5).
//!
//! A device server answers MODE SENSE with [`emit_mode_data`]; each page type writes itself, and the mask of
//! changeable values is the same type with all changeable fields set to ones. It takes MODE SELECT apart with
//! [`ModeList::parse`], checks each page against the current bytes and that mask
//! ([`RawPage::check_changes`]), and reads the values out of those that pass.

mod pages;

pub use pages::{Caching, Control, InformationalExceptions, ReadWriteErrorRecovery};

use crate::{
    Emit, FieldError, ListError, be,
    emit::{flag, len16},
};

/// All pages, without (subpage 00h) or with (FFh) subpages.
pub const ALL_PAGES: u8 = 0x3F;
/// All subpages.
pub const ALL_SUBPAGES: u8 = 0xFF;

/// What the mode parameter header says besides its lengths.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ModeHeader {
    /// Of the 10-byte commands.
    pub ten: bool,
    /// MEDIUM TYPE; zero for disks.
    pub medium_type: u8,
    /// WP: write protected. Reserved in MODE SELECT.
    pub wp: bool,
    /// DPOFUA: DPO and FUA are supported. Reserved in MODE SELECT.
    pub dpofua: bool,
    /// LONGLBA: the block descriptor has 16 bytes. Of the 10-byte commands.
    pub longlba: bool,
}

impl ModeHeader {
    fn bytes(&self) -> usize {
        if self.ten { 8 } else { 4 }
    }
}

/// The one block descriptor a disk has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockDescriptor {
    /// NUMBER OF LOGICAL BLOCKS. FFFFFFFFh in the short form: more than it can say.
    pub blocks: u64,
    /// LOGICAL BLOCK LENGTH.
    pub block_bytes: u32,
}

/// Writes header, block descriptor, and whatever `pages` writes; then the length. MODE DATA LENGTH(6) has
/// one byte: a list it cannot count has to be refused beforehand, or is capped.
pub fn emit_mode_data(
    header: ModeHeader,
    block: Option<BlockDescriptor>,
    w: &mut Emit<'_>,
    pages: impl FnOnce(&mut Emit<'_>),
) {
    let start = w.full_len();
    let specific = flag(header.wp, 7) | flag(header.dpofua, 4);
    let long = header.ten && header.longlba;
    let descriptor_bytes = if block.is_none() { 0 } else { 8 << u8::from(long) };
    if header.ten {
        w.u16(0).u8(header.medium_type).u8(specific).u8(flag(long, 0)).u8(0).u16(descriptor_bytes);
    } else {
        w.u8(0).u8(header.medium_type).u8(specific).u8(descriptor_bytes as u8); // 0 or 8
    }
    if let Some(b) = block {
        if long {
            w.u64(b.blocks).u32(0).u32(b.block_bytes);
        } else {
            w.u32(u32::try_from(b.blocks).unwrap_or(u32::MAX)).u8(0).u24(b.block_bytes);
        }
    }
    pages(w);
    // MODE DATA LENGTH does not count itself.
    let total = w.full_len() - start;
    if header.ten {
        w.patch_u16(start, len16(total - 2));
    } else {
        w.patch_u8(start, u8::try_from(total - 1).unwrap_or(u8::MAX));
    }
}

/// A mode parameter list, taken apart: from an initiator (MODE SELECT), or from a target (MODE SENSE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModeList<'a> {
    /// The header.
    pub header: ModeHeader,
    /// The block descriptor, if there is one, and its offset.
    pub block: Option<(BlockDescriptor, usize)>,
    list: &'a [u8],
    pages_at: usize,
}

impl<'a> ModeList<'a> {
    /// From the Data-Out of MODE SELECT (`ten` for its 10-byte form). MODE DATA LENGTH is reserved there
    /// (SPC-5 §7.5), so it is not looked at. An empty list is for the caller: it changes nothing.
    pub fn parse(ten: bool, list: &'a [u8]) -> Result<ModeList<'a>, ListError> {
        let mut header = ModeHeader { ten, ..ModeHeader::default() };
        let pages_from = header.bytes();
        if list.len() < pages_from {
            return Err(ListError::Length);
        }
        let (specific_at, length_at) = if ten { (3, 6) } else { (2, 3) };
        header.medium_type = list[specific_at - 1];
        header.wp = be::bit(list, specific_at, 7);
        header.dpofua = be::bit(list, specific_at, 4);
        header.longlba = ten && be::bit(list, 4, 0);
        let length = usize::from(if ten { be::u16(list, 6) } else { list[3].into() });
        let pages_at = pages_from + length;
        let block = match (length, header.longlba) {
            (0, _) => None,
            (8, false) | (16, true) if list.len() < pages_at => return Err(ListError::Length),
            (8, false) => {
                let blocks = be::u32(list, pages_from).into();
                Some((BlockDescriptor { blocks, block_bytes: be::u24(list, pages_from + 5) }, pages_from))
            }
            (16, true) => {
                let blocks = be::u64(list, pages_from);
                Some((BlockDescriptor { blocks, block_bytes: be::u32(list, pages_from + 12) }, pages_from))
            }
            _ => return Err(FieldError::byte(length_at).into()),
        };
        Ok(ModeList { header, block, list, pages_at })
    }

    /// From the data an initiator got from MODE SENSE: the same, but no more than MODE DATA LENGTH counts.
    pub fn parse_sense(ten: bool, data: &'a [u8]) -> Result<ModeList<'a>, ListError> {
        let promised = if ten { usize::from(be::u16(data, 0)) + 2 } else { usize::from(be::u8(data, 0)) + 1 };
        ModeList::parse(ten, &data[..data.len().min(promised)])
    }

    /// The pages in order. An error ends the iteration.
    pub fn pages(&self) -> ModePages<'a> {
        ModePages { list: self.list, at: self.pages_at }
    }
}

/// The pages of a mode parameter list.
#[derive(Clone, Debug)]
pub struct ModePages<'a> {
    list: &'a [u8],
    at: usize,
}

/// A page, as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawPage<'a> {
    /// Where it begins in the list.
    pub offset: usize,
    /// PAGE CODE.
    pub code: u8,
    /// SUBPAGE CODE; zero in page_0 format.
    pub subpage: u8,
    /// PS: the page can be saved. Reserved in MODE SELECT, where initiators leave it as they read it.
    pub ps: bool,
    /// SPF: sub_page format, with a header of four bytes instead of two.
    pub spf: bool,
    /// The whole page, its header included.
    pub bytes: &'a [u8],
}

impl<'a> Iterator for ModePages<'a> {
    type Item = Result<RawPage<'a>, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.at;
        let rest = self.list.get(offset..).filter(|r| !r.is_empty())?;
        let spf = be::bit(rest, 0, 6);
        let header = if spf { 4 } else { 2 };
        let length = if spf { be::u16(rest, 2).into() } else { usize::from(be::u8(rest, 1)) };
        let Some(bytes) = rest.get(..header + length) else {
            self.at = self.list.len();
            return Some(Err(ListError::Length));
        };
        self.at = offset + bytes.len();
        let subpage = if spf { bytes[1] } else { 0 };
        Some(Ok(RawPage { offset, code: bytes[0] & 0x3F, subpage, ps: bytes[0] & 0x80 != 0, spf, bytes }))
    }
}

impl RawPage<'_> {
    /// May MODE SELECT set this page? `current` and `changeable` are the page's bytes as MODE SENSE gives
    /// them. The length has to be the page's own (SPC-5, MODE SELECT), and only bits the mask has may differ from
    /// the current ones; the error names the first that does not keep to it.
    pub fn check_changes(&self, current: &[u8], changeable: &[u8]) -> Result<(), ListError> {
        let (header, length_at) = if self.spf { (4, 2) } else { (2, 1) };
        if self.bytes.len() != current.len() {
            return Err(FieldError::at(self.offset + length_at, None).into());
        }
        for (at, (new, old)) in self.bytes.iter().zip(current).enumerate().skip(header) {
            let wrong = (new ^ old) & !changeable.get(at).copied().unwrap_or(0);
            if wrong != 0 {
                return Err(FieldError::at(self.offset + at, Some(wrong.ilog2() as u8)).into());
            }
        }
        Ok(())
    }

    /// The error for a page this logical unit does not have: its PAGE CODE, or its SUBPAGE CODE where only
    /// that is unknown.
    pub fn not_supported(&self, code_known: bool) -> ListError {
        if code_known && self.spf {
            FieldError::at(self.offset + 1, None).into()
        } else {
            FieldError::at(self.offset, Some(5)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const DISK: BlockDescriptor = BlockDescriptor { blocks: 0x1_0000_0000, block_bytes: 512 };

    fn written(header: ModeHeader, block: Option<BlockDescriptor>, caching: Caching) -> Vec<u8> {
        let mut room = [0xEE; 64];
        let mut w = Emit::new(&mut room);
        emit_mode_data(header, block, &mut w, |w| caching.emit(true, w));
        w.as_bytes().to_vec()
    }

    #[test]
    fn mode_sense_6_with_a_short_descriptor() {
        let header = ModeHeader { wp: true, dpofua: true, ..Default::default() };
        let data = written(header, Some(DISK), Caching { wce: true, ..Default::default() });
        assert_eq!(data.len(), 32);
        assert_eq!(data[..12], [31, 0, 0x90, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 2, 0]);
        assert_eq!(data[12..15], [0x88, 0x12, 0x04]);
    }

    #[test]
    fn mode_sense_10_with_a_long_descriptor() {
        let header = ModeHeader { ten: true, longlba: true, ..Default::default() };
        let data = written(header, Some(DISK), Caching::default());
        assert_eq!(data[..8], [0, 42, 0, 0, 1, 0, 0, 16]);
        assert_eq!(data[8..24], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        let list = ModeList::parse_sense(true, &data).unwrap();
        assert_eq!((list.header, list.block), (header, Some((DISK, 8))));
        assert_eq!(list.pages().count(), 1);
        // Without a descriptor LONGLBA stands alone.
        assert_eq!(written(header, None, Caching::default())[..8], [0, 26, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn a_change_of_wce_passes_and_any_other_is_named() {
        let bytes = |c: Caching| written(ModeHeader::default(), None, c);
        let current = &bytes(Caching::default())[4..];
        let mask = &bytes(Caching { wce: true, ..Default::default() })[4..];
        let check = |c: Caching| {
            let list = bytes(c);
            let page = ModeList::parse(false, &list).unwrap().pages().next().unwrap().unwrap();
            (page.code, page.check_changes(current, mask))
        };
        assert_eq!(check(Caching { wce: true, ..Default::default() }), (0x08, Ok(())));
        let rcd = Caching { rcd: true, wce: true, ..Default::default() };
        assert_eq!(check(rcd), (0x08, Err(FieldError::bit(6, 0).into())));
        let dra = Caching { dra: true, ..Default::default() };
        assert_eq!(check(dra), (0x08, Err(FieldError::bit(4 + 12, 5).into())));
    }

    #[test]
    fn a_page_of_another_length_is_named_at_its_length() {
        let list = [0, 0, 0, 0, 0x08, 2, 0x04, 0];
        let page = ModeList::parse(false, &list).unwrap().pages().next().unwrap().unwrap();
        assert_eq!(page.check_changes(&[0; 20], &[0; 20]), Err(FieldError::byte(5).into()));
        assert_eq!(page.not_supported(false), FieldError::bit(4, 5).into());
    }

    #[test]
    fn a_list_that_ends_early_has_a_length_error() {
        assert_eq!(ModeList::parse(false, &[0, 0, 0]), Err(ListError::Length));
        assert_eq!(ModeList::parse(true, &[0; 7]), Err(ListError::Length));
        assert_eq!(ModeList::parse(false, &[0, 0, 0, 8, 0, 0]), Err(ListError::Length));
        assert_eq!(ModeList::parse(false, &[0, 0, 0, 7, 0, 0]), Err(FieldError::byte(3).into()));
        let mut long_without_flag = [0; 24];
        long_without_flag[7] = 16;
        assert_eq!(ModeList::parse(true, &long_without_flag), Err(FieldError::byte(6).into()));
        for cut in [&[0x08][..], &[0x08, 18, 0], &[0x4A, 1], &[0x4A, 1, 0, 28, 0]] {
            let mut list = std::vec![0, 0, 0, 0];
            list.extend_from_slice(cut);
            let mut pages = ModeList::parse(false, &list).unwrap().pages();
            assert_eq!(pages.next(), Some(Err(ListError::Length)), "{cut:?}");
            assert_eq!(pages.next(), None);
        }
    }

    #[test]
    fn subpages_have_a_longer_header() {
        let list = [0, 0, 0, 0, 0xCA, 0x01, 0, 2, 9, 9, 0x0A, 0];
        let pages: Vec<_> = ModeList::parse(false, &list).unwrap().pages().map(Result::unwrap).collect();
        assert_eq!((pages[0].code, pages[0].subpage, pages[0].ps), (0x0A, 1, true));
        assert_eq!((pages[1].offset, pages[1].bytes), (10, [0x0A, 0].as_slice()));
        assert_eq!(pages[0].not_supported(true), FieldError::byte(5).into());
        assert_eq!(pages[0].check_changes(&[0; 8], &[]), Err(FieldError::byte(6).into()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(ten: bool, b in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ModeList::parse_sense(ten, &b);
            if let Ok(list) = ModeList::parse(ten, &b) {
                let mut seen = 0;
                for page in list.pages() {
                    seen += 1;
                    if let Ok(p) = page {
                        let _ = p.check_changes(p.bytes, &[]);
                        let _ = (Caching::parse(p.bytes), Control::parse(p.bytes));
                    }
                }
                prop_assert!(seen <= b.len());
            }
        }
    }
}
