//! The server: a Unix socket, a thread for each client, at most [`CLIENTS_MAX`] of them.
//!
//! Control is not the data path: threads that block are the plainest prose for calls that wait for disks and
//! cores, and a client that waits holds up nobody else.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::codec::Decoder;
use super::method::{Methods, failed};

/// Clients served at once; one more is closed at once.
pub const CLIENTS_MAX: usize = 64;
/// How often a waiting thread looks whether it should stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long a client may take to read its answer.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another process serves this socket.
    #[error("{0}: another process serves this socket; choose another with --socket")]
    InUse(PathBuf),
    /// Something else has this name.
    #[error("{0}: exists and is not a socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A running server. Dropping it stops it and removes the socket.
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path` (mode 0600; a socket left by a dead process is replaced) and answers with `methods`.
    pub fn start<C>(path: &Path, context: Arc<C>, methods: Arc<Methods<C>>) -> Result<Server, ServeError>
    where
        C: Send + Sync + 'static,
    {
        let io = |source| ServeError::Io { path: path.into(), source };
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NotASocket(path.into())),
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(ServeError::InUse(path.into())),
            Ok(_) => std::fs::remove_file(path).map_err(io)?,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(io(e)),
        }
        // Bound under a private name, closed to others, then moved to its own: there is no moment at which
        // others could connect.
        let mut private = path.as_os_str().to_os_string();
        private.push(format!(".{}", std::process::id()));
        let private = PathBuf::from(private);
        let _ = std::fs::remove_file(&private);
        let listener = UnixListener::bind(&private).map_err(io)?;
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        std::fs::rename(&private, path).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        let stop = Arc::new(AtomicBool::new(false));
        let accepting = {
            let stop = stop.clone();
            std::thread::Builder::new()
                .name("rpc".into())
                .spawn(move || accept(&listener, &context, &methods, &stop))
                .map_err(io)?
        };
        Ok(Server { path: path.into(), stop, accepting: Some(accepting) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept<C: Send + Sync + 'static>(
    listener: &UnixListener,
    context: &Arc<C>,
    methods: &Arc<Methods<C>>,
    stop: &Arc<AtomicBool>,
) {
    let clients = Arc::new(AtomicUsize::new(0));
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(LOOK / 10);
            continue;
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            clients.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (context, methods, stop, counted) =
            (context.clone(), methods.clone(), stop.clone(), clients.clone());
        let spawned = std::thread::Builder::new().name("rpc-client".into()).spawn(move || {
            serve(stream, context.as_ref(), &methods, &stop);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One client until it hangs up, breaks the framing, or the server stops.
fn serve<C: 'static>(mut stream: UnixStream, context: &C, methods: &Methods<C>, stop: &AtomicBool) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0u8; 64 * 1024];
    if stream.set_nonblocking(false).is_err()
        || stream.set_read_timeout(Some(LOOK)).is_err()
        || stream.set_write_timeout(Some(WRITE_MAX)).is_err()
    {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => decoder.push(&buffer[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Err(_) => return,
        }
        while let Some(value) = decoder.next_value() {
            let (answer, go_on) = match value {
                Ok(request) => (methods.answer(context, request), true),
                Err(e) => (Some(failed(Value::Null, &e)), false),
            };
            if let Some(answer) = answer {
                let mut text = answer.to_string();
                text.push('\n');
                if stream.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
            if !go_on {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jsonrpc::client::Client;
    use crate::jsonrpc::method::MethodInfo;

    fn methods() -> Arc<Methods<()>> {
        let mut m = Methods::new();
        let info = MethodInfo { name: "echo", about: "Echoes.", params: &[] };
        m.add(info, |(): &(), p: Value| Ok(p));
        Arc::new(m)
    }

    #[test]
    fn a_client_calls_and_others_may_not_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let server = Server::start(&path, Arc::new(()), methods()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = Client::connect(&path, Duration::from_secs(5)).unwrap();
        assert_eq!(client.call("echo", json!({"a": 1})).unwrap(), json!({"a": 1}));
        assert_eq!(client.call("echo", json!({"a": 2})).unwrap(), json!({"a": 2}));
        assert!(matches!(Server::start(&path, Arc::new(()), methods()), Err(ServeError::InUse(_))));
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        drop(Server::start(&path, Arc::new(()), methods()).unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(Server::start(&path, Arc::new(()), methods()), Err(ServeError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn rubbish_is_answered_once_and_the_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = Server::start(&path, Arc::new(()), methods()).unwrap();
        let mut s = UnixStream::connect(&path).unwrap();
        s.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        s.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("-32700"), "{answer}");
    }
}
