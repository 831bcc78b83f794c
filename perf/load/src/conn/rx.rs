//! Cutting what arrives into PDUs.
//!
//! One call fills the buffer; whole PDUs are given out where they lie. Data that nobody will look at is only
//! counted, and a PDU that has not come to its end yet is continued at the start of the buffer, so that long reads
//! are never moved about.

use std::io::{self, Read};
use std::net::TcpStream;

use anyhow::{Result, bail, ensure};
use crc_fast::{CrcAlgorithm, Digest};
use spindle_iscsi_wire::bhs::{self, Digests};
use spindle_iscsi_wire::{BHS_LEN, Bhs};

/// What a reader does with PDUs.
pub trait Sink {
    /// Whether the data of this PDU is wanted.
    fn wants_data(&self, header: &Bhs) -> bool;
    /// Part of the data of a PDU, if it is wanted; `at` bytes came before.
    fn data(&mut self, header: &Bhs, at: u32, part: &[u8]) -> Result<()>;
    /// A PDU is complete.
    fn pdu(&mut self, header: &Bhs) -> Result<()>;
}

/// A PDU whose data is still coming.
struct Body {
    header: Bhs,
    got: u32,
    data: u32,
    padded: u32,
    crc: Option<Digest>,
    digest: [u8; 4],
    digest_got: usize,
    wanted: bool,
}

/// The receive side of a connection.
pub struct Rx {
    buffer: Vec<u8>,
    have: usize,
    digests: Digests,
    body: Option<Box<Body>>,
}

impl Rx {
    /// A buffer of `len` bytes, more than a header and its AHS need.
    pub fn new(len: usize, digests: Digests) -> Self {
        Self { buffer: vec![0; len.max(2048)], have: 0, digests, body: None }
    }

    /// Changes what digests follow: after a login.
    pub fn set_digests(&mut self, digests: Digests) {
        self.digests = digests;
    }

    /// Takes what the socket has; 0 if there is nothing.
    #[inline]
    pub fn fill(&mut self, stream: &mut TcpStream) -> Result<usize> {
        loop {
            match stream.read(&mut self.buffer[self.have..]) {
                Ok(0) => bail!("the peer closed the connection"),
                Ok(n) => {
                    self.have += n;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives out what is complete.
    pub fn parse(&mut self, sink: &mut impl Sink) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let result = self.parse_all(&buffer[..self.have], sink);
        self.buffer = buffer;
        let used = result?;
        self.buffer.copy_within(used..self.have, 0);
        self.have -= used;
        Ok(())
    }

    fn parse_all(&mut self, input: &[u8], sink: &mut impl Sink) -> Result<usize> {
        let mut at = 0;
        if self.body.is_some() {
            at += self.go_on(input, sink)?;
        }
        let header_digest = if self.digests.header { 4 } else { 0 };
        while let Some(header) = input[at..].first_chunk::<BHS_LEN>() {
            let rest = &input[at..];
            let covered = BHS_LEN + bhs::ahs_bytes(header) as usize;
            let head = covered + header_digest;
            if rest.len() < head {
                break;
            }
            if self.digests.header {
                let found = rest[covered..head].first_chunk::<4>().expect("a digest is four bytes");
                ensure!(crc32c(&rest[..covered]) == *found, "the header digest of a PDU is wrong");
            }
            let data = bhs::data_bytes(header);
            let padded = bhs::padded(data) as usize;
            let tail = if self.digests.data && data != 0 { 4 } else { 0 };
            let total = head + padded + tail;
            if rest.len() < total {
                self.body = Some(Box::new(Body {
                    header: *header,
                    got: 0,
                    data,
                    padded: padded as u32,
                    crc: (tail != 0).then(|| Digest::new(CrcAlgorithm::Crc32Iscsi)),
                    digest: [0; 4],
                    digest_got: 0,
                    wanted: sink.wants_data(header),
                }));
                at += head;
                at += self.go_on(&input[at..], sink)?;
                break;
            }
            if tail != 0 {
                let found = rest[head + padded..total].first_chunk::<4>().expect("a digest is four bytes");
                ensure!(crc32c(&rest[head..head + padded]) == *found, "the data digest of a PDU is wrong");
            }
            if data != 0 && sink.wants_data(header) {
                sink.data(header, 0, &rest[head..head + data as usize])?;
            }
            sink.pdu(header)?;
            at += total;
        }
        Ok(at)
    }

    /// Continues a PDU; returns the bytes used.
    fn go_on(&mut self, input: &[u8], sink: &mut impl Sink) -> Result<usize> {
        let Some(body) = self.body.as_mut() else { return Ok(0) };
        let n = input.len().min((body.padded - body.got) as usize);
        let part = &input[..n];
        if let Some(crc) = &mut body.crc {
            crc.update(part);
        }
        // Padding comes last; it is not data.
        let real = n.min(body.data.saturating_sub(body.got) as usize);
        if body.wanted && real > 0 {
            sink.data(&body.header, body.got, &part[..real])?;
        }
        body.got += n as u32;
        let mut used = n;
        if body.got < body.padded {
            return Ok(used);
        }
        if let Some(crc) = &body.crc {
            let more = (4 - body.digest_got).min(input.len() - used);
            body.digest[body.digest_got..body.digest_got + more].copy_from_slice(&input[used..used + more]);
            body.digest_got += more;
            used += more;
            if body.digest_got < 4 {
                return Ok(used);
            }
            ensure!(
                (crc.finalize() as u32).to_le_bytes() == body.digest,
                "the data digest of a PDU is wrong"
            );
        }
        let header = body.header;
        self.body = None;
        sink.pdu(&header)?;
        Ok(used)
    }
}

/// CRC32C as it stands on the wire (RFC 7143 §13.1).
#[inline]
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    crc_fast::crc32_iscsi(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Log {
        pdus: Vec<(u8, Vec<u8>)>,
        data: Vec<u8>,
    }

    impl Sink for Log {
        fn wants_data(&self, header: &Bhs) -> bool {
            header[0] != 0x26
        }
        fn data(&mut self, _: &Bhs, at: u32, part: &[u8]) -> Result<()> {
            assert_eq!(at as usize, self.data.len());
            self.data.extend(part);
            Ok(())
        }
        fn pdu(&mut self, header: &Bhs) -> Result<()> {
            self.pdus.push((header[0], std::mem::take(&mut self.data)));
            Ok(())
        }
    }

    fn stream_of(pdus: &[(u8, u8, Vec<u8>)], digests: Digests) -> Vec<u8> {
        let mut out = Vec::new();
        for (opcode, ahs_words, data) in pdus {
            let start = out.len();
            let mut header = [0; BHS_LEN];
            header[0] = *opcode;
            header[4] = *ahs_words;
            header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
            out.extend(header);
            out.resize(out.len() + usize::from(*ahs_words) * 4, 0xAA);
            if digests.header {
                out.extend(crc32c(&out[start..]));
            }
            let start = out.len();
            out.extend(data);
            out.resize(start + data.len().next_multiple_of(4), 0);
            if digests.data && !data.is_empty() {
                out.extend(crc32c(&out[start..]));
            }
        }
        out
    }

    fn read_in_pieces(bytes: &[u8], pieces: &[usize], digests: Digests) -> Result<Log> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut b = listener.accept().unwrap().0;
        let (mut rx, mut log) = (Rx::new(2048, digests), Log::default());
        let (mut at, mut turn) = (0, 0);
        while at < bytes.len() {
            let n = pieces[turn % pieces.len()].min(bytes.len() - at);
            turn += 1;
            a.write_all(&bytes[at..at + n]).unwrap();
            at += n;
            let mut left = n;
            while left > 0 {
                left -= rx.fill(&mut b)?;
                rx.parse(&mut log)?;
            }
        }
        Ok(log)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pdus_come_out_whole_however_they_were_cut(
            pdus in proptest::collection::vec((0x20u8..0x28, 0u8..4, proptest::collection::vec(any::<u8>(), 0..3000)), 1..8),
            pieces in proptest::collection::vec(1usize..1500, 1..6),
            header: bool, data: bool,
        ) {
            let digests = Digests { header, data };
            let log = read_in_pieces(&stream_of(&pdus, digests), &pieces, digests).unwrap();
            let expected: Vec<_> = pdus.into_iter()
                .map(|(opcode, _, data)| (opcode, if opcode == 0x26 { Vec::new() } else { data }))
                .collect();
            prop_assert_eq!(log.pdus, expected);
        }
    }

    #[test]
    fn wrong_digests_are_found_in_whole_and_in_cut_pdus() {
        let digests = Digests { header: true, data: true };
        for pieces in [&[2000][..], &[33][..]] {
            for bad in [3, 50, 60, 152] {
                let mut bytes = stream_of(&[(0x25, 0, vec![5; 100])], digests);
                assert_eq!(bytes.len(), 156);
                bytes[bad] ^= 1;
                let error = read_in_pieces(&bytes, pieces, digests).err().expect("nothing was found");
                assert!(error.to_string().contains("digest"), "{error}");
            }
        }
    }
}
