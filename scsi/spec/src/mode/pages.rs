//! The mode pages of a disk that Spindle has: read-write error recovery, caching, control, informational
//! exceptions control.
//!
//! Every page writes itself with `emit(ps, w)`, header and all, and reads itself from the bytes of a page
//! with its header ([`super::RawPage::bytes`]). `Default` is the page with all fields zero, the start of a
//! mask of changeable values.

use crate::{Emit, be, emit::flag};

fn header(ps: bool, code: u8, bytes: usize, w: &mut Emit<'_>) {
    w.u8(flag(ps, 7) | code).u8((bytes - 2) as u8);
}

/// Are these the bytes of the page `code`, at least so long?
fn is_page(page: &[u8], code: u8, bytes: usize) -> bool {
    page.len() >= bytes && page[0] & 0x7F == code && usize::from(page[1]) == bytes - 2
}

/// Page 01h (SBC-4 §6.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ReadWriteErrorRecovery {
    /// AWRE: reassign on write.
    pub awre: bool,
    /// ARRE: reassign on read.
    pub arre: bool,
    /// TB: transfer the bad block.
    pub tb: bool,
    /// RC: read continuous.
    pub rc: bool,
    /// EER: early recovery.
    pub eer: bool,
    /// PER: post recovered errors.
    pub per: bool,
    /// DTE: end on recovered errors.
    pub dte: bool,
    /// DCR: no corrections.
    pub dcr: bool,
    /// READ RETRY COUNT.
    pub read_retries: u8,
    /// LBPERE: provisioning thresholds raise errors.
    pub lbpere: bool,
    /// WRITE RETRY COUNT.
    pub write_retries: u8,
    /// RECOVERY TIME LIMIT, milliseconds.
    pub recovery_ms: u16,
}

impl ReadWriteErrorRecovery {
    /// PAGE CODE.
    pub const CODE: u8 = 0x01;
    /// Length with header.
    pub const BYTES: usize = 12;

    /// Writes the page.
    pub fn emit(&self, ps: bool, w: &mut Emit<'_>) {
        header(ps, Self::CODE, Self::BYTES, w);
        let high = flag(self.awre, 7) | flag(self.arre, 6) | flag(self.tb, 5) | flag(self.rc, 4);
        let low = flag(self.eer, 3) | flag(self.per, 2) | flag(self.dte, 1) | flag(self.dcr, 0);
        w.u8(high | low).u8(self.read_retries).zeros(3).u8(flag(self.lbpere, 7));
        w.u8(self.write_retries).u8(0).u16(self.recovery_ms);
    }

    /// From the bytes of the page.
    pub fn parse(p: &[u8]) -> Option<ReadWriteErrorRecovery> {
        is_page(p, Self::CODE, Self::BYTES).then(|| ReadWriteErrorRecovery {
            awre: be::bit(p, 2, 7),
            arre: be::bit(p, 2, 6),
            tb: be::bit(p, 2, 5),
            rc: be::bit(p, 2, 4),
            eer: be::bit(p, 2, 3),
            per: be::bit(p, 2, 2),
            dte: be::bit(p, 2, 1),
            dcr: be::bit(p, 2, 0),
            read_retries: p[3],
            lbpere: be::bit(p, 7, 7),
            write_retries: p[8],
            recovery_ms: be::u16(p, 10),
        })
    }
}

/// Page 08h (SBC-4 §6.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Caching {
    /// IC: the cache keeps to its segments.
    pub ic: bool,
    /// ABPF: abort pre-fetch.
    pub abpf: bool,
    /// CAP: caching analysis permitted.
    pub cap: bool,
    /// DISC: pre-fetch over discontinuities.
    pub disc: bool,
    /// SIZE: the segment size rules.
    pub size: bool,
    /// WCE: writeback cache enabled; GOOD may come before data is safe.
    pub wce: bool,
    /// MF: multiplication factor.
    pub mf: bool,
    /// RCD: reads come from the medium.
    pub rcd: bool,
    /// DEMAND READ RETENTION PRIORITY, 4 bits.
    pub read_retention: u8,
    /// WRITE RETENTION PRIORITY, 4 bits.
    pub write_retention: u8,
    /// DISABLE PRE-FETCH TRANSFER LENGTH.
    pub disable_prefetch_length: u16,
    /// MINIMUM PRE-FETCH.
    pub prefetch_min: u16,
    /// MAXIMUM PRE-FETCH.
    pub prefetch_max: u16,
    /// MAXIMUM PRE-FETCH CEILING.
    pub prefetch_ceiling: u16,
    /// FSW: force sequential write.
    pub fsw: bool,
    /// LBCSS: segment size counts blocks.
    pub lbcss: bool,
    /// DRA: disable read ahead.
    pub dra: bool,
    /// SYNC_PROG, 2 bits.
    pub sync_prog: u8,
    /// NV_DIS: non-volatile cache disabled.
    pub nv_dis: bool,
    /// NUMBER OF CACHE SEGMENTS.
    pub segments: u8,
    /// CACHE SEGMENT SIZE.
    pub segment_size: u16,
}

impl Caching {
    /// PAGE CODE.
    pub const CODE: u8 = 0x08;
    /// Length with header.
    pub const BYTES: usize = 20;

    /// Writes the page.
    pub fn emit(&self, ps: bool, w: &mut Emit<'_>) {
        header(ps, Self::CODE, Self::BYTES, w);
        let high = flag(self.ic, 7) | flag(self.abpf, 6) | flag(self.cap, 5) | flag(self.disc, 4);
        let low = flag(self.size, 3) | flag(self.wce, 2) | flag(self.mf, 1) | flag(self.rcd, 0);
        w.u8(high | low).u8(self.read_retention << 4 | self.write_retention & 0x0F);
        w.u16(self.disable_prefetch_length).u16(self.prefetch_min);
        w.u16(self.prefetch_max).u16(self.prefetch_ceiling);
        let high = flag(self.fsw, 7) | flag(self.lbcss, 6) | flag(self.dra, 5);
        w.u8(high | (self.sync_prog & 3) << 1 | flag(self.nv_dis, 0));
        w.u8(self.segments).u16(self.segment_size).zeros(4);
    }

    /// From the bytes of the page.
    pub fn parse(p: &[u8]) -> Option<Caching> {
        is_page(p, Self::CODE, Self::BYTES).then(|| Caching {
            ic: be::bit(p, 2, 7),
            abpf: be::bit(p, 2, 6),
            cap: be::bit(p, 2, 5),
            disc: be::bit(p, 2, 4),
            size: be::bit(p, 2, 3),
            wce: be::bit(p, 2, 2),
            mf: be::bit(p, 2, 1),
            rcd: be::bit(p, 2, 0),
            read_retention: p[3] >> 4,
            write_retention: p[3] & 0x0F,
            disable_prefetch_length: be::u16(p, 4),
            prefetch_min: be::u16(p, 6),
            prefetch_max: be::u16(p, 8),
            prefetch_ceiling: be::u16(p, 10),
            fsw: be::bit(p, 12, 7),
            lbcss: be::bit(p, 12, 6),
            dra: be::bit(p, 12, 5),
            sync_prog: p[12] >> 1 & 3,
            nv_dis: be::bit(p, 12, 0),
            segments: p[13],
            segment_size: be::u16(p, 14),
        })
    }
}

/// Page 0Ah (SPC-5 §7.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Control {
    /// TST, 3 bits: 000b one task set, 001b one for each I_T nexus.
    pub tst: u8,
    /// TMF_ONLY.
    pub tmf_only: bool,
    /// DPICZ: protection is not checked if PROTECT is zero.
    pub dpicz: bool,
    /// D_SENSE: sense data in descriptor format.
    pub d_sense: bool,
    /// GLTSD: log parameters are not saved implicitly.
    pub gltsd: bool,
    /// RLEC: report log exceptions.
    pub rlec: bool,
    /// QUEUE ALGORITHM MODIFIER, 4 bits: 0 restricted, 1 unrestricted reordering.
    pub queue_algorithm: u8,
    /// NUAR: no unit attention on release.
    pub nuar: bool,
    /// QERR, 2 bits: what a CHECK CONDITION does to the other tasks.
    pub qerr: u8,
    /// RAC: report a check rather than stay busy.
    pub rac: bool,
    /// UA_INTLCK_CTRL, 2 bits.
    pub ua_interlock: u8,
    /// SWP: software write protect.
    pub swp: bool,
    /// ATO: the application tag is the initiator's.
    pub ato: bool,
    /// TAS: aborted tasks of other nexuses get TASK ABORTED.
    pub tas: bool,
    /// ATMPE.
    pub atmpe: bool,
    /// RWWP.
    pub rwwp: bool,
    /// AUTOLOAD MODE, 3 bits.
    pub autoload: u8,
    /// BUSY TIMEOUT PERIOD, tenths of a second.
    pub busy_timeout_ds: u16,
    /// EXTENDED SELF-TEST COMPLETION TIME, seconds.
    pub self_test_s: u16,
}

impl Control {
    /// PAGE CODE.
    pub const CODE: u8 = 0x0A;
    /// Length with header.
    pub const BYTES: usize = 12;

    /// Writes the page.
    pub fn emit(&self, ps: bool, w: &mut Emit<'_>) {
        header(ps, Self::CODE, Self::BYTES, w);
        let low = flag(self.d_sense, 2) | flag(self.gltsd, 1) | flag(self.rlec, 0);
        w.u8((self.tst & 7) << 5 | flag(self.tmf_only, 4) | flag(self.dpicz, 3) | low);
        w.u8(self.queue_algorithm << 4 | flag(self.nuar, 3) | (self.qerr & 3) << 1);
        w.u8(flag(self.rac, 6) | (self.ua_interlock & 3) << 4 | flag(self.swp, 3));
        let high = flag(self.ato, 7) | flag(self.tas, 6) | flag(self.atmpe, 5) | flag(self.rwwp, 4);
        w.u8(high | self.autoload & 7).u16(0).u16(self.busy_timeout_ds).u16(self.self_test_s);
    }

    /// From the bytes of the page.
    pub fn parse(p: &[u8]) -> Option<Control> {
        is_page(p, Self::CODE, Self::BYTES).then(|| Control {
            tst: p[2] >> 5,
            tmf_only: be::bit(p, 2, 4),
            dpicz: be::bit(p, 2, 3),
            d_sense: be::bit(p, 2, 2),
            gltsd: be::bit(p, 2, 1),
            rlec: be::bit(p, 2, 0),
            queue_algorithm: p[3] >> 4,
            nuar: be::bit(p, 3, 3),
            qerr: p[3] >> 1 & 3,
            rac: be::bit(p, 4, 6),
            ua_interlock: p[4] >> 4 & 3,
            swp: be::bit(p, 4, 3),
            ato: be::bit(p, 5, 7),
            tas: be::bit(p, 5, 6),
            atmpe: be::bit(p, 5, 5),
            rwwp: be::bit(p, 5, 4),
            autoload: p[5] & 7,
            busy_timeout_ds: be::u16(p, 8),
            self_test_s: be::u16(p, 10),
        })
    }
}

/// Page 1Ch (SPC-5 §7.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct InformationalExceptions {
    /// PERF: the operations must not delay commands.
    pub perf: bool,
    /// EBF: background functions.
    pub ebf: bool,
    /// EWASC: warnings.
    pub ewasc: bool,
    /// DEXCPT: no informational exceptions.
    pub dexcpt: bool,
    /// TEST: raise a false one.
    pub test: bool,
    /// EBACKERR: background errors.
    pub ebackerr: bool,
    /// LOGERR: log them.
    pub logerr: bool,
    /// MRIE, 4 bits: how they are reported.
    pub mrie: u8,
    /// INTERVAL TIMER, tenths of a second.
    pub interval_ds: u32,
    /// REPORT COUNT.
    pub report_count: u32,
}

impl InformationalExceptions {
    /// PAGE CODE.
    pub const CODE: u8 = 0x1C;
    /// Length with header.
    pub const BYTES: usize = 12;

    /// Writes the page.
    pub fn emit(&self, ps: bool, w: &mut Emit<'_>) {
        header(ps, Self::CODE, Self::BYTES, w);
        let high = flag(self.perf, 7) | flag(self.ebf, 5) | flag(self.ewasc, 4);
        let low = flag(self.test, 2) | flag(self.ebackerr, 1) | flag(self.logerr, 0);
        w.u8(high | flag(self.dexcpt, 3) | low).u8(self.mrie & 0x0F);
        w.u32(self.interval_ds).u32(self.report_count);
    }

    /// From the bytes of the page.
    pub fn parse(p: &[u8]) -> Option<InformationalExceptions> {
        is_page(p, Self::CODE, Self::BYTES).then(|| InformationalExceptions {
            perf: be::bit(p, 2, 7),
            ebf: be::bit(p, 2, 5),
            ewasc: be::bit(p, 2, 4),
            dexcpt: be::bit(p, 2, 3),
            test: be::bit(p, 2, 2),
            ebackerr: be::bit(p, 2, 1),
            logerr: be::bit(p, 2, 0),
            mrie: p[3] & 0x0F,
            interval_ds: be::u32(p, 4),
            report_count: be::u32(p, 8),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn bytes(emit: impl FnOnce(&mut Emit<'_>)) -> Vec<u8> {
        let mut room = [0xEE; 32];
        let mut w = Emit::new(&mut room);
        emit(&mut w);
        w.as_bytes().to_vec()
    }

    #[test]
    fn golden_pages() {
        let control = Control { tst: 1, d_sense: true, queue_algorithm: 1, tas: true, ..Default::default() };
        assert_eq!(bytes(|w| control.emit(true, w)), [0x8A, 10, 0x24, 0x10, 0, 0x40, 0, 0, 0, 0, 0, 0]);
        let caching = Caching { wce: true, rcd: true, dra: true, ..Default::default() };
        let want = [0x08, 18, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes(|w| caching.emit(false, w)), want);
        let recovery =
            ReadWriteErrorRecovery { awre: true, arre: true, read_retries: 8, ..Default::default() };
        assert_eq!(bytes(|w| recovery.emit(false, w)), [1, 10, 0xC0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        let exceptions = InformationalExceptions { dexcpt: true, mrie: 6, ..Default::default() };
        assert_eq!(bytes(|w| exceptions.emit(false, w)), [0x1C, 10, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_page_of_another_code_or_length_does_not_parse() {
        let control = bytes(|w| Control::default().emit(false, w));
        assert_eq!(Control::parse(&control), Some(Control::default()));
        assert_eq!(Control::parse(&control[..11]), None);
        assert_eq!(InformationalExceptions::parse(&control), None);
        let mut sub = control;
        sub[0] |= 0x40;
        assert_eq!(Control::parse(&sub), None);
    }

    proptest! {
        #[test]
        fn what_parses_survives_the_wire(mut b: [u8; 20], ps: bool) {
            (b[0], b[1]) = (0x08, 18);
            let page = Caching::parse(&b).unwrap();
            prop_assert_eq!(Caching::parse(&bytes(|w| page.emit(ps, w))), Some(page));
            (b[0], b[1]) = (0x01, 10);
            let page = ReadWriteErrorRecovery::parse(&b).unwrap();
            prop_assert_eq!(ReadWriteErrorRecovery::parse(&bytes(|w| page.emit(ps, w))), Some(page));
            b[0] = 0x0A;
            let page = Control::parse(&b).unwrap();
            prop_assert_eq!(Control::parse(&bytes(|w| page.emit(ps, w))), Some(page));
            b[0] = 0x1C;
            let page = InformationalExceptions::parse(&b).unwrap();
            prop_assert_eq!(InformationalExceptions::parse(&bytes(|w| page.emit(ps, w))), Some(page));
        }
    }
}
