//! The parameter list of UNMAP (SBC-4 §5.35).

use crate::{Emit, ListError, be, emit::len16};

/// Some blocks in a row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Extent {
    /// UNMAP LOGICAL BLOCK ADDRESS.
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS; zero is no error.
    pub blocks: u32,
}

/// A parameter list that is whole as far as its header goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnmapList<'a> {
    descriptors: &'a [u8],
}

/// Header bytes before the first descriptor.
const HEADER: usize = 8;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;

impl<'a> UnmapList<'a> {
    /// Bytes a list of `n` descriptors has.
    pub const fn bytes_for(n: usize) -> usize {
        HEADER.saturating_add(n.saturating_mul(DESCRIPTOR))
    }

    /// From the Data-Out of UNMAP. A descriptor that is not whole, by UNMAP BLOCK DESCRIPTOR DATA LENGTH or
    /// by the parameter list length, is left out as SBC-4 §5.35 has it; a header that is not whole is an
    /// error. An empty list is for the caller: it unmaps nothing.
    pub fn parse(list: &'a [u8]) -> Result<UnmapList<'a>, ListError> {
        if list.len() < HEADER {
            return Err(ListError::Length);
        }
        let promised = usize::from(be::u16(list, 2));
        let bytes = promised.min(list.len() - HEADER);
        Ok(UnmapList { descriptors: &list[HEADER..HEADER + bytes - bytes % DESCRIPTOR] })
    }

    /// How many descriptors there are; at most 4 095.
    pub fn len(&self) -> usize {
        self.descriptors.len() / DESCRIPTOR
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    /// The extents in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Extent> + Clone + use<'a> {
        let (whole, _) = self.descriptors.as_chunks::<DESCRIPTOR>();
        whole.iter().map(|d| Extent { lba: be::u64(d, 0), blocks: be::u32(d, 8) })
    }

    /// Offset of descriptor `index` in the list, for field pointers.
    pub fn offset_of(index: usize) -> usize {
        UnmapList::bytes_for(index)
    }
}

/// Writes the list for these extents; 4 095 at most fit its length fields.
pub fn emit_unmap_list(extents: impl IntoIterator<Item = Extent>, w: &mut Emit<'_>) {
    let start = w.full_len();
    w.zeros(HEADER);
    for e in extents {
        w.u64(e.lba).u32(e.blocks).zeros(4);
    }
    let total = w.full_len() - start;
    w.patch_u16(start, len16(total - 2));
    w.patch_u16(start + 2, len16(total - HEADER));
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const ONE: [u8; 24] = [0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0, 0, 3, 0xFF, 0, 0, 0, 0];

    #[test]
    fn one_extent() {
        let list = UnmapList::parse(&ONE).unwrap();
        assert!(list.iter().eq([Extent { lba: 0x7FFF, blocks: 0x3FF }]));
        let mut room = [0xEE; 24];
        emit_unmap_list(list.iter(), &mut Emit::new(&mut room));
        assert_eq!(room, ONE);
        assert_eq!(UnmapList::offset_of(1), 24);
    }

    #[test]
    fn a_cut_descriptor_is_left_out_and_a_cut_header_is_an_error() {
        assert!(UnmapList::parse(&ONE[..23]).unwrap().is_empty());
        assert!(UnmapList::parse(&ONE[..8]).unwrap().is_empty());
        assert_eq!(UnmapList::parse(&ONE[..7]), Err(ListError::Length));
        let mut odd = ONE;
        odd[3] = 15;
        assert_eq!(UnmapList::parse(&odd).unwrap().len(), 0);
    }

    proptest! {
        #[test]
        fn extents_survive_the_wire(raw in proptest::collection::vec(any::<(u64, u32)>(), 0..20)) {
            let extents: Vec<Extent> = raw.iter().map(|&(lba, blocks)| Extent { lba, blocks }).collect();
            let mut room = [0; 400];
            let mut w = Emit::new(&mut room);
            emit_unmap_list(extents.iter().copied(), &mut w);
            let back: Vec<Extent> = UnmapList::parse(w.as_bytes()).unwrap().iter().collect();
            prop_assert_eq!(back, extents);
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(list) = UnmapList::parse(&b) {
                prop_assert!(UnmapList::bytes_for(list.iter().count()) <= b.len());
            }
        }
    }
}
