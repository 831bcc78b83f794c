//! Framing: JSON values follow each other, with or without white space between, split anywhere.

use serde_json::Value;

use super::error::RpcError;

/// Bytes of one request at most. A configuration of ten thousand LUNs sent as one batch stays below.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Gathers bytes and cuts values out of them. Nesting is limited by the parser (128 levels), size here.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the scanner stands and what it has seen, so that a value that comes in many pieces is scanned once.
    scan: Scan,
}

#[derive(Default, Clone, Copy)]
struct Scan {
    at: usize,
    depth: u32,
    in_string: bool,
    escaped: bool,
    begun: bool,
}

impl Decoder {
    /// Nothing yet.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// More bytes have come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole value; `None`: more bytes are needed. After an error the connection is of no use: there is
    /// no telling where the next request begins.
    pub fn next_value(&mut self) -> Option<Result<Value, RpcError>> {
        let end = match self.find_end() {
            Some(Ok(end)) => end,
            Some(Err(e)) => return Some(Err(e)),
            None if self.buffer.len() > REQUEST_BYTES_MAX => {
                let why = format!("a request may have {REQUEST_BYTES_MAX} bytes at most");
                return Some(Err(RpcError::new(RpcError::INVALID_REQUEST, why)));
            }
            None => return None,
        };
        let value = serde_json::from_slice(&self.buffer[..end])
            .map_err(|e| RpcError::new(RpcError::PARSE, format!("not JSON: {e}")));
        self.buffer.drain(..end);
        self.scan = Scan::default();
        Some(value)
    }

    /// Where the first value ends: a request is an object or an array, so brackets tell.
    fn find_end(&mut self) -> Option<Result<usize, RpcError>> {
        let scan = &mut self.scan;
        while scan.at < self.buffer.len() {
            let byte = self.buffer[scan.at];
            scan.at += 1;
            if scan.in_string {
                match byte {
                    _ if scan.escaped => scan.escaped = false,
                    b'\\' => scan.escaped = true,
                    b'"' => scan.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' if scan.begun => scan.in_string = true,
                b'{' | b'[' => {
                    scan.begun = true;
                    scan.depth += 1;
                }
                b'}' | b']' if scan.depth > 0 => {
                    scan.depth -= 1;
                    if scan.depth == 0 {
                        return Some(Ok(scan.at));
                    }
                }
                _ if scan.begun => {}
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ => {
                    let why = "a request begins with '{' (or '[' for a batch)";
                    return Some(Err(RpcError::new(RpcError::PARSE, why)));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_split_anywhere_come_out_whole() {
        let wire = br#" {"a":"}\"{"}  [1,2,{"b":[]}]{"c":1}"#;
        for cut in 0..wire.len() {
            let mut d = Decoder::new();
            d.push(&wire[..cut]);
            let mut got = Vec::new();
            while let Some(v) = d.next_value() {
                got.push(v.unwrap());
            }
            d.push(&wire[cut..]);
            while let Some(v) = d.next_value() {
                got.push(v.unwrap());
            }
            assert_eq!(got, [json!({"a": "}\"{"}), json!([1, 2, {"b": []}]), json!({"c": 1})]);
        }
    }

    #[test]
    fn what_is_not_json_is_an_error_and_not_a_wait() {
        for wire in [&b"hello"[..], b"}", b"{]", b"{\"a\":tru}", b"1 2"] {
            let mut d = Decoder::new();
            d.push(wire);
            let e = d.next_value().expect("decided at once").unwrap_err();
            assert_eq!(e.code, RpcError::PARSE, "{wire:?}");
        }
    }

    #[test]
    fn a_request_without_end_is_refused_at_the_limit() {
        let mut d = Decoder::new();
        d.push(b"{\"a\":\"");
        assert!(d.next_value().is_none());
        d.push(&vec![b'x'; REQUEST_BYTES_MAX]);
        assert_eq!(d.next_value().unwrap().unwrap_err().code, RpcError::INVALID_REQUEST);
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let mut d = Decoder::new();
        d.push(&[b'['; 100_000]);
        d.push(&[b']'; 100_000]);
        assert_eq!(d.next_value().unwrap().unwrap_err().code, RpcError::PARSE);
    }
}
