//! Failpoint: named places of the commit protocol at which a debug build can be made to die, to stand still, to be slow or
//! to fail, so that tests drive the real binary through every crash.
//!
//!   CONJOIN_FAILPOINT=manifest-create:before:2:kill        the second time it comes there, it kills itself
//!   CONJOIN_FAILPOINT=store-fsync:before:*:slow20,…        every time, 20 ms; several are separated by commas
//!
//! What can be done: kill (SIGKILL), stop (SIGSTOP, until somebody sends SIGCONT), `slow20` (ms); where a file is written also
//! full (no space left), eio, short (half of the bytes, then an I/O error).
//!
//! Holds: a release build has nothing of this: no table, no variable, no branch.
//! Does not: decide anything; whoever reaches a point goes on as if it were not there.

use std::io;

/// Makes the table: what a point is called, in the order in which a run comes to them.
macro_rules! failpoints {
    ($($(#[$what:meta])* $point:ident = $name:literal,)*) => {
        /// A step that a crash may come before or after.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Failpoint {
            $($(#[$what])* $point,)*
        }

        impl Failpoint {
            /// Every point there is: tests go through all of them.
            pub const ALL: &'static [Failpoint] = &[$(Failpoint::$point,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Failpoint::$point => $name,)*
                }
            }
        }
    };
}

failpoints! {
    /// Looking for the last manifest.
    ClaimList = "claim-list",
    /// Reading it.
    ClaimLoad = "claim-load",
    /// Writing the fence record.
    ClaimWrite = "claim-write",
    /// Opening the inputs at the manifest's positions.
    Seek = "seek",
    /// Reading the footers of the state objects.
    RestoreList = "restore-list",
    /// Looking for what earlier runs left behind.
    Sweep = "sweep",
    /// Deleting one object of that, which no manifest ever named.
    SweepObject = "sweep-object",
    /// Reading the state back into the lanes.
    Restore = "restore",
    /// Asking a source for what comes next.
    Read = "read",
    /// Sending the cut marker.
    Cut = "cut",
    /// Telling the other cells of a commit.
    HandOver = "hand-over",
    /// Ending the dead letters of a cut.
    DeadLetters = "dead-letters",
    /// The footer of a Parquet file.
    ParquetFinish = "parquet-finish",
    /// Making it durable under its staged name.
    ParquetStage = "parquet-stage",
    /// Writing an object of rows for topics that there are too many of to wait for the cut in memory.
    OutboxWrite = "outbox-write",
    /// Writing the rows of one commit to a topic.
    OutboxSend = "outbox-send",
    /// Taking note that brokers have them.
    OutboxSent = "outbox-sent",
    /// Reading small state objects whose blocks are copied into the next one.
    StateCopy = "state-copy",
    /// Writing the state object.
    StateWrite = "state-write",
    StateVerify = "state-verify",
    ParquetVerify = "parquet-verify",
    /// The one step that commits.
    ManifestCreate = "manifest-create",
    /// One file's public name.
    PublishRename = "publish-rename",
    /// Making the names of one folder durable.
    PublishSync = "publish-sync",
    /// Deleting an object that a manifest named.
    ForgetObject = "forget-object",
    /// Deleting an old manifest.
    ForgetManifests = "forget-manifests",
    /// Showing positions to monitoring.
    OffsetCommit = "offset-commit",
    /// Writing features to the online store.
    OnlineWrite = "online-write",
    /// A local file: opening it under its temporary name, writing to it, making it durable, giving it its name, dropping
    /// the temporary one, making the folder durable.
    StoreOpen = "store-open",
    StoreWrite = "store-write",
    StoreFsync = "store-fsync",
    StoreLink = "store-link",
    StoreUnlink = "store-unlink",
    StoreSync = "store-sync",
}

/// On which side of the step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    Before,
    After,
}

/// Does a step between its two moments.
#[inline(always)]
pub fn step<T>(point: Failpoint, act: impl FnOnce() -> T) -> T {
    reach(point, Moment::Before);
    let done = act();
    reach(point, Moment::After);
    done
}

/// Comes to a point: returns, unless a test wants otherwise.
#[inline(always)]
pub fn reach(_point: Failpoint, _moment: Moment) {
    #[cfg(debug_assertions)]
    // Points that are no writes have no error to give.
    let _ = armed::reach(_point, _moment);
}

/// Comes to the point before a write, which a test may want to fail.
#[inline(always)]
pub fn attempt(_point: Failpoint) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return armed::reach(_point, Moment::Before).map(drop);
    #[cfg(not(debug_assertions))]
    Ok(())
}

/// How many of the bytes a write may write before it fails; all of them, unless a test wants otherwise.
#[inline(always)]
pub fn attempt_write(bytes: usize) -> io::Result<usize> {
    #[cfg(debug_assertions)]
    return armed::reach(Failpoint::StoreWrite, Moment::Before)
        .map(|short| if short { (bytes / 2).max(1) } else { bytes });
    #[cfg(not(debug_assertions))]
    Ok(bytes)
}

#[cfg(debug_assertions)]
mod armed {
    use super::{Failpoint, Moment};
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    const VARIABLE: &str = "CONJOIN_FAILPOINT";

    #[derive(Clone, Copy)]
    enum Action {
        Kill,
        Stop,
        Slow(u64),
        Full,
        Eio,
        Short,
    }

    struct Trap {
        point: Failpoint,
        moment: Moment,
        /// Which time it springs; `None` is every time.
        at: Option<u64>,
        action: Action,
        times: AtomicU64,
    }

    /// True where a write is to be cut short.
    pub fn reach(point: Failpoint, moment: Moment) -> io::Result<bool> {
        static TRAPS: OnceLock<Vec<Trap>> = OnceLock::new();
        let traps = TRAPS.get_or_init(|| parse(&std::env::var(VARIABLE).unwrap_or_default()));
        let mut short = false;
        for trap in traps.iter().filter(|trap| (trap.point, trap.moment) == (point, moment)) {
            let time = trap.times.fetch_add(1, Ordering::SeqCst) + 1;
            // After a short write comes the error that explains it.
            if matches!(trap.action, Action::Short) && trap.at.is_some_and(|at| time == at + 1) {
                return Err(eio());
            }
            if trap.at.is_none_or(|at| at == time) {
                short |= spring(trap.action)?;
            }
        }
        Ok(short)
    }

    /// EIO.
    fn eio() -> io::Error {
        io::Error::from_raw_os_error(5)
    }

    #[expect(clippy::disallowed_methods, reason = "a slow disk is a thread that waits")]
    fn spring(action: Action) -> io::Result<bool> {
        match action {
            Action::Kill => raise(signal_hook::consts::SIGKILL),
            Action::Stop => raise(signal_hook::consts::SIGSTOP),
            Action::Slow(ms) => std::thread::sleep(std::time::Duration::from_millis(ms)),
            Action::Full => return Err(io::ErrorKind::StorageFull.into()),
            Action::Eio => return Err(eio()),
            Action::Short => return Ok(true),
        }
        Ok(false)
    }

    fn raise(signal: i32) {
        signal_hook::low_level::raise(signal).expect("a process may send itself any signal");
    }

    fn parse(text: &str) -> Vec<Trap> {
        let traps = text.split(',').filter(|trap| !trap.is_empty());
        traps.map(|trap| one(trap).unwrap_or_else(|| panic!("{VARIABLE}: `{trap}` says nothing"))).collect()
    }

    fn one(text: &str) -> Option<Trap> {
        let mut words = text.split(':');
        let name = words.next()?;
        let point = *Failpoint::ALL.iter().find(|point| point.name() == name)?;
        let moment = match words.next()? {
            "before" => Moment::Before,
            "after" => Moment::After,
            _ => return None,
        };
        let at = match words.next()? {
            "*" => None,
            number => Some(number.parse().ok()?),
        };
        let action = match words.next()? {
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            "full" => Action::Full,
            "eio" => Action::Eio,
            "short" => Action::Short,
            other => Action::Slow(other.strip_prefix("slow")?.parse().ok()?),
        };
        Some(Trap { point, moment, at, action, times: AtomicU64::new(0) })
    }
}
