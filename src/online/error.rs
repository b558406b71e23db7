//! What can go wrong with an online store, and what to do about it.

/// A store that did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("online store {store}: {message}; {}", kind.help())]
pub struct StoreError {
    pub kind: StoreErrorKind,
    /// Its name in the pipeline file and its address, without credentials.
    pub store: String,
    pub message: String,
}

impl StoreError {
    pub fn new(kind: StoreErrorKind, store: &str, message: impl Into<String>) -> Self {
        StoreError { kind, store: store.to_owned(), message: message.into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The address in the pipeline file cannot be used.
    Address,
    /// The plan has something the store cannot hold.
    Unsupported,
    /// Refused, reset or closed.
    Connection,
    /// No answer in time: whether it was carried out is unknown.
    Timeout,
    Authentication,
    NoPermission,
    /// Still reading its data set after a start.
    Loading,
    /// A replica, or a primary that was demoted.
    ReadOnly,
    OutOfMemory,
    /// Refuses writes because it cannot save its data.
    CannotPersist,
    /// A key holds something that is not a feature row.
    WrongType,
    /// A stored row cannot be read by the plan.
    Unreadable,
    /// Any other answer.
    Other,
}

impl StoreErrorKind {
    /// Whether waiting can help. All others but [`WrongType`](StoreErrorKind::WrongType) and
    /// [`Unreadable`](StoreErrorKind::Unreadable) need a person, after whom a retry succeeds too.
    pub fn passes_by_itself(self) -> bool {
        use StoreErrorKind::*;
        matches!(self, Connection | Timeout | Loading | ReadOnly)
    }

    pub fn help(self) -> &'static str {
        use StoreErrorKind::*;
        match self {
            Address => "write it as redis://[user:password@]host:port[/database]",
            Unsupported => "change the pipeline file",
            Connection => "check that the server runs and that its address in the pipeline file is right",
            Timeout => "check the server's load, its slow log and the network; the request is repeated safely",
            Authentication => "check the user and password in the URL",
            NoPermission => {
                "let the user run evalsha, eval, hget, hset, hdel, hmget, pexpire and ping on the pipeline's keys"
            }
            Loading => "wait until the server has loaded its data set",
            ReadOnly => "point the URL at the primary, or wait until the failover is over",
            OutOfMemory => {
                "raise maxmemory or free memory on the server; a feature store wants maxmemory-policy noeviction"
            }
            CannotPersist => "look at the server's log: its last save to disk failed",
            WrongType => "delete that key, or keep other programs out of the pipeline's keys",
            Unreadable => "delete that key: the pipeline writes it anew with the entity's next event",
            Other => "look at the server's log",
        }
    }
}
