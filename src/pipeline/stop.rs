//! Stop: how threads are asked to end, and how the first failure is kept.

use crate::pipeline::RunError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Set once, by a signal handler or a failure; everyone looks at it.
#[derive(Clone, Default)]
pub struct StopSignal(Arc<(Mutex<bool>, Condvar)>);

impl StopSignal {
    pub fn request(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    pub fn requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a stop is requested, at most so long; true if it was.
    pub fn wait(&self, timeout: Duration) -> bool {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(guard, timeout, |requested| !*requested);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The first error of any thread; later ones are mostly its echo.
#[derive(Clone, Default)]
pub struct Failure {
    first: Arc<Mutex<Option<RunError>>>,
    stop: StopSignal,
}

impl Failure {
    pub fn new(stop: StopSignal) -> Self {
        Failure { first: Arc::default(), stop }
    }

    pub fn failed(&self) -> bool {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub fn take(&self) -> Option<RunError> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn set(&self, error: RunError) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            tracing::error!("{error}");
            *first = Some(error);
        }
        drop(first);
        self.stop.request();
    }

    /// Starts a thread whose error or panic becomes the failure.
    pub fn spawn(&self, name: &str, work: impl FnOnce() -> Result<(), RunError> + Send + 'static) -> JoinHandle<()> {
        let (failure, thread_name) = (self.clone(), name.to_owned());
        let body = move || match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failure.set(error),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                failure.set(RunError::Panic { name: thread_name, message });
            }
        };
        std::thread::Builder::new().name(name.into()).spawn(body).expect("the system has room for a few more threads")
    }
}
