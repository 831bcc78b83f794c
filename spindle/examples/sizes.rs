//! Bytes of what there may be many of; docs/sizing.md is made of these figures.

use spindle_iscsi::{conn, session, task};
use spindle_net::EpollNet;
use spindle_scsi::{lu, nexus};

fn main() {
    let rows = [
        ("command: engine, hot half", size_of::<spindle_scsi::task::Task>()),
        ("command: engine, cold half", size_of::<spindle_scsi::task::Cold>()),
        ("command: iSCSI", size_of::<task::Task>()),
        ("operation of a device", size_of::<spindle_bdev::BlockIo>()),
        ("session: iSCSI", size_of::<session::Session>()),
        ("session: I_T nexus", size_of::<nexus::Nexus>()),
        ("session and LUN: I_T_L nexus", size_of::<nexus::Itl>()),
        ("connection: iSCSI", size_of::<conn::Conn>()),
        ("logical unit on a core", size_of::<lu::LuShard>()),
        ("message between cores", size_of::<spindle::message::ShardMsg<EpollNet>>()),
        ("4 KiB of a vector", size_of::<spindle_mem::Seg>()),
    ];
    for (what, bytes) in rows {
        println!("{bytes:>6} {what}");
    }
}
