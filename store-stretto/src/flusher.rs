//! The thread that keeps stretto's buffers short and removes expired rows.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use cache_core::{Error, ErrorKind, Result, SharedClock};

use crate::segments::Segments;

/// The interval at which the thread looks for expired rows while no flush is requested.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The number of rows that each sweep visits in each segment.
const SWEEP_VISITS: usize = 4096;

/// A handle to the thread. The thread ends when the handle is gone, and then drops the segments,
/// which waits for stretto's threads.
#[derive(Debug)]
pub(crate) struct Flusher(Sender<usize>);

impl Flusher {
    /// Starts the thread.
    pub(crate) fn start<V: Send + Sync + 'static>(segments: Arc<Segments<V>>, clock: SharedClock) -> Result<Self> {
        let (sender, receiver) = channel::<usize>();
        thread::Builder::new()
            .name("store-stretto-flush".into())
            .spawn(move || {
                loop {
                    // Errors mean that stretto has ended; the next call of the application reports
                    // that.
                    match receiver.recv_timeout(SWEEP_INTERVAL) {
                        Ok(number) => {
                            if let Some(segment) = segments.nth(number) {
                                let _ = segment.flush();
                            }
                        }
                        Err(RecvTimeoutError::Timeout) => {
                            let now = clock.now();
                            for segment in segments.all() {
                                let _ = segment.sweep(now, SWEEP_VISITS);
                                if segment.needs_flush() {
                                    let _ = segment.flush();
                                }
                            }
                        }
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
            })
            .map_err(|error| Error::with_source(ErrorKind::Backend, "the store's thread cannot be started", error))?;
        Ok(Self(sender))
    }

    /// Requests a flush of the segment with this number. Does not wait.
    pub(crate) fn request(&self, number: usize) {
        let _ = self.0.send(number);
    }
}
