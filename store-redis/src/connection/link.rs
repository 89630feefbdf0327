//! One connection of the driver, and its replacement when it breaks.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_core::{ErrorKind, Result};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind,
    aio::{MultiplexedConnection, SendError},
};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};

use super::{
    error,
    handshake::{Handshake, LastClient},
    last_reply::LastReply,
    queue::Queue,
    runtime,
    server::{Role, Server},
    source::Source,
};

/// The server that links lead to, and the settings to connect to it.
pub(super) struct Target {
    pub(super) source: Source,
    pub(super) config: AsyncConnectionConfig,
    pub(super) connect_timeout: Duration,
    pub(super) role: Role,
    /// The number of replicas that must confirm a write.
    pub(super) replicas: usize,
    pub(super) server: Server,
}

/// A connection, and the runtime that its driver runs in.
pub(super) struct Connected {
    pub(super) queue: Queue,
    pub(super) runtime: Handle,
    /// The run of its server, if that has reported it.
    pub(super) run: Option<String>,
}

/// A connection that is set up or being set up, or the error of the attempt.
pub(super) type Connecting = Shared<BoxFuture<'static, Result<Arc<Connected>>>>;

/// A link to the target.
///
/// The driver's own manager is not used for reconnecting: before a connection is used, the server
/// that it leads to must be identified, and the manager does not report that it has made a new
/// connection.
pub(super) struct Link {
    pub(super) connecting: Connecting,
    /// The number of times that the link was replaced.
    pub(super) generation: u64,
    pub(super) last_reply: LastReply,
    /// `true` if an earlier generation was connected.
    reconnected: bool,
    last: Arc<Mutex<LastClient>>,
}

/// The pause between two attempts, so that a server that is down is not flooded with them.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

impl Link {
    /// Creates a link that connects when a call waits for it. The driver calls `on_breakage` when
    /// it notices by itself that the connection has broken, which it does with RESP3.
    pub(super) fn new(target: &Arc<Target>, on_breakage: impl Fn() + Send + Sync + 'static) -> Self {
        let (last, last_reply) = (Arc::new(Mutex::default()), LastReply::now());
        let attempt =
            Attempt { reconnected: false, generation: 0, last: Arc::clone(&last), last_reply: last_reply.clone() };
        let connecting = attempt.start(target, on_breakage);
        Self { connecting, generation: 0, last_reply, reconnected: false, last }
    }

    /// Replaces the link by a new generation, which starts to connect at once. Returns the old one.
    pub(super) fn replace(&mut self, target: &Arc<Target>, on_breakage: impl Fn() + Send + Sync + 'static) -> Self {
        let reconnected = self.reconnected || matches!(self.connecting.peek(), Some(Ok(_)));
        let (generation, last, last_reply) = (self.generation + 1, Arc::clone(&self.last), LastReply::now());
        let attempt = Attempt { reconnected, generation, last: Arc::clone(&last), last_reply: last_reply.clone() };
        let connecting = attempt.start(target, on_breakage);
        tokio::spawn(connecting.clone().map(drop));
        std::mem::replace(self, Self { connecting, generation, last_reply, reconnected, last })
    }
}

/// An attempt to connect a generation of a link.
struct Attempt {
    reconnected: bool,
    generation: u64,
    last: Arc<Mutex<LastClient>>,
    last_reply: LastReply,
}

impl Attempt {
    /// Returns the attempt. It fails if its runtime ends, whose timers panic then.
    fn start(self, target: &Arc<Target>, on_breakage: impl Fn() + Send + Sync + 'static) -> Connecting {
        let connecting = AssertUnwindSafe(self.connect(Arc::clone(target), on_breakage)).catch_unwind();
        connecting.map(|connected| connected.unwrap_or_else(|_| Err(runtime::ended()))).boxed().shared()
    }

    async fn connect(
        self,
        target: Arc<Target>,
        on_breakage: impl Fn() + Send + Sync + 'static,
    ) -> Result<Arc<Connected>> {
        let Self { reconnected, generation, last, last_reply } = self;
        let runtime = runtime::current()?;
        let on_breakage = Arc::new(on_breakage);
        let mut connected = connect(&target, &on_breakage).await;
        if connected.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable) {
            sleep(RETRY_PAUSE).await;
            connected = connect(&target, &on_breakage).await;
        }
        let mut connection = connected?;
        let handshake = Handshake { server: &target.server, role: target.role, generation, reconnected, last: &last };
        let completed = timeout(target.connect_timeout, handshake.run(&mut connection)).await;
        let run = completed.unwrap_or_else(|_| Err(error::timed_out(target.connect_timeout)))?;
        Ok(Arc::new(Connected { queue: Queue::start(connection, &runtime, last_reply), runtime, run }))
    }
}

async fn connect(
    target: &Target,
    on_breakage: &Arc<impl Fn() + Send + Sync + 'static>,
) -> Result<MultiplexedConnection> {
    let client = target.source.client().await?;
    let mut config = target.config.clone();
    if client.get_connection_info().redis_settings().protocol() == ProtocolVersion::RESP3 {
        let on_breakage = Arc::clone(on_breakage);
        config = config.set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                on_breakage();
            }
            Ok::<(), SendError>(())
        });
    }
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    connected.map_err(|error| error::connect_failed(&error, client.get_connection_info().addr()))
}
