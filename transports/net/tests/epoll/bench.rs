//! A Net and a pool, polled until something has come.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use spindle_mem::{Arena, ArenaConfig, PoolConfig, SgvPool};
use spindle_net::{CloseReason, ConnId, EpollNet, Net, NetEvent, TcpConfig, TcpSocket};
use spindle_reactor::{CoreId, Tick};

pub struct Bench {
    pub net: EpollNet,
    pub pool: SgvPool,
    pub events: Vec<NetEvent<TcpSocket>>,
    started: Instant,
}

impl Bench {
    pub fn new(config: TcpConfig) -> Bench {
        let arena = Arena::new(ArenaConfig::plain(64 << 20, 64 << 20)).unwrap();
        let pool = SgvPool::new(CoreId(0), arena, &PoolConfig::default()).unwrap();
        let net = EpollNet::new(config).unwrap();
        Bench { net, pool, events: Vec::new(), started: Instant::now() }
    }

    pub fn now(&self) -> Tick {
        Tick(self.started.elapsed().as_nanos() as u64)
    }

    /// Polls until `pick` finds what it wants among the events; the others stay for later.
    pub fn until<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&mut Self, NetEvent<TcpSocket>) -> Result<T, NetEvent<TcpSocket>>,
    ) -> T {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.now();
            let mut events = std::mem::take(&mut self.events);
            self.net.poll(now, 64, &mut events);
            let mut kept = Vec::new();
            let mut found = None;
            for event in events {
                if found.is_some() {
                    kept.push(event);
                } else {
                    match pick(self, event) {
                        Ok(t) => found = Some(t),
                        Err(event) => kept.push(event),
                    }
                }
            }
            self.events = kept;
            if let Some(t) = found {
                return t;
            }
            self.net.flush(now);
            assert!(Instant::now() < limit, "waited in vain for {what}; have {:?}", self.events);
        }
    }

    pub fn connect(&mut self, at: &str) -> (TcpStream, ConnId) {
        let (_, at) = self.net.listen(at.parse::<SocketAddr>().unwrap()).unwrap();
        let client = TcpStream::connect(at).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let socket = self.until("Accepted", |_, e| match e {
            NetEvent::Accepted { socket, local, .. } => {
                assert_eq!(local, at);
                Ok(socket)
            }
            e => Err(e),
        });
        let conn = self.net.attach(socket, self.now()).unwrap();
        (client, conn)
    }

    pub fn readable(&mut self, conn: ConnId, bytes: usize) {
        self.until("Readable", |b, e| match e {
            NetEvent::Readable(c) if c == conn && b.net.bytes(conn).len() >= bytes => Ok(()),
            NetEvent::Readable(_) => Err(NetEvent::Readable(conn)),
            e => Err(e),
        });
    }

    pub fn closed(&mut self, conn: ConnId) -> CloseReason {
        self.until("Closed", |b, e| match e {
            NetEvent::Closed { conn: c, reason } if c == conn => Ok(reason),
            NetEvent::Released { body, .. } => {
                if let Some(sgv) = body.release() {
                    b.pool.put(sgv);
                }
                Err(NetEvent::Readable(conn))
            }
            NetEvent::Landed { buf, .. } => {
                b.pool.put(buf);
                Err(NetEvent::Readable(conn))
            }
            e => Err(e),
        })
    }
}

pub fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}
