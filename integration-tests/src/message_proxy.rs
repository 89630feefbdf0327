//! A network that loses single messages of Redis.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A proxy on the loopback that passes on whole replies of a Redis server, except the messages that
/// it is told to drop. It ends with this value.
#[derive(Debug)]
pub struct MessageProxy {
    port: u16,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The port that new connections lead to.
    upstream: AtomicU16,
    /// The number of announcements to drop.
    drop_next: AtomicU64,
    dropped: AtomicU64,
    /// `true` to drop all announcements of client tracking.
    hides_tracking: AtomicBool,
    /// `true` to pass on no request for client tracking.
    loses_tracking: AtomicBool,
}

impl MessageProxy {
    /// A proxy to this port of the loopback.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State { upstream: AtomicU16::new(upstream), ..State::default() });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let upstream = shared.upstream.load(Ordering::SeqCst);
                if let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await {
                    tokio::spawn(relay(client, server, Arc::clone(&shared)));
                }
            }
        });
        Self { port, state, accepting }
    }

    /// `redis://127.0.0.1:<port>/`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Lets new connections lead to this port, as after a failover.
    pub fn lead_to(&self, upstream: u16) {
        self.state.upstream.store(upstream, Ordering::SeqCst);
    }

    /// Drops so many of the next announcements of changes by pub/sub.
    pub fn drop_announcements(&self, count: u64) {
        self.state.drop_next.store(count, Ordering::SeqCst);
    }

    /// The number of dropped messages.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::SeqCst)
    }

    /// Drops everything that client tracking announces.
    pub fn hide_tracking(&self) {
        self.state.hides_tracking.store(true, Ordering::SeqCst);
    }

    /// Loses requests for client tracking from now on, or no longer.
    pub fn lose_tracking(&self, loses: bool) {
        self.state.loses_tracking.store(loses, Ordering::SeqCst);
    }
}

impl Drop for MessageProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn drops(&self, reply: &[u8]) -> bool {
        let is_announcement = reply.starts_with(b"*3\r\n$7\r\nmessage\r\n")
            && [b"MLI\x01K", b"MLI\x01A"].iter().any(|start| reply.windows(5).any(|window| window == *start));
        let is_push = reply.starts_with(b">2\r\n$10\r\ninvalidate\r\n");
        let take_one = |left: u64| left.checked_sub(1);
        let drops = is_push && self.hides_tracking.load(Ordering::SeqCst)
            || is_announcement && self.drop_next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok();
        if drops {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
        drops
    }
}

/// The second word of CLIENT TRACKING, as the driver sends it.
const TRACKING: &[u8] = b"\r\nTRACKING\r\n";

async fn relay(mut client: TcpStream, mut server: TcpStream, state: Arc<State>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answering = async {
        let mut buffer = Vec::new();
        while matches!(from_server.read_buf(&mut buffer).await, Ok(1..)) {
            while let Some(length) = reply_length(&buffer) {
                let reply: Vec<u8> = buffer.drain(..length).collect();
                if !state.drops(&reply) && to_client.write_all(&reply).await.is_err() {
                    return;
                }
            }
        }
    };
    let asking = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            let asks = buffer[..read].windows(TRACKING.len()).any(|window| window == TRACKING);
            let is_lost = asks && state.loses_tracking.load(Ordering::SeqCst);
            if !is_lost && to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
}

/// The length of the first whole reply in these bytes, in either protocol.
fn reply_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")? + 2;
    let count = || str::from_utf8(&bytes[1..end - 2]).ok().and_then(|digits| digits.parse::<usize>().ok());
    let parts = match bytes[0] {
        b'$' | b'=' | b'!' => {
            let length = count().map_or(end, |count| end + count + 2);
            return (bytes.len() >= length).then_some(length);
        }
        b'*' | b'>' | b'~' => count().unwrap_or(0),
        b'%' => 2 * count().unwrap_or(0),
        _ => 0,
    };
    (0..parts).try_fold(end, |at, _| Some(at + reply_length(&bytes[at..])?))
}
