//! The server: a Unix socket, a thread for each client, at most [`CLIENTS_MAX`] of them.
//!
//! Control is not the data path: threads that block are the plainest prose for calls that wait for disks and
//! cores, and a client that waits holds up nobody else. A server that nobody calls sleeps for good: its end is told by
//! shutting the sockets down.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::codec::Decoder;
use super::method::{Methods, failed};

/// Clients served at once; one more is closed at once.
pub const CLIENTS_MAX: usize = 64;
/// How long to wait when no connection can be accepted, for want of descriptors for example.
const RETRY: Duration = Duration::from_millis(100);
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
    listener: Arc<UnixListener>,
    clients: Arc<Clients>,
    accepting: Option<JoinHandle<()>>,
}

/// Who is served, so that all can be told of the end.
#[derive(Default)]
struct Clients(Mutex<Open>);

#[derive(Default)]
struct Open {
    stopping: bool,
    last: u64,
    lines: HashMap<u64, UnixStream>,
}

impl Clients {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn are_stopping(&self) -> bool {
        self.open().stopping
    }

    /// A number for a new client; `None`: too many, or the end has come.
    fn enter(&self, stream: &UnixStream) -> Option<u64> {
        let mut open = self.open();
        if open.stopping || open.lines.len() >= CLIENTS_MAX {
            return None;
        }
        let line = stream.try_clone().ok()?;
        open.last += 1;
        let number = open.last;
        open.lines.insert(number, line);
        Some(number)
    }

    fn leave(&self, number: u64) {
        self.open().lines.remove(&number);
    }

    /// Nobody is let in any more, and those who are in hear no further requests; the answer to one that is being
    /// carried out still goes out.
    fn stop(&self) {
        let mut open = self.open();
        open.stopping = true;
        for line in open.lines.values() {
            let _ = line.shutdown(Shutdown::Read);
        }
    }
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
        let (listener, clients) = (Arc::new(listener), Arc::<Clients>::default());
        let accepting = {
            let (listener, clients) = (listener.clone(), clients.clone());
            std::thread::Builder::new()
                .name("rpc".into())
                .spawn(move || accept(&listener, &context, &methods, &clients))
                .map_err(io)?
        };
        Ok(Server { path: path.into(), listener, clients, accepting: Some(accepting) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.clients.stop();
        // Wakes who waits in accept(), which fails from now on.
        let woken = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let (Ok(()), Some(thread)) = (woken, self.accepting.take()) {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept<C: Send + Sync + 'static>(
    listener: &UnixListener,
    context: &Arc<C>,
    methods: &Arc<Methods<C>>,
    clients: &Arc<Clients>,
) {
    while !clients.are_stopping() {
        let Ok((stream, _)) = listener.accept() else {
            if !clients.are_stopping() {
                std::thread::sleep(RETRY);
            }
            continue;
        };
        let Some(number) = clients.enter(&stream) else { continue };
        let (context, methods, all) = (context.clone(), methods.clone(), clients.clone());
        let spawned = std::thread::Builder::new().name("rpc-client".into()).spawn(move || {
            serve(stream, context.as_ref(), &methods, &all);
            all.leave(number);
        });
        if spawned.is_err() {
            clients.leave(number);
        }
    }
}

/// One client until it hangs up, breaks the framing, or the server stops.
fn serve<C: 'static>(mut stream: UnixStream, context: &C, methods: &Methods<C>, clients: &Clients) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0u8; 64 * 1024];
    if stream.set_write_timeout(Some(WRITE_MAX)).is_err() {
        return;
    }
    while !clients.are_stopping() {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => decoder.push(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
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
    fn the_end_wakes_all_who_wait_and_lets_an_answer_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut m = Methods::new();
        let info = MethodInfo { name: "slow", about: "Takes its time.", params: &[] };
        let (tell, begun) = std::sync::mpsc::channel();
        m.add(info, move |(): &(), p: Value| {
            tell.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            Ok(p)
        });
        let server = Server::start(&path, Arc::new(()), Arc::new(m)).unwrap();
        let mut silent = UnixStream::connect(&path).unwrap();
        let caller = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(&path, Duration::from_secs(5)).unwrap();
                client.call("slow", json!({"a": 1})).unwrap()
            })
        };
        begun.recv_timeout(Duration::from_secs(5)).unwrap();
        drop(server);
        assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0, "the silent client hears of the end");
        assert_eq!(caller.join().unwrap(), json!({"a": 1}));
        assert!(UnixStream::connect(&path).is_err());
    }

    #[test]
    fn clients_beyond_the_limit_are_hung_up_on_until_others_leave() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _server = Server::start(&path, Arc::new(()), methods()).unwrap();
        let call = || {
            Client::connect(&path, Duration::from_secs(5))
                .and_then(|mut c| c.call("echo", json!({})).map(|_| c))
        };
        let mut served: Vec<Client> = (0..CLIENTS_MAX).map(|_| call().unwrap()).collect();
        assert!(call().is_err());
        served.pop();
        let limit = std::time::Instant::now() + Duration::from_secs(5);
        while call().is_err() {
            assert!(std::time::Instant::now() < limit, "nobody is let in after one has left");
        }
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
