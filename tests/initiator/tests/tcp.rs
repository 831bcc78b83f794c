//! The blocking wrapper against the small target behind a socket.

mod peer;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use peer::{BLOCK, INITIATOR, Peer, TARGET, agreed, cdb_10};
use spindle_initiator::tcp::{Error, TcpInitiator};
use spindle_initiator::{Command, Config, Direction, What};
use spindle_iscsi_wire::{LoginStatus, TargetPdu, TmfFunction, TmfResult};

/// Serves one connection, and gives the memory back when it ends. Hooks are not `Send`, so the peer is made inside.
fn serve(make: impl FnOnce() -> Peer + Send + 'static) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut peer, mut buffer) = (make(), [0; 4096]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return peer.memory,
                Ok(n) => {
                    let answer = peer.on_bytes(&buffer[..n]);
                    if stream.write_all(&answer).is_err() {
                        return peer.memory;
                    }
                }
            }
        }
    });
    (address, server)
}

#[test]
fn a_session_over_a_socket_does_everything() {
    let pairs = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C"), ("MaxRecvDataSegmentLength", "1000")];
    let (address, server) = serve(move || agreed(&pairs).1);
    let mut disk = TcpInitiator::login(address, agreed(&pairs).0).unwrap();
    let data: Vec<u8> = (0..100 * BLOCK).map(|i| (i * 7 / 3) as u8).collect();
    let done = disk.good(3, &cdb_10(0x2A, 4, 100), Direction::Write(Arc::from(&data[..]))).unwrap();
    assert_eq!(done.residual, spindle_iscsi_wire::Residual::None);
    let mut tags = Vec::new();
    for part in 0..10 {
        let cdb = cdb_10(0x28, 4 + part * 10, 10);
        let direction = Direction::Read(10 * BLOCK as u32);
        tags.push(disk.submit(Command::new([0; 8], &cdb, direction)).unwrap());
    }
    // Waiting for the last first: the others are kept.
    for (part, &itt) in tags.iter().enumerate().rev() {
        let done = disk.wait_done(itt).unwrap();
        assert_eq!(done.data, data[part * 10 * BLOCK..][..10 * BLOCK]);
    }
    assert!(
        matches!(disk.inquiry(0, None, 36), Err(Error::Status(done)) if done.status == 2 && done.sense[2] == 5)
    );
    assert_eq!(disk.ping(b"ping").unwrap(), b"ping");
    assert_eq!(disk.send_targets("All").unwrap()[0].name, TARGET);
    assert_eq!(disk.tmf(TmfFunction::LogicalUnitReset, 0, None).unwrap(), TmfResult::Complete);
    assert!(disk.violations().is_empty());
    disk.logout().unwrap();
    assert_eq!(server.join().unwrap()[4 * BLOCK..104 * BLOCK], data);
}

#[test]
fn a_refused_login_a_broken_rule_and_silence_are_different_errors() {
    let (address, _server) = serve(|| {
        let mut peer = Peer::new(&[]);
        peer.login_status = LoginStatus::NOT_FOUND;
        peer
    });
    let refused = TcpInitiator::login(address, Config::normal(INITIATOR, TARGET)).err().unwrap();
    assert!(matches!(refused, Error::Login { status: LoginStatus::NOT_FOUND, address: None }));

    for strict in [true, false] {
        let (address, _server) = serve(|| {
            let (_, mut peer) = agreed(&[]);
            peer.hook = Some(Box::new(|pdu, _, _| {
                if let TargetPdu::DataIn(pdu) = pdu {
                    pdu.data_sn.0 += 1;
                }
            }));
            peer
        });
        let mut disk = TcpInitiator::login(address, agreed(&[]).0).unwrap();
        disk.set_strict(strict);
        let read = disk.command(0, &cdb_10(0x28, 0, 1), Direction::Read(BLOCK as u32));
        match read {
            Err(Error::Violation(found)) => assert!(strict && matches!(found.what, What::DataSn { .. })),
            Ok(done) => assert!(!strict && done.status == 0),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(disk.violations().len(), 1);
    }

    let (address, _server) = serve(|| {
        let mut peer = Peer::new(&[]);
        peer.mute = true;
        peer
    });
    let mut silent = TcpInitiator::connect(address, Config::normal(INITIATOR, TARGET)).unwrap();
    silent.set_answer_max(Duration::from_millis(50));
    assert!(matches!(silent.wait(|_| false), Err(Error::Timeout(_))));
}
