//! Exercises a running target and says what it found. It writes to the disk.
//!
//! ```text
//! cargo run -p spindle-initiator --example exercise -- 127.0.0.1:3260 iqn.2026-01.org.example:disk [lun [user secret [target-secret]]]
//! ```
//!
//! CHAP is done with MD5 here, the one algorithm that every target has.

use std::process::ExitCode;

use spindle_initiator::tcp::{Error, TcpInitiator};
use spindle_initiator::{Algorithm, ChapConfig, Config, Direction, MutualChap};
use spindle_iscsi_wire::{TmfFunction, TmfResult};

const NAME: &str = "iqn.2026-01.org.example:exercise";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(address), Some(target)) = (args.first(), args.get(1)) else {
        eprintln!("usage: exercise address:port target-name [lun [user secret [target-secret]]]");
        return ExitCode::FAILURE;
    };
    let lun = args.get(2).and_then(|lun| lun.parse().ok()).unwrap_or(0);
    let chap = args.get(3).zip(args.get(4)).map(|(user, secret)| {
        let mut chap = ChapConfig::one_way(user, secret.as_bytes());
        chap.algorithms = vec![Algorithm::Md5];
        chap.mutual = args.get(5).map(|secret| MutualChap {
            name: None,
            secret: secret.as_bytes().to_vec(),
            identifier: 77,
            challenge: (0..16).map(|i| i * 13 + 5).collect(),
        });
        chap
    });
    match exercise(address, target, lun, chap) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn exercise(address: &str, target: &str, lun: u16, chap: Option<ChapConfig>) -> Result<(), Error> {
    let mut discovery = TcpInitiator::login(address, Config::discovery(NAME))?;
    for found in discovery.send_targets("All")? {
        println!("{} at {:?}", found.name, found.addresses);
    }
    discovery.logout()?;

    for (digest, initial_r2t, data_out_max) in
        [("None", "No", None), ("CRC32C,None", "No", Some(1000)), ("None,CRC32C", "Yes", None)]
    {
        let mut config = Config::normal(NAME, target);
        if let Some(chap) = &chap {
            config = config.with_chap(chap.clone());
        }
        config.data_out_max = data_out_max;
        config.offers = config
            .offers
            .with("HeaderDigest", digest)
            .with("DataDigest", digest)
            .with("InitialR2T", initial_r2t);
        let mut disk = TcpInitiator::login(address, config)?;
        disk.set_strict(false);
        println!("{:?}", disk.engine().params());
        let inquiry = disk.inquiry(lun, None, 96)?;
        println!("INQUIRY: {:?}", String::from_utf8_lossy(inquiry.get(8..36).unwrap_or(&[])));
        while disk.command(lun, &[0; 6], Direction::None)?.status == 2 {}
        let (blocks, block_len) = disk.capacity(lun)?;
        println!("{blocks} blocks of {block_len} bytes");
        for count in [1, 8, 17, 128, 1000, 4096] {
            if u64::from(count) > blocks {
                break;
            }
            let data: Vec<u8> =
                (0..count * block_len).map(|i| (i * 7 + i / block_len + count) as u8).collect();
            disk.write(lun, 0, block_len, &data)?;
            if disk.read(lun, 0, count, block_len)? != data {
                println!("{count} blocks came back different");
            }
        }
        // More expected than the command brings, and less.
        let read_10 = |count: u8| [0x28, 0, 0, 0, 0, 0, 0, 0, count, 0];
        for (count, expected) in [(2, 4 * block_len), (4, 2 * block_len)] {
            let done = disk.command(lun, &read_10(count), Direction::Read(expected))?;
            println!("READ of {count} blocks into {expected} bytes: {:?}", done.residual);
        }
        let done =
            disk.command(lun, &[0x28, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 1, 0], Direction::Read(block_len))?;
        println!("READ beyond the end: status {:02x}, sense {:02x?}", done.status, done.sense);
        assert_eq!(disk.ping(b"are you there?")?, b"are you there?");
        let result = disk.tmf(TmfFunction::LogicalUnitReset, lun, None)?;
        println!("LOGICAL UNIT RESET: {result:?}");
        if result == TmfResult::Complete {
            let done = disk.command(lun, &[0; 6], Direction::None)?;
            println!("after it: status {:02x}, sense {:02x?}", done.status, done.sense);
        }
        for violation in disk.violations() {
            println!("broken rule: {violation}");
        }
        disk.logout()?;
    }
    Ok(())
}
