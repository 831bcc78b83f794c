//! A small blocking client, for the command line and for tests.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::codec::Decoder;
use super::error::RpcError;

/// A connection to a server.
pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
    next_id: u64,
}

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody serves the socket.
    #[error("{path}: {source}; is spindle running, and with this --socket?")]
    Connect {
        /// Which socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The line broke.
    #[error("the connection broke: {0}")]
    Line(#[from] std::io::Error),
    /// What came is not an answer.
    #[error("not an answer: {0}")]
    Form(String),
    /// The server said no.
    #[error("{0}")]
    Refused(RpcError),
}

impl Client {
    /// Connects; each read waits for at most `patience`.
    pub fn connect(path: &Path, patience: Duration) -> Result<Client, CallError> {
        let stream =
            UnixStream::connect(path).map_err(|source| CallError::Connect { path: path.into(), source })?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Client { stream, decoder: Decoder::new(), next_id: 1 })
    }

    /// Calls a method and waits for its answer.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({ "jsonrpc": "2.0", "id": id, "method": method });
        if !params.is_null() {
            request["params"] = params;
        }
        self.stream.write_all(request.to_string().as_bytes())?;
        let mut buffer = vec![0u8; 64 * 1024];
        let mut answer = loop {
            match self.decoder.next_value() {
                Some(Ok(value)) => break value,
                Some(Err(e)) => return Err(CallError::Form(e.to_string())),
                None => {
                    let n = self.stream.read(&mut buffer)?;
                    if n == 0 {
                        return Err(CallError::Form("the server hung up".into()));
                    }
                    self.decoder.push(&buffer[..n]);
                }
            }
        };
        if let Some(error) = answer.get("error") {
            let code = error["code"].as_i64().unwrap_or(RpcError::INTERNAL);
            let message = error["message"].as_str().unwrap_or("no message").to_string();
            return Err(CallError::Refused(RpcError { code, message, data: error.get("data").cloned() }));
        }
        if answer["id"] != json!(id) {
            return Err(CallError::Form(format!("an answer to another call: {answer}")));
        }
        Ok(answer["result"].take())
    }
}
