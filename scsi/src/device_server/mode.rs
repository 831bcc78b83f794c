//! MODE SENSE and MODE SELECT, 6 and 10 (SPC-4 §6.11 to §6.14 and §7.5, SBC-3 §6.4): read-write error
//! recovery (01h), caching (08h), control (0Ah), informational exceptions control (1Ch).
//!
//! What can be changed is what somebody honours, and nothing else: WCE (writes go through the device's cache
//! when it is nought), D_SENSE, SWP and TAS. Those four are the state; pages are made of them when asked for.
//! All nexuses share them.

use spindle_bdev::BdevInfo;
use spindle_scsi_spec::cdb::{ModeSelect, ModeSense, PageControl};
use spindle_scsi_spec::mode::{
    ALL_PAGES, ALL_SUBPAGES, BlockDescriptor, Caching, Control, InformationalExceptions, ModeHeader,
    ModeList, ReadWriteErrorRecovery, emit_mode_data,
};
use spindle_scsi_spec::{Asc, Emit, FieldError, ListError, Sense};

use super::LuView;
use crate::reserve::persist::crc32c;

/// The mode parameters of a logical unit: as they are, as they were made, as they come back after a reset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModePages {
    current: Values,
    default: Values,
    saved: Values,
    changeable: Values,
    tst_shared: bool,
}

/// The parameters that can change; or, as a mask, that may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Values {
    wce: bool,
    d_sense: bool,
    swp: bool,
    tas: bool,
}

impl ModePages {
    /// Pages of a unit on this device, with the usual values. WCE is what the device is, and can be changed
    /// only where there is a cache. `tst_shared`: one task set for all nexuses (TST 000b).
    pub fn new(info: &BdevInfo, tst_shared: bool) -> ModePages {
        let default = Values { wce: info.write_cache, ..Values::default() };
        let changeable = Values { wce: info.write_cache, d_sense: true, swp: true, tas: true };
        ModePages { current: default, default, saved: default, changeable, tst_shared }
    }

    /// WCE: GOOD may come before data is safe.
    pub fn wce(&self) -> bool {
        self.current.wce
    }

    /// D_SENSE: sense data in descriptor format.
    pub fn d_sense(&self) -> bool {
        self.current.d_sense
    }

    /// SWP: software write protect.
    pub fn swp(&self) -> bool {
        self.current.swp
    }

    /// TAS: tasks aborted by another nexus end with TASK ABORTED.
    pub fn tas(&self) -> bool {
        self.current.tas
    }

    /// A logical unit reset: saved values become current (SPC-4 §5.8).
    pub fn reset(&mut self) {
        self.current = self.saved;
    }

    /// The saved values, to be kept over a power cut: magic and version, one byte of flags, CRC-32C.
    pub fn saved_bytes(&self) -> Vec<u8> {
        let v = self.saved;
        let mut out = MAGIC.to_vec();
        out.push(u8::from(v.wce) | u8::from(v.d_sense) << 1 | u8::from(v.swp) << 2 | u8::from(v.tas) << 3);
        let sum = crc32c(&out);
        out.extend(sum.to_be_bytes());
        out
    }

    /// Takes saved values back, for a unit that comes up. `false`: this is no such record, all stays.
    pub fn restore(&mut self, record: &[u8]) -> bool {
        let Some((body, sum)) = record.split_last_chunk::<4>() else { return false };
        let [magic @ .., flags] = body else { return false };
        if magic != MAGIC || u32::from_be_bytes(*sum) != crc32c(body) || *flags > 0x0F {
            return false;
        }
        let bit = |n: u8| flags >> n & 1 == 1;
        let kept = Values { wce: bit(0), d_sense: bit(1), swp: bit(2), tas: bit(3) };
        // The device may be another kind than it was.
        self.saved = kept.where_allowed(self.changeable, self.default);
        self.current = self.saved;
        true
    }

    /// One page into `out`, or `None` if there is no such page.
    fn emit_page(&self, code: u8, pc: PageControl, ps: bool, out: &mut Emit<'_>) -> Option<()> {
        let (values, mask) = match pc {
            PageControl::Current => (self.current, false),
            PageControl::Changeable => (self.changeable, true),
            PageControl::Default => (self.default, false),
            PageControl::Saved => (self.saved, false),
        };
        match code {
            ReadWriteErrorRecovery::CODE => {
                let fixed = ReadWriteErrorRecovery { awre: true, arre: true, ..Default::default() };
                let page = if mask { ReadWriteErrorRecovery::default() } else { fixed };
                page.emit(false, out);
            }
            Caching::CODE => Caching { wce: values.wce, ..Default::default() }.emit(ps, out),
            Control::CODE => {
                // QUEUE ALGORITHM MODIFIER 1: SIMPLE commands go in any order. No log parameter is kept, so
                // none is saved implicitly (GLTSD).
                let fixed = Control {
                    tst: u8::from(!self.tst_shared),
                    queue_algorithm: 1,
                    gltsd: true,
                    ..Default::default()
                };
                let base = if mask { Control::default() } else { fixed };
                Control { d_sense: values.d_sense, swp: values.swp, tas: values.tas, ..base }.emit(ps, out);
            }
            InformationalExceptions::CODE => {
                InformationalExceptions { dexcpt: !mask, ..Default::default() }.emit(false, out);
            }
            _ => return None,
        }
        Some(())
    }
}

impl Values {
    fn where_allowed(self, mask: Values, otherwise: Values) -> Values {
        let pick = |allowed, new, old| if allowed { new } else { old };
        Values {
            wce: pick(mask.wce, self.wce, otherwise.wce),
            d_sense: pick(mask.d_sense, self.d_sense, otherwise.d_sense),
            swp: pick(mask.swp, self.swp, otherwise.swp),
            tas: pick(mask.tas, self.tas, otherwise.tas),
        }
    }
}

const MAGIC: [u8; 8] = *b"SPDLMOD\x01";

/// Every page, in ascending order. None has subpages.
const CODES: [u8; 4] =
    [ReadWriteErrorRecovery::CODE, Caching::CODE, Control::CODE, InformationalExceptions::CODE];

/// Longest page of ours.
const PAGE_BYTES_MAX: usize = Caching::BYTES;

const PF: FieldError = FieldError::bit(1, 4);
const SP: FieldError = FieldError::bit(1, 0);
const PAGE_CODE: FieldError = FieldError::bit(2, 5);
const SUBPAGE_CODE: FieldError = FieldError::byte(3);

/// MODE SENSE(6) and (10).
pub fn mode_sense(cdb: &[u8], view: &LuView<'_>, out: &mut Emit<'_>) -> Result<u32, Sense> {
    let cdb = ModeSense::parse(cdb)?;
    let codes = match CODES.iter().position(|c| *c == cdb.page) {
        Some(at) => &CODES[at..=at],
        None if cdb.page == ALL_PAGES => &CODES[..],
        None => return Err(Sense::invalid_field_in_cdb(PAGE_CODE)),
    };
    // A page without subpages is also all there is to "all subpages" of it (SPC-4 §6.13.1).
    if cdb.subpage != 0 && cdb.subpage != ALL_SUBPAGES {
        return Err(Sense::invalid_field_in_cdb(SUBPAGE_CODE));
    }
    if cdb.pc == PageControl::Saved && !view.can_store {
        return Err(Sense::illegal_request(Asc::SAVING_PARAMETERS_NOT_SUPPORTED));
    }
    let header = ModeHeader {
        ten: cdb.ten,
        medium_type: 0,
        wp: view.read_only || view.modes.swp(),
        dpofua: true,
        longlba: cdb.llbaa,
    };
    // Header and block descriptor are current values whatever PC asks (SPC-4 §6.13.1).
    let block = BlockDescriptor { blocks: view.info.blocks, block_bytes: view.info.block_bytes };
    emit_mode_data(header, (!cdb.dbd).then_some(block), out, |out| {
        for code in codes {
            view.modes.emit_page(*code, cdb.pc, view.can_store, out).expect("a page of the list");
        }
    });
    Ok(cdb.alloc_bytes.into())
}

/// MODE SELECT(6) and (10), on the whole parameter list. Either all of it is taken, or nothing: the result is
/// the pages from now on, equal to the old ones if nothing changed. Where something did, MODE PARAMETERS
/// CHANGED goes to all other nexuses.
pub fn mode_select(cdb: &[u8], list: &[u8], view: &LuView<'_>) -> Result<ModePages, Sense> {
    let cdb = ModeSelect::parse(cdb)?;
    let mut next = view.modes.clone();
    if cdb.sp && !view.can_store {
        return Err(Sense::invalid_field_in_cdb(SP));
    }
    // SPC-4 §6.11: a PARAMETER LIST LENGTH of nought is no error, and there is nothing to change.
    if cdb.list_bytes != 0 {
        if list.len() < cdb.list_bytes.into() {
            return Err(ListError::Length.into());
        }
        let list = ModeList::parse(cdb.ten, &list[..cdb.list_bytes.into()])?;
        check_header(&list, view.info)?;
        // Without PF the pages would be in a format of the vendor's; there is none.
        if !cdb.pf && list.pages().next().is_some() {
            return Err(Sense::invalid_field_in_cdb(PF));
        }
        next.current = selected(&list, view.modes)?;
    }
    if cdb.sp {
        next.saved = next.current;
    }
    Ok(next)
}

/// SBC-3 §6.4.2: neither medium type nor capacity nor block length can be chosen. Nought or all ones for the
/// number of blocks ask for what is there.
fn check_header(list: &ModeList<'_>, info: &BdevInfo) -> Result<(), ListError> {
    if list.header.medium_type != 0 {
        return Err(FieldError::byte(if list.header.ten { 2 } else { 1 }).into());
    }
    let Some((block, at)) = list.block else { return Ok(()) };
    let long = list.header.longlba;
    let all = if long { u64::MAX } else { u32::MAX.into() };
    if block.blocks != 0 && block.blocks != all && block.blocks != info.blocks {
        return Err(FieldError::byte(at as u16).into()); // 4 or 8
    }
    if block.block_bytes != info.block_bytes {
        return Err(FieldError::byte(at as u16 + if long { 12 } else { 5 }).into());
    }
    Ok(())
}

/// The values from all pages of the list, once each of them has proved right.
fn selected(list: &ModeList<'_>, modes: &ModePages) -> Result<Values, ListError> {
    let mut values = modes.current;
    for page in list.pages() {
        let page = page?;
        let (mut current, mut mask) = ([0; PAGE_BYTES_MAX], [0; PAGE_BYTES_MAX]);
        let (mut current, mut mask) = (Emit::new(&mut current), Emit::new(&mut mask));
        let known = modes.emit_page(page.code, PageControl::Current, false, &mut current).is_some();
        if !known || page.spf {
            return Err(page.not_supported(known));
        }
        modes.emit_page(page.code, PageControl::Changeable, false, &mut mask);
        page.check_changes(current.as_bytes(), mask.as_bytes())?;
        if let Some(caching) = Caching::parse(page.bytes) {
            values.wce = caching.wce;
        }
        if let Some(control) = Control::parse(page.bytes) {
            values = Values { d_sense: control.d_sense, swp: control.swp, tas: control.tas, ..values };
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Owner, describing, disk};
    use super::*;

    fn sense_6(dbd: bool, pc_page: u8, subpage: u8) -> [u8; 6] {
        [0x1A, u8::from(dbd) << 3, pc_page, subpage, 0xFF, 0]
    }

    const CONTROL: [u8; 12] = [0x8A, 0x0A, 0x22, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    const CACHING: [u8; 20] = [0x88, 0x12, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const RECOVERY: [u8; 12] = [0x01, 0x0A, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const EXCEPTIONS: [u8; 12] = [0x1C, 0x0A, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn all_pages_come_in_order_behind_header_and_block_descriptor() {
        let bytes = describing().all(mode_sense, &sense_6(false, 0x3F, 0));
        let mut expected = vec![67, 0, 0x10, 8, 0x00, 0x20, 0, 0, 0, 0, 2, 0];
        expected.extend(RECOVERY.iter().chain(&CACHING).chain(&CONTROL).chain(&EXCEPTIONS));
        assert_eq!(bytes, expected);
        assert_eq!(describing().all(mode_sense, &sense_6(false, 0x3F, 0xFF)), expected);
    }

    #[test]
    fn each_page_comes_alone_too() {
        let owner = describing();
        let pages: [&[u8]; 4] = [&RECOVERY, &CACHING, &CONTROL, &EXCEPTIONS];
        for page in pages {
            for subpage in [0, 0xFF] {
                let bytes = owner.all(mode_sense, &sense_6(true, page[0] & 0x3F, subpage));
                assert_eq!(bytes[..4], [page.len() as u8 + 3, 0, 0x10, 0]);
                assert_eq!(&bytes[4..], page);
            }
        }
    }

    #[test]
    fn the_ten_byte_form_has_a_longer_header_and_a_long_descriptor() {
        let owner = Owner::of(BdevInfo { blocks: 1 << 33, block_bytes: 4096, ..disk() });
        let short = owner.all(mode_sense, &[0x5A, 0, 0x0A, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(short[..16], [0, 26, 0, 0x10, 0, 0, 0, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0x10, 0]);
        let long = owner.all(mode_sense, &[0x5A, 0x10, 0x0A, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(long[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
        assert_eq!(long[8..24], [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0]);
        let none = owner.all(mode_sense, &[0x5A, 0x08, 0x0A, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(none[..8], [0, 18, 0, 0x10, 0, 0, 0, 0]);
    }

    #[test]
    fn changeable_values_are_what_is_honoured() {
        let owner = describing();
        let mask = |page: u8| owner.all(mode_sense, &sense_6(true, 0x40 | page, 0))[4..].to_vec();
        assert_eq!(mask(0x0A), [0x8A, 0x0A, 0x04, 0, 0x08, 0x40, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mask(0x08)[..4], [0x88, 0x12, 0x04, 0]);
        assert_eq!(mask(0x01)[2..], [0; 10]);
        assert_eq!(mask(0x1C)[2..], [0; 10]);
        let through = Owner::of(BdevInfo { write_cache: false, ..disk() });
        assert_eq!(through.all(mode_sense, &sense_6(true, 0x48, 0))[6], 0, "there is no cache to enable");
        assert_eq!(through.all(mode_sense, &sense_6(true, 0x08, 0))[6], 0);
    }

    #[test]
    fn what_is_not_there_is_pointed_at() {
        let owner = describing();
        let page = Err(Sense::invalid_field_in_cdb(FieldError::bit(2, 5)));
        let subpage = Err(Sense::invalid_field_in_cdb(FieldError::byte(3)));
        assert_eq!(owner.ask(mode_sense, &sense_6(false, 0x02, 0)), page);
        assert_eq!(owner.ask(mode_sense, &sense_6(false, 0x00, 0)), page);
        assert_eq!(owner.ask(mode_sense, &sense_6(false, 0x0A, 1)), subpage);
        assert_eq!(owner.ask(mode_sense, &sense_6(false, 0x3F, 1)), subpage);
    }

    #[test]
    fn saved_values_need_a_place_to_save() {
        let mut owner = describing();
        assert_eq!(owner.all(mode_sense, &sense_6(true, 0xCA, 0))[4..], CONTROL);
        owner.can_store = false;
        let none = Err(Sense::illegal_request(Asc::SAVING_PARAMETERS_NOT_SUPPORTED));
        assert_eq!(owner.ask(mode_sense, &sense_6(true, 0xCA, 0)), none);
        assert_eq!(owner.all(mode_sense, &sense_6(true, 0x0A, 0))[4], 0x0A, "PS is nought");
    }

    #[test]
    fn wp_tells_of_either_protection() {
        let mut owner = describing();
        owner.read_only = true;
        assert_eq!(owner.all(mode_sense, &sense_6(true, 0x0A, 0))[2], 0x90);
        owner.read_only = false;
        owner.modes.current.swp = true;
        assert_eq!(owner.all(mode_sense, &sense_6(true, 0x0A, 0))[2], 0x90);
    }

    #[test]
    fn four_bytes_of_all_pages_are_just_the_header() {
        // libiscsi's ModeSense6.Residuals
        let (bytes, full) = describing().ask(mode_sense, &[0x1A, 0, 0x3F, 0, 4, 0]).unwrap();
        assert_eq!((&bytes[..], full), (&[67, 0, 0x10, 8][..], 68));
    }

    fn select_6(owner: &Owner, flags: u8, list: &[u8]) -> Result<ModePages, Sense> {
        mode_select(&[0x15, flags, 0, 0, list.len() as u8, 0], list, &owner.view())
    }

    fn list_of(page: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
        let mut list = vec![0; 4];
        list.extend(page);
        for (at, value) in changes {
            list[4 + at] = *value;
        }
        list
    }

    #[test]
    fn software_write_protect_is_set_and_cleared_as_libiscsi_does() {
        let mut owner = describing();
        let on = select_6(&owner, 0x10, &list_of(&CONTROL, &[(0, 0x0A), (4, 0x08)])).unwrap();
        assert!(on.swp() && on != owner.modes);
        assert_eq!(on.saved, owner.modes.saved);
        owner.modes = on;
        let off = select_6(&owner, 0x10, &list_of(&CONTROL, &[(0, 0x0A)])).unwrap();
        assert!(!off.swp());
    }

    #[test]
    fn all_four_parameters_change_together_and_reset_to_what_was_saved() {
        let mut owner = describing();
        let mut list = list_of(&CACHING, &[(2, 0)]);
        list.extend(CONTROL);
        list[24 + 2] |= 0x04;
        list[24 + 5] |= 0x40;
        owner.modes = select_6(&owner, 0x10, &list).unwrap();
        let m = &owner.modes;
        assert_eq!((m.wce(), m.d_sense(), m.swp(), m.tas()), (false, true, false, true));
        let mut plain = m.clone();
        plain.reset();
        assert_eq!(plain, describing().modes);
        let mut saved = select_6(&owner, 0x11, &[]).unwrap();
        assert_eq!(saved.saved, m.current, "SP saves all pages, sent or not");
        saved.reset();
        assert_eq!(saved.current, m.current);
    }

    #[test]
    fn fields_that_cannot_change_are_pointed_at() {
        let owner = describing();
        let wrong = |at: FieldError| Err(Sense::invalid_field_in_parameter_list(at));
        let select = |page: &[u8], at, value| select_6(&owner, 0x10, &list_of(page, &[(at, value)]));
        assert_eq!(select(&CONTROL, 2, 0x02), wrong(FieldError::bit(6, 5)), "TST");
        assert_eq!(select(&CONTROL, 3, 0x16), wrong(FieldError::bit(7, 2)), "QERR");
        assert_eq!(select(&CONTROL, 11, 1), wrong(FieldError::bit(15, 0)));
        assert_eq!(select(&CONTROL, 1, 9), wrong(FieldError::byte(5)), "not the length of the page");
        assert_eq!(select(&CONTROL, 1, 11), Err(ListError::Length.into()), "a byte is missing");
        assert_eq!(select(&CACHING[..12], 1, 10), wrong(FieldError::byte(5)), "too short for its page");
        assert_eq!(select(&CONTROL, 0, 0x02), wrong(FieldError::bit(4, 5)), "no such page");
        let mut sub = vec![0, 0, 0, 0, 0x4A, 0x01, 0, 4];
        sub.extend([0; 4]);
        assert_eq!(select_6(&owner, 0x10, &sub), wrong(FieldError::byte(5)), "no such subpage");
        let through = Owner::of(BdevInfo { write_cache: false, ..disk() });
        assert_eq!(select_6(&through, 0x10, &list_of(&CACHING, &[])), wrong(FieldError::bit(6, 2)), "WCE");
    }

    #[test]
    fn nothing_is_taken_of_a_list_with_a_mistake_at_its_end() {
        let owner = describing();
        let mut list = list_of(&CONTROL, &[(4, 0x08)]);
        list.extend(RECOVERY);
        assert!(select_6(&owner, 0x10, &list).is_ok());
        list[16 + 2] = 0;
        let wrong = Sense::invalid_field_in_parameter_list(FieldError::bit(18, 7));
        assert_eq!(select_6(&owner, 0x10, &list), Err(wrong));
    }

    #[test]
    fn header_and_block_descriptor_must_say_what_is_there() {
        let owner = describing();
        let wrong = |at: u16| Err(Sense::invalid_field_in_parameter_list(FieldError::byte(at)));
        let select = |list: [u8; 12]| select_6(&owner, 0x10, &list).map(|m| assert_eq!(m, owner.modes));
        let there = [0, 0, 0x90, 8, 0, 0x20, 0, 0, 0, 0, 2, 0];
        assert_eq!(select(there), Ok(()));
        assert_eq!(select([0xFF, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0]), Ok(()), "nought blocks: keep them");
        assert_eq!(select([0, 0, 0, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 2, 0]), Ok(()), "as many as there are");
        assert_eq!(select([0, 0, 0, 8, 0, 0x20, 0, 1, 0, 0, 2, 0]), wrong(4));
        assert_eq!(select([0, 0, 0, 8, 0, 0x20, 0, 0, 0, 0, 4, 0]), wrong(9));
        assert_eq!(select([0, 1, 0, 8, 0, 0x20, 0, 0, 0, 0, 2, 0]), wrong(1));
        assert_eq!(select([0, 0, 0, 4, 0, 0x20, 0, 0, 0, 0, 2, 0]), wrong(3));
        let mut ten = vec![0, 0, 0, 0, 1, 0, 0, 16];
        ten.extend([0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        let select_10 = |list: &[u8]| {
            let cdb = [0x55, 0x10, 0, 0, 0, 0, 0, 0, 24, 0];
            mode_select(&cdb, list, &owner.view()).map(|m| assert_eq!(m, owner.modes))
        };
        assert_eq!(select_10(&ten), Ok(()));
        ten[23] = 1;
        assert_eq!(select_10(&ten), wrong(20));
        (ten[23], ten[2]) = (0, 1);
        assert_eq!(select_10(&ten), wrong(2));
    }

    #[test]
    fn pf_sp_and_lengths_are_checked() {
        let mut owner = describing();
        assert_eq!(select_6(&owner, 0, &[]), Ok(owner.modes.clone()), "an empty list is no error");
        assert_eq!(select_6(&owner, 0, &[0; 4]), Ok(owner.modes.clone()), "no page, no format");
        let pf = Err(Sense::invalid_field_in_cdb(FieldError::bit(1, 4)));
        assert_eq!(select_6(&owner, 0, &list_of(&CONTROL, &[])), pf);
        for n in 1..4 {
            assert_eq!(select_6(&owner, 0x10, &[0; 4][..n]), Err(ListError::Length.into()));
        }
        let cut = mode_select(&[0x15, 0x10, 0, 0, 16, 0], &[0; 15], &owner.view());
        assert_eq!(cut, Err(ListError::Length.into()), "fewer bytes came than were announced");
        owner.can_store = false;
        assert_eq!(select_6(&owner, 0x11, &[]), Err(Sense::invalid_field_in_cdb(FieldError::bit(1, 0))));
    }

    #[test]
    fn saved_values_survive_and_damage_is_noticed() {
        let owner = describing();
        let saved = select_6(&owner, 0x11, &list_of(&CONTROL, &[(2, 0x26), (4, 8)])).unwrap();
        let record = saved.saved_bytes();
        assert_eq!(record[..9], *b"SPDLMOD\x01\x07");
        let mut fresh = ModePages::new(&disk(), false);
        assert!(fresh.restore(&record));
        assert_eq!(fresh, saved);
        let mut through = ModePages::new(&BdevInfo { write_cache: false, ..disk() }, false);
        assert!(through.restore(&record) && !through.wce() && through.d_sense());
        for at in 0..record.len() {
            for bit in 0..8 {
                let mut bad = record.clone();
                bad[at] ^= 1 << bit;
                assert!(!fresh.restore(&bad) && !fresh.restore(&record[..at]));
            }
        }
        assert_eq!(fresh, saved);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_lists_never_panic_and_change_only_what_may(
            flags in 0u8..=0x1F, ten: bool, list in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)
        ) {
            let owner = describing();
            let n = list.len() as u8;
            let result = if ten {
                mode_select(&[0x55, flags, 0, 0, 0, 0, 0, 0, n, 0], &list, &owner.view())
            } else {
                mode_select(&[0x15, flags, 0, 0, n, 0], &list, &owner.view())
            };
            if let Ok(modes) = result {
                proptest::prop_assert_eq!(modes.default, owner.modes.default);
                proptest::prop_assert_eq!(modes.changeable, owner.modes.changeable);
            }
        }

        #[test]
        fn what_mode_sense_gives_mode_select_takes(flags in 0u8..16, ten: bool, dbd: bool, llbaa: bool) {
            let mut owner = describing();
            let bit = |n: u8| flags >> n & 1 == 1;
            owner.modes.current = Values { wce: bit(0), d_sense: bit(1), swp: bit(2), tas: bit(3) };
            let flags = u8::from(dbd) << 3 | u8::from(llbaa && ten) << 4;
            let (sense, n) = if ten {
                let bytes = owner.all(mode_sense, &[0x5A, flags, 0x3F, 0, 0, 0, 0, 1, 0, 0]);
                let n = bytes.len() as u8;
                (bytes, n)
            } else {
                let bytes = owner.all(mode_sense, &[0x1A, flags, 0x3F, 0, 255, 0]);
                let n = bytes.len() as u8;
                (bytes, n)
            };
            let select = if ten {
                mode_select(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, n, 0], &sense, &owner.view())
            } else {
                mode_select(&[0x15, 0x10, 0, 0, n, 0], &sense, &owner.view())
            };
            proptest::prop_assert_eq!(select, Ok(owner.modes.clone()));
        }
    }
}
