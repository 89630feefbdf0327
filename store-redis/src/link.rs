//! One connection of the driver.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cache_core::Result;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ProtocolVersion, PushInfo, PushKind,
    aio::{MultiplexedConnection, SendError},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use crate::{
    error, runtime,
    server::{LastClient, Server},
    unreached,
};

/// Where links lead, and how.
pub(crate) struct Target {
    pub(crate) client: Client,
    pub(crate) config: AsyncConnectionConfig,
    /// How long it may take to connect.
    pub(crate) patience: Duration,
    pub(crate) server: Server,
}

impl Target {
    pub(crate) fn address(&self) -> &ConnectionAddr {
        self.client.get_connection_info().addr()
    }
}

/// A connection, and the runtime that its driver runs in.
#[derive(Clone)]
pub(crate) struct Connected {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) runtime: Handle,
}

/// A connection that is there or comes about, or why it did not.
pub(crate) type Connecting = Shared<BoxFuture<'static, Result<Connected>>>;

/// A link to the target, and how often it was made anew.
///
/// It is not the driver's own manager that reconnects: a connection must not be used before it is known which server it leads
/// to, and that manager does not tell when it has made a new one.
pub(crate) struct Link {
    pub(crate) connecting: Connecting,
    pub(crate) generation: u64,
    /// When it last answered or was made anew.
    pub(crate) alive: Instant,
    /// Whether it was connected before it was made anew.
    again: bool,
    /// Its last working connection.
    last: Arc<Mutex<LastClient>>,
}

/// Between two attempts: a server that is down must not be hammered.
const PAUSE: Duration = Duration::from_millis(20);

impl Link {
    /// A link that connects when somebody waits for it. `on_breakage` is called when the driver notices by itself that the
    /// connection has broken, which it does with RESP3.
    pub(crate) fn new(target: &Arc<Target>, on_breakage: impl Fn() + Send + Sync + 'static) -> Self {
        let last = Arc::new(Mutex::default());
        let connecting = connect(Arc::clone(target), false, 0, Arc::clone(&last), on_breakage).boxed().shared();
        Self { connecting, generation: 0, alive: Instant::now(), again: false, last }
    }

    /// Makes it anew, at once, and gives back what it was.
    pub(crate) fn restart(&mut self, target: &Arc<Target>, on_breakage: impl Fn() + Send + Sync + 'static) -> Self {
        let again = self.again || matches!(self.connecting.peek(), Some(Ok(_)));
        let (generation, last) = (self.generation + 1, Arc::clone(&self.last));
        let connecting =
            connect(Arc::clone(target), again, generation, Arc::clone(&last), on_breakage).boxed().shared();
        tokio::spawn(connecting.clone().map(drop));
        std::mem::replace(self, Self { connecting, generation, alive: Instant::now(), again, last })
    }
}

async fn connect(
    target: Arc<Target>,
    again: bool,
    generation: u64,
    last: Arc<Mutex<LastClient>>,
    on_breakage: impl Fn() + Send + Sync + 'static,
) -> Result<Connected> {
    let runtime = runtime::current()?;
    let mut config = target.config.clone();
    if target.client.get_connection_info().redis_settings().protocol() == ProtocolVersion::RESP3 {
        config = config.set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                on_breakage();
            }
            Ok::<(), SendError>(())
        });
    }
    let mut connected = target.client.get_multiplexed_async_connection_with_config(&config).await;
    if connected.as_ref().is_err_and(redis::RedisError::is_io_error) {
        sleep(PAUSE).await;
        connected = target.client.get_multiplexed_async_connection_with_config(&config).await;
    }
    let mut connection = connected.map_err(|error| unreached::failed(&error, target.address()))?;
    let met = timeout(target.patience, target.server.meet(&mut connection, again, generation, &last)).await;
    met.unwrap_or_else(|_| Err(error::late(target.patience)))?;
    Ok(Connected { connection, runtime })
}
