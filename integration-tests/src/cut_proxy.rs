//! A network that fails on demand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A TCP proxy on the loopback that counts round trips, cuts replies short and goes deaf. It ends
/// with this value.
#[derive(Debug)]
pub struct CutProxy {
    port: u16,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The port of the server that new connections lead to.
    upstream: AtomicU16,
    round_trips: AtomicU64,
    connections: AtomicU64,
    /// Bytes of replies to let through before the cut; `u64::MAX` for no cut.
    budget: AtomicU64,
    /// Connections up to this number are deaf.
    deaf_below: AtomicU64,
    /// Connections up to this number are closed.
    closed_below: AtomicU64,
    /// Whether to close the next connection that sends CLIENT KILL.
    cut_at_kill: AtomicBool,
    /// Seconds to add to what TIME answers.
    time_shift: AtomicI64,
    /// How long requests and replies are held up, in milliseconds.
    request_delay: AtomicU64,
    reply_delay: AtomicU64,
    /// One in so many pieces of data is lost; 0 for none.
    lost: AtomicU64,
    held: watch::Sender<Held>,
}

/// The requests that are held.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Those of this round trip and later ones.
    round_trip: Option<u64>,
    /// Those of this connection and later ones.
    connection: Option<u64>,
}

impl Held {
    fn holds(self, round_trip: u64, connection: u64) -> bool {
        self.round_trip.is_some_and(|first| round_trip >= first)
            || self.connection.is_some_and(|first| connection >= first)
    }
}

impl CutProxy {
    /// A proxy to this port of the loopback.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State { upstream: upstream.into(), budget: AtomicU64::new(u64::MAX), ..State::default() });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
                if let Ok(server) = TcpStream::connect(("127.0.0.1", shared.upstream.load(Ordering::SeqCst))).await {
                    tokio::spawn(relay(client, server, Arc::clone(&shared), number));
                }
            }
        });
        Self { port, state, accepting }
    }

    /// `redis://127.0.0.1:<port>/`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Lets new connections lead to another port, as after a failover.
    pub fn lead_to(&self, upstream: u16) {
        self.state.upstream.store(upstream, Ordering::SeqCst);
    }

    /// How often a client sent something after it had been answered, or for the first time.
    pub fn round_trips(&self) -> u64 {
        self.state.round_trips.load(Ordering::SeqCst)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Lets so many bytes of replies through, then closes the connection, once. Later connections
    /// work.
    pub fn cut_after(&self, bytes: u64) {
        self.state.budget.store(bytes, Ordering::SeqCst);
    }

    /// Closes the next connection that sends CLIENT KILL, before the server receives the command.
    /// Later connections work.
    pub fn cut_at_kill(&self) {
        self.state.cut_at_kill.store(true, Ordering::SeqCst);
    }

    /// Returns whether a cut that [`cut_at_kill`](Self::cut_at_kill) requested is still to come.
    pub fn awaits_kill(&self) -> bool {
        self.state.cut_at_kill.load(Ordering::SeqCst)
    }

    /// The connections that there are stay open and pass nothing on any more, as if a middlebox had
    /// forgotten them. Later connections work.
    pub fn forget(&self) {
        self.state.deaf_below.store(self.connections(), Ordering::SeqCst);
    }

    /// Closes the connections that there are.
    pub fn hang_up(&self) {
        self.state.closed_below.store(self.connections(), Ordering::SeqCst);
    }

    /// Loses one in so many pieces of data, which arrive as late as TCP would send them again.
    pub fn lose_one_in(&self, pieces: u64) {
        self.state.lost.store(pieces, Ordering::SeqCst);
    }

    /// Makes the server's clock look wrong by so many seconds, to a client that asks for TIME alone
    /// or first.
    pub fn shift_time(&self, seconds: i64) {
        self.state.time_shift.store(seconds, Ordering::SeqCst);
    }

    /// Holds up every request and every reply for so long.
    pub fn delay(&self, requests: Duration, replies: Duration) {
        let millis = |delay: Duration| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.state.request_delay.store(millis(requests), Ordering::SeqCst);
        self.state.reply_delay.store(millis(replies), Ordering::SeqCst);
    }

    /// Lets so many more round trips begin, and holds the requests of those after them.
    pub fn hold_after(&self, round_trips: u64) {
        let round_trip = Some(self.round_trips() + round_trips + 1);
        self.state.held.send_replace(Held { round_trip, connection: None });
    }

    /// Holds the requests of connections that are new.
    pub fn hold_new_connections(&self) {
        let connection = Some(self.connections() + 1);
        self.state.held.send_replace(Held { round_trip: None, connection });
    }

    /// Passes on the requests that are held, and holds no more.
    pub fn release(&self) {
        self.state.held.send_replace(Held::default());
    }
}

/// The least time after which TCP sends again what was lost.
const RETRANSMISSION: Duration = Duration::from_millis(200);

impl Drop for CutProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn hold_up(delay: &AtomicU64, lost: &AtomicU64) {
    let lost = lost.load(Ordering::SeqCst);
    if lost > 0 && fastrand::u64(..lost) == 0 {
        tokio::time::sleep(RETRANSMISSION).await;
    }
    match delay.load(Ordering::SeqCst) {
        0 => {}
        millis => tokio::time::sleep(Duration::from_millis(millis)).await,
    }
}

/// The second word of CLIENT KILL, as the driver sends it.
const KILL: &[u8] = b"\r\nKILL\r\n";

async fn relay(mut client: TcpStream, mut server: TcpStream, state: Arc<State>, number: u64) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answered = AtomicBool::new(true);
    let deaf = || number <= state.deaf_below.load(Ordering::SeqCst);
    let asking = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from_client.read(&mut buffer).await.unwrap_or(0);
            if read == 0 {
                if deaf() {
                    // The server does not learn that the client has closed the connection.
                    std::future::pending::<()>().await;
                }
                return;
            }
            if deaf() {
                continue;
            }
            let kill = buffer[..read].windows(KILL.len()).any(|window| window == KILL);
            if kill && state.cut_at_kill.swap(false, Ordering::SeqCst) {
                return;
            }
            if answered.swap(false, Ordering::SeqCst) {
                state.round_trips.fetch_add(1, Ordering::SeqCst);
            }
            let round_trip = state.round_trips.load(Ordering::SeqCst);
            // The sender is in the state, so it is not closed.
            let _ = state.held.subscribe().wait_for(|held| !held.holds(round_trip, number)).await;
            hold_up(&state.request_delay, &state.lost).await;
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let answering = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from_server.read(&mut buffer).await.unwrap_or(0);
            if read == 0 {
                return;
            }
            if deaf() {
                continue;
            }
            hold_up(&state.reply_delay, &state.lost).await;
            answered.store(true, Ordering::SeqCst);
            shift_time(&mut buffer[..read], state.time_shift.load(Ordering::SeqCst));
            let budget = state.budget.load(Ordering::SeqCst);
            let through = usize::try_from(budget).unwrap_or(usize::MAX).min(read);
            if to_client.write_all(&buffer[..through]).await.is_err() {
                return;
            }
            if budget != u64::MAX {
                let left = budget - through as u64;
                if left == 0 {
                    state.budget.store(u64::MAX, Ordering::SeqCst);
                    return;
                }
                state.budget.store(left, Ordering::SeqCst);
            }
        }
    };
    let hanging_up = async {
        while number > state.closed_below.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    // Whichever ends first ends the others: both sockets are dropped.
    tokio::select! {
        () = asking => {}
        () = answering => {}
        () = hanging_up => {}
    }
}

/// Shifts the seconds in `reply` if it is one to TIME: an array of ten digits, and the
/// microseconds.
fn shift_time(reply: &mut [u8], by: i64) {
    let Some(digits) = reply.strip_prefix(b"*2\r\n$10\r\n").and_then(|rest| rest.get(..10)) else { return };
    let Some(seconds) = str::from_utf8(digits).ok().and_then(|digits| digits.parse::<i64>().ok()) else { return };
    reply[9..19].copy_from_slice(format!("{:010}", seconds + by).as_bytes());
}
